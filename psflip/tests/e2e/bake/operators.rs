//! `psflip rollback`, `keep`, `upgrade` and `status` around a bake.

use std::process::ExitStatus;
use std::sync::Arc;

use serde_json::Value;
use testkit::{Running, Sandbox, Stream, psflip_bin};

use super::Baked;
use crate::service::{freeze, kill};

fn client(sandbox: &Sandbox, args: &[&str]) -> Arc<Running> {
    sandbox.command([psflip_bin()]).args(args).start()
}

/// Runs a client until it exits. Returns its exit status, standard output and standard error.
#[track_caller]
fn run(sandbox: &Sandbox, args: &[&str]) -> (ExitStatus, String, String) {
    ended(&client(sandbox, args))
}

#[track_caller]
fn ended(client: &Running) -> (ExitStatus, String, String) {
    let status = client.wait_exit();
    client.output().wait_closed();
    (status, client.stdout(), client.stderr())
}

#[track_caller]
fn status(sandbox: &Sandbox) -> Value {
    let (status, stdout, stderr) = run(sandbox, &["status", "--json"]);
    assert!(status.success(), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

#[test]
fn upgrade_returns_at_the_traffic_and_rollback_gives_it_back_without_a_lost_request() {
    // Contract: B3, B7, B8
    let service = Baked::start();
    let (old, old_child) = (service.psflip.active(), service.psflip.child());
    for _ in 0..3 {
        let (status_of_upgrade, stdout, stderr) = run(&service.sandbox, &["upgrade"]);
        assert!(status_of_upgrade.success(), "{stderr}");
        let expected = "generation 2 has the traffic and bakes for 1 h 0 min; `psflip rollback` goes back";
        assert!(stdout.contains(expected), "{stdout}");
        service.serves("gen2");
        let shown = status(&service.sandbox);
        assert!(shown["bake_left_ms"].as_u64().is_some_and(|left| left > 3_500_000), "{shown}");
        assert_eq!((&shown["generation"], &shown["proxies"][0]["state"]), (&1.into(), &"standing_by".into()));
        let (_, text, _) = run(&service.sandbox, &["status"]);
        assert!(text.contains("generation 1 stands by: `psflip rollback` goes back"), "{text}");
        let (done, stdout, stderr) = run(&service.sandbox, &["rollback"]);
        assert!(done.success(), "{stderr}");
        let expected = format!(
            "the old child (pid {}) has the traffic again, and generation 2 is gone\n",
            old_child.pid()
        );
        assert_eq!(stdout, expected);
        service.serves("gen1");
        let shown = status(&service.sandbox);
        let last = shown["history"].as_array().unwrap().last().unwrap();
        assert_eq!(last["result"], "rolled_back", "{shown}");
        assert!(last["reason"].as_str().unwrap().starts_with("requested by pid"), "{shown}");
        let (_, text, _) = run(&service.sandbox, &["status"]);
        assert!(text.contains("the last upgrade was rolled back") && text.contains("ROLLED BACK"), "{text}");
    }
    assert_eq!((service.psflip.active(), service.psflip.child()), (old, old_child));
    service.goes_on_and_ends();
}

#[test]
fn a_rollback_after_which_no_child_is_left_has_failed() {
    // Contract: B7, F7
    let service = Baked::start();
    let bake = service.bake();
    freeze(bake.new); // so that the roll-back takes long enough
    let rollback = client(&service.sandbox, &["rollback"]);
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "this generation has the traffic again");
    kill(bake.old_child);
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "the child exited");
    kill(bake.new);
    let (failed, stdout, stderr) = ended(&rollback);
    assert_eq!(failed.code(), Some(1), "{stdout}{stderr}");
    assert!(stderr.contains("upgrade 1 to generation 2 failed; no child is left"), "{stderr}");
    service.psflip.wait_exit();
    drop(service.probe.finish());
    service.sandbox.assert_no_process_left();
}

