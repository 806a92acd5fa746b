//! A test's folder, environment and processes; dropping the sandbox removes them all.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, OnceLock, PoisonError};
use std::thread::ThreadId;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

use crate::builder::PsflipBuilder;
use crate::guard;
use crate::launch::Launch;
use crate::marks::Marks;
use crate::process::{self, Process, ProcessState, Stat};
use crate::report;
use crate::running::Running;
use crate::wait::look_for;

/// The environment variable that marks the processes of a sandbox; its value is the sandbox's ID.
pub const MARKER: &str = "TESTKIT_SANDBOX";

/// The time limit for the exit of killed processes.
const CLEANUP: Duration = Duration::from_secs(10);

/// How long processes that psflip leaves may live on. Contract C7 says milliseconds; a busy host needs more.
const LEFTOVERS: Duration = Duration::from_secs(3);

/// A folder, an environment and a set of processes for one test. Dropping it removes them all.
///
/// ```
/// # use psflip_testkit::Sandbox;
/// let sandbox = Sandbox::new();
/// sandbox.write("greeting", "hello\n");
/// let cat = sandbox.command(["cat", "greeting"]).start();
/// assert!(cat.wait_exit().success());
/// assert_eq!(cat.stdout(), "hello\n");
/// ```
///
/// When dropped, the sandbox fails a test that has not failed already if
/// - a line of output contains `panicked at`, or
/// - every psflip has exited and leaves descendants (contract C8; see [`Sandbox::expect_leftovers`]).
#[derive(Debug)]
pub struct Sandbox {
    pub(crate) inner: Arc<Inner>,
}

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) id: String,
    pub(crate) dir: PathBuf,
    pub(crate) owner: ThreadId,
    /// The origin of the times in all reports.
    pub(crate) started: Instant,
    pub(crate) marks: Marks,
    folder: Mutex<Option<tempfile::TempDir>>,
    state: Mutex<Known>,
}

/// What the sandbox knows of its processes.
#[derive(Debug, Default)]
struct Known {
    running: Vec<Arc<Running>>,
    /// Every process that was ever seen in it.
    seen: HashSet<Process>,
    /// Their process groups and sessions. They identify a reparented zombie, which has no environment.
    groups: HashSet<u32>,
    leftovers_expected: bool,
    /// The exit statuses of processes that were reparented to us.
    statuses: HashMap<Process, ExitStatus>,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Sandbox {
    /// Creates a folder with a short path (the path of a Unix socket is limited to 107 bytes) and a new ID.
    ///
    /// Makes the test's process a child subreaper, so that it adopts double-forked successors.
    ///
    /// # Panics
    /// If the folder can't be created.
    #[must_use]
    pub fn new() -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        become_subreaper();
        let folder = short_folder();
        let dir = folder.path().to_owned();
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = dir.file_name().map(OsStr::to_string_lossy).unwrap_or_default().into_owned();
        let id = format!("{}{number}-{name}", guard::prefix());
        guard::start(&dir);
        let inner = Arc::new(Inner {
            id,
            dir,
            owner: std::thread::current().id(),
            started: Instant::now(),
            marks: Marks::default(),
            folder: Mutex::new(Some(folder)),
            state: Mutex::default(),
        });
        report::register(&inner);
        Self { inner }
    }

