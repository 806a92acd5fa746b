//! `upgrade.overlap = false`: an application that can't run twice (contract E).

mod faults;
mod good;
mod killed;
mod restarted;
mod stops;

use std::path::PathBuf;

use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, Psflip, PsflipBuilder, Sandbox, double, wait_until};

use crate::service::{configure, generations, program};

/// Holds a lock as long as it lives, and notes it if another one has it.
const ONCE: &str =
    "test -e broken && exit 7; exec 9>once.lock; flock -n 9 || { echo twice >> twice; exit 9; }; exec \"$@\"";

const HEALTHY: &str = "[healthcheck.unix]\npath = \"app.sock\"\ninterval = \"10ms\"\n";
const PROXY: &str =
    "[[proxy]]\nlisten = \"unix://web.sock\"\nforward = \"unix://app.sock\"\nprotocol = \"http\"\n";

/// A program that can't run twice. With the file `broken` it exits with 7.
fn locked(program_and_args: &[&str]) -> Vec<String> {
    let mut argv = vec!["/bin/sh".to_owned(), "-c".to_owned(), ONCE.to_owned(), "once".to_owned()];
    argv.extend(program(program_and_args));
    argv
}

/// A server without any care, on a path of its own that all generations have in common.
fn once(more: &[&str]) -> Vec<String> {
    let server =
        ["http-server", "--unix", "app.sock", "--drain", "0s", "--keep-idle", "0s", "--linger", "0s"];
    locked(&[&server[..], more].concat())
}

/// What belongs to `[upgrade]` comes first.
fn text(upgrade: &str, rest: &str) -> String {
    format!(
        "[upgrade]\noverlap = false\n{upgrade}\n[shutdown]\ntimeout = \"1s\"\n[log]\nlevel = \"debug\"\n{rest}"
    )
}

/// Changes the configuration for the next upgrade.
fn next(sandbox: &Sandbox, argv: &[String], upgrade: &str, health: &str) {
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    configure(sandbox, &argv, &text(upgrade, &format!("{health}{PROXY}")));
}

/// The server behind a proxy.
fn proxied(sandbox: &Sandbox, upgrade: &str) -> PsflipBuilder {
    sandbox.psflip().cmd(once(&[])).config(text(upgrade, &format!("{HEALTHY}{PROXY}")))
}

/// As [`proxied`], with a psflip that a stage pauses, and that has psflip's name.
fn staged(sandbox: &Sandbox) -> PsflipBuilder {
    let exe = sandbox.path("psflip");
    std::os::unix::fs::symlink(double("psflip-staged"), &exe).unwrap();
    proxied(sandbox, "").exe(exe).env("PSFLIP_STAGED", sandbox.dir())
}

fn web(sandbox: &Sandbox) -> PathBuf {
    sandbox.path("web.sock")
}

/// Clients without pause: with and without a connection that they keep, with and without a body.
fn clients(sandbox: &Sandbox) -> AvailabilityProbe {
    let path = web(sandbox);
    AvailabilityProbe::start(4, |number| {
        let client = HttpClient::new(path.as_path());
        let mut client = if number.is_multiple_of(2) { client.keep_alive() } else { client };
        move || {
            let answer = if number < 2 { client.get("/") } else { client.post("/", &[b'x'; 3000]) };
            answer?.tag("name")
        }
    })
}

/// The children never ran at the same time.
#[track_caller]
fn assert_once(sandbox: &Sandbox) {
    assert!(!sandbox.path("twice").exists(), "two children were there at once\n{}", sandbox.report());
}

/// Only one psflip with its relay, keeper and child, below an anchor, is left, and the next upgrade works.
#[track_caller]
fn upgrades_and_ends(sandbox: &Sandbox, psflip: &Psflip) {
    psflip.flip();
    wait_until(Deadline::default(), "the old generation to be gone", || {
        (generations(sandbox).len() == 1).then_some(())
    });
    assert!(HttpClient::new(web(sandbox).as_path()).get("/").is_ok());
    psflip.stop();
    assert_once(sandbox);
    sandbox.assert_no_process_left();
}
