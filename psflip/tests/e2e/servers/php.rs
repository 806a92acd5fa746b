//! PHP behind nginx: php-cgi on a shared socket at descriptor 0; php-fpm on a socket of its own behind a
//! symlink, and on a shared one.

use super::load::{Application, clients, flip_under_load};
use super::{Example, are_installed, with_success};
use crate::traffic::nginx::Nginx;

pub(super) const CGI: &str = "php-cgi.toml";
pub(super) const FPM: &str = "php-fpm.toml";
pub(super) const FPM_SHARED: &str = "php-fpm-shared.toml";
/// The program's name in Debian 12.
pub(super) const FPM_PROGRAM: &str = "php-fpm8.2";
const WEB: &str = "php.nginx.conf";

/// Runs the example behind nginx. Neither a client nor nginx sees an upgrade.
#[track_caller]
fn loses_nothing(what: &str, file: &'static str, program: &str) {
    if !are_installed(&["nginx", program]) {
        return;
    }
    let example = Example::new(file);
    let psflip = example.psflip().start().wait_ready();
    let nginx = Nginx::start_with(&example.sandbox, WEB);
    let probe = clients(example.sandbox.path("web.sock"), Application::Php);
    let report = flip_under_load(what, &psflip, probe);
    let complaints = nginx.stop();
    example.stop(&psflip, with_success);
    report.assert_no_failures();
    assert_eq!(complaints, [""; 0], "nginx complains");
}

#[test]
fn load_php_cgi_at_descriptor_0_loses_nothing() {
    // Contract: U2, U3, U5, H1
    loses_nothing("nginx and php-cgi, inherited Unix socket", CGI, "php-cgi");
}

#[test]
fn load_php_fpm_behind_a_symlink_loses_nothing() {
    // Contract: U2, U3, U4, U5, H1
    loses_nothing("nginx and php-fpm, a link", FPM, FPM_PROGRAM);
}

#[test]
fn load_php_fpm_on_a_shared_socket_loses_nothing() {
    // Contract: U2, U3, U5, H1
    loses_nothing("nginx and php-fpm, inherited Unix socket", FPM_SHARED, FPM_PROGRAM);
}
