//! Relays that can't be started, that are never ready, or that are started late. `psflip-staged` lets a call
//! fail, or a process wait, at a chosen step.

use testkit::client::http::HttpClient;
use testkit::{
    Deadline, Process, Psflip, PsflipBuilder, Running, Sandbox, Stream, double, psflip_bin, wait_until,
};

use super::{answers, careless, kept, relays, wait_answer};
use crate::failures::stage::{Paused, Stage};

/// A staged psflip with the careless server behind the proxy.
fn staged(sandbox: &Sandbox, rest: &str) -> PsflipBuilder {
    careless(sandbox, rest).exe(double("psflip-staged")).env("PSFLIP_STAGED", sandbox.dir())
}

/// Makes memfd_create(2), which each relay needs, fail in the new psflip: `nth` is the call's number, `1+` all
/// of them. 24 is EMFILE.
fn no_relay(nth: &str) -> String {
    format!("fail new MemoryFile {nth} 24")
}

/// A `psflip upgrade` that fails. Returns what it prints.
#[track_caller]
fn fails(client: &Running) -> String {
    let status = client.wait_exit();
    client.output().wait_closed();
    let printed = client.stdout() + &client.stderr();
    assert_eq!(status.code(), Some(1), "{printed}");
    printed
}

/// The upgrade has failed for this reason, and the old generation serves. The next upgrade succeeds.
#[track_caller]
fn has_failed(sandbox: &Sandbox, stage: &Stage, psflip: &Psflip, printed: &str, reason: &str) {
    assert!(printed.contains(reason), "{printed}");
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade failed; the old child keeps running");
    assert!(line.text.contains(reason), "{}", line.text);
    assert_eq!(answers(&mut kept(sandbox)), "gen1");
    stage.no_plan(sandbox);
    psflip.flip();
    wait_answer(sandbox, "gen2");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_relay_that_cant_be_started_fails_the_upgrade_with_the_reason() {
    // Contract: T9, U8
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let psflip = staged(&sandbox, "").start().wait_ready();
    stage.plan(&sandbox, Some(psflip.active()), &no_relay("1"));
    let printed = fails(&sandbox.command([psflip_bin()]).arg("upgrade").start());
    let reason = "can't start the relay for `[[proxy]]`: Too many open files (os error 24)";
    has_failed(&sandbox, &stage, &psflip, &printed, reason);
}

#[test]
fn a_first_relay_that_cant_be_started_fails_the_start() {
    // Contract: T9, C6
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    stage.plan(&sandbox, None, &no_relay("1"));
    let psflip = staged(&sandbox, "").start();
    assert_eq!(psflip.wait_exit().code(), Some(125), "{}", psflip.log());
    let reason = "can't start the relay for `[[proxy]]`: Too many open files (os error 24)";
    assert!(psflip.log().contains(reason), "{}", psflip.log());
    sandbox.assert_no_process_left();
}

#[test]
fn a_relay_that_is_never_ready_fails_the_upgrade_with_the_reason() {
    // Contract: T9, U3, U8
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let psflip = staged(&sandbox, "[upgrade]\ntimeout = \"1s\"\n").start().wait_ready();
    // Both the new psflip and its relay execute psflip's program.
    stage.plan(&sandbox, Some(psflip.active()), "pause new Begins psflip");
    let client = sandbox.command([psflip_bin()]).arg("upgrade").start();
    stage.wait_pause(&sandbox).go_on();
    let relay = stage.wait_pause(&sandbox);
    let printed = fails(&client);
    relay.go_on(); // it was killed
    let reason = "the relay for `[[proxy]]` was not ready within 1s, although the child is healthy";
    has_failed(&sandbox, &stage, &psflip, &printed, reason);
}

/// An upgrade that pauses before a step of the new psflip, with a client that keeps its connection.
struct Upgrade {
    sandbox: Sandbox,
    stage: Stage,
    psflip: Psflip,
    old: Process,
    client: HttpClient,
    /// At the step.
    paused: Option<Paused>,
}

impl Upgrade {
    #[track_caller]
    fn pausing_before(step: &str) -> Self {
        let sandbox = Sandbox::new();
        let stage = Stage::new(&sandbox);
        let psflip = staged(&sandbox, "").start().wait_ready();
        let old = psflip.active();
        let mut client = kept(&sandbox);
        assert_eq!(answers(&mut client), "gen1");
        stage.plan(&sandbox, Some(old), &format!("pause new Before {step}"));
        psflip.request_flip();
        let paused = Some(stage.wait_pause(&sandbox));
        Self { sandbox, stage, psflip, old, client, paused }
    }

    /// Kills the new relay, and lets the new psflip go on.
    #[track_caller]
    fn loses_the_new_relay(&mut self) {
        let relays = relays(&self.sandbox);
        let relay = relays.into_iter().find(|relay| relay.parent() != Some(self.old)).expect("a new relay");
        crate::service::kill(relay);
        wait_until(Deadline::default(), "the new relay to be dead", || (!relay.is_alive()).then_some(()));
        self.paused.take().expect("it pauses").go_on();
    }

    /// The client's connection, which the old relay passes on, gets its answer from the new generation.
    #[track_caller]
    fn keeps_the_connection(mut self) {
        self.psflip.wait_for_line(Stream::Stderr, "connections_passed_on=1");
        let answer = self.client.get("/").unwrap_or_else(|error| panic!("{error}\n{}", self.psflip.log()));
        assert_eq!((answer.tag("name").unwrap().as_str(), answer.reused), ("gen2", true));
        self.psflip.stop();
        self.sandbox.assert_no_process_left();
    }
}

#[test]
fn a_relay_that_is_started_after_the_promotion_gets_its_predecessors_connections() {
    // Contract: T6, T9
    let mut upgrade = Upgrade::pausing_before("TakePidfile");
    let plan = format!("{}\npause old Sending acknowledge", no_relay("1+"));
    upgrade.stage.plan(&upgrade.sandbox, Some(upgrade.old), &plan);
    upgrade.loses_the_new_relay();
    let acknowledges = upgrade.stage.wait_pause(&upgrade.sandbox);
    upgrade.psflip.wait_for_line(Stream::Stderr, "can't start the relay; clients wait");
    upgrade.stage.no_plan(&upgrade.sandbox); // from now on it can be started
    acknowledges.go_on();
    upgrade.keeps_the_connection();
}

#[test]
fn a_relay_that_is_lost_at_the_promotion_leaves_its_predecessors_connections_to_the_next_one() {
    // Contract: T6, T9
    let mut upgrade = Upgrade::pausing_before("Relay(Accept)");
    upgrade.loses_the_new_relay();
    upgrade.keeps_the_connection();
}
