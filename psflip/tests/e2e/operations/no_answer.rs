//! Clients when no psflip answers: the reason, and what to do.

use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use testkit::{Deadline, Running, Sandbox, Stream, psflip_bin, wait_until};

use super::{ended, run, start_at_once};
use crate::service::{freeze, kill, stop, thaw};

#[test]
fn without_a_running_psflip_commands_report_why() {
    let sandbox = Sandbox::new();
    let refused = |args: &[&str]| {
        let (status, stdout, stderr) = run(&sandbox, args);
        assert_eq!(stdout, "", "{args:?}");
        (status.code().unwrap(), stderr)
    };
    let (code, said) = refused(&["status"]);
    assert_eq!(code, 78);
    assert!(
        said.contains("there is no `psflip.toml` in this directory; name a psflip by `-c FILE`"),
        "{said}"
    );
    sandbox.write("psflip.toml", "cmd = [\"sleep\", \"600\"]\npidfile = \"app.pid\"\n");
    for command in ["status", "upgrade", "stop"] {
        let (code, said) = refused(&[command]);
        assert_eq!(code, 125);
        assert!(said.contains("there is no control socket `app.pid.sock` in this directory"), "{said}");
        assert!(
            said.contains("there is no pidfile `app.pid`: the psflip of `psflip.toml` isn't running"),
            "{said}"
        );
    }
    let (code, said) = refused(&["upgrade", "--socket", "/run/psflip/no-such/psflip.pid.sock"]);
    assert_eq!(code, 125);
    assert!(said.contains("if psflip runs, it has another socket") && said.contains("`-c FILE`"), "{said}");
    drop(UnixListener::bind(sandbox.path("app.pid.sock")).unwrap());
    let (code, said) = refused(&["upgrade"]);
    assert_eq!(code, 125);
    assert!(said.contains("psflip was killed and left it behind"), "{said}");
    sandbox.write("without.toml", "cmd = [\"sleep\", \"600\"]\n");
    let (code, said) = refused(&["upgrade", "-c", "without.toml"]);
    assert_eq!(code, 125);
    assert!(
        said.contains("the psflip of `without.toml` has no control socket: give it a `pidfile`"),
        "{said}"
    );
    let (code, said) = refused(&["stop", "--socket", "psflip.toml"]);
    assert_eq!(code, 125);
    assert!(said.contains("`psflip.toml` is no socket"), "{said}");
}

#[test]
fn an_invalid_configuration_does_not_hide_the_running_psflip() {
    // Contract: O3
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    sandbox.write("psflip.toml", "cmd = 5\npidfile = \"psflip.pid\"\ntypo = 1\n");
    let (status, stdout, stderr) = run(&sandbox, &["status"]);
    assert!(status.success() && stdout.contains("serving"), "{stderr}");
    let (status, _, stderr) = run(&sandbox, &["upgrade"]);
    assert_eq!(status.code(), Some(1));
    assert!(
        stderr.contains("reason    the configuration is invalid: ")
            && stderr.contains("psflip.toml:1:7: `cmd`"),
        "{stderr}"
    );
    // Even if the file is invalid TOML, the client finds the path as long as one line sets it.
    for broken in [
        "pidfile = \"psflip.pid\n",
        "cmd = [\"a\"\npidfile = \"psflip.pid\"\n",
        "pidfile = \"psflip.pid\"\npidfile = \"other.pid\"\n",
        "pidfile = \"other.pid\"\npidfile = \"psflip.pid\"\n[env\nA = 1\n",
        "cmd = [\"a\"]\n[locals]\nname = \"psflip\"\n[control]\nsocket = \"{{ local('name') }}.pid.sock\"\n[env]\nA = = 1\n",
    ] {
        sandbox.write("psflip.toml", broken);
        let (status, stdout, stderr) = run(&sandbox, &["status"]);
        assert!(status.success() && stdout.contains("serving"), "{broken}\n{stderr}");
        assert!(
            stderr.contains("warning: the configuration is invalid, so an upgrade would fail"),
            "{stderr}"
        );
    }
    let (status, _, stderr) = run(&sandbox, &["upgrade"]);
    assert_eq!(status.code(), Some(1), "{stderr}");
    sandbox.write("psflip.toml", "cmd = [\n");
    let (status, _, stderr) = run(&sandbox, &["status"]);
    assert_eq!(status.code(), Some(78));
    assert!(stderr.contains("give its path with `--socket PATH`"), "{stderr}");
    let (status, ..) = run(&sandbox, &["status", "--socket", "psflip.pid.sock"]);
    assert!(status.success());
    stop(&psflip);
}

