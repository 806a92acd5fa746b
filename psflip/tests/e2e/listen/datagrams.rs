//! Unix sockets for datagrams and for packets (SOCK_DGRAM, SOCK_SEQPACKET of unix(7)).

use std::collections::BTreeMap;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{UnixDatagram, UnixListener};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockType, UnixAddr, bind, connect, getsockopt, recv, send, socket,
    sockopt,
};
use testkit::{Deadline, Sandbox, wait_until};

use super::*;

/// A server that reads datagrams from descriptor 0.
const SINK: &[&str] = &["datagram-sink"];

/// An address such as `unixgram://`, with this file of the sandbox.
fn at(sandbox: &Sandbox, kind: &str, name: &str) -> String {
    format!("{kind}://{}", sandbox.path(name).display())
}

/// A connection to a packet socket, which waits to be accepted.
fn packet_client(address: &UnixAddr) -> OwnedFd {
    let client = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    connect(client.as_raw_fd(), address).unwrap();
    client
}

/// Accepts the waiting connection, and reads one packet from it.
#[track_caller]
fn accepted_packet(server: &OwnedFd) -> Vec<u8> {
    // The standard library's type works with any connection, and its accept(2), too.
    let (mut connection, _) = UnixListener::from(server.try_clone().unwrap()).accept().unwrap();
    let mut buffer = [0; 64];
    let length = connection.read(&mut buffer).unwrap();
    buffer[..length].to_vec()
}

#[test]
fn datagram_and_packet_sockets_keep_their_queues_over_an_upgrade() {
    // Contract: U2
    let sandbox = Sandbox::new();
    let name = sandbox.path("abstract").display().to_string();
    let listeners = [
        listen(&at(&sandbox, "unixgram", "gram.sock"), "mode = \"0620\""),
        listen(&format!("unixgram://@{name}.gram"), "nonblock = true"),
        listen(&at(&sandbox, "unixpacket", "packet.sock"), "mode = \"0660\"\nbacklog = 7"),
        listen(&format!("unixpacket://@{name}.packet"), ""),
    ];
    let psflip = with_listeners(&sandbox, HOLDER, &listeners.concat()).start().wait_ready();
    let held = || -> Vec<OwnedFd> { (3..7).map(|number| descriptor(psflip.child(), number)).collect() };
    let kinds: Vec<_> = held().iter().map(|held| getsockopt(held, sockopt::SockType).unwrap()).collect();
    assert_eq!(kinds, [SockType::Datagram, SockType::Datagram, SockType::SeqPacket, SockType::SeqPacket]);
    let accepts: Vec<_> = held().iter().map(|held| getsockopt(held, sockopt::AcceptConn).unwrap()).collect();
    assert_eq!(accepts, [false, false, true, true]);
    assert_eq!((file(&sandbox.path("gram.sock")).0, file(&sandbox.path("packet.sock")).0), (0o620, 0o660));

    let client = UnixDatagram::unbound().unwrap();
    client.send_to(b"by path", sandbox.path("gram.sock")).unwrap();
    let by_name = std::os::unix::net::SocketAddr::from_abstract_name(format!("{name}.gram")).unwrap();
    client.send_to_addr(b"by name", &by_name).unwrap();
    let addresses = [
        UnixAddr::new(&sandbox.path("packet.sock")).unwrap(),
        UnixAddr::new_abstract(format!("{name}.packet").as_bytes()).unwrap(),
    ];
    let clients = addresses.map(|address| packet_client(&address));
    for client in &clients {
        send(client.as_raw_fd(), b"a packet", MsgFlags::empty()).unwrap();
    }
    psflip.flip();
    let held = held();
    for (held, text) in held.iter().zip([b"by path", b"by name"]) {
        let mut buffer = [0; 64];
        let length = recv(held.as_raw_fd(), &mut buffer, MsgFlags::MSG_DONTWAIT).unwrap();
        assert_eq!(&buffer[..length], text);
    }
    for held in &held[2..] {
        assert_eq!(accepted_packet(held), b"a packet");
    }
    drop(clients);
    ends(&sandbox, &psflip, &[]);
}

const FLIPS: u32 = 5;
/// Datagrams that a sender sends during an upgrade.
const ROUND: u32 = 300;

/// Sends as fast as the queue allows. It blocks while the queue is full.
fn send_a_round(path: &Path, sender: u32, round: u32) {
    let client = UnixDatagram::unbound().unwrap();
    client.connect(path).unwrap();
    client.set_write_timeout(Some(Duration::from_secs(30))).unwrap();
    for number in 0..ROUND {
        client.send(format!("{sender}:{round}:{number}").as_bytes()).unwrap();
    }
}

