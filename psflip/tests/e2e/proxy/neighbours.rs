//! Several proxies, and FastCGI and TCP behind one psflip.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use testkit::client::fcgi::FcgiClient;
use testkit::{AvailabilityProbe, Sandbox};

use super::{CARELESS, wait_answer, web};
use crate::service::psflip;

#[test]
fn kept_fastcgi_connections_outlive_careless_children() {
    // Contract: T4, T6
    let sandbox = Sandbox::new();
    let careless = [
        "fcgi-server",
        "--socket",
        "{{ blue_green() }}.sock",
        "--drain",
        "0s",
        "--keep-idle",
        "0s",
        "--linger",
        "0s",
    ];
    let rest = "[healthcheck.unix]\npath = \"{{ blue_green() }}.sock\"\ninterval = \"10ms\"\n\
        [[proxy]]\nlisten = \"unix://web.sock\"\nforward = \"unix://{{ blue_green() }}.sock\"\nprotocol = \"fastcgi\"\n";
    let psflip = psflip(&sandbox, &careless, rest).start().wait_ready();
    let path = web(&sandbox);
    let probe = AvailabilityProbe::start(4, |number| {
        let client = FcgiClient::unix(&path);
        let mut client = if number.is_multiple_of(2) { client.keep_alive() } else { client };
        move || {
            let answer = if number < 2 { client.get("/") } else { client.post("/", &[b'x'; 3000]) };
            answer?.tag("name")
        }
    });
    for generation in 1..=10 {
        probe.wait_tag(&format!("gen{generation}"));
        psflip.flip();
    }
    probe.wait_tag("gen11");
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_tcp_connection_stays_with_its_child_until_both_sides_are_done() {
    // Contract: T4, T7
    let sandbox = Sandbox::new();
    let rest = "[healthcheck.unix]\npath = \"{{ blue_green() }}.sock\"\ninterval = \"10ms\"\n\
        [[proxy]]\nlisten = \"unix://web.sock\"\nforward = \"unix://{{ blue_green() }}.sock\"\n";
    let psflip = psflip(&sandbox, CARELESS, rest).start().wait_ready();
    let mut old = UnixStream::connect(web(&sandbox)).unwrap();
    let ask = |stream: &mut UnixStream| {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        let mut answer = vec![0; 4096];
        let length = stream.read(&mut answer).unwrap();
        String::from_utf8_lossy(&answer[..length]).into_owned()
    };
    assert!(ask(&mut old).contains("name=gen1"));
    let superseded = psflip.request_flip();
    psflip.wait_successor(superseded);
    wait_answer(&sandbox, "gen2");
    assert!(ask(&mut old).contains("name=gen1"), "its child is spared");
    drop(old);
    psflip.wait_for_line(testkit::Stream::Stderr, "the old generation is gone");
    psflip.stop();
    sandbox.assert_no_process_left();
}
