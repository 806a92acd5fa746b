//! `psflip migrate`: what it says and writes, and that what comes of upstream's examples runs, flips and stops.

use std::path::Path;

use testkit::client::http::HttpClient;
use testkit::{PsflipBuilder, Running, Sandbox, Signal, fixture, psflip_bin};

use crate::service::{script, stop};
use crate::traffic::ports::Reserved;

/// Runs `psflip migrate` to its end.
fn migrate(sandbox: &Sandbox, arguments: &[&str]) -> (i32, std::sync::Arc<Running>) {
    let psflip = psflip_bin().display().to_string();
    let argv = [psflip.as_str(), "migrate"].iter().chain(arguments).copied();
    let running = sandbox.command(argv).start();
    let code = running.wait_exit().code().unwrap_or(-1);
    (code, running)
}

/// An example of upstream's, in the words of this project.
fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrate");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// Migrates an example in the sandbox to `psflip.toml`, with these changes of the original, and gives a psflip for it.
#[track_caller]
fn migrated(sandbox: &Sandbox, name: &str, changes: &[(&str, &str)], left: bool) -> PsflipBuilder {
    let mut text = example(name);
    for (from, to) in changes {
        assert!(text.contains(from), "`{from}` is not in {name}");
        text = text.replace(from, to);
    }
    sandbox.write(name, text);
    let (code, running) = migrate(sandbox, &[name, "-o", "psflip.toml"]);
    assert_eq!(code, i32::from(left), "{}", running.stderr());
    assert!(running.stderr().contains("`psflip check` accepts"), "{}", running.stderr());
    sandbox.psflip().config_file("psflip.toml")
}

/// Starts it, flips it once, stops it.
#[track_caller]
fn flips(sandbox: &Sandbox, builder: PsflipBuilder, upgrade: Signal) {
    let psflip = builder.upgrade_signal(upgrade).start().wait_ready();
    let before = psflip.child();
    psflip.flip();
    assert_ne!(psflip.child(), before, "{}", sandbox.report());
    stop(&psflip);
    sandbox.assert_no_process_left();
}

/// A health check that doesn't wait for five seconds, for examples that have none.
const QUICK: (&str, &str) = ("cmd:", "healthcheck: { alive: { timeout: 50ms } }\ncmd:");
/// The pidfile that the tests look for.
const PIDFILE: (&str, &str) = ("cmd:", "pidfile: psflip.pid\ncmd:");
