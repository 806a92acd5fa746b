//! Servers that allow no second instance. Their own lock refuses it, and the health check is one that only
//! the new instance could pass. So the upgrade fails, and the old instance keeps serving.

use std::fs::{self, Permissions};
use std::io::Read;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use testkit::{Deadline, Signal, psflip_bin, wait_until};

use super::{Example, are_installed, path};

pub(super) const POSTFIX: &str = "postfix.toml";
pub(super) const RABBITMQ: &str = "rabbitmq.toml";

/// Checks that a connection gets this greeting. It is empty if the client speaks first in the server's
/// protocol.
#[track_caller]
fn greets(example: &Example, greeting: &str) {
    let mut connection = TcpStream::connect(example.address()).unwrap();
    connection.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut said = vec![0; greeting.len()];
    connection.read_exact(&mut said).unwrap();
    assert_eq!(String::from_utf8_lossy(&said), greeting);
}

/// Two upgrades fail, since the second instance exits.
#[track_caller]
fn refuses_a_second_one(example: &Example, greeting: &str, reason: &str) {
    let psflip = example.psflip().start().wait_ready();
    greets(example, greeting);
    let before = (psflip.active(), psflip.child());
    for _ in 0..2 {
        let client = example.sandbox.command([psflip_bin()]).args(["upgrade", "-c", example.file]);
        let client = client.env("PATH", path()).start();
        let status = client.wait_exit();
        client.output().wait_closed();
        let said = client.stdout() + &client.stderr();
        assert_eq!(status.code(), Some(1), "{said}\n{}", example.sandbox.report());
        assert!(said.contains(reason), "{said}\n{}", example.sandbox.report());
        assert_eq!((psflip.active(), psflip.child()), before);
        greets(example, greeting);
    }
    psflip.stop();
}

#[test]
fn postfix_refuses_a_second_master_and_keeps_serving() {
    // Contract: F3, U6, U8
    if !are_installed(&["postfix", "ps"]) || !nix::unistd::geteuid().is_root() {
        return;
    }
    let example = Example::new(POSTFIX);
    // Its processes run as another user.
    fs::set_permissions(example.sandbox.dir(), Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(example.sandbox.path("postfix-spool")).unwrap();
    let install = example.sandbox.command(["install", "-d", "-o", "postfix", "postfix-data"]).start();
    assert!(install.wait_exit().success(), "{}", install.stderr());
    refuses_a_second_one(&example, "220 ", "exit code 1");
    example.sandbox.assert_no_process_left();
}

#[test]
fn rabbitmq_refuses_a_second_node_and_keeps_serving() {
    // Contract: F3, U6, U8
    if !are_installed(&["rabbitmq-server", "epmd", "ps"]) {
        return;
    }
    let example = Example::new(RABBITMQ);
    // Erlang starts its port mapper itself, but gives up on a busy host before that one listens.
    let port = example.health[1].port();
    let epmd = example.sandbox.command(["epmd", "-address", "127.0.0.1", "-port", &port.to_string()]).start();
    wait_until(Deadline::default(), "epmd to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
    refuses_a_second_one(&example, "", "the child exited before it was healthy");
    epmd.signal(Signal::SIGKILL);
    epmd.wait_exit();
    example.sandbox.assert_no_process_left();
}
