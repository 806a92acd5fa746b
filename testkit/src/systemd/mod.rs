//! A real systemd for tests. A [`Machine`] is a systemd in namespaces of its own, with its own journal and
//! control group. Dropping it, or killing the test, removes all of it.

pub mod cgroup;
mod journal;
mod release;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use crate::binaries;
use crate::launch::Launch;
use crate::need;
use crate::pidfd::PidFd;
use crate::process::Process;
use crate::report;
use crate::running::Running;
use crate::sandbox::{Inner, Sandbox};
use crate::wait::{Deadline, wait_until};

pub use journal::Entry;
pub use release::{FOLDER, Release, holds_systemd};

/// Debian's path, which exists on other distributions as well.
const SYSTEMD: &str = "/lib/systemd/systemd";

/// How long a machine may take to stop.
const CLEANUP: Duration = Duration::from_secs(20);

/// The default time limit of a command in a machine, in seconds.
const COMMAND_TIMEOUT: u32 = 60;

/// A `systemd --system` as PID 1 of namespaces of its own (mount, uts, ipc, pid, cgroup), with a journal.
///
/// It sees the host's files at the same paths. Writes to `/etc`, `/usr` and `/var` stay inside; the sandbox's
/// folder is shared. It runs only the units that the test adds with [`Machine::unit`]. Pids inside differ
/// from those outside: see [`Machine::process`].
///
/// ```no_run
/// # use psflip_testkit::{Sandbox, systemd::Machine};
/// let sandbox = Sandbox::new();
/// let Some(machine) = Machine::boot(&sandbox) else { return };
/// machine.unit("hello.service", "[Service]\nType=oneshot\nExecStart=echo hello\n");
/// machine.systemctl(["start", "hello"]).unwrap();
/// assert!(machine.journal("hello").iter().any(|entry| entry.message == "hello"));
/// ```
#[derive(Debug)]
pub struct Machine {
    inner: Arc<Inner>,
    folder: PathBuf,
    group: PathBuf,
    init: Process,
    supervisor: Child,
    /// Closing it stops the machine.
    life: Option<ChildStdin>,
    /// The user whose service manager is used; `None` for the system's.
    user: Option<u32>,
}

/// The folder with the sockets of a user's service manager: `$XDG_RUNTIME_DIR` of its services.
const USER_RUNTIME: &str = "/run/testkit-user";

/// The result of a command in a machine.
#[derive(Clone, Debug)]
pub struct Ran {
    /// The exit status.
    pub status: ExitStatus,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

impl Machine {
    /// Boots a machine, which takes about a third of a second. If that is impossible on this host, it reports
    /// why on stderr and returns `None`; with `TESTKIT_REQUIRE=systemd` in the environment, it fails the
    /// test.
    ///
    /// # Panics
    /// If booting is possible or required, and fails.
    #[track_caller]
    #[must_use]
    pub fn boot(sandbox: &Sandbox) -> Option<Self> {
        Self::boot_release(sandbox, Release::Installed)
    }

    /// [`Machine::boot`] with a choice of systemd. `TESTKIT_REQUIRE=newer-systemd` requires the newer one.
    ///
    /// # Panics
    /// See [`Machine::boot`].
    #[track_caller]
    #[must_use]
    pub fn boot_release(sandbox: &Sandbox, release: Release) -> Option<Self> {
        if let Some(why) = why_not(release) {
            let name = release.name();
            need::skip(name, &format!("{name} can't be booted: {why}"));
            return None;
        }
        Some(Self::try_boot(&sandbox.inner, release).unwrap_or_else(|error| report::fail(&error)))
    }