#[test]
fn another_user_is_refused_with_the_owners_name() {
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    let name = psflip_bin();
    let name = name.to_str().unwrap();
    std::fs::set_permissions(sandbox.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", name];
    let (status, _, stderr) = ended(&sandbox.command(other).args(["status"]).start());
    assert_eq!(status.code(), Some(125));
    assert!(stderr.contains("is owned by `root`; run this as that user or as root"), "{stderr}");
    std::fs::set_permissions(sandbox.dir(), std::fs::Permissions::from_mode(0o700)).unwrap();
    stop(&psflip);
}

#[test]
fn a_control_socket_served_by_another_user_is_not_trusted() {
    // Contract: O1
    let sandbox = Sandbox::new();
    if !nix::unistd::geteuid().is_root() {
        return; // only root can start a process of another user
    }
    let open = sandbox.path("open");
    std::fs::create_dir(&open).unwrap();
    std::fs::set_permissions(sandbox.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o1777)).unwrap();
    // A process of another user that reports a successful upgrade to every client.
    let server = "use IO::Socket::UNIX; $| = 1; $SIG{PIPE} = q(IGNORE); my $s = IO::Socket::UNIX->new(Local => $ARGV[0], Listen => 5) or die; print qq(listening\\n); \
         while (my $c = $s->accept) { my $l = <$c>; print qq(asked\\n) if defined $l; print $c qq({\"event\":\"accepted\",\"upgrade\":1}\\n{\"event\":\"drained\",\"upgrade\":1,\"killed\":false}\\n) }";
    let stranger = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "perl",
        "-e",
        server,
        "open/app.pid.sock",
    ];
    let stranger = sandbox.command(stranger).start();
    stranger.output().wait(Stream::Stdout, "listening");
    for command in ["upgrade", "status", "stop"] {
        let (status, stdout, stderr) = run(&sandbox, &[command, "--socket", "open/app.pid.sock"]);
        assert_eq!(status.code(), Some(125), "{stdout}{stderr}");
        assert!(stderr.contains("runs as `nobody`") && stderr.contains("Nothing was sent to it"), "{stderr}");
    }
    assert!(!stranger.stdout().contains("asked"), "{}", sandbox.report());
    // In a directory of that user's own, the client trusts the socket's owner.
    std::os::unix::fs::chown(&open, Some(65534), None).unwrap();
    let (status, _, stderr) = run(&sandbox, &["upgrade", "--socket", "open/app.pid.sock"]);
    assert!(status.success(), "{stderr}");
}

#[test]
fn a_suspended_psflip_is_reported_as_suspended() {
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    freeze(psflip.active());
    let (status, _, stderr) = run(&sandbox, &["status", "--timeout", "50ms"]);
    assert_eq!(status.code(), Some(125));
    assert!(stderr.contains("psflip.pid.sock` within 50ms: it is stopped"), "{stderr}");
    thaw(psflip.active());
    stop(&psflip);
}

