//! The path of the socket: created, moved, replaced and removed.

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
fn an_upgrade_can_remove_the_socket_and_add_it_again() {
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let old = psflip.active();
    configure(&sandbox, &["signal-logger"], &format!("{AT_ONCE}[control]\nsocket = false\n"));
    psflip.flip();
    psflip.wait_gone(old);
    // The new generation removes the socket once it has seen the old one exit.
    wait_until(Deadline::default(), "the socket to be removed", || {
        (!psflip.control_path().exists()).then_some(())
    });
    configure(&sandbox, &["signal-logger"], AT_ONCE);
    psflip.flip();
    assert_eq!(status(&psflip.control_path())["generation"], 3);
    stop(&psflip);
}

#[test]
fn the_socket_file_of_a_killed_psflip_is_replaced() {
    // Contract: C7
    let sandbox = Sandbox::new();
    let first = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    assert!(first.control_path().exists(), "no process could remove it");
    let second = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    assert_eq!(status(&second.control_path())["pid"], second.active_pid());
    stop(&second);
}

#[test]
fn a_configured_socket_that_can_not_be_created_is_an_error() {
    // Contract: C6
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[control]\nsocket = \"no/such/directory/x.sock\"\n");
    let psflip = psflip(&sandbox, &["signal-logger"], &rest).start();
    assert_eq!(psflip.wait_exit().code(), Some(125));
    let line = psflip.wait_for_line(Stream::Stderr, "can't listen on `unix://no/such/directory/x.sock`");
    assert!(line.text.contains("No such file or directory"), "{line}");
}

#[test]
fn a_default_socket_that_can_not_be_created_is_a_warning() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("psflip.pid.sock")).unwrap();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let line = psflip.wait_for_line(Stream::Stderr, "going on without a control socket");
    assert!(line.text.contains("it is no socket"), "{line}");
    psflip.flip();
    stop(&psflip);
}

#[test]
fn a_pidfile_with_a_long_path_has_a_socket_too() {
    // Contract: O4
    let sandbox = Sandbox::new();
    let folder = sandbox.path("long".repeat(40));
    std::fs::create_dir(&folder).unwrap();
    let pidfile = folder.join("app.pid");
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).pidfile(&pidfile).start().wait_ready();
    for generation in 1..4 {
        let asked = sandbox.command([testkit::psflip_bin()]).args(["status", "--json"]).start();
        assert!(asked.wait_exit().success(), "{}", asked.stderr());
        assert!(asked.stdout().contains(&format!("\"generation\":{generation}")), "{}", asked.stdout());
        let asked = sandbox.command([testkit::psflip_bin()]).args(["upgrade"]).start();
        assert!(asked.wait_exit().success(), "{}", asked.stderr());
    }
    stop(&psflip);
    assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
}

#[test]
fn a_pidfile_name_too_long_for_a_socket_is_a_warning() {
    // Contract: O4
    let sandbox = Sandbox::new();
    let pidfile = sandbox.path("n".repeat(110));
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).pidfile(&pidfile).start().wait_ready();
    let line = psflip.wait_for_line(Stream::Stderr, "going on without a control socket").text;
    assert!(line.contains("WARN") && line.contains("107 bytes") && line.contains("[control]"), "{line}");
    let asked = sandbox.command([testkit::psflip_bin()]).args(["status"]).start();
    assert_eq!(asked.wait_exit().code(), Some(125));
    let said = asked.stderr();
    assert!(said.contains("107 bytes") && said.contains("[control]"), "{said}");
    psflip.flip();
    stop(&psflip);
}

#[test]
fn without_a_pidfile_the_socket_is_in_the_runtime_directory_of_the_service() {
    // Contract: O4
    let sandbox = Sandbox::new();
    let run = sandbox.path("run");
    std::fs::create_dir(&run).unwrap();
    let cmd = testkit::cmd_line(crate::service::program(&["signal-logger"]));
    sandbox.write("app.toml", format!("{cmd}{AT_ONCE}"));
    let directories = format!("{}:/nowhere", run.display());
    let psflip =
        sandbox.psflip().config_file("app.toml").no_pidfile().env("RUNTIME_DIRECTORY", &directories).start();
    let socket = run.join("psflip.sock");
    // The file alone may not be listening yet.
    psflip.wait_for_line(Stream::Stderr, "healthy, active");
    // Clients must find it without the configuration file, too.
    for args in [["upgrade", "-c", "app.toml"], ["status", "-c", "no.toml"], ["stop", "-c", "app.toml"]] {
        let asked = sandbox
            .command([testkit::psflip_bin()])
            .args(args)
            .env("RUNTIME_DIRECTORY", &directories)
            .start();
        assert!(asked.wait_exit().success(), "{args:?}: {}", asked.stderr());
    }
    psflip.wait_exit();
    wait_until(Deadline::default(), "all processes to exit", || sandbox.processes().is_empty().then_some(()));
    assert!(!socket.exists());
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
