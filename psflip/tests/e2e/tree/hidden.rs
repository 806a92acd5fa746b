//! Process trees that proc(5) doesn't show to psflip: it may not read the entries (`hidepid=`, programs
//! without read permission), or there is no /proc (C7, C8).

use testkit::{Deadline, Process, PsflipBuilder, Sandbox, Signal, Stream, fixture, wait_until};

use super::{AT_ONCE, is_root, wait_all_gone};

const NOBODY: u32 = 65534;

/// The processes that must not survive: the keeper's descendants.
#[track_caller]
fn family(psflip: &testkit::Psflip, generation: usize) -> Vec<Process> {
    let all = super::family(psflip, generation);
    assert_eq!(all.len(), 6, "child, workers, orphans: {all:?}");
    all
}

/// An unprivileged psflip whose child is hidden in /proc, since psflip may execute its program, but not read
/// it. The child's workers and orphans ignore SIGTERM, and each has a session of its own.
fn hidden(sandbox: &Sandbox) -> PsflipBuilder {
    let program = unreadable(sandbox, "forks-workers");
    let cmd = [program.as_str(), "--workers", "3", "--orphans", "2", "--setsid", "--ignore-term"];
    let psflip = sandbox.psflip().cmd(cmd).config(format!("shutdown.timeout = \"100ms\"\n{AT_ONCE}"));
    where_all_is_hidden(psflip)
}

/// A copy of a fixture in the sandbox that users other than root may execute, but not read.
#[track_caller]
pub(crate) fn unreadable(sandbox: &Sandbox, name: &str) -> String {
    nix::unistd::chown(sandbox.dir(), Some(NOBODY.into()), Some(NOBODY.into())).unwrap();
    let program = sandbox.path("unreadable").display().to_string();
    // A separate process writes it: see `service::script`.
    let copy = ["install", "-m", "0711", "-o", "root", &fixture(name).display().to_string(), &program];
    assert!(sandbox.command(copy).start().wait_exit().success());
    program
}

/// Starts psflip without privileges, in a /proc that hides other users' processes and programs without read
/// permission.
pub(crate) fn where_all_is_hidden(psflip: PsflipBuilder) -> PsflipBuilder {
    let mount = "mount -t proc -o hidepid=2 proc /proc";
    let script = format!("{mount} && exec setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups \"$@\"");
    psflip.wrapper(["unshare", "--mount", "sh", "-c", &script, "sh"])
}

#[test]
fn a_hidden_tree_is_terminated_with_its_generation() {
    // Contract: C8, U7
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let psflip = hidden(&sandbox).start().wait_ready();
    let mut old = family(&psflip, 1);
    for generation in 2..=3 {
        psflip.flip();
        wait_all_gone("the old generation", &old);
        old = family(&psflip, generation);
    }
    assert_eq!(psflip.stop().code(), Some(0), "{}", sandbox.report());
    wait_all_gone("the last generation", &old);
}

#[test]
fn a_hidden_tree_dies_with_psflip_and_with_its_keeper() {
    // Contract: C7
    if !is_root() {
        return;
    }
    for keeper in [false, true] {
        let sandbox = Sandbox::new();
        let psflip = hidden(&sandbox).start().wait_ready();
        let all = family(&psflip, 1);
        let victim = if keeper { all[0].parent().unwrap() } else { psflip.active() };
        victim.signal(Signal::SIGKILL).unwrap();
        wait_all_gone("everything after the kill", &all);
        sandbox.assert_no_process_left();
    }
}

#[test]
fn hidden_leftovers_get_the_signal_once() {
    // Contract: C8
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let psflip = hidden(&sandbox).start().wait_ready();
    family(&psflip, 1);
    psflip.flip();
    let got = psflip.program().stdout();
    assert_eq!(got.matches("got SIGTERM").count(), 6, "{}", sandbox.report());
    psflip.stop();
}

