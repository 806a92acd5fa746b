//! As PID 1 of a PID namespace, as in a container, psflip keeps an anchor by default.

use std::sync::Arc;

use testkit::client::http::HttpClient;
use testkit::{
    AvailabilityProbe, Deadline, Process, Running, Sandbox, Signal, Stream, fixture, psflip_bin, wait_until,
};

use super::NAME;
use crate::service::{AT_ONCE, configure};
use crate::tree::is_root;
use crate::tree::reaping::wait_reaped;

/// psflip as PID 1 of a PID namespace. The pids here are those outside of it.
fn as_pid_1(sandbox: &Sandbox, config: &str) -> Arc<Running> {
    sandbox.write("psflip.toml", config);
    sandbox.command(["unshare", "--pid", "--fork", "--mount-proc"]).arg(psflip_bin()).start()
}

/// The only child of `unshare`, once it is an anchor with a healthy first child.
#[track_caller]
fn pid_1(unshare: &Running) -> Process {
    unshare.output().wait(Stream::Stderr, "healthy, active");
    let anchor = unshare.first().children()[0];
    named(anchor);
    anchor
}

/// Waits until a process has the anchor's name. Its child may be healthy earlier.
#[track_caller]
pub(super) fn named(anchor: Process) {
    wait_until(Deadline::default(), format!("process {anchor} to be the anchor"), || {
        anchor.stat().is_some_and(|stat| stat.name == NAME).then_some(())
    });
}

/// The generation below the anchor, by its pid outside of the namespace. The anchor may have other children,
/// too.
#[track_caller]
pub(super) fn generation(anchor: Process) -> Process {
    let psflips = || {
        anchor.children().into_iter().filter(|child| child.stat().is_some_and(|stat| stat.name == "psflip"))
    };
    wait_until(Deadline::default(), "one generation below the anchor", || {
        let found: Vec<_> = psflips().collect();
        if let [one] = found[..] { Some(one) } else { None }
    })
}

#[test]
fn as_pid_1_psflip_relays_a_death_by_a_signal_as_128_plus_its_number() {
    // Contract: C5, C9
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let exit_with = fixture("exit-with").display().to_string();
    for (option, value, code) in [
        ("--code", "0", 0),
        ("--code", "9", 9),
        ("--signal", "TERM", 143),
        ("--signal", "KILL", 137),
        ("--signal", "SEGV", 139),
        ("--signal", "RTMIN", 162),
    ] {
        let config = format!("cmd = [{exit_with:?}, {option:?}, {value:?}]\n{AT_ONCE}");
        let status = as_pid_1(&sandbox, &config).wait_exit();
        assert_eq!(status.code(), Some(code), "{option} {value}\n{}", sandbox.report());
    }
}

#[test]
fn as_pid_1_psflip_reaps_orphans_that_it_inherits() {
    // Contract: C9
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let unshare = as_pid_1(&sandbox, &format!("cmd = [\"sleep\", \"infinity\"]\n{AT_ONCE}"));
    let psflip = pid_1(&unshare);
    // `docker exec` does the same: a process enters the namespace and leaves an orphan there.
    let enter = ["nsenter", "--pid", "--target", &psflip.pid().to_string(), "sh", "-c"].map(str::to_owned);
    for round in 0..5 {
        let script = format!("sleep 1000{round} & exit 0");
        sandbox.command(&enter).arg(script).stdout(null()).stderr(null()).start().wait_exit();
        let argv = ["sleep".to_owned(), format!("1000{round}")];
        let orphan = wait_until(Deadline::default(), "the orphan to fall to psflip", || {
            psflip.children().into_iter().find(|child| child.cmdline().is_ok_and(|found| found == argv))
        });
        orphan.signal(Signal::SIGKILL).unwrap();
        wait_reaped(orphan);
    }
    psflip.signal(Signal::SIGTERM).unwrap();
    assert_eq!(unshare.wait_exit().code(), Some(143), "{}", sandbox.report());
}

fn null() -> std::fs::File {
    std::fs::File::options().write(true).open("/dev/null").unwrap()
}

#[test]
fn as_pid_1_psflip_is_upgraded_under_load_and_stopped() {
    // Contract: A1, C9, U10, F11
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let server: &[&str] = &["http-server", "--unix", "app.sock", "--linger", "50ms"];
    configure(&sandbox, server, "[healthcheck.unix]\npath = \"app.sock\"\n");
    let config = sandbox.read("psflip.toml");
    let unshare = as_pid_1(&sandbox, &config);
    let anchor = pid_1(&unshare);
    let socket = sandbox.path("app.sock");
    let probe = AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::unix(&socket);
        move || client.get("/")?.tag("pid")
    });
    probe.wait_requests(10);
    for round in 1..=10 {
        let old = generation(anchor);
        anchor.signal(Signal::SIGHUP).unwrap();
        unshare.output().wait_count(round, Stream::Stderr, "new generation took over");
        wait_reaped(old);
        assert_ne!(generation(anchor), old);
        probe.wait_requests(10);
    }
    probe.finish().assert_no_failures();
    // `docker stop` does the same, while an upgrade is running.
    configure(&sandbox, &["never-ready"], "[healthcheck.unix]\npath = \"never.sock\"\n");
    anchor.signal(Signal::SIGHUP).unwrap();
    unshare.output().wait(Stream::Stdout, "starting pid=");
    anchor.signal(Signal::SIGTERM).unwrap();
    assert_eq!(unshare.wait_exit().code(), Some(0), "{}", sandbox.report());
    assert!(!sandbox.path("psflip.pid").exists());
    sandbox.assert_no_process_left();
}
