//! Where the socket is: made, moved, replaced and removed.

use testkit::client::control::{Asking, status};
use testkit::{Deadline, Sandbox, Signal, Stream, wait_until};

use crate::service::{AT_ONCE, configure, psflip, stop};

#[test]
fn an_upgrade_can_move_the_socket() {
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let old = psflip.active();
    let (first, second) = (psflip.control_path(), sandbox.path("other.sock"));
    let rest = format!("{AT_ONCE}[control]\nsocket = \"{}\"\n", second.display());
    configure(&sandbox, &["signal-logger"], &rest);
    Asking::ask(&first, r#"{"psflip":1,"request":"upgrade"}"#).wait_event("drained");
    psflip.wait_gone(old);
    assert_eq!(status(&second)["generation"], 2);
    psflip.flip();
    assert_eq!(status(&second)["generation"], 3);
    assert!(!first.exists(), "the socket of generation 1 is left");
    stop(&psflip);
    assert!(!second.exists(), "the socket is left");
}

#[test]
fn a_failed_upgrade_that_wanted_to_move_the_socket_leaves_nothing() {
    // Contract: U8
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let other = sandbox.path("other.sock");
    configure(&sandbox, &["exit-with", "3"], &format!("[control]\nsocket = \"{}\"\n", other.display()));
    Asking::ask(&psflip.control_path(), r#"{"psflip":1,"request":"upgrade"}"#).wait_event("failed");
    assert!(!other.exists(), "the socket of the failed generation is left");
    assert_eq!(status(&psflip.control_path())["generation"], 1);
    stop(&psflip);
}

#[test]
fn an_upgrade_can_do_without_a_socket_and_come_back_to_one() {
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let old = psflip.active();
    configure(&sandbox, &["signal-logger"], &format!("{AT_ONCE}[control]\nsocket = false\n"));
    psflip.flip();
    psflip.wait_gone(old);
    // By the new generation, once it has seen that end, too.
    wait_until(Deadline::default(), "the socket to be removed", || {
        (!psflip.control_path().exists()).then_some(())
    });
    configure(&sandbox, &["signal-logger"], AT_ONCE);
    psflip.flip();
    assert_eq!(status(&psflip.control_path())["generation"], 3);
    stop(&psflip);
}

#[test]
fn what_a_killed_psflip_left_is_replaced() {
    // Contract: C7
    let sandbox = Sandbox::new();
    let first = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    assert!(first.control_path().exists(), "nobody could remove it");
    let second = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    assert_eq!(status(&second.control_path())["pid"], second.active_pid());
    stop(&second);
}

#[test]
fn a_socket_that_is_asked_for_and_can_not_be_is_a_failure() {
    // Contract: C6
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[control]\nsocket = \"no/such/directory/x.sock\"\n");
    let psflip = psflip(&sandbox, &["signal-logger"], &rest).start();
    assert_eq!(psflip.wait_exit().code(), Some(125));
    let line = psflip.wait_for_line(Stream::Stderr, "can't listen on `unix://no/such/directory/x.sock`");
    assert!(line.text.contains("No such file or directory"), "{line}");
}

#[test]
fn a_socket_that_nobody_asked_for_and_can_not_be_is_a_warning() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("psflip.pid.sock")).unwrap();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let line = psflip.wait_for_line(Stream::Stderr, "going on without a control socket");
    assert!(line.text.contains("it is no socket"), "{line}");
    psflip.flip();
    stop(&psflip);
}

#[test]
fn the_child_does_not_get_the_socket() {
    // Contract: C3
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.flip();
    let open = psflip.child().open_fds().unwrap();
    let sockets: Vec<_> =
        open.iter().filter(|(number, target)| **number > 2 && target.contains("socket")).collect();
    assert!(sockets.is_empty(), "{sockets:?}");
    stop(&psflip);
}
