//! One of two psflips is killed just before or after the main process changes.

use testkit::{Deadline, Stream, wait_until};

use super::*;
use crate::failures::stage::Stage;
use crate::service::{freeze, kill, thaw, wait_coming};

/// A staged service that is ready, and its plan.
fn staged() -> (Managed, Stage) {
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let stage = Stage::new(&sandbox);
    let builder = stage.psflip(&sandbox, "").env("NOTIFY_SOCKET", sandbox.path("notify"));
    let psflip = builder.start().wait_ready();
    manager.wait("READY=1");
    (Managed { manager, psflip, sandbox }, stage)
}

#[test]
fn a_successor_that_goes_on_alone_sends_mainpid_once_it_is_healthy() {
    // Contract: F8
    let managed = Managed::start(&["signal-logger"], AT_ONCE);
    let old = managed.psflip.active();
    let until = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"healthy\"]\ninterval = \"5ms\"\n";
    managed.configure(&["signal-logger"], until);
    managed.psflip.request_flip();
    let new = wait_coming(&managed.sandbox, old);
    managed.psflip.wait_for_line(Stream::Stdout, "name=gen2");
    kill(old);
    managed.psflip.wait_for_line(Stream::Stderr, "the old psflip was killed");
    assert!(managed.manager.notices().iter().all(|notice| notice.pid == old.pid()), "it is not healthy yet");
    managed.sandbox.write("healthy", "");
    let notice = managed.manager.wait(&format!("MAINPID={}\nREADY=1\n", new.pid()));
    assert_eq!(notice.pid, new.pid());
    assert!(notice.value("STATUS").unwrap().starts_with("generation 2, healthy since 20"), "{notice:?}");
    stop(&managed.psflip);
}

#[test]
fn only_the_old_psflip_notifies_until_it_has_sent_the_new_mainpid() {
    // Contract: U4, F9
    let (managed, stage) = staged();
    let old = managed.psflip.active();
    stage.plan(&managed.sandbox, Some(old), "pause old Sent acknowledge\npause old Sending main");
    managed.psflip.request_flip();
    let paused = stage.wait_pause(&managed.sandbox);
    assert!(paused.at.ends_with("old Sent acknowledge"), "{paused:?}");
    let new = managed.psflip.wait_successor(old);
    // The new psflip is promoted, and has sent no notification yet.
    managed.psflip.output().wait_count(2, Stream::Stderr, "healthy, active");
    assert_eq!(kinds(&managed.manager.notices()), ["1 -", "1 READY", "1 RELOADING"]);
    paused.go_on();
    let paused = stage.wait_pause(&managed.sandbox);
    let seen = managed.wait_believed("the new main process", |seen| seen.main == new.pid());
    assert!(!seen.reloading && managed.manager.notices().iter().all(|notice| notice.pid == old.pid()));
    stage.no_plan(&managed.sandbox);
    paused.go_on();
    managed.wait_believed("its first message", |seen| seen.status.starts_with("generation 2, healthy since"));
    managed.psflip.wait_gone(old);
    managed.ends();
}

#[test]
fn the_new_psflip_sends_mainpid_if_the_old_one_was_killed_before() {
    // Contract: F9, F8
    let (managed, stage) = staged();
    let old = managed.psflip.active();
    stage.plan(&managed.sandbox, Some(old), "pause old Sent acknowledge");
    managed.psflip.request_flip();
    let paused = stage.wait_pause(&managed.sandbox);
    let new = managed.psflip.wait_successor(old);
    managed.psflip.output().wait_count(2, Stream::Stderr, "healthy, active");
    stage.no_plan(&managed.sandbox);
    kill(old);
    drop(paused);
    let notice = managed.manager.wait(&format!("MAINPID={}\nREADY=1\n", new.pid()));
    assert_eq!(notice.pid, new.pid());
    stop(&managed.psflip);
}

#[test]
fn a_killed_draining_psflip_does_not_change_the_main_process() {
    // Contract: F9
    let managed = Managed::start(&["signal-logger"], &format!("{AT_ONCE}[shutdown]\ndelay = \"1h\"\n"));
    let old = managed.psflip.active();
    managed.psflip.request_flip();
    managed.psflip.wait_successor(old);
    managed.wait_believed("the old one to drain", |seen| seen.status.contains("generation 1 still drains"));
    kill(old);
    managed.wait_believed("it to exit", |seen| !seen.status.contains("drains"));
    managed.configure(&["signal-logger"], AT_ONCE);
    managed.ends();
}

#[test]
fn a_new_psflip_killed_before_its_promotion_never_is_the_main_process() {
    // Contract: F6, U8
    let (managed, stage) = staged();
    let old = managed.psflip.active();
    stage.plan(&managed.sandbox, Some(old), "record\npause new Sending ready");
    managed.psflip.request_flip();
    let paused = stage.wait_pause(&managed.sandbox);
    let new = managed.psflip.wait_successor(old);
    freeze(old);
    paused.go_on();
    wait_until(Deadline::default(), "the new one to have reported that it is ready", || {
        managed.sandbox.read("trace").contains(" new Sent ready\n").then_some(())
    });
    kill(new);
    managed.psflip.wait_gone(new);
    stage.no_plan(&managed.sandbox);
    thaw(old);
    managed
        .wait_believed("the failure", |seen| !seen.reloading && seen.status.contains("last upgrade failed"));
    assert!(!managed.manager.describe().contains("MAINPID"), "{}", managed.manager.describe());
    managed.flip();
    managed.ends();
}
