//! `[signals]`: which signal the child gets in place of the one that psflip gets (contract S8).

use testkit::{Psflip, PsflipBuilder, Sandbox, Signal, Stream, fixture, psflip_bin};

use super::{LOGGER, count, fence, logger, ready, send};
use crate::anchor::{anchor_of, anchored};
use crate::service::configure;

/// A psflip with these rules, and a child that prints every signal and exits on this one.
fn with_rules(sandbox: &Sandbox, rules: &str, exit_on: &str) -> PsflipBuilder {
    let program = fixture("signal-logger");
    let argv = [program.to_str().unwrap(), "--exit-on", exit_on];
    logger(sandbox).cmd(argv).config(format!("{LOGGER}[signals]\n{rules}\n"))
}

/// Sends a signal to psflip, and waits until the child has got another one.
#[track_caller]
fn becomes(psflip: &Psflip, signal: Signal, sent: &str) {
    let mark = psflip.output().mark();
    psflip.signal(signal);
    psflip.output().wait_after(mark, Stream::Stdout, &format!("got {sent} "));
}

#[test]
fn a_child_gets_the_mapped_signal_with_sender_and_payload() {
    // Contract: S8, S1, S6
    let sandbox = Sandbox::new();
    let rules = "SIGUSR1 = \"SIGHUP\"\nWINCH = false\n\"RTMIN+3\" = \"RTMIN+5\"\nSIGTERM = \"SIGQUIT\"";
    let psflip = ready(with_rules(&sandbox, rules, "QUIT"));
    let from = send(&sandbox, psflip.active(), 10);
    psflip.output().wait(Stream::Stdout, &format!("got SIGHUP value=0 from={from} "));
    psflip.output().wait(Stream::Stderr, "signal=SIGUSR1");
    let active = psflip.active().to_string();
    let queue = sandbox.command(["/bin/kill", "-s", "RTMIN+3", "-q", "7", &active]).start();
    assert!(queue.wait_exit().success(), "{}", sandbox.report());
    let line = format!("got SIGRTMIN+5 value=7 from={} code=SI_QUEUE", queue.pid());
    psflip.output().wait(Stream::Stdout, &line);
    psflip.signal(Signal::SIGWINCH);
    fence(&psflip, Signal::SIGUSR2);
    for never in ["SIGUSR1", "SIGWINCH", "SIGRTMIN+3"] {
        assert_eq!(count(&psflip, &format!("got {never} ")), 0, "{}", sandbox.report());
    }
    // A stop request, whatever the child gets. When the child exits, the service is stopped.
    psflip.signal(Signal::SIGTERM);
    assert_eq!(psflip.wait_exit().code(), Some(0), "{}", sandbox.report());
    assert_eq!((count(&psflip, "got SIGQUIT "), count(&psflip, "got SIGTERM ")), (1, 0));
    let line = psflip.wait_for_line(Stream::Stderr, "stop requested").text;
    assert!(line.contains("signal=SIGTERM") && line.contains("forward_as=SIGQUIT"), "{line}");
    assert!(!psflip.pidfile_path().exists());
    sandbox.assert_no_process_left();
}

#[test]
fn each_generation_has_its_own_table_and_psflips_signals_are_not_mapped() {
    // Contract: S8, U2, U5
    let sandbox = Sandbox::new();
    let psflip = ready(with_rules(&sandbox, "SIGUSR1 = \"SIGUSR2\"\nSIGTERM = \"SIGWINCH\"", "TERM"));
    becomes(&psflip, Signal::SIGUSR1, "SIGUSR2");
    let program = fixture("signal-logger");
    configure(&sandbox, &[program.to_str().unwrap()], &format!("{LOGGER}[signals]\nSIGUSR1 = \"SIGALRM\"\n"));
    // The old child gets `shutdown.signal`, which is SIGTERM, and not what SIGTERM is mapped to.
    psflip.flip();
    assert_eq!((count(&psflip, "got SIGTERM "), count(&psflip, "got SIGWINCH ")), (1, 0));
    psflip.output().wait_count(2, Stream::Stdout, "ready pid");
    becomes(&psflip, Signal::SIGUSR1, "SIGALRM");
    assert_eq!(psflip.stop().code(), Some(0), "{}", sandbox.report());
}

