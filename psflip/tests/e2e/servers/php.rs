//! PHP behind nginx: php-cgi on a shared socket at descriptor 0, and php-fpm on a socket of its own behind a link.

use super::load::{Application, clients, flip_under_load};
use super::{Example, are_installed, with_success};
use crate::traffic::nginx::Nginx;

pub(super) const CGI: &str = "php-cgi.toml";
pub(super) const FPM: &str = "php-fpm.toml";
const WEB: &str = "php.nginx.conf";

#[test]
fn load_php_cgi_at_descriptor_0_loses_nothing() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["nginx", "php-cgi"]) {
        return;
    }
    let example = Example::new(CGI);
    let psflip = example.psflip().start().wait_ready();
    let nginx = Nginx::start_with(&example.sandbox, WEB);
    let probe = clients(example.sandbox.path("web.sock"), Application::Php);
    let report = flip_under_load("nginx and php-cgi, inherited Unix socket", &psflip, probe);
    let complaints = nginx.stop();
    example.stop(&psflip, with_success);
    report.assert_no_failures();
    assert_eq!(complaints, [""; 0], "nginx complains");
}

#[test]
fn load_php_fpm_behind_a_link_loses_nothing() {
    // Contract: U2, U3, U4, U5, H1
    if !are_installed(&["nginx", "php-fpm8.2"]) {
        return;
    }
    let example = Example::new(FPM);
    let psflip = example.psflip().start().wait_ready();
    let nginx = Nginx::start_with(&example.sandbox, WEB);
    let probe = clients(example.sandbox.path("web.sock"), Application::Php);
    let report = flip_under_load("nginx and php-fpm, a link", &psflip, probe);
    let complaints = nginx.stop();
    example.stop(&psflip, with_success);
    report.assert_no_failures();
    assert_eq!(complaints, [""; 0], "nginx complains");
}
