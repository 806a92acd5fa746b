//! Servers that keep data: a cache that is empty at the start of every generation, and a server that allows
//! no second instance.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use testkit::client::ClientError;
use testkit::{AvailabilityProbe, Signal, Stream, psflip_bin};

use super::load::flip_under_load;
use super::{Example, are_installed, with_success};

pub(super) const MEMCACHED: &str = "memcached.toml";
pub(super) const REDIS: &str = "redis.toml";

/// Sends one command to Redis or memcached on a new connection. Returns the answer.
pub(super) fn ask(socket: &Path, command: &str) -> Result<String, ClientError> {
    let ask = || -> std::io::Result<String> {
        let mut connection = UnixStream::connect(socket)?;
        write!(connection, "{command}\r\nquit\r\n")?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().map_err(|error| ClientError::content(error.to_string()))
}

#[test]
fn load_redis_behind_a_symlink_loses_no_request_and_starts_empty() {
    // Contract: U2, U3, U4, U5
    if !are_installed(&["redis-server", "redis-cli"]) {
        return;
    }
    let example = Example::new(REDIS);
    let psflip = example.psflip().start().wait_ready();
    let socket = example.sandbox.path("redis.sock");
    assert!(ask(&socket, "SET key value").unwrap().starts_with("+OK"));
    let probe = AvailabilityProbe::start(4, |_| {
        let socket = socket.clone();
        move || {
            let answer = ask(&socket, "INFO server")?;
            let pid = answer.lines().find_map(|line| line.strip_prefix("process_id:")).map(str::to_owned);
            pid.ok_or_else(|| ClientError::content(answer))
        }
    });
    let report = flip_under_load("Redis, a link", &psflip, probe);
    let answer = ask(&socket, "GET key").unwrap();
    assert!(answer.starts_with("$-1"), "every generation has a cache of its own: {answer}");
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}

#[test]
fn load_memcached_behind_a_symlink_loses_no_request_without_keep_alive() {
    // Contract: U2, U3, U4, U5
    if !are_installed(&["memcached"]) {
        return;
    }
    let example = Example::new(MEMCACHED);
    let psflip = example.psflip().start().wait_ready();
    let socket = example.sandbox.path("memcached.sock");
    let probe = AvailabilityProbe::start(4, |_| {
        let socket = socket.clone();
        move || {
            let answer = ask(&socket, "stats")?;
            let pid = answer.lines().find_map(|line| line.strip_prefix("STAT pid ")).map(str::to_owned);
            pid.filter(|_| answer.ends_with("END\r\n")).ok_or_else(|| ClientError::content(answer))
        }
    });
    let report = flip_under_load("memcached, a link", &psflip, probe);
    example.stop(&psflip, with_success);
    report.assert_no_failures();
}

#[test]
fn psflip_exits_with_an_error_if_the_server_is_killed() {
    // Contract: C5, C8, L1
    for (file, programs) in [
        (MEMCACHED, &["memcached"][..]),
        (super::java::JETTY, &["java", super::java::JETTY_PROGRAM]),
        (super::java::TOMCAT, &["java", super::java::TOMCAT_PROGRAM]),
    ] {
        if !are_installed(programs) {
            continue;
        }
        let example = Example::new(file);
        let psflip = example.psflip().start().wait_ready();
        psflip.child().signal(Signal::SIGKILL).unwrap();
        assert_eq!(psflip.wait_exit().signal(), Some(9), "{file}");
        let line = psflip.wait_for_line(Stream::Stderr, "ERROR psflip{generation=1").text;
        assert!(line.contains("SIGKILL"), "{file}: {line}");
        example.sandbox.assert_no_process_left();
    }
}

/// Dovecot stands for all servers that lock their data: Postfix, RabbitMQ, databases.
#[test]
fn a_single_instance_server_fails_the_upgrade_and_keeps_serving() {
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
