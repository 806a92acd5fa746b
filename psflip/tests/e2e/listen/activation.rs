//! psflip inherits sockets from its supervisor. It passes them on by name, or unchanged if the configuration
//! has no `[[listen]]`.

use std::net::TcpListener;
use std::os::unix::net::UnixListener;

use testkit::Sandbox;

use super::*;

/// A psflip that inherits the Unix socket `web.sock` (`web`), a TCP socket (`admin`) and another one of that
/// name.
fn activated(sandbox: &Sandbox, argv: &[&str], config: &str) -> PsflipBuilder {
    let web = UnixListener::bind(sandbox.path("web.sock")).unwrap();
    let admin = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    // LISTEN_PID must be psflip's own pid, so a shell sets it and then executes psflip.
    let told = ["sh", "-c", "LISTEN_FDS=3 LISTEN_PID=$$ LISTEN_FDNAMES=web:admin:admin exec \"$@\"", "sh"];
    let builder = psflip(sandbox, argv, &format!("{AT_ONCE}{config}")).wrapper(told);
    builder.inherit_fd(web, 3).inherit_fd(admin, 4).inherit_fd(other, 5)
}

fn passed_on(name: &str, rest: &str) -> String {
    listen(&format!("systemd:{name}"), rest)
}

#[test]
fn activated_sockets_are_passed_by_name_in_every_generation() {
    // Contract: C3, U2
    let sandbox = Sandbox::new();
    let psflip = activated(&sandbox, SERVER, &passed_on("web", "")).start().wait_ready();
    for generation in ["gen1", "gen2", "gen3"] {
        wait_answer(sandbox.path("web.sock"), generation);
        let (given, has) = (sockets_of(psflip.active()), sockets_of(psflip.child()));
        assert_eq!(has.intersection(&given).count(), 1, "no other sockets\n{}", sandbox.report());
        psflip.flip();
    }
    // The socket's file belongs to the supervisor, so psflip leaves it.
    ends(&sandbox, &psflip, &["web.sock"]);
    std::fs::remove_file(sandbox.path("web.sock")).unwrap();
}

#[test]
fn activated_and_own_sockets_are_passed_by_any_protocol() {
    // Contract: C3
    let sandbox = Sandbox::new();
    let own = listen(&unix(&sandbox, "own.sock"), "name = \"own\"");
    let config = format!("{}{own}{}", passed_on("admin", ""), passed_on("web", "as = \"einhorn\""));
    let psflip = activated(&sandbox, &["introspect", "--hold"], &config).start().wait_ready();
    let mut first = None;
    for generation in 1..=3 {
        let seen = view(&psflip, generation);
        let told = announced(&seen);
        let value = |name: &str| told.get(name).map(String::as_str);
        assert_eq!(value("LISTEN_FDS"), Some("3"));
        assert_eq!(value("LISTEN_FDNAMES"), Some("admin:admin:own"));
        assert_eq!(value("LISTEN_PID"), seen.get("pid").map(String::as_str));
        assert_eq!((value("EINHORN_FD_COUNT"), value("EINHORN_FD_0")), (Some("1"), Some("6")));
        let sockets: Vec<String> = (3..7).map(|n| seen[&format!("fd[00{n}]")].clone()).collect();
        assert!(!seen.contains_key("fd[007]"), "{seen:?}");
        assert_eq!(*first.get_or_insert(sockets.clone()), sockets);
        psflip.flip();
    }
    ends(&sandbox, &psflip, &["web.sock"]);
    std::fs::remove_file(sandbox.path("web.sock")).unwrap();
}

#[test]
fn activated_sockets_pass_through_unchanged_without_a_listener() {
    // Contract: C3
    let sandbox = Sandbox::new();
    let psflip = activated(&sandbox, &["introspect", "--hold"], "").start().wait_ready();
    let mut first = None;
    for generation in 1..=3 {
        let seen = view(&psflip, generation);
        assert_eq!(announced(&seen).len(), 0, "it does not inherit them by accident");
        let sockets: Vec<String> = (3..6).map(|n| seen[&format!("fd[00{n}]")].clone()).collect();
        assert!(sockets.iter().all(|socket| socket.starts_with("socket:[")), "{sockets:?}");
        assert_eq!(*first.get_or_insert(sockets.clone()), sockets);
        psflip.flip();
    }
    // The next configuration wants one of them. From then on the others are hidden.
    configure(&sandbox, SERVER, &format!("{AT_ONCE}{}", passed_on("web", "")));
    psflip.flip();
    wait_answer(sandbox.path("web.sock"), "gen5");
    let (given, has) = (sockets_of(psflip.active()), sockets_of(psflip.child()));
    assert_eq!(has.intersection(&given).count(), 1, "{}", sandbox.report());
    ends(&sandbox, &psflip, &["web.sock"]);
    std::fs::remove_file(sandbox.path("web.sock")).unwrap();
}

