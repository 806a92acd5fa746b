//! System calls fail at a first start, while psflip is idle, and when it stops: without a hand-over.

use std::os::unix::process::ExitStatusExt;

use testkit::{Deadline, Psflip, Sandbox, Signal, Stream, wait_until};

use super::calls::About;
use super::faults::{FIRST_CALL, Fault, LOOK, Tally, attach, calls_in, end_strace, faults_of, keeper, trace};
use crate::service::{AT_ONCE, Service, can_trace, psflip, stop};

/// The file with strace's output.
const TRACE: &str = "trace";

/// The names in the sandbox that contain the pidfile's name. Temporary files have a dot before it.
fn pidfiles(sandbox: &Sandbox) -> Vec<String> {
    let names = std::fs::read_dir(sandbox.dir()).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    // `psflip.pid.last` tells `psflip status` why the service went down.
    names.filter(|name| name.contains("psflip.pid") && name != "psflip.pid.last").collect()
}

/// Starts a first psflip under strace. It becomes a service that can be stopped, or it logs why not and
/// leaves nothing behind.
#[track_caller]
fn first_start(sandbox: &Sandbox, options: &[impl AsRef<str>], fault: Option<&Fault>) -> &'static str {
    let trace = sandbox.path(TRACE);
    let mut wrapper = vec!["strace", "-D", "-b", "execve", "-o", trace.to_str().unwrap()];
    wrapper.extend(options.iter().map(AsRef::as_ref));
    let rest = format!("{AT_ONCE}[upgrade]\ntimeout = \"10s\"\n[shutdown]\ntimeout = \"1s\"\n");
    let psflip = psflip(sandbox, &["never-ready"], &rest).wrapper(wrapper).start();
    let path = psflip.pidfile_path().to_owned();
    let status = wait_until(Deadline::default(), "psflip to be ready, or to exit", || match path.exists() {
        true => Some(None),
        false => psflip.program().try_status().map(Some),
    });
    let Some(status) = status.or_else(|| ended_meanwhile(&psflip)) else {
        end_strace(sandbox);
        stop(&psflip);
        assert_eq!(pidfiles(sandbox), [""; 0], "{}", sandbox.report());
        sandbox.assert_no_process_left();
        return "started";
    };
    assert!(!status.success(), "{status}, but nothing runs:\n{}", sandbox.report());
    sandbox.assert_no_process_left();
    // There is no message if writing it failed, or if the dynamic linker crashed before psflip's first call.
    let began = self::trace(&trace).contains(FIRST_CALL);
    let silent = !began || fault.is_some_and(|fault| fault.is_in(&["write", "poll"]));
    if !silent {
        let what = format!("a log line with the reason why psflip exited with {status}");
        psflip.output().wait_for(Deadline::default(), &what, |lines| lines.first().cloned());
    }
    assert_eq!(pidfiles(sandbox), [""; 0], "{}", sandbox.report());
    "refused"
}

/// psflip's exit status, if it has exited although its pidfile existed.
fn ended_meanwhile(psflip: &Psflip) -> Option<std::process::ExitStatus> {
    psflip.program().try_status()
}

/// Makes every call of this kind fail at a first start, one by one.
#[track_caller]
fn every_at_start(about: About) {
    let sandbox = Sandbox::new();
    if !can_trace(&sandbox) {
        return;
    }
    assert_eq!(first_start(&sandbox, LOOK, None), "started");
    let calls = calls_in(&trace(&sandbox.path(TRACE)));
    let mut tally = Tally::new(format!("first start, {about:?}"));
    for fault in faults_of(&calls, Some(about)) {
        // A sandbox keeps a record of every process that it started, and slows down with many.
        tally.try_one(&fault, || {
            let sandbox = Sandbox::new();
            (first_start(&sandbox, &fault.options(), Some(&fault)), trace(&sandbox.path(TRACE)))
        });
    }
    tally.finish();
}

#[test]
fn a_first_start_without_memory_works_or_reports_why() {
    // Contract: F10, C6
    every_at_start(About::Memory);
}

#[test]
fn a_first_start_without_files_works_or_reports_why() {
    // Contract: F10, C6
    every_at_start(About::Files);
}

#[test]
fn a_first_start_that_cannot_read_or_write_works_or_reports_why() {
    // Contract: F10, C6
    every_at_start(About::Data);
}

#[test]
fn a_first_start_that_cannot_wait_or_fork_works_or_reports_why() {
    // Contract: F10, C6
    every_at_start(About::Waiting);
    every_at_start(About::Processes);
}

