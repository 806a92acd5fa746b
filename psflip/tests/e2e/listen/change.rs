//! Which changes of the sockets an upgrade makes, and what stays the same when it fails.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{getsockopt, setsockopt, sockopt};
use testkit::{Deadline, Sandbox, wait_until};

use super::*;
use crate::traffic::ports::Reserved;

/// A child whose upgrade fails.
const FAILS: &[&str] = &["exit-with", "--code", "3"];

#[test]
fn a_listener_that_is_added_serves_with_the_new_generation() {
    // Contract: U2, U8
    let sandbox = Sandbox::new();
    let one = listen(&unix(&sandbox, "one.sock"), "");
    let two = listen(&unix(&sandbox, "two.sock"), "");
    let psflip = with_listeners(&sandbox, SERVER, &one).start().wait_ready();
    // A first upgrade fails: the file that it created is gone again.
    configure(&sandbox, FAILS, &format!("[healthcheck.alive]\ntimeout = \"1m\"\n{one}{two}"));
    fails(&sandbox, &psflip);
    assert_left(&sandbox, &["one.sock"]);
    assert_eq!(ask(sandbox.path("one.sock")).unwrap(), "gen1");
    reconfigure(&sandbox, SERVER, &format!("{two}{one}"));
    psflip.flip();
    wait_answer(sandbox.path("two.sock"), "gen2");
    wait_answer(sandbox.path("one.sock"), "gen2");
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_removed_listener_stays_open_until_the_old_generation_exits() {
    // Contract: U2, U5
    let sandbox = Sandbox::new();
    let port = Reserved::new();
    let rest = listen(&unix(&sandbox, "stays.sock"), "");
    let removed = format!(
        "{}{}",
        listen(&unix(&sandbox, "goes.sock"), ""),
        listen(&format!("tcp://{}", port.address()), "")
    );
    let drains = "[shutdown]\ndelay = \"1h\"\ntimeout = \"1h\"\n";
    let config = format!("{AT_ONCE}{drains}{rest}{removed}");
    let psflip = psflip(&sandbox, SERVER, &config).start().wait_ready();
    let (old, old_child) = (psflip.active(), psflip.child());
    reconfigure(&sandbox, SERVER, &rest);
    psflip.request_flip();
    psflip.wait_successor(old);
    psflip.output().wait(Stream::Stdout, "name=gen2");
    // The old child keeps serving while it drains.
    assert_eq!(ask(sandbox.path("goes.sock")).unwrap(), "gen1");
    assert_eq!(ask(port.address()).unwrap(), "gen1");
    let second = psflip.child();
    assert_eq!(sockets_of(second).intersection(&sockets_of(old_child)).count(), 1);
    // The old child gets the stop signal, and exits.
    end(old_child);
    psflip.wait_gone(old);
    wait_until(Deadline::default(), "the file of the removed socket to be removed", || {
        (!sandbox.path("goes.sock").exists()).then_some(())
    });
    TcpStream::connect(port.address()).unwrap_err();
    assert_eq!(ask(sandbox.path("stays.sock")).unwrap(), "gen2");
    assert_left(&sandbox, &["stays.sock"]);
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn no_client_waits_in_the_queue_of_a_removed_and_closed_socket() {
    // Contract: U2, U5
    let sandbox = Sandbox::new();
    let port = Reserved::new();
    let removed = format!(
        "{}{}",
        listen(&unix(&sandbox, "goes.sock"), ""),
        listen(&format!("tcp://{}", port.address()), "")
    );
    let psflip = with_listeners(&sandbox, SERVER, &removed).start().wait_ready();
    let old = psflip.active();
    // One request is open, so the old generation stays.
    let mut slow = UnixStream::connect(sandbox.path("goes.sock")).unwrap();
    slow.write_all(b"GET /slow?ms=3000 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    // By then, all earlier connections are accepted.
    assert_eq!(ask(sandbox.path("goes.sock")).unwrap(), "gen1");
    reconfigure(&sandbox, SERVER, "");
    let mark = psflip.output().mark();
    configure(&sandbox, HOLDER, AT_ONCE);
    psflip.request_flip();
    psflip.output().wait_after(mark, Stream::Stdout, "closed 127.0.0.1");
    psflip.output().wait_after(mark, Stream::Stdout, "closed unix:");
    TcpStream::connect(port.address()).expect_err("refused, not queued");
    UnixStream::connect(sandbox.path("goes.sock")).expect_err("refused, not queued");
    assert!(old.is_alive(), "it drains still");
    let mut answer = String::new();
    slow.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("name=gen1"), "{answer}");
    psflip.wait_gone(old);
    wait_until(Deadline::default(), "the file of the removed socket to be removed", || {
        (!sandbox.path("goes.sock").exists()).then_some(())
    });
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_listener_that_is_removed_can_come_back() {
    // Contract: U2
    let sandbox = Sandbox::new();
    let listeners = listen(&unix(&sandbox, "app.sock"), "");
    let psflip = with_listeners(&sandbox, SERVER, &listeners).start().wait_ready();
    for _ in 0..3 {
        configure(&sandbox, HOLDER, AT_ONCE);
        psflip.flip();
        wait_until(Deadline::default(), "the file of the removed socket to be removed", || {
            (!sandbox.path("app.sock").exists()).then_some(())
        });
        reconfigure(&sandbox, SERVER, &listeners);
        psflip.flip();
        ask(sandbox.path("app.sock")).unwrap();
    }
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn mode_owner_backlog_and_nodelay_change_without_refused_clients() {
    // Contract: U2
    let sandbox = Sandbox::new();
    let root = crate::tree::is_root();
    let path = sandbox.path("app.sock");
    let listeners = |mode: &str, owner: &str, backlog: u32, nodelay: bool| {
        let owner = if root { format!("owner = \"{owner}\"\ngroup = \"{owner}\"\n") } else { String::new() };
        let at = unix(&sandbox, "app.sock");
        let unix = listen(&at, &format!("mode = \"{mode}\"\nbacklog = {backlog}\n{owner}"));
        format!("{unix}{}", listen("tcp://127.0.0.1:0", &format!("nodelay = {nodelay}\nbacklog = {backlog}")))
    };
    let psflip = with_listeners(&sandbox, SERVER, &listeners("0600", "0", 100, false)).start().wait_ready();
    let tcp = tcp_address(&psflip, 0);
    let identity = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap());
    let probe = testkit::AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::unix(&path);
        move || client.get("/")?.tag("name")
    });
    for (mode, owner, backlog, nodelay, bits) in
        [("0666", "65534", 7, true, 0o666), ("0640", "0", 300, false, 0o640)]
    {
        reconfigure(&sandbox, SERVER, &listeners(mode, owner, backlog, nodelay));
        psflip.flip();
        let (is, uid, gid) = file(&path);
        assert_eq!(is, bits);
        if root {
            assert_eq!((uid.to_string(), gid.to_string()), (owner.to_owned(), owner.to_owned()));
        }
        if has_ss() {
            let shown = path.display().to_string();
            assert_eq!(
                (self::backlog(&sandbox, &shown), self::backlog(&sandbox, &tcp.to_string())),
                (backlog, backlog)
            );
        }
        assert_eq!(getsockopt(&bound_to(psflip.child(), tcp), sockopt::TcpNoDelay), Ok(nodelay));
        assert_eq!(std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&path).unwrap()), identity);
    }
    probe.wait_requests(10);
    probe.finish().assert_no_failures();
    ends(&sandbox, &psflip, &[]);
}

