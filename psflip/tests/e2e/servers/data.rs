//! Servers that keep data: a cache that starts empty in every generation, and a server that allows no second one beside it.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use testkit::client::ClientError;
use testkit::{AvailabilityProbe, Stream, psflip_bin};

use super::load::flip_under_load;
use super::{Example, are_installed, with_success};

pub(super) const REDIS: &str = "redis.toml";

/// Sends one command to Redis on a connection of its own; gives the answer.
pub(super) fn ask_redis(socket: &Path, command: &str) -> Result<String, ClientError> {
    let ask = || -> std::io::Result<String> {
        let mut connection = UnixStream::connect(socket)?;
        write!(connection, "{command}\r\nQUIT\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().map_err(|error| ClientError::content(error.to_string()))
}

#[test]
fn load_redis_behind_a_link_loses_no_request_and_starts_empty() {
    // Contract: U2, U3, U4, U5
    if !are_installed(&["redis-server", "redis-cli"]) {
        return;
    }
    let example = Example::new(REDIS);
    let psflip = example.psflip().start().wait_ready();
    let socket = example.sandbox.path("redis.sock");
    assert!(ask_redis(&socket, "SET key value").unwrap().starts_with("+OK"));
    let probe = AvailabilityProbe::start(4, |_| {
        let socket = socket.clone();
        move || {
            let answer = ask_redis(&socket, "INFO server")?;
            let pid = answer.lines().find_map(|line| line.strip_prefix("process_id:")).map(str::to_owned);
            pid.ok_or_else(|| ClientError::content(answer))
        }
    });
    let report = flip_under_load("Redis, a link", &psflip, probe);
    let answer = ask_redis(&socket, "GET key").unwrap();
    assert!(answer.starts_with("$-1"), "every generation has a cache of its own: {answer}");
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}

/// Dovecot stands for all that lock their data: Postfix, RabbitMQ, databases.
#[test]
fn a_server_that_allows_no_second_one_beside_it_fails_the_upgrade_and_serves_on() {
    // Contract: F3, U6, U8
    if !are_installed(&["dovecot"]) {
        return;
    }
    let sandbox = testkit::Sandbox::new();
    let folder = sandbox.dir().display();
    let text = format!(
        "base_dir = {folder}/run\nstate_dir = {folder}/run\nlog_path = /dev/stderr\nssl = no\nprotocols = none\n\
         default_internal_user = root\ndefault_login_user = root\n"
    );
    sandbox.write("dovecot.conf", text);
    let config = "[healthcheck.alive]\ntimeout = \"500ms\"\n";
    let psflip = sandbox.psflip().cmd(["/usr/sbin/dovecot", "-F", "-c", "dovecot.conf"]).config(config);
    let psflip = psflip.start().wait_ready();
    let before = (psflip.active(), psflip.child());
    let client = sandbox.command([psflip_bin()]).args(["upgrade"]).start();
    let status = client.wait_exit();
    client.output().wait_closed();
    assert_eq!(status.code(), Some(1), "{}\n{}", client.stderr(), sandbox.report());
    psflip.wait_for_line(Stream::Stderr, "Dovecot is already running with PID");
    assert_eq!((psflip.active(), psflip.child()), before);
    assert!(psflip.stop().success(), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}
