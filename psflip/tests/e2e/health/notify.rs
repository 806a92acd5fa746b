//! The health check `notify`, with the senders that users have: `systemd-notify`, Python, socat,
//! grandchildren, and processes that are not the child's.

use std::fs;

use testkit::{Deadline, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream, child_of, wait_until};

use crate::failures::stage::Stage;
use crate::service::{configure, freeze, stop, thaw, wait_coming};

/// Defines `say MESSAGE` for shell scripts. It understands `
/// `. The sender lives until its message was read, as `systemd-notify` does. If its shell reaps it earlier,
/// psflip can't find out which process sent the message. Python starts without its site packages, and not by a
/// wrapper that may be the first in PATH: both take seconds on a busy host.
pub(crate) const SAY: &str = "export SAY='import os, socket, sys\n\
    s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
    s.connect(\"\\0\" + os.environ[\"NOTIFY_SOCKET\"][1:])\n\
    s.send(sys.argv[1].replace(\"\\\\n\", \"\\n\").encode())\n\
    r, w = os.pipe()\n\
    socket.send_fds(s, [b\"BARRIER=1\"], [w])\n\
    os.close(w)\n\
    os.read(r, 1)'; say() { \"$(command -v /usr/bin/python3 || echo python3)\" -ISc \"$SAY\" \"$1\"; }; ";

const NOTIFY: &str = "[healthcheck.notify]\n";

/// Whether a program is installed. If not, the caller skips the test.
#[track_caller]
pub(crate) fn is_installed(program: &str) -> bool {
    testkit::need(program).is_some()
}

fn shell(script: &str) -> [String; 3] {
    ["/bin/sh".into(), "-c".into(), format!("{SAY}{script}")]
}

fn child(sandbox: &Sandbox, script: &str, config: &str) -> PsflipBuilder {
    sandbox.psflip().cmd(shell(script)).config(config)
}

/// Sets the next generation's child.
fn configure_next(sandbox: &Sandbox, script: &str, config: &str) {
    let argv = shell(script);
    configure(sandbox, &argv.each_ref().map(String::as_str), config);
}

/// The address in a child's `NOTIFY_SOCKET`.
fn address(child: Process) -> String {
    child.env("NOTIFY_SOCKET").expect("no NOTIFY_SOCKET").into_string().unwrap()
}

#[track_caller]
fn promotes(script: &str) {
    let sandbox = Sandbox::new();
    let psflip = child(&sandbox, script, NOTIFY).env("NOTIFY_SOCKET", "/run/of-psflip-itself");
    let psflip = psflip.start().wait_ready();
    let first = address(psflip.child());
    assert!(first.starts_with('@'), "{first}");
    psflip.flip();
    assert_ne!(address(psflip.child()), first, "each generation has a socket of its own");
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_child_whose_script_sends_ready_is_promoted() {
    // Contract: H1, C3
    if is_installed("python3") {
        promotes("say 'STATUS=nearly'; say 'READY=1\\nSTATUS=up'; exec sleep 1000");
    }
}

#[test]
fn a_child_that_sends_ready_by_systemd_notify_is_promoted() {
    // Contract: H1
    if is_installed("systemd-notify") {
        // Without `--no-block` it waits until psflip closes its descriptor (BARRIER=1).
        promotes("systemd-notify --ready --status=up && exec sleep 1000");
    }
}

/// Run as root, systemd-notify(1) gives its parent as the sender. If the shell that started it has exited,
/// its parent is the keeper.
#[test]
fn a_systemd_notify_in_the_background_may_send_ready() {
    // Contract: H1, H5
    if is_installed("systemd-notify") {
        let orphan =
            "while test $(ps -o ppid= -p $$) -ne $KEEPER; do sleep 0.01; done; exec systemd-notify --ready";
        promotes(&format!("export KEEPER=$PPID; (sh -c '{orphan}' &); exec sleep 1000"));
        promotes("(systemd-notify --ready &) ; exec sleep 1000");
    }
}

/// Whether a READY=1 counts if its sender has exited and was reaped before psflip reads it. psflip is stopped
/// until then.
#[track_caller]
fn is_ready_by_one_who_is_gone(sandbox: &Sandbox, psflip: &Psflip, sends: impl FnOnce()) -> bool {
    psflip.wait_for_line(Stream::Stderr, "started");
    let first = psflip.program().first();
    freeze(first);
    sends();
    thaw(first);
    let told = || {
        let log = psflip.log();
        let ready = log.contains("healthy, active");
        (ready || log.contains("ignoring messages on NOTIFY_SOCKET")).then_some(ready)
    };
    let ready = wait_until(Deadline::default(), "the message to count, or to be ignored", told);
    psflip.program().signal(Signal::SIGTERM);
    psflip.wait_exit();
    sandbox.assert_no_process_left();
    ready
}

#[test]
fn of_exited_senders_only_orphans_of_the_child_count() {
    // Contract: H5
    if !is_installed("socat") {
        return;
    }
    let send = "printf READY=1 | socat -u - ABSTRACT-SENDTO:";
    // The keeper becomes the orphan's parent, and reaps it.
    let orphan = "while test $(ps -o ppid= -p $$) -ne $KEEPER -o ! -e go; do sleep 0.01; done; \
                  printf READY=1 > one; exec socat -u FILE:one ABSTRACT-SENDTO:${NOTIFY_SOCKET#@}";
    let sandbox = Sandbox::new();
    sandbox.write("orphan.sh", orphan);
    let script = "export KEEPER=$PPID; (sh orphan.sh &); echo started >&2; exec sleep 1000";
    let psflip = child(&sandbox, script, NOTIFY).start();
    let sends = || {
        let child = child_of(psflip.program().first()).unwrap();
        let keeper = child.parent().unwrap();
        let orphans = || keeper.children().into_iter().filter(|process| *process != child).count();
        wait_until(Deadline::default(), "the orphan to be the keeper's", || (orphans() == 1).then_some(()));
        sandbox.write("go", "");
        wait_until(Deadline::default(), "the orphan to be reaped", || (orphans() == 0).then_some(()));
    };
    assert!(is_ready_by_one_who_is_gone(&sandbox, &psflip, sends));

    let sandbox = Sandbox::new();
    let psflip = child(&sandbox, "echo started >&2; exec sleep 1000", NOTIFY).start();
    let sends = || {
        let address = address(child_of(psflip.program().first()).unwrap());
        let stranger = sandbox.command(["sh", "-c", &format!("{send}{}", &address[1..])]).start();
        assert!(stranger.wait_exit().success());
    };
    assert!(!is_ready_by_one_who_is_gone(&sandbox, &psflip, sends), "{}", sandbox.report());
}

#[test]
fn a_child_that_sends_ready_by_python_is_promoted() {
    // Contract: H1
    let script = "exec python3 -c \"import os, signal, socket\n\
        name = os.environ['NOTIFY_SOCKET']\n\
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b'READY=1', '\\\\0' + name[1:])\n\
        signal.pause()\"";
    if is_installed("python3") {
        promotes(script);
    }
}

#[test]
fn an_orphan_of_the_child_in_its_own_session_may_send_ready() {
    // Contract: H1
    if !is_installed("python3") {
        return;
    }
    // The orphan sends only after the keeper, the child's parent, has become its parent.
    let orphan = "while test $(ps -o ppid= -p $$) -ne $KEEPER; do sleep 0.01; done; say READY=1";
    let sandbox = Sandbox::new();
    sandbox.write("orphan.sh", format!("{SAY}{orphan}"));
    let start = "export KEEPER=$PPID; setsid -f sh orphan.sh; exec sleep 1000";
    let psflip = child(&sandbox, start, NOTIFY).start().wait_ready();
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_child_that_changed_its_user_may_send_ready() {
    // Contract: H1
    if !nix_is_root() || !is_installed("python3") || !is_installed("setpriv") {
        return;
    }
    promotes(
        "exec setpriv --reuid 65534 --regid 65534 --clear-groups sh -c 'python3 -c \"$SAY\" READY=1; exec sleep 1000'",
    );
}

fn nix_is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}

/// psflip exits with 124. Returns the reason from its log.
#[track_caller]
fn reason_of_failure(sandbox: &Sandbox, psflip: &Psflip) -> String {
    let status = psflip.wait_exit();
    assert_eq!(status.code(), Some(124), "{status}\n{}", sandbox.report());
    let line = psflip.wait_for_line(Stream::Stderr, "not healthy within").text;
    assert_eq!(psflip.history().pids(), [0_u32; 0], "{}", sandbox.report());
    sandbox.assert_no_process_left();
    line
}

#[test]
fn a_child_that_sends_nothing_fails_with_advice() {
    // Contract: H4, C6, F4
    let sandbox = Sandbox::new();
    let psflip =
        child(&sandbox, "exec sleep 1000", "upgrade.timeout = \"300ms\"\n[healthcheck.notify]\n").start();
    let line = reason_of_failure(&sandbox, &psflip);
    let wanted = "not healthy within 300ms; no READY=1 came to $NOTIFY_SOCKET, nor anything else: the child has to send it";
    assert!(line.contains(wanted), "{line}");
}

#[test]
fn the_childs_status_and_errno_are_part_of_the_reason() {
    // Contract: H4, C6
    if !is_installed("python3") {
        return;
    }
    let sandbox = Sandbox::new();
    // On a busy host Python needs seconds to start.
    let short = "upgrade.timeout = \"10s\"\n[healthcheck.notify]\n";
    let psflip =
        child(&sandbox, "say 'STATUS=waiting for the database\\nERRNO=111'; exec sleep 1000", short).start();
    let line = reason_of_failure(&sandbox, &psflip);
    let wanted = "came to $NOTIFY_SOCKET; its status is `waiting for the database`; it reported ERRNO=111 (Connection refused";
    assert!(line.contains(wanted), "{line}");

    let sandbox = Sandbox::new();
    let psflip = child(&sandbox, "say 'STATUS=no licence\\nSTOPPING=1'; exit 9", NOTIFY).start();
    assert_eq!(psflip.wait_exit().code(), Some(9), "{}", sandbox.report());
    let line = psflip.wait_for_line(Stream::Stderr, "before it was healthy").text;
    assert!(line.contains("exit code 9; its status is `no licence`; it reported STOPPING=1"), "{line}");
}

#[test]
fn an_upgrade_to_a_child_that_is_not_ready_in_time_fails_and_the_next_one_works() {
    // Contract: U8, H4, F4
    if !is_installed("python3") {
        return;
    }
    let sandbox = Sandbox::new();
    let good = "say READY=1; exec sleep 1000";
    let psflip = child(&sandbox, good, NOTIFY).start().wait_ready();
    let before = psflip.child();
    configure_next(
        &sandbox,
        "say STATUS=stuck; exec sleep 1000",
        "upgrade.timeout = \"3s\"\n[healthcheck.notify]\n",
    );
    psflip.request_flip();
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade failed").text;
    assert!(line.contains("no READY=1 came") && line.contains("its status is `stuck`"), "{line}");
    assert_eq!(psflip.child(), before);
    configure_next(&sandbox, good, NOTIFY);
    psflip.flip();
    stop(&psflip);
}

#[test]
fn messages_of_other_processes_and_the_old_child_do_not_count() {
    // Contract: H1, H4, H5, U3
    if !is_installed("python3") || !is_installed("socat") {
        return;
    }
    // Sends READY=1 to the address that it finds in the file.
    let forward = "while test ! -s to; do sleep 0.01; done; NOTIFY_SOCKET=$(cat to); \
        printf READY=1 | socat - ABSTRACT-SENDTO:${NOTIFY_SOCKET#@} & exec sleep 1000";
    let sandbox = Sandbox::new();
    let psflip = child(&sandbox, &format!("say READY=1; {forward}"), NOTIFY).start().wait_ready();
    let (old, old_child) = (psflip.active(), psflip.child());
    let slow = "echo waiting >&2; while test ! -e go; do sleep 0.01; done; say READY=1; exec sleep 1000";
    configure_next(&sandbox, slow, NOTIFY);
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stderr, "waiting");
    let new = wait_coming(&sandbox, old);
    let new_child = wait_until(Deadline::default(), "the new child", || child_of(new));
    let new_address = address(new_child);
    sandbox.write("to", &new_address);
    let ignored = "ignoring messages on NOTIFY_SOCKET";
    psflip.wait_for_line(Stream::Stderr, ignored);
    // A process that is not the child's, and that waits until its message was read.
    sandbox.write("one", "READY=1");
    let stranger = format!("exec socat -t 3600 - ABSTRACT-SENDTO:{} < one", &new_address[1..]);
    let stranger = sandbox.command(["sh", "-c", &stranger]).start();
    assert_eq!((psflip.active(), psflip.child()), (old, old_child), "{}", sandbox.report());
    sandbox.write("go", "");
    psflip.wait_successor(old);
    stranger.signal(Signal::SIGKILL);
    stranger.wait_exit();
    stop(&psflip);
}

#[test]
fn the_socket_is_read_as_long_as_the_child_serves() {
    // Contract: H1, X2
    if !is_installed("python3") || !is_installed("socat") {
        return;
    }
    let sandbox = Sandbox::new();
    // More messages than any queue holds (net.unix.max_dgram_qlen). A sender would block if psflip didn't
    // read.
    let flood = "while test ! -e go; do sleep 0.01; done; \
        yes 'STATUS=serving' | head -n 20000 | socat -u -b 15 - ABSTRACT-SENDTO:${NOTIFY_SOCKET#@}; \
        say 'STATUS=all said'; echo done; exec sleep 1000";
    let config = "[healthcheck.notify]\n[log]\nlevel = \"debug\"\n";
    let psflip = child(&sandbox, &format!("say READY=1; {flood}"), config).start().wait_ready();
    sandbox.write("go", "");
    psflip.wait_for_line(Stream::Stdout, "done");
    psflip.wait_for_line(Stream::Stderr, "status=\"all said\"");
    psflip.flip(); // one log line for each message would be too many
    assert!(psflip.log().matches("status=\"serving\"").count() <= 2, "{}", sandbox.report());
    stop(&psflip);
}

#[test]
fn a_flood_from_foreign_senders_costs_little_and_delays_no_child() {
    // Contract: H5
    if !is_installed("python3") {
        return;
    }
    // Sends for three seconds, blocks while the queue is full, and prints how many messages the queue took.
    const FLOOD: &str = "import socket, sys, time\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        s.connect('\\0' + sys.argv[1][1:])\n\
        begin, sent = time.monotonic(), 0\n\
        while time.monotonic() < begin + 3:\n    s.send(b'STATUS=x'); sent += 1\n\
        print('sent', sent, 'in', int(time.monotonic() - begin), 's', flush=True)";
    let sandbox = Sandbox::new();
    let wait_and_say = "echo up; while test ! -e go; do sleep 0.01; done; say READY=1; exec sleep 1000";
    let psflip = child(&sandbox, wait_and_say, NOTIFY).start();
    psflip.wait_for_line(Stream::Stdout, "up");
    let address = address(child_of(psflip.program().first()).unwrap());
    let flooder = || sandbox.command(["python3", "-c", FLOOD, &address]).start();
    let first = flooder();
    psflip.wait_for_line(Stream::Stderr, "floods NOTIFY_SOCKET");
    sandbox.write("go", "");
    psflip.wait_for_line(Stream::Stderr, "healthy, active");
    first.signal(Signal::SIGKILL);
    first.wait_exit();
    let second = flooder();
    let line = second.output().wait(Stream::Stdout, "sent ").text;
    assert!(second.wait_exit().success());
    let numbers: Vec<u64> = line.split(' ').filter_map(|word| word.parse().ok()).collect();
    let [sent, seconds] = *numbers else { panic!("{line}") };
    // psflip reads up to 64 at a time, perhaps twice before it pauses, and the queue holds some more.
    assert!(sent <= (seconds + 2) * 150, "{line}");
    psflip.flip();
    stop(&psflip);
    assert_eq!(psflip.log().matches("floods NOTIFY_SOCKET").count(), 1, "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn a_child_may_request_more_time_and_both_generations_grant_it() {
    // Contract: H1, U2, F5
    if !is_installed("python3") {
        return;
    }
    let sandbox = Sandbox::new();
    let psflip = child(&sandbox, "say READY=1; exec sleep 1000", NOTIFY).start().wait_ready();
    // If only the new psflip gave more time, the old one would take it for hung after 7 s.
    let slow = "say 'EXTEND_TIMEOUT_USEC=20000000'; echo asked >&2; sleep 8; say READY=1; exec sleep 1000";
    let config = "upgrade.timeout = \"2s\"\nshutdown.timeout = \"0s\"\n[healthcheck.notify]\n";
    configure_next(&sandbox, slow, config);
    psflip.flip();
    stop(&psflip);
}

#[test]
fn a_child_gets_no_more_time_than_the_configuration_allows() {
    // Contract: H1, H4, F4
    if !is_installed("python3") {
        return;
    }
    for (extend, wanted) in [
        ("0s", "within 2s; no READY=1 came"),
        ("200ms", "within 2s; EXTEND_TIMEOUT_USEC had put that off to 2.2s; no READY=1 came"),
    ] {
        let sandbox = Sandbox::new();
        let config = format!("upgrade.timeout = \"2s\"\n[healthcheck.notify]\nextend = \"{extend}\"\n");
        let greedy = "while :; do say EXTEND_TIMEOUT_USEC=18446744073709551615; sleep 0.01; done";
        let psflip = child(&sandbox, greedy, &config).start();
        let line = reason_of_failure(&sandbox, &psflip);
        assert!(line.contains(wanted), "{line}");
    }
}

#[test]
fn a_child_that_ignores_a_stop_request_may_have_sent_ready_meanwhile() {
    // Contract: H1, S5
    if !is_installed("python3") {
        return;
    }
    let sandbox = Sandbox::new();
    let script = "trap '' TERM; echo started; while test ! -e go; do sleep 0.01; done; \
        say 'READY=1\\nSTATUS=said'; while test ! -e end; do sleep 0.01; done";
    let config = "shutdown.timeout = \"8s\"\n[healthcheck.notify]\n[log]\nlevel = \"debug\"\n";
    let psflip = child(&sandbox, script, config).start();
    psflip.wait_for_line(Stream::Stdout, "started");
    psflip.program().signal(Signal::SIGTERM);
    psflip.wait_for_line(Stream::Stderr, "stop requested");
    sandbox.write("go", "");
    psflip.wait_for_line(Stream::Stderr, "status=\"said\"");
    psflip.wait_for_line(Stream::Stderr, "healthy, active");
    let log = psflip.log();
    let order = ["status=\"said\"", "did not exit on the stop request", "healthy, active"];
    let places = order.map(|part| log.find(part));
    assert!(places.iter().all(Option::is_some) && places.is_sorted(), "{places:?}\n{log}");
    sandbox.write("end", "");
    assert!(psflip.wait_exit().success(), "{}", sandbox.report());
}

#[test]
fn a_failed_notify_socket_fails_the_upgrade_and_the_next_one_works() {
    // Contract: F10, U8
    if !is_installed("python3") {
        return;
    }
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let psflip = stage.psflip(&sandbox, "").cmd(shell("say READY=1; exec sleep 1000")).config(NOTIFY);
    let psflip = psflip.start().wait_ready();
    let (active, serving) = (psflip.active(), psflip.child());
    for call in ["Socket", "Bind"] {
        let mark = psflip.output().mark();
        stage.plan(&sandbox, Some(active), &format!("fail new {call} 1 24"));
        psflip.request_flip();
        let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed").text;
        assert!(line.contains("can't start") && line.contains("Too many open files"), "{line}");
        assert_eq!((psflip.active(), psflip.child()), (active, serving), "{}", sandbox.report());
    }
    stage.no_plan(&sandbox);
    psflip.flip();
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn the_child_has_the_address_and_no_descriptor_of_the_socket() {
    // Contract: C3
    if !is_installed("python3") {
        return;
    }
    let sandbox = Sandbox::new();
    let psflip = child(&sandbox, "ls -l /proc/$$/fd > fds; env > env; say READY=1; exec sleep 1000", NOTIFY);
    let psflip = psflip.start().wait_ready();
    assert!(!sandbox.read("fds").contains("socket:"), "{}", sandbox.read("fds"));
    let env = sandbox.read("env");
    let added: Vec<&str> =
        env.lines().filter(|line| line.starts_with("PSFLIP") || line.starts_with("NOTIFY")).collect();
    assert_eq!(added.len(), 3, "{added:?}");
    stop(&psflip);
}
