//! The service stops although nobody requested it: what the log and `psflip status` report.

use serde_json::Value;
use testkit::{Sandbox, Signal, Stream};

use super::{run, start_at_once};
use crate::service::{AT_ONCE, configure, kill, psflip, stop};

/// The lines of psflip's log at this level.
fn lines(log: &str, level: &str) -> Vec<String> {
    let own = log.lines().filter(|line| line.contains("psflip{generation="));
    own.filter(|line| line.split_whitespace().nth(1) == Some(level)).map(str::to_owned).collect()
}

/// A named pipe on which a child waits.
fn gate(sandbox: &Sandbox) {
    assert!(sandbox.command(["mkfifo", "gate"]).start().wait_exit().success());
}

/// Lets the child go on. Blocks until the child reads.
fn open_gate(sandbox: &Sandbox) {
    std::fs::write(sandbox.path("gate"), "\n").unwrap();
}

#[test]
fn a_crash_of_the_child_is_logged_as_an_error_and_kept_for_status() {
    // Contract: C5, L1
    for (how, end, code) in [
        ("exit 3", "exit code 3", Some(3)),
        ("kill -SEGV $$", "SIGSEGV", None),
        ("exit 0", "exit code 0", Some(0)),
    ] {
        let sandbox = Sandbox::new();
        let script = format!("read line < gate; {how}");
        gate(&sandbox);
        let psflip = psflip(&sandbox, &["/bin/sh", "-c", &script], &format!("quiet = true\n{AT_ONCE}"));
        let psflip = psflip.start().wait_ready();
        let child = psflip.child();
        open_gate(&sandbox);
        let status = psflip.wait_exit();
        assert_eq!(status.code(), code);
        psflip.output().wait_closed();
        let log = psflip.log();
        let errors = lines(&log, "ERROR");
        let expected = format!(
            "the service is down: the child terminated without a stop request child={child} end={end}",
            child = child.pid()
        );
        assert!(errors.iter().any(|line| line.contains(&expected)), "`{expected}` is missing in\n{log}");
        let (status, stdout, stderr) = run(&sandbox, &["status"]);
        assert_eq!(status.code(), Some(125), "{stderr}");
        for part in [
            "down      since ",
            &format!("the child terminated without a stop request: {end}"),
            "generation 1, pid ",
        ] {
            assert!(stdout.contains(part), "`{part}` is missing in\n{stdout}\n{stderr}");
        }
        assert!(stderr.contains("psflip is not running"), "{stderr}");
        let (_, stdout, _) = run(&sandbox, &["status", "--json"]);
        let object: Value = serde_json::from_str(&stdout).unwrap();
        assert_eq!((&object["state"], &object["last_exit"]["generation"]), (&"down".into(), &1.into()));
    }
}

#[test]
fn after_a_crash_status_shows_the_last_upgrade_and_the_last_lines_of_standard_error() {
    // Contract: L1
    for redirected in [false, true] {
        let sandbox = Sandbox::new();
        gate(&sandbox);
        sandbox.write("err.log", "of an earlier child\n");
        let output = if redirected { "[output]\nstderr = \"append:err.log\"\n" } else { "" };
        let script = "read line < gate; echo no space left >&2; exit 3";
        let config = format!("{output}{AT_ONCE}");
        let server = psflip(&sandbox, &["/bin/sh", "-c", script], &config);
        let log = std::fs::File::options().append(true).open(sandbox.path("err.log")).unwrap();
        let psflip = if redirected { server } else { server.stderr(log) }.start().wait_ready();
        let broken = "[healthcheck.alive]\ntimeout = \"1m\"\n";
        configure(&sandbox, &["crash-on-init", "--code", "4"], &format!("{output}{broken}"));
        assert_eq!(run(&sandbox, &["upgrade"]).0.code(), Some(1));
        open_gate(&sandbox);
        assert_eq!(psflip.wait_exit().code(), Some(3));
        let (_, stdout, stderr) = run(&sandbox, &["status"]);
        let place = format!("stderr    {}", sandbox.path("err.log").display());
        for part in
            ["exit code 3", &place, "1 -> 2    FAILED after ", "standard error\n", "  no space left\n"]
        {
            assert!(stdout.contains(part), "`{part}` is missing in\n{stdout}{stderr}");
        }
        assert!(!stdout.contains("an earlier child") && !stdout.contains("ERROR"), "{stdout}");
        let (_, stdout, _) = run(&sandbox, &["status", "--json"]);
        let object: Value = serde_json::from_str(&stdout).unwrap();
        let exit = &object["last_exit"];
        assert_eq!(exit["upgrade"]["result"], "failed", "{stdout}");
        assert!(exit["output"].as_str().unwrap().ends_with("no space left"), "{stdout}");
    }
}

