//! A first start whose sockets can't be opened: exit code 125, a reason, and nothing is left behind.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener};

use testkit::Sandbox;

use super::*;

/// psflip exits with 125 and this reason, never started its child, and leaves only what existed before.
/// Returns the log.
#[track_caller]
fn refuses(sandbox: &Sandbox, listeners: &str, reason: &str, left: &[&str]) -> String {
    let psflip = with_listeners(sandbox, &["http-server", "--inherit", "listen_fds"], listeners).start();
    assert_eq!(psflip.wait_exit().code(), Some(125), "{}", sandbox.report());
    let line = psflip.wait_for_line(Stream::Stderr, "can't listen on `");
    assert!(line.text.contains(reason), "{line}\nwhich should say `{reason}`");
    assert_eq!(psflip.program().stdout(), "", "the child was started");
    assert!(!psflip.pidfile_path().exists());
    assert_left(sandbox, left);
    sandbox.assert_no_process_left();
    line.text
}

#[test]
fn a_stale_socket_file_is_replaced() {
    // Contract: F10
    let sandbox = Sandbox::new();
    drop(UnixListener::bind(sandbox.path("app.sock")).unwrap());
    let listeners = listen(&unix(&sandbox, "app.sock"), "mode = \"0600\"");
    let psflip = with_listeners(&sandbox, SERVER, &listeners).start().wait_ready();
    assert_eq!(ask(sandbox.path("app.sock")).unwrap(), "gen1");
    assert_eq!(file(&sandbox.path("app.sock")).0, 0o600);
    assert_left(&sandbox, &["app.sock"]);
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_socket_with_a_listener_is_left_alone() {
    // Contract: C6, F10
    let sandbox = Sandbox::new();
    let other = UnixListener::bind(sandbox.path("app.sock")).unwrap();
    let before = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(sandbox.path("app.sock")).unwrap());
    // A socket that was opened earlier is removed again.
    let listeners = [listen(&unix(&sandbox, "first.sock"), ""), listen(&unix(&sandbox, "app.sock"), "")];
    refuses(&sandbox, &listeners.concat(), "another process listens there", &["app.sock"]);
    let after = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(sandbox.path("app.sock")).unwrap());
    assert_eq!(before, after);
    drop(other);
}

#[test]
fn a_socket_whose_queue_is_full_is_in_use() {
    // Contract: C6
    let sandbox = Sandbox::new();
    let path = sandbox.path("app.sock");
    let flags = nix::sys::socket::SockFlag::SOCK_CLOEXEC | nix::sys::socket::SockFlag::SOCK_NONBLOCK;
    let socket = || {
        use nix::sys::socket::{AddressFamily, SockType, socket};
        socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap()
    };
    let address = nix::sys::socket::UnixAddr::new(&path).unwrap();
    let server = socket();
    nix::sys::socket::bind(std::os::fd::AsRawFd::as_raw_fd(&server), &address).unwrap();
    nix::sys::socket::listen(&server, nix::sys::socket::Backlog::new(0).unwrap()).unwrap();
    let mut clients = Vec::new();
    loop {
        let client = socket();
        let connected = nix::sys::socket::connect(std::os::fd::AsRawFd::as_raw_fd(&client), &address);
        clients.push(client);
        if connected.is_err() {
            break;
        }
    }
    refuses(
        &sandbox,
        &listen(&unix(&sandbox, "app.sock"), ""),
        "another process listens there",
        &["app.sock"],
    );
    drop(clients);
}

#[test]
fn anything_but_a_socket_is_left_alone() {
    // Contract: C6, F10
    let sandbox = Sandbox::new();
    sandbox.write("app.sock", "precious");
    refuses(&sandbox, &listen(&unix(&sandbox, "app.sock"), ""), "it is no socket", &[]);
    assert_eq!(sandbox.read("app.sock"), "precious");
    std::fs::create_dir(sandbox.path("dir.sock")).unwrap();
    refuses(&sandbox, &listen(&unix(&sandbox, "dir.sock"), ""), "it is no socket", &[]);
    std::os::unix::fs::symlink("app.sock", sandbox.path("link.sock")).unwrap();
    refuses(&sandbox, &listen(&unix(&sandbox, "link.sock"), ""), "it is no socket", &["link.sock"]);
    let other = UnixDatagram::bind(sandbox.path("datagram.sock")).unwrap();
    let listeners = listen(&unix(&sandbox, "datagram.sock"), "");
    refuses(&sandbox, &listeners, "another process listens there", &["datagram.sock", "link.sock"]);
    drop(other);
}

