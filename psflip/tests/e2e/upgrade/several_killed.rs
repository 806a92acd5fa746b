//! Processes are killed, and system calls fail, in an upgrade beside an old generation that drains
//! (`upgrade.draining`).

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;

use serde_json::Value;
use testkit::client::TIMEOUT;
use testkit::{Deadline, Process, Psflip, Sandbox, Signal, double, wait_until};

use crate::failures::each_call::Upgraded;
use crate::failures::faults::Case;
use crate::failures::stage::Stage;
use crate::service::{AT_ONCE, configure, generations, kill, psflip};

const STATUS: &str = r#"{"psflip":1,"request":"status"}"#;

/// It prints its signals, and exits on SIGUSR2 only.
const CHILD: &[&str] = &["signal-logger", "--exit-on", "USR2"];

/// A psflip that follows the plans of a [`Stage`], with generation 1.
fn staged(sandbox: &Sandbox, rest: &str) -> Psflip {
    let exe = sandbox.path("psflip");
    std::os::unix::fs::symlink(double("psflip-staged"), &exe).unwrap();
    psflip(sandbox, CHILD, rest).exe(exe).env("PSFLIP_STAGED", sandbox.dir()).start().wait_ready()
}

/// The numbers of the old generations that drain. `None`: nobody answers at the moment.
fn try_draining(psflip: &Psflip) -> Option<Vec<u64>> {
    let mut socket = UnixStream::connect(psflip.control_path()).ok()?;
    socket.set_read_timeout(Some(TIMEOUT)).ok()?;
    writeln!(socket, "{STATUS}").ok()?;
    let mut line = String::new();
    BufReader::new(socket).read_line(&mut line).ok()?;
    let status = serde_json::from_str::<Value>(&line).ok()?["status"].take();
    let older = status["older"].as_array()?.iter();
    let all = older.chain(Some(&status["predecessor"]).filter(|one| !one.is_null()));
    all.map(|one| one["generation"].as_u64()).collect()
}

#[track_caller]
fn wait_draining(psflip: &Psflip, expected: &[u64], what: &str) {
    wait_until(Deadline::default(), format!("generations {expected:?} to drain: {what}"), || {
        (try_draining(psflip)? == expected).then_some(())
    });
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    /// Generation 1, which drains.
    Older,
    Old,
    New,
}

/// Kills this psflip while the process at `step` of an upgrade is paused. No other generation is affected, and
/// the next upgrade works.
#[track_caller]
fn is_killed_at(step: &str, victim: Victim) {
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let rest = format!("{AT_ONCE}[upgrade]\ndraining = 3\n[shutdown]\ntimeout = \"1h\"\n");
    let psflip = staged(&sandbox, &rest);
    let (first, first_child) = (psflip.active(), psflip.child());
    configure(&sandbox, &["signal-logger"], &rest);
    psflip.request_flip();
    let second = psflip.wait_successor(first);
    wait_draining(&psflip, &[1], "before the upgrade");
    stage.plan(&sandbox, Some(second), &format!("record\npause {step}"));
    psflip.request_flip();
    let paused = stage.wait_pause(&sandbox);
    stage.pause_no_more(&sandbox, second);
    let third = generations(&sandbox).into_iter().find(|one| *one != first && *one != second);
    let process = match victim {
        Victim::Older => first,
        Victim::Old => second,
        Victim::New => third.unwrap_or_else(|| panic!("no new psflip at {step}\n{}", sandbox.report())),
    };
    kill(process);
    paused.go_on();
    stage.no_plan(&sandbox);
    let what = || format!("{victim:?} at {step}");
    // One generation serves, and besides it only generation 1 is left.
    let older: &[Process] = if victim == Victim::Older { &[] } else { &[first] };
    wait_until(Deadline::default(), format!("one generation to serve after the kill of {}", what()), || {
        let all = generations(&sandbox);
        let others: Vec<_> = all.iter().filter(|one| !older.contains(one)).copied().collect();
        let [active] = others[..] else { return None };
        let named = std::fs::read_to_string(psflip.pidfile_path()).ok()?.trim().parse().ok();
        (named == Some(active.pid()) && all.len() == older.len() + 1).then_some(())
    });
    let expected: &[u64] = if victim == Victim::Older { &[] } else { &[1] };
    wait_draining(&psflip, expected, &what());
    psflip.flip();
    wait_draining(&psflip, expected, &format!("after {}", what()));
    if victim == Victim::Older {
        psflip.wait_gone(first_child); // with its psflip (C7)
    } else {
        assert!(first_child.is_alive(), "{}\n{}", what(), sandbox.report());
    }
    let _ = first_child.signal(Signal::SIGUSR2); // it may be dead
    psflip.wait_gone(first);
    crate::service::stop(&psflip);
    sandbox.assert_no_process_left();
}

