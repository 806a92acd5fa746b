//! The pidfile among other programs: files that are no pidfile, locks that any process can take, and programs
//! that remove, replace or write the pidfile.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;

use testkit::client::control::{Asking, status};
use testkit::{Deadline, Psflip, Sandbox, Signal, Stream, cmd_line, psflip_bin, wait_until};

use crate::service::{AT_ONCE, psflip, script, stop};

/// A second psflip with the configuration of the first is refused.
#[track_caller]
fn assert_second_is_refused(sandbox: &Sandbox, first: u32) {
    let second = sandbox.psflip().config_file("psflip.toml").start();
    assert_eq!(second.wait_exit().code(), Some(125), "{}", sandbox.report());
    second.wait_for_line(Stream::Stderr, &format!("(pid {first})"));
}

#[track_caller]
fn assert_named(sandbox: &Sandbox, psflip: &Psflip, pid: u32) {
    assert_eq!(sandbox.read("psflip.pid"), format!("{pid}\n"), "{}", psflip.log());
}

#[test]
fn files_other_than_pidfiles_are_refused_and_never_touched() {
    // Contract: P4
    let sandbox = Sandbox::new();
    let program = script(&sandbox, "server", "exec sleep 1000");
    let cmd = cmd_line([program.to_str().unwrap()]);
    sandbox.write("data", "12\n13\n");
    fs::copy(&program, sandbox.path("linked")).unwrap();
    fs::create_dir(sandbox.path("config.d")).unwrap();
    for (name, target) in
        [("one.toml", "data"), ("two.toml", "linked"), ("three.toml", "config.d/../three.toml.real")]
    {
        if name == "three.toml" {
            // The configuration file itself, under a second name. Only the file's identity reveals it.
            std::os::unix::fs::symlink("three.toml.real", sandbox.path("three.toml")).unwrap();
            sandbox.write("three.toml.real", format!("{cmd}pidfile = \"{target}\"\n{AT_ONCE}"));
        } else {
            sandbox.write(name, format!("{cmd}pidfile = \"{target}\"\n{AT_ONCE}"));
        }
        let before = sandbox.read(target);
        let psflip = sandbox.psflip().config_file(name).no_pidfile().start();
        assert_eq!(psflip.wait_exit().code(), Some(125), "{name}: {}", sandbox.report());
        let line = psflip.wait_for_line(Stream::Stderr, "no process ID").text;
        assert!(line.contains(target) && line.contains("set `pidfile` to another path"), "{line}");
        assert_eq!(sandbox.read(target), before);
    }
    sandbox.assert_no_process_left();
}

#[test]
fn paths_with_another_use_in_the_configuration_are_refused() {
    // Contract: P4, X1
    let sandbox = Sandbox::new();
    for path in ["app.toml", "./app.toml", "x/../app.toml"] {
        let text = format!("cmd = [\"./server\"]\npidfile = \"{path}\"\n");
        sandbox.write("app.toml", &text);
        for command in ["check", "run"] {
            let program = sandbox.command([psflip_bin()]).args([command, "-c", "app.toml"]).start();
            assert_eq!(program.wait_exit().code(), Some(78), "{}", sandbox.report());
            let said = program.stderr();
            assert!(
                said.contains(&format!("app.toml:2:11: the pidfile `{path}` is also the configuration")),
                "{said}"
            );
        }
        assert_eq!(sandbox.read("app.toml"), text);
    }
}

#[test]
fn a_new_pidfile_path_with_foreign_data_fails_the_upgrade() {
    // Contract: P4, U8
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    sandbox.write("data", "precious");
    let config = sandbox.read("psflip.toml").replace("psflip.pid", "data");
    sandbox.write("psflip.toml", config);
    let failed =
        Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"upgrade"}"#).wait_event("failed");
    assert!(failed["reason"].as_str().unwrap().contains("no process ID"), "{failed}");
    assert_eq!(sandbox.read("data"), "precious");
    assert_named(&sandbox, &psflip, psflip.first_pid());
    stop(&psflip);
}

#[test]
fn a_reader_that_locks_the_pidfile_does_not_prevent_a_start() {
    // Contract: P3
    let sandbox = Sandbox::new();
    let first = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let hold = "exec 3<psflip.pid; echo opened; flock -s 3; echo locked; exec sleep 1000";
    let stranger = sandbox.command(["sh", "-c", hold]).start();
    stranger.output().wait(Stream::Stdout, "opened");
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    stranger.output().wait(Stream::Stdout, "locked");
    let second = psflip(&sandbox, &["signal-logger"], AT_ONCE).start();
    wait_until(Deadline::default(), "the new pid", || {
        (sandbox.read("psflip.pid") == format!("{}\n", second.first_pid())).then_some(())
    });
    second.flip();
    stop(&second);
}

