//! A first psflip without a flag. It keeps an anchor wherever the supervisor does not follow the main PID, so
//! no upgrade ends the service.

use testkit::process::Process;
use testkit::{
    Anchor, Deadline, NotifyManager, Psflip, PsflipBuilder, Sandbox, Session, Signal, Stdin, Stream, fixture,
    psflip_bin, wait_until,
};

use super::namespace::{generation, named};
use crate::service::{AT_ONCE, Service, configure, psflip, stop};
use crate::tree::is_root;

/// The log line of a psflip whose supervisor does not follow the main PID.
const SAYS: &str = "INFO psflip{generation=1 ";

/// The anchor of a psflip that a wrapper started.
#[track_caller]
pub(super) fn anchor_above(psflip: &Psflip) -> Process {
    let anchor = psflip.active().parent().unwrap();
    named(anchor);
    anchor
}

/// The first generation's log line that says whether there is an anchor, and why.
#[track_caller]
fn line(psflip: &Psflip) -> String {
    psflip.wait_for_line(Stream::Stderr, "an anchor").text
}

/// Runs a client in the sandbox's directory until it exits. Returns its output.
#[track_caller]
fn client(sandbox: &Sandbox, subcommand: &str) -> String {
    let client = sandbox.command([psflip_bin()]).arg(subcommand).start();
    assert!(client.wait_exit().success(), "{}", sandbox.report());
    client.stdout()
}

/// Upgrades in every way, a failed upgrade and a stop, under a supervisor that exits with the process that it
/// started.
#[track_caller]
fn is_upgraded_and_stopped_below(supervisor: &[&str], passes_sigterm_on: bool) {
    let service =
        Service::start_as(|builder, _| builder.anchor(Anchor::ByDefault).wrapper(supervisor.iter().copied()));
    let Service { psflip, sandbox, .. } = &service;
    let anchor = anchor_above(psflip);
    let line = line(psflip);
    let why =
        format!("anchor={anchor} reason=\"no supervisor follows the main PID: NOTIFY_SOCKET is not set\"");
    assert!(line.contains(SAYS) && line.contains(&why), "{line}");
    assert!(client(sandbox, "status").contains(&format!("\nanchor    pid {anchor}")), "{}", sandbox.report());
    for way in 0..3 {
        let old = psflip.active();
        match way {
            0 => anchor.signal(Signal::SIGHUP).unwrap(),
            1 => old.signal(Signal::SIGHUP).unwrap(),
            _ => drop(client(sandbox, "upgrade")),
        }
        psflip.wait_successor(old);
        psflip.wait_gone(old);
        service.probe.wait_requests(10);
        assert_eq!(anchor_above(psflip), anchor, "{}", sandbox.report());
        assert_eq!(psflip.program().try_status(), None, "{}", sandbox.report());
    }
    service.configure(&["crash-on-init", "--code", "7"], "[healthcheck.alive]\ntimeout = \"1m\"\n");
    anchor.signal(Signal::SIGHUP).unwrap();
    psflip.wait_for_line(Stream::Stderr, "the old child keeps running");
    service.probe.wait_requests(10);
    let Service { probe, psflip, sandbox } = service;
    probe.finish().assert_no_failures();
    assert_eq!(psflip.log().matches("running below an anchor").count(), 1, "{}", sandbox.report());
    let asked = if passes_sigterm_on { psflip.program().first() } else { anchor };
    asked.signal(Signal::SIGTERM).unwrap();
    assert_eq!(psflip.wait_exit().code(), Some(0), "{}", sandbox.report());
    assert!(!psflip.pidfile_path().exists());
    sandbox.assert_no_process_left();
}

