//! The old or new psflip is killed during an upgrade. Clients and the accept queue survive, and no file
//! blocks the next start.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use testkit::{Deadline, Sandbox, wait_until};

use super::*;
use crate::service::{UNTIL_FILE, freeze, kill, wait_coming};

/// The next generation becomes healthy once the file `healthy` exists.
fn waits(sandbox: &Sandbox, argv: &[&str], listeners: &str) {
    configure(sandbox, argv, &format!("{UNTIL_FILE}[log]\nlevel = \"debug\"\n{listeners}"));
}

#[test]
fn the_accept_queue_survives_an_old_psflip_killed_before_the_promotion() {
    // Contract: F8
    let sandbox = Sandbox::new();
    let path = sandbox.path("app.sock");
    let listeners = listen(&unix(&sandbox, "app.sock"), "");
    let removed = listen(&unix(&sandbox, "removed.sock"), "");
    let psflip = with_listeners(&sandbox, HOLDER, &format!("{listeners}{removed}")).start().wait_ready();
    // The client connects before the upgrade, and the old generation never accepts it.
    let mut early = UnixStream::connect(&path).unwrap();
    early.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    let old = psflip.active();
    waits(&sandbox, HOLDER, &listeners);
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stderr, "child started");
    psflip.output().wait_count(1, Stream::Stderr, "the new psflip starts its child");
    wait_until(Deadline::default(), "the new child", || {
        wait_coming(&sandbox, old).children().first()?.children().first().copied()
    });
    let mut late = UnixStream::connect(&path).unwrap();
    late.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
    kill(old);
    psflip.wait_gone(old);
    wait_until(Deadline::default(), "the file of the removed socket to be removed", || {
        (!sandbox.path("removed.sock").exists()).then_some(())
    });
    sandbox.write("healthy", "");
    psflip.wait_pidfile();
    reconfigure(&sandbox, SERVER, &listeners);
    psflip.flip();
    for stream in [&mut early, &mut late] {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.contains("name=gen3"), "{answer}");
    }
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_successor_that_goes_on_alone_and_fails_leaves_no_socket_file() {
    // Contract: F8, C6
    let sandbox = Sandbox::new();
    let listeners = listen(&unix(&sandbox, "app.sock"), "");
    let removed = listen(&unix(&sandbox, "removed.sock"), "");
    let psflip = with_listeners(&sandbox, HOLDER, &format!("{listeners}{removed}")).start().wait_ready();
    let old = psflip.active();
    waits(&sandbox, &["dies-later", "--on-file", "die"], &listeners);
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    let new = wait_coming(&sandbox, old);
    kill(old);
    psflip.wait_gone(old);
    sandbox.write("die", "");
    psflip.wait_gone(new);
    assert_left(&sandbox, &[]);
    sandbox.assert_no_process_left();
}

