//! How the child learns of its sockets, and which other processes have them.

use std::collections::BTreeSet;

use testkit::{Deadline, Sandbox, Stream, wait_until};

use super::*;
use crate::service::script;

#[test]
fn every_protocol_passes_its_socket_to_every_generation() {
    // Contract: C3, U2
    for protocol in ["listen_fds", "stdin", "server_starter", "einhorn"] {
        let sandbox = Sandbox::new();
        let as_is = format!("as = \"{protocol}\"");
        let mut listeners = listen(&unix(&sandbox, "app.sock"), &as_is);
        if protocol != "stdin" {
            listeners += &listen("tcp://127.0.0.1:0", &as_is);
        }
        // The fixture checks each protocol strictly: LISTEN_PID must be its own pid.
        let server = ["http-server", "--inherit", protocol];
        let psflip = with_listeners(&sandbox, &server, &listeners).start().wait_ready();
        let tcp = (protocol != "stdin").then(|| tcp_address(&psflip, 0));
        for generation in ["gen1", "gen2", "gen3"] {
            wait_answer(sandbox.path("app.sock"), generation);
            if let Some(address) = tcp {
                wait_answer(address, generation);
            }
            if generation != "gen3" {
                psflip.flip();
            }
        }
        ends(&sandbox, &psflip, &[]);
    }
}

#[test]
fn descriptor_0_is_the_socket_even_if_psflip_has_no_stdin() {
    // Contract: C3, C1
    for closed in [&[0][..], &[0, 1], &[0, 1, 2]] {
        let sandbox = Sandbox::new();
        let listeners = listen(&unix(&sandbox, "app.sock"), "as = [\"stdin\", \"listen_fds\"]");
        // It answers on both descriptors, although psflip itself may have opened files under the free
        // numbers.
        let builder = with_listeners(&sandbox, HOLDER, &listeners);
        let psflip = closed.iter().fold(builder, |start, fd| start.close_fd(*fd)).start().wait_ready();
        for _ in 0..3 {
            let expected: Vec<i32> = (0..4).filter(|fd| *fd == 0 || !closed.contains(fd)).collect();
            // Its dynamic linker briefly opens others.
            let open = wait_until(Deadline::default(), format!("{expected:?} to be all it has open"), || {
                let open = psflip.child().open_fds().unwrap();
                // The process that runs the tests may have passed descriptors on.
                let numbers: Vec<i32> = open.keys().copied().filter(|number| *number < 10).collect();
                (numbers == expected).then_some(open)
            });
            assert_eq!(open[&0], open[&3]);
            psflip.flip();
        }
        ends(&sandbox, &psflip, &[]);
    }
}

