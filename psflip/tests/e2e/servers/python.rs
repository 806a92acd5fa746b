//! Python: gunicorn and uWSGI by systemd's protocol, uvicorn behind psflip's proxy and on a descriptor's number.

use super::load::{Application, assert_only_what_was_open_failed, clients, flip_under_load};
use super::{Example, are_installed, with_success};

pub(super) const GUNICORN: &str = "gunicorn.toml";
pub(super) const UVICORN: &str = "uvicorn.toml";
pub(super) const UVICORN_SHARED: &str = "uvicorn-shared.toml";
pub(super) const UWSGI: &str = "uwsgi.toml";

#[test]
fn load_gunicorn_on_a_shared_socket_loses_nothing() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["gunicorn"]) {
        return;
    }
    let example = Example::new(GUNICORN);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("gunicorn, inherited TCP", &psflip, probe);
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}

#[test]
fn load_uvicorn_behind_the_proxy_loses_nothing() {
    // Contract: T3, T4, T6, T7
    if !are_installed(&["uvicorn"]) {
        return;
    }
    let example = Example::new(UVICORN);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("uvicorn, its example with a proxy", &psflip, probe);
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}

#[test]
fn load_uvicorn_on_a_shared_socket_loses_nothing() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["uvicorn"]) {
        return;
    }
    let example = Example::new(UVICORN_SHARED);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("uvicorn, inherited TCP", &psflip, probe);
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}

#[test]
fn load_uwsgi_on_a_shared_socket_loses_only_what_a_worker_had_just_accepted() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["uwsgi"]) {
        return;
    }
    let example = Example::new(UWSGI);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("uWSGI, inherited TCP", &psflip, probe);
    example.stop(&psflip, with_success);
    assert_only_what_was_open_failed(&report);
}