    /// The path of the folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.inner.dir
    }

    /// The ID: the value of `TESTKIT_SANDBOX` in the environment of all its processes.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.inner.id
    }

    /// The path of `name` in the folder.
    #[must_use]
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.inner.dir.join(name)
    }

    /// Writes a file in the folder, atomically by rename, and returns its path.
    ///
    /// # Panics
    /// If it can't be written.
    #[track_caller]
    pub fn write(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        let mut temporary = path.clone().into_os_string();
        temporary.push(".new");
        let result = fs::create_dir_all(path.parent().unwrap_or(&path))
            .and_then(|()| fs::write(&temporary, content))
            .and_then(|()| fs::rename(&temporary, &path));
        if let Err(error) = result {
            report::fail(&format!("`{}` can't be written: {error}", path.display()));
        }
        path
    }

    /// The text of a file in the folder.
    ///
    /// # Panics
    /// If it can't be read.
    #[track_caller]
    #[must_use]
    pub fn read(&self, name: impl AsRef<Path>) -> String {
        let path = self.path(name);
        match fs::read(&path) {
            Ok(content) => String::from_utf8_lossy(&content).into_owned(),
            Err(error) => report::fail(&format!("`{}` can't be read: {error}", path.display())),
        }
    }

    /// A psflip, to be configured and started in this sandbox.
    #[must_use]
    pub fn psflip(&self) -> PsflipBuilder {
        PsflipBuilder::new(&self.inner)
    }

    /// Any other program, to be configured and started in this sandbox: `argv`, looked up in PATH.
    #[must_use]
    pub fn command<A: AsRef<OsStr>>(&self, argv: impl IntoIterator<Item = A>) -> Launch {
        Launch::new(&self.inner, argv)
    }

    /// The living processes of this sandbox, whatever their parent is now.
    #[must_use]
    pub fn processes(&self) -> Vec<Process> {
        self.inner.members().iter().map(|stat| stat.process).collect()
    }

    /// Allows processes to be left when every psflip has exited; they are killed silently.
    pub fn expect_leftovers(&self) {
        self.inner.lock().leftovers_expected = true;
    }

    /// The state of the sandbox, as the report of a failed test shows it.
    #[must_use]
    pub fn report(&self) -> String {
        self.inner.report()
    }

    /// Asserts that no living process of this sandbox is left.
    ///
    /// # Panics
    /// If one is left at the default deadline.
    #[track_caller]
    pub fn assert_no_process_left(&self) {
        let left = || Some(()).filter(|()| self.inner.members().is_empty());
        crate::wait_until(crate::Deadline::default(), "all processes of the sandbox to exit", left);
    }

    /// Asserts that no process of the sandbox has a zombie child; waits until the default deadline for it to
    /// be reaped. Zombies of the test itself don't count: the testkit reaps them.
    ///
    /// # Panics
    /// If a zombie is left at the default deadline.
    #[track_caller]
    pub fn assert_zombie_free(&self) {
        let free = || Some(()).filter(|()| self.zombies().is_empty());
        crate::wait_until(
            crate::Deadline::default(),
            "every zombie of the sandbox to be reaped by its parent",
            free,
        );
    }

    /// The exit statuses of the processes that were reparented to the test, as every successor of a psflip
    /// is. For programs that the test started itself, see [`Running::try_status`].
    #[must_use]
    pub fn statuses(&self) -> Vec<(Process, ExitStatus)> {
        self.inner.reap();
        self.inner.lock().statuses.iter().map(|(process, status)| (*process, *status)).collect()
    }

    /// Zombies whose parent is a process of this sandbox.
    #[must_use]
    pub fn zombies(&self) -> Vec<Process> {
        let parents: HashSet<u32> = self.inner.members().iter().map(|stat| stat.process.pid()).collect();
        let everything = process::all();
        let zombies = everything.iter().filter(|stat| stat.state == ProcessState::Zombie);
        zombies.filter(|stat| parents.contains(&stat.parent)).map(|stat| stat.process).collect()
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The environment from which every program of the sandbox starts.
    pub(crate) fn environment(&self) -> BTreeMap<OsString, OsString> {
        let path = std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into());
        BTreeMap::from([
            ("HOME".into(), self.dir.clone().into_os_string()),
            ("LANG".into(), "C".into()),
            ("PATH".into(), path),
            ("TMPDIR".into(), self.dir.clone().into_os_string()),
            (MARKER.into(), self.id.clone().into()),
        ])
    }

    pub(crate) fn add(&self, running: &Arc<Running>) {
        let mut known = self.lock();
        known.running.push(Arc::clone(running));
        known.seen.insert(running.first());
        if let Some(stat) = running.first().stat().filter(|stat| !foreign_groups().contains(&stat.group)) {
            known.groups.insert(stat.group);
        }
    }

    /// Adds a process to the known ones. Its process group is not enough: a helper may be about to change it.
    pub(crate) fn note(&self, process: Process) {
        self.lock().seen.insert(process);
    }

    /// The living processes with the marker, and their descendants. Adds them to the known ones.
    pub(crate) fn members(&self) -> Vec<Stat> {
        // A single look misses a process that is forked, by a process that then exits, during the look. So
        // only three empty looks prove that none is left.
        (0..3).map(|_| self.look()).find(|found| !found.is_empty()).unwrap_or_default()
    }

    fn look(&self) -> Vec<Stat> {
        self.reap();
        let everything = process::all();
        let mut found: Vec<Stat> =
            everything.iter().filter(|stat| stat.state.is_alive() && self.is_own(stat)).cloned().collect();
        let mut pids: HashSet<u32> = found.iter().map(|stat| stat.process.pid()).collect();
        let mut next = 0;
        while next < found.len() {
            let parent = found[next].process.pid();
            for stat in everything.iter().filter(|stat| stat.parent == parent && stat.state.is_alive()) {
                if pids.insert(stat.process.pid()) {
                    found.push(stat.clone());
                }
            }
            next += 1;
        }
        let mut known = self.lock();
        for stat in &found {
            known.seen.insert(stat.process);
            known.groups.extend(
                [stat.group, stat.session].into_iter().filter(|group| !foreign_groups().contains(group)),
            );
        }
        found
    }

    /// Whether a process has the marker, or was seen with it, or was reparented to us and is in our groups.
    fn is_own(&self, stat: &Stat) -> bool {
        let fell_to_us = stat.parent == std::process::id();
        let known = self.lock();
        if known.seen.contains(&stat.process)
            || (fell_to_us && (known.groups.contains(&stat.group) || known.groups.contains(&stat.session)))
        {
            return true;
        }
        drop(known);
        let mut environ = stat.process.environ().unwrap_or_default();
        if environ.is_empty() && fell_to_us {
            // A process in the middle of execve(2) shows no environment; do not miss one that belongs to us.
            let shows =
                || Some(stat.process.environ().unwrap_or_default()).filter(|environ| !environ.is_empty());
            environ = look_for(Duration::from_millis(100), shows).unwrap_or_default();
        }
        environ.iter().any(|(name, value)| name == MARKER && *value == *self.id)
    }

    /// Reaps zombies of this sandbox that were reparented to the test's process, as init would. Zombies of
    /// other tests in the same process are in other groups and stay.
    pub(crate) fn reap(&self) {
        let own = std::process::id();
        let fallen = process::all()
            .into_iter()
            .filter(|stat| stat.parent == own && stat.state == ProcessState::Zombie);
        let mut known = self.lock();
        for stat in fallen {
            let pid = stat.process.pid();
            // The handle of a program that we started reaps it, and keeps its exit status.
            if known.running.iter().any(|running| running.first() == stat.process) {
                continue;
            }
            let ours = known.seen.contains(&stat.process)
                || known.groups.contains(&stat.group)
                || known.groups.contains(&stat.session);
            let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw).filter(|_| ours) else {
                continue;
            };
            // ECHILD: it was not reparented to us after all.
            if let Ok(Some(end)) = waitid(WaitId::Pid(pid), WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
                known.statuses.insert(stat.process, process::exit_status(&end));
            }
        }
        let running = known.running.clone();
        drop(known);
        for running in running {
            running.try_status();
        }
    }

    /// The exit status of a process that was reparented to us.
    pub(crate) fn status_of(&self, process: Process) -> Option<ExitStatus> {
        self.reap();
        self.lock().statuses.get(&process).copied()
    }

    /// Kills every process of the sandbox; returns those that are still there after [`CLEANUP`].
    fn end_all(&self) -> Vec<Stat> {
        // The time starts with the first kill: on a busy host, the first look alone may take longer.
        let mut start = None;
        loop {
            let members = self.members();
            if members.is_empty() || start.is_some_and(|start: Instant| start.elapsed() > CLEANUP) {
                return members;
            }
            start.get_or_insert_with(Instant::now);
            let fds: Vec<_> = members.iter().filter_map(|stat| stat.process.pidfd().ok()).collect();
            for fd in &fds {
                // ESRCH: it has exited since.
                let _ = fd.signal(Signal::SIGKILL);
            }
            for fd in &fds {
                fd.ends_within(Duration::from_millis(200));
            }
        }
    }

    /// The reasons to fail a test that seemed to pass.
    fn verdict(&self) -> Vec<String> {
        let known = self.lock();
        let running = known.running.clone();
        let leftovers_expected = known.leftovers_expected;
        drop(known);
        let mut found = Vec::new();
        let services: Vec<_> = running.iter().filter(|running| running.service.is_some()).collect();
        let psflip_left = |members: &[Stat]| {
            let exes: HashSet<_> = services.iter().filter_map(|running| running.service.clone()).collect();
            // A keeper runs psflip's executable too, but as the child of a psflip.
            let is_psflip = |stat: &&Stat| stat.process.exe().is_ok_and(|exe| exes.contains(&exe));
            let pids: HashSet<u32> =
                members.iter().filter(is_psflip).map(|stat| stat.process.pid()).collect();
            members.iter().any(|stat| pids.contains(&stat.process.pid()) && is_main(stat, &pids))
        };
        let own_commands: HashSet<Process> = running
            .iter()
            .filter(|running| running.service.is_none())
            .map(|running| running.first())
            .collect();
        let own_trees = || -> HashSet<Process> { own_commands.iter().flat_map(Process::tree).collect() };
        if !services.is_empty() && !leftovers_expected {
            let end = Instant::now() + LEFTOVERS;
            loop {
                let members = self.members();
                if psflip_left(&members) {
                    break; // the test ended with a running service, which is allowed
                }
                let own = own_trees();
                let left: Vec<_> = members.iter().filter(|stat| !own.contains(&stat.process)).collect();
                if left.is_empty() {
                    break;
                }
                let fds: Vec<_> = left.iter().filter_map(|stat| stat.process.pidfd().ok()).collect();
                let rest = end.saturating_duration_since(Instant::now());
                if rest.is_zero() {
                    let names: Vec<_> =
                        left.iter().map(|stat| format!("{} ({})", stat.process, stat.name)).collect();
                    found.push(format!(
                        "every psflip has exited, but these processes are left: {}",
                        names.join(", ")
                    ));
                    break;
                }
                if let Some(fd) = fds.first() {
                    fd.ends_within(rest);
                }
            }
        }
        found
    }

    fn panics(&self) -> Vec<String> {
        let running = self.lock().running.clone();
        let lines = running.iter().flat_map(|running| running.output().lines());
        lines
            .filter(|line| line.text.contains("panicked at"))
            .map(|line| format!("a program panicked: {line}"))
            .collect()
    }

    /// The complete state of the sandbox, for a reader who sees nothing else.
    pub(crate) fn report(&self) -> String {
        let running = self.lock().running.clone();
        let mut text = String::new();
        let _ = writeln!(
            text,
            "--- sandbox {} in {}, {:.3} s old",
            self.id,
            self.dir.display(),
            self.started.elapsed().as_secs_f64()
        );
        report::list_files(&mut text, &self.dir, 1);
        for (number, mark) in self.marks.all().iter().enumerate() {
            let _ = writeln!(text, "  flip {}: {mark}", number + 1);
        }
        let _ = writeln!(text, "--- processes");
        self.describe_processes(&mut text);
        for running in running {
            running.describe(&mut text);
        }
        text.push_str("--- end of the report");
        text
    }

    fn describe_processes(&self, text: &mut String) {
        let members = self.members();
        let pids: HashSet<u32> = members.iter().map(|stat| stat.process.pid()).collect();
        let everything = process::all();
        let zombies: Vec<_> = everything
            .iter()
            .filter(|stat| stat.state == ProcessState::Zombie && pids.contains(&stat.parent))
            .cloned()
            .collect();
        if members.is_empty() {
            text.push_str("  none is left\n");
        }
        let shown: Vec<Stat> = members.iter().cloned().chain(zombies).collect();
        let roots: Vec<_> = shown.iter().filter(|stat| !pids.contains(&stat.parent)).collect();
        for root in roots {
            describe_tree(text, root, &shown, 1);
        }
    }
}

