//! nginx itself as the child, on a socket that it inherits by its own variable `NGINX`.

use super::load::{assert_only_stale_connections_failed, clients_of_pids, flip_under_load};
use super::{Example, are_installed, with_success};

pub(super) const EXAMPLE: &str = "nginx.toml";

#[test]
fn load_nginx_as_the_child_on_a_shared_socket_loses_only_idle_connections() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["nginx", "pgrep"]) {
        return;
    }
    let example = Example::new(EXAMPLE);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients_of_pids(example.address());
    let report = flip_under_load("nginx, inherited TCP", &psflip, probe);
    example.stop(&psflip, with_success);
    assert_only_stale_connections_failed(&report);
}
