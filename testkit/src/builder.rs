//! Configures and starts a psflip in a sandbox.

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use nix::sys::signal::Signal;

use crate::binaries::psflip_bin;
use crate::launch::{Launch, Service, Session, Stdin};
use crate::psflip::Psflip;
use crate::report;
use crate::sandbox::Inner;
use crate::text::{cmd_line, quoted, top_level};

/// A psflip to be started: made by [`crate::Sandbox::psflip`], started by [`PsflipBuilder::start`].
///
/// By default it runs `psflip --no-anchor -c psflip.toml` in the sandbox's folder, with the pidfile
/// `psflip.pid` there.
#[derive(Debug)]
pub struct PsflipBuilder {
    inner: Arc<Inner>,
    launch: Launch,
    exe: Option<PathBuf>,
    cmd: Option<String>,
    config: String,
    config_file: Option<PathBuf>,
    pidfile: Pidfile,
    subcommand: Option<OsString>,
    anchor: Anchor,
    upgrade_signal: Signal,
}

/// Whether a psflip keeps an anchor: a stable parent of all generations, whose PID does not change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Anchor {
    /// No anchor (`--no-anchor`): the first generation is the process that was started, and exits when it has
    /// drained.
    #[default]
    Never,
    /// psflip's default: an anchor, unless systemd started psflip and follows the main PID.
    ByDefault,
    /// Always an anchor (`--foreground`).
    Always,
}

#[derive(Debug)]
enum Pidfile {
    /// The pidfile of the configuration, else `psflip.pid`.
    Usual,
    At(PathBuf),
    Without,
}

