//! How a program is found and started: the lookup of execvp(3) in a given environment, with the signal mask
//! and dispositions that psflip itself was started with.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use crate::control::protocol::{Seen, Source};
use crate::process::environment::{set_variable, variable};
use crate::process::invocation::{FileStamp, absolute, texts};
use crate::signal::Signal;
use crate::sys::early::SignalSetup;
use crate::sys::fd;
use crate::sys::process::{self, StringArray};
use crate::sys::seam::{self, Call};
use crate::sys::signal;
use crate::traffic::activation::Activation;

/// A program with everything that it is started with. All memory is allocated before the fork.
#[derive(Debug)]
pub struct Launch {
    /// Its possible paths, in the order in which they are tried.
    candidates: Vec<CString>,
    argv: StringArray,
    /// Executed if the file is neither a binary nor starts with `#!`: a shell, as execvp(3) does.
    shell_argv: StringArray,
    envp: StringArray,
    workdir: Option<PathBuf>,
    signals: SignalSetup,
    output: Option<OwnedFd>,
    streams: Streams,
    sockets: Sockets,
    /// The keeper keeps it open; the program does not inherit it.
    pub(super) lease: Option<OwnedFd>,
}

/// What takes the place of standard output and standard error (`[output]`); `None`: psflip's own stays.
#[derive(Debug, Default)]
pub struct Streams(pub [Option<OwnedFd>; 2]);

/// The sockets that a program inherits on purpose (`[[listen]]`).
#[derive(Debug, Default)]
pub struct Sockets {
    /// Pairs of a descriptor and the number it gets. The new process inherits them by fork;
    /// they must stay open until then.
    pub numbers: Vec<(RawFd, i32)>,
    /// Whether the program gets its own pid in `LISTEN_PID` (sd_listen_fds(3)).
    pub listen_pid: bool,
    /// The sockets that psflip itself was given. The program must not inherit them under their old numbers.
    pub hides: Activation,
}

/// The step that failed in the new process before the program ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// fork(2) failed.
    Fork,
    /// The parent-death signal could not be armed.
    ParentDeath,
    /// The working directory could not be entered.
    Workdir,
    /// The program could not be executed.
    Exec,
}

impl Stage {
    /// The stage as a byte of a message between processes.
    #[must_use]
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Fork => b'f',
            Self::ParentDeath => b'p',
            Self::Workdir => b'w',
            Self::Exec => b'e',
        }
    }

    /// Decodes [`Stage::as_byte`].
    #[must_use]
    pub fn from_byte(byte: u8) -> Option<Self> {
        [Self::Fork, Self::ParentDeath, Self::Workdir, Self::Exec]
            .into_iter()
            .find(|stage| stage.as_byte() == byte)
    }
}

/// Why a program did not start.
#[derive(Debug)]
pub struct Refusal {
    /// The step that failed.
    pub stage: Stage,
    /// Its error.
    pub error: io::Error,
}

impl Refusal {
    /// Why `program` can't be executed in `workdir`, with what a look at its file adds: one error number of
    /// execve(2) has several causes.
    #[must_use]
    pub fn of_exec(&self, program: &str, workdir: Option<&Path>) -> String {
        let error = &self.error;
        let is_missing = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR));
        if is_missing && !program.contains('/') {
            return format!("can't execute `{program}`: not found in PATH");
        }
        let file = workdir.unwrap_or(Path::new(".")).join(program);
        let hint = match file.metadata() {
            _ if !program.contains('/') => "",
            Ok(_) if is_missing => "; the file exists, but its interpreter or loader does not",
            Ok(file) if file.is_dir() => "; it is a directory",
            Ok(file) if file.permissions().mode() & 0o111 == 0 => {
                "; it is not executable: `chmod +x` would allow it"
            }
            _ => "",
        };
        format!("can't execute `{program}`: {error}{hint}")
    }
}

impl Launch {
    /// A program by its argv, to be looked up in the `PATH` of its own environment.
    ///
    /// # Panics
    /// Never for a validated argv: it isn't empty and contains no NUL byte.
    #[must_use]
    pub fn new(
        argv: impl IntoIterator<Item: AsRef<OsStr>>,
        envp: Vec<CString>,
        workdir: Option<PathBuf>,
        signals: SignalSetup,
    ) -> Self {
        let argv: Vec<CString> =
            argv.into_iter().filter_map(|part| CString::new(part.as_ref().as_bytes()).ok()).collect();
        let candidates = candidates(argv.first().map_or(c"", CString::as_c_str), &envp);
        Self::with_candidates(candidates, argv, envp, workdir, signals)
    }

