//! Large, deep and fast-forking trees are stopped, too, at a cost that grows in proportion to their size
//! (C7).

use testkit::{Psflip, Sandbox, Signal, Stream};

use super::AT_ONCE;
use crate::service::can_trace;

/// A child that runs this Perl program. Waits until it prints `up`.
#[track_caller]
fn perl(sandbox: &Sandbox, program: &str) -> Psflip {
    let program = format!("$| = 1; {program}");
    let psflip = sandbox.psflip().cmd(["perl", "-e", &program]).config(AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "up");
    psflip
}

#[track_caller]
fn everything_ends_with_psflip(sandbox: &Sandbox, psflip: &Psflip) {
    psflip.active().signal(Signal::SIGKILL).unwrap();
    sandbox.assert_no_process_left();
}

#[test]
fn the_cost_of_killing_many_workers_is_linear() {
    // Contract: C7
    const WORKERS: usize = 300;
    let sandbox = Sandbox::new();
    if !can_trace(&sandbox) {
        return;
    }
    // Each is in a session of its own.
    let psflip = perl(
        &sandbox,
        &format!(
            "use POSIX; pipe R, W; for (1..{WORKERS}) {{ if (!fork) {{ POSIX::setsid(); close R; syswrite W, '.'; sleep }} }} \
             close W; for (1..{WORKERS}) {{ sysread R, $_, 1 }} print \"up\\n\"; sleep"
        ),
    );
    let keeper = psflip.child().parent().unwrap().to_string();
    let strace = sandbox.command(["strace", "-o", "calls", "-p", &keeper]).start();
    strace.output().wait(Stream::Stderr, "attached");
    everything_ends_with_psflip(&sandbox, &psflip);
    let calls = sandbox.read("calls").lines().count();
    // 9 to 13 for each worker, by how many are left at each look; one for each pair would be 90,000.
    assert!((WORKERS..30 * WORKERS).contains(&calls), "{calls} system calls for {WORKERS} workers");
}

#[test]
fn a_chain_of_many_processes_dies_with_psflip() {
    // Contract: C7
    let sandbox = Sandbox::new();
    let chain = "sub chain { my $left = shift; if (!$left) { print \"up\\n\" } elsif (!fork) { chain($left - 1) } sleep } chain(300)";
    let psflip = perl(&sandbox, chain);
    everything_ends_with_psflip(&sandbox, &psflip);
}

#[test]
fn endlessly_forking_processes_die_with_psflip() {
    // Contract: C7
    let hops = "print \"up\\n\" if $_ == 100; fork && exit";
    for session in ["", "POSIX::setsid();"] {
        let sandbox = Sandbox::new();
        let program = format!("use POSIX; if (!fork) {{ {session} for (1..1000000) {{ {hops} }} }} sleep");
        let psflip = perl(&sandbox, &program);
        everything_ends_with_psflip(&sandbox, &psflip);
    }
}
