//! Sockets that psflip keeps for all generations (`[[listen]]`), under load. The kernel's accept queue
//! outlives each generation.

use std::net::SocketAddr;

use testkit::{AvailabilityProbe, Deadline, PsflipBuilder, Sandbox, Stream};

use super::clients::{fastcgi, http};
use super::{CLIENTS, flip_under_load, flips, psflip, stop};

/// A server that accepts on `address`. Its health check uses a socket of its own, since the old child answers
/// on the shared one, too. It keeps each keep-alive connection open until a header of an answer has announced
/// the close.
fn server(sandbox: &Sandbox, program: &str, protocol: &str, address: &str) -> PsflipBuilder {
    let health = "[healthcheck.unix]\npath = \"probe-{{ blue_green() }}.sock\"\ninterval = \"10ms\"\n";
    let listen = format!("[[listen]]\naddress = \"{address}\"\nas = \"{protocol}\"\n");
    let args = ["--inherit", protocol, "--probe", "probe-{{ blue_green() }}.sock"];
    psflip(sandbox, program, &args, &format!("{health}{listen}"))
}

#[test]
fn load_http_on_an_inherited_tcp_socket_loses_none_in_200_upgrades() {
    // Contract: U2, U5, U7
    let sandbox = Sandbox::new();
    let psflip = server(&sandbox, "http-server", "listen_fds", "tcp://127.0.0.1:0").start().wait_ready();
    let address: SocketAddr =
        psflip.output().wait_for(Deadline::default(), "the address that the server listens on", |lines| {
            let lines = lines.iter().filter(|line| line.stream == Stream::Stdout);
            lines.filter_map(|line| line.text.strip_prefix("listening ")?.parse().ok()).next()
        });
    let probe = AvailabilityProbe::start(CLIENTS, |number| http(address, number, false));
    let report = flip_under_load("HTTP on an inherited TCP socket", &psflip, probe, flips());
    stop(&sandbox, &psflip);
    report.assert_no_failures();
}

#[test]
fn load_http_on_an_inherited_unix_socket_loses_none_in_200_upgrades() {
    // Contract: U2, U5, U7
    let sandbox = Sandbox::new();
    let socket = sandbox.path("app.sock");
    let address = format!("unix://{}", socket.display());
    let psflip = server(&sandbox, "http-server", "listen_fds", &address).start().wait_ready();
    let probe = AvailabilityProbe::start(CLIENTS, |number| http(socket.as_path(), number, false));
    let report = flip_under_load("HTTP on an inherited Unix socket", &psflip, probe, flips());
    stop(&sandbox, &psflip);
    report.assert_no_failures();
}

#[test]
fn load_fastcgi_on_descriptor_0_loses_none_in_200_upgrades() {
    // Contract: U2, U5, U7
    let sandbox = Sandbox::new();
    let socket = sandbox.path("app.sock");
    let address = format!("unix://{}", socket.display());
    let psflip = server(&sandbox, "fcgi-server", "stdin", &address).start().wait_ready();
    let probe = AvailabilityProbe::start(CLIENTS, |number| fastcgi(&socket, number));
    let report = flip_under_load("FastCGI on descriptor 0", &psflip, probe, flips());
    stop(&sandbox, &psflip);
    report.assert_no_failures();
}
