//! Node on an inherited descriptor, with an application that shuts down gracefully.

use super::load::{Application, clients, flip_under_load};
use super::{Example, are_installed, with_success};

pub(super) const EXAMPLE: &str = "node.toml";

#[test]
fn load_node_on_a_shared_socket_loses_nothing() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["node"]) {
        return;
    }
    let example = Example::new(EXAMPLE);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("Node, inherited TCP", &psflip, probe);
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}