/// A server such as gunicorn sets TCP_NODELAY on the socket that it inherits. If an upgrade reset the option,
/// many answers would take 40 ms longer.
#[test]
fn options_set_by_the_child_stay_unless_configured() {
    // Contract: C3, U8
    let sandbox = Sandbox::new();
    let psflip = with_listeners(&sandbox, SERVER, &listen("tcp://127.0.0.1:0", "")).start().wait_ready();
    let tcp = tcp_address(&psflip, 0);
    let nodelay = || getsockopt(&bound_to(psflip.child(), tcp), sockopt::TcpNoDelay).unwrap();
    let nonblock = || {
        let flags = fcntl(bound_to(psflip.child(), tcp), FcntlArg::F_GETFL).unwrap();
        OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK)
    };
    assert!(nonblock(), "this server sets it");
    // The option belongs to the socket, which all processes share, so this equals a call of the child.
    setsockopt(&bound_to(psflip.child(), tcp), sockopt::TcpNoDelay, &true).unwrap();
    psflip.flip();
    assert!(nodelay() && nonblock(), "a promotion has taken it away");
    configure(
        &sandbox,
        SERVER,
        &format!(
            "{AT_ONCE}{}[switch.symlink]\npath = \"current\"\nto = \"nothing\"\n",
            listen("tcp://127.0.0.1:0", "nodelay = false\nnonblock = false")
        ),
    );
    fails(&sandbox, &psflip);
    assert!(nodelay() && nonblock(), "a failed upgrade has taken it away");
    reconfigure(&sandbox, SERVER, &listen("tcp://127.0.0.1:0", "nodelay = false"));
    psflip.flip();
    assert!(!nodelay() && nonblock(), "only the configuration decides");
    ends(&sandbox, &psflip, &[]);
}