#[test]
fn a_removed_pidfile_is_restored_and_still_excludes_a_second_psflip() {
    // Contract: P1, P3
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let pid = psflip.first_pid();
    // Answered after the check of the pidfile at the promotion.
    assert_eq!(status(&psflip.control_path())["pid"], pid);
    fs::remove_file(psflip.pidfile_path()).unwrap();
    assert_second_is_refused(&sandbox, pid);
    assert!(!psflip.pidfile_path().exists(), "psflip has not noticed that");
    assert_eq!(status(&psflip.control_path())["pid"], pid);
    assert_named(&sandbox, &psflip, pid);
    psflip.wait_for_line(Stream::Stderr, "another process removed the pidfile");
    // An upgrade checks the pidfile, too, and also the socket.
    let old = psflip.active();
    fs::remove_file(psflip.pidfile_path()).unwrap();
    fs::remove_file(psflip.control_path()).unwrap();
    old.signal(Signal::SIGHUP).unwrap();
    psflip.wait_for_line(Stream::Stderr, "another process removed the control socket");
    psflip.wait_gone(old);
    assert_eq!(status(&psflip.control_path())["generation"], 2);
    assert_second_is_refused(&sandbox, psflip.active_pid());
    stop(&psflip);
    assert!(!psflip.pidfile_path().exists() && !psflip.control_path().exists());
}

#[test]
fn in_a_world_writable_directory_removed_files_are_restored_at_once() {
    // Contract: P1
    let sandbox = Sandbox::new();
    let folder = sandbox.path("tmp");
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).unwrap();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).pidfile("tmp/psflip.pid").start().wait_ready();
    for generation in 1..3 {
        let pid = psflip.active_pid();
        // Answered after the check of the pidfile at the promotion.
        assert_eq!(status(&psflip.control_path())["pid"], pid);
        fs::remove_file(psflip.pidfile_path()).unwrap();
        fs::remove_file(folder.join("psflip.pid.sock")).unwrap();
        wait_until(Deadline::default(), "pidfile and socket to be back", || {
            // The socket's file exists a moment before the socket listens.
            let connected = UnixStream::connect(folder.join("psflip.pid.sock")).ok();
            connected.and(psflip.pidfile_path().exists().then_some(()))
        });
        assert_eq!(sandbox.read("tmp/psflip.pid"), format!("{pid}\n"));
        assert_eq!(status(&psflip.control_path())["generation"], generation);
        psflip.flip();
    }
    stop(&psflip);
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_pidfile_overwritten_by_others_is_restored_with_a_warning() {
    // Contract: P1, P2
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let pid = psflip.first_pid();
    sandbox.write("psflip.pid", "1\n");
    assert_eq!(status(&psflip.control_path())["pid"], pid);
    let line = psflip.wait_for_line(Stream::Stderr, "another process changed the pidfile").text;
    assert!(line.contains("WARN") && line.contains("pid=1"), "{line}");
    assert_named(&sandbox, &psflip, pid);
    stop(&psflip);
    assert!(!psflip.pidfile_path().exists());
}

#[test]
fn a_pidfile_replaced_by_data_is_logged_once_and_fails_upgrades() {
    // Contract: P2, P4, U8
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    sandbox.write("psflip.pid", "precious data");
    for _ in 0..3 {
        assert!(status(&psflip.control_path())["pid"].is_u64());
    }
    let failed =
        Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"upgrade"}"#).wait_event("failed");
    assert!(failed["reason"].as_str().unwrap().contains("no process ID"), "{failed}");
    let told = psflip.log().matches("the pidfile does not name this psflip any more").count();
    assert_eq!(told, 1, "{}", psflip.log());
    psflip.program().signal(Signal::SIGTERM);
    psflip.wait_exit();
    assert_eq!(sandbox.read("psflip.pid"), "precious data");
}

#[test]
fn a_pidfile_that_the_child_writes_or_removes_is_restored() {
    // Contract: P1
    let sandbox = Sandbox::new();
    // Healthy once it has written the file: afterwards only the old child changes it.
    let child = "echo $$ >psflip.pid; trap 'rm -f psflip.pid; exit 0' TERM; : >up-$PSFLIP_GENERATION; echo started; while :; do sleep 1000 & wait $!; done";
    let check = "[healthcheck.command]\ncmd = [\"sh\", \"-c\", \"grep -q '^ready$' go && test -e up-$PSFLIP_GENERATION\"]\ninterval = \"10ms\"\n";
    let psflip = sandbox.psflip().cmd(["sh", "-c", child]).config(check).start();
    psflip.wait_for_line(Stream::Stdout, "started");
    sandbox.write("go", "ready\n");
    let line = psflip.wait_for_line(Stream::Stderr, "the child writes its own process ID").text;
    assert!(line.contains("WARN"), "{line}");
    wait_until(Deadline::default(), "the pidfile to name psflip", || {
        (sandbox.read("psflip.pid") == format!("{}\n", psflip.first_pid())).then_some(())
    });
    Asking::ask(&sandbox.path("psflip.pid.sock"), r#"{"psflip":1,"request":"upgrade"}"#)
        .wait_event("drained");
    // The old child has removed the pidfile, which was the new generation's by then.
    let active = wait_until(Deadline::default(), "the pidfile to name the new psflip", || {
        let pid: u32 = fs::read_to_string(psflip.pidfile_path()).ok()?.trim().parse().ok()?;
        (status(&sandbox.path("psflip.pid.sock"))["pid"] == pid).then_some(pid)
    });
    assert_ne!(active, psflip.first_pid());
    psflip.wait_for_line(Stream::Stderr, "another process removed the pidfile");
    psflip.active().signal(Signal::SIGTERM).unwrap();
    wait_until(Deadline::default(), "all processes to exit", || sandbox.processes().is_empty().then_some(()));
}
