//! systemd keeps the sockets that psflip opened (`FDSTORE=1`). When every process was killed, the next psflip
//! inherits the same sockets, and waiting clients are served.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use testkit::notify::Notice;
use testkit::{NotifyManager, wait_until};

use super::*;
use crate::service::{generations, kill, stop};

/// The sockets that systemd keeps after these notifications, with their names.
fn kept(notices: &[Notice]) -> Vec<(String, Arc<OwnedFd>)> {
    let mut kept: Vec<(String, Arc<OwnedFd>)> = Vec::new();
    for notice in notices {
        let name = || notice.value("FDNAME").unwrap().to_owned();
        if notice.has("FDSTORE=1") {
            assert!(notice.has("FDPOLL=0") && notice.fds.len() == 1, "{notice:?}");
            assert!(kept.iter().all(|(known, _)| *known != name()), "{notice:?} is known");
            kept.push((name(), Arc::clone(&notice.fds[0])));
        } else if notice.has("FDSTOREREMOVE=1") {
            let (name, before) = (name(), kept.len());
            kept.retain(|(known, _)| *known != name);
            assert_eq!(kept.len() + 1, before, "{name} was not stored");
        }
    }
    kept
}

/// A psflip whose service manager keeps sockets, and passes on these from an earlier run.
fn keeping_with(sandbox: &Sandbox, builder: PsflipBuilder, kept: &[(String, Arc<OwnedFd>)]) -> PsflipBuilder {
    let mut builder = builder.env("NOTIFY_SOCKET", sandbox.path("notify")).env("FDSTORE", "16");
    if kept.is_empty() {
        return builder;
    }
    let names: Vec<&str> = kept.iter().map(|(name, _)| name.as_str()).collect();
    builder = builder.env("LISTEN_FDS", kept.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    for ((_, socket), number) in kept.iter().zip(3..) {
        builder = builder.inherit_fd(socket.try_clone().unwrap(), number);
    }
    builder.wrapper(["sh", "-c", "LISTEN_PID=$$ exec \"$@\"", "sh"])
}

/// As [`keeping_with`], with this child and these listeners.
fn keeping(
    sandbox: &Sandbox,
    argv: &[&str],
    listeners: &str,
    kept: &[(String, Arc<OwnedFd>)],
) -> PsflipBuilder {
    keeping_with(sandbox, with_listeners(sandbox, argv, listeners), kept)
}

/// Kills every process of the service, as nearly at once as possible.
#[track_caller]
fn kill_all(sandbox: &Sandbox) {
    // psflip first: if it saw its child die, it would remove the sockets that must stay.
    generations(sandbox).into_iter().chain(sandbox.processes()).for_each(kill);
    wait_until(Deadline::default(), "all processes to exit", || {
        sandbox.processes().iter().all(|process| !process.is_alive()).then_some(())
    });
}

/// The names of the kept sockets, once there are `count` of them.
#[track_caller]
fn wait_kept(manager: &NotifyManager, count: usize) -> Vec<(String, Arc<OwnedFd>)> {
    manager.wait_for(&format!("{count} sockets to be stored"), |notices| {
        Some(kept(notices)).filter(|kept| kept.len() == count)
    })
}

#[test]
fn after_everything_is_killed_the_stored_socket_of_a_proxy_serves_waiting_clients() {
    // Contract: T2, C7
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let path = sandbox.path("app.sock");
    let server = ["http-server", "--unix", "{{ blue_green() }}.sock"];
    let config = format!(
        "[healthcheck.unix]\npath = \"{{{{ blue_green() }}}}.sock\"\ninterval = \"10ms\"\n[[proxy]]\nlisten = \"{}\"\nforward = \"unix://{{{{ blue_green() }}}}.sock\"\nprotocol = \"http\"\n",
        unix(&sandbox, "app.sock")
    );
    let start = |kept: &[_]| keeping_with(&sandbox, psflip(&sandbox, &server, &config), kept);
    let first = start(&[]).start().wait_ready();
    let stored = wait_kept(&manager, 1);
    assert_eq!(ask(&*path).unwrap(), "gen1");
    first.wait_for_line(Stream::Stderr, "healthy, active");
    for _ in 0..2 {
        kill_all(&sandbox);
        let mut client = UnixStream::connect(&path).unwrap();
        client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let service = start(&stored).start().wait_ready();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("name=gen1"), "{answer}");
        service.flip();
        assert_eq!(ask(&*path).unwrap(), "gen2");
    }
    // A stop keeps the file too: it may be the first half of a `systemctl restart`.
    let service = start(&stored).start().wait_ready();
    stop(&service);
    sandbox.assert_no_process_left();
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let service = start(&stored).start().wait_ready();
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    assert!(answer.contains("name=gen1"), "{answer}");
    stop(&service);
    sandbox.assert_no_process_left();
}

