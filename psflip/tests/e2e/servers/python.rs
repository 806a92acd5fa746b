//! Python: gunicorn and uWSGI by systemd's protocol, uvicorn behind psflip's proxy and on a descriptor's number.

use testkit::{Deadline, Stream, wait_until};

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

/// gunicorn's own READY=1 comes before its first worker. So a version whose workers crash is promoted, and
/// nobody serves; with `settle` it is not.
#[test]
fn a_gunicorn_whose_workers_crash_is_not_promoted_if_it_has_to_settle() {
    // Contract: H6, U8
    if !are_installed(&["gunicorn"]) {
        return;
    }
    let example = Example::new(GUNICORN);
    let config = example.sandbox.read(GUNICORN);
    // With two workers that crash at the same moment, gunicorn's main process may hang.
    let good = "workers = 1\npreload_app = True\n";
    let crash =
        "import time\n\n\ndef post_fork(server, worker):\n    time.sleep(1)\n    raise RuntimeError\n";
    let version = |settle: &str, settings: &str| {
        let notify = format!("[healthcheck.notify]\n{settle}");
        example.sandbox.write(GUNICORN, config.replace("[healthcheck.notify]\n", &notify));
        example.sandbox.write("gunicorn.conf.py", settings);
    };
    version("", good);
    let psflip = example.psflip().start().wait_ready();
    let before = (psflip.active(), psflip.child());
    version("settle = \"5s\"\n", &format!("{good}{crash}"));
    psflip.request_flip();
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade failed; the old child keeps running").text;
    assert!(line.contains("before `settle` (5s) was over: exit code 3"), "{line}");
    assert!(psflip.log().contains("a process of the child "), "{}", psflip.log());
    assert_eq!((psflip.active(), psflip.child()), before);
    example.answers();
    version("settle = \"1s\"\n", good);
    psflip.flip();
    example.answers();

    // The same version without `settle`.
    version("", &format!("{good}{crash}"));
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stderr, "the service is down: the child terminated without a stop request");
    wait_until(Deadline::default(), "everything to exit", || {
        example.sandbox.processes().is_empty().then_some(())
    });
}
