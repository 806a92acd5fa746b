//! What the child inherits on purpose, and what psflip keeps from it (C1 to C3). Also psflip under psflip.

use std::collections::BTreeMap;
use std::fs;

use testkit::process::ProcessState;
use testkit::{
    Deadline, Process, Psflip, Sandbox, Session, Signal, Stdin, Stream, child_of, fixture, psflip_bin,
    wait_until,
};

use crate::service::AT_ONCE;

/// The environment of a process in its original order, without the sandbox's own variables.
fn variables(process: Process) -> Vec<String> {
    let environ = process.environ().unwrap();
    let own = ["HOME", "LANG", "PATH", "TMPDIR", testkit::MARKER];
    environ
        .iter()
        .filter(|(name, _)| !own.iter().any(|known| name == known))
        .map(|(name, value)| format!("{}={}", name.display(), value.display()))
        .collect()
}

/// A child that stops itself. By then its dynamic linker has closed the files that it opened, and the
/// descriptors no longer change.
const STOPPED: [&str; 3] = ["sh", "-c", "kill -STOP $$"];

/// Only SIGKILL terminates a stopped child.
const KILLED: &str = "shutdown.timeout = \"0s\"\n";

/// The open descriptors of [`STOPPED`].
#[track_caller]
fn open_when_stopped(process: Process) -> BTreeMap<i32, String> {
    wait_until(Deadline::default(), format!("process {process} to stop"), || {
        (process.state() == ProcessState::Stopped).then_some(())
    });
    process.open_fds().unwrap()
}

#[test]
fn the_child_reads_psflips_stdin_and_writes_both_of_its_outputs() {
    // Contract: C1
    let sandbox = Sandbox::new();
    let script =
        "read -r line; echo \"$PSFLIP_GENERATION read $line\"; echo to stderr >&2; exec sleep infinity";
    let psflip = sandbox.psflip().cmd(["sh", "-c", script]).config(AT_ONCE).stdin(Stdin::Pipe);
    let psflip = psflip.start().wait_ready();
    psflip.program().write_stdin("one\n");
    psflip.wait_for_line(Stream::Stdout, "1 read one");
    psflip.wait_for_line(Stream::Stderr, "to stderr");
    psflip.flip();
    psflip.program().write_stdin("two\n");
    psflip.wait_for_line(Stream::Stdout, "2 read two");
    psflip.output().wait_count(2, Stream::Stderr, "to stderr");
}

#[test]
fn descriptors_that_were_closed_are_closed_in_the_child_in_every_generation() {
    // Contract: C1, C3
    for closed in [&[0][..], &[1], &[2], &[0, 1], &[1, 2], &[0, 1, 2]] {
        let sandbox = Sandbox::new();
        let start = sandbox.command(STOPPED);
        let bare =
            open_when_stopped(closed.iter().fold(start, |start, fd| start.close_fd(*fd)).start().first());
        assert!(closed.iter().all(|fd| !bare.contains_key(fd)), "{bare:?}");
        // The check `alive` fails for a stopped child.
        let health = format!("{KILLED}[healthcheck.command]\ncmd = [\"true\"]\n");
        let start = sandbox.psflip().cmd(STOPPED).config(health);
        let psflip = closed.iter().fold(start, |start, fd| start.close_fd(*fd)).start().wait_ready();
        for generation in 1..=3 {
            let open = open_when_stopped(psflip.child());
            assert!(open.keys().eq(bare.keys()), "generation {generation}: {open:?}\n{}", sandbox.report());
            psflip.flip();
        }
    }
}

#[test]
fn no_descriptor_of_psflips_own_reaches_the_child_in_any_generation() {
    // Contract: C3
    let sandbox = Sandbox::new();
    // A health check by command opens the most descriptors.
    let health = format!("{KILLED}[healthcheck.command]\ncmd = [\"true\"]\n");
    // The process that runs the tests may have passed descriptors on.
    let bare = open_when_stopped(sandbox.command(STOPPED).start().first());
    let psflip = sandbox.psflip().cmd(STOPPED).config(health).start().wait_ready();
    for generation in 1..=3 {
        let open = open_when_stopped(psflip.child());
        assert!(open.keys().eq(bare.keys()), "generation {generation}: {open:?}\n{}", sandbox.report());
        let psflips = psflip.active().open_fds().unwrap();
        assert!((0..3).all(|fd| open[&fd] == psflips[&fd]), "{open:?} {psflips:?}");
        psflip.flip();
    }
}