/// nginx uses an inherited socket as it is. A worker that loses the race for a connection would block in
/// accept(2).
#[test]
fn a_socket_is_non_blocking_for_a_child_that_does_not_set_it() {
    // Contract: C3
    let sandbox = Sandbox::new();
    for (option, expected) in [("", false), ("nonblock = true", true)] {
        let idle = ["/bin/sleep", "infinity"];
        let listeners =
            format!("{}{}", listen("tcp://127.0.0.1:0", option), listen(&unix(&sandbox, "app.sock"), option));
        let psflip = with_listeners(&sandbox, &idle, &listeners).start().wait_ready();
        for number in [3, 4] {
            let flags = std::fs::read_to_string(format!("/proc/{}/fdinfo/{number}", psflip.child())).unwrap();
            let flags = flags.lines().find_map(|line| line.strip_prefix("flags:")).unwrap().trim();
            let bits = OFlag::from_bits_retain(i32::from_str_radix(flags, 8).unwrap());
            assert_eq!(bits.contains(OFlag::O_NONBLOCK), expected, "{number}: {flags}");
        }
        crate::service::stop(&psflip);
    }
}

#[test]
fn a_failed_upgrade_leaves_mode_owner_backlog_and_nodelay_unchanged() {
    // Contract: U8
    let sandbox = Sandbox::new();
    let path = sandbox.path("app.sock");
    let (at, tcp) = (unix(&sandbox, "app.sock"), "tcp://127.0.0.1:0");
    for first in ["mode = \"0640\"\n", ""] {
        let listeners =
            format!("{}{}", listen(&at, &format!("{first}backlog = 50")), listen(tcp, "backlog = 60"));
        let psflip = with_listeners(&sandbox, SERVER, &listeners).umask(0o022).start().wait_ready();
        let address = tcp_address(&psflip, 0);
        if first.is_empty() {
            // A mode that an administrator has set by hand is kept.
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o710)).unwrap();
        }
        let before = file(&path);
        let owner = if crate::tree::is_root() { "owner = \"65534\"\n" } else { "" };
        let wanted = [
            listen(&at, &format!("mode = \"0606\"\n{owner}backlog = 9")),
            listen(tcp, "nodelay = true\nbacklog = 9"),
        ];
        // The last step fails: the pidfile can't be written, since a directory has its name.
        sandbox.write("elsewhere/file", "");
        let config = format!(
            "{AT_ONCE}[switch.symlink]\npath = \"elsewhere\"\nto = \"psflip.toml\"\n{}",
            wanted.concat()
        );
        configure(&sandbox, SERVER, &config);
        let reason = fails(&sandbox, &psflip);
        assert!(reason.contains("no symbolic link"), "{reason}");
        assert_eq!(file(&path), before);
        assert_eq!(getsockopt(&bound_to(psflip.child(), address), sockopt::TcpNoDelay), Ok(false));
        if has_ss() {
            assert_eq!(
                (backlog(&sandbox, &path.display().to_string()), backlog(&sandbox, &address.to_string())),
                (50, 60)
            );
        }
        std::fs::remove_file(sandbox.path("elsewhere/file")).unwrap();
        std::fs::remove_dir(sandbox.path("elsewhere")).unwrap();
        reconfigure(&sandbox, SERVER, &wanted.concat());
        psflip.flip();
        assert_eq!(file(&path).0, 0o606);
        ends(&sandbox, &psflip, &[]);
    }
}