    fn try_boot(inner: &Arc<Inner>, release: Release) -> Result<Self, String> {
        let layer = release.layer()?;
        let folder = inner.dir.join("machine");
        let helper = helper().ok_or("`testkit-systemd` is missing")?;
        fs::create_dir_all(folder.join("units"))
            .map_err(|error| format!("`{}` can't be made: {error}", folder.display()))?;
        let log = fs::File::create(folder.join("supervisor.log"))
            .map_err(|error| format!("`supervisor.log` can't be made: {error}"))?;
        // The supervisor has no marker, and a process group of its own. So stopping the sandbox's processes
        // stops the machine, and the supervisor survives to clean up.
        let mut supervisor = Command::new(helper)
            .arg("--supervise")
            .arg(&folder)
            .arg(&inner.id)
            .args(layer)
            .env_clear()
            .env("TESTKIT_SUPERVISES", &inner.id)
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .map_err(|error| format!("`testkit-systemd` can't be started: {error}"))?;
        let life = supervisor.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = supervisor.stdout.take() {
            // At the end of file without a line: the supervisor has written the reason to its log.
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        let booted = line
            .trim_end()
            .split_once(' ')
            .and_then(|(pid, group)| Some((Process::find(pid.parse().ok()?)?, PathBuf::from(group))));
        let Some((init, group)) = booted else {
            drop(life);
            let _ = supervisor.wait();
            return Err(format!("systemd did not start: {}", logs(&folder)));
        };
        inner.note(init);
        let machine = Self { inner: Arc::clone(inner), folder, group, init, supervisor, life, user: None };
        machine.wait_running();
        Ok(machine)
    }

    #[track_caller]
    fn wait_running(&self) {
        let socket = PathBuf::from(format!("/proc/{}/root/run/systemd/private", self.init));
        wait_until(Deadline::default(), "systemd to listen", || {
            if !self.init.is_alive() {
                report::fail(&format!("systemd has exited: {}", logs(&self.folder)));
            }
            socket.exists().then_some(())
        });
        let ran = self.run(["systemctl", "is-system-running", "--wait"]);
        if ran.stdout.trim() != "running" {
            let failed = self.run(["systemctl", "--failed", "--no-legend", "--plain"]).stdout;
            report::fail(&format!("systemd is `{}`, not running: {failed}", ran.stdout.trim()));
        }
    }

    /// Starts the service manager of an unprivileged user; from now on [`Machine::unit`], systemctl and
    /// journal use that one. Returns the `$XDG_RUNTIME_DIR` of its services, as they see it.
    ///
    /// # Panics
    /// If it doesn't start.
    #[track_caller]
    pub fn start_user_manager(&mut self, uid: u32) -> PathBuf {
        let units = self.folder.join("user-units");
        let make = || {
            fs::create_dir_all(&units)?;
            // The sandbox's folder is private to the test, but the user's service manager must read from it.
            fs::set_permissions(&self.inner.dir, fs::Permissions::from_mode(0o755))?;
            let etc = PathBuf::from(format!("/proc/{}/root/etc", self.init));
            let add = |name: &str, line: String| {
                writeln!(fs::OpenOptions::new().append(true).open(etc.join(name))?, "{line}")
            };
            add("passwd", format!("testkit-user:x:{uid}:{uid}::{USER_RUNTIME}:/bin/sh"))?;
            add("group", format!("testkit-user:x:{uid}:"))
        };
        if let Err(error) = make() {
            report::fail(&format!("can't create a user for a user manager: {error}"));
        }
        let text = format!(
            "[Service]\nType=notify\nUser={uid}\nGroup={uid}\nDelegate=yes\nKillMode=mixed\nTasksMax=infinity\n\
             RuntimeDirectory=testkit-user\nEnvironment=XDG_RUNTIME_DIR={USER_RUNTIME} HOME={USER_RUNTIME}\n\
             Environment=SYSTEMD_UNIT_PATH={}:/usr/lib/systemd/user\n\
             Environment=SYSTEMD_GENERATOR_PATH=/nonexistent SYSTEMD_ENVIRONMENT_GENERATOR_PATH=/nonexistent\n\
             ExecStart=/lib/systemd/systemd --user --unit=basic.target --log-target=journal\n",
            units.display()
        );
        // A unit of this name makes the journal attribute the units below it to the user.
        let manager = format!("user@{uid}.service");
        self.unit(&manager, text);
        if let Err(error) = self.systemctl(["start", &manager]) {
            report::fail(&format!("can't start the user manager: {error}"));
        }
        self.user = Some(uid);
        USER_RUNTIME.into()
    }

    /// The machine's PID 1, as seen from outside.
    #[must_use]
    pub fn init(&self) -> Process {
        self.init
    }

    /// Writes a unit, or a drop-in such as `a.service.d/10.conf`, into `/etc/systemd/system`, and runs
    /// `systemctl daemon-reload`.
    ///
    /// # Panics
    /// If that fails.
    /// When that fails.
    #[track_caller]
    pub fn unit(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.folder.join(if self.user.is_some() { "user-units" } else { "units" }).join(name);
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(&path))?;
            fs::write(&path, text)
        };
        if let Err(error) = write() {
            report::fail(&format!("`{}` can't be written: {error}", path.display()));
        }
        if let Err(error) = self.systemctl(["daemon-reload"]) {
            report::fail(&format!("systemd can't read its units again: {error}"));
        }
    }