#[test]
fn after_a_crash_status_says_where_lines_went_that_psflip_does_not_see() {
    // Contract: L1
    let sandbox = Sandbox::new();
    let server = psflip(&sandbox, &["/bin/sh", "-c", "exec sleep 600"], AT_ONCE).start().wait_ready();
    kill(server.child());
    server.wait_exit();
    let (_, stdout, _) = run(&sandbox, &["status"]);
    assert!(stdout.contains("stderr    a pipe that another process reads\n"), "{stdout}");
    assert!(!stdout.contains("last lines") && !stdout.contains("last upgrade"), "{stdout}");
}

#[test]
fn status_keeps_a_failed_start_until_a_success_and_ignores_a_stop() {
    // Contract: C6, L1
    let sandbox = Sandbox::new();
    let first =
        psflip(&sandbox, &["crash-on-init", "--code", "4"], "[healthcheck.alive]\ntimeout = \"1m\"\n")
            .start();
    assert_eq!(first.wait_exit().code(), Some(4));
    let (_, stdout, _) = run(&sandbox, &["status"]);
    assert!(stdout.contains("the child exited before it was healthy: exit code 4"), "{stdout}");
    let second = start_at_once(&sandbox);
    let (status, stdout, _) = run(&sandbox, &["status"]);
    assert!(status.success() && stdout.contains("serving"), "{stdout}");
    assert!(!sandbox.path("psflip.pid.last").exists());
    second.flip();
    stop(&second);
    second.output().wait_closed();
    assert_eq!(lines(&second.log(), "ERROR"), [""; 0]);
    assert!(!sandbox.path("psflip.pid.last").exists());
    let (_, stdout, stderr) = run(&sandbox, &["status"]);
    assert!(stdout.is_empty() && stderr.contains("there is no control socket"), "{stdout}{stderr}");
}

#[test]
fn a_foreign_file_beside_the_pidfile_is_not_touched() {
    let sandbox = Sandbox::new();
    sandbox.write("psflip.pid.last", "mine");
    let psflip = psflip(&sandbox, &["/bin/sh", "-c", "exec sleep 600"], AT_ONCE).start().wait_ready();
    kill(psflip.child());
    psflip.wait_exit();
    assert_eq!(sandbox.read("psflip.pid.last"), "mine");
    let (status, stdout, _) = run(&sandbox, &["status"]);
    assert_eq!((status.code(), stdout.as_str()), (Some(125), ""));
}

#[test]
fn a_death_by_a_forwarded_signal_is_not_an_outage() {
    // Contract: S1, L1
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["/bin/sleep", "600"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stderr, "healthy, active");
    psflip.signal(Signal::SIGUSR1);
    psflip.wait_exit();
    psflip.output().wait_closed();
    let log = psflip.log();
    assert_eq!(lines(&log, "ERROR"), [""; 0], "{log}");
    assert!(log.contains("the child was terminated by a signal that psflip forwarded to it"), "{log}");
}

#[test]
fn a_child_that_daemonizes_is_logged_with_advice() {
    // Contract: C6, C8, L2
    let daemon = "setsid sh -c 'exec sleep 600' & exit 0";
    let sandbox = Sandbox::new();
    let early =
        psflip(&sandbox, &["/bin/sh", "-c", daemon], "[healthcheck.alive]\ntimeout = \"1m\"\n").start();
    assert_eq!(early.wait_exit().code(), Some(1));
    early.output().wait_closed();
    let log = early.log();
    let part = "the child exited before it was healthy: exit code 0; `sh` put itself into the background, where psflip can't follow it; what it started there (";
    assert!(log.contains(part), "{log}");
    assert!(log.contains("run it in the foreground (its option for that, such as `--foreground` or `--no-daemon`), or under `psflip watch` if it can't"), "{log}");
    sandbox.assert_no_process_left();

    let sandbox = Sandbox::new();
    gate(&sandbox);
    let daemon = "setsid sh -c 'exec sleep 600' & read line < gate; exit 0";
    let late = psflip(&sandbox, &["/bin/sh", "-c", daemon], AT_ONCE).start().wait_ready();
    open_gate(&sandbox);
    late.wait_exit();
    late.output().wait_closed();
    let log = late.log();
    assert!(
        lines(&log, "ERROR")
            .iter()
            .any(|line| line.contains("the service is down") && line.contains("into the background")),
        "{log}"
    );
    sandbox.assert_no_process_left();
}

