//! `command`, with real commands under real keepers.
//!
//! A keeper is a fork without an exec, and other tests may run in threads of this process. glibc keeps its
//! allocator usable in such a fork, and a keeper uses nothing else that has locks.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::super::Checker;
use super::*;
use crate::sys::pidfd::PidFd;
use crate::sys::signal::{SignalSet, block_all, set_mask};

/// Makes this thread behave as psflip's: all signals are blocked, also in its keepers, which read theirs from
/// a descriptor. Reaps its keepers when dropped. Create it before any checker, so that it is dropped last.
struct AsPsflip(SignalSet);

impl AsPsflip {
    fn new() -> Self {
        Self(block_all().unwrap())
    }
}

impl Drop for AsPsflip {
    fn drop(&mut self) {
        // The children that this thread has forked.
        let keepers = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        for keeper in keepers.split_ascii_whitespace() {
            // not reaped: its pid is still its own
            let keeper = PidFd::open(keeper.parse().unwrap()).unwrap();
            if !std::thread::panicking() {
                wait_for_input(&keeper);
            }
            let _ = keeper.try_reap();
        }
        let _ = set_mask(self.0);
    }
}

fn command(argv: &[&str], workdir: Option<&Path>) -> Checker {
    let cmd = argv.iter().map(ToString::to_string).collect();
    let path = CString::new(format!("PATH={}", std::env::var("PATH").unwrap())).unwrap();
    let envp = [path, c"MARK=of the child".to_owned()].into();
    let workdir = workdir.map(Path::to_path_buf);
    checker_of(&Health::Command { cmd, pace: PACE }, ChildInfo { envp, workdir, ..child() })
}

fn shell(script: &str) -> Checker {
    command(&["sh", "-c", script], None)
}

#[test]
fn a_command_is_healthy_when_it_exits_0_and_only_then() {
    // Contract: H1, H4
    let _psflip = AsPsflip::new();
    assert_eq!(first_probe(&mut shell("echo fine; exit 0")), HEALTHY);
    let failures = [
        ("echo oops; exit 3", "`sh ...` exited with code 3: oops"),
        ("exit 7", "`sh ...` exited with code 7, without output"),
        ("kill -9 $$", "`sh ...` was killed by SIGKILL, without output"),
    ];
    for (script, wanted) in failures {
        assert_eq!(first_failure(&mut shell(script)), wanted);
    }
}

#[test]
fn a_command_sees_what_the_child_sees_and_the_childs_pid() {
    // Contract: H1, H4
    let _psflip = AsPsflip::new();
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("here"), "").unwrap();
    let script = r#"ls; echo "$MARK"; cat; echo "$PSFLIP_CHILD_PID" >&2; exit 1"#;
    let mut checker = command(&["sh", "-c", script], Some(directory.path()));
    let failure = first_failure(&mut checker);
    assert!(failure.ends_with(r" exited with code 1: here\nof the child\n4711"), "{failure}");
}

#[test]
fn a_command_that_can_not_be_started_reports_why() {
    // Contract: H4
    let _psflip = AsPsflip::new();
    let missing = Path::new("/nonexistent/directory");
    let refusals = [
        (command(&["psflip-no-such", "x"], None), "`psflip-no-such ...`: command not found: No such file"),
        (command(&["/dev/null"], None), "`/dev/null`: can't be executed: Permission denied"),
        (command(&["true"], Some(missing)), "`true`: its working directory can't be entered: No such file"),
    ];
    for (mut checker, wanted) in refusals {
        let failure = first_failure(&mut checker);
        assert!(failure.starts_with(wanted), "{failure}");
    }
}

#[test]
fn a_command_may_write_more_than_a_pipe_buffer_holds() {
    // Contract: H2, X2
    let _psflip = AsPsflip::new();
    let failure = first_failure(&mut shell("head -c 1000000 /dev/zero | tr '\\0' x; echo; echo end; exit 5"));
    assert!(failure.ends_with(r"exited with code 5: end"), "{failure}");
}

/// A named pipe that a test's processes hold open for writing, so that the test notices their exit.
struct Alive {
    directory: tempfile::TempDir,
    reader: File,
}

impl Alive {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("alive");
        mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        let reader = open(&path, flags, Mode::empty()).unwrap().into();
        Self { directory, reader }
    }

    /// A check by a shell that holds the pipe open, as does everything that it starts.
    fn check(&self, script: &str) -> Checker {
        command(&["sh", "-c", &format!("exec 3>alive; {script}")], Some(self.directory.path()))
    }

    /// Waits until a process has written to the pipe.
    #[track_caller]
    fn wait_for_life(&mut self) {
        wait_for_input(&self.reader);
        assert_ne!(self.reader.read(&mut [0; 64]).unwrap(), 0, "all are gone");
    }

    /// Waits until no process holds the pipe.
    #[track_caller]
    fn wait_for_death(&mut self) {
        wait_for(self.reader.as_fd(), PollFlags::empty()); // poll always reports a hang-up
        assert_eq!(self.reader.read(&mut [0; 64]).unwrap(), 0, "a process is alive");
    }
}

/// Two processes that hang, one of them an orphan.
const HANG: &str = "(sleep 1000 & echo orphan >&3); echo hanging; sleep 1000";

#[test]
fn a_command_that_hangs_is_killed_at_its_timeout_with_its_whole_tree() {
    // Contract: H2, H4
    let _psflip = AsPsflip::new();
    let mut alive = Alive::new();
    let mut checker = alive.check(HANG);
    assert_eq!(checker.start(), BEGUN);
    alive.wait_for_life();
    assert_eq!(turn(&mut checker), CheckResult::NOTHING);
    assert_eq!(checker.on_timer(), AGAIN);
    alive.wait_for_death();
    let failure = checker.last_failure().unwrap();
    assert!(failure.contains("` gave no answer within 5s"), "{failure}");
}

#[test]
fn a_cancelled_check_leaves_no_process() {
    // Contract: H3
    let _psflip = AsPsflip::new();
    let mut alive = Alive::new();
    let mut checker = alive.check(HANG);
    assert_eq!(checker.start(), BEGUN);
    alive.wait_for_life();
    drop(checker);
    alive.wait_for_death();
}

#[test]
fn leftovers_of_a_successful_command_are_killed_without_waiting() {
    // Contract: H1, C8
    let _psflip = AsPsflip::new();
    let mut alive = Alive::new();
    let mut checker = alive.check("sleep 1000 & exit 0");
    assert_eq!(first_probe(&mut checker), HEALTHY);
    alive.wait_for_death();
}

#[test]
fn a_command_that_closes_its_output_is_waited_for_without_wake_ups() {
    // Contract: U9, H1
    let _psflip = AsPsflip::new();
    let mut alive = Alive::new();
    let mut checker = alive.check("exec >&- 2>&-; echo closed >&3; sleep 1000");
    assert_eq!(checker.start(), BEGUN);
    alive.wait_for_life();
    let mut turns = 0;
    while is_ready(&checker) {
        assert_eq!(checker.on_ready(), CheckResult::NOTHING);
        turns += 1;
        assert!(turns < 100, "it is ready for ever");
    }
    drop(checker);
    alive.wait_for_death();
}

fn is_ready(checker: &Checker) -> bool {
    let mut fds = [PollFd::new(checker.watch().unwrap().0, PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::ZERO).unwrap() == 1
}