#[test]
fn a_killed_new_psflip_leaves_the_old_sockets_unchanged() {
    // Contract: F6, U8
    let sandbox = Sandbox::new();
    let path = sandbox.path("app.sock");
    let listeners = listen(&unix(&sandbox, "app.sock"), "mode = \"0640\"");
    let psflip = with_listeners(&sandbox, SERVER, &listeners).start().wait_ready();
    let old = psflip.active();
    // It has taken the pidfile and changed the mode, but isn't acknowledged.
    let changed = listen(&unix(&sandbox, "app.sock"), "mode = \"0606\"");
    let added = listen(&unix(&sandbox, "added.sock"), "");
    for round in 0..3 {
        waits(&sandbox, SERVER, &format!("{changed}{added}"));
        let mark = psflip.output().mark();
        psflip.request_flip();
        psflip.output().wait_after(mark, Stream::Stdout, "name=gen2");
        freeze(old);
        let new = wait_coming(&sandbox, old);
        sandbox.write("healthy", "");
        assert_eq!(psflip.wait_successor(old), new);
        assert_eq!(file(&path).0, 0o606, "round {round}");
        kill(new);
        psflip.wait_gone(new);
        crate::service::thaw(old);
        psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
        // The killed psflip's child accepts on the same socket until its keeper has stopped it.
        wait_until(Deadline::default(), "only one psflip, keeper and child to be left", || {
            (sandbox.processes().len() == 3).then_some(())
        });
        assert_eq!(psflip.active(), old);
        assert_eq!(file(&path).0, 0o640, "round {round}");
        assert_eq!(ask(&*path).unwrap(), "gen1");
        std::fs::remove_file(sandbox.path("healthy")).unwrap();
    }
    // The killed psflip leaves a stale file, which blocks nothing.
    assert_left(&sandbox, &["added.sock", "app.sock"]);
    reconfigure(&sandbox, SERVER, &format!("{changed}{added}"));
    psflip.flip();
    wait_answer(sandbox.path("added.sock"), "gen2");
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn sockets_of_a_killed_psflip_do_not_block_the_next_start() {
    // Contract: C7, F9
    let sandbox = Sandbox::new();
    let listeners = format!(
        "{}{}",
        listen(&unix(&sandbox, "app.sock"), ""),
        listen(&format!("unix://@{}", sandbox.path("abstract").display()), "")
    );
    let start = || with_listeners(&sandbox, SERVER, &listeners).start().wait_ready();
    let gone = || {
        wait_until(Deadline::default(), "all processes to exit", || {
            sandbox.processes().iter().all(|process| !process.is_alive()).then_some(())
        });
    };
    let psflip = start();
    kill(psflip.active());
    gone();
    assert_left(&sandbox, &["app.sock"]);
    // Killed during an upgrade, old and new.
    let psflip = start();
    let old = psflip.active();
    waits(&sandbox, SERVER, &listeners);
    psflip.request_flip();
    psflip.output().wait(Stream::Stdout, "name=gen2");
    let new = wait_coming(&sandbox, old);
    kill(old);
    kill(new);
    gone();
    // Killed while its predecessor drains.
    let slow = format!("{AT_ONCE}[shutdown]\ndelay = \"1h\"\n{listeners}");
    let psflip = crate::service::psflip(&sandbox, SERVER, &slow).start().wait_ready();
    let old = psflip.active();
    psflip.request_flip();
    kill(psflip.wait_successor(old));
    kill(old);
    gone();
    let psflip = start();
    assert_eq!(ask(sandbox.path("app.sock")).unwrap(), "gen1");
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_superseded_generation_never_removes_socket_files() {
    // Contract: F9
    let sandbox = Sandbox::new();
    let listeners = listen(&unix(&sandbox, "app.sock"), "");
    let slow = format!("{AT_ONCE}[shutdown]\ndelay = \"1h\"\n{listeners}");
    let psflip = psflip(&sandbox, SERVER, &slow).start().wait_ready();
    let (old, old_child) = (psflip.active(), psflip.child());
    psflip.request_flip();
    let new = psflip.wait_successor(old);
    psflip.output().wait(Stream::Stdout, "name=gen2");
    psflip.wait_for_line(Stream::Stderr, "new generation took over");
    kill(new);
    psflip.wait_gone(new);
    // The old child still accepts, so clients are served. The pidfile stays stale.
    wait_answer(sandbox.path("app.sock"), "gen1");
    end(old_child);
    psflip.wait_gone(old);
    assert_left(&sandbox, &["app.sock"]);
    sandbox.assert_no_process_left();
}

#[test]
fn a_stop_during_an_upgrade_removes_all_files() {
    // Contract: F11, S5
    let sandbox = Sandbox::new();
    let listeners = listen(&unix(&sandbox, "app.sock"), "");
    let added = listen(&unix(&sandbox, "added.sock"), "");
    let psflip = with_listeners(&sandbox, SERVER, &listeners).start().wait_ready();
    waits(&sandbox, SERVER, &format!("{listeners}{added}"));
    psflip.request_flip();
    psflip.output().wait(Stream::Stdout, "name=gen2");
    assert_left(&sandbox, &["added.sock", "app.sock"]);
    ends(&sandbox, &psflip, &[]);
}