#[test]
fn after_everything_is_killed_stored_sockets_serve_waiting_clients() {
    // Contract: C7
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let path = sandbox.path("app.sock");
    let listeners =
        format!("{}{}", listen(&unix(&sandbox, "app.sock"), ""), listen("tcp://127.0.0.1:0", "name = \"t\""));
    let psflip = keeping(&sandbox, SERVER, &listeners, &[]).start().wait_ready();
    let tcp = tcp_address(&psflip, 0);
    let mut before = wait_kept(&manager, 2);
    assert!(before[0].0.starts_with("psflip-") && before[0].0.contains("-unix%3A///"), "{before:?}");
    assert_eq!(before[1].0, "psflip--tcp%3A//127.0.0.1%3A0");
    let inode = std::fs::metadata(&path).unwrap().ino();
    for round in 0..3 {
        kill_all(&sandbox);
        // They wait for a server that isn't running.
        let mut client = UnixStream::connect(&path).unwrap();
        let mut other = std::net::TcpStream::connect(tcp).unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
        client.write_all(request).unwrap();
        other.write_all(request).unwrap();
        before.reverse(); // in any order
        let psflip = keeping(&sandbox, SERVER, &listeners, &before).start().wait_ready();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("name=gen1"), "round {round}: {answer}");
        answer.clear();
        other.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("name=gen1"), "round {round}: {answer}");
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode, "round {round}");
        // After an upgrade psflip still has them, and the service manager has each only once.
        psflip.flip();
        assert_eq!(ask(&*path).unwrap(), "gen2");
        assert_eq!(ask(tcp).unwrap(), "gen2");
    }
    assert_eq!(kept(&manager.notices()).len(), 2, "{}", manager.describe());
    kill_all(&sandbox);
    let psflip = keeping(&sandbox, SERVER, &listeners, &before).start().wait_ready();
    // A stop leaves the file to the next start: systemd may still have the socket.
    ends(&sandbox, &psflip, &["app.sock", "notify"]);
    drop(manager);
    std::fs::remove_file(sandbox.path("notify")).unwrap();
}

#[test]
fn an_upgrade_updates_the_stored_sockets() {
    // Contract: U8, F9
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let (one, other) = (listen(&unix(&sandbox, "one.sock"), ""), listen(&unix(&sandbox, "other.sock"), ""));
    let psflip = keeping(&sandbox, SERVER, &one, &[]).start().wait_ready();
    let first = wait_kept(&manager, 1);
    // A failed upgrade leaves the stored sockets as they are.
    configure(
        &sandbox,
        &["crash-on-init", "--code", "7"],
        &format!("{other}[healthcheck.tcp]\naddress = \"127.0.0.1:1\"\n"),
    );
    psflip.request_flip();
    manager.wait("last upgrade failed");
    assert_eq!(kept(&manager.notices())[0].0, first[0].0);
    // A successful one changes them.
    reconfigure(&sandbox, SERVER, &other);
    psflip.flip();
    let second = manager.wait_for("another socket to be stored", |notices| {
        let kept = kept(notices);
        (kept.len() == 1 && kept[0].0 != first[0].0).then_some(kept)
    });
    assert!(second[0].0.ends_with("other.sock"), "{second:?}");
    // The first generation, too, may drop sockets that it inherits.
    kill_all(&sandbox);
    let mark = manager.mark();
    let psflip = keeping(&sandbox, SERVER, &one, &second).start().wait_ready();
    wait_answer(sandbox.path("one.sock"), "gen1");
    let gone = manager.wait_after(mark, "FDSTOREREMOVE=1");
    assert_eq!(gone.value("FDNAME"), Some(&*second[0].0));
    assert!(!sandbox.path("other.sock").exists());
    // The child does not get an unwanted socket, and the client's connection is closed.
    wait_until(Deadline::default(), "the child to have one socket", || {
        (sockets_of(psflip.child()).len() == 1).then_some(())
    });
    stop(&psflip);
}

