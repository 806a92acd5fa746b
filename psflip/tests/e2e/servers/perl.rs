//! Perl, by Server::Starter's protocol: the example's own script, and Starlet.

use super::load::{Application, clients, flip_under_load};
use super::{Example, are_installed, with_success};

/// Starlet's main process (Parallel::Prefork 0.18) loses a SIGTERM that arrives between its last fork and its
/// wait. So before a stop the test waits until all processes are idle.
pub(super) use crate::service::wait_rest;

pub(super) const SCRIPT: &str = "server-starter.toml";
pub(super) const STARLET: &str = "starlet.toml";

#[test]
fn load_a_script_for_server_starter_on_a_shared_socket_loses_nothing() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["perl"]) {
        return;
    }
    let example = Example::new(SCRIPT);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("Perl script, inherited TCP", &psflip, probe);
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}

#[test]
fn load_starlet_on_a_shared_socket_loses_nothing() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["plackup", "start_server"]) {
        return;
    }
    let example = Example::new(STARLET);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("Starlet, inherited TCP", &psflip, probe);
    wait_rest(&example.sandbox);
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}