#[test]
fn keep_ends_a_bake_without_a_lost_request() {
    // Contract: B1, B7
    let service = Baked::start();
    let bake = service.bake();
    let (done, stdout, stderr) = run(&service.sandbox, &["keep"]);
    assert!(done.success(), "{stderr}");
    assert!(stdout.contains("generation 2 is active"), "{stdout}");
    assert_eq!(service.psflip.active(), bake.new);
    for command in ["keep", "rollback"] {
        let (refused, _, stderr) = run(&service.sandbox, &[command]);
        assert_eq!(refused.code(), Some(1), "{stderr}");
        assert!(stderr.contains("no generation bakes"), "{stderr}");
    }
    service.psflip.wait_for_line(Stream::Stderr, "the old generation is gone");
    service.probe.wait_requests(20);
    let Baked { probe, psflip, sandbox } = service;
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_client_that_waits_for_the_bake_learns_how_it_ended() {
    // Contract: B7
    let service = Baked::start();
    let waiting = client(&service.sandbox, &["upgrade", "--wait", "baked"]);
    waiting.output().wait(Stream::Stdout, "has the traffic and bakes");
    assert!(run(&service.sandbox, &["rollback", "--json"]).0.success());
    let (rolled_back, _, stderr) = ended(&waiting);
    assert_eq!(rolled_back.code(), Some(3), "{stderr}");
    assert!(stderr.contains("upgrade 1 to generation 2 was rolled back"), "{stderr}");
    let waiting = client(&service.sandbox, &["upgrade", "--wait", "baked"]);
    waiting.output().wait(Stream::Stdout, "has the traffic and bakes");
    assert!(run(&service.sandbox, &["keep", "--json"]).0.success());
    let (kept, stdout, _) = ended(&waiting);
    assert!(kept.success() && stdout.contains("generation 2 is active"), "{stdout}");
}

#[test]
fn a_stop_in_a_bake_is_a_failed_upgrade() {
    // Contract: B5, B7
    let service = Baked::start();
    let waiting = client(&service.sandbox, &["upgrade", "--wait", "baked"]);
    waiting.output().wait(Stream::Stdout, "has the traffic and bakes");
    let Baked { probe, psflip, sandbox } = service;
    drop(probe.finish());
    psflip.stop();
    let (failed, _, stderr) = ended(&waiting);
    assert_eq!(failed.code(), Some(1), "{stderr}");
    assert!(stderr.contains("upgrade 1 to generation 2 failed"), "{stderr}");
    sandbox.assert_no_process_left();
}

#[test]
fn an_upgrade_that_is_to_end_a_bake_ends_one_that_has_not_begun() {
    // Contract: B6, U7
    let service = Baked::start();
    let mark = service.psflip.output().mark();
    service.sandbox.write("sick", "");
    service.psflip.request_flip();
    service.psflip.output().wait_after(mark, Stream::Stderr, "child started");
    let keep = client(&service.sandbox, &["upgrade", "--keep"]);
    service.psflip.output().wait_after(mark, Stream::Stderr, "upgrade queued");
    std::fs::remove_file(service.sandbox.path("sick")).unwrap();
    let (done, stdout, stderr) = ended(&keep);
    assert!(done.success(), "{stderr}");
    assert!(stdout.contains("generation 3 has the traffic and bakes"), "{stdout}");
    service.serves("gen3");
    let Baked { probe, psflip, sandbox } = service;
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn an_upgrade_in_a_bake_is_queued_and_ends_it_on_request() {
    // Contract: B6, U7
    let service = Baked::start();
    service.bake();
    let queued = client(&service.sandbox, &["upgrade"]);
    queued.output().wait(Stream::Stdout, "upgrade 2 is queued: the new generation bakes");
    let (done, stdout, stderr) = run(&service.sandbox, &["upgrade", "--keep"]);
    assert!(done.success(), "{stderr}");
    assert!(stdout.contains("generation 3 has the traffic and bakes"), "{stdout}");
    assert!(ended(&queued).0.success());
    service.serves("gen3");
    assert!(run(&service.sandbox, &["keep"]).0.success());
    service.probe.wait_requests(20);
    let Baked { probe, psflip, sandbox } = service;
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_queued_upgrade_starts_after_a_roll_back() {
    // Contract: B6, U7
    let service = Baked::start();
    let bake = service.bake();
    let queued = client(&service.sandbox, &["upgrade"]);
    queued.output().wait(Stream::Stdout, "upgrade 2 is queued");
    let rolled_back = run(&service.sandbox, &["rollback"]);
    assert!(rolled_back.0.success(), "{}", rolled_back.2);
    assert!(rolled_back.1.contains("another upgrade was requested meanwhile"), "{}", rolled_back.1);
    service.is_rolled_back(bake);
    let (done, stdout, _) = ended(&queued);
    assert!(done.success() && stdout.contains("generation 2 has the traffic"), "{stdout}");
}

#[test]
fn a_resume_after_a_roll_back_reaches_the_new_relay() {
    // Contract: B3, T11
    let service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    assert!(run(&service.sandbox, &["hold", "--max", "1h"]).0.success());
    // The next requests on the clients' connections wait in the new relay.
    let rollback = client(&service.sandbox, &["rollback"]);
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "this generation has the traffic again");
    assert!(run(&service.sandbox, &["resume"]).0.success());
    assert!(ended(&rollback).0.success());
    service.is_rolled_back(bake);
    service.probe.wait_requests(20);
    service.probe.finish().assert_no_failures();
}

#[test]
fn a_hold_in_a_bake_holds_the_new_generation() {
    // Contract: T11
    let service = Baked::start();
    service.bake();
    service.serves("gen2");
    assert!(run(&service.sandbox, &["hold", "--max", "1h"]).0.success());
    let path = service.sandbox.path("web.sock");
    let waiting = std::thread::spawn(move || testkit::client::http::HttpClient::new(path.as_path()).get("/"));
    assert!(run(&service.sandbox, &["resume"]).0.success());
    assert_eq!(waiting.join().unwrap().unwrap().status, 200);
    service.probe.wait_requests(20);
    service.probe.finish().assert_no_failures();
}