#[test]
fn a_child_that_is_not_healthy_yet_is_logged_repeatedly() {
    // Contract: H4, L3
    let sandbox = Sandbox::new();
    let check =
        "[healthcheck.command]\ncmd = [\"sh\", \"-c\", \"echo not yet; exit 1\"]\ninterval = \"10ms\"\n";
    let psflip = psflip(&sandbox, &["/bin/sleep", "600"], check).start();
    let line = psflip.output().wait(Stream::Stderr, "not healthy yet");
    assert!(
        line.text.contains(" WARN ")
            && line.text.contains("exited with code 1: not yet")
            && line.text.contains("left="),
        "{line}"
    );
    psflip.program().signal(Signal::SIGTERM);
    psflip.wait_exit();
}

#[test]
fn outage_warnings_are_logged_at_start_and_at_configuration_changes() {
    // Contract: L4
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["http-server", "--unix", "app.sock"], AT_ONCE).start().wait_ready();
    let nobody = "a version that does not serve would be promoted";
    let line = psflip.output().wait(Stream::Stderr, nobody);
    assert!(line.text.contains(" WARN ") && line.text.contains("[healthcheck.http]"), "{line}");
    let mark = psflip.output().mark();
    let (status, stdout, _) = run(&sandbox, &["upgrade"]);
    assert!(status.success() && !stdout.contains("warning"), "{stdout}");
    assert!(
        !psflip.output().lines()[mark..].iter().any(|line| line.text.contains(nobody)),
        "{}",
        psflip.log()
    );
    configure(
        &sandbox,
        &["http-server", "--unix", "app.sock"],
        &format!("{AT_ONCE}[log]\nlevel = \"debug\"\n"),
    );
    let (status, stdout, _) = run(&sandbox, &["upgrade"]);
    assert!(status.success() && stdout.contains("warning: ") && stdout.contains(nobody), "{stdout}");
    stop(&psflip);
}

#[test]
fn unused_inherited_sockets_are_a_warning() {
    // Contract: C3, L4
    let sandbox = Sandbox::new();
    let (socket, _) = std::os::unix::net::UnixStream::pair().unwrap();
    let run = "export LISTEN_FDS=1 LISTEN_FDNAMES=web; LISTEN_PID=$$ exec \"$@\"";
    let psflip = psflip(&sandbox, &["/bin/sleep", "600"], AT_ONCE)
        .wrapper(["sh", "-c", run, "sh"])
        .inherit_fd(socket, 3)
        .start()
        .wait_ready();
    let line = psflip.output().wait(Stream::Stderr, "has no [[listen]]");
    assert!(line.text.contains(" WARN ") && line.text.contains("sockets=\"web\""), "{line}");
    stop(&psflip);
}

#[test]
fn a_start_directory_behind_a_symlink_is_a_warning() {
    // Contract: U1, L4
    let sandbox = Sandbox::new();
    std::fs::create_dir_all(sandbox.path("releases/1")).unwrap();
    std::os::unix::fs::symlink("releases/1", sandbox.path("current")).unwrap();
    let pidfile = sandbox.path("app.pid");
    sandbox.write(
        "releases/1/app.toml",
        format!("cmd = [\"/bin/sleep\", \"600\"]\npidfile = \"{}\"\n{AT_ONCE}", pidfile.display()),
    );
    let exe = testkit::psflip_bin();
    let text = "cd \"$1\" && exec \"$2\" -c app.toml";
    let link = sandbox.path("current");
    let psflip =
        sandbox.command(["sh", "-c", text, "sh", link.to_str().unwrap(), exe.to_str().unwrap()]).start();
    let line = psflip.output().wait(Stream::Stderr, "upgrades will not follow the link");
    assert!(line.text.contains(" WARN ") && line.text.contains("releases/1"), "{line}");
    psflip.output().wait(Stream::Stderr, "healthy, active");
    std::fs::remove_dir_all(sandbox.path("releases/1")).unwrap();
    let (status, _, stderr) = run(&sandbox, &["upgrade", "--socket", "app.pid.sock"]);
    assert_eq!(status.code(), Some(1));
    assert!(stderr.contains("releases/1`, in which psflip was started, was removed"), "{stderr}");
    let (status, ..) = run(&sandbox, &["stop", "--socket", "app.pid.sock"]);
    assert!(status.success());
    psflip.wait_exit();
}