#[test]
fn listen_pid_is_the_child_that_a_shell_executes() {
    // Contract: C3
    let sandbox = Sandbox::new();
    let server = testkit::fixture("http-server").display().to_string();
    let shell = ["sh", "-c", "exec \"$0\" --inherit listen_fds", &server];
    let builder = sandbox.psflip().cmd(shell);
    let builder = builder.config(format!("{AT_ONCE}{}", listen(&unix(&sandbox, "app.sock"), "")));
    let psflip = builder.start().wait_ready();
    assert_eq!(ask(sandbox.path("app.sock")).unwrap(), "gen1");
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn the_child_has_the_announced_descriptors_and_no_others() {
    // Contract: C3, C4
    let sandbox = Sandbox::new();
    let bare = sandbox.command([testkit::fixture("introspect")]).start();
    assert!(bare.wait_exit().success());
    bare.output().wait_closed();
    let numbers = |text: &str| -> BTreeSet<String> {
        let facts = text.lines().filter_map(|line| line.split_once('='));
        facts.map(|(key, _)| key.to_owned()).filter(|key| key.starts_with("fd[")).collect()
    };
    let mut expected = numbers(&bare.stdout());
    expected.extend(["fd[003]", "fd[004]", "fd[005]"].map(str::to_owned));

    let listeners = [
        listen("tcp://127.0.0.1:0", "as = [\"server_starter\", \"einhorn\"]"),
        listen(&unix(&sandbox, "b.sock"), "as = [\"stdin\", \"listen_fds\"]\nname = \"web\""),
        listen("udp://127.0.0.1:0", "as = [\"listen_fds\", \"einhorn\"]"),
    ];
    let builder = with_listeners(&sandbox, &["introspect", "--hold"], &listeners.concat());
    let psflip = builder.env("LISTEN_FDS", "7").env("LISTEN_PID", "1").start().wait_ready();
    let mut first = None;
    for generation in 1..=3 {
        let seen = view(&psflip, generation);
        let fds: BTreeSet<String> = seen.keys().filter(|key| key.starts_with("fd[")).cloned().collect();
        assert_eq!(fds, expected, "generation {generation}\n{}", sandbox.report());
        let target = |number: &str| seen[number].split_once(' ').unwrap().0.to_owned();
        let sockets = ["fd[003]", "fd[004]", "fd[005]"].map(target);
        assert_eq!(target("fd[000]"), sockets[0], "descriptor 0 is `web`");
        for number in ["fd[000]", "fd[003]", "fd[004]", "fd[005]"] {
            assert!(seen[number].ends_with(" flags=02"), "{number}={}", seen[number]);
        }
        assert_eq!(*first.get_or_insert(sockets.clone()), sockets, "every generation has the same sockets");
        let port = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrIn>(
            std::os::fd::AsRawFd::as_raw_fd(&descriptor(psflip.child(), 5)),
        );
        let told = [
            ("EINHORN_FD_0", "5".to_owned()),
            ("EINHORN_FD_1", "4".to_owned()),
            ("EINHORN_FD_COUNT", "2".to_owned()),
            ("LISTEN_FDNAMES", "web:unknown".to_owned()),
            ("LISTEN_FDS", "2".to_owned()),
            ("LISTEN_PID", seen["pid"].clone()),
            ("SERVER_STARTER_GENERATION", generation.to_string()),
            ("SERVER_STARTER_PORT", format!("127.0.0.1:{}=5", port.unwrap().port())),
        ];
        let told = told.map(|(name, value)| (name.to_owned(), value)).into_iter().collect();
        assert_eq!(announced(&seen), told, "generation {generation}");
        psflip.flip();
    }
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn the_child_has_each_socket_under_its_number_and_key() {
    // Contract: C3
    let sandbox = Sandbox::new();
    let listeners = [
        listen("udp://127.0.0.1:0", "as = \"server_starter\"\nfd = 0\nkey = \"53\""),
        listen("tcp://127.0.0.1:0", "as = \"server_starter\"\nkey = \"localhost:http\""),
        listen(&unix(&sandbox, "a.sock"), "as = [\"server_starter\", \"einhorn\"]\nfd = 9"),
        listen("udp://127.0.0.2:0", "as = \"server_starter\"\nfd = 3"),
    ];
    let psflip =
        with_listeners(&sandbox, &["introspect", "--hold"], &listeners.concat()).start().wait_ready();
    let mut first = None;
    for generation in 1..=2 {
        let seen = view(&psflip, generation);
        let target = |number: &str| seen[number].split_once(' ').unwrap().0.to_owned();
        let sockets = ["fd[000]", "fd[003]", "fd[004]", "fd[009]"].map(target);
        assert!(sockets.iter().all(|socket| socket.starts_with("socket:")), "{seen:?}");
        assert_eq!(*first.get_or_insert(sockets.clone()), sockets, "every generation has the same sockets");
        let path = sandbox.path("a.sock");
        let port = nix::sys::socket::getsockname::<nix::sys::socket::SockaddrIn>(
            std::os::fd::AsRawFd::as_raw_fd(&descriptor(psflip.child(), 3)),
        );
        let port = port.unwrap().port();
        let expected = format!("53=0;localhost:http=4;{}=9;127.0.0.2:{port}=3", path.display());
        assert_eq!(announced(&seen)["SERVER_STARTER_PORT"], expected, "generation {generation}");
        psflip.flip();
    }
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_child_without_listeners_sees_no_variable_of_them() {
    // Contract: C3
    let sandbox = Sandbox::new();
    let psflip = with_listeners(&sandbox, &["introspect", "--hold"], "").start().wait_ready();
    assert_eq!(announced(&view(&psflip, 1)).len(), 0);
    reconfigure(&sandbox, &["introspect", "--hold"], &listen(&unix(&sandbox, "app.sock"), ""));
    psflip.flip();
    assert_eq!(announced(&view(&psflip, 2)).len(), 3);
    reconfigure(&sandbox, &["introspect", "--hold"], "");
    psflip.flip();
    let third = view(&psflip, 3);
    assert_eq!(announced(&third).len(), 0);
    assert!(!third.contains_key("fd[003]"), "{third:?}");
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn probes_hooks_and_keepers_have_none_of_the_sockets() {
    // Contract: C3
    let sandbox = Sandbox::new();
    // `ls` itself opens one descriptor: the directory that it lists.
    let look = "ls -l /proc/self/fd > \"$1.new\"; env >> \"$1.new\"; mv \"$1.new\" \"$1\"";
    let looker = script(&sandbox, "look", look).display().to_string();
    let holds = script(&sandbox, "hold", "exec sleep infinity").display().to_string();
    let address = unix(&sandbox, "app.sock");
    let config = format!(
        "[healthcheck.command]\ncmd = [\"{looker}\", \"probe\"]\n\
         [hooks]\npromote = [\"{looker}\", \"promote\"]\npromoted = [\"{holds}\"]\n{}",
        listen(&address, "as = [\"listen_fds\", \"einhorn\", \"server_starter\"]")
    );
    let psflip = psflip(&sandbox, SERVER, &config).start().wait_ready();
    for name in ["gen1", "gen2"] {
        wait_answer(sandbox.path("app.sock"), name);
        let (given, has) = (sockets_of(psflip.active()), sockets_of(psflip.child()));
        let socket = given.intersection(&has).next().expect("psflip keeps what its child has").clone();
        for who in ["probe", "promote"] {
            let seen = sandbox.read(who);
            assert!(!seen.contains("socket:["), "`{who}` has a socket:\n{seen}");
            for variable in ["LISTEN_", "EINHORN_", "SERVER_STARTER_", "NOTIFY_SOCKET"] {
                assert!(!seen.contains(variable), "`{who}` finds {variable}:\n{seen}");
            }
        }
        let active = psflip.active();
        // The keepers of the child and of the running hook, and the hook.
        let tree = wait_until(Deadline::default(), "psflip, two keepers, child and hook", || {
            Some(active.tree()).filter(|tree| tree.len() == 5)
        });
        let others = tree.iter().filter(|process| **process != active && **process != psflip.child());
        for process in others {
            wait_until(Deadline::default(), format!("{process} to close the socket"), || {
                (!sockets_of(*process).contains(&socket)).then_some(())
            });
        }
        std::fs::remove_file(sandbox.path("probe")).unwrap();
        std::fs::remove_file(sandbox.path("promote")).unwrap();
        psflip.flip();
    }
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn sixty_four_listeners_are_handed_over() {
    // Contract: U2
    let sandbox = Sandbox::new();
    let many: String = (0..64).map(|n| listen(&unix(&sandbox, &format!("{n}.sock")), "")).collect();
    let psflip = with_listeners(&sandbox, SERVER, &many).start().wait_ready();
    for name in ["gen1", "gen2", "gen3"] {
        for n in [0, 31, 63] {
            wait_answer(sandbox.path(format!("{n}.sock")), name);
        }
        if name != "gen3" {
            psflip.flip();
        }
    }
    ends(&sandbox, &psflip, &[]);
}

#[test]
fn a_child_that_can_not_get_its_sockets_fails_with_a_reason() {
    // Contract: C6, F10
    let sandbox = Sandbox::new();
    let many: String = (0..30).map(|n| listen(&unix(&sandbox, &format!("{n}.sock")), "")).collect();
    let psflip = with_listeners(&sandbox, SERVER, &many).rlimit("nofile", 20).start();
    assert_eq!(psflip.wait_exit().code(), Some(125), "{}", sandbox.report());
    psflip.wait_for_line(Stream::Stderr, "can't listen on `unix://");
    psflip.wait_for_line(Stream::Stderr, "Too many open files");
    assert_left(&sandbox, &[]);
    sandbox.assert_no_process_left();
}
