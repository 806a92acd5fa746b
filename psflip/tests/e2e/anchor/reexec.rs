//! The anchor executes a new program in place (A5).

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use testkit::{Deadline, Process, Sandbox, Signal, Stream, double, fixture, psflip_bin, wait_until};

use super::{NAME, anchor_of, anchored, stop};
use crate::failures::stage::Stage;
use crate::service::{AT_ONCE, Service, psflip, script};

/// Replaces the file at `path` by a copy of a program, with a new inode. A separate process writes it: see
/// [`crate::service::script`].
#[track_caller]
fn replace(sandbox: &Sandbox, program: &Path, path: &str) {
    let copy = "cp \"$1\" \"$2.new\" && mv -f \"$2.new\" \"$2\"";
    let path = sandbox.path(path).to_string_lossy().into_owned();
    let status =
        sandbox.command(["sh", "-c", copy, "sh", &program.to_string_lossy(), &path]).start().wait_exit();
    assert!(status.success(), "{status}");
}

fn inode(path: impl AsRef<Path>) -> u64 {
    path.as_ref().metadata().map_or(0, |data| data.ino())
}

fn program_of(process: Process) -> u64 {
    inode(format!("/proc/{process}/exe"))
}

#[test]
fn the_anchor_executes_its_new_program_during_traffic() {
    // Contract: A5, U1
    let service = Service::start_as(|builder, sandbox| {
        replace(sandbox, &psflip_bin(), "bin/copy");
        anchored(builder.exe(sandbox.path("bin/copy")))
    });
    let anchor = anchor_of(&service.psflip);
    for _ in 0..3 {
        replace(&service.sandbox, &psflip_bin(), "bin/copy");
        let new = inode(service.sandbox.path("bin/copy"));
        assert_ne!(program_of(anchor), new);
        let old = service.psflip.active();
        anchor.signal(Signal::SIGHUP).unwrap();
        service.psflip.wait_successor(old);
        wait_until(Deadline::default(), "the anchor to execute the new program", || {
            (program_of(anchor) == new).then_some(())
        });
        service.psflip.wait_gone(old);
        assert_eq!(
            (program_of(service.psflip.active()), service.psflip.active().parent()),
            (new, Some(anchor))
        );
        anchor_of(&service.psflip); // waits until it has its name again
        service.probe.wait_requests(10);
    }
    let status = {
        let Service { probe, psflip, sandbox } = service;
        probe.finish().assert_no_failures();
        let status = stop(&psflip);
        assert!(!psflip.log().contains(NAME), "{}", sandbox.report());
        sandbox.assert_no_process_left();
        status
    };
    assert!(status.success(), "{status}");
}

/// A staged psflip below an anchor. Its program is a copy that the test can replace.
fn staged(sandbox: &Sandbox, argv: &[&str]) -> (Stage, testkit::Psflip) {
    let stage = Stage::new(sandbox);
    replace(sandbox, &double("psflip-staged"), "copy");
    let builder = psflip(sandbox, argv, &format!("{AT_ONCE}[log]\nlevel = \"debug\"\n"));
    let builder = builder.exe(sandbox.path("copy")).env("PSFLIP_STAGED", sandbox.dir());
    let psflip = anchored(builder).start().wait_ready();
    (stage, psflip)
}

#[test]
fn no_signal_is_lost_while_the_anchor_executes_its_new_program() {
    // Contract: A5, A2, S1
    let sandbox = Sandbox::new();
    let (stage, psflip) = staged(&sandbox, &[fixture("signal-logger").to_str().unwrap()]);
    psflip.wait_for_line(Stream::Stdout, "ready");
    let (anchor, old) = (anchor_of(&psflip), psflip.active());
    replace(&sandbox, &double("psflip-staged"), "copy");
    stage.plan(&sandbox, Some(old), "record\npause anchor Before Renew");
    psflip.request_flip();
    let paused = stage.wait_pause(&sandbox);
    psflip.wait_successor(old);
    psflip.output().wait_count(2, Stream::Stdout, "ready");
    let script =
        format!("i=0; while [ $i -lt 50 ]; do /bin/kill -s RTMIN+3 -q $i {anchor}; i=$((i+1)); done");
    assert!(sandbox.command(["sh", "-c", &script]).start().wait_exit().success());
    stage.pause_no_more(&sandbox, old);
    paused.go_on();
    let lines = psflip.output().wait_count(50, Stream::Stdout, "got SIGRTMIN+3 ");
    for (value, line) in lines.iter().enumerate() {
        assert!(line.text.contains(&format!(" value={value} ")), "{line}\n{}", sandbox.report());
    }
    wait_until(Deadline::default(), "the anchor's new program", || {
        (program_of(anchor) == inode(sandbox.path("copy"))).then_some(())
    });
    stop(&psflip);
}

#[test]
fn an_anchor_whose_new_program_can_not_be_executed_stays_as_it_is() {
    // Contract: A5
    let sandbox = Sandbox::new();
    let (stage, psflip) = staged(&sandbox, &["/bin/sleep", "infinity"]);
    let anchor = anchor_of(&psflip);
    let before = program_of(anchor);
    replace(&sandbox, &double("psflip-staged"), "copy");
    stage.plan(&sandbox, Some(psflip.active()), &format!("fail anchor Execve 1+ {}", libc::EACCES));
    psflip.flip();
    let line = psflip.wait_for_line(Stream::Stderr, "this process stays as it is").text;
    assert!(line.contains("can't be executed") && line.contains(&anchor.to_string()), "{line}");
    assert_eq!(program_of(anchor), before);
    stage.no_plan(&sandbox);
    // The anchor runs on, and tries again at the next promotion.
    let old = psflip.active();
    anchor.signal(Signal::SIGHUP).unwrap();
    psflip.wait_successor(old);
    wait_until(Deadline::default(), "the anchor's new program", || {
        (program_of(anchor) == inode(sandbox.path("copy"))).then_some(())
    });
    psflip.wait_gone(old);
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn an_anchor_whose_psflip_became_a_script_stays_and_logs_a_warning() {
    // Contract: A5, U1
    let sandbox = Sandbox::new();
    let program = sandbox.path("copy");
    replace(&sandbox, &psflip_bin(), "copy");
    let psflip = psflip(&sandbox, &["/bin/sleep", "infinity"], AT_ONCE).exe(&program);
    let psflip = anchored(psflip).start().wait_ready();
    let anchor = anchor_of(&psflip);
    let before = program_of(anchor);
    let wrapper = script(&sandbox, "wrapper", &format!("exec {} \"$@\"", psflip_bin().display()));
    replace(&sandbox, &wrapper, "copy");
    let old = psflip.active();
    anchor.signal(Signal::SIGHUP).unwrap();
    psflip.wait_successor(old);
    let line = psflip.wait_for_line(Stream::Stderr, "this process stays as it is").text;
    assert!(line.contains("is not the program that the new generation runs"), "{line}");
    assert_eq!(program_of(anchor), before);
    psflip.wait_gone(old);
    stop(&psflip);
    sandbox.assert_no_process_left();
}