#[test]
fn psflip_stop_sends_the_shutdown_signal_unmapped() {
    // Contract: S8
    let sandbox = Sandbox::new();
    let psflip = ready(with_rules(&sandbox, "SIGTERM = \"SIGWINCH\"", "TERM"));
    let stop = sandbox.command([psflip_bin()]).args(["stop", "-c", "psflip.toml"]).start();
    assert!(stop.wait_exit().success(), "{}", sandbox.report());
    assert_eq!(psflip.wait_exit().code(), Some(0));
    assert_eq!((count(&psflip, "got SIGTERM "), count(&psflip, "got SIGWINCH ")), (1, 0));
}

#[test]
fn a_child_that_ignores_a_mapped_stop_signal_keeps_running() {
    // Contract: S8, S5
    let sandbox = Sandbox::new();
    let builder = with_rules(&sandbox, "SIGTERM = \"SIGUSR1\"", "TERM");
    let config = format!(
        "{}[signals]\nSIGTERM = \"SIGUSR1\"\n",
        LOGGER.replace("timeout = \"2s\"", "timeout = \"50ms\"")
    );
    let psflip = ready(builder.config(config));
    becomes(&psflip, Signal::SIGTERM, "SIGUSR1");
    psflip.wait_for_line(Stream::Stderr, "keeps running");
    let flip = psflip.flip();
    assert!(flip.new.is_alive(), "{}", sandbox.report());
}

#[test]
fn below_an_anchor_signals_to_either_process_are_mapped() {
    // Contract: S8, A2
    let sandbox = Sandbox::new();
    let rules = "SIGUSR1 = \"SIGUSR2\"\nSIGTERM = \"SIGQUIT\"";
    let psflip = ready(anchored(with_rules(&sandbox, rules, "QUIT")));
    let anchor = anchor_of(&psflip);
    becomes(&psflip, Signal::SIGUSR1, "SIGUSR2");
    let mark = psflip.output().mark();
    let from = send(&sandbox, anchor, 10);
    psflip.output().wait_after(mark, Stream::Stdout, &format!("got SIGUSR2 value=0 from={from} "));
    anchor.signal(Signal::SIGTERM).unwrap();
    assert_eq!(psflip.wait_exit().code(), Some(0), "{}", sandbox.report());
    assert_eq!((count(&psflip, "got SIGQUIT "), count(&psflip, "got SIGTERM ")), (1, 0));
}

#[test]
fn terminal_keys_are_mapped_by_the_table() {
    // Contract: S8, S2
    let sandbox = Sandbox::new();
    let rules = "[signals]\nSIGINT = \"SIGUSR1\"\nSIGQUIT = false\nSIGWINCH = \"SIGALRM\"\n";
    let config = format!("{LOGGER}{rules}");
    // In a process group of its own, the child gets the terminal's signals only from psflip.
    let logger = crate::terminal::logger(&sandbox).config(config);
    let psflip = crate::terminal::ready(logger.wrapper(crate::terminal::SHELL));
    psflip.program().write_stdin("\x03");
    psflip.wait_for_line(Stream::Pty, "got SIGUSR1 ");
    psflip.program().write_stdin("\x1c");
    psflip.program().resize(30, 100);
    psflip.wait_for_line(Stream::Pty, "got SIGALRM ");
    let text = psflip.output().text(Stream::Pty);
    for never in ["got SIGINT ", "got SIGQUIT ", "got SIGWINCH "] {
        assert!(!text.contains(never), "{}", sandbox.report());
    }
    crate::terminal::end(&psflip, 0);
}