#[test]
fn a_stored_socket_whose_file_is_gone_is_replaced() {
    // Contract: F10
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let listeners = listen(&unix(&sandbox, "app.sock"), "");
    let _psflip = keeping(&sandbox, SERVER, &listeners, &[]).start().wait_ready();
    let before = wait_kept(&manager, 1);
    kill_all(&sandbox);
    std::fs::remove_file(sandbox.path("app.sock")).unwrap(); // as in a RuntimeDirectory= that was emptied
    let psflip = keeping(&sandbox, SERVER, &listeners, &before).start().wait_ready();
    wait_answer(sandbox.path("app.sock"), "gen1");
    let after = manager.wait_for("the new one to be stored instead", |notices| {
        let kept = kept(notices);
        (kept.len() == 1 && kept[0].0 != before[0].0).then_some(kept)
    });
    drop(after);
    stop(&psflip);
}

#[test]
fn a_failed_child_leaves_the_stored_sockets_to_the_next_start() {
    // Contract: C5, C6
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let listeners = listen(&unix(&sandbox, "app.sock"), "");
    let dies = ["dies-later", "--on-file", "die", "--code", "3"];
    let psflip = keeping(&sandbox, &dies, &listeners, &[]).start().wait_ready();
    let before = wait_kept(&manager, 1);
    sandbox.write("die", "");
    assert_eq!(psflip.wait_exit().code(), Some(3));
    let client = UnixStream::connect(sandbox.path("app.sock")).unwrap();
    // Nor does a first child that fails.
    let psflip = keeping(&sandbox, &["/nowhere/program"], &listeners, &before).start();
    assert_eq!(psflip.wait_exit().code(), Some(127));
    let psflip = keeping(&sandbox, SERVER, &listeners, &before).start().wait_ready();
    assert_eq!(ask(sandbox.path("app.sock")).unwrap(), "gen1");
    drop(client);
    stop(&psflip);
}

#[test]
fn without_an_fd_store_nothing_is_stored_and_descriptors_pass_unchanged() {
    // Contract: C3
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let listeners = listen(&unix(&sandbox, "app.sock"), "");
    for most in ["", "0", "many"] {
        let psflip = keeping(&sandbox, SERVER, &listeners, &[]).env("FDSTORE", most).start().wait_ready();
        psflip.flip();
        ends(&sandbox, &psflip, &["notify"]);
    }
    assert!(kept(&manager.notices()).is_empty(), "{}", manager.describe());
    // Without a `[[listen]]`, inherited sockets that psflip doesn't know go to the child.
    let strange: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
    let own: OwnedFd = std::net::TcpListener::bind("127.0.0.1:0").unwrap().into();
    let given = [
        ("psflip--tcp%3A//127.0.0.1%3A1".to_owned(), Arc::new(own)),
        ("psflip".to_owned(), Arc::new(strange)),
    ];
    let psflip = keeping(&sandbox, &["introspect", "--hold"], "", &given).start().wait_ready();
    for generation in 1..=2 {
        let seen = view(&psflip, generation);
        assert!(!seen.contains_key("fd[003]"), "{seen:?}");
        assert!(seen["fd[004]"].starts_with("socket:["), "{seen:?}");
        assert!(seen.values().all(|value| !value.starts_with("FDSTORE")), "{seen:?}");
        psflip.flip();
    }
    manager.wait("FDSTOREREMOVE=1");
    stop(&psflip);
}