    /// A program to be started in the machine, outside of all units: with the environment of the sandbox,
    /// looked up in its PATH.
    #[must_use]
    pub fn command<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) -> Launch {
        Launch::new(&self.inner, self.entering(argv)).env("SYSTEMD_PAGER", "").env("SYSTEMD_COLORS", "0")
    }

    /// Runs a command in the machine until it exits. It is killed after one minute.
    ///
    /// # Panics
    /// If it can't be started.
    #[track_caller]
    pub fn run<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) -> Ran {
        let limit = ["timeout".into(), "--signal=KILL".into(), COMMAND_TIMEOUT.to_string().into()];
        let argv = argv.into_iter().map(|arg| arg.as_ref().to_owned());
        let argv = self.entering(limit.into_iter().chain(argv));
        // Not a `Launch`: hundreds of queries would fill the report.
        let output = Command::new(&argv[0])
            .args(&argv[1..])
            .env_clear()
            .envs(self.inner.environment())
            .env("SYSTEMD_PAGER", "")
            .env("SYSTEMD_COLORS", "0")
            .current_dir(&self.inner.dir)
            .process_group(0)
            .stdin(Stdio::null())
            .output();
        match output {
            Ok(output) => Ran {
                status: output.status,
                stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            },
            Err(error) => report::fail(&format!("`nsenter` can't be started: {error}")),
        }
    }

    /// `argv`, preceded by the command that enters the machine.
    fn entering<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) -> Vec<OsString> {
        let pid = self.init.pid().to_string();
        let way = ["nsenter", "--target", &pid, "--mount", "--uts", "--ipc", "--pid", "--cgroup", "--"];
        let units = format!("SYSTEMD_UNIT_PATH={}", self.folder.join("units").display());
        let way = way.into_iter().chain(["env", &units]).map(OsString::from);
        way.chain(argv.into_iter().map(|arg| arg.as_ref().to_owned())).collect()
    }

    /// Runs systemctl; returns what it printed.
    ///
    /// # Errors
    /// It failed: what it printed, standard error first.
    #[track_caller]
    pub fn systemctl<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Result<String, String> {
        let mut argv: Vec<OsString> = Vec::new();
        if let Some(uid) = self.user {
            let runtime = format!("XDG_RUNTIME_DIR={USER_RUNTIME}");
            let ids = [format!("--reuid={uid}"), format!("--regid={uid}"), "--clear-groups".into()];
            argv.extend(std::iter::once("setpriv".into()).chain(ids.map(Into::into)));
            argv.extend(["env".into(), runtime.into(), "systemctl".into(), "--user".into()]);
        } else {
            argv.push("systemctl".into());
        }
        argv.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        let ran = self.run(argv);
        if ran.status.success() {
            Ok(ran.stdout)
        } else {
            Err(format!("{}{} ({})", ran.stderr, ran.stdout, ran.status))
        }
    }

    /// Starts `systemctl reload` of a unit, without waiting for it.
    #[must_use]
    pub fn reload(&self, unit: &str) -> Arc<Running> {
        self.command(["systemctl", "reload", unit]).start()
    }

    /// Properties of a unit, by name.
    ///
    /// # Panics
    /// If systemctl fails.
    #[track_caller]
    #[must_use]
    pub fn properties(&self, unit: &str, names: &[&str]) -> BTreeMap<String, String> {
        let shown = self.systemctl(["show", unit, "--property", &names.join(",")]);
        let text = shown.unwrap_or_else(|error| report::fail(&format!("`{unit}` can't be shown: {error}")));
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    /// A property of a unit; empty if it doesn't exist.
    ///
    /// # Panics
    /// See [`Machine::properties`].
    #[track_caller]
    #[must_use]
    pub fn property(&self, unit: &str, name: &str) -> String {
        self.properties(unit, &[name]).remove(name).unwrap_or_default()
    }

    /// Waits until a property has a value.
    ///
    /// # Panics
    /// If it doesn't within the default deadline.
    #[track_caller]
    pub fn wait_property(&self, unit: &str, name: &str, value: impl Display) {
        let value = value.to_string();
        let what = format!("{name} of `{unit}` to be `{value}`");
        wait_until(Deadline::default(), what, || (self.property(unit, name) == value).then_some(()));
    }

    /// The main process of a unit, if it is alive.
    #[must_use]
    pub fn main_process(&self, unit: &str) -> Option<Process> {
        self.process(self.property(unit, "MainPID").parse().ok()?)
    }

    /// The process with this pid inside of the machine.
    #[must_use]
    pub fn process(&self, inner_pid: u32) -> Option<Process> {
        let all = cgroup::members(&self.group).into_iter().filter_map(Process::find);
        all.filter(Process::is_alive).find(|process| inner_pid_of(*process) == Some(inner_pid))
    }

    /// The living processes of a unit's control group, as seen from outside.
    ///
    /// # Panics
    /// See [`Machine::properties`].
    #[track_caller]
    #[must_use]
    pub fn processes(&self, unit: &str) -> Vec<Process> {
        let group = self.property(unit, "ControlGroup");
        if group.is_empty() {
            return Vec::new();
        }
        let group = self.group.join(group.trim_start_matches('/'));
        cgroup::members(&group).into_iter().filter_map(Process::find).filter(Process::is_alive).collect()
    }

    /// The journal of a unit: messages of its processes, and of systemd about it.
    ///
    /// # Panics
    /// If the journal can't be read.
    #[track_caller]
    #[must_use]
    pub fn journal(&self, unit: &str) -> Vec<Entry> {
        let sync = self.run(["journalctl", "--sync"]);
        let of_user = [format!("_SYSTEMD_USER_UNIT={unit}"), "+".into(), format!("USER_UNIT={unit}")];
        let of_system = [format!("--unit={unit}")];
        let matches: &[String] = if self.user.is_some() { &of_user } else { &of_system };
        let args = ["journalctl", "--output=json", "--all", "--no-pager"].into_iter();
        let ran = self.run(args.chain(matches.iter().map(String::as_str)));
        if !sync.status.success() || !ran.status.success() {
            report::fail(&format!("the journal can't be read: {}{}", sync.stderr, ran.stderr));
        }
        ran.stdout.lines().filter_map(Entry::parse).collect()
    }

    /// Waits until a message of a unit contains `text`, and returns it.
    ///
    /// # Panics
    /// If there is none within the default deadline.
    #[track_caller]
    pub fn wait_journal(&self, unit: &str, text: &str) -> Entry {
        wait_until(Deadline::default(), format!("`{text}` in the journal of `{unit}`"), || {
            self.journal(unit).into_iter().find(|entry| entry.message.contains(text))
        })
    }

    /// Its units and the end of its journal, for a reader who sees nothing else.
    fn describe(&self) -> String {
        let units =
            self.run(["systemctl", "status", "--no-pager", "--full", "--lines=0", "--type=service,socket"]);
        let journal = self.run(["journalctl", "--no-pager", "--lines=150", "--output=short-precise"]);
        format!(
            "--- systemd's services\n{}{}--- the end of its journal\n{}{}",
            units.stdout, units.stderr, journal.stdout, journal.stderr
        )
    }
}

