//! A rehearsal as a test runs it.

use std::sync::Arc;

use serde_json::Value;
use testkit::{Deadline, Running, Sandbox, fixture, psflip_bin};

/// Every service listens here: each rehearsal has a network of its own.
pub(crate) const PORT: u16 = 80;

pub(crate) fn address() -> String {
    format!("127.0.0.1:{PORT}")
}

/// A service whose versions all inherit one socket, and have a socket of their own for the health check: no
/// request is lost.
pub(crate) fn careful(sandbox: &Sandbox) {
    let server = fixture("http-server");
    let config = format!(
        "cmd = ['{}', '--inherit', 'listen_fds', '--probe', 'probe-{{{{ generation() }}}}.sock']
pidfile = 'app.pid'
[[listen]]
address = 'tcp://{}'
[healthcheck.unix]
path = 'probe-{{{{ generation() }}}}.sock'
",
        server.display(),
        address()
    );
    sandbox.write("app.toml", config);
}

pub(crate) const LOAD: &[&str] = &["--load", "http://127.0.0.1/", "--pause=100ms"];

/// Starts a rehearsal of `app.toml`.
#[track_caller]
pub(crate) fn start(sandbox: &Sandbox, args: &[&str]) -> Arc<Running> {
    let program = env!("CARGO_BIN_EXE_psflip-rehearse");
    let psflip = psflip_bin();
    let fixed = [program, "--psflip", psflip.to_str().unwrap(), "-c", "app.toml"];
    sandbox.command(fixed.iter().chain(args)).start()
}

/// A rehearsal that was completed.
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// The report of `--json`.
    #[track_caller]
    pub(crate) fn report(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) {
        assert_eq!(self.code, Some(code), "{}\n{}", self.stdout, self.stderr);
    }
}

#[track_caller]
pub(crate) fn rehearse(sandbox: &Sandbox, args: &[&str]) -> Done {
    let running = start(sandbox, args);
    let code = running.wait_exit_by(Deadline::after(std::time::Duration::from_secs(90))).code();
    Done { code, stdout: running.stdout(), stderr: running.stderr() }
}

/// The arguments of a load, and these.
pub(crate) fn with<'a>(more: &[&'a str]) -> Vec<&'a str> {
    LOAD.iter().chain(more).copied().collect()
}

/// Presses Ctrl-C: all processes of the foreground group get SIGINT, and the service is not among them.
#[track_caller]
pub(crate) fn interrupt(sandbox: &Sandbox, rehearsal: &Running) {
    let group = format!("-{}", rehearsal.pid());
    assert!(sandbox.command(["kill", "-INT", "--", &group]).start().wait_exit().success());
}