    /// A program whose possible paths are known.
    #[must_use]
    pub fn with_candidates(
        candidates: Vec<CString>,
        argv: Vec<CString>,
        envp: Vec<CString>,
        workdir: Option<PathBuf>,
        signals: SignalSetup,
    ) -> Self {
        let shell_argv =
            [c"/bin/sh".to_owned(), CString::default()].into_iter().chain(argv.iter().skip(1).cloned());
        Self {
            shell_argv: StringArray::new(shell_argv.collect()),
            candidates,
            argv: StringArray::new(argv),
            envp: StringArray::new(envp),
            workdir,
            signals,
            output: None,
            streams: Streams::default(),
            sockets: Sockets::default(),
            lease: None,
        }
    }

    /// Sends standard output and standard error to `output`, and connects standard input to /dev/null.
    #[must_use]
    pub fn with_output(mut self, output: OwnedFd) -> Self {
        self.output = Some(output);
        self
    }

    /// Replaces standard output and standard error.
    #[must_use]
    pub fn with_streams(mut self, streams: Streams) -> Self {
        self.streams = streams;
        self
    }

    /// Lets the program inherit these sockets.
    #[must_use]
    pub fn with_sockets(mut self, sockets: Sockets) -> Self {
        self.sockets = sockets;
        self
    }

    /// Starts the program where it was found before.
    #[must_use]
    pub fn at(mut self, place: &Place) -> Self {
        self.candidates = vec![place.program.clone()];
        self.workdir.clone_from(&place.workdir);
        self
    }

    /// Lets the keeper keep this descriptor open as long as it lives.
    #[must_use]
    pub fn with_lease(mut self, lease: Option<OwnedFd>) -> Self {
        self.lease = lease;
        self
    }

    /// Adds a variable to its environment.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        let mut envp = self.envp.strings().to_vec();
        set_variable(&mut envp, name, Some(value));
        self.envp = StringArray::new(envp);
        self
    }

    /// Becomes the program. Returns only if that failed.
    #[must_use]
    pub fn exec(mut self) -> Refusal {
        if let Err(refusal) = self.prepare() {
            return refusal;
        }
        let mut error = io::Error::from_raw_os_error(libc::ENOENT);
        for candidate in &self.candidates {
            // A failed exec costs much more than access(2), and most directories of PATH
            // don't have the program.
            if self.candidates.len() > 1
                && nix::unistd::access(candidate.as_c_str(), AccessFlags::F_OK).is_err()
            {
                continue;
            }
            let failed = self.try_candidate(candidate);
            match failed.raw_os_error() {
                // Not found: try the next path, as execvp(3) does.
                Some(libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ESTALE | libc::ETIMEDOUT) => {}
                // Found, but not executable: try the next path, and report this error if no other is found.
                Some(libc::EACCES) => error = failed,
                _ => return Refusal { stage: Stage::Exec, error: failed },
            }
        }
        Refusal { stage: Stage::Exec, error }
    }

    /// Everything before the exec.
    fn prepare(&mut self) -> Result<(), Refusal> {
        if let Some(workdir) = &self.workdir {
            #[expect(clippy::disallowed_methods, reason = "this process is the child that is about to be")]
            let enter = || std::env::set_current_dir(workdir);
            seam::before(Call::Chdir)
                .map_err(io::Error::from)
                .and_then(|()| enter())
                .map_err(|error| Refusal { stage: Stage::Workdir, error })?;
        }
        if let Some(output) = &self.output {
            self.redirect(output).map_err(|error| Refusal { stage: Stage::Fork, error })?;
        }
        for (stream, number) in self.streams.0.iter().zip(1..) {
            if let Some(stream) = stream {
                duplicate(stream.as_fd(), number).map_err(|error| Refusal { stage: Stage::Fork, error })?;
            }
        }
        self.place_sockets().map_err(|error| Refusal { stage: Stage::Fork, error })?;
        restore_signals(&self.signals).map_err(|error| Refusal { stage: Stage::Fork, error })
    }

    /// Moves the sockets to the numbers where the program looks for them. Descriptors that psflip inherited
    /// under these numbers are replaced.
    fn place_sockets(&mut self) -> io::Result<()> {
        let Sockets { numbers, listen_pid, hides } = &self.sockets;
        if numbers.is_empty() {
            return Ok(());
        }
        hides.hide();
        // Copy them above all numbers first: a socket may have a number that another socket needs.
        let above = numbers.iter().map(|(_, number)| number + 1).max().unwrap_or_default();
        let copies = numbers
            .iter()
            .map(|(socket, number)| Ok((fd::duplicate_above(*socket, above)?, *number)))
            .collect::<io::Result<Vec<_>>>()?;
        for (socket, number) in &copies {
            duplicate(socket.as_fd(), *number)?;
        }
        if *listen_pid {
            let mut envp = self.envp.strings().to_vec();
            set_variable(&mut envp, "LISTEN_PID", Some(&std::process::id().to_string()));
            self.envp = StringArray::new(envp);
        }
        Ok(())
    }

    fn redirect(&self, output: &OwnedFd) -> io::Result<()> {
        let nothing = std::fs::File::open("/dev/null")?;
        duplicate(nothing.as_fd(), 0)?;
        duplicate(output.as_fd(), 1)?;
        duplicate(output.as_fd(), 2)
    }

    fn try_candidate(&self, path: &CStr) -> io::Error {
        let error = process::exec(path, &self.argv, &self.envp);
        if error.raw_os_error() != Some(libc::ENOEXEC) {
            return error;
        }
        let mut argv = self.shell_argv.strings().to_vec();
        argv[1] = path.to_owned();
        process::exec(c"/bin/sh", &StringArray::new(argv), &self.envp)
    }
}