#[test]
fn a_socket_name_that_was_not_passed_is_reported() {
    // Contract: C6, U8
    let sandbox = Sandbox::new();
    let psflip = with_listeners(&sandbox, SERVER, &passed_on("web", "")).start();
    assert_eq!(psflip.wait_exit().code(), Some(125), "{}", sandbox.report());
    psflip.wait_for_line(Stream::Stderr, "psflip was given no socket by its service manager");
    let psflip = activated(&sandbox, SERVER, &passed_on("wep", "")).start();
    assert_eq!(psflip.wait_exit().code(), Some(125), "{}", sandbox.report());
    psflip.wait_for_line(Stream::Stderr, "it was given `web`, `admin`, `admin`");
    std::fs::remove_file(sandbox.path("web.sock")).unwrap();

    let psflip = activated(&sandbox, SERVER, &passed_on("web", "")).start().wait_ready();
    reconfigure(&sandbox, SERVER, &passed_on("wep", ""));
    let reason = fails(&sandbox, &psflip);
    assert!(reason.contains("can't listen on `systemd:wep`"), "{reason}");
    wait_answer(sandbox.path("web.sock"), "gen1");
    ends(&sandbox, &psflip, &["web.sock"]);
    std::fs::remove_file(sandbox.path("web.sock")).unwrap();
}

#[test]
fn sockets_for_another_process_are_ignored() {
    // Contract: C3
    let sandbox = Sandbox::new();
    let web = UnixListener::bind(sandbox.path("web.sock")).unwrap();
    let builder = with_listeners(&sandbox, SERVER, &passed_on("web", "")).inherit_fd(web, 3);
    let psflip = builder.env("LISTEN_FDS", "1").env("LISTEN_PID", "1").env("LISTEN_FDNAMES", "web").start();
    assert_eq!(psflip.wait_exit().code(), Some(125), "{}", sandbox.report());
    psflip.wait_for_line(Stream::Stderr, "psflip was given no socket by its service manager");
    std::fs::remove_file(sandbox.path("web.sock")).unwrap();
}

#[test]
fn announced_but_missing_descriptors_are_reported() {
    // Contract: C6, C3
    let sandbox = Sandbox::new();
    let told = ["sh", "-c", "LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=web:admin exec \"$@\"", "sh"];
    let web = UnixListener::bind(sandbox.path("web.sock")).unwrap();
    let config = format!("{}{}", passed_on("web", ""), passed_on("admin", ""));
    let psflip = with_listeners(&sandbox, SERVER, &config).wrapper(told).inherit_fd(web, 3).start();
    assert_eq!(psflip.wait_exit().code(), Some(125), "{}", sandbox.report());
    psflip.wait_for_line(Stream::Stderr, "can't listen on `systemd:admin`");
    std::fs::remove_file(sandbox.path("web.sock")).unwrap();
}

#[test]
fn sockets_activated_by_systemd_itself_work() {
    // Contract: C3
    if testkit::need("systemd-socket-activate").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    let socket = sandbox.path("web.sock");
    let listens = format!("--listen={}", socket.display());
    let activate = ["systemd-socket-activate", &listens, "--fdname=web"];
    let psflip = with_listeners(&sandbox, SERVER, &passed_on("web", "")).wrapper(activate).start();
    // The first client starts psflip, and gets its answer.
    psflip.wait_for_line(Stream::Stderr, "Listening on");
    assert_eq!(ask(&*socket).unwrap(), "gen1");
    psflip.wait_pidfile();
    psflip.flip();
    wait_answer(&*socket, "gen2");
    ends(&sandbox, &psflip, &["web.sock"]);
    std::fs::remove_file(&socket).unwrap();
}