#[test]
fn a_directory_that_is_missing_or_not_writable_is_named() {
    // Contract: C6, F10
    let sandbox = Sandbox::new();
    let line =
        refuses(&sandbox, &listen(&unix(&sandbox, "missing/app.sock"), ""), "No such file or directory", &[]);
    assert!(line.contains("missing/app.sock"), "{line}");
    std::fs::create_dir(sandbox.path("closed")).unwrap();
    std::fs::set_permissions(sandbox.path("closed"), std::fs::Permissions::from_mode(0o555)).unwrap();
    if crate::tree::is_root() {
        std::fs::set_permissions(sandbox.dir(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let listeners = listen(&unix(&sandbox, "closed/app.sock"), "");
        let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
        let psflip = with_listeners(&sandbox, SERVER, &listeners).wrapper(user).start();
        assert_eq!(psflip.wait_exit().code(), Some(125), "{}", sandbox.report());
        psflip.wait_for_line(Stream::Stderr, "Permission denied");
    } else {
        refuses(&sandbox, &listen(&unix(&sandbox, "closed/app.sock"), ""), "Permission denied", &[]);
    }
    assert_left(&sandbox, &[]);
}

#[test]
fn a_too_long_path_is_a_configuration_error() {
    // Contract: X1
    let sandbox = Sandbox::new();
    let longest = 107 - sandbox.path("").as_os_str().len();
    let name = "x".repeat(longest);
    let psflip = with_listeners(&sandbox, SERVER, &listen(&unix(&sandbox, &name), "")).start().wait_ready();
    assert_eq!(ask(sandbox.path(&name)).unwrap(), "gen1");
    ends(&sandbox, &psflip, &[]);
    let psflip = with_listeners(&sandbox, SERVER, &listen(&unix(&sandbox, &format!("{name}x")), "")).start();
    assert_eq!(psflip.wait_exit().code(), Some(78), "{}", sandbox.report());
    psflip.wait_for_line(Stream::Stderr, "107");
}

#[test]
fn an_address_in_use_is_reported() {
    // Contract: C6, F10
    let sandbox = Sandbox::new();
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("tcp://{}", other.local_addr().unwrap());
    let listeners = [listen(&unix(&sandbox, "app.sock"), ""), listen(&taken, "")];
    refuses(&sandbox, &listeners.concat(), "another process listens there", &[]);
    let name = format!("@{}", sandbox.path("abstract").display());
    let address = <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(
        &name[1..],
    );
    let other = UnixListener::bind_addr(&address.unwrap()).unwrap();
    refuses(&sandbox, &listen(&format!("unix://{name}"), ""), "another process listens there", &[]);
    drop(other);
    refuses(&sandbox, &listen("tcp://192.0.2.1:0", ""), "this host does not have that address", &[]);
}

#[test]
fn an_unknown_or_forbidden_owner_is_reported() {
    // Contract: C6, F10
    let sandbox = Sandbox::new();
    let at = unix(&sandbox, "app.sock");
    refuses(&sandbox, &listen(&at, "owner = \"no-such-user\""), "there is no such user", &[]);
    refuses(&sandbox, &listen(&at, "group = \"no-such-group\""), "there is no such group", &[]);
    if !crate::tree::is_root() {
        refuses(&sandbox, &listen(&at, "owner = \"0\""), "Operation not permitted", &[]);
    }
}

#[test]
fn a_child_that_does_not_start_leaves_no_socket() {
    // Contract: C6, F3
    let sandbox = Sandbox::new();
    let listeners = listen(&unix(&sandbox, "app.sock"), "");
    for (argv, code) in [
        (&["/no/such/program"][..], 127),
        (&["/etc/passwd"], 126),
        (&["exit-with", "--code", "7"], 7),
        (&["exit-with", "--code", "0"], 1),
    ] {
        let config = format!("[healthcheck.alive]\ntimeout = \"10s\"\n{listeners}");
        let psflip = psflip(&sandbox, argv, &config).start();
        assert_eq!(psflip.wait_exit().code(), Some(code), "{argv:?}\n{}", sandbox.report());
        assert_left(&sandbox, &[]);
    }
    let never =
        "[healthcheck.command]\ncmd = [\"false\"]\ninterval = \"5ms\"\n[upgrade]\ntimeout = \"100ms\"\n";
    let psflip = psflip(&sandbox, HOLDER, &format!("{never}{listeners}")).start();
    assert_eq!(psflip.wait_exit().code(), Some(124), "{}", sandbox.report());
    assert_left(&sandbox, &[]);
    sandbox.assert_no_process_left();
}

#[test]
fn a_health_check_of_a_shared_listener_is_a_configuration_error() {
    // Contract: X1, U3
    let sandbox = Sandbox::new();
    let path = sandbox.path("app.sock").display().to_string();
    let port = 4711; // no test gets far enough to listen there
    for (health, address) in [
        (format!("unix]\npath = \"{path}\""), format!("unix://{path}")),
        (format!("http]\nurl = \"unix://{path}:/up\""), format!("unix://{path}")),
        (format!("tcp]\naddress = \"127.0.0.1:{port}\""), format!("tcp://0.0.0.0:{port}")),
    ] {
        let config = format!("[healthcheck.{health}\n{}", listen(&address, ""));
        let psflip = psflip(&sandbox, SERVER, &config).start();
        assert_eq!(psflip.wait_exit().code(), Some(78), "{}", sandbox.report());
        psflip.wait_for_line(Stream::Stderr, "the health check probes the shared listener");
        psflip.wait_for_line(Stream::Stderr, "healthcheck.notify");
    }
}