fn duplicate(fd: BorrowedFd<'_>, onto: i32) -> io::Result<()> {
    process::duplicate_onto(fd, onto)
}

/// Gives this process the signal mask and dispositions that psflip was started with (contract C2). This is
/// the last step before the exec, because a signal that is pending for the child is delivered here.
fn restore_signals(signals: &SignalSetup) -> io::Result<()> {
    // The only dispositions that changed: Rust's runtime ignores SIGPIPE, and psflip
    // resets SIGCHLD to its default.
    for changed in [Signal::PIPE, Signal::CHLD] {
        if signals.ignored.contains(changed) {
            signal::ignore(changed)?;
        } else {
            signal::set_default(changed)?;
        }
    }
    // Other dispositions are inherited as they are. They may differ between the first psflip and a successor,
    // if another program changed them in between.
    signal::set_mask(signals.mask).map(drop)
}

/// Where a program was found, with all symlinks in the directories resolved. So it can be started again after
/// a symlink such as `current` has moved to another release.
#[derive(Clone, Debug)]
pub struct Place {
    program: CString,
    workdir: Option<PathBuf>,
    /// The program, and the files of code and configuration among its arguments, each of these with the
    /// directory that it was in.
    files: Vec<(FileStamp, Option<PathBuf>)>,
    /// The paths by which the working directory and the program were found, symlinks and all.
    workdir_name: Option<PathBuf>,
    program_names: Vec<PathBuf>,
}

/// The files of an old child that are no longer what they were.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct ChangedFiles {
    /// These were overwritten or removed.
    pub overwritten: Vec<String>,
    /// These are elsewhere, as they were: a symlink on their path leads to another directory.
    pub moved: Vec<String>,
}

/// Such files change only at a deploy. Other files among the arguments may be data.
const CODE: &[&str] = &[
    "cfg", "cjs", "conf", "exs", "ini", "jar", "js", "json", "lua", "mjs", "php", "pl", "psgi", "py", "pyz",
    "rb", "ru", "sh", "toml", "ts", "war", "xml", "yaml", "yml",
];

impl Place {
    /// Where this program is now. `None`: it can't be found.
    #[must_use]
    pub fn of(
        argv: impl IntoIterator<Item: AsRef<OsStr>>,
        envp: &[CString],
        workdir: Option<&Path>,
    ) -> Option<Self> {
        let argv: Vec<_> = argv.into_iter().collect();
        let found = find_program(&argv, envp, workdir).ok()?;
        let program_names = paths_of(argv.first()?.as_ref(), envp, workdir);
        let program_names = program_names.iter().map(|path| absolute(path)).collect();
        let workdir_name = workdir.map(absolute);
        // Only its directory: a program may behave by its own name, or look around beside it.
        let directory =
            found.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let program = directory.canonicalize().ok()?.join(found.file_name()?);
        let workdir = workdir.map(Path::canonicalize).transpose().ok()?;
        let here = workdir.as_deref().unwrap_or(Path::new(""));
        let is_code = |path: &PathBuf| {
            let code = path.extension().and_then(OsStr::to_str).is_some_and(|end| CODE.contains(&end));
            code && path.is_file()
        };
        let arguments = argv.iter().skip(1).map(|argument| here.join(argument.as_ref())).filter(is_code);
        let arguments = arguments.map(|path| (FileStamp::look(&path), directory_of(&path)));
        let files = std::iter::once((FileStamp::look(&program), None)).chain(arguments).collect();
        let program = CString::new(program.into_os_string().into_encoded_bytes()).ok()?;
        Some(Self { program, workdir, files, workdir_name, program_names })
    }

    /// The working directory, if one is set.
    #[must_use]
    pub fn workdir(&self) -> Option<&Path> {
        self.workdir.as_deref()
    }

