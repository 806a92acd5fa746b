//! Ruby: Puma, in single and in cluster mode, and unicorn, by systemd's protocol.

use super::load::{Application, assert_only_what_was_open_failed, clients, flip_under_load};
use super::{Example, are_installed, by_sigterm, with_success};

pub(super) const PUMA: &str = "puma.toml";
pub(super) const PUMA_CLUSTER: &str = "puma-cluster.toml";
pub(super) const UNICORN: &str = "unicorn.toml";

#[track_caller]
fn loses_nothing_but_on_open_connections(what: &str, file: &'static str) {
    if !are_installed(&["puma"]) {
        return;
    }
    let example = Example::new(file);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load(what, &psflip, probe);
    example.stop(&psflip, by_sigterm);
    assert_only_what_was_open_failed(&report);
}

#[test]
fn load_puma_on_a_shared_socket_loses_only_open_connections() {
    // Contract: U2, U3, U5, H1
    loses_nothing_but_on_open_connections("Puma, inherited TCP", PUMA);
}

#[test]
fn load_puma_in_cluster_mode_loses_only_open_connections() {
    // Contract: U2, U3, U5, H1
    loses_nothing_but_on_open_connections("Puma in cluster mode, inherited TCP", PUMA_CLUSTER);
}

#[test]
fn load_unicorn_on_a_shared_socket_loses_nothing() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["unicorn"]) {
        return;
    }
    let example = Example::new(UNICORN);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("unicorn, inherited TCP", &psflip, probe);
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}