impl Drop for Machine {
    #[expect(clippy::print_stderr, reason = "a failing test shows what it writes to stderr")]
    fn drop(&mut self) {
        let failed_already = std::thread::panicking();
        if failed_already && self.init.is_alive() {
            eprintln!("{}", self.describe());
        }
        let pidfd = PidFd::open(self.supervisor.id());
        drop(self.life.take());
        if !pidfd.is_ok_and(|pidfd| pidfd.ends_within(CLEANUP)) {
            let _ = self.supervisor.kill();
        }
        let status = self.supervisor.wait();
        if !status.as_ref().is_ok_and(ExitStatus::success) {
            let text = format!("the machine could not be removed ({status:?}): {}", logs(&self.folder));
            if failed_already {
                eprintln!("also: {text}");
            } else {
                panic!("{text}");
            }
        }
    }
}

/// Why no machine can be booted on this host; `None` if it can.
#[must_use]
pub fn why_not(release: Release) -> Option<String> {
    let admin =
        Process::current().status_field("CapEff").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    // Bit 21 is CAP_SYS_ADMIN: capabilities(7).
    if admin.is_none_or(|mask| mask & (1 << 21) == 0) {
        return Some("this is not root, or a root without CAP_SYS_ADMIN".into());
    }
    if !Path::new(SYSTEMD).exists() {
        return Some(format!("`{SYSTEMD}` is missing: install the package systemd"));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = |name: &&str| std::env::split_paths(&path).any(|dir| dir.join(name).is_file());
    if let Some(missing) = ["nsenter", "systemctl", "journalctl"].into_iter().find(|name| !installed(name)) {
        return Some(format!("`{missing}` is missing: install the packages systemd and util-linux"));
    }
    if helper().is_none() {
        return Some(
            "`testkit-systemd` is missing: build it with `cargo build -p psflip-testkit --bins`".into(),
        );
    }
    if let Err(error) = release.layer() {
        return Some(error);
    }
    let hierarchy = match cgroup::hierarchy() {
        Ok(hierarchy) => hierarchy,
        Err(error) => return Some(error),
    };
    let writable = nix::unistd::access(&hierarchy, nix::unistd::AccessFlags::W_OK);
    writable.err().map(|error| format!("no control group can be made in `{}`: {error}", hierarchy.display()))
}

/// The path of the program that boots machines, beside `testkit-launch`.
fn helper() -> Option<PathBuf> {
    let path = binaries::find_own("testkit-launch").ok()?.with_file_name("testkit-systemd");
    path.is_file().then_some(path)
}

/// The pid of a process in its own PID namespace.
#[must_use]
pub fn inner_pid_of(process: Process) -> Option<u32> {
    process.status_field("NSpid")?.split_ascii_whitespace().last()?.parse().ok()
}

/// The helper's output and the console's.
fn logs(folder: &Path) -> String {
    let read = |name| fs::read_to_string(folder.join(name)).unwrap_or_default();
    ["supervisor.log", "boot.log", "console"].map(read).concat()
}