    /// For operators: the working directory, the program, and the files of code and configuration among the
    /// arguments, as they were. This looks at no file.
    pub(crate) fn sources(&self) -> Vec<Source> {
        let workdir = self.workdir.as_ref().zip(self.workdir_name.clone()).map(|(workdir, name)| {
            let name = name.into_os_string().into_string().ok();
            let seen = name.filter(|_| workdir.to_str().is_some()).map(|name| Seen::Directory { name });
            Source { path: crate::text::lossy(workdir), changed: None, seen }
        });
        let files = self.files.iter().enumerate().map(|(index, (file, directory))| {
            let stamp = file.stamp();
            file.source_with(if index == 0 {
                texts(self.program_names.iter().cloned()).map(|names| Seen::Program { stamp, names })
            } else {
                let directory = directory.as_ref().and_then(|directory| directory.to_str());
                directory.map(|directory| Seen::Argument { stamp, directory: directory.to_owned() })
            })
        });
        workdir.into_iter().chain(files).collect()
    }

    /// The files that are no longer what they were.
    #[must_use]
    pub fn changed(&self) -> ChangedFiles {
        let mut changed = ChangedFiles::default();
        for (stamp, directory) in &self.files {
            if stamp.has_changed() {
                let now = directory.as_ref().and_then(|_| directory_of(stamp.path()));
                let has_moved = now.is_some() && now != *directory;
                let list = if has_moved { &mut changed.moved } else { &mut changed.overwritten };
                list.push(crate::text::lossy(absolute(stamp.path())));
            }
        }
        changed
    }
}

/// The directory of this file, with all symlinks resolved.
pub(crate) fn directory_of(path: &Path) -> Option<PathBuf> {
    let parent = path.parent()?;
    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
    parent.canonicalize().ok()
}

/// Whether the program could be executed, as far as its file tells. Returns its path.
///
/// # Errors
/// As [`Launch::exec`] would return: ENOENT, EACCES, or those of the working directory.
pub fn find_program(
    argv: impl IntoIterator<Item: AsRef<OsStr>>,
    envp: &[CString],
    workdir: Option<&Path>,
) -> Result<PathBuf, Refusal> {
    if let Some(workdir) = workdir
        && let Err(error) = nix::unistd::access(workdir, AccessFlags::X_OK)
    {
        return Err(Refusal { stage: Stage::Workdir, error: error.into() });
    }
    let mut error = io::Error::from_raw_os_error(libc::ENOENT);
    for path in argv.into_iter().next().map(|name| paths_of(name.as_ref(), envp, workdir)).unwrap_or_default()
    {
        match nix::unistd::access(&path, AccessFlags::X_OK) {
            Ok(()) if path.is_dir() => error = io::Error::from_raw_os_error(libc::EACCES),
            Ok(()) => return Ok(path),
            Err(nix::errno::Errno::EACCES) => error = io::Error::from_raw_os_error(libc::EACCES),
            Err(_) => {}
        }
    }
    Err(Refusal { stage: Stage::Exec, error })
}

/// The paths of a program, in the order in which they are tried.
fn paths_of(name: &OsStr, envp: &[CString], workdir: Option<&Path>) -> Vec<PathBuf> {
    let candidates = candidates(&CString::new(name.as_bytes()).unwrap_or_default(), envp);
    let here = workdir.unwrap_or(Path::new(""));
    candidates.iter().map(|path| here.join(OsStr::from_bytes(path.as_bytes()))).collect()
}

/// Where execvp(3) would look for a program: at its path if it contains a slash, else in
/// every directory of `PATH`.
#[must_use]
pub fn candidates(program: &CStr, envp: &[CString]) -> Vec<CString> {
    let program = program.to_bytes();
    if program.contains(&b'/') {
        return CString::new(program).into_iter().collect();
    }
    // The default of confstr(3) for a missing PATH.
    let path = variable(envp, "PATH").map_or(b"/bin:/usr/bin".as_slice(), OsStrExt::as_bytes);
    path.split(|byte| *byte == b':')
        .filter_map(|directory| {
            let directory: &[u8] = if directory.is_empty() { b"." } else { directory };
            CString::new([directory, b"/", program].concat()).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<CString> {
        list.iter().map(|text| CString::new(*text).unwrap()).collect()
    }

    #[test]
    fn a_name_is_looked_up_in_path_and_a_path_is_not() {
        let envp = strings(&["PATH=/a::/b"]);
        assert_eq!(candidates(c"x", &envp), strings(&["/a/x", "./x", "/b/x"]));
        assert_eq!(candidates(c"./x", &envp), strings(&["./x"]));
        assert_eq!(candidates(c"x", &[]), strings(&["/bin/x", "/usr/bin/x"]));
    }

    #[test]
    fn every_stage_round_trips() {
        for stage in [Stage::Fork, Stage::ParentDeath, Stage::Workdir, Stage::Exec] {
            assert_eq!(Stage::from_byte(stage.as_byte()), Some(stage));
        }
    }
}