/// Connects until the queue of clients is full, as the probes of a container do in some minutes.
fn fill_queue(socket: &Path) -> Vec<OwnedFd> {
    let address = SocketAddrUnix::new(socket).unwrap();
    let connect_one = || {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let client = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).unwrap();
        connect(&client, &address).map(|()| client)
    };
    let mut clients = Vec::new();
    while clients.len() < 10_000 {
        match connect_one() {
            Ok(client) => clients.push(client),
            Err(Errno::AGAIN) => return clients,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the queue is never full")
}

#[test]
fn a_time_limit_holds_when_the_queue_of_clients_is_full() {
    // Contract: O9
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    freeze(psflip.active());
    let clients = fill_queue(&sandbox.path("psflip.pid.sock"));
    for (args, code) in [("upgrade", 124), ("stop", 124), ("status", 125)] {
        let (status, _, stderr) = run(&sandbox, &[args, "--timeout", "40ms"]);
        assert_eq!(status.code(), Some(code), "{stderr}");
        let said = "psflip.pid.sock` within ";
        let limit = stderr.split_once(said).unwrap_or_else(|| panic!("{stderr}")).1;
        assert!(limit.contains("ms: it is stopped") && !limit.starts_with("10"), "{stderr}");
    }
    drop(clients);
    thaw(psflip.active());
    stop(&psflip);
}

/// `psflip upgrade --strict` of a psflip that is suspended when the old generation is gone.
fn answered_until_the_old_generation_is_gone(sandbox: &Sandbox) -> (Arc<Running>, [UnixStream; 2]) {
    let listener = UnixListener::bind(sandbox.path("strict.sock")).unwrap();
    listener.set_nonblocking(true).unwrap();
    let client = super::client(sandbox, &["upgrade", "--strict", "--socket", "strict.sock"]);
    let accept = || {
        let accepted = || listener.accept().ok().map(|(stream, _)| stream);
        wait_until(Deadline::default(), "the client to connect", accepted)
    };
    let mut first = accept();
    let events =
        "{\"event\":\"accepted\",\"upgrade\":1}\n{\"event\":\"drained\",\"upgrade\":1,\"killed\":false}\n";
    first.write_all(events.as_bytes()).unwrap();
    (client, [first, accept()])
}

#[test]
fn no_command_waits_forever_for_a_suspended_psflip() {
    // Contract: O9
    let sandbox = Sandbox::new();
    let (strict, _connections) = answered_until_the_old_generation_is_gone(&sandbox);
    let psflip = start_at_once(&sandbox);
    freeze(psflip.active());
    let commands: [(&[&str], &str, i32); 5] = [
        (&["upgrade"], "10s", 125),
        (&["upgrade", "--timeout", "40ms"], "40ms", 124),
        (&["rollback", "--timeout", "41ms"], "41ms", 124),
        (&["keep", "--json", "--timeout", "42ms"], "42ms", 124),
        (&["status", "--watch", "--timeout", "44ms"], "44ms", 125),
    ];
    // The one with the longest time first; the others end while it waits.
    let clients = commands.map(|case| (case, super::client(&sandbox, case.0)));
    for ((args, limit, code), client) in clients.into_iter().rev() {
        let (status, stdout, stderr) = ended(&client);
        assert_eq!((status.code(), stdout.as_str()), (Some(code), ""), "{args:?}: {stderr}");
        let said = format!("psflip.pid.sock` within {limit}: it is stopped (`kill -CONT` continues it)");
        assert!(stderr.contains(&said), "{args:?}: {stderr}");
        let later = "it may still carry out the request";
        assert_eq!(stderr.contains(later), args[0] != "status", "{args:?}: {stderr}");
    }
    let (status, _, stderr) = ended(&strict);
    let said = "the new generation is active, and what became of `hooks.promoted` is not known";
    assert!(status.code() == Some(125) && stderr.contains(said), "{stderr}");
    thaw(psflip.active());
    psflip.wait_for_line(Stream::Stderr, "upgrade requested over the control socket");
    stop(&psflip);
}

#[test]
fn a_psflip_killed_during_a_stop_is_not_a_success() {
    let sandbox = Sandbox::new();
    let psflip =
        crate::service::psflip(&sandbox, &["ignore-sigterm"], crate::service::AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready");
    let client = super::client(&sandbox, &["stop"]);
    client.output().wait(Stream::Stdout, "was sent the stop signal");
    kill(psflip.active());
    let (status, _, stderr) = ended(&client);
    assert_eq!(status.code(), Some(125), "{stderr}");
    assert!(stderr.contains("psflip exited without reporting its child's exit status"), "{stderr}");
    assert_eq!(psflip.wait_exit().code(), None);
}
