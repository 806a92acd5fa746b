//! Ruby: Puma by systemd's protocol.

use super::load::{Application, assert_only_what_was_open_failed, clients, flip_under_load};
use super::{Example, are_installed, by_sigterm};

pub(super) const EXAMPLE: &str = "puma.toml";

#[test]
fn load_puma_on_a_shared_socket_loses_nothing_but_on_open_connections() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["puma"]) {
        return;
    }
    let example = Example::new(EXAMPLE);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("Puma, inherited TCP", &psflip, probe);
    example.stop(&psflip, by_sigterm);
    assert_only_what_was_open_failed(&report);
}