#[test]
fn env_sets_replaces_in_place_and_removes_variables() {
    // Contract: C1
    let sandbox = Sandbox::new();
    let changes = "[env]\nBETA = \"changed\"\nNEW = \"{{ env('GAMMA') }}\"\nALPHA = false\nEMPTY = \"\"\nABSENT = false\n";
    let psflip = sandbox.psflip().cmd(["sleep", "infinity"]).config(format!("{AT_ONCE}{changes}"));
    let psflip = psflip.env("ALPHA", "1").env("BETA", "2").env("GAMMA", "3").start().wait_ready();
    for (generation, slot) in [(1, "a"), (2, "b"), (3, "a")] {
        let mut expected: Vec<_> = ["BETA=changed", "GAMMA=3"].map(str::to_owned).to_vec();
        expected.extend(["NEW=3", "EMPTY="].map(str::to_owned));
        expected.extend([format!("PSFLIP_GENERATION={generation}"), format!("PSFLIP_SLOT={slot}")]);
        assert_eq!(variables(psflip.child()), expected, "{}", sandbox.report());
        psflip.flip();
    }
}

#[test]
fn variables_of_the_service_manager_do_not_reach_the_child() {
    // Contract: C3
    let sandbox = Sandbox::new();
    let mut start = sandbox.psflip().cmd(["sleep", "infinity"]).config(AT_ONCE).env("KEPT", "1");
    let addressed_to_psflip = [
        "NOTIFY_SOCKET",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PIDFDID",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
    ];
    for name in addressed_to_psflip {
        start = start.env(name, "1");
    }
    // Variables of an outer psflip, which this one must replace.
    let psflip = start.env("PSFLIP_GENERATION", "70").env("PSFLIP_SLOT", "z").start().wait_ready();
    for (generation, slot) in [(1, "a"), (2, "b"), (3, "a")] {
        let expected =
            ["KEPT=1".to_owned(), format!("PSFLIP_GENERATION={generation}"), format!("PSFLIP_SLOT={slot}")];
        assert_eq!(variables(psflip.child()), expected, "{}", sandbox.report());
        psflip.flip();
    }
}

#[test]
fn the_workdir_is_the_childs_and_not_psflips() {
    // Contract: C1
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("releases/1")).unwrap();
    fs::create_dir_all(sandbox.path("releases/2")).unwrap();
    std::os::unix::fs::symlink("releases/1", sandbox.path("current")).unwrap();
    let config = format!("workdir = \"current\"\n{AT_ONCE}");
    let psflip = sandbox.psflip().cmd(["sleep", "infinity"]).config(config).start().wait_ready();
    assert_eq!(psflip.child().cwd().unwrap(), sandbox.path("releases/1"));
    std::os::unix::fs::symlink("releases/2", sandbox.path("next")).unwrap();
    fs::rename(sandbox.path("next"), sandbox.path("current")).unwrap();
    let flip = psflip.flip();
    assert_eq!(psflip.child().cwd().unwrap(), sandbox.path("releases/2"));
    assert_eq!(flip.new.cwd().unwrap(), sandbox.dir(), "psflip itself stays in its working directory");
}

#[test]
fn the_session_is_psflips_and_the_process_group_the_childs_own_in_every_generation() {
    // Contract: C1, C10
    let sandbox = Sandbox::new();
    for (session, own_session) in [(Session::New, true), (Session::OwnGroup, false)] {
        let psflip = sandbox.psflip().cmd(["sleep", "infinity"]).config(AT_ONCE).session(session);
        let psflip = psflip.start().wait_ready();
        let first = psflip.first_pid();
        for _ in 1..=3 {
            let child = psflip.child().stat().unwrap();
            assert_eq!(child.group, child.process.pid(), "{}", sandbox.report());
            assert_eq!(child.session == first, own_session, "{}", sandbox.report());
            psflip.flip();
        }
        psflip.stop();
    }
}

