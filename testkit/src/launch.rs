//! Starts a program in a sandbox, and lets a test change everything about its start.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{IoSlice, PipeWriter};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use nix::sys::signal::Signal;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};

use crate::binaries;
use crate::output::{Output, Stream};
use crate::pidfile::PidfileHistory;
use crate::report;
use crate::running::{Running, Start};
use crate::sandbox::Inner;

/// The session and process group of a started program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Session {
    /// The test's session, a new process group (the default).
    OwnGroup,
    /// A new session, without a terminal.
    New,
    /// The test's session and process group.
    Inherit,
}

/// Descriptor 0 of a started program.
#[derive(Debug)]
pub enum Stdin {
    /// `/dev/null` (the default).
    Null,
    /// A pipe; write to it with [`Running::write_stdin`].
    Pipe,
    /// The given descriptor.
    Fd(OwnedFd),
}

/// A program to be started in a sandbox: made by [`crate::Sandbox::command`], started by [`Launch::start`].
#[derive(Debug)]
pub struct Launch {
    inner: Arc<Inner>,
    argv: Vec<OsString>,
    env: BTreeMap<OsString, Option<OsString>>,
    cwd: Option<PathBuf>,
    wrapper: Vec<OsString>,
    stdin: Stdin,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    session: Session,
    pty: bool,
    /// Options of `env` of coreutils, which ignores and blocks signals; doing so here would take unsafe code.
    signals: Vec<OsString>,
    /// Options of `testkit-launch`.
    helper: Vec<OsString>,
    inherited: Vec<(OwnedFd, i32)>,
}

impl Launch {
    pub(crate) fn new<A: AsRef<OsStr>>(inner: &Arc<Inner>, argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            inner: Arc::clone(inner),
            argv: argv.into_iter().map(|arg| arg.as_ref().to_owned()).collect(),
            env: BTreeMap::new(),
            cwd: None,
            wrapper: Vec::new(),
            stdin: Stdin::Null,
            stdout: None,
            stderr: None,
            session: Session::OwnGroup,
            pty: false,
            signals: Vec::new(),
            helper: Vec::new(),
            inherited: Vec::new(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.argv.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable. By default the environment has PATH, HOME and TMPDIR (the sandbox), LANG=C and the
    /// sandbox's marker.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), Some(value.as_ref().to_owned()));
        self
    }

    /// Removes a variable.
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.env.insert(name.as_ref().to_owned(), None);
        self
    }

    /// Sets the working directory. Default: the sandbox's folder.
    #[must_use]
    pub fn cwd(mut self, dir: impl AsRef<Path>) -> Self {
        self.cwd = Some(self.inner.dir.join(dir));
        self
    }

