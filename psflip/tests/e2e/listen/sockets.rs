//! How the sockets are set up.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::UnixStream;

use nix::sys::socket::{SockType, SockaddrStorage, getsockname, getsockopt, sockopt};
use testkit::Sandbox;

use crate::service::can_trace;

use super::*;

#[test]
fn tcp_udp_unix_abstract_and_ipv6_sockets_have_the_right_type() {
    // Contract: U2
    let sandbox = Sandbox::new();
    let name = format!("@{}", sandbox.path("abstract").display());
    let listeners = [
        listen("tcp://127.0.0.1:0", ""),
        listen("udp://127.0.0.1:0", ""),
        listen(&unix(&sandbox, "app.sock"), ""),
        listen(&format!("unix://{name}"), ""),
        listen("tcp://[::1]:0", ""),
    ];
    let psflip = with_listeners(&sandbox, HOLDER, &listeners.concat()).start().wait_ready();
    let sockets: Vec<_> = (3..8).map(|number| descriptor(psflip.child(), number)).collect();
    let kinds: Vec<_> = sockets.iter().map(|socket| getsockopt(socket, sockopt::SockType).unwrap()).collect();
    let stream = SockType::Stream;
    assert_eq!(kinds, [stream, SockType::Datagram, stream, stream, stream]);
    let listens: Vec<_> =
        sockets.iter().map(|socket| getsockopt(socket, sockopt::AcceptConn).unwrap()).collect();
    assert_eq!(listens, [true, false, true, true, true]);
    let at: Vec<_> = sockets.iter().map(|s| getsockname::<SockaddrStorage>(s.as_raw_fd()).unwrap()).collect();
    assert_eq!(at[0].as_sockaddr_in().unwrap().ip(), std::net::Ipv4Addr::LOCALHOST);
    assert_ne!(at[0].as_sockaddr_in().unwrap().port(), 0);
    assert_eq!(at[4].as_sockaddr_in6().unwrap().ip(), std::net::Ipv6Addr::LOCALHOST);
    assert_eq!(at[2].as_unix_addr().unwrap().path(), Some(&*sandbox.path("app.sock")));
    assert_eq!(at[3].as_unix_addr().unwrap().as_abstract(), Some(&name.as_bytes()[1..]));

    // Clients reach the same sockets after an upgrade. An unread datagram waits for the next child.
    let udp = std::net::SocketAddr::from(std::net::SocketAddrV4::from(*at[1].as_sockaddr_in().unwrap()));
    UdpSocket::bind("127.0.0.1:0").unwrap().send_to(b"hello", udp).unwrap();
    let abstract_address = std::os::unix::net::SocketAddr::from_abstract_name(&name[1..]).unwrap();
    let waits = UnixStream::connect_addr(&abstract_address).unwrap();
    psflip.flip();
    let socket = UdpSocket::from(descriptor(psflip.child(), 4));
    let mut buffer = [0; 16];
    assert_eq!(socket.recv(&mut buffer).unwrap(), 5);
    let server = std::os::unix::net::UnixListener::from(descriptor(psflip.child(), 6));
    let (mut accepted, _) = server.accept().unwrap();
    accepted.write_all(b"served").unwrap();
    drop(accepted);
    let mut answer = String::new();
    (&waits).read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "served");
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn options_of_tcp_sockets_take_effect() {
    // Contract: U2
    let sandbox = Sandbox::new();
    let listeners = [
        listen("tcp://127.0.0.1:0", ""),
        listen("tcp://[::1]:0", "nodelay = true\nreuseport = true\nv6only = true"),
        listen("udp://127.0.0.1:0", "reuseport = true"),
    ];
    let psflip = with_listeners(&sandbox, HOLDER, &listeners.concat()).start().wait_ready();
    let options = |number| {
        let socket = descriptor(psflip.child(), number);
        (getsockopt(&socket, sockopt::ReusePort).unwrap(), getsockopt(&socket, sockopt::TcpNoDelay))
    };
    assert_eq!(options(3), (false, Ok(false)));
    assert_eq!(options(4), (true, Ok(true)));
    assert!(getsockopt(&descriptor(psflip.child(), 4), sockopt::Ipv6V6Only).unwrap());
    assert!(options(5).0);
    psflip.flip();
    assert_eq!(options(4), (true, Ok(true)));
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn an_ipv6_socket_accepts_ipv4_unless_v6only_is_set() {
    // Contract: U2
    let sandbox = Sandbox::new();
    let listeners = listen("tcp://[::]:0", "v6only = false");
    let psflip = with_listeners(&sandbox, SERVER, &listeners).start().wait_ready();
    let port = tcp_address(&psflip, 0).port();
    assert_eq!(ask(std::net::SocketAddr::from(([127, 0, 0, 1], port))).unwrap(), "gen1");
    assert_eq!(ask(std::net::SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, port))).unwrap(), "gen1");
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn two_psflips_share_a_port_with_reuseport_and_only_then() {
    // Contract: U2, C6
    let port = crate::traffic::ports::Reserved::new();
    let address = format!("tcp://{}", port.address());
    let (one, two) = (Sandbox::new(), Sandbox::new());
    let shared = listen(&address, "reuseport = true");
    let first = with_listeners(&one, HOLDER, &shared).start().wait_ready();
    let second = with_listeners(&two, HOLDER, &shared).start().wait_ready();
    ends(&two, &second, &[]);
    let third = with_listeners(&two, HOLDER, &listen(&address, "")).start();
    assert_eq!(third.wait_exit().code(), Some(125), "{}", two.report());
    first.flip();
    ends(&one, &first, &[]);
}