/// The process group and session of the test itself, which other processes share.
fn foreign_groups() -> [u32; 2] {
    Process::current().stat().map_or([0, 0], |stat| [stat.group, stat.session])
}

/// Whether a psflip is not the child of a psflip: a keeper is a fork of psflip, and runs the same executable.
fn is_main(stat: &Stat, psflips: &HashSet<u32>) -> bool {
    !psflips.contains(&stat.parent)
}

fn describe_tree(text: &mut String, stat: &Stat, shown: &[Stat], depth: usize) {
    let process = stat.process;
    let command = process.cmdline().unwrap_or_default().join(" ");
    let command = if command.is_empty() { format!("[{}]", stat.name) } else { command };
    let _ = writeln!(
        text,
        "{:indent$}{process} {:?} parent={} group={} session={} threads={}: {command}",
        "",
        stat.state,
        stat.parent,
        stat.group,
        stat.session,
        stat.threads,
        indent = depth * 2
    );
    if depth < 32 {
        for child in shown.iter().filter(|child| child.parent == process.pid()) {
            describe_tree(text, child, shown, depth + 1);
        }
    }
}

impl Drop for Sandbox {
    #[expect(clippy::print_stderr, reason = "a failing test shows what it writes to stderr")]
    fn drop(&mut self) {
        let failed_already = std::thread::panicking();
        let mut findings = Vec::new();
        let mut report = String::new();
        if failed_already {
            report = self.inner.report();
        } else {
            findings = self.inner.verdict();
            if !findings.is_empty() {
                report = self.inner.report();
            }
        }
        let stubborn = self.inner.end_all();
        findings.extend(
            stubborn.iter().map(|stat| format!("process {} ({}) can't be killed", stat.process, stat.name)),
        );
        let running = self.inner.lock().running.clone();
        for running in &running {
            if !running.output().closes_within(CLEANUP) {
                findings.push(format!(
                    "a process outside of the sandbox still has the output of `{}` open",
                    running.command_line()
                ));
            }
        }
        findings.extend(self.inner.panics());
        if report.is_empty() && !findings.is_empty() {
            report = self.inner.report();
        }
        let folder = self.inner.folder.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(folder) = folder
            && let Err(error) = folder.close()
        {
            findings.push(format!("`{}` can't be removed: {error}", self.inner.dir.display()));
        }
        if failed_already {
            eprintln!("the test failed; its sandbox at that moment:\n{report}");
            for finding in findings {
                eprintln!("also: {finding}");
            }
        } else if !findings.is_empty() {
            panic!("{}\n{report}", findings.join("\n"));
        }
    }
}

fn become_subreaper() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let own = rustix::process::getpid();
        rustix::process::set_child_subreaper(Some(own))
            .expect("prctl(PR_SET_CHILD_SUBREAPER) works since Linux 3.4");
    });
}

/// A folder in the usual place for temporary files, or in `/tmp` if that path is too long for a Unix socket.
fn short_folder() -> tempfile::TempDir {
    static PLACE: OnceLock<PathBuf> = OnceLock::new();
    let place = PLACE.get_or_init(|| {
        let usual = std::env::temp_dir();
        if usual.as_os_str().len() <= 40 { usual } else { PathBuf::from("/tmp") }
    });
    match tempfile::Builder::new().prefix("tk").rand_bytes(8).tempdir_in(place) {
        Ok(folder) => folder,
        Err(error) => panic!("can't create a directory in `{}`: {error}", place.display()),
    }
}