/// The steps that concern older generations, and those around the promotion.
const STEPS: &[&str] = &[
    "old Sending older",
    "old Sent older",
    "new Before StartChild",
    "new Before TakePidfile",
    "new Sent ready",
    "old Sending acknowledge",
    "old Sent acknowledge",
    "old Sending older-draining",
    "old Sent older-draining",
    "new Received acknowledge",
    "old Before SignalChild",
];

#[test]
fn an_older_psflip_is_killed_at_each_step() {
    // Contract: C7, D3, F9
    STEPS.iter().for_each(|step| is_killed_at(step, Victim::Older));
}

#[test]
fn the_old_psflip_is_killed_beside_an_older_one_at_each_step() {
    // Contract: D3, F8, F9
    // Before there is a new one, the service ends with it.
    STEPS.iter().filter(|step| !step.ends_with(" older")).for_each(|step| is_killed_at(step, Victim::Old));
}

#[test]
fn the_new_psflip_is_killed_beside_an_older_one_at_each_step() {
    // Contract: D3, F6, U8
    let is_before_the_promotion = |step: &&&str| step.starts_with("new Before");
    STEPS.iter().filter(is_before_the_promotion).for_each(|step| is_killed_at(step, Victim::New));
}

/// Of the calls that an upgrade makes for them; the other ones fail in upgrades without them.
#[track_caller]
fn each_call_for_old_generations_may_fail(role: &str) {
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let rest = format!("{AT_ONCE}[upgrade]\ndraining = 2\n[shutdown]\ntimeout = \"1h\"\n");
    let psflip = staged(&sandbox, &rest);
    let (first, child) = (psflip.active(), psflip.child());
    // A child that is killed as it starts leaves the socket as it is.
    let socket = sandbox.path("app.sock");
    let server = ["http-server", "--inherit", "listen_fds", "--probe", "{{ generation() }}.up"];
    let listen = format!("[[listen]]\naddress = \"unix://{}\"\n", socket.display());
    let check = "[healthcheck.unix]\npath = \"{{ generation() }}.up\"\ninterval = \"10ms\"\n";
    configure(&sandbox, &server, &(rest.replace(AT_ONCE, check) + &listen));
    psflip.request_flip();
    psflip.wait_successor(first);
    let upgraded = Upgraded {
        sandbox: &sandbox,
        stage: &stage,
        psflip: &psflip,
        socket: &socket,
        or_ends: "new generation took over",
        beside: &[first],
    };
    let is_meant = |case: &Case| {
        ["EpollCreate", "EpollControl", "Sendmsg", "Recvmsg", "Socketpair"].contains(&case.call.as_str())
    };
    upgraded.each_call_may_fail(role, is_meant, || {
        assert!(first.is_alive() && child.is_alive(), "{}", sandbox.report());
        wait_draining(&psflip, &[1], "beside the upgrades");
    });
    child.signal(Signal::SIGUSR2).unwrap();
    psflip.wait_gone(first);
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn each_call_of_the_old_psflip_for_old_generations_may_fail() {
    // Contract: D3, F10
    each_call_for_old_generations_may_fail("old");
}

#[test]
fn each_call_of_the_new_psflip_for_old_generations_may_fail() {
    // Contract: D3, F10
    each_call_for_old_generations_may_fail("new");
}
