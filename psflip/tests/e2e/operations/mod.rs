//! `psflip upgrade`, `status`, `stop`, `hold` and `resume`, as an operator uses them.

pub(crate) mod hold;
mod list;
mod metrics;
mod no_answer;
mod outage;
mod several;
mod status;
mod stop;
mod upgrade;

use std::process::ExitStatus;
use std::sync::Arc;

use testkit::{Psflip, Running, Sandbox, Stream, psflip_bin};

use crate::service::{self, AT_ONCE, UNTIL_FILE};

/// A service whose only requests come from the clients under test.
#[track_caller]
fn start(sandbox: &Sandbox, rest: &str) -> Psflip {
    sandbox.write("healthy", "");
    service::psflip(sandbox, &["http-server", "--unix", "app.sock"], rest).start().wait_ready()
}

/// From now on a new child is not healthy, until [`let_go`].
#[track_caller]
fn hold(sandbox: &Sandbox) {
    std::fs::remove_file(sandbox.path("healthy")).unwrap();
}

#[track_caller]
fn let_go(sandbox: &Sandbox) {
    sandbox.write("healthy", "");
}

/// Starts a client; `-c psflip.toml` is the default.
fn client(sandbox: &Sandbox, args: &[&str]) -> Arc<Running> {
    sandbox.command([psflip_bin()]).args(args).start()
}

/// Runs a client until it exits. Returns its exit status, standard output and standard error.
#[track_caller]
fn run(sandbox: &Sandbox, args: &[&str]) -> (ExitStatus, String, String) {
    ended(&client(sandbox, args))
}

#[track_caller]
fn ended(client: &Running) -> (ExitStatus, String, String) {
    let status = client.wait_exit();
    client.output().wait_closed();
    (status, client.stdout(), client.stderr())
}

/// Waits until a client has reported that a new child runs.
#[track_caller]
fn wait_child(client: &Running) {
    client.output().wait(Stream::Stdout, "child started; waiting until it is healthy");
}

/// A server that is healthy at once.
#[track_caller]
fn start_at_once(sandbox: &Sandbox) -> Psflip {
    start(sandbox, AT_ONCE)
}