    /// A program that starts this one: `["nohup"]`, `["strace", "-f", "-o", "trace"]`, `["taskset", "1"]`.
    #[must_use]
    pub fn wrapper<A: AsRef<OsStr>>(mut self, argv: impl IntoIterator<Item = A>) -> Self {
        self.wrapper.extend(argv.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets descriptor 0.
    #[must_use]
    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    /// Uses `fd` as descriptor 1; the testkit doesn't collect that output.
    #[must_use]
    pub fn stdout(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stdout = Some(fd.into());
        self
    }

    /// Uses `fd` as descriptor 2; the testkit doesn't collect that output.
    #[must_use]
    pub fn stderr(mut self, fd: impl Into<OwnedFd>) -> Self {
        self.stderr = Some(fd.into());
        self
    }

    /// Sets the session and process group.
    #[must_use]
    pub fn session(mut self, session: Session) -> Self {
        self.session = session;
        self
    }

    /// Makes a new pseudo-terminal (24 x 80) the program's stdin, stdout, stderr and controlling terminal.
    /// The program leads a new session, in the terminal's foreground process group.
    #[must_use]
    pub fn pty(mut self) -> Self {
        self.pty = true;
        self
    }

    /// Starts the program with this signal ignored, as `nohup` does with SIGHUP.
    #[must_use]
    pub fn ignore_signal(mut self, signal: Signal) -> Self {
        self.signals.push(format!("--ignore-signal={}", short_name(signal)).into());
        self
    }

    /// Starts the program with this signal blocked.
    #[must_use]
    pub fn block_signal(mut self, signal: Signal) -> Self {
        self.signals.push(format!("--block-signal={}", short_name(signal)).into());
        self
    }

    /// Starts the program with this descriptor closed.
    #[must_use]
    pub fn close_fd(mut self, number: i32) -> Self {
        self.helper.extend(["--close".into(), number.to_string().into()]);
        self
    }

    /// Starts the program with `fd` open as descriptor `number`.
    #[must_use]
    pub fn inherit_fd(mut self, fd: impl Into<OwnedFd>, number: i32) -> Self {
        self.inherited.push((fd.into(), number));
        self
    }

    /// Sets a soft and hard resource limit by its name in setrlimit(2), such as `nofile` or `core`.
    #[must_use]
    pub fn rlimit(mut self, name: &str, value: u64) -> Self {
        self.helper.extend(["--rlimit".into(), format!("{name}={value}").into()]);
        self
    }

    /// Sets the file mode creation mask.
    #[must_use]
    pub fn umask(mut self, mask: u32) -> Self {
        self.helper.extend(["--umask".into(), format!("{mask:03o}").into()]);
        self
    }

    /// Adds `by` to the nice value.
    #[must_use]
    pub fn nice(mut self, by: i32) -> Self {
        self.helper.extend(["--nice".into(), by.to_string().into()]);
        self
    }

    /// Starts the program.
    ///
    /// # Panics
    /// If the program can't be started.
    #[track_caller]
    pub fn start(self) -> Arc<Running> {
        self.start_service(None)
    }

    /// Puts `argv` before the arguments given so far.
    pub(crate) fn command_first(mut self, argv: Vec<OsString>) -> Self {
        self.argv.splice(0..0, argv);
        self
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.cwd.clone().unwrap_or_else(|| self.inner.dir.clone())
    }

    /// Starts the program; `service` is set if it is a psflip.
    #[track_caller]
    pub(crate) fn start_service(self, service: Option<&Service>) -> Arc<Running> {
        let inner = Arc::clone(&self.inner);
        match self.try_start(service) {
            Ok(running) => {
                inner.add(&running);
                running
            }
            Err(error) => report::fail(&error),
        }
    }

    fn try_start(mut self, service: Option<&Service>) -> Result<Arc<Running>, String> {
        let argv = self.full_argv();
        let Some((program, args)) = argv.split_first() else { return Err("the command is empty".into()) };
        let mut command = Command::new(program);
        command.args(args).current_dir(self.dir());
        let env_changes = self.set_env(&mut command);
        if self.session == Session::OwnGroup && !self.pty {
            command.process_group(0);
        }
        let started = Instant::now();
        let output = Output::new(self.inner.started);
        let mut io = Streams::default();
        if self.pty {
            io.open_pty(&mut self, &mut command)?;
        } else {
            io.open(&mut self, &mut command)?;
        }
        let history = service
            .and_then(|service| service.pidfile.as_ref())
            .map(|path| PidfileHistory::watch_since(path, self.inner.started));
        let line = shown(&argv);
        let mut child = command.spawn().map_err(|error| format!("`{line}` can't be started: {error}"))?;
        drop(command); // closes our copies of the terminal and of the program's ends of the pipes
        if let Some(stdout) = child.stdout.take() {
            output.collect(Stream::Stdout, OwnedFd::from(stdout).into());
        }
        if let Some(stderr) = child.stderr.take() {
            output.collect(Stream::Stderr, OwnedFd::from(stderr).into());
        }
        if let Some(terminal) = &io.terminal {
            let copy =
                terminal.try_clone().map_err(|error| format!("dup(2) of the terminal failed: {error}"))?;
            output.collect(Stream::Pty, copy);
        }
        if let Some(socket) = io.to_helper.take() {
            let fds: Vec<_> = io
                .real_stdin
                .iter()
                .chain(self.inherited.iter().map(|(fd, _)| fd))
                .map(AsFd::as_fd)
                .collect();
            send_fds(&socket, &fds)
                .map_err(|error| format!("descriptors can't be passed to `{line}`: {error}"))?;
        }
        Running::new(Start {
            inner: &self.inner,
            child,
            output,
            started,
            line,
            env_changes,
            terminal: io.terminal,
            stdin: io.pipe,
            service: service.map(|service| service.exe.clone()),
            history,
        })
    }

    /// The full command line: the wrappers, outermost first, then the program.
    fn full_argv(&self) -> Vec<OsString> {
        let mut argv = Vec::new();
        let new_session = self.pty || self.session == Session::New;
        if new_session || !self.helper.is_empty() || !self.inherited.is_empty() {
            argv.push(binaries::launcher().into_os_string());
            if new_session {
                argv.push("--setsid".into());
            }
            if self.pty {
                argv.push("--ctty".into());
            }
            if !self.inherited.is_empty() {
                let numbers = self.inherited.iter().map(|(_, number)| number.to_string());
                let numbers: Vec<_> = std::iter::once("0".to_owned()).chain(numbers).collect();
                argv.extend(["--take-fds".into(), numbers.join(",").into()]);
            }
            argv.extend(self.helper.iter().cloned());
            argv.push("--".into());
        }
        if !self.signals.is_empty() {
            argv.push("env".into());
            argv.extend(self.signals.iter().cloned());
        }
        argv.extend(self.wrapper.iter().cloned());
        argv.extend(self.argv.iter().cloned());
        argv
    }

    /// Sets the environment; returns what differs from the default, for the report.
    fn set_env(&self, command: &mut Command) -> Vec<String> {
        let mut env = self.inner.environment();
        let mut changes = Vec::new();
        for (name, value) in &self.env {
            if let Some(value) = value {
                changes.push(format!("{}={}", name.display(), value.display()));
                env.insert(name.clone(), value.clone());
            } else {
                changes.push(format!("{} removed", name.display()));
                env.remove(name);
            }
        }
        command.env_clear().envs(env);
        changes
    }
}

/// Marks a program as a psflip.
#[derive(Debug)]
pub(crate) struct Service {
    /// Its executable, symlinks resolved.
    pub(crate) exe: PathBuf,
    pub(crate) pidfile: Option<PathBuf>,
}

/// The test's ends of a program's descriptors.
#[derive(Debug, Default)]
struct Streams {
    terminal: Option<File>,
    pipe: Option<PipeWriter>,
    /// If descriptors are inherited: the socket that carries them to the helper, and the program's real
    /// descriptor 0.
    to_helper: Option<UnixStream>,
    real_stdin: Option<OwnedFd>,
}

impl Streams {
    fn open(&mut self, launch: &mut Launch, command: &mut Command) -> Result<(), String> {
        let stdin = match std::mem::replace(&mut launch.stdin, Stdin::Null) {
            Stdin::Null => File::open("/dev/null")
                .map_err(|error| format!("`/dev/null` can't be opened: {error}"))?
                .into(),
            Stdin::Fd(fd) => fd,
            Stdin::Pipe => {
                let (reader, writer) =
                    std::io::pipe().map_err(|error| format!("pipe2(2) failed: {error}"))?;
                self.pipe = Some(writer);
                reader.into()
            }
        };
        self.set_stdin(launch, command, stdin)?;
        command.stdout(launch.stdout.take().map_or_else(Stdio::piped, Stdio::from));
        command.stderr(launch.stderr.take().map_or_else(Stdio::piped, Stdio::from));
        Ok(())
    }

    fn open_pty(&mut self, launch: &mut Launch, command: &mut Command) -> Result<(), String> {
        let failed = |error: rustix::io::Errno| format!("no pseudo-terminal can be opened: {error}");
        // Close-on-exec atomically: other threads start programs at the same time.
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let own = openpt(flags).map_err(failed)?;
        grantpt(&own).and_then(|()| unlockpt(&own)).map_err(failed)?;
        let size = rustix::termios::Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&own, size).map_err(failed)?;
        let theirs = ioctl_tiocgptpeer(&own, flags).map_err(failed)?;
        let copy = || theirs.try_clone().map_err(|error| format!("dup(2) of the terminal failed: {error}"));
        command.stdout(launch.stdout.take().map_or_else(copy, Ok)?);
        command.stderr(launch.stderr.take().map_or_else(copy, Ok)?);
        self.set_stdin(launch, command, theirs)?;
        self.terminal = Some(own.into());
        Ok(())
    }

    /// Sends inherited descriptors and the real stdin over a socket that is the helper's descriptor 0. So no
    /// descriptor without close-on-exec ever exists in the test's process, where other threads start
    /// programs.
    fn set_stdin(&mut self, launch: &Launch, command: &mut Command, stdin: OwnedFd) -> Result<(), String> {
        if launch.inherited.is_empty() {
            command.stdin(stdin);
            return Ok(());
        }
        let (ours, theirs) = UnixStream::pair().map_err(|error| format!("socketpair(2) failed: {error}"))?;
        command.stdin(OwnedFd::from(theirs));
        self.to_helper = Some(ours);
        self.real_stdin = Some(stdin);
        Ok(())
    }
}

fn send_fds(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> Result<(), String> {
    const MOST: usize = 64;
    if fds.len() > MOST {
        return Err(format!("{} are too many; {MOST} with stdin are possible", fds.len()));
    }
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MOST))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err("the control message is too long".into());
    }
    sendmsg(socket, &[IoSlice::new(b"f")], &mut control, SendFlags::empty())
        .map_err(|error| error.to_string())?;
    Ok(())
}

/// `HUP` for SIGHUP.
fn short_name(signal: Signal) -> &'static str {
    signal.as_str().trim_start_matches("SIG")
}

/// A command line, quoted for a shell.
fn shown(argv: &[OsString]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_./=:,+@%".contains(byte);
    let quoted = argv.iter().map(|arg| {
        let text = arg.to_string_lossy();
        if !arg.is_empty() && arg.as_bytes().iter().all(plain) {
            text.into_owned()
        } else {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}
