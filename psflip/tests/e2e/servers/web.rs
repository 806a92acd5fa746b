//! Web servers and proxies themselves as the child: Apache, HAProxy, Caddy. (nginx has a module of its own.)

use super::load::{
    assert_only_stale_connections_failed, assert_only_what_was_open_failed, clients_of_pids, flip_under_load,
};
use super::{Example, are_installed, with_success};

pub(super) const APACHE: &str = "apache.toml";
pub(super) const CADDY: &str = "caddy.toml";
pub(super) const HAPROXY: &str = "haproxy.toml";

/// Apache forks its workers in the process group that psflip gives its child, and signals that group as it
/// stops.
#[track_caller]
fn apache_loses_only_connections_in_its_queue(mpm: &str) {
    if !are_installed(&["apache2"]) {
        return;
    }
    let example = Example::new(APACHE);
    let psflip = example.psflip().env("MPM", mpm).start().wait_ready();
    let probe = clients_of_pids(example.address());
    let report = flip_under_load(&format!("Apache {mpm}, SO_REUSEPORT"), &psflip, probe);
    example.stop(&psflip, with_success);
    assert_only_what_was_open_failed(&report);
}

#[test]
fn load_apache_event_on_its_own_port_loses_only_its_accept_queue() {
    // Contract: U2, U3, U5, H1
    apache_loses_only_connections_in_its_queue("event");
}

#[test]
fn load_apache_prefork_on_its_own_port_loses_only_its_accept_queue() {
    // Contract: U2, U3, U5, H1
    apache_loses_only_connections_in_its_queue("prefork");
}

#[test]
fn load_haproxy_on_a_shared_socket_loses_only_idle_connections() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["haproxy"]) {
        return;
    }
    let example = Example::new(HAPROXY);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients_of_pids(example.address());
    let report = flip_under_load("HAProxy, inherited TCP", &psflip, probe);
    example.stop(&psflip, with_success);
    assert_only_stale_connections_failed(&report);
}

#[test]
fn load_caddy_on_its_own_port_loses_only_its_accept_queue() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["caddy"]) {
        return;
    }
    let example = Example::new(CADDY);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients_of_pids(example.address());
    let report = flip_under_load("Caddy, SO_REUSEPORT", &psflip, probe);
    example.stop(&psflip, with_success);
    assert_only_what_was_open_failed(&report);
}
