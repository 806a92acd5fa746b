//! HTTP/2 without TLS, as gRPC speaks it. Node is the server and the clients: each client is a process that
//! sends one request for each line of its input.

use std::sync::Arc;

use testkit::client::ClientError;
use testkit::{AvailabilityProbe, Running, Stdin, Stream};

use super::super::load::CLIENTS;
use super::{HTTP, Proxied, Server, TCP_CHECK, find};

/// Sends one request, and returns the generation that answered it.
fn ask(client: &Running, number: usize, count: usize) -> Result<String, ClientError> {
    let (keeps, echo) = (usize::from(number.is_multiple_of(2)), format!("{number}-{count}"));
    let length = if count % 2 == 1 { count * 37 % 5000 + 1 } else { 0 };
    let mark = client.output().mark();
    client.write_stdin(format!("{keeps} {length} {echo}\n"));
    let line = client.output().wait_after(mark, Stream::Stdout, "").text;
    let answer =
        line.strip_prefix("ok ").filter(|text| text.ends_with(&format!(" body={length} echo={echo}")));
    let generation = answer.and_then(|text| testkit::client::field(text, "name"));
    generation.map(str::to_owned).ok_or_else(|| ClientError::content(line.clone()))
}

#[test]
fn load_proxied_http2_loses_nothing() {
    // Contract: T3, T4, T6
    let server = Server {
        name: "Node, HTTP/2",
        files: &["h2c.js"],
        cmd: &["node", "h2c.js"],
        config: TCP_CHECK,
        ..HTTP
    };
    let Some(proxied) = Proxied::start(server) else { return };
    let program = find("h2c_client.js").display().to_string();
    let url = format!("http://{}", proxied.port.address());
    let clients: Vec<Arc<Running>> = (0..CLIENTS)
        .map(|_| {
            proxied
                .sandbox
                .command(["node", &program, &url])
                .env("PATH", super::path())
                .stdin(Stdin::Pipe)
                .start()
        })
        .collect();
    let probe = AvailabilityProbe::start(CLIENTS, |number| {
        let (client, mut count) = (Arc::clone(&clients[number]), 0);
        move || {
            count += 1;
            ask(&client, number, count)
        }
    });
    let report = proxied.flip(probe, || ());
    for client in clients {
        client.close_stdin();
        assert!(client.wait_exit().success(), "{}", client.stderr());
    }
    proxied.stop();
    report.assert_no_failures();
    proxied.assert_all_served();
}