#[test]
fn a_port_chosen_by_the_kernel_is_reported_everywhere() {
    let sandbox = Sandbox::new();
    let rest = format!(
        "{AT_ONCE}[[listen]]\naddress = \"tcp://127.0.0.1:0\"\n[hooks]\npromoted = [\"sh\", \"-c\", \"echo $PSFLIP_LISTEN > hooked.new; mv hooked.new hooked\"]\n"
    );
    let psflip = psflip(&sandbox, &["/bin/sh", "-c", "exec sleep 600"], &rest).start().wait_ready();
    let line = psflip.output().wait(Stream::Stderr, "listening on a port that the kernel chose");
    let address = line.text.split("address=\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    assert!(address.starts_with("tcp://127.0.0.1:") && !address.ends_with(":0"), "{address}");
    let (_, stdout, _) = run(&sandbox, &["status"]);
    assert!(stdout.contains(&format!("listen    {address}")), "{stdout}");
    let (_, stdout, _) = run(&sandbox, &["status", "--json"]);
    let object: Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(object["listeners"][0]["address"], address.as_str());
    let hooked = testkit::wait_until(testkit::Deadline::default(), "the hook", || {
        std::fs::read_to_string(sandbox.path("hooked")).ok()
    });
    assert_eq!(hooked.trim(), address);
    psflip.flip();
    let (_, stdout, _) = run(&sandbox, &["status"]);
    assert!(stdout.contains(&address), "the port stays over upgrades: {stdout}");
    stop(&psflip);
}

#[test]
fn values_from_the_environment_are_named_but_not_shown() {
    // Contract: H4, L5
    let sandbox = Sandbox::new();
    let secret = "hunter2-the-secret";
    let check = "[healthcheck.http]\nurl = \"unix://app.sock:/up?token={{ env('TOKEN') }}\"\nstatus = \"299\"\n[upgrade]\ntimeout = \"2s\"\n";
    let psflip = psflip(&sandbox, &["http-server", "--unix", "app.sock"], check).env("TOKEN", secret).start();
    assert_eq!(psflip.wait_exit().code(), Some(124));
    psflip.output().wait_closed();
    let (log, (_, stdout, stderr)) = (psflip.log(), run(&sandbox, &["status"]));
    for text in [&log, &stdout, &stderr] {
        assert!(!text.contains(secret), "{text}");
    }
    assert!(log.contains("/up?token={{ env('TOKEN') }}"), "{log}");
    sandbox.write("bad.toml", "cmd = [\"x\"]\n[upgrade]\ntimeout = \"{{ env('TOKEN') }}\"\n");
    let checked = sandbox
        .command([testkit::psflip_bin()])
        .args(["check", "-c", "bad.toml"])
        .env("TOKEN", secret)
        .start();
    checked.wait_exit();
    checked.output().wait_closed();
    assert!(
        !checked.stderr().contains(secret) && checked.stderr().contains("{{ env('TOKEN') }}"),
        "{}",
        checked.stderr()
    );
}

#[test]
fn deceptive_unicode_characters_are_escaped() {
    // Contract: L6
    let sandbox = Sandbox::new();
    let odd = "x\u{202e}y\u{200b}z";
    let psflip = psflip(&sandbox, &["/bin/sh", "-c", "exec sleep 600", odd], AT_ONCE).start().wait_ready();
    let (_, stdout, _) = run(&sandbox, &["status"]);
    assert!(stdout.contains("x\\u{202e}y\\u{200b}z") && !stdout.contains('\u{202e}'), "{stdout}");
    stop(&psflip);
    let path = format!("no/{odd}.toml");
    let (_, _, stderr) = run(&sandbox, &["check", "-c", &path]);
    assert!(stderr.contains("\\u{202e}") && !stderr.contains('\u{202e}'), "{stderr}");
}
