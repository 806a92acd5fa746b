//! The history of a pidfile: every change is seen, and every moment at which it lied.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use psflip_testkit::pidfile::Content;
use psflip_testkit::{PidfileHistory, Running, Sandbox, Signal};

fn sleeper(sandbox: &Sandbox) -> Arc<Running> {
    sandbox.command(["sleep", "1000"]).start()
}

fn fails(check: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(check)).is_err()
}

#[test]
fn replacing_a_pidfile_by_rename_is_accepted() {
    let sandbox = Sandbox::new();
    let history = PidfileHistory::watch(sandbox.path("pid"));
    let (a, b) = (sleeper(&sandbox), sleeper(&sandbox));
    sandbox.write("pid", format!("{}\n", a.pid()));
    assert_eq!(history.pids(), [a.pid()]);
    sandbox.write("pid", format!("{}\n", b.pid()));
    assert_eq!(history.pids(), [a.pid(), b.pid()]);
    a.signal(Signal::SIGKILL);
    a.wait_exit();
    history.assert_never_missing();
    history.assert_always_alive();
    history.assert_atomic();
    assert_eq!(history.entries()[0].content, Content::Missing, "it was watched before it existed");
}

#[test]
fn a_pidfile_that_names_an_exited_process_is_detected() {
    let sandbox = Sandbox::new();
    let history = PidfileHistory::watch(sandbox.path("pid"));
    let (a, b) = (sleeper(&sandbox), sleeper(&sandbox));
    sandbox.write("pid", format!("{}\n", a.pid()));
    history.assert_always_alive();
    a.signal(Signal::SIGKILL);
    a.wait_exit();
    assert!(fails(|| history.assert_always_alive()));
    sandbox.write("pid", format!("{}\n", b.pid()));
    assert!(fails(|| history.assert_always_alive()), "what was wrong once stays wrong");
    history.assert_never_missing();
}

#[test]
fn a_missing_and_a_partial_pidfile_are_detected() {
    let sandbox = Sandbox::new();
    let path = sandbox.path("pid");
    let history = PidfileHistory::watch(&path);
    assert!(fails(|| history.assert_never_missing()), "it was never there");
    let a = sleeper(&sandbox);
    sandbox.write("pid", format!("{}\n", a.pid()));
    history.assert_never_missing();
    std::fs::remove_file(&path).unwrap();
    assert!(fails(|| history.assert_never_missing()), "the process that it named is alive");
    sandbox.write("pid", format!("{}\n", a.pid()));
    assert!(fails(|| history.assert_never_missing()), "the gap is over, but was there");
    history.assert_atomic();
    std::fs::write(&path, "12").unwrap();
    assert!(fails(|| history.assert_atomic()));
    assert_eq!(history.entries().last().unwrap().content, Content::Malformed("12".into()));
}

#[test]
fn removing_a_pidfile_when_its_process_exits_is_accepted() {
    let sandbox = Sandbox::new();
    let history = PidfileHistory::watch(sandbox.path("pid"));
    let a = sleeper(&sandbox);
    sandbox.write("pid", format!("{}\n", a.pid()));
    assert_eq!(history.pids().len(), 1);
    std::fs::remove_file(sandbox.path("pid")).unwrap();
    assert_eq!(history.entries().last().unwrap().content, Content::Missing);
    a.signal(Signal::SIGKILL);
    a.wait_exit();
    history.assert_never_missing();
    history.assert_always_alive();
}
