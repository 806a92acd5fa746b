//! Does an upgrade of this app lose a request? With psflip's proxy and on a socket that all versions share.

use psflip_testkit::client::http::HttpClient;
use psflip_testkit::probe::Report;
use psflip_testkit::{AvailabilityProbe, Psflip, Sandbox};

const APP: &str = env!("CARGO_BIN_EXE_axum-app");

/// Any server that listens at the port in `PORT`, unchanged.
const PROXY: &str = r#"
    [[proxy]]
    listen   = "127.0.0.1:0"
    forward  = "127.0.0.1:{{ local('port') }}"
    protocol = "http"
    [healthcheck.http]
    url = "http://127.0.0.1:{{ local('port') }}/"
    [locals]
    port = "{{ free_port('20000-29999') }}"
    [env]
    PORT = "{{ local('port') }}"
"#;

/// A server that takes the socket from psflip, without anything in between.
const SHARED: &str = r#"
    [[listen]]
    address = "127.0.0.1:0"
    name    = "web"
    [healthcheck.notify]
"#;

#[test]
fn an_upgrade_loses_no_request() {
    let sandbox = Sandbox::new();
    let psflip = sandbox.psflip().cmd([APP]).config(PROXY).start().wait_ready();
    let address = psflip.proxy_address();
    let probe = AvailabilityProbe::start(8, |_| {
        let mut client = HttpClient::tcp(address).keep_alive();
        move || client.get("/")?.tag("pid")
    });
    for _ in 0..5 {
        probe.wait_requests(50);
        psflip.flip();
    }
    probe.finish().assert_no_failures();
    psflip.stop();
}

#[test]
fn a_broken_version_changes_nothing() {
    let sandbox = Sandbox::new();
    let psflip = sandbox.psflip().cmd([APP]).config(PROXY).start().wait_ready();
    psflip.set_cmd(["env", "APP_BROKEN=1", APP]);
    assert!(psflip.flip_fails().reason.contains("exit code 1"));
    psflip.stop();
}

#[test]
fn on_a_shared_socket_the_careful_app_loses_nothing_and_the_careless_one_is_found_out() {
    let careful = flips_on_a_shared_socket(&[APP]);
    careful.assert_no_failures();
    let careless = flips_on_a_shared_socket(&["env", "APP_CARELESS=1", APP]);
    assert!(careless.failed > 0, "{careless}");
}

#[test]
fn behind_the_proxy_even_the_careless_app_loses_nothing() {
    let sandbox = Sandbox::new();
    let psflip = sandbox.psflip().cmd(["env", "APP_CARELESS=1", APP]).config(PROXY).start().wait_ready();
    let address = psflip.proxy_address();
    flips(&psflip, address).assert_no_failures();
}

fn flips_on_a_shared_socket(cmd: &[&str]) -> Report {
    let sandbox = Sandbox::new();
    let psflip = sandbox.psflip().cmd(cmd).config(SHARED).start().wait_ready();
    let address = psflip.address("web");
    flips(&psflip, address)
}

fn flips(psflip: &Psflip, address: std::net::SocketAddr) -> Report {
    let probe = AvailabilityProbe::start(8, |_| {
        let mut client = HttpClient::tcp(address).keep_alive();
        move || client.get("/")?.tag("pid")
    });
    for _ in 0..3 {
        probe.wait_requests(50);
        psflip.flip();
    }
    probe.wait_requests(50);
    let report = probe.finish();
    psflip.stop();
    report
}
