//! Rust: axum on an inherited descriptor, in the example's program and with axum's own graceful shutdown.

use testkit::{Sandbox, psflip_bin};

use super::load::{Application, assert_only_what_was_open_failed, clients, flip_under_load};
use super::{Example, with_success};

pub(super) const EXAMPLE: &str = "axum.toml";

/// Puts the example's program where the configuration expects it. The test of that program builds it with
/// cargo.
pub(super) fn install(sandbox: &Sandbox) {
    let program = psflip_bin().with_file_name("axum-server");
    assert!(program.is_file(), "{} is missing: `cargo build --package axum-server`", program.display());
    std::os::unix::fs::symlink(program, sandbox.path("axum-server")).unwrap();
}

#[test]
fn load_axum_on_a_shared_socket_loses_nothing() {
    // Contract: U2, U3, U5, H1
    let example = Example::new(EXAMPLE);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("axum, inherited TCP", &psflip, probe);
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}

#[test]
fn load_axum_with_its_own_shutdown_loses_only_open_connections() {
    // Contract: U2, U3, U5, H1
    let example = Example::new(EXAMPLE);
    let config = example.sandbox.read(EXAMPLE);
    example.sandbox.write(EXAMPLE, config.replace("\"./axum-server\"", "\"./axum-server\", \"--careless\""));
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("axum as it is, inherited TCP", &psflip, probe);
    example.stop(&psflip, with_success);
    assert_only_what_was_open_failed(&report);
}