/// Methods of [`Launch`] that [`PsflipBuilder`] offers too.
macro_rules! as_launch {
    ($($(#[$doc:meta])* $name:ident($($arg:ident: $kind:ty),*);)*) => {
        impl PsflipBuilder {
            $($(#[$doc])*
            #[must_use]
            pub fn $name(mut self, $($arg: $kind),*) -> Self {
                self.launch = self.launch.$name($($arg),*);
                self
            })*
        }
    };
}

as_launch! {
    /// Adds an argument after `-c FILE`.
    arg(arg: impl AsRef<OsStr>);
    /// Sets a variable of psflip's environment. See [`Launch::env`].
    env(name: impl AsRef<OsStr>, value: impl AsRef<OsStr>);
    /// Removes a variable of psflip's environment.
    env_remove(name: impl AsRef<OsStr>);
    /// psflip's working directory, from which it resolves relative paths. Default: the sandbox's folder.
    cwd(dir: impl AsRef<Path>);
    /// Sets descriptor 0. See [`Launch::stdin`].
    stdin(stdin: Stdin);
    /// Uses `fd` as descriptor 1; the testkit doesn't collect that output.
    stdout(fd: impl Into<OwnedFd>);
    /// Uses `fd` as descriptor 2; the testkit doesn't collect that output.
    stderr(fd: impl Into<OwnedFd>);
    /// Sets the session and process group.
    session(session: Session);
    /// Starts psflip on a new pseudo-terminal, as its foreground process group. See [`Launch::pty`].
    pty();
    /// Starts psflip with this signal ignored.
    ignore_signal(signal: Signal);
    /// Starts psflip with this signal blocked.
    block_signal(signal: Signal);
    /// Starts psflip with this descriptor closed.
    close_fd(number: i32);
    /// Starts psflip with `fd` open as descriptor `number`.
    inherit_fd(fd: impl Into<OwnedFd>, number: i32);
    /// Sets a soft and hard resource limit, such as `nofile`.
    rlimit(name: &str, value: u64);
    /// Sets psflip's file mode creation mask.
    umask(mask: u32);
    /// Adds `by` to psflip's nice value.
    nice(by: i32);
}

impl PsflipBuilder {
    pub(crate) fn new(inner: &Arc<Inner>) -> Self {
        Self {
            inner: Arc::clone(inner),
            launch: Launch::new(inner, [] as [&str; 0]),
            exe: None,
            cmd: None,
            config: String::new(),
            config_file: None,
            pidfile: Pidfile::Usual,
            subcommand: None,
            anchor: Anchor::default(),
            upgrade_signal: Signal::SIGHUP,
        }
    }

    /// The child's command: the configuration's `cmd`.
    #[must_use]
    pub fn cmd<A: AsRef<OsStr>>(mut self, argv: impl IntoIterator<Item = A>) -> Self {
        self.cmd = Some(cmd_line(argv));
        self
    }

    /// The text of the configuration. `cmd = …` and `pidfile = …` are put before it if it lacks them, so it
    /// may begin with a table.
    #[must_use]
    pub fn config(mut self, text: impl Into<String>) -> Self {
        self.config = text.into();
        self
    }

    /// Uses this configuration file as it is; a relative path starts at the sandbox's folder. The testkit
    /// reads the pidfile's path from a line of its own without a template; otherwise set it with
    /// [`PsflipBuilder::pidfile`].
    #[must_use]
    pub fn config_file(mut self, path: impl AsRef<Path>) -> Self {
        self.config_file = Some(self.inner.dir.join(path));
        self
    }

    /// The pidfile; a relative path starts at the sandbox's folder.
    #[must_use]
    pub fn pidfile(mut self, path: impl AsRef<Path>) -> Self {
        self.pidfile = Pidfile::At(self.inner.dir.join(path));
        self
    }

    /// No pidfile. Then `flip`, `active` and everything that needs them panic.
    #[must_use]
    pub fn no_pidfile(mut self) -> Self {
        self.pidfile = Pidfile::Without;
        self
    }

    /// The executable, such as a symlink that the test repoints later. Default: [`psflip_bin`].
    #[must_use]
    pub fn exe(mut self, path: impl Into<PathBuf>) -> Self {
        self.exe = Some(path.into());
        self
    }

    /// A subcommand before `-c FILE`, such as `run`.
    #[must_use]
    pub fn subcommand(mut self, name: impl AsRef<OsStr>) -> Self {
        self.subcommand = Some(name.as_ref().to_owned());
        self
    }

    /// Whether psflip keeps an anchor. Default: [`Anchor::Never`], unlike a start by hand, so that
    /// [`Psflip::first_pid`] is a generation. [`Anchor::ByDefault`] is for tests of what a service manager
    /// sees.
    #[must_use]
    pub fn anchor(mut self, anchor: Anchor) -> Self {
        self.anchor = anchor;
        self
    }

    /// A program that starts psflip, such as `["nohup"]`.
    #[must_use]
    pub fn wrapper<A: AsRef<OsStr>>(mut self, argv: impl IntoIterator<Item = A>) -> Self {
        self.launch = self.launch.wrapper(argv);
        self
    }

    /// The signal that [`Psflip::flip`] sends; it must be the one in the configuration. Default: SIGHUP.
    #[must_use]
    pub fn upgrade_signal(mut self, signal: Signal) -> Self {
        self.upgrade_signal = signal;
        self
    }

    /// Writes the configuration and starts psflip, without waiting for it: see [`Psflip::wait_ready`].
    ///
    /// # Panics
    /// If psflip can't be started.
    #[track_caller]
    pub fn start(self) -> Psflip {
        let file = self.config_file.clone().unwrap_or_else(|| self.inner.dir.join("psflip.toml"));
        let written = self.config_file.is_none().then(|| self.written(file.clone()));
        let text = match &written {
            Some(written) => written.text(),
            None => std::fs::read_to_string(&file).unwrap_or_default(),
        };
        let pidfile = match &self.pidfile {
            Pidfile::At(path) => Some(path.clone()),
            Pidfile::Without => None,
            Pidfile::Usual => top_level(&text, "pidfile").map(|value| self.launch.dir().join(value)),
        };
        if let Some(written) = &written {
            written.write();
        }
        let exe = self.exe.unwrap_or_else(psflip_bin);
        let service =
            Service { exe: exe.canonicalize().unwrap_or_else(|_| exe.clone()), pidfile: pidfile.clone() };
        let mut argv = vec![exe.into_os_string()];
        let runs = self.subcommand.as_deref().is_none_or(|name| name == "run");
        argv.extend(self.subcommand);
        match self.anchor {
            Anchor::Never if runs => argv.push("--no-anchor".into()),
            Anchor::Always if runs => argv.push("--foreground".into()),
            _ => {}
        }
        argv.extend(["-c".into(), file.into_os_string()]);
        let running = self.launch.command_first(argv).start_service(Some(&service));
        Psflip {
            inner: self.inner,
            running,
            pidfile,
            upgrade_signal: self.upgrade_signal,
            written: Mutex::new(written),
        }
    }

    /// The file that psflip reads, as the next generation reads it again.
    fn written(&self, file: PathBuf) -> Written {
        let pidfile = match &self.pidfile {
            Pidfile::At(path) => Some(path.clone()),
            Pidfile::Usual if top_level(&self.config, "pidfile").is_none() => {
                Some(self.inner.dir.join("psflip.pid"))
            }
            Pidfile::Usual | Pidfile::Without => None,
        };
        Written { file, pidfile, cmd: self.cmd.clone(), config: self.config.clone() }
    }
}

/// The parts of a configuration file that the testkit writes.
#[derive(Debug)]
pub(crate) struct Written {
    pub(crate) file: PathBuf,
    /// A pidfile that the text doesn't set itself.
    pidfile: Option<PathBuf>,
    pub(crate) cmd: Option<String>,
    pub(crate) config: String,
}

impl Written {
    fn text(&self) -> String {
        let mut text = self.cmd.clone().unwrap_or_default();
        if let Some(pidfile) = self.pidfile.as_ref().filter(|_| top_level(&self.config, "pidfile").is_none())
        {
            text.push_str(&format!("pidfile = {}\n", quoted(&pidfile.to_string_lossy())));
        }
        text.push_str(&self.config);
        text
    }

    /// Writes the file, by rename: a psflip may read it at any moment.
    ///
    /// # Panics
    /// If it can't be written.
    #[track_caller]
    pub(crate) fn write(&self) {
        let mut temporary = self.file.clone().into_os_string();
        temporary.push(".new");
        let result =
            std::fs::write(&temporary, self.text()).and_then(|()| std::fs::rename(&temporary, &self.file));
        if let Err(error) = result {
            report::fail(&format!("`{}` can't be written: {error}", self.file.display()));
        }
    }
}
