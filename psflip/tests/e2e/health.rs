//! Health checks of real children: when a generation is promoted, and what the log says if it isn't (contract
//! H1 to H4, U9).

pub(crate) mod docker;
mod fcgi;
pub(crate) mod notify;
mod settle;

use std::fs;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use crate::traffic::ports::Reserved;
use testkit::{Deadline, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream, fixture, wait_until};

/// A short timeout, for tests in which it must expire.
const SOON: &str = "[upgrade]\ntimeout = \"1s\"\n";

/// A short timeout, but long enough for a server to start, so that its answer decides.
const SERVED: &str = "[upgrade]\ntimeout = \"4s\"\n";

fn child(sandbox: &Sandbox, argv: &[&str], health: &str) -> PsflipBuilder {
    let program = fixture(argv[0]);
    let argv = std::iter::once(program.to_str().unwrap()).chain(argv[1..].iter().copied());
    sandbox.psflip().cmd(argv).config(health)
}

/// Stops the service. A child may be healthy before it handles signals, so it exits with 0 or is terminated
/// by the signal.
#[track_caller]
fn stop(psflip: &Psflip) {
    let status = psflip.stop();
    assert!(status.success() || status.signal() == Some(15), "{status}\n{}", psflip.log());
}

/// psflip exits with 124, logs why the last probe failed, and never wrote a pidfile.
#[track_caller]
fn assert_not_healthy(sandbox: &Sandbox, psflip: &Psflip, last_probe: &str) {
    let status = psflip.wait_exit();
    assert_eq!(status.code(), Some(124), "{status}\n{}", sandbox.report());
    let line = psflip.wait_for_line(Stream::Stderr, "not healthy within").text;
    assert!(line.contains(last_probe), "`{last_probe}` is not in: {line}");
    assert_eq!(psflip.history().pids(), [0_u32; 0], "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn every_kind_is_healthy_when_the_child_is() {
    // Contract: H1, P1
    for (argv, health) in [
        (vec!["never-ready"], "[healthcheck.alive]\ntimeout = \"20ms\"\n"),
        (
            vec!["slow-start", "--for", "20ms", "--touch", "up"],
            "[healthcheck.command]\ncmd = [\"test\", \"-s\", \"up\"]\ninterval = \"5ms\"\n",
        ),
        (
            vec!["slow-start", "--for", "20ms", "--listen", "s"],
            "[healthcheck.unix]\npath = \"s\"\ninterval = \"5ms\"\n",
        ),
        (vec!["http-server", "--unix", "s"], "[healthcheck.unix]\npath = \"s\"\ninterval = \"5ms\"\n"),
        (
            vec!["http-server", "--unix", "s"],
            "[healthcheck.http]\nurl = \"unix:///DIR/s:/up\"\ninterval = \"5ms\"\n",
        ),
        (
            vec!["http-server", "--unix", "s"],
            "[healthcheck.http]\nurl = \"unix:///DIR/s:/status/404\"\nstatus = \"404\"\ninterval = \"5ms\"\n",
        ),
    ] {
        let sandbox = Sandbox::new();
        let dir = sandbox.dir().display().to_string();
        let health = health.replace("/DIR", &dir);
        let psflip = child(&sandbox, &argv, &health).start().wait_ready();
        // The file that the check waits for must exist at the promotion. The child's own message may come
        // later.
        let opened = ["s", "up"].iter().any(|name| sandbox.path(name).exists());
        assert!(opened || argv[0] == "never-ready", "promoted too early\n{}", sandbox.report());
        stop(&psflip);
    }
}

#[test]
fn every_kind_of_probe_reports_its_last_failure_at_the_timeout() {
    // Contract: H1, H4, C6, F4
    let never = ["never-ready"];
    let server = ["http-server", "--unix", "s", "--unhealthy-until-file", "no"];
    for (argv, health, last_probe) in [
        (
            &never[..],
            "command]\ncmd = [\"sh\", \"-c\", \"echo not today >&2; exit 3\"]",
            "exited with code 3: not today",
        ),
        (&never[..], "command]\ncmd = [\"no-such-program\"]", "no-such-program"),
        (&never[..], "command]\ncmd = [\"sh\", \"-c\", \"kill -9 $$\"]", "SIGKILL"),
        (&never[..], "unix]\npath = \"s\"", "No such file or directory"),
        (&server[..], "http]\nurl = \"unix:///DIR/s:/up\"", "503"),
        (&server[..], "http]\nurl = \"unix:///DIR/s:/\"\nstatus = \"201\"", "200"),
    ] {
        let sandbox = Sandbox::new();
        let dir = sandbox.dir().display().to_string();
        let soon = if argv == server { SERVED } else { SOON };
        let health = format!("[healthcheck.{health}\ninterval = \"5ms\"\n{soon}").replace("/DIR", &dir);
        let psflip = child(&sandbox, argv, &health).start();
        assert_not_healthy(&sandbox, &psflip, last_probe);
        assert!(psflip.log().contains("last probe: probe "), "{}", sandbox.report());
    }
}

#[test]
fn an_http_check_sends_required_headers_and_never_logs_them() {
    // Contract: H1, H4, U3
    let sandbox = Sandbox::new();
    let dir = sandbox.dir().display().to_string();
    let server = ["http-server", "--unix", "s", "--up-token", "s3cret"];
    let check = |headers: &str, rest: &str| {
        format!(
            "[healthcheck.http]\nurl = \"unix://{dir}/s:/up\"\nmethod = \"HEAD\"\nhost = \"app.example\"\n\
             interval = \"5ms\"\n{headers}{rest}[log]\nlevel = \"trace\"\n"
        )
    };
    let psflip = child(&sandbox, &server, &check("", SERVED)).start();
    assert_not_healthy(&sandbox, &psflip, "HTTP status 401, wanted 200-399");

    let token = "headers = { Authorization = \"Bearer {{ env('TOKEN') }}\" }\n";
    let psflip = child(&sandbox, &server, &check(token, "")).env("TOKEN", "s3cret").start().wait_ready();
    psflip.flip();
    stop(&psflip);
    assert!(!psflip.log().contains("s3cret"), "{}", psflip.log());
}

#[test]
fn tcp_and_http_find_a_child_on_its_port() {
    // Contract: H1, H4
    let sandbox = Sandbox::new();
    let reserved = Reserved::new();
    let (port, address) = (reserved.port(), reserved.address().to_string());
    let server = ["http-server", "--tcp", &address];
    for health in [
        format!("[healthcheck.tcp]\naddress = \"{address}\"\n"),
        format!("[healthcheck.tcp]\naddress = \"localhost:{port}\"\n"),
        format!("[healthcheck.http]\nurl = \"http://{address}/up\"\n"),
    ] {
        let psflip = child(&sandbox, &server, &format!("{health}interval = \"5ms\"\n")).start().wait_ready();
        stop(&psflip);
        let psflip =
            child(&sandbox, &["never-ready"], &format!("{health}interval = \"5ms\"\n{SOON}")).start();
        let status = psflip.wait_exit();
        assert_eq!(status.code(), Some(124), "{}", sandbox.report());
        let line = psflip.wait_for_line(Stream::Stderr, "not healthy within").text;
        assert!(line.contains(&format!("{port}: Connection refused")), "{line}");
    }
}

#[test]
fn a_probe_that_hangs_is_killed_with_its_tree_and_counts_as_failed() {
    // Contract: H2, H4
    let sandbox = Sandbox::new();
    let health = format!(
        "[healthcheck.command]\ncmd = [\"{}\", \"--pids\", \"pids\"]\ntimeout = \"2s\"\ninterval = \"1h\"\n[upgrade]\ntimeout = \"1h\"\n[log]\nlevel = \"debug\"\n",
        fixture("probe-hang").display()
    );
    let psflip = child(&sandbox, &["never-ready"], &health).start();
    let pids = wait_until(Deadline::default(), "the probe", || fs::read_to_string(sandbox.path("pids")).ok());
    let tree: Vec<_> = pids.lines().filter_map(|pid| Process::find(pid.parse().unwrap())).collect();
    for process in &tree {
        psflip.wait_gone(*process);
    }
    wait_until(Deadline::default(), "nothing but psflip, its keeper and its child", || {
        (sandbox.processes().len() == 3).then_some(())
    });
    assert_eq!(pids.lines().count(), 3);
    assert!(psflip.history().pids().is_empty(), "not healthy");
    psflip.program().signal(Signal::SIGTERM);
    assert_eq!(psflip.wait_exit().code(), Some(0), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn a_hung_probe_is_named_at_the_timeout_and_killed_with_psflip() {
    // Contract: H2, H4, C8
    let sandbox = Sandbox::new();
    let hang = fixture("probe-hang");
    let health = format!("[healthcheck.command]\ncmd = [\"{}\"]\ntimeout = \"50ms\"\n", hang.display());
    let psflip = child(&sandbox, &["never-ready"], &format!("{health}interval = \"1ms\"\n{SOON}")).start();
    assert_not_healthy(&sandbox, &psflip, "no answer within 50ms");
    // The health check's own timeout is longer than psflip's.
    let health = health.replace("50ms", "1h");
    let psflip = child(&sandbox, &["never-ready"], &format!("{health}{SOON}")).start();
    assert_not_healthy(&sandbox, &psflip, "the first probe had no answer yet");
}

#[test]
fn a_stop_while_a_probe_hangs_kills_the_probe_too() {
    // Contract: H2, S5
    let sandbox = Sandbox::new();
    let health = format!(
        "[healthcheck.command]\ncmd = [\"{}\", \"--pids\", \"pids\"]\ntimeout = \"1h\"\n[upgrade]\ntimeout = \"1h\"\n",
        fixture("probe-hang").display()
    );
    let psflip = child(&sandbox, &["never-ready"], &health).start();
    wait_until(Deadline::default(), "the probe", || sandbox.path("pids").exists().then_some(()));
    psflip.wait_for_line(Stream::Stdout, "starting");
    psflip.program().signal(Signal::SIGTERM);
    assert_eq!(psflip.wait_exit().code(), Some(0), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn a_command_gets_the_childs_pid_environment_and_directory() {
    // Contract: H1
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("work")).unwrap();
    let health = "workdir = \"work\"\n[env]\nCOLOUR = \"green\"\nHOME = false\n[healthcheck.command]\n\
        cmd = [\"sh\", \"-c\", \"echo $PSFLIP_CHILD_PID $COLOUR $PSFLIP_GENERATION $PSFLIP_SLOT ${HOME-none} $(pwd) > seen; test -t 0; cat\"]\n";
    let psflip = child(&sandbox, &["never-ready"], health).start().wait_ready();
    let work = sandbox.path("work").canonicalize().unwrap();
    let seen = sandbox.read("work/seen");
    assert_eq!(seen, format!("{} green 1 a none {}\n", psflip.child_pid(), work.display()));
    psflip.flip();
    let seen = sandbox.read("work/seen");
    assert_eq!(seen, format!("{} green 2 b none {}\n", psflip.child_pid(), work.display()));
    stop(&psflip);
}

#[test]
fn the_exit_of_the_child_stops_the_wait_at_once() {
    // Contract: H3, C6
    let forever = "timeout = \"1h\"\n";
    for health in [
        format!("[healthcheck.alive]\n{forever}"),
        format!("[healthcheck.command]\ncmd = [\"sleep\", \"1000\"]\n{forever}"),
        format!("[healthcheck.unix]\npath = \"s\"\ninterval = \"1h\"\n{forever}"),
        "[healthcheck.command]\ncmd = [\"true\"]\nafter = \"1h\"\n".to_owned(),
    ] {
        let sandbox = Sandbox::new();
        let health = format!("{health}[upgrade]\ntimeout = \"2h\"\n");
        let psflip = child(&sandbox, &["dies-later", "--on-file", "die", "--code", "7"], &health).start();
        psflip.wait_for_line(Stream::Stdout, "ready");
        sandbox.write("die", "");
        assert_eq!(psflip.wait_exit().code(), Some(7), "{}", sandbox.report());
        psflip.wait_for_line(Stream::Stderr, "the child exited before it was healthy: exit code 7");
        assert!(psflip.history().pids().is_empty());
        sandbox.assert_no_process_left();
    }
}

#[test]
fn the_first_probe_is_made_at_once() {
    // Contract: U9, H1
    for health in [
        "[healthcheck.command]\ncmd = [\"true\"]\ninterval = \"1h\"\n",
        "[healthcheck.alive]\ntimeout = \"0s\"\n",
    ] {
        let sandbox = Sandbox::new();
        let psflip = child(&sandbox, &["never-ready"], health).start().wait_ready();
        psflip.flip(); // also for a successor
        stop(&psflip);
    }
}

#[test]
fn a_child_is_healthy_after_the_configured_successes_in_a_row() {
    // Contract: H1
    let sandbox = Sandbox::new();
    // Every probe succeeds but the third: 1, 2, failure, 4, 5, 6.
    let probe = "echo x >> probes; n=$(wc -l < probes); test $n -ne 3";
    let health = format!(
        "[healthcheck.command]\ncmd = [\"sh\", \"-c\", \"{probe}\"]\nsuccesses = 3\ninterval = \"1ms\"\n"
    );
    let psflip = child(&sandbox, &["never-ready"], &health).start().wait_ready();
    assert_eq!(probes(&sandbox.path("probes")), 6, "{}", sandbox.report());
    stop(&psflip);
}

#[test]
fn no_probe_runs_early_or_between_two_intervals() {
    // Contract: H1
    let sandbox = Sandbox::new();
    let count = "[healthcheck.command]\ncmd = [\"sh\", \"-c\", \"echo x >> probes; false\"]\n";
    let psflip = child(&sandbox, &["never-ready"], &format!("{count}after = \"1h\"\n{SOON}")).start();
    assert_eq!(psflip.wait_exit().code(), Some(124), "{}", sandbox.report());
    assert!(!sandbox.path("probes").exists(), "it was probed before `after`\n{}", sandbox.report());
    let psflip = child(&sandbox, &["never-ready"], &format!("{count}interval = \"1h\"\n{SERVED}")).start();
    assert_eq!(psflip.wait_exit().code(), Some(124), "{}", sandbox.report());
    assert_eq!(probes(&sandbox.path("probes")), 1, "once, then after an hour\n{}", sandbox.report());
}

fn probes(file: &Path) -> usize {
    fs::read_to_string(file).unwrap_or_default().lines().count()
}

#[test]
fn a_probe_with_endless_output_does_not_block_or_fill_the_memory() {
    // Contract: H2, H4, X2
    let sandbox = Sandbox::new();
    let talk = "yes nonsense | head -c 20000000; echo > said; exit 9";
    let health = format!("[healthcheck.command]\ncmd = [\"sh\", \"-c\", \"{talk}\"]\ninterval = \"1h\"\n");
    let psflip = child(&sandbox, &["never-ready"], &health).start();
    psflip.wait_for_line(Stream::Stdout, "starting");
    let said = || sandbox.path("said").exists().then_some(());
    wait_until(Deadline::default(), "all of the probe's output to be read", said);
    let peak = psflip.program().first().status_field("VmHWM").unwrap();
    let kilobytes: u64 = peak.trim_end_matches(" kB").parse().unwrap();
    assert!(kilobytes < 64 * 1024, "{peak}");
    psflip.program().signal(Signal::SIGTERM);
    psflip.wait_exit();
}

#[test]
fn a_failed_probe_at_an_upgrade_is_logged_by_the_old_generation_too() {
    // Contract: H4, U8
    let sandbox = Sandbox::new();
    let health = format!(
        "[healthcheck.command]\ncmd = [\"sh\", \"-c\", \"cat state; test ! -e state\"]\ninterval = \"5ms\"\n{SOON}"
    );
    let psflip = child(&sandbox, &["never-ready"], &health).start().wait_ready();
    let before = psflip.child();
    sandbox.write("state", "the database is away\n");
    psflip.request_flip();
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade failed").text;
    assert!(line.contains("the database is away") && line.contains("the old child keeps running"), "{line}");
    assert_eq!(psflip.child(), before);
    fs::remove_file(sandbox.path("state")).unwrap();
    psflip.flip();
    stop(&psflip);
}
