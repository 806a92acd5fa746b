//! Servers that stop carelessly, behind `[[proxy]]`: started with the commands of their own manuals, without a
//! graceful shutdown, without a wrapper, and many of them without a handler for SIGTERM. Under load no upgrade
//! loses a request. `SERVERS_FLIPS=200` makes the runs longer; `docs/proxy.md` has the results.

mod fastcgi;
mod http1;
mod http2;
mod long_lived;

use std::fs;
use std::path::Path;
use std::time::Duration;

use testkit::client::{Target, control, field};
use testkit::probe::Report;
use testkit::{AvailabilityProbe, Deadline, Psflip, Sandbox, wait_until};

use super::load::flip_under_load_with;
use super::{are_installed, folder, path};
use crate::traffic::ports::Reserved;

/// Debian's Python, which has Debian's modules.
const PYTHON: &str = "/usr/bin/python3";

/// The health check of a server that answers any HTTP request.
const HTTP_CHECK: &str = "[healthcheck.http]\nurl = \"/\"\ninterval = \"20ms\"\n";
/// That of any other server on the port of its generation.
const TCP_CHECK: &str =
    "[healthcheck.tcp]\naddress = \"127.0.0.1:{{ local('port') }}\"\ninterval = \"20ms\"\n";

/// A server, as a stranger would start it.
#[derive(Clone, Copy)]
struct Server {
    /// Its name in the measurements.
    name: &'static str,
    /// What must be installed, apart from the program in `cmd`.
    needs: &'static [&'static str],
    /// Files of `apps/`, or of `examples/servers/`.
    files: &'static [&'static str],
    cmd: &'static [&'static str],
    /// The proxy's protocol.
    protocol: &'static str,
    /// The proxy's `drain`.
    drain: Duration,
    /// The proxy's `pool`.
    pool: u32,
    /// The table of the health check, and others.
    config: &'static str,
}

/// The parts that most servers share: HTTP on the port in the variable `PORT`.
const HTTP: Server = Server {
    name: "",
    needs: &[],
    files: &[],
    cmd: &[],
    protocol: "http",
    drain: Duration::from_secs(30),
    pool: 0,
    config: HTTP_CHECK,
};

/// A psflip that runs a server behind a proxy.
struct Proxied {
    sandbox: Sandbox,
    server: Server,
    psflip: Psflip,
    /// Where the clients connect.
    port: Reserved,
}

impl Proxied {
    /// Starts it on a TCP port. `None`: something is not installed, and the caller skips the test.
    #[track_caller]
    fn start(server: Server) -> Option<Self> {
        let port = Reserved::new();
        let (listen, forward) = (format!("tcp://{}", port.address()), "127.0.0.1:{{ local('port') }}");
        Self::start_between(server, port, &listen, forward)
    }

    /// As [`Proxied::start`], at any addresses.
    #[track_caller]
    fn start_between(server: Server, port: Reserved, listen: &str, forward: &str) -> Option<Self> {
        if !are_installed(server.needs) || !are_installed(&server.cmd[..1]) {
            return None;
        }
        let sandbox = Sandbox::new();
        for name in server.files {
            sandbox.write(name, fs::read(find(name)).unwrap());
        }
        let pool = if server.pool > 0 { format!("pool = {}\n", server.pool) } else { String::new() };
        let config = format!(
            "[locals]\nport = \"{{{{ free_port('20000-29999') }}}}\"\n\n\
             [env]\nPORT = \"{{{{ local('port') }}}}\"\nPHP_SOCKET = \"php-{{{{ generation() }}}}.sock\"\n\n\
             [[proxy]]\nlisten = \"{listen}\"\nforward = \"{forward}\"\nprotocol = \"{}\"\ndrain = \"{}ms\"\n{pool}\n{}",
            server.protocol,
            server.drain.as_millis(),
            server.config,
        );
        let psflip = sandbox.psflip().cmd(server.cmd).config(config).env("PATH", path());
        let psflip = psflip.start().wait_ready();
        Some(Self { sandbox, server, psflip, port })
    }

    fn target(&self) -> Target {
        self.port.address().into()
    }

    /// Upgrades under the load of `probe`. `before` is called before each request for an upgrade.
    #[track_caller]
    fn flip(&self, probe: AvailabilityProbe, before: impl Fn()) -> Report {
        let what = format!("{}, proxy of {}", self.server.name, self.server.protocol);
        flip_under_load_with(&what, &self.psflip, probe, before)
    }

    /// Stops the service. How it exits is the server's own matter.
    #[track_caller]
    fn stop(&self) {
        self.psflip.stop();
        self.sandbox.assert_no_process_left();
    }

    /// No upgrade has lost a request, and no child has left one unanswered.
    #[track_caller]
    fn loses_nothing(&self, probe: AvailabilityProbe) {
        let report = self.flip(probe, || ());
        if self.server.pool > 0 {
            wait_until(Deadline::default(), "requests on pooled connections", || {
                let status = control::status(&self.psflip.control_path());
                status["proxies"][0]["reused"].as_u64().filter(|reused| *reused > 0)
            });
        }
        self.stop();
        report.assert_no_failures();
        self.assert_all_served();
        self.assert_passed_on(&report);
    }

    /// No request had to be answered by the relay because the child did not.
    #[track_caller]
    fn assert_all_served(&self) {
        assert!(!self.psflip.log().contains("did not serve"), "{}", self.sandbox.report());
    }
    /// The clients' keep-alive connections went from relay to relay. (Each upgrade has four of them.)
    #[track_caller]
    fn assert_passed_on(&self, report: &Report) {
        let log = self.psflip.log();
        let counts =
            log.lines().filter_map(|line| field(line, "connections_passed_on")?.parse::<usize>().ok());
        let (passed_on, flips) = (counts.sum::<usize>(), report.by_tag.len() - 1);
        assert!(passed_on >= flips, "{passed_on} in {flips} upgrades\n{}", self.sandbox.report());
    }
}

/// A file of `apps/`, else of `examples/servers/`.
fn find(name: &str) -> std::path::PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/servers/proxied/apps").join(name);
    if own.exists() { own } else { folder().join(name) }
}