#[test]
fn no_datagram_is_lost_over_upgrades() {
    // Contract: U2, U5
    let sandbox = Sandbox::new();
    let path = sandbox.path("gram.sock");
    let listener = listen(&at(&sandbox, "unixgram", "gram.sock"), "as = \"stdin\"");
    let psflip = with_listeners(&sandbox, SINK, &listener).start().wait_ready();
    let count = || psflip.program().stdout().lines().filter(|line| line.starts_with("datagram ")).count();
    for round in 0..FLIPS {
        thread::scope(|scope| {
            for sender in 0..2 {
                let path = &path;
                scope.spawn(move || send_a_round(path, sender, round));
            }
            psflip.flip();
        });
    }
    send_a_round(&path, 0, FLIPS);
    let total = (2 * FLIPS + 1) * ROUND;
    wait_until(Deadline::default(), "every datagram to be read", || {
        (count() >= total as usize).then_some(())
    });
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let mut readers = BTreeSet::new();
    for line in psflip.program().stdout().lines().filter_map(|line| line.strip_prefix("datagram name=")) {
        let (reader, text) = line.split_once(' ').unwrap();
        readers.insert(reader.to_owned());
        *seen.entry(text.to_owned()).or_default() += 1;
    }
    assert!(seen.values().all(|times| *times == 1) && seen.len() == total as usize, "{total}: {seen:?}");
    // While two readers overlap, the kernel chooses the reader. But the last generation has read the last
    // round.
    assert!(readers.contains(&format!("gen{}", FLIPS + 1)), "{readers:?}");
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn an_upgrade_may_change_options_of_datagram_and_packet_sockets() {
    // Contract: U2, U8
    let sandbox = Sandbox::new();
    let gram = |rest: &str| listen(&at(&sandbox, "unixgram", "gram.sock"), rest);
    let packet = listen(&at(&sandbox, "unixpacket", "packet.sock"), "");
    let psflip = with_listeners(&sandbox, HOLDER, &gram("mode = \"0600\"")).start().wait_ready();
    let inode = || std::fs::symlink_metadata(sandbox.path("gram.sock")).unwrap().ino();
    let first = inode();
    // Another type at the same path needs another socket, and the old child has this one.
    reconfigure(&sandbox, HOLDER, &listen(&at(&sandbox, "unixpacket", "gram.sock"), ""));
    let line = fails(&sandbox, &psflip);
    assert!(line.contains("can't listen on `unixpacket://") && line.contains("another process"), "{line}");
    assert_eq!((inode(), file(&sandbox.path("gram.sock")).0), (first, 0o600));
    // One socket is added, and the other one changed.
    reconfigure(&sandbox, HOLDER, &format!("{packet}{}", gram("mode = \"0666\"")));
    psflip.flip();
    assert_eq!((inode(), file(&sandbox.path("gram.sock")).0), (first, 0o666));
    assert_left(&sandbox, &["gram.sock", "packet.sock"]);
    // Both are removed, one by one.
    reconfigure(&sandbox, HOLDER, &packet);
    psflip.flip();
    assert_left(&sandbox, &["packet.sock"]);
    reconfigure(&sandbox, HOLDER, "");
    psflip.flip();
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_stale_socket_file_of_any_type_is_replaced_and_one_in_use_is_not() {
    // Contract: C6, F10
    let sandbox = Sandbox::new();
    let path = sandbox.path("app.sock");
    let packet = || {
        let socket = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(socket.as_raw_fd(), &UnixAddr::new(&path).unwrap()).unwrap();
        listen_on(&socket);
        socket
    };
    let of_each_type: [&dyn Fn() -> OwnedFd; 3] = [
        &|| UnixListener::bind(&path).unwrap().into(),
        &|| UnixDatagram::bind(&path).unwrap().into(),
        &packet,
    ];
    for kind in ["unixgram", "unixpacket", "unix"] {
        for other in of_each_type {
            let in_use = other();
            let psflip =
                with_listeners(&sandbox, HOLDER, &listen(&at(&sandbox, kind, "app.sock"), "")).start();
            assert_eq!(psflip.wait_exit().code(), Some(125), "{}", sandbox.report());
            let line = psflip.wait_for_line(Stream::Stderr, "can't listen on `");
            assert!(line.text.contains("another process listens there"), "{line}");
            drop(in_use);
            let psflip = with_listeners(&sandbox, HOLDER, &listen(&at(&sandbox, kind, "app.sock"), ""))
                .start()
                .wait_ready();
            ends(&sandbox, &psflip, &[]);
        }
    }
}

#[test]
fn activated_datagram_and_packet_sockets_are_passed_by_name() {
    // Contract: C3, U2
    let sandbox = Sandbox::new();
    let gram = UnixDatagram::bind(sandbox.path("gram.sock")).unwrap();
    let packet = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(packet.as_raw_fd(), &UnixAddr::new(&sandbox.path("packet.sock")).unwrap()).unwrap();
    listen_on(&packet);
    let told = ["sh", "-c", "LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=gram:packet exec \"$@\"", "sh"];
    let config = format!("{AT_ONCE}{}{}", listen("systemd:packet", ""), listen("systemd:gram", ""));
    let builder = psflip(&sandbox, HOLDER, &config).wrapper(told);
    let psflip = builder.inherit_fd(gram, 3).inherit_fd(packet, 4).start().wait_ready();
    for _ in 0..2 {
        let types: Vec<_> = (3..5)
            .map(|number| getsockopt(&descriptor(psflip.child(), number), sockopt::SockType).unwrap())
            .collect();
        assert_eq!(types, [SockType::SeqPacket, SockType::Datagram]);
        psflip.flip();
    }
    ends(&sandbox, &psflip, &["gram.sock", "packet.sock"]);
    for name in ["gram.sock", "packet.sock"] {
        std::fs::remove_file(sandbox.path(name)).unwrap();
    }
}

fn listen_on(socket: &OwnedFd) {
    nix::sys::socket::listen(socket, nix::sys::socket::Backlog::new(8).unwrap()).unwrap();
}
