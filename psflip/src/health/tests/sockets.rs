//! `tcp` and `unix`.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, UnixAddr, bind, getsockname, listen, socket,
};

use super::super::Checker;
use super::*;

fn tcp(addresses: &[SocketAddr]) -> Checker {
    checker(&Health::Tcp { addresses: addresses.to_vec(), text: String::new(), pace: PACE })
}

/// A port on which nothing listens, and nothing else can while the socket exists.
fn bound() -> (OwnedFd, SocketAddr) {
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let any = SockaddrIn::from(std::net::SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
    bind(socket.as_raw_fd(), &any).unwrap();
    let address: SockaddrIn = getsockname(socket.as_raw_fd()).unwrap();
    (socket, address.into())
}

fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

fn refused(address: SocketAddr) -> String {
    format!("connect to {address}: Connection refused (os error 111)")
}

#[test]
fn tcp_is_healthy_once_a_server_listens() {
    // Contract: H1
    let (_listener, address) = listening();
    let mut checker = tcp(&[address]);
    assert_eq!(first_probe(&mut checker), HEALTHY);
    assert_eq!((checker.probes(), checker.last_failure()), (1, None));
    assert!(checker.watch().is_none());
}

#[test]
fn tcp_is_retried_until_a_server_listens() {
    // Contract: H1, H4
    let (socket, address) = bound();
    let mut checker = tcp(&[address]);
    assert_eq!(first_failure(&mut checker), refused(address));
    listen(&socket, Backlog::new(1).unwrap()).unwrap();
    let step = checker.on_timer();
    assert_eq!(settle(&mut checker, step), HEALTHY);
    assert_eq!(checker.probes(), 2);
}

#[test]
fn every_tcp_address_is_tried_in_order() {
    // Contract: H1, H4
    let (_socket, closed) = bound();
    let (_other_socket, also_closed) = bound();
    let (_listener, open) = listening();
    assert_eq!(first_probe(&mut tcp(&[closed, also_closed, open])), HEALTHY);
    let both = format!("{}; {}", refused(closed), refused(also_closed));
    assert_eq!(first_failure(&mut tcp(&[closed, also_closed])), both);
}

#[test]
fn a_tcp_connection_that_is_not_answered_fails_at_the_probes_timeout() {
    // Contract: H2, H4
    let (socket, address) = bound();
    listen(&socket, Backlog::new(0).unwrap()).unwrap();
    let _fills_the_backlog = TcpStream::connect(address).unwrap();
    wait_for_input(&socket); // the connection is in the backlog: from now on the kernel accepts no other one
    let mut checker = tcp(&[address]);
    assert_eq!(checker.start(), BEGUN);
    assert_eq!(checker.on_ready(), CheckResult::NOTHING, "nothing is decided");
    assert_eq!(checker.last_failure(), Some("the first probe had no answer yet"));
    assert_eq!(checker.on_timer(), SOON);
    let wanted = format!("probe 1 failed: connect to {address}: no answer within 5s");
    assert_eq!(checker.last_failure(), Some(wanted.as_str()));
    assert!(checker.watch().is_none(), "the attempt is given up");
}

#[test]
fn several_successes_in_a_row_are_counted() {
    // Contract: H1
    let (_listener, address) = listening();
    let pace = Pace { successes: 2, ..PACE };
    let mut checker = checker(&Health::Tcp { addresses: vec![address], text: String::new(), pace });
    assert_eq!(first_probe(&mut checker), AGAIN);
    let step = checker.on_timer();
    assert_eq!(settle(&mut checker, step), HEALTHY);
}

#[test]
fn while_nothing_listens_the_probes_stay_close_together() {
    // Contract: H1, U9
    let (_socket, closed) = bound();
    let directory = tempfile::tempdir().unwrap();
    for mut checker in [tcp(&[closed]), unix(directory.path().join("none.sock"), None)] {
        let mut step = first_probe(&mut checker);
        // A server that answered would be probed 32 ms after its sixth failure.
        for _ in 0..10 {
            assert_eq!(step, SOON);
            step = checker.on_timer();
            step = settle(&mut checker, step);
        }
    }
}

#[test]
fn no_probe_is_made_before_after() {
    // Contract: H1
    let (_listener, address) = listening();
    let pace = Pace { after: TIMEOUT, ..PACE };
    let mut checker = checker(&Health::Tcp { addresses: vec![address], text: String::new(), pace });
    assert_eq!(checker.start(), BEGUN);
    assert!(checker.watch().is_none() && checker.probes() == 0);
    let step = checker.on_timer();
    assert_eq!(settle(&mut checker, step), HEALTHY);
}

fn unix(path: impl Into<PathBuf>, workdir: Option<&Path>) -> Checker {
    let workdir = workdir.map(Path::to_path_buf);
    checker_of(&Health::Unix { path: path.into(), pace: PACE }, ChildInfo { workdir, ..child() })
}

#[test]
fn a_connection_to_the_old_child_does_not_count() {
    // Contract: U3, H4
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    // This process listens. With its parent as the old psflip, it counts as the old child.
    let of_psflip = |pid| {
        let child = ChildInfo { old_psflips: vec![pid], ..child() };
        checker_of(&Health::Unix { path: path.clone(), pace: PACE }, child)
    };
    let mut checker = of_psflip(std::os::unix::process::parent_id());
    assert_eq!(checker.start(), SOON);
    let failure = checker.last_failure().unwrap();
    assert!(
        failure.contains(&format!("the old generation (pid {}) still listens there", std::process::id())),
        "{failure}"
    );
    assert_eq!(of_psflip(i32::MAX.cast_unsigned()).start(), HEALTHY, "another psflip's");
}

#[test]
fn unix_is_healthy_at_once_without_the_event_loop() {
    // Contract: H1, U9
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    assert_eq!(unix(&path, None).start(), HEALTHY);
}

#[test]
fn unix_fails_without_a_listener_and_reports_why() {
    // Contract: H1, H4
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let shown = path.display();
    let mut checker = unix(&path, None);
    let missing = format!("connect to {shown}: No such file or directory (os error 2)");
    assert_eq!(first_failure(&mut checker), missing);
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
    assert_eq!(checker.on_timer(), SOON);
    let closed = format!("probe 2 failed: connect to {shown}: Connection refused (os error 111)");
    assert_eq!(checker.last_failure(), Some(closed.as_str()));
    listen(&socket, Backlog::new(1).unwrap()).unwrap();
    assert_eq!(checker.on_timer(), HEALTHY);
}

#[test]
fn a_unix_socket_with_a_full_backlog_is_not_healthy_yet() {
    // Contract: H1, H4
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    listen(&listener, Backlog::new(0).unwrap()).unwrap();
    let _fills_the_backlog = UnixStream::connect(&path).unwrap();
    let mut checker = unix(&path, None);
    let failure = first_failure(&mut checker);
    assert!(failure.contains("it listens, but its backlog is full"), "{failure}");
    listener.accept().unwrap();
    assert_eq!(checker.on_timer(), HEALTHY);
}

#[test]
fn an_abstract_unix_socket_is_found() {
    // Contract: H1
    let directory = tempfile::tempdir().unwrap(); // its name is unique
    let name = directory.path().to_str().unwrap();
    let mut checker = unix(format!("@{name}"), None);
    let failure = first_failure(&mut checker);
    assert_eq!(failure, format!("connect to @{name}: Connection refused (os error 111)"));
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(socket.as_raw_fd(), &UnixAddr::new_abstract(name.as_bytes()).unwrap()).unwrap();
    listen(&socket, Backlog::new(1).unwrap()).unwrap();
    assert_eq!(checker.on_timer(), HEALTHY);
}

#[test]
fn a_unix_socket_is_looked_for_in_the_childs_directory_however_deep_that_is() {
    // Contract: H1
    let directory = tempfile::tempdir().unwrap();
    let near = directory.path().join("app.sock");
    let _listener = UnixListener::bind(&near).unwrap();
    assert_eq!(unix("app.sock", Some(directory.path())).start(), HEALTHY);
    let deep = directory.path().join("d".repeat(200));
    std::fs::create_dir(&deep).unwrap();
    let mut checker = unix("app.sock", Some(&deep));
    assert!(first_failure(&mut checker).contains("No such file or directory"));
    std::fs::rename(&near, deep.join("app.sock")).unwrap();
    assert_eq!(checker.on_timer(), HEALTHY);
}