/// Whether a process of a generation's tree is left.
fn is_left(sandbox: &Sandbox, generation: &str) -> bool {
    let of = |process: &Process| process.env("PSFLIP_GENERATION").is_some_and(|number| number == generation);
    sandbox.processes().iter().any(of)
}

#[test]
fn without_proc_everything_is_terminated() {
    // Contract: C7, C8, U7
    if !is_root() {
        return;
    }
    let worker = "setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' & ";
    let child = format!("{worker}{worker}(sleep 1000 & setsid sleep 1000 &); echo up; wait");
    let prepare = "mount -t tmpfs none /proc && exec \"$@\"";
    for killed in [false, true] {
        let sandbox = Sandbox::new();
        let psflip = sandbox.psflip().cmd(["sh", "-c", &child]);
        let psflip = psflip.config(format!("shutdown.timeout = \"100ms\"\n{AT_ONCE}"));
        let psflip = psflip.wrapper(["unshare", "--mount", "sh", "-c", prepare, "sh"]).start().wait_ready();
        for generation in 1..=2 {
            psflip.output().wait_count(generation, Stream::Stdout, "up");
            psflip.flip();
            let number = generation.to_string();
            wait_until(Deadline::default(), format!("generation {number}'s tree to exit"), || {
                (!is_left(&sandbox, &number)).then_some(())
            });
        }
        psflip.output().wait_count(3, Stream::Stdout, "up");
        if killed {
            psflip.active().signal(Signal::SIGKILL).unwrap();
        } else {
            psflip.signal(Signal::SIGTERM);
        }
        sandbox.assert_no_process_left();
    }
}

/// As below `bwrap --unshare-pid` without `--proc`: every pid in /proc belongs to another process.
#[test]
fn with_proc_of_another_pid_namespace_everything_is_terminated() {
    // Contract: C7, C8, U7
    if !is_root() {
        return;
    }
    let worker = "setsid sh -c 'trap \"\" TERM; while :; do sleep 1000; done' & ";
    let child = format!("{worker}{worker}(sleep 1000 & setsid sleep 1000 &); echo up; wait");
    let stop = "\"$0\" stop -c psflip.toml; wait";
    let kill = "kill -KILL $(cat psflip.pid); wait";
    for (mode, end) in [("--no-anchor", stop), ("--foreground", kill)] {
        let sandbox = Sandbox::new();
        sandbox.write(
                "psflip.toml",
                format!(
                    "cmd = ['sh', '-c', '''{child}''']\npidfile = 'psflip.pid'\nshutdown.timeout = '100ms'\n{AT_ONCE}"
                ),
            );
        let script = format!(
            "\"$0\" {mode} -c psflip.toml & while test ! -e psflip.pid; do sleep 0.01; done; \
                 \"$0\" upgrade -c psflip.toml; echo upgraded $?; while test ! -e end; do sleep 0.01; done; {end}; \
                 echo over; while test ! -e last; do sleep 0.01; done"
        );
        let psflip = testkit::psflip_bin().display().to_string();
        let command = ["unshare", "--pid", "--fork", "--kill-child", "sh", "-c", &script, &psflip];
        let namespace = sandbox.command(command).cwd(sandbox.dir()).start();
        namespace.output().wait(Stream::Stdout, "upgraded 0");
        wait_until(Deadline::default(), "generation 1's tree to exit", || {
            (!is_left(&sandbox, "1")).then_some(())
        });
        assert!(is_left(&sandbox, "2"), "{}", sandbox.report());
        sandbox.write("end", "");
        namespace.output().wait(Stream::Stdout, "over");
        // The check comes before PID 1 of the namespace, the shell, exits. Its exit would kill all that is
        // left there.
        wait_until(Deadline::default(), "generation 2's tree to exit", || {
            (!is_left(&sandbox, "2")).then_some(())
        });
        sandbox.write("last", "");
        assert!(namespace.wait_exit().success());
        sandbox.assert_no_process_left();
    }
}
