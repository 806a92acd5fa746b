//! Real servers under psflip, upgraded again and again under load: the examples of `examples/servers/`, one
//! module for each stack. Each test runs where its server is installed (`cargo xtask ci`, as root, installs
//! them all). `SERVERS_FLIPS=200` makes the runs longer; `docs/traffic.md` explains the results.

mod bad_versions;
mod commands;
mod data;
mod docs;
mod java;
mod load;
mod nginx;
mod node;
mod perl;
mod php;
mod proxied;
mod python;
mod ruby;
mod rust;
mod shop;
mod single_instance;
mod sqlite;
mod web;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;

use testkit::client::fcgi::FcgiClient;
use testkit::client::http::HttpClient;
use testkit::{Psflip, PsflipBuilder, Sandbox};

use crate::traffic::ports::Reserved;

/// The examples that the modules here run.
const RUN: &[&str] = &[
    data::MEMCACHED,
    data::REDIS,
    java::EXAMPLE,
    java::JETTY,
    java::TOMCAT,
    nginx::EXAMPLE,
    node::EXAMPLE,
    perl::SCRIPT,
    perl::STARLET,
    php::CGI,
    php::FPM,
    php::FPM_SHARED,
    python::GUNICORN,
    python::UVICORN,
    python::UVICORN_SHARED,
    python::UWSGI,
    ruby::PUMA,
    ruby::PUMA_CLUSTER,
    ruby::UNICORN,
    rust::EXAMPLE,
    sqlite::EXAMPLE,
    web::APACHE,
    web::CADDY,
    web::HAPROXY,
];

/// The examples that allow only one instance.
const ALONE: &[&str] = &[single_instance::POSTFIX, single_instance::RABBITMQ];

/// PATH with the directories that Debian adds for root only.
pub(crate) fn path() -> OsString {
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&usual).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    std::env::join_paths(folders).unwrap()
}

/// Whether these programs are installed. If not, the caller skips the test.
#[track_caller]
pub(crate) fn are_installed(programs: &[&str]) -> bool {
    programs.iter().all(|program| testkit::need(program).is_some())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/servers")
}

/// An example in a sandbox of its own.
struct Example {
    sandbox: Sandbox,
    file: &'static str,
    port: Reserved,
    /// Ports for health checks, one for each slot.
    health: [Reserved; 2],
}

impl Example {
    /// A copy of the directory, as a user who tries it has it, with another port.
    fn new(file: &'static str) -> Self {
        let sandbox = Sandbox::new();
        let port = Reserved::new();
        for entry in fs::read_dir(folder()).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let text = fs::read_to_string(entry.path()).unwrap();
                sandbox.write(entry.file_name(), port.in_text(&text));
            }
        }
        if file == rust::EXAMPLE {
            rust::install(&sandbox);
        }
        Self { sandbox, file, port, health: [Reserved::new(), Reserved::new()] }
    }

    fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The builder of a psflip that runs the example.
    fn psflip(&self) -> PsflipBuilder {
        let port = self.port.port().to_string();
        let [a, b] = [0, 1].map(|slot| self.health[slot].port().to_string());
        let psflip = self.sandbox.psflip().config_file(self.file).env("PATH", path());
        psflip.env("PORT", port).env("PORT_A", a).env("PORT_B", b)
    }

    /// The service answers one request: Redis or FastCGI at its Unix socket, all others HTTP at their port.
    #[track_caller]
    fn answers(&self) {
        let socket = self.sandbox.path("php.sock");
        if self.file == data::MEMCACHED {
            let answer = data::ask(&self.sandbox.path("memcached.sock"), "version");
            assert!(answer.as_ref().is_ok_and(|text| text.starts_with("VERSION")), "{answer:?}");
        } else if self.file == data::REDIS {
            let answer = data::ask(&self.sandbox.path("redis.sock"), "PING");
            assert!(answer.as_ref().is_ok_and(|text| text.starts_with("+PONG")), "{answer:?}");
        } else if socket.exists() {
            let params =
                [("REQUEST_METHOD", "GET"), ("SCRIPT_FILENAME", "app.php"), ("REDIRECT_STATUS", "200")];
            let response = FcgiClient::unix(socket).request(&params, b"");
            assert!(response.is_ok(), "{response:?}\n{}", self.sandbox.report());
        } else {
            let response = HttpClient::tcp(self.address()).get("/?echo=there");
            assert!(
                matches!(&response, Ok(answer) if answer.status == 200),
                "{response:?}\n{}",
                self.sandbox.report()
            );
        }
    }

    /// Stops the service, and checks that nothing is left of it.
    #[track_caller]
    fn stop(&self, psflip: &Psflip, is_right: fn(ExitStatus) -> bool) {
        let status = psflip.stop();
        assert!(is_right(status), "exited with {status}\n{}", self.sandbox.report());
        self.sandbox.assert_no_process_left();
    }
}

/// A server that exits with 0 on a stop request.
fn with_success(status: ExitStatus) -> bool {
    status.success()
}

/// A server that terminates by the signal after it has done its work.
fn by_sigterm(status: ExitStatus) -> bool {
    status.signal() == Some(15)
}

#[test]
fn every_example_of_a_server_is_run_by_a_test() {
    let there: BTreeSet<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml"))
        .collect();
    let run = RUN.iter().chain(ALONE).map(|&name| name.to_owned()).collect();
    assert_eq!(there, run, "add the example to the list in {}", file!());
}
