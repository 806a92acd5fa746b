//! How a program is found and started: the lookup of execvp(3), against a given environment, and the state of the process
//! that psflip itself was started with.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::unistd::AccessFlags;

use crate::config::EnvChange;
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
    /// Where it may be, in the order of trying.
    candidates: Vec<CString>,
    argv: StringArray,
    /// What is executed when the file is no binary and has no `#!` line: a shell, as execvp(3) does.
    shell_argv: StringArray,
    envp: StringArray,
    workdir: Option<PathBuf>,
    signals: SignalSetup,
    output: Option<OwnedFd>,
    sockets: Sockets,
}

/// The sockets that a program inherits on purpose (`[[listen]]`).
#[derive(Debug, Default)]
pub struct Sockets {
    /// Which descriptor goes to which number. The new process has them by its fork; they stay open until then.
    pub numbers: Vec<(RawFd, i32)>,
    /// Whether the program finds its own pid in `LISTEN_PID` (sd_listen_fds(3)).
    pub listen_pid: bool,
    /// What psflip itself was given is not for the program under its old numbers.
    pub hides: Activation,
}

/// What failed in the new process before the program ran.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The process could not be made.
    Fork,
    /// The parent-death signal could not be armed.
    ParentDeath,
    /// The working directory could not be entered.
    Workdir,
    /// The program could not be executed.
    Exec,
}

impl Stage {
    /// For a message between processes.
    #[must_use]
    pub fn as_byte(self) -> u8 {
        match self {
            Self::Fork => b'f',
            Self::ParentDeath => b'p',
            Self::Workdir => b'w',
            Self::Exec => b'e',
        }
    }

    /// Reads [`Stage::as_byte`].
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
    /// What failed.
    pub stage: Stage,
    /// Why.
    pub error: io::Error,
}

