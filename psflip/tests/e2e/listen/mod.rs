//! `[[listen]]`: sockets that psflip opens once and that every generation's child inherits. The tests cover
//! what the child finds, how the sockets are set up, what an upgrade may change, and what is left when a
//! process is killed.

mod activation;
mod change;
mod datagrams;
mod fd_store;
mod killed;
mod protocols;
mod refused;
mod sockets;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use testkit::client::http::HttpClient;
use testkit::client::{ClientError, Target};
use testkit::{Deadline, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream, wait_until};

use crate::service::{AT_ONCE, configure, psflip};

/// An HTTP server that takes its sockets by systemd's protocol.
const SERVER: &[&str] = &["http-server", "--inherit", "listen_fds", "--keep-idle", "2s"];

/// A server that holds its sockets and never uses them.
const HOLDER: &[&str] = &["/bin/sleep", "infinity"];

/// A `[[listen]]` with this address and these other keys.
fn listen(address: &str, rest: &str) -> String {
    format!("[[listen]]\naddress = \"{address}\"\n{rest}\n")
}

/// All log lines.
const DEBUG: &str = "[log]\nlevel = \"debug\"\n";

/// An address `unix://` with this file of the sandbox.
fn unix(sandbox: &Sandbox, name: &str) -> String {
    format!("unix://{}", sandbox.path(name).display())
}

/// A psflip with this child, healthy at once, and these listeners.
fn with_listeners(sandbox: &Sandbox, argv: &[&str], listeners: &str) -> PsflipBuilder {
    psflip(sandbox, argv, &format!("{AT_ONCE}{DEBUG}{listeners}"))
}

/// Sets the next generation's configuration.
fn reconfigure(sandbox: &Sandbox, argv: &[&str], listeners: &str) {
    configure(sandbox, argv, &format!("{AT_ONCE}{DEBUG}{listeners}"));
}

/// The generation that answers at this address.
fn ask(target: impl Into<Target>) -> Result<String, ClientError> {
    HttpClient::new(target).get("/")?.tag("name")
}

/// The TCP address that a server logged, the `nth` of all, counted from 0.
#[track_caller]
fn tcp_address(psflip: &Psflip, nth: usize) -> SocketAddr {
    psflip.output().wait_for(Deadline::default(), "the address that the server listens on", |lines| {
        let addresses = lines.iter().filter(|line| line.stream == Stream::Stdout);
        addresses.filter_map(|line| line.text.strip_prefix("listening ")?.parse().ok()).nth(nth)
    })
}

