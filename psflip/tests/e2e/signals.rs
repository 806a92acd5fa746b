//! Signals: which are forwarded, with what data, and which are requests (contract S1, S4, S6, S7, U7).

mod mapping;

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;

use nix::fcntl::{FcntlArg, fcntl};
use testkit::process::ProcessState;
use testkit::{Deadline, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream, fixture, wait_until};

use crate::service::{LOGGER, own_name};

fn logger(sandbox: &Sandbox) -> PsflipBuilder {
    sandbox.psflip().cmd([fixture("signal-logger")]).config(LOGGER)
}

/// A psflip that is healthy, with a child that handles signals.
fn ready(psflip: PsflipBuilder) -> Psflip {
    let psflip = psflip.start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready");
    psflip
}

/// Sends a signal by number. Returns the pid of the sender.
fn send(sandbox: &Sandbox, process: Process, number: i32) -> u32 {
    let kill = sandbox.command(["/bin/kill", &format!("-{number}"), &process.to_string()]).start();
    assert!(kill.wait_exit().success(), "signal {number}\n{}", sandbox.report());
    kill.pid()
}

/// How often the child printed this line.
fn count(psflip: &Psflip, line: &str) -> usize {
    psflip.program().stdout().lines().filter(|printed| printed.starts_with(line)).count()
}

/// Sends a signal and waits until the child prints it. By then, every earlier signal to psflip was forwarded.
fn fence(psflip: &Psflip, signal: Signal) {
    let mark = psflip.output().mark();
    psflip.signal(signal);
    psflip.output().wait_after(mark, Stream::Stdout, &format!("got {signal}"));
}

#[test]
fn every_signal_that_can_be_caught_reaches_the_child_from_its_sender() {
    // Contract: S1
    let sandbox = Sandbox::new();
    let psflip =
        ready(logger(&sandbox).cmd([fixture("signal-logger").to_str().unwrap(), "--exit-on", "RTMAX"]));
    // SIGHUP is the upgrade signal; SIGKILL and SIGSTOP can't be caught; glibc keeps 32 and 33 for itself;
    // SIGCHLD is psflip's own.
    let numbers = (2..=64).filter(|number| ![9, 17, 19, 32, 33].contains(number));
    for number in numbers {
        let mark = psflip.output().mark();
        let from = send(&sandbox, psflip.program().first(), number);
        let line = psflip.output().wait_after(mark, Stream::Stdout, "got ");
        assert!(line.text.contains(&format!(" from={from} ")), "signal {number} of {from}: {line}");
        let name = testkit::Signal::try_from(number).map(|signal| signal.as_str().to_owned());
        let name = name.unwrap_or_else(|_| match number {
            34 => "SIGRTMIN".to_owned(),
            64 => "SIGRTMAX".to_owned(),
            _ => format!("SIGRTMIN+{}", number - 34),
        });
        assert!(line.text.starts_with(&format!("got {name} ")), "signal {number}: {line}");
    }
    assert_eq!(psflip.wait_exit().code(), Some(0));
    assert_eq!(count(&psflip, "got "), 63 - 5, "each arrived once: {}", psflip.program().stdout());
}

#[test]
fn two_hundred_queued_real_time_signals_arrive_in_order_and_complete() {
    // Contract: S1
    let sandbox = Sandbox::new();
    let psflip = ready(logger(&sandbox));
    let active = psflip.active();
    psflip.signal(Signal::SIGSTOP);
    wait_until(Deadline::default(), "psflip to stop", || {
        (active.state() == ProcessState::Stopped).then_some(())
    });
    let script = format!(
        "i=0; while [ $i -lt 200 ]; do /bin/kill -s RTMIN+3 -q $i {active} & wait $!; echo $i $!; i=$((i+1)); done"
    );
    let sender = sandbox.command(["sh", "-c", &script]).start();
    assert!(sender.wait_exit().success(), "{}", sandbox.report());
    psflip.signal(Signal::SIGCONT);
    let lines = psflip.output().wait_count(200, Stream::Stdout, "got SIGRTMIN+3 ");
    let sent = sender.stdout();
    assert_eq!(sent.lines().count(), 200, "{sent}");
    for (line, sent) in lines.iter().zip(sent.lines()) {
        let (value, pid) = sent.split_once(' ').unwrap();
        let expected = format!("got SIGRTMIN+3 value={value} from={pid} code=SI_QUEUE");
        assert_eq!(line.text, expected, "{}", sandbox.report());
    }
    psflip.stop();
    assert_eq!(count(&psflip, "got SIGRTMIN+3 "), 200);
}