impl Refusal {
    /// Why `program` can't be executed in `workdir`, and what a look at its file adds: the kernel's word is the same for several things.
    #[must_use]
    pub fn of_exec(&self, program: &str, workdir: Option<&Path>) -> String {
        let error = &self.error;
        let is_missing = matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR));
        if is_missing && !program.contains('/') {
            return format!("can't execute `{program}`: it is in no directory of PATH");
        }
        let file = workdir.unwrap_or(Path::new(".")).join(program);
        let hint = match file.metadata() {
            _ if !program.contains('/') => "",
            Ok(_) if is_missing => "; it is there, but the interpreter or loader that it asks for is not",
            Ok(file) if file.is_dir() => "; it is a directory",
            Ok(file) if file.permissions().mode() & 0o111 == 0 => {
                "; nobody may execute it, `chmod +x` would allow it"
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

    /// A program whose possible places are known.
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
            sockets: Sockets::default(),
        }
    }

    /// Sends standard output and standard error there, and gives it an empty standard input.
    #[must_use]
    pub fn with_output(mut self, output: OwnedFd) -> Self {
        self.output = Some(output);
        self
    }

    /// Lets it inherit these sockets.
    #[must_use]
    pub fn with_sockets(mut self, sockets: Sockets) -> Self {
        self.sockets = sockets;
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
            // An exec that fails is much dearer than a look, and most of PATH is misses.
            if self.candidates.len() > 1
                && nix::unistd::access(candidate.as_c_str(), AccessFlags::F_OK).is_err()
            {
                continue;
            }
            let failed = self.try_candidate(candidate);
            match failed.raw_os_error() {
                // The file isn't there: look on, as execvp(3) does.
                Some(libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ESTALE | libc::ETIMEDOUT) => {}
                // It is there and may not be executed: look on, but if nothing else is found, this is the reason.
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
        self.place_sockets().map_err(|error| Refusal { stage: Stage::Fork, error })?;
        restore_signals(&self.signals).map_err(|error| Refusal { stage: Stage::Fork, error })
    }

    /// Puts the sockets where the program looks for them. What psflip inherited under these numbers is replaced.
    fn place_sockets(&mut self) -> io::Result<()> {
        let Sockets { numbers, listen_pid, hides } = &self.sockets;
        if numbers.is_empty() {
            return Ok(());
        }
        hides.hide();
        // Out of the way first: one may stand where another one has to go.
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

/// Gives this process the mask and dispositions that psflip was started with (contract C2). The last thing before the exec:
/// a signal that waits for the child is delivered here.
fn restore_signals(signals: &SignalSetup) -> io::Result<()> {
    // All that psflip or Rust's runtime changed: SIGPIPE is ignored by the runtime, SIGCHLD put to its default by psflip.
    for changed in [Signal::PIPE, Signal::CHLD] {
        if signals.ignored.contains(changed) {
            signal::ignore(changed)?;
        } else {
            signal::set_default(changed)?;
        }
    }
    // A successor may find other things ignored than the first psflip did, if somebody changed them in between.
    signal::set_mask(signals.mask).map(drop)
}

/// The environment for a child: what psflip was started with, less what was addressed to psflip, plus `[env]`, plus what
/// psflip adds (contract C1, C3).
#[must_use]
pub fn child_environment(
    inherited: &[CString],
    changes: &[EnvChange],
    added: &[(&str, &str)],
) -> Vec<CString> {
    let inherited: Vec<CString> =
        inherited.iter().filter(|entry| !is_for_psflip(name_of(entry))).cloned().collect();
    let changes = changes.iter().map(|change| match change {
        EnvChange::Set(name, value) => (name.as_str(), Some(value.as_str())),
        EnvChange::Remove(name) => (name.as_str(), None),
    });
    let added = added.iter().map(|(name, value)| (*name, Some(*value)));
    set_variables(inherited, changes.chain(added))
}

/// As [`set_variable`] for each of these, one after the other, in a time that is linear in their number.
fn set_variables<'a>(
    envp: Vec<CString>,
    changes: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Vec<CString> {
    // A name may be there more than once (environ(7) does not forbid it): the first one is replaced, and all are removed.
    let mut places: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    let mut entries: Vec<Option<CString>> = envp.into_iter().map(Some).collect();
    for (place, entry) in entries.iter().enumerate() {
        if let Some(entry) = entry {
            places.entry(name_of(entry).to_vec()).or_default().push(place);
        }
    }
    for (name, value) in changes {
        let known = places.entry(name.as_bytes().to_vec()).or_default();
        match value.and_then(|value| CString::new(format!("{name}={value}")).ok()) {
            Some(entry) => match known.first() {
                Some(place) => entries[*place] = Some(entry),
                None => {
                    known.push(entries.len());
                    entries.push(Some(entry));
                }
            },
            None => known.drain(..).for_each(|place| entries[place] = None),
        }
    }
    entries.into_iter().flatten().collect()
}

/// The name of the variable by which a successor finds its predecessor; never passed on to a child.
pub const HANDOVER_VARIABLE: &str = "PSFLIP_HANDOVER";

/// The name of the variable by which a successor finds the anchor; never passed on to a child.
pub const ANCHOR_VARIABLE: &str = "PSFLIP_ANCHOR";

/// The name of the variable that holds what an anchor has to know that executes psflip again; seen by nobody else.
pub const ANCHOR_STATE_VARIABLE: &str = "PSFLIP_ANCHOR_STATE";

/// Variables with which a manager, or a predecessor, speaks to psflip itself (sd_notify(3), sd_listen_fds(3),
/// sd_watchdog_enabled(3)). A child that took them for its own would answer in psflip's place.
fn is_for_psflip(name: &[u8]) -> bool {
    const NAMES: &[&str] = &[
        HANDOVER_VARIABLE,
        ANCHOR_VARIABLE,
        ANCHOR_STATE_VARIABLE,
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "FDSTORE",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PIDFDID",
    ];
    NAMES.iter().any(|known| known.as_bytes() == name)
}

/// Whether this is the variable `name`, with or without a value.
fn is_named(entry: &CStr, name: &str) -> bool {
    let rest = entry.to_bytes().strip_prefix(name.as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
}

fn name_of(entry: &CStr) -> &[u8] {
    let bytes = entry.to_bytes();
    bytes.iter().position(|byte| *byte == b'=').map_or(bytes, |end| &bytes[..end])
}

/// The value of a variable.
#[must_use]
pub fn variable<'a>(envp: &'a [CString], name: &str) -> Option<&'a OsStr> {
    let entry = envp.iter().find(|entry| is_named(entry, name))?;
    entry.to_bytes().get(name.len() + 1..).map(OsStr::from_bytes)
}

/// Sets, replaces in place, or removes a variable.
pub fn set_variable(envp: &mut Vec<CString>, name: &str, value: Option<&str>) {
    let place = envp.iter().position(|entry| is_named(entry, name));
    let entry = value.and_then(|value| CString::new(format!("{name}={value}")).ok());
    match (place, entry) {
        (Some(place), Some(entry)) => envp[place] = entry,
        (None, Some(entry)) => envp.push(entry),
        (_, None) => envp.retain(|entry| !is_named(entry, name)),
    }
}

/// Where execvp(3) would look for a program: at its path, if it has a slash, or else in every directory of `PATH`.
#[must_use]
pub fn candidates(program: &CStr, envp: &[CString]) -> Vec<CString> {
    let program = program.to_bytes();
    if program.contains(&b'/') {
        return CString::new(program).into_iter().collect();
    }
    // What confstr(3) gives for a missing PATH.
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
    fn the_childs_environment_is_what_psflip_got_plus_what_was_asked_for() {
        // Contract: C1, C3
        let inherited = strings(&[
            "A=1",
            "odd",
            "A=2",
            "NOTIFY_SOCKET=/x",
            "LISTEN_FDS=1",
            "WATCHDOG_USEC=5",
            "PSFLIP_HANDOVER=7",
            "PSFLIP_ANCHOR=8",
            "PSFLIP_ANCHOR_STATE=x",
            "B=3",
        ]);
        let changes = [
            EnvChange::Set("B".into(), "new".into()),
            EnvChange::Remove("C".into()),
            EnvChange::Set("D".into(), "".into()),
        ];
        let got = child_environment(&inherited, &changes, &[("PSFLIP_SLOT", "a")]);
        assert_eq!(got, strings(&["A=1", "odd", "A=2", "B=new", "D=", "PSFLIP_SLOT=a"]));
    }

    #[test]
    fn removing_a_variable_removes_every_copy_of_it() {
        let got = child_environment(&strings(&["A=1", "AB=2", "A=3"]), &[EnvChange::Remove("A".into())], &[]);
        assert_eq!(got, strings(&["AB=2"]));
    }

    #[test]
    fn changes_are_made_in_their_order() {
        let changes = [
            EnvChange::Remove("A".into()),
            EnvChange::Set("N".into(), "1".into()),
            EnvChange::Set("A".into(), "2".into()),
            EnvChange::Set("N".into(), "3".into()),
        ];
        let got = child_environment(&strings(&["A=1", "odd", "A=3"]), &changes, &[("odd", "x")]);
        assert_eq!(got, strings(&["odd=x", "N=3", "A=2"]));
    }

    #[test]
    fn an_environment_of_many_variables_takes_a_time_that_is_linear_in_their_number() {
        // Contract: X2
        use nix::time::{ClockId, clock_gettime};
        let cpu = || std::time::Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let changes: Vec<EnvChange> =
            (0..80_000).map(|number| EnvChange::Set(format!("V{number}"), "x".to_owned())).collect();
        let begin = cpu();
        assert_eq!(child_environment(&[], &changes, &[]).len(), 80_000);
        let took = cpu() - begin;
        // Of the order of 0.1 s without optimization; compared one by one it is minutes.
        assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    }

    #[test]
    fn a_name_is_looked_up_in_path_and_a_path_is_not() {
        let envp = strings(&["PATH=/a::/b"]);
        assert_eq!(candidates(c"x", &envp), strings(&["/a/x", "./x", "/b/x"]));
        assert_eq!(candidates(c"./x", &envp), strings(&["./x"]));
        assert_eq!(candidates(c"x", &[]), strings(&["/bin/x", "/usr/bin/x"]));
    }

    #[test]
    fn every_stage_survives_the_wire() {
        for stage in [Stage::Fork, Stage::ParentDeath, Stage::Workdir, Stage::Exec] {
            assert_eq!(Stage::from_byte(stage.as_byte()), Some(stage));
        }
    }
}