/// The view of generation `number` of the introspector, by key.
#[track_caller]
fn view(psflip: &Psflip, number: usize) -> BTreeMap<String, String> {
    let lines = psflip.output().wait_for(Deadline::default(), "a view of the introspector", |lines| {
        let out: Vec<_> = lines.iter().filter(|line| line.stream == Stream::Stdout).collect();
        let ends: Vec<usize> =
            (0..out.len()).filter(|index| out[*index].text.starts_with("ready pid=")).collect();
        let end = *ends.get(number - 1)?;
        let begin = (0..end).rev().find(|index| out[*index].text.starts_with("argv[00]="))?;
        Some(out[begin..=end].iter().map(|line| line.text.clone()).collect::<Vec<_>>())
    });
    let facts = lines.iter().filter_map(|line| line.split_once('='));
    facts.map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// The variables in a view that announce sockets.
fn announced(view: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let variables = view.iter().filter(|(key, _)| key.starts_with("env["));
    variables
        .filter_map(|(_, variable)| variable.split_once('='))
        .filter(|(name, _)| ["LISTEN_", "SERVER_STARTER_", "EINHORN_"].iter().any(|p| name.starts_with(p)))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A copy of a descriptor of another process.
#[track_caller]
fn descriptor(process: Process, number: i32) -> OwnedFd {
    let pid = Pid::from_raw(process.pid().cast_signed()).unwrap();
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
    pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty())
        .unwrap_or_else(|error| panic!("descriptor {number} of {process} can't be had: {error}"))
}

/// A copy of a process's listening socket at this address.
#[track_caller]
fn bound_to(process: Process, address: SocketAddr) -> OwnedFd {
    use nix::sys::socket::{SockaddrIn, getsockname, getsockopt, sockopt};
    let numbers = process.open_fds().unwrap();
    let sockets = numbers.iter().filter(|(_, target)| target.starts_with("socket:"));
    let mut copies = sockets.map(|(number, _)| descriptor(process, *number));
    let is_it = |copy: &OwnedFd| {
        let name = getsockname::<SockaddrIn>(std::os::fd::AsRawFd::as_raw_fd(copy));
        let bound = name.is_ok_and(|name| SocketAddr::from(std::net::SocketAddrV4::from(name)) == address);
        bound && getsockopt(copy, sockopt::AcceptConn) == Ok(true)
    };
    copies.find(is_it).unwrap_or_else(|| panic!("{process} doesn't listen on {address}"))
}

/// The sockets that a process holds, as `/proc` shows them.
fn sockets_of(process: Process) -> BTreeSet<String> {
    let fds = process.open_fds().unwrap_or_default(); // it may have exited
    fds.into_values().filter(|target| target.starts_with("socket:")).collect()
}

/// The backlog of the listening socket at this place (`unix path`, `address:port`), as ss(8) shows it.
#[track_caller]
fn backlog(sandbox: &Sandbox, place: &str) -> u32 {
    let ss = sandbox.command(["ss", "-Hlnxt"]).start();
    assert!(ss.wait_exit().success(), "{}", sandbox.report());
    ss.output().wait_closed();
    let text = ss.stdout();
    let lines = text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found: Vec<u32> =
        lines.filter(|words| words[4] == place).map(|words| words[3].parse().unwrap()).collect();
    assert_eq!(found.len(), 1, "{place} in\n{text}");
    found[0]
}

/// Whether ss(8) is installed. If not, the caller skips the test.
#[track_caller]
fn has_ss() -> bool {
    testkit::need("ss").is_some()
}

/// Permissions, owner and group of a socket's file.
#[track_caller]
fn file(path: &Path) -> (u32, u32, u32) {
    let metadata = std::fs::symlink_metadata(path)
        .unwrap_or_else(|error| panic!("`{}` can't be seen: {error}", path.display()));
    assert!(metadata.file_type().is_socket(), "`{}` is no socket", path.display());
    (metadata.mode() & 0o7777, metadata.uid(), metadata.gid())
}

/// Requests an upgrade that fails, and checks that the old generation is unchanged (contract U8). Returns the
/// log line with the reason.
#[track_caller]
fn fails(sandbox: &Sandbox, psflip: &Psflip) -> String {
    let (old, child) = (psflip.active(), psflip.child());
    let mark = psflip.output().mark();
    psflip.request_flip();
    let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
    testkit::wait_until(Deadline::default(), "only one psflip, keeper and child to be left", || {
        (sandbox.processes().len() == 3).then_some(())
    });
    assert_eq!((psflip.active(), psflip.child()), (old, child), "{}", sandbox.report());
    line.text
}

/// Stops the service of [`HOLDER`] or a server. Only these socket files may be left.
#[track_caller]
fn ends(sandbox: &Sandbox, psflip: &Psflip, left: &[&str]) {
    crate::service::stop(psflip);
    assert_left(sandbox, left);
    sandbox.assert_no_process_left();
}

/// The sandbox contains only these sockets, symlinks and hidden files. While there is a pidfile, the control
/// socket exists, too.
#[track_caller]
fn assert_left(sandbox: &Sandbox, left: &[&str]) {
    // The new generation removes a socket of its predecessor when that one has exited.
    wait_until(Deadline::default(), format!("{left:?} to be left"), || {
        (sockets(sandbox) == left).then_some(())
    });
}

/// The sockets, symlinks and hidden files in the sandbox.
fn sockets(sandbox: &Sandbox) -> Vec<String> {
    let entries = std::fs::read_dir(sandbox.dir()).unwrap().map(Result::unwrap);
    let has_pidfile = sandbox.path("psflip.pid").exists();
    let entries = entries.filter(|entry| !(has_pidfile && entry.file_name() == "psflip.pid.sock"));
    let mut found: Vec<String> = entries
        .filter(|entry| {
            let kind = entry.file_type().unwrap();
            kind.is_socket() || kind.is_symlink() || entry.file_name().to_string_lossy().starts_with('.')
        })
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    found.sort();
    found
}

/// Waits until this generation answers [`ask`].
#[track_caller]
fn wait_answer(target: impl Into<Target>, name: &str) {
    let target = target.into();
    testkit::wait_until(Deadline::default(), format!("an answer of {name}"), || {
        (ask(target.clone()).ok()? == name).then_some(())
    });
}

/// Sends the stop signal to a process.
#[track_caller]
fn end(process: Process) {
    process.signal(Signal::SIGTERM).unwrap();
}