/// A child that crashes after an upgrade: the supervisor must see its exit code.
#[track_caller]
fn relays_a_crash_to(supervisor: &[&str], code: i32) {
    let sandbox = Sandbox::new();
    let builder = psflip(&sandbox, &["/bin/sleep", "infinity"], AT_ONCE).anchor(Anchor::ByDefault);
    let psflip = builder.wrapper(supervisor.iter().copied()).start().wait_ready();
    psflip.flip();
    psflip.signal_child(Signal::SIGSEGV);
    assert_eq!(psflip.wait_exit().code(), Some(code), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

/// An entrypoint script that forwards SIGTERM, as in many images.
const ENTRYPOINT: &str = "\"$@\" & pid=$!; trap 'kill $pid' TERM; wait $pid; code=$?; \
    while kill -0 $pid 2>/dev/null; do wait $pid; code=$?; done; exit $code";

macro_rules! below {
    ($($name:ident: $supervisor:expr, $passes_sigterm_on:expr;)*) => {
        $(mod $name {
            #[test]
            fn is_upgraded_and_stopped() {
                // Contract: A1, A2, U8
                super::is_upgraded_and_stopped_below($supervisor, $passes_sigterm_on);
            }

            #[test]
            fn relays_a_crash() {
                // Contract: A1, A3, C5
                super::relays_a_crash_to($supervisor, 128 + 11);
            }
        })*
    };
}

below! {
    tini: &["tini", "-s", "--"], true;
    dumb_init: &["dumb-init", "--"], true;
    dumb_init_for_one_child: &["dumb-init", "--single-child", "--"], true;
    // An entrypoint without `exec`.
    a_shell_that_waits: &["sh", "-c", "\"$@\"; exit $?", "sh"], false;
    an_entrypoint_with_a_trap: &["sh", "-c", super::ENTRYPOINT, "sh"], true;
}

#[test]
fn below_a_containers_init_an_upgrade_does_not_stop_the_container() {
    // Contract: A1, C9
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    configure(&sandbox, &["/bin/sleep", "infinity"], AT_ONCE);
    let argv = ["unshare", "--pid", "--fork", "--mount-proc", "tini", "--"];
    let init = sandbox.command(argv).arg(psflip_bin()).start();
    init.output().wait(Stream::Stderr, "healthy, active");
    let tini = init.first().children()[0];
    let anchor = tini.children()[0];
    named(anchor);
    for round in 1..=3 {
        let old = generation(anchor);
        anchor.signal(Signal::SIGHUP).unwrap();
        init.output().wait_count(round, Stream::Stderr, "new generation took over");
        wait_until(Deadline::default(), "the old generation to exit", || (!old.is_alive()).then_some(()));
        assert!(tini.is_alive() && anchor.is_alive(), "{}", sandbox.report());
    }
    // `docker stop` does the same.
    tini.signal(Signal::SIGTERM).unwrap();
    assert_eq!(init.wait_exit().code(), Some(143), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

/// A psflip with the environment that systemd sets, or with a part of it.
fn told(sandbox: &Sandbox, script: &str, anchor: Anchor) -> PsflipBuilder {
    let builder = psflip(sandbox, &["/bin/sleep", "infinity"], AT_ONCE).anchor(anchor);
    builder.env("NOTIFY_SOCKET", sandbox.path("notify")).wrapper(["sh", "-c", script, "sh"])
}

const AS_SYSTEMD: &str = "SYSTEMD_EXEC_PID=$$ exec \"$@\"";

#[test]
fn where_systemd_follows_the_main_process_there_is_no_anchor() {
    // Contract: A1
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let psflip = told(&sandbox, AS_SYSTEMD, Anchor::ByDefault).start().wait_ready();
    assert_eq!(psflip.active(), psflip.program().first());
    let line = line(&psflip);
    let reason = "running without an anchor: every upgrade changes the main PID reason=\"started by systemd";
    assert!(line.contains(SAYS) && line.contains(reason), "{line}");
    assert!(!client(&sandbox, "status").contains("\nanchor "), "{}", sandbox.report());
    let flip = psflip.flip();
    assert_eq!(manager.wait("MAINPID=").value("MAINPID"), Some(flip.new.to_string().as_str()));
    stop(&psflip);
}

#[test]
fn a_notify_socket_without_systemd_as_parent_needs_an_anchor() {
    // Contract: A1
    for script in ["SYSTEMD_EXEC_PID=$$ \"$@\"; exit $?", "exec \"$@\""] {
        let sandbox = Sandbox::new();
        let manager = NotifyManager::bind(&sandbox.path("notify"));
        let builder = told(&sandbox, script, Anchor::ByDefault).env_remove("SYSTEMD_EXEC_PID");
        let psflip = builder.start().wait_ready();
        let anchor = anchor_above(&psflip);
        let line = line(&psflip);
        assert!(line.contains("systemd did not start this process itself"), "{script}: {line}");
        manager.wait("READY=1");
        psflip.flip();
        manager.wait("generation 2 took over");
        assert!(manager.notices().iter().all(|notice| notice.value("MAINPID").is_none()));
        anchor.signal(Signal::SIGTERM).unwrap();
        psflip.wait_exit();
        sandbox.assert_no_process_left();
    }
}

#[test]
fn foreground_forces_an_anchor_where_systemd_would_follow() {
    // Contract: A1
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let psflip = told(&sandbox, AS_SYSTEMD, Anchor::Always).start().wait_ready();
    let anchor = psflip.program().first();
    assert_eq!(anchor_above(&psflip), anchor);
    manager.wait("READY=1");
    psflip.flip();
    assert_eq!(anchor_above(&psflip), anchor);
    anchor.signal(Signal::SIGTERM).unwrap();
    psflip.wait_exit();
    sandbox.assert_no_process_left();
}

#[test]
fn a_session_leader_of_a_terminal_without_an_anchor_is_a_warning() {
    // Contract: A1
    let sandbox = Sandbox::new();
    let builder = psflip(&sandbox, &["/bin/sleep", "infinity"], AT_ONCE).session(Session::New).pty();
    let psflip = builder.start().wait_ready();
    let line = psflip.wait_for_line(Stream::Pty, "without an anchor").text;
    assert!(line.contains("WARN") && line.contains("start psflip without --no-anchor"), "{line}");
    stop(&psflip);
}

#[test]
fn check_predicts_the_anchor() {
    // Contract: A1
    let sandbox = Sandbox::new();
    configure(&sandbox, &["http-server"], AT_ONCE);
    let says = |flags: &[&str]| {
        let check = sandbox.command([psflip_bin()]).arg("check").args(flags).start();
        assert!(check.wait_exit().success(), "{}", sandbox.report());
        check.stdout().lines().skip(1).take_while(|line| line.starts_with('#')).collect::<String>()
    };
    let default = says(&[]);
    assert!(default.starts_with("# With an anchor") && default.contains("Type=notify"), "{default}");
    assert!(says(&["--foreground"]).starts_with("# With an anchor (--foreground)"));
    assert!(says(&["--no-anchor"]).starts_with("# Without an anchor (--no-anchor)"));
}

#[test]
fn the_flags_exclude_each_other() {
    // Contract: A1, X1
    let sandbox = Sandbox::new();
    configure(&sandbox, &["http-server"], AT_ONCE);
    for subcommand in [&["run"][..], &[]] {
        let program =
            sandbox.command([psflip_bin()]).args(subcommand).args(["--foreground", "--no-anchor"]).start();
        assert_eq!(program.wait_exit().code(), Some(2), "{}", program.stderr());
        assert!(program.stderr().contains("cannot be used with"), "{}", program.stderr());
    }
}

#[test]
fn below_watch_a_psflip_with_an_anchor_is_followed_as_well() {
    // Contract: A1, W1, W2, W3
    let sandbox = Sandbox::new();
    let wrapper = [psflip_bin().display().to_string(), "watch".into(), "--pidfile".into()];
    let wrapper = wrapper.into_iter().chain(["psflip.pid".to_owned(), "--".into()]);
    let child = fixture("signal-logger");
    let builder = psflip(&sandbox, &[child.to_str().unwrap()], AT_ONCE).anchor(Anchor::ByDefault);
    let psflip = builder.wrapper(wrapper).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready");
    let anchor = anchor_above(&psflip);
    let watch = psflip.program().first();
    for round in 2..=3 {
        let old = psflip.active();
        watch.signal(Signal::SIGHUP).unwrap();
        psflip.wait_successor(old);
        psflip.wait_gone(old);
        psflip.output().wait_count(round, Stream::Stdout, "ready");
        assert_eq!(anchor_above(&psflip), anchor, "{}", sandbox.report());
    }
    watch.signal(Signal::SIGTERM).unwrap();
    assert_eq!(psflip.wait_exit().code(), Some(0), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn a_script_that_starts_psflip_upgrades_it_by_the_pid_of_its_job() {
    // Contract: A1, A2
    let sandbox = Sandbox::new();
    let script = "\"$@\" & while read -r _; do kill -HUP $!; done; kill $!; wait $!; exit $?";
    let builder = psflip(&sandbox, &["/bin/sleep", "infinity"], AT_ONCE).anchor(Anchor::ByDefault);
    let psflip = builder.wrapper(["sh", "-c", script, "sh"]).stdin(Stdin::Pipe).start().wait_ready();
    for _ in 0..3 {
        let old = psflip.active();
        psflip.program().write_stdin("\n");
        psflip.wait_successor(old);
        psflip.wait_gone(old);
    }
    psflip.program().close_stdin();
    assert_eq!(psflip.wait_exit().code(), Some(143), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}