#[test]
fn the_backlog_is_as_configured() {
    // Contract: U2
    if !has_ss() {
        return;
    }
    let sandbox = Sandbox::new();
    let listeners =
        [listen("tcp://127.0.0.1:0", "backlog = 17"), listen(&unix(&sandbox, "app.sock"), "backlog = 23")];
    let psflip = with_listeners(&sandbox, SERVER, &listeners.concat()).start().wait_ready();
    let tcp = tcp_address(&psflip, 0).to_string();
    let path = sandbox.path("app.sock").display().to_string();
    for _ in 0..2 {
        assert_eq!((backlog(&sandbox, &tcp), backlog(&sandbox, &path)), (17, 23));
        psflip.flip();
    }
    // The default backlog is the kernel's maximum, up to 4096.
    let without = [listen("tcp://127.0.0.1:0", ""), listen(&unix(&sandbox, "app.sock"), "")];
    reconfigure(&sandbox, SERVER, &without.concat());
    psflip.flip();
    let most: u32 = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap().trim().parse().unwrap();
    let usual = most.min(4096);
    assert_eq!((backlog(&sandbox, &tcp), backlog(&sandbox, &path)), (usual, usual));
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_socket_file_has_the_configured_mode() {
    // Contract: U2
    for (umask, mode, expected) in [
        (0o022, "", 0o755),
        (0o077, "", 0o700),
        (0o077, "mode = \"0666\"", 0o666),
        (0o000, "mode = \"0600\"", 0o600),
        (0o022, "mode = \"000\"", 0),
    ] {
        let sandbox = Sandbox::new();
        let listeners = listen(&unix(&sandbox, "app.sock"), mode);
        let psflip = with_listeners(&sandbox, HOLDER, &listeners).umask(umask).start().wait_ready();
        for _ in 0..2 {
            assert_eq!(file(&sandbox.path("app.sock")).0, expected, "{mode} with umask {umask:03o}");
            psflip.flip();
        }
        ends(&sandbox, &psflip, &[]);
    }
}

/// inotify reports the file as soon as it exists, but a mode that lasts only briefly is gone by the time the
/// test looks. So the test traces the calls.
#[test]
fn a_socket_file_never_has_wider_permissions_than_configured() {
    // Contract: U2
    let sandbox = Sandbox::new();
    if !can_trace(&sandbox) {
        return;
    }
    let root = crate::tree::is_root();
    let owner = if root { "owner = \"65534\"\ngroup = \"65533\"" } else { "" };
    let listeners = listen(&unix(&sandbox, "app.sock"), &format!("mode = \"0660\"\n{owner}"));
    let trace = sandbox.path("calls").display().to_string();
    let calls = "trace=bind,listen,fchmod,fchmodat,chmod,fchownat";
    let builder = with_listeners(&sandbox, HOLDER, &listeners);
    let psflip = builder
        .umask(0)
        .wrapper(["strace", "-D", "-f", "-qq", "-o", &trace, "-e", calls])
        .start()
        .wait_ready();
    let expected = if root {
        (0o660, 65534, 65533)
    } else {
        (0o660, rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw())
    };
    assert_eq!(file(&sandbox.path("app.sock")), expected);
    let seen = sandbox.read("calls");
    let names: Vec<&str> = seen
        .lines()
        .filter_map(|line| Some(line.split_once(' ')?.1.trim_start().split_once('(')?.0))
        .collect();
    let owner = if root { &["fchownat"][..] } else { &[] };
    let expected = [&["fchmod", "bind"], owner, &["chmod", "listen"]].concat();
    let got: Vec<&str> = names.iter().map(|name| if *name == "fchmodat" { "chmod" } else { name }).collect();
    assert!(got.starts_with(&expected), "{seen}");
    assert!(seen.contains(", 0600)"), "made for its user alone\n{seen}");
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_socket_file_has_the_configured_owner_and_group() {
    // Contract: U2
    let sandbox = Sandbox::new();
    if !crate::tree::is_root() {
        return;
    }
    let path = sandbox.path("app.sock");
    let listeners =
        listen(&unix(&sandbox, "app.sock"), "owner = \"nobody\"\ngroup = \"nogroup\"\nmode = \"0640\"");
    let psflip = with_listeners(&sandbox, SERVER, &listeners).start().wait_ready();
    assert_eq!(file(&path), (0o640, 65534, 65534));
    psflip.flip();
    assert_eq!(file(&path), (0o640, 65534, 65534));
    assert_eq!(ask(&*path).unwrap(), "gen2");
    ends(&sandbox, &psflip, &[]);
}
