//! Sockets that systemd opens, or keeps: clients wait in their queue, whoever is killed, and are served.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use testkit::{Process, Signal};

use crate::rig::{APP, Rig};

const NOTIFY: &str = "Type=notify\nNotifyAccess=main\nKillMode=mixed\nExecReload=/bin/kill -HUP $MAINPID\nRestart=on-failure\n";
const SERVER: &[&str] = &["http-server", "--inherit", "listen_fds", "--linger", "50ms"];
const READY: &str = "[healthcheck.notify]\n";

/// A client that has sent its request, and waits.
struct Waiting(UnixStream);

impl Waiting {
    fn new(rig: &Rig) -> Self {
        let mut stream = UnixStream::connect(rig.path("app.sock")).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: app\r\nConnection: close\r\n\r\n").unwrap();
        Self(stream)
    }

    #[track_caller]
    fn is_served(mut self) {
        let mut answer = String::new();
        self.0.set_read_timeout(Some(std::time::Duration::from_secs(30))).unwrap();
        self.0.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
}

#[test]
fn sockets_of_a_socket_unit_serve_through_flips_crashes_and_stops() {
    // Contract: C3, U2
    let Some(rig) = Rig::new() else { return };
    let socket = rig.path("app.sock");
    rig.configure(SERVER, &format!("[[listen]]\naddress = \"systemd:web\"\n{READY}"));
    rig.machine
        .unit("app.socket", format!("[Socket]\nListenStream={}\nFileDescriptorName=web\n", socket.display()));
    rig.install(NOTIFY);
    rig.machine.systemctl(["start", "app.socket"]).unwrap();
    assert!(!rig.pidfile().exists(), "nobody has asked for it yet");
    // The first client starts the service, and is served.
    Waiting::new(&rig).is_served();
    let probe = rig.ask();
    for _ in 0..20 {
        rig.flip();
        probe.wait_requests(5);
    }
    rig.assert_state("active/running/success/0");
    rig.machine.systemctl(["daemon-reexec"]).unwrap();
    rig.flip();
    probe.finish().assert_no_failures();

    // Nobody is there: whoever comes now waits for the restart.
    let all = kill_everything(&rig);
    let waiting: Vec<_> = (0..3).map(|_| Waiting::new(&rig)).collect();
    waiting.into_iter().for_each(Waiting::is_served);
    rig.machine.wait_property(APP, "NRestarts", 1);
    assert!(all.iter().all(|process| !process.is_alive()));
    rig.wait_main();
    rig.flip();

    // The service alone is stopped, so the next client starts it again.
    rig.stop_well();
    Waiting::new(&rig).is_served();
    rig.wait_main();
    rig.machine.systemctl(["stop", "app.socket", APP]).unwrap();
}

/// SIGKILL to every process of the unit; all are gone then.
#[track_caller]
fn kill_everything(rig: &Rig) -> Vec<Process> {
    let all = rig.machine.processes(APP);
    for process in &all {
        // What has ended already did so because of the others.
        let _ = process.signal(Signal::SIGKILL);
    }
    all.iter().for_each(|process| rig.wait_gone(*process));
    all
}