/// Starts a psflip whose child is a psflip. `wrap` is put before the inner psflip's command.
fn nested(sandbox: &Sandbox, wrap: &[&str]) -> Psflip {
    let child = fixture("never-ready").display().to_string();
    let pidfile = sandbox.path("inner-{{ env('PSFLIP_SLOT') }}.pid");
    sandbox.write("inner.toml", format!("cmd = [{child:?}]\npidfile = {pidfile:?}\n{AT_ONCE}"));
    let psflip = psflip_bin().display().to_string();
    let inner = [&psflip, "--no-anchor", "-c", "inner.toml"];
    let cmd = wrap.iter().copied().chain(inner);
    let exists = "[healthcheck.command]\ncmd = [\"test\", \"-s\", \"inner-{{ ab('a', 'b') }}.pid\"]\ninterval = \"5ms\"\n";
    sandbox.psflip().cmd(cmd).config(exists).start().wait_ready()
}

/// The inner psflip that this pidfile names.
#[track_caller]
fn inner(sandbox: &Sandbox, pidfile: &str, except: Option<Process>) -> Process {
    wait_until(Deadline::default(), format!("`{pidfile}` to name another psflip"), || {
        let text = fs::read_to_string(sandbox.path(pidfile)).ok()?;
        Process::find(text.trim().parse().ok()?).filter(|found| Some(*found) != except)
    })
}

#[test]
fn psflip_works_as_the_child_of_a_psflip_that_is_upgraded() {
    // Contract: C3, C5
    let sandbox = Sandbox::new();
    let outer = nested(&sandbox, &[]);
    for (round, slot) in ["a", "b", "a"].into_iter().enumerate() {
        let inside = inner(&sandbox, &format!("inner-{slot}.pid"), None);
        outer.output().wait_count(round + 1, Stream::Stdout, "starting pid=");
        let keeper = inside.parent().unwrap();
        assert_eq!(keeper.parent(), Some(outer.active()), "{}", sandbox.report());
        let generation = child_of(inside).and_then(|child| child.env("PSFLIP_GENERATION"));
        assert_eq!(generation.unwrap(), "1", "the inner psflip counts for itself");
        outer.flip();
        assert!(!inside.is_alive() && !sandbox.path(format!("inner-{slot}.pid")).exists());
    }
    // Before that, psflip has no handler yet, and the signal would terminate it.
    outer.output().wait_count(4, Stream::Stdout, "starting pid=");
    let status = outer.stop();
    assert_eq!(status.code(), Some(0), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn an_inner_psflip_is_upgraded_independently_of_the_outer_one() {
    // Contract: C3, U10
    let sandbox = Sandbox::new();
    // The first inner psflip exits when its successor takes over, so the outer psflip needs a child that
    // stays.
    let outer = nested(&sandbox, &["sh", "-c", "\"$@\" & exec sleep infinity", "sh"]);
    for slot in ["a", "b"] {
        let pidfile = format!("inner-{slot}.pid");
        let mut inside = inner(&sandbox, &pidfile, None);
        let (outer_psflip, outer_child) = (outer.active(), outer.child());
        for generation in 2..=4 {
            inside.signal(Signal::SIGHUP).unwrap();
            let next = inner(&sandbox, &pidfile, Some(inside));
            outer.wait_gone(inside);
            inside = next;
            let child = wait_until(Deadline::default(), "the inner child", || child_of(inside));
            assert_eq!(child.env("PSFLIP_GENERATION").unwrap(), generation.to_string().as_str());
            // The inner psflip's parent is the nearest subreaper: the outer psflip's keeper.
            let keeper = inside.parent().unwrap();
            assert_eq!(keeper.parent(), Some(outer_psflip), "{}", sandbox.report());
        }
        assert_eq!((outer.active(), outer.child()), (outer_psflip, outer_child), "{}", sandbox.report());
        outer.flip();
        assert!(!inside.is_alive(), "the inner psflip outlives its generation\n{}", sandbox.report());
    }
    sandbox.assert_zombie_free();
}