#[test]
fn options_that_an_open_socket_can_not_change_fail_the_upgrade() {
    // Contract: U8
    let sandbox = Sandbox::new();
    let (six, four) = ("tcp://[::]:0", "udp://127.0.0.1:0");
    let with = |first: &str, second: &str| format!("{}{}", listen(six, first), listen(four, second));
    let psflip =
        with_listeners(&sandbox, HOLDER, &with("v6only = true", "reuseport = true")).start().wait_ready();
    for (first, second, key) in [
        ("v6only = false", "reuseport = true", "`v6only` is true"),
        ("v6only = true\nreuseport = true", "reuseport = true", "`reuseport` is false"),
        ("v6only = true", "", "`reuseport` is true"),
    ] {
        reconfigure(&sandbox, HOLDER, &with(first, second));
        let reason = fails(&sandbox, &psflip);
        assert!(reason.contains(key) && reason.contains("restart the service"), "{reason}");
    }
    reconfigure(&sandbox, HOLDER, &with("v6only = true", "reuseport = true"));
    psflip.flip();
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn an_address_in_use_fails_the_upgrade_and_changes_nothing() {
    // Contract: U8, F10
    let sandbox = Sandbox::new();
    let path = sandbox.path("app.sock");
    let old = listen(&unix(&sandbox, "app.sock"), "mode = \"0640\"");
    let psflip = with_listeners(&sandbox, SERVER, &old).start().wait_ready();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = listen(&format!("tcp://{}", other.local_addr().unwrap()), "");
    let foreign = std::os::unix::net::UnixListener::bind(sandbox.path("foreign.sock")).unwrap();
    let foreigner = listen(&unix(&sandbox, "foreign.sock"), "");
    let added = listen(&unix(&sandbox, "added.sock"), "");
    let changed = listen(&unix(&sandbox, "app.sock"), "mode = \"0666\"");
    let snapshot = testkit::FdSnapshot::of(psflip.active());
    for in_use in [taken, foreigner] {
        reconfigure(&sandbox, SERVER, &format!("{changed}{added}{in_use}"));
        let reason = fails(&sandbox, &psflip);
        assert!(reason.contains("another process listens there"), "{reason}");
        assert_eq!(file(&path).0, 0o640);
        assert_left(&sandbox, &["app.sock", "foreign.sock"]);
        assert_eq!(ask(&*path).unwrap(), "gen1");
    }
    snapshot.assert_unchanged();
    drop((other, foreign));
    reconfigure(&sandbox, SERVER, &changed);
    psflip.flip();
    wait_answer(&*path, "gen2");
    std::fs::remove_file(sandbox.path("foreign.sock")).unwrap();
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_removed_socket_file_is_created_again_at_the_next_upgrade() {
    // Contract: U2, U8
    let sandbox = Sandbox::new();
    let path = sandbox.path("app.sock");
    let listeners = listen(&unix(&sandbox, "app.sock"), "mode = \"0600\"");
    let psflip = with_listeners(&sandbox, SERVER, &listeners).start().wait_ready();
    std::fs::remove_file(&path).unwrap();
    // A failed upgrade changes nothing.
    configure(&sandbox, FAILS, &format!("[healthcheck.alive]\ntimeout = \"1m\"\n{listeners}"));
    fails(&sandbox, &psflip);
    assert_left(&sandbox, &[]);
    reconfigure(&sandbox, SERVER, &listeners);
    psflip.flip();
    assert_eq!(ask(&*path).unwrap(), "gen2");
    assert_eq!(file(&path).0, 0o600);
    psflip.flip();
    wait_answer(&*path, "gen3");
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_foreign_socket_file_is_left_alone() {
    // Contract: U8
    let sandbox = Sandbox::new();
    let path = sandbox.path("app.sock");
    let listeners = listen(&unix(&sandbox, "app.sock"), "");
    let psflip = with_listeners(&sandbox, SERVER, &listeners).start().wait_ready();
    std::fs::remove_file(&path).unwrap();
    let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let reason = fails(&sandbox, &psflip);
    assert!(reason.contains("another process listens there"), "{reason}");
    // At the stop it is not removed either.
    ends(&sandbox, &psflip, &["app.sock"]);
    drop(other);
    std::fs::remove_file(&path).unwrap();
}

#[test]
fn the_accept_queue_stays_the_same_over_upgrades() {
    // Contract: U2
    let sandbox = Sandbox::new();
    let path = sandbox.path("app.sock");
    let listeners = format!("{}{}", listen(&unix(&sandbox, "app.sock"), ""), listen("tcp://127.0.0.1:0", ""));
    // No server accepts, so the data of clients waits.
    let psflip = with_listeners(&sandbox, HOLDER, &listeners).start().wait_ready();
    let tcp = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrIn>(std::os::fd::AsRawFd::as_raw_fd(
        &descriptor(psflip.child(), 4),
    ));
    let tcp = std::net::SocketAddr::from(std::net::SocketAddrV4::from(tcp.unwrap()));
    let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let mut one = UnixStream::connect(&path).unwrap();
    one.write_all(request).unwrap();
    let mut two = TcpStream::connect(tcp).unwrap();
    two.write_all(request).unwrap();
    psflip.flip();
    reconfigure(&sandbox, SERVER, &listeners);
    psflip.flip();
    for stream in [&mut one as &mut dyn Read, &mut two] {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("name=gen3"), "{answer}");
    }
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn socket_files_are_removed_at_any_kind_of_exit() {
    // Contract: C5, F11
    let sandbox = Sandbox::new();
    let listeners = listen(&unix(&sandbox, "app.sock"), "");
    // A stop before and after an upgrade, and a child that exits by itself.
    for flips in 0..2 {
        let psflip = with_listeners(&sandbox, SERVER, &listeners).start().wait_ready();
        for _ in 0..flips {
            psflip.flip();
        }
        ends(&sandbox, &psflip, &[]);
    }
    let psflip = with_listeners(&sandbox, SERVER, &listeners).start().wait_ready();
    let old = psflip.active();
    psflip.flip();
    assert_left(&sandbox, &["app.sock"]);
    let (active, child) = (psflip.active(), psflip.child());
    assert_ne!(active, old);
    crate::service::kill(child);
    psflip.wait_gone(active);
    assert_left(&sandbox, &[]);
}
