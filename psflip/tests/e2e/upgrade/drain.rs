//! The order of a promotion, and the stop of the old generation (U4, U5, U6, U8).

use testkit::{FdSnapshot, Sandbox, Signal, Stream};

use crate::service::{AT_ONCE, Service, configure, psflip, stop};

#[test]
fn the_pidfile_names_the_new_psflip_before_the_old_child_gets_its_signal() {
    // Contract: U4
    let sandbox = Sandbox::new();
    let shell =
        "trap 'echo at the signal: $(cat psflip.pid); exit 0' TERM; echo trapped; sleep infinity & wait";
    let health = format!("{AT_ONCE}[shutdown]\norphans = \"kill\"\n");
    let psflip = psflip(&sandbox, &["/bin/sh", "-c", shell], &health).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "trapped");
    for number in 1..=5 {
        psflip.output().wait_count(number, Stream::Stdout, "trapped");
        let flip = psflip.flip();
        psflip.wait_for_line(Stream::Stdout, &format!("at the signal: {}", flip.new));
    }
    psflip.history().assert_never_missing();
    psflip.history().assert_always_alive();
    psflip.output().wait_count(6, Stream::Stdout, "trapped");
    stop(&psflip);
}

#[test]
fn the_delay_comes_before_the_signal() {
    // Contract: U5
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[shutdown]\ndelay = \"1h\"\nsignal = \"SIGUSR2\"\n");
    let logger = ["signal-logger", "--exit-on", "USR2"];
    let psflip = psflip(&sandbox, &logger, &rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let (old, child) = (psflip.active(), psflip.child());
    psflip.request_flip();
    psflip.wait_successor(old);
    psflip.wait_for_line(Stream::Stderr, "new generation took over");
    // A signal through the old psflip is now the first that the old child gets.
    old.signal(Signal::SIGUSR1).unwrap();
    psflip.wait_for_line(Stream::Stdout, "got SIGUSR1");
    assert!(old.is_alive() && child.is_alive());
    let got: Vec<_> =
        psflip.output().lines().into_iter().filter(|line| line.text.contains("got SIG")).collect();
    assert_eq!(got.len(), 1, "{got:?}");
    old.signal(Signal::SIGUSR2).unwrap(); // forwarded, as any signal
    assert!(psflip.wait_end_of(old).success(), "superseded: 0");
    let new = psflip.active();
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    psflip.signal_child(Signal::SIGUSR2);
    assert!(psflip.wait_end_of(new).success());
}

#[test]
fn the_old_child_gets_the_shutdown_signal_and_no_other() {
    // Contract: U5, U6
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[shutdown]\nsignal = \"SIGUSR2\"\n");
    let logger = ["signal-logger", "--exit-on", "USR2"];
    let psflip = psflip(&sandbox, &logger, &rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let old = psflip.flip().old;
    let got: Vec<_> =
        psflip.output().lines().into_iter().filter(|line| line.text.contains("got SIG")).collect();
    assert_eq!(got.len(), 1, "{got:?}");
    assert!(got[0].text.contains("got SIGUSR2") && got[0].text.contains(&format!("from={old}")), "{got:?}");
    assert!(psflip.wait_exit().success());
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    let new = psflip.active();
    psflip.signal_child(Signal::SIGUSR2);
    assert!(psflip.wait_end_of(new).success());
}

#[test]
fn a_child_that_ignores_the_signal_is_killed_at_the_timeout() {
    // Contract: U5
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[shutdown]\ntimeout = \"200ms\"\n");
    let psflip = psflip(&sandbox, &["ignore-sigterm"], &rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let child = psflip.child();
    configure(&sandbox, &["never-ready"], AT_ONCE);
    let flip = psflip.flip();
    psflip.wait_for_line(Stream::Stdout, &format!("got SIGTERM from={}", flip.old));
    psflip.wait_for_line(Stream::Stderr, "the child did not exit in time; killing it");
    assert!(!child.is_alive());
    assert!(psflip.wait_exit().success(), "superseded: 0, whatever the old child's exit status");
    stop(&psflip);
}

#[test]
fn ten_failed_upgrades_do_not_affect_the_old_child() {
    // Contract: U6, U8
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready");
    // Time for a first probe, whose error the reason contains.
    let never = "[upgrade]\ntimeout = \"1s\"\n[healthcheck.unix]\npath = \"nowhere.sock\"\n";
    let tries: &[(&[&str], &str, &str)] = &[
        (&["never-ready"], "timout = 1\n", "unknown key `timout`"),
        (&["/no/such/program"], "", "`/no/such/program`"),
        (&["/etc/passwd"], "", "can't execute `/etc/passwd`"),
        (&["never-ready"], "workdir = \"/no/such/dir\"\n", "/no/such/dir"),
        (&["crash-on-init", "--code", "7"], "", "exit code 7"),
        (&["crash-on-init", "--code", "0"], "", "exit code 0"),
        (&["crash-on-init", "--signal", "SEGV"], "", "SIGSEGV"),
        (&["never-ready"], never, "nowhere.sock"),
        (&["/bin/sh", "-c", "sleep infinity & sleep infinity & exit 3"], "", "exit code 3"),
        (&["crash-on-init", "--after", "20ms", "--code", "9"], "", "exit code 9"),
    ];
    for (argv, rest, reason) in tries {
        configure(&sandbox, argv, rest);
        let mark = psflip.output().mark();
        psflip.request_flip();
        let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
        assert!(line.text.contains(reason), "no `{reason}` in: {line}");
        assert!(line.text.contains("generation=1"), "{line}");
    }
    // This signal is the first one that the old child gets. (Only the signal logger prints `code=`.)
    psflip.signal(Signal::SIGUSR1);
    psflip.wait_for_line(Stream::Stdout, "got SIGUSR1");
    let got: Vec<_> =
        psflip.output().lines().into_iter().filter(|line| line.text.contains(" code=")).collect();
    assert_eq!(got.len(), 1, "{got:?}");
    configure(&sandbox, &["signal-logger"], AT_ONCE);
    psflip.flip();
    stop(&psflip);
}

#[test]
fn twenty_failed_upgrades_leave_no_process_or_descriptor() {
    // Contract: U8, F10
    let service = Service::start();
    service.configure(&["crash-on-init", "--code", "7"], "");
    service.fails();
    let before = FdSnapshot::of(service.psflip.active());
    for _ in 0..20 {
        let line = service.fails();
        assert!(line.text.contains("exit code 7"), "{line}");
    }
    before.assert_unchanged();
    service.sandbox.assert_zombie_free();
    let files: Vec<_> =
        std::fs::read_dir(service.sandbox.dir()).unwrap().map(|file| file.unwrap().file_name()).collect();
    assert_eq!(files.len(), 6, "bin, app.sock, blue.up, psflip.toml, psflip.pid, psflip.pid.sock: {files:?}");
    service.succeeds_and_ends();
}
