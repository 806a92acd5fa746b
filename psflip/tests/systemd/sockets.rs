//! Sockets that systemd opens or keeps. Clients wait in the accept queue, whichever process is killed, and
//! are served.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use testkit::{Deadline, Process, Signal, wait_until};

use crate::ports::Reserved;
use crate::rig::{APP, Rig};

const NOTIFY: &str = "Type=notify\nNotifyAccess=main\nKillMode=mixed\nExecReload=/bin/kill -HUP $MAINPID\nRestart=on-failure\n";
const SERVER: &[&str] = &["http-server", "--inherit", "listen_fds", "--linger", "50ms"];
const READY: &str = "[healthcheck.notify]\n";

/// A client that has sent its request, and waits for the answer.
struct Waiting(UnixStream);

impl Waiting {
    fn new(rig: &Rig) -> Self {
        let mut stream = UnixStream::connect(rig.path("app.sock")).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").unwrap();
        Self(stream)
    }

    #[track_caller]
    fn expect_answer(mut self) {
        let mut answer = String::new();
        self.0.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        self.0.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[test]
fn sockets_of_a_socket_unit_serve_over_upgrades_crashes_and_stops() {
    // Contract: C3, U2
    let Some(rig) = Rig::new() else { return };
    let socket = rig.path("app.sock");
    rig.configure(SERVER, &format!("[[listen]]\naddress = \"systemd:web\"\n{READY}"));
    rig.machine
        .unit("app.socket", format!("[Socket]\nListenStream={}\nFileDescriptorName=web\n", socket.display()));
    rig.install(NOTIFY);
    rig.machine.systemctl(["start", "app.socket"]).unwrap();
    assert!(!rig.pidfile().exists(), "no client has connected to it yet");
    // The first client starts the service, and gets its answer.
    Waiting::new(&rig).expect_answer();
    let probe = rig.ask();
    for _ in 0..20 {
        rig.flip();
        probe.wait_requests(5);
    }
    rig.assert_state("active/running/success/0");
    rig.machine.systemctl(["daemon-reexec"]).unwrap();
    rig.flip();
    probe.finish().assert_no_failures();

    // No process is left. New clients wait for the restart.
    let all = kill_everything(&rig);
    let waiting: Vec<_> = (0..3).map(|_| Waiting::new(&rig)).collect();
    waiting.into_iter().for_each(Waiting::expect_answer);
    rig.machine.wait_property(APP, "NRestarts", 1);
    assert!(all.iter().all(|process| !process.is_alive()));
    rig.wait_main();
    rig.flip();

    // Only the service is stopped, not its socket, so the next client starts it again.
    rig.stop_well();
    Waiting::new(&rig).expect_answer();
    rig.wait_main();
    rig.machine.systemctl(["stop", "app.socket", APP]).unwrap();
}

#[test]
fn sockets_of_psflip_survive_when_everything_is_killed() {
    // Contract: C7
    let Some(rig) = Rig::new() else { return };
    let address = |name: &str| format!("[[listen]]\naddress = \"unix://{}\"\n", rig.path(name).display());
    rig.configure(SERVER, &format!("{}{}{READY}", address("app.sock"), address("other.sock")));
    rig.install(&format!("{NOTIFY}FileDescriptorStoreMax=16\nEnvironment=FDSTORE=16\nRestartSec=1\n"));
    rig.start();
    let kept = |what: &str, count: u32| {
        let number = || rig.machine.property(APP, "NFileDescriptorStore");
        wait_until(
            Deadline::default(),
            format!("systemd to store {count} sockets {what}; it stores {}", number()),
            || (number() == count.to_string()).then_some(()),
        );
    };
    kept("after the start", 2);
    // With the time of its bind: the kernel may use the number of a removed file for the next one.
    let bound = || {
        let file = std::fs::metadata(rig.path("app.sock")).unwrap();
        (file.ino(), file.modified().unwrap())
    };
    let (first, probe) = (bound(), rig.ask());
    for _ in 0..5 {
        rig.flip();
        probe.wait_requests(5);
    }
    kept("after five flips", 2);
    probe.finish().assert_no_failures();
    for restarts in 1..=2 {
        kill_everything(&rig);
        let waiting: Vec<_> = (0..3).map(|_| Waiting::new(&rig)).collect();
        waiting.into_iter().for_each(Waiting::expect_answer);
        rig.machine.wait_property(APP, "NRestarts", restarts);
        rig.wait_main();
        assert_eq!(bound(), first, "the same socket");
        kept("after a restart", 2);
        rig.flip();
    }
    // An upgrade that drops a listener.
    rig.configure(SERVER, &format!("{}{READY}", address("app.sock")));
    rig.flip();
    kept("after a listener was dropped", 1);
    assert!(!rig.path("other.sock").exists());
    rig.machine.systemctl(["reset-failed", APP]).unwrap();
    rig.stop_well();
    kept("after a stop", 0);
    // A stop may be the first half of a restart. After a real one the file stays, and the next start replaces it.
    assert!(rig.path("app.sock").exists());
    rig.start();
    Waiting::new(&rig).expect_answer();
    assert_ne!(bound(), first, "a new socket");
    rig.stop_well();
}

#[test]
fn without_an_fd_store_sockets_are_lost_when_everything_is_killed() {
    // Proves that the other test can fail: FileDescriptorStoreMax= is 0 by default.
    let Some(rig) = Rig::new() else { return };
    let address = format!("[[listen]]\naddress = \"unix://{}\"\n", rig.path("app.sock").display());
    rig.configure(SERVER, &format!("{address}{READY}"));
    rig.install(&format!("{NOTIFY}RestartSec=3\n"));
    let old = rig.start();
    kill_everything(&rig);
    let refused = UnixStream::connect(rig.path("app.sock")).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    rig.machine.wait_property(APP, "NRestarts", 1);
    rig.machine.wait_property(APP, "ActiveState", "active");
    assert_ne!(rig.wait_main(), old);
    Waiting::new(&rig).expect_answer();
    rig.stop_well();
}

/// Where a `[[proxy]]` listens.
enum Listens {
    Tcp(Reserved),
    Unix(PathBuf),
}

impl Listens {
    fn address(&self) -> String {
        match self {
            Self::Tcp(port) => format!("tcp://{}", port.address()),
            Self::Unix(path) => format!("unix://{}", path.display()),
        }
    }

    fn connect(&self) -> io::Result<OwnedFd> {
        match self {
            Self::Tcp(port) => TcpStream::connect(port.address()).map(OwnedFd::from),
            Self::Unix(path) => UnixStream::connect(path).map(OwnedFd::from),
        }
    }
}

/// `[[proxy]]` at this address, and more lines of the unit. Restarts the service, and connects while none of its
/// processes is there. Returns the answer.
fn connect_during_a_restart(rig: &Rig, listens: &Listens, lines: &str) -> io::Result<String> {
    // psflip's working directory is not the service's.
    let own = format!("{}/{{{{ blue_green() }}}}.sock", rig.path("").display());
    let server = ["http-server", "--unix", &own];
    let proxy = format!(
        "[healthcheck.unix]\npath = \"{own}\"\n[[proxy]]\nlisten = \"{}\"\nforward = \"unix://{own}\"\n\
         protocol = \"http\"\n",
        listens.address()
    );
    rig.configure(&server, &proxy);
    let (down, go_on) = (rig.path("down"), rig.path("go-on"));
    let waits = format!("touch {}; until test -e {}; do sleep 0.02; done", down.display(), go_on.display());
    rig.install(&format!("{NOTIFY}ExecStopPost=/bin/sh -c '{waits}'\n{lines}"));
    rig.start();
    rig.flip();
    let old = rig.machine.processes(APP);
    std::thread::scope(|scope| {
        let restart = scope.spawn(|| rig.machine.systemctl(["restart", APP]));
        wait_until(Deadline::default(), "the unit to be down", || down.exists().then_some(()));
        assert!(old.iter().all(|process| !process.is_alive()), "{old:?}");
        let client = listens.connect();
        std::fs::write(go_on, "").unwrap();
        restart.join().unwrap().unwrap();
        let mut client = UnixStream::from(client?); // of either kind: it only sends and receives
        client.set_read_timeout(Some(Duration::from_secs(30)))?;
        client.write_all(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        client.read_to_string(&mut answer)?;
        Ok(answer)
    })
}

#[test]
fn a_client_that_connects_to_a_proxy_during_a_restart_is_served_after_it() {
    // Contract: T2
    let Some(rig) = Rig::new() else { return };
    for listens in [Listens::Tcp(Reserved::new()), Listens::Unix(rig.path("web.sock"))] {
        let store = "FileDescriptorStoreMax=16\nEnvironment=FDSTORE=16\n";
        let answer = connect_during_a_restart(&rig, &listens, store).unwrap();
        let address = listens.address();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("name=gen1"), "{address}: {answer}");
        rig.stop_well();
        for file in ["down", "go-on"] {
            std::fs::remove_file(rig.path(file)).unwrap();
        }
    }
}

#[test]
fn without_an_fd_store_a_client_that_connects_to_a_proxy_during_a_restart_is_refused() {
    // Proves that the other test can fail.
    let Some(rig) = Rig::new() else { return };
    let listens = Listens::Tcp(Reserved::new());
    let refused = connect_during_a_restart(&rig, &listens, "").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    rig.stop_well();
}

/// Sends SIGKILL to every process of the unit, and waits until all are gone.
#[track_caller]
fn kill_everything(rig: &Rig) -> Vec<Process> {
    let all = rig.machine.processes(APP);
    for process in &all {
        // A process may have exited because of the others.
        let _ = process.signal(Signal::SIGKILL);
    }
    all.iter().for_each(|process| rig.wait_gone(*process));
    all
}