/// Stops a service with strace attached to psflip or its keeper. It stops, with all that belongs to it.
#[track_caller]
fn stopped(
    sandbox: &Sandbox,
    of_keeper: bool,
    options: &[impl AsRef<str>],
    fault: Option<&Fault>,
) -> &'static str {
    let rest = format!("{AT_ONCE}[shutdown]\ntimeout = \"1s\"\n");
    let psflip = psflip(sandbox, &["never-ready"], &rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "starting pid="); // it has no handler yet; `stop` allows for that
    let active = psflip.active();
    let process = if of_keeper { keeper(active) } else { active };
    attach(sandbox, process, &sandbox.path(TRACE), options);
    active.signal(Signal::SIGTERM).unwrap();
    let again = wait_until(Deadline::default(), "psflip to exit or to serve", || {
        let ended = psflip.program().try_status().map(|_| false);
        ended.or_else(|| psflip.log().contains("did not exit on the stop request").then_some(true))
    });
    if again {
        assert!(psflip.log().contains("can't forward a signal to the child"), "{}", sandbox.report());
        active.signal(Signal::SIGTERM).unwrap();
    }
    let status = psflip.wait_exit();
    let relayed = status.success() || status.signal() == Some(15);
    assert!(relayed, "{status}\n{}", sandbox.report());
    sandbox.assert_no_process_left();
    let left = pidfiles(sandbox);
    let may_stay = fault.is_some_and(|fault| fault.is_in(&["unlink", "statx", "pread64"]));
    assert!(left.is_empty() || may_stay && psflip.log().contains("can't remove"), "{}", sandbox.report());
    if left.is_empty() { "ended" } else { "left its pidfile, and logged that" }
}

#[track_caller]
fn every_at_stop(of_keeper: bool) {
    let sandbox = Sandbox::new();
    if !can_trace(&sandbox) {
        return;
    }
    stopped(&sandbox, of_keeper, LOOK, None);
    let calls = calls_in(&trace(&sandbox.path(TRACE)));
    let mut tally = Tally::new(if of_keeper { "stop, keeper" } else { "stop, psflip" });
    for fault in faults_of(&calls, None) {
        tally.try_one(&fault, || {
            let sandbox = Sandbox::new();
            (stopped(&sandbox, of_keeper, &fault.options(), Some(&fault)), trace(&sandbox.path(TRACE)))
        });
    }
    tally.finish();
}

#[test]
fn a_stop_terminates_everything_whatever_calls_of_psflip_fail() {
    // Contract: F10, F11, P2
    every_at_stop(false);
}

#[test]
fn a_stop_terminates_everything_whatever_calls_of_the_keeper_fail() {
    // Contract: F10, F11, P2
    every_at_stop(true);
}

#[test]
fn a_keeper_without_memory_keeps_its_child() {
    // Contract: F10
    let service = Service::start();
    if !can_trace(&service.sandbox) {
        return service.ends();
    }
    let (psflip, child) = (service.psflip.active(), service.psflip.child());
    let options = ["-e", "trace=recvmsg", "-e", "inject=recvmsg:error=ENOMEM:when=1..3"];
    let strace = attach(&service.sandbox, keeper(psflip), &service.sandbox.path(TRACE), &options);
    let three = || (trace(&service.sandbox.path(TRACE)).matches("(INJECTED)").count() == 3).then_some(());
    wait_until(Deadline::default(), "three faults", || {
        // Wakes the keeper, which then also reads psflip's messages.
        let _ = keeper(psflip).signal(Signal::SIGCHLD);
        three()
    });
    strace.signal(Signal::SIGINT);
    strace.wait_exit();
    service.wait_alone(psflip, child);
    service.succeeds_and_ends();
}

#[test]
fn the_exit_of_a_child_is_reported_once_memory_is_available() {
    // Contract: F10, C5
    for error in ["ENOBUFS", "ENOMEM", "EAGAIN"] {
        let sandbox = Sandbox::new();
        if !can_trace(&sandbox) {
            return;
        }
        let psflip = psflip(&sandbox, &["never-ready"], AT_ONCE).start().wait_ready();
        let inject = format!("inject=sendmsg:error={error}:when=1..5");
        let options = ["-e", "trace=sendmsg", "-e", &inject];
        attach(&sandbox, keeper(psflip.active()), &sandbox.path(TRACE), &options);
        psflip.signal_child(Signal::SIGKILL);
        assert_eq!(psflip.wait_exit().signal(), Some(9), "{}", sandbox.report());
        assert_eq!(trace(&sandbox.path(TRACE)).matches("(INJECTED)").count(), 5);
        assert_eq!(pidfiles(&sandbox), [""; 0]);
        sandbox.assert_no_process_left();
    }
}
