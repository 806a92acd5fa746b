//! The network of a fleet: a bridge in a network namespace of the test's thread, and a namespace for each host.

use nix::sched::{CloneFlags, unshare};
use testkit::{Process, Sandbox};

/// The address of the load balancer and of Ansible.
pub(crate) const HUB: &str = "10.77.0.1";

/// The address of host 1, 2, ...
pub(crate) fn address(number: usize) -> String {
    format!("10.77.0.{}", 10 + number)
}

/// Moves this thread, and whatever it starts from now on, into a new network namespace.
pub(crate) fn enter_new(sandbox: &Sandbox) {
    unshare(CloneFlags::CLONE_NEWNET).expect("root may create a network namespace");
    ip(sandbox, &["link", "set", "lo", "up"]);
}

/// Makes the bridge.
pub(crate) fn make_bridge(sandbox: &Sandbox) {
    ip(sandbox, &["link", "add", "hub", "type", "bridge"]);
    ip(sandbox, &["address", "add", &format!("{HUB}/24"), "dev", "hub"]);
    ip(sandbox, &["link", "set", "hub", "up"]);
}

/// Joins the network namespace of this process to the bridge.
pub(crate) fn join(sandbox: &Sandbox, number: usize, init: Process) {
    let (port, pid, inside) = (port(number), init.pid().to_string(), format!("{}/24", address(number)));
    ip(sandbox, &["link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", &pid]);
    ip(sandbox, &["link", "set", &port, "master", "hub", "up"]);
    for args in [&["address", "add", &inside, "dev", "eth0"][..], &["link", "set", "eth0", "up"]] {
        run(sandbox, &[&["nsenter", "--net", "--target", &pid, "ip"], args].concat());
    }
}

fn port(number: usize) -> String {
    format!("host{number}")
}

fn ip(sandbox: &Sandbox, args: &[&str]) {
    run(sandbox, &[&["ip"], args].concat());
}

fn run(sandbox: &Sandbox, argv: &[&str]) {
    let ip = sandbox.command(argv).start();
    assert!(ip.wait_exit().success(), "{argv:?}: {}", ip.stderr());
}
