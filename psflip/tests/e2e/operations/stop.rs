//! `psflip stop`.

use testkit::{Sandbox, Signal, Stream, psflip_bin};

use super::{client, ended, run, start_at_once};
use crate::service::{AT_ONCE, Draining, flip_to_logger, psflip};

#[test]
fn stop_returns_when_the_service_has_stopped() {
    // Contract: S5
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    psflip.wait_for_line(Stream::Stdout, "name=gen1"); // from now on it exits cleanly on SIGTERM
    let (active, child) = (psflip.active(), psflip.child());
    let (status, stdout, stderr) = run(&sandbox, &["stop"]);
    assert!(status.success(), "{status}\n{stderr}");
    assert!(
        stdout.contains(&format!("the child (pid {}) was sent the stop signal; it has 10.0 s", child.pid())),
        "{stdout}"
    );
    assert!(stdout.contains("stopped: exit code 0\n"), "{stdout}");
    assert!(!child.is_alive());
    psflip.wait_gone(active);
    psflip.wait_exit();
    sandbox.assert_no_process_left();
}

#[test]
fn stop_relays_the_exit_status_of_the_child() {
    // Contract: C5
    for (script, code) in [("trap 'exit 7' TERM", 7), ("trap 'kill -KILL $$' TERM", 137), (":", 0)] {
        let sandbox = Sandbox::new();
        let text = format!("{script}; echo ready; while :; do read line; done < fifo");
        assert!(sandbox.command(["mkfifo", "fifo"]).start().wait_exit().success());
        let keep_open =
            std::fs::OpenOptions::new().read(true).write(true).open(sandbox.path("fifo")).unwrap();
        let psflip = psflip(&sandbox, &["/bin/sh", "-c", &text], AT_ONCE).start().wait_ready();
        psflip.wait_for_line(Stream::Stdout, "ready");
        psflip.wait_child_sleeps();
        let (status, stdout, stderr) = run(&sandbox, &["stop"]);
        assert_eq!(status.code(), Some(code), "{script}\n{stdout}{stderr}");
        psflip.wait_exit();
        drop(keep_open);
    }
}

#[test]
fn a_child_that_ignores_the_stop_keeps_running() {
    // Contract: S5
    let sandbox = Sandbox::new();
    let config = format!("{AT_ONCE}[shutdown]\ntimeout = \"50ms\"\n");
    let psflip = psflip(&sandbox, &["ignore-sigterm"], &config).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready");
    let child = psflip.child();
    let (status, _, stderr) = run(&sandbox, &["stop"]);
    assert_eq!(status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains(&format!("the child (pid {}) has not exited in time and keeps running", child.pid())),
        "{stderr}"
    );
    assert!(child.is_alive());
    psflip.signal(Signal::SIGKILL);
    psflip.wait_exit();
}

#[test]
fn stop_reports_that_it_waits_for_a_draining_generation() {
    // Contract: F11
    for on_a_terminal in [false, true] {
        let sandbox = Sandbox::new();
        let stays = ["ignore-sigterm", "--exit-on", "USR2"];
        let Draining { psflip, old, new, old_child } =
            flip_to_logger(&sandbox, &stays, "[shutdown]\ntimeout = \"1h\"\n", "");
        let said = format!("the child has exited; waiting for generation 1 (pid {old}), which still drains");
        if on_a_terminal {
            let client = sandbox.command([psflip_bin()]).args(["stop"]).pty().env("TERM", "xterm").start();
            client.output().wait(Stream::Pty, &said);
            client.output().wait(Stream::Pty, "\x1b[2Kwaiting for the old generation, which still drains (");
            old_child.signal(Signal::SIGUSR2).unwrap();
            assert!(client.wait_exit().success());
        } else {
            let client = client(&sandbox, &["stop"]);
            client.output().wait(Stream::Stdout, &said);
            old_child.signal(Signal::SIGUSR2).unwrap();
            let (status, stdout, stderr) = ended(&client);
            assert!(status.success() && stdout.ends_with("stopped: exit code 0\n"), "{stdout}{stderr}");
        }
        psflip.wait_gone(new);
        psflip.wait_exit();
        sandbox.assert_no_process_left();
    }
}