#[test]
fn a_faked_sigchld_is_not_forwarded() {
    // Contract: S1
    let sandbox = Sandbox::new();
    let psflip = ready(logger(&sandbox));
    for _ in 0..20 {
        psflip.signal(Signal::SIGCHLD);
        fence(&psflip, Signal::SIGUSR1);
    }
    assert_eq!(count(&psflip, "got SIGCHLD"), 0, "{}", sandbox.report());
    assert_eq!(psflip.stop().code(), Some(0));
}

#[test]
fn with_another_upgrade_signal_sighup_is_forwarded() {
    // Contract: S1, S4
    let sandbox = Sandbox::new();
    let config = format!("{LOGGER}[upgrade]\nsignal = \"usr2\"\n");
    let psflip = ready(logger(&sandbox).config(config).upgrade_signal(Signal::SIGUSR2));
    fence(&psflip, Signal::SIGHUP);
    let flip = psflip.flip();
    assert_eq!(count(&psflip, "got SIGUSR2"), 0, "the upgrade signal is psflip's own: {}", sandbox.report());
    assert_eq!(count(&psflip, "got SIGHUP"), 1);
    assert!(flip.new.is_alive());
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    fence(&psflip, Signal::SIGHUP);
    assert_eq!(psflip.stop().code(), Some(0));
}

#[test]
fn a_burst_of_upgrade_requests_causes_at_most_two_upgrades() {
    // Contract: U7
    let sandbox = Sandbox::new();
    let psflip = ready(logger(&sandbox));
    let first = psflip.active();
    for _ in 0..200 {
        // psflip may be replaced meanwhile. Then the rest of the burst is too late.
        if first.signal(Signal::SIGHUP).is_err() {
            break;
        }
    }
    psflip.wait_successor(first);
    psflip.wait_gone(first);
    // One more request. It is merged with a queued one, or becomes an upgrade of its own.
    psflip.flip();
    psflip.stop();
    let mut pids = psflip.history().pids();
    pids.sort_unstable(); // a flip that the stop aborts gives the pidfile back
    pids.dedup();
    assert!((2..=4).contains(&pids.len()), "{pids:?}\n{}", sandbox.report());
    psflip.history().assert_always_alive();
}

#[test]
fn the_log_names_a_signal_and_its_sender() {
    // Contract: S6
    let sandbox = Sandbox::new();
    let psflip = ready(logger(&sandbox));
    let own = own_name();
    for signal in [Signal::SIGUSR1, Signal::SIGWINCH] {
        fence(&psflip, signal);
        let line = psflip.wait_for_line(Stream::Stderr, signal.as_str()).text;
        assert!(line.contains(&own), "{line}");
    }
    psflip.flip();
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade requested").text;
    assert!(line.contains(&format!("signal=SIGHUP from=\"{own}\"")), "{line}");
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    psflip.stop();
    let line = psflip.wait_for_line(Stream::Stderr, "stop requested").text;
    assert!(line.contains(&format!("signal=SIGTERM from=\"{own}\"")), "{line}");
}

#[test]
fn a_stop_right_after_the_start_stops_psflip_and_its_processes() {
    // Contract: S7, S5
    for _ in 0..200 {
        let sandbox = Sandbox::new();
        let config = "[healthcheck.alive]\ntimeout = \"0s\"\n";
        let psflip = sandbox.psflip().cmd(["sleep", "1000"]).config(config).start();
        psflip.program().signal(Signal::SIGTERM);
        let status = psflip.wait_exit();
        assert_eq!(status.signal(), Some(15), "{status}\n{}", sandbox.report());
        sandbox.assert_no_process_left();
        assert!(!psflip.pidfile_path().exists(), "{}", sandbox.report());
    }
}

#[test]
fn an_upgrade_request_right_after_the_start_is_queued() {
    // Contract: S7, U7
    for _ in 0..100 {
        let sandbox = Sandbox::new();
        let config = "[healthcheck.alive]\ntimeout = \"0s\"\n";
        let psflip = sandbox.psflip().cmd(["sleep", "1000"]).config(config).start();
        let first = psflip.program().first();
        // psflip's first instruction blocks all signals. Until then the dynamic linker runs.
        wait_until(Deadline::default(), "psflip's first instruction", || {
            first.status_field("SigBlk").filter(|mask| mask.starts_with("fffffff")).map(drop)
        });
        psflip.program().signal(Signal::SIGHUP);
        psflip.wait_pidfile();
        if psflip.active() == first {
            psflip.wait_successor(first);
        }
        assert_eq!(psflip.wait_exit().code(), Some(0), "superseded\n{}", sandbox.report());
        psflip.stop();
        let pids = psflip.history().pids();
        assert!(pids.len() <= 2, "one request, one flip: {pids:?}\n{}", sandbox.report());
    }
}

#[test]
fn a_terminal_hangup_reaches_the_child_and_is_not_an_upgrade_request() {
    // Contract: S4
    let sandbox = Sandbox::new();
    // `script` owns the terminal, and psflip, as an anchor, leads its session.
    let script = ["sh", "-c", "exec script -qfec \"exec $*\" /dev/null", "sh"];
    hang_up(&sandbox, &script, true);
}

