//! The checks with real servers and commands, driven as the runtime drives them, except for the clock: no
//! test waits for a timer, it only calls `on_timer`.

mod command;
mod docker;
mod fcgi;
mod http;
mod notify;
mod sockets;

use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{CheckResult, Checker, ChildInfo, Interest, Timer, Verdict};
use crate::config::{Health, Pace};
use crate::sys::early::inherited_signals;

const INTERVAL: Duration = Duration::from_millis(200);
const TIMEOUT: Duration = Duration::from_secs(5);

/// The first probe at once, and one success is enough.
const PACE: Pace = Pace {
    after: Duration::ZERO,
    interval: INTERVAL,
    timeout: TIMEOUT,
    successes: 1,
    failures: 3,
    settle: Duration::ZERO,
};

/// The step when the child has become healthy.
const HEALTHY: CheckResult = CheckResult { verdict: Verdict::Healthy, timer: Timer::Off };
/// The step when a probe has ended and another one must follow.
const AGAIN: CheckResult = CheckResult { verdict: Verdict::Open, timer: Timer::Set(INTERVAL) };
/// The step when the first probe of `tcp`, `unix`, `http` or `fcgi` has failed: the next one comes soon.
const SOON: CheckResult = CheckResult { verdict: Verdict::Open, timer: Timer::Set(Duration::from_millis(1)) };
/// The step when a probe has begun.
const BEGUN: CheckResult = CheckResult { verdict: Verdict::Open, timer: Timer::Set(TIMEOUT) };

fn child() -> ChildInfo {
    ChildInfo {
        pid: 4711,
        envp: [].into(),
        workdir: None,
        signals: inherited_signals(),
        old_psflips: Vec::new(),
    }
}

fn checker(health: &Health) -> Checker {
    checker_of(health, child())
}

fn checker_of(health: &Health, child: ChildInfo) -> Checker {
    Checker::new(health, child).expect("a kind with probes")
}

/// Waits for the descriptor. Fails the test after far longer than any step here takes.
#[track_caller]
fn wait_for(fd: BorrowedFd<'_>, flags: PollFlags) {
    let mut fds = [PollFd::new(fd, flags)];
    let ready = poll(&mut fds, PollTimeout::from(20_000_u16)).unwrap();
    assert_eq!(ready, 1, "nothing happened within 20 s");
}

#[track_caller]
fn wait_for_input(fd: impl AsFd) {
    wait_for(fd.as_fd(), PollFlags::POLLIN);
}

/// One turn of the loop.
#[track_caller]
fn turn(checker: &mut Checker) -> CheckResult {
    let (fd, interest) = checker.watch().expect("there is nothing to wait for");
    let flags = match interest {
        Interest::Read => PollFlags::POLLIN,
        Interest::Write => PollFlags::POLLOUT,
    };
    wait_for(fd, flags);
    checker.on_ready()
}

/// Continues until the probe that this step began has ended.
#[track_caller]
fn settle(checker: &mut Checker, mut step: CheckResult) -> CheckResult {
    while checker.watch().is_some() {
        assert!(matches!(step, BEGUN | CheckResult::NOTHING), "{step:?}");
        step = turn(checker);
    }
    step
}

/// Runs the first probe to its end.
#[track_caller]
fn first_probe(checker: &mut Checker) -> CheckResult {
    let step = checker.start();
    settle(checker, step)
}

/// The error message of the first probe.
#[track_caller]
fn first_failure(checker: &mut Checker) -> String {
    let step = first_probe(checker);
    assert!([SOON, AGAIN].contains(&step), "{step:?}");
    let text = checker.last_failure().expect("no failure");
    text.strip_prefix("probe 1 failed: ").unwrap_or_else(|| panic!("{text}")).to_owned()
}

#[test]
fn alive_becomes_healthy_after_its_timeout() {
    // Contract: H1
    let mut checker = checker(&Health::Alive { timeout: TIMEOUT });
    assert_eq!(checker.start(), BEGUN);
    assert!(checker.watch().is_none() && checker.last_failure().is_none());
    assert_eq!(checker.on_ready(), CheckResult::NOTHING);
    assert_eq!(checker.on_timer(), HEALTHY);
    assert_eq!(checker.on_timer(), CheckResult::NOTHING, "it becomes healthy once");
}

#[test]
fn alive_after_zero_means_at_once() {
    // Contract: H1, X3
    assert_eq!(checker(&Health::Alive { timeout: Duration::ZERO }).start(), HEALTHY);
}

#[test]
fn a_stopped_child_is_not_alive_until_it_is_continued() {
    // Contract: H1, U3, F12
    use nix::sys::signal::{Signal, kill};
    use nix::sys::wait::{WaitPidFlag, waitpid};
    let mut sleep = std::process::Command::new("sleep").arg("infinity").spawn().unwrap();
    let pid = nix::unistd::Pid::from_raw(sleep.id().cast_signed());
    let until = |signal, flag| {
        kill(pid, signal).unwrap();
        waitpid(pid, Some(flag)).unwrap();
    };
    until(Signal::SIGSTOP, WaitPidFlag::WUNTRACED);
    let child = ChildInfo { pid: sleep.id(), ..child() };
    let mut checker = checker_of(&Health::Alive { timeout: Duration::ZERO }, child);
    let CheckResult { verdict, timer } = checker.start();
    assert_eq!(verdict, Verdict::Open);
    assert!(matches!(timer, Timer::Set(_)), "it is looked at again");
    assert!(checker.last_failure().is_some_and(|why| why.contains("is stopped")));
    assert_eq!(checker.on_timer().verdict, Verdict::Open);
    until(Signal::SIGCONT, WaitPidFlag::WCONTINUED);
    assert_eq!(checker.on_timer(), HEALTHY);
    sleep.kill().unwrap();
    sleep.wait().unwrap();
}
