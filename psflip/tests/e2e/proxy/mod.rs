//! `[[proxy]]`: a relay carries the clients' connections to the child of the active generation (contract T).
//! The relay's own tests are in `relay/tests`, and those with real servers in `servers/proxied`.

mod flips;
mod in_front;
mod killed;
mod neighbours;
mod started_late;
mod stops;

use std::path::PathBuf;

use testkit::client::http::HttpClient;
use testkit::{Deadline, Process, Psflip, PsflipBuilder, Sandbox, Stream, wait_until};

use crate::service::{configure, psflip};

/// A server without any care: on SIGTERM it closes all connections at once, even those with a request. Each
/// generation has a socket of its own.
const CARELESS: &[&str] = &[
    "http-server",
    "--unix",
    "{{ blue_green() }}.sock",
    "--drain",
    "0s",
    "--keep-idle",
    "0s",
    "--linger",
    "0s",
    "--verbose",
];

const HEALTHY: &str = "[healthcheck.unix]\npath = \"{{ blue_green() }}.sock\"\ninterval = \"10ms\"\n";

/// Healthy once the file `healthy` exists.
const WHEN_TOLD: &str = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"healthy\"]\ninterval = \"10ms\"\n";

/// The proxy, and what follows its table.
fn proxy(keys: &str) -> String {
    format!(
        "[log]\nlevel = \"debug\"\n[[proxy]]\nlisten = \"unix://web.sock\"\nforward = \"unix://{{{{ blue_green() }}}}.sock\"\n\
         protocol = \"http\"\n{keys}\n"
    )
}

/// A psflip with the careless server behind the proxy.
fn careless(sandbox: &Sandbox, rest: &str) -> PsflipBuilder {
    psflip(sandbox, CARELESS, &format!("{HEALTHY}{}{rest}", proxy("")))
}

/// The next generation is healthy only when the file `healthy` exists.
fn next_waits(sandbox: &Sandbox) {
    configure(sandbox, CARELESS, &format!("{WHEN_TOLD}{}", proxy("")));
}

fn web(sandbox: &Sandbox) -> PathBuf {
    sandbox.path("web.sock")
}

/// A client that keeps its connection.
fn kept(sandbox: &Sandbox) -> HttpClient {
    HttpClient::new(web(sandbox).as_path()).keep_alive()
}

/// The generation that answers a client.
#[track_caller]
fn answers(client: &mut HttpClient) -> String {
    client.get("/").unwrap().tag("name").unwrap()
}

/// Waits until a new client is answered by this generation: the pidfile names it a moment before it accepts.
#[track_caller]
fn wait_answer(sandbox: &Sandbox, generation: &str) {
    wait_until(Deadline::default(), format!("{generation} to answer"), || {
        (answers(&mut kept(sandbox)) == generation).then_some(())
    });
}

/// The relays of the sandbox, by their name.
fn relays(sandbox: &Sandbox) -> Vec<Process> {
    let stats = sandbox.processes().into_iter().filter_map(|process| process.stat());
    let relays = stats.filter(|stat| stat.name == "psflip: relay" && stat.state.is_alive());
    relays.map(|stat| stat.process).collect()
}

/// The relay of a psflip that has one.
#[track_caller]
fn relay_of(sandbox: &Sandbox, psflip: Process) -> Process {
    wait_until(Deadline::default(), format!("the relay of {psflip}"), || {
        relays(sandbox).into_iter().find(|relay| relay.parent() == Some(psflip))
    })
}

/// The relay of the active generation.
#[track_caller]
fn relay(sandbox: &Sandbox, psflip: &Psflip) -> Process {
    relay_of(sandbox, psflip.active())
}

/// The position of the first line after `mark` that contains `part`.
#[track_caller]
fn place(psflip: &Psflip, mark: usize, part: &str) -> usize {
    let lines = psflip.output().lines();
    let found = lines.iter().skip(mark).position(|line| line.text.contains(part));
    found.unwrap_or_else(|| panic!("no `{part}` in\n{}", psflip.log()))
}

/// Waits until the child has read a request since `mark`.
#[track_caller]
fn wait_asked(psflip: &Psflip, mark: usize) {
    psflip.output().wait_after(mark, Stream::Stdout, "request ");
}