#[test]
fn a_hangup_of_the_whole_process_group_reaches_the_child_once() {
    // Contract: S4, S2
    let sandbox = Sandbox::new();
    // A shell leads the session. When SIGHUP kills it, the kernel signals its process group.
    let script = ["sh", "-c", "exec script -qfec \"$*; true\" /dev/null", "sh"];
    hang_up(&sandbox, &script, false);
}

fn hang_up(sandbox: &Sandbox, script: &[&str], leads: bool) {
    let child =
        format!("exec '{}' >'{}'", fixture("signal-logger").display(), sandbox.path("child").display());
    let psflip =
        sandbox.psflip().cmd(["sh", "-c", &child]).config(LOGGER).wrapper(script).start().wait_ready();
    let read = || std::fs::read_to_string(sandbox.path("child")).unwrap_or_default();
    let printed = |part: &str| read().lines().filter(|line| line.starts_with(part)).count();
    let until = |part: &str| wait_until(Deadline::default(), part, || (printed(part) > 0).then_some(()));
    until("ready");
    let (active, child) = (psflip.active(), psflip.child());
    // A psflip that leads a session keeps an anchor above its generations (docs/managers.md).
    let leader = Process::find(active.stat().unwrap().session).and_then(|leader| leader.stat()).unwrap();
    assert_eq!(leader.name.starts_with("psflip"), leads, "{}: {}", leader.name, sandbox.report());
    psflip.program().signal(Signal::SIGKILL); // killing `script` closes the terminal's other end
    until("got SIGHUP");
    psflip.signal(Signal::SIGUSR1);
    until("got SIGUSR1");
    assert_eq!(printed("got SIGHUP"), 1, "{}\n{}", sandbox.read("child"), sandbox.report());
    assert_eq!((psflip.active(), psflip.child()), (active, child), "no upgrade\n{}", sandbox.report());
    assert_eq!(psflip.history().pids().len(), 1);
    psflip.signal(Signal::SIGTERM);
    psflip.wait_gone(active);
    sandbox.assert_no_process_left();
}

#[test]
fn a_log_whose_reader_is_gone_has_no_effect() {
    // Contract: S1
    let sandbox = Sandbox::new();
    let (out_reader, out) = std::io::pipe().unwrap();
    let (err_reader, err) = std::io::pipe().unwrap();
    drop((out_reader, err_reader));
    let psflip = logger(&sandbox).cmd(["sleep", "1000"]).stdout(out).stderr(err).start().wait_ready();
    let child = psflip.child();
    for _ in 0..20 {
        psflip.signal(Signal::SIGWINCH); // each makes a log line that can't be written
    }
    let flip = psflip.flip();
    assert!(!child.is_alive() && flip.new.is_alive());
    assert!(psflip.child().is_alive());
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_log_whose_reader_hangs_does_not_hang_psflip() {
    // Contract: C7, U9
    let sandbox = Sandbox::new();
    let (reader, full) = full_pipe(4096, 0);
    let psflip = logger(&sandbox).stderr(full).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready");
    for _ in 0..20 {
        fence(&psflip, Signal::SIGUSR1);
    }
    psflip.flip();
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    assert_eq!(psflip.stop().code(), Some(0));
    drop(reader);
}

#[test]
fn a_log_line_longer_than_the_free_pipe_buffer_does_not_hang_psflip() {
    // Contract: C7, U9
    let sandbox = Sandbox::new();
    let (reader, nearly_full) = full_pipe(8192, 4096);
    // The log contains the program's path. With a path of nearly PATH_MAX, that one line exceeds the free
    // space.
    let program = fixture("signal-logger");
    let (folder, name) = (program.parent().unwrap().to_str().unwrap(), program.file_name().unwrap());
    let padding = "/.".repeat((4090 - program.as_os_str().len()) / 2);
    let logger = logger(&sandbox).cmd([format!("{folder}{padding}/{}", name.to_str().unwrap())]);
    let psflip = logger.stderr(nearly_full).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready");
    fence(&psflip, Signal::SIGUSR1);
    psflip.flip();
    psflip.stop();
    drop(reader);
}

/// A pipe of `size` bytes with `room` bytes free.
fn full_pipe(size: i32, room: usize) -> (OwnedFd, OwnedFd) {
    let (reader, writer) = std::io::pipe().unwrap();
    let (reader, writer) = (OwnedFd::from(reader), OwnedFd::from(writer));
    let size = fcntl(writer.as_fd(), FcntlArg::F_SETPIPE_SZ(size)).unwrap();
    let mut file = File::from(writer);
    file.write_all(&vec![b'.'; usize::try_from(size).unwrap() - room]).unwrap();
    (reader, file.into())
}
