//! `upgrade.draining = N`: several old generations drain, and no upgrade waits for them.

use serde_json::{Value, json};
use testkit::client::control::Asking;
use testkit::{Deadline, Process, Psflip, Sandbox, Signal, Stream, double, wait_until};

use crate::anchor::anchored;
use crate::failures::stage::Stage;
use crate::service::{AT_ONCE, UNTIL_FILE, configure, generations, kill, psflip, stop};

const UPGRADE: &str = r#"{"psflip":1,"request":"upgrade"}"#;
const STATUS: &str = r#"{"psflip":1,"request":"status"}"#;

/// It prints its signals, and exits on SIGUSR2 only.
const CHILD: &[&str] = &["signal-logger", "--exit-on", "USR2"];

/// A service with old generations that drain.
struct Several<'s> {
    sandbox: &'s Sandbox,
    psflip: Psflip,
    rest: String,
    /// psflip and child of each generation, from the first.
    all: Vec<(Process, Process)>,
}

impl<'s> Several<'s> {
    /// Generation 1. `rest`: more of the configuration.
    #[track_caller]
    fn start(sandbox: &'s Sandbox, child: &[&str], draining: u8, rest: &str) -> Self {
        let rest = format!("{AT_ONCE}[upgrade]\ndraining = {draining}\n[shutdown]\ntimeout = \"1h\"\n{rest}");
        let psflip = psflip(sandbox, child, &rest).start().wait_ready();
        let mut this = Self { sandbox, psflip, rest, all: Vec::new() };
        this.add();
        this
    }

    fn add(&mut self) {
        let number = self.all.len() + 1;
        self.psflip.wait_for_line(Stream::Stdout, &format!("name=gen{number}"));
        self.all.push((self.psflip.active(), self.psflip.child()));
    }

    /// Upgrades once, without waiting for the drain.
    #[track_caller]
    fn upgrade(&mut self) {
        let (old, child) = *self.all.last().unwrap();
        self.psflip.request_flip();
        self.psflip.wait_successor(old);
        self.add();
        let line = format!("got SIGTERM from={}", old.pid());
        if self.rest.contains("delay") {
            assert!(child.is_alive());
        } else {
            self.psflip.wait_for_line(Stream::Stdout, &line);
        }
    }

    fn status(&self) -> Value {
        Asking::ask(&self.psflip.control_path(), STATUS).wait_event("status")["status"].clone()
    }

    /// The numbers of the old generations that drain, as the status has them.
    fn draining(&self) -> Vec<u64> {
        let status = self.status();
        let older = status["older"].as_array().unwrap().iter();
        let all = older.chain(Some(&status["predecessor"]).filter(|one| !one.is_null()));
        all.map(|one| one["generation"].as_u64().unwrap()).collect()
    }

    #[track_caller]
    fn wait_draining(&self, numbers: &[u64]) {
        wait_until(Deadline::default(), format!("generations {numbers:?} alone to drain"), || {
            (self.draining() == numbers).then_some(())
        });
    }

    /// psflip of this generation, and its child.
    fn of(&self, generation: usize) -> (Process, Process) {
        self.all[generation - 1]
    }

    #[track_caller]
    fn assert_alive(&self, numbers: &[usize]) {
        for number in numbers {
            let (psflip, child) = self.of(*number);
            assert!(psflip.is_alive() && child.is_alive(), "generation {number}\n{}", self.sandbox.report());
        }
        assert_eq!(generations(self.sandbox).len(), numbers.len(), "{}", self.sandbox.report());
    }

    /// How many signals the child of this generation got from psflip.
    fn signals(&self, generation: usize) -> usize {
        let name = format!("from={}", self.of(generation).0.pid());
        let lines = self.psflip.output().lines();
        lines.iter().filter(|line| line.text.contains("got SIG") && line.text.contains(&name)).count()
    }

    /// Ends every generation: each child exits on SIGUSR2.
    #[track_caller]
    fn end(self) {
        for (_, child) in &self.all {
            let _ = child.signal(Signal::SIGUSR2); // it may have exited
        }
        wait_until(Deadline::default(), "every generation to exit", || {
            self.sandbox.processes().is_empty().then_some(())
        });
    }
}

#[test]
fn no_upgrade_waits_until_as_many_old_generations_drain_as_may() {
    // Contract: D2, D3, U6, U7
    let sandbox = Sandbox::new();
    let mut several = Several::start(&sandbox, CHILD, 3, "");
    (0..3).for_each(|_| several.upgrade());
    several.assert_alive(&[1, 2, 3, 4]);
    let status = several.status();
    let steps = status["older"].as_array().unwrap().iter().map(|old| old["step"].clone());
    assert_eq!(steps.collect::<Vec<_>>(), [json!("asked"), json!("asked")], "{status}");
    assert_eq!(several.draining(), [1, 2, 3]);
    // One more ends the oldest, and no other.
    let mut asking = Asking::ask(&several.psflip.control_path(), UPGRADE);
    let accepted = asking.wait_event("accepted");
    assert_eq!(
        accepted["because"],
        "3 old generations drain, as many as may (`upgrade.draining`); the oldest, generation 1, is killed at once",
    );
    asking.wait_event("promoted");
    several.add();
    several.assert_alive(&[2, 3, 4, 5]);
    let line = several.psflip.wait_for_line(Stream::Stderr, "killing the old generation, which still drains");
    assert!(line.text.contains("old_generation=1") && line.text.contains("upgrade.draining"), "{line}");
    // Each old child has its one stop signal; the active one has none.
    several.psflip.wait_for_line(Stream::Stdout, &format!("from={}", several.of(4).0.pid()));
    assert_eq!((1..=5).map(|one| several.signals(one)).collect::<Vec<_>>(), [1, 1, 1, 1, 0]);
    // The history knows what became of it, as for any other.
    let first = r#"{"psflip":1,"request":"follow","upgrade":1}"#;
    assert_eq!(Asking::ask(&several.psflip.control_path(), first).wait_event("drained")["killed"], true);
    // One that ends by itself makes room as well.
    several.of(3).1.signal(Signal::SIGUSR2).unwrap();
    several.wait_draining(&[2, 4]);
    several.upgrade();
    several.assert_alive_by(&[2, 4, 5, 6]);
    several.end();
}

impl Several<'_> {
    #[track_caller]
    fn assert_alive_by(&self, numbers: &[usize]) {
        for number in numbers {
            let (psflip, child) = self.of(*number);
            assert!(psflip.is_alive() && child.is_alive(), "generation {number}\n{}", self.sandbox.report());
        }
    }
}

#[test]
fn a_stop_ends_every_old_generation() {
    // Contract: D3, F11
    let sandbox = Sandbox::new();
    let mut several = Several::start(&sandbox, &["signal-logger"], 2, "delay = \"1h\"\n");
    (0..2).for_each(|_| several.upgrade());
    several.wait_draining(&[1, 2]);
    stop(&several.psflip);
    sandbox.assert_no_process_left();
    for generation in [1, 2] {
        assert_eq!(several.signals(generation), 1, "generation {generation}\n{}", several.psflip.log());
    }
}

#[test]
fn a_stop_waits_for_every_old_generation() {
    // Contract: D3, F11
    let sandbox = Sandbox::new();
    let mut several = Several::start(&sandbox, CHILD, 2, "");
    (0..2).for_each(|_| several.upgrade());
    let (active, child) = several.of(3);
    child.signal(Signal::SIGTERM).unwrap();
    let mut stopping = Asking::ask(&several.psflip.control_path(), r#"{"psflip":1,"request":"stop"}"#);
    stopping.wait_event("stopping");
    child.signal(Signal::SIGUSR2).unwrap();
    let mut waits = [(); 2].map(|()| stopping.wait_event("waiting")["predecessor"]["generation"].clone());
    waits.sort_by_key(Value::as_u64);
    assert_eq!(waits, [json!(1), json!(2)]);
    for generation in [1, 2] {
        assert!(active.is_alive(), "{}", sandbox.report());
        several.of(generation).1.signal(Signal::SIGUSR2).unwrap();
        several.psflip.wait_gone(several.of(generation).0);
    }
    assert!(several.psflip.wait_end_of(active).success());
    sandbox.assert_no_process_left();
}

#[test]
fn an_old_generation_that_is_killed_costs_no_other() {
    // Contract: C7, D3, F9
    let sandbox = Sandbox::new();
    let mut several = Several::start(&sandbox, CHILD, 3, "");
    (0..3).for_each(|_| several.upgrade());
    let (second, its_child) = several.of(2);
    kill(second);
    several.wait_draining(&[1, 3]);
    wait_until(Deadline::default(), "its child to be killed", || (!its_child.is_alive()).then_some(()));
    several.assert_alive(&[1, 3, 4]);
    several.upgrade();
    several.assert_alive(&[1, 3, 4, 5]);
    assert_eq!(several.draining(), [1, 3, 4], "none was ended for it");
    // A request at an old psflip reaches the active one, though the one that replaced it is gone.
    several.of(1).1.signal(Signal::SIGUSR2).unwrap();
    several.wait_draining(&[3, 4]);
    kill(several.of(4).0);
    several.wait_draining(&[3]);
    several.of(3).0.signal(Signal::SIGHUP).unwrap();
    several.psflip.wait_successor(several.of(5).0);
    several.add();
    several.wait_draining(&[3, 5]);
    several.end();
}

#[test]
fn a_new_generation_that_goes_on_alone_keeps_the_old_ones() {
    // Contract: D3, F8, F11
    let sandbox = Sandbox::new();
    let mut several = Several::start(&sandbox, &["signal-logger"], 3, "delay = \"1h\"\n");
    (0..2).for_each(|_| several.upgrade());
    configure(&sandbox, &["signal-logger"], &several.rest.replace(AT_ONCE, UNTIL_FILE));
    let third = several.of(3).0;
    several.psflip.request_flip();
    several.psflip.wait_for_line(Stream::Stdout, "name=gen4");
    kill(third);
    several.psflip.wait_for_line(Stream::Stderr, "the old psflip was killed; going on alone");
    sandbox.write("healthy", "");
    several.psflip.wait_successor(third);
    several.add();
    several.wait_draining(&[1, 2]);
    let upgraded = several.of(4).0;
    several.psflip.request_flip();
    several.psflip.wait_successor(upgraded);
    several.add();
    several.wait_draining(&[1, 2, 4]);
    stop(&several.psflip);
    sandbox.assert_no_process_left();
    for generation in [1, 2, 4] {
        assert_eq!(several.signals(generation), 1, "generation {generation}\n{}", several.psflip.log());
    }
}

#[test]
fn a_failed_upgrade_leaves_the_old_generations() {
    // Contract: D3, U8, E1
    let sandbox = Sandbox::new();
    let mut several = Several::start(&sandbox, CHILD, 3, "");
    (0..2).for_each(|_| several.upgrade());
    let fails = |argv: &[&str], rest: &str, why: &str| {
        configure(&sandbox, argv, rest);
        let mut asking = Asking::ask(&several.psflip.control_path(), UPGRADE);
        let failed = asking.wait_event("failed");
        assert!(failed["reason"].as_str().unwrap().contains(why), "{failed}");
        several.assert_alive(&[1, 2, 3]);
        assert_eq!(several.draining(), [1, 2]);
    };
    fails(&["/nonexistent/program"], &several.rest, "/nonexistent/program");
    // No two children may run at once, and generation 1 has one as well.
    let exclusive = several.rest.replace("draining = 3", "overlap = false");
    fails(CHILD, &exclusive, "older generations still drain (1, 2); upgrade again");
    configure(&sandbox, CHILD, &several.rest);
    several.upgrade();
    several.assert_alive(&[1, 2, 3, 4]);
    several.end();
}

#[test]
fn a_bake_leaves_the_old_generations() {
    // Contract: B3, B5, D3, F11
    let sandbox = Sandbox::new();
    let rest = "delay = \"1h\"\n[[listen]]\naddress = \"unix:///{}\"\n";
    let rest = rest.replace("/{}", &sandbox.path("app.sock").to_string_lossy());
    let mut several = Several::start(&sandbox, &["signal-logger"], 3, &rest);
    (0..2).for_each(|_| several.upgrade());
    configure(
        &sandbox,
        &["signal-logger"],
        &several.rest.replace("draining = 3", "draining = 3\nbake = \"1h\""),
    );
    let ask = |request: &str| Asking::ask(&several.psflip.control_path(), request);
    let mut baking = ask(UPGRADE);
    baking.wait_event("baking");
    assert_eq!(several.draining(), [1, 2]);
    ask(r#"{"psflip":1,"request":"rollback"}"#).wait_event("failed");
    assert_eq!(several.draining(), [1, 2]);
    let mut baking = ask(UPGRADE);
    baking.wait_event("baking");
    ask(r#"{"psflip":1,"request":"keep"}"#).wait_event("promoted");
    several.wait_draining(&[1, 2, 3]);
    // One more makes room by ending the oldest, and a stop in its bake reaches all.
    several.all.push((several.psflip.active(), several.psflip.child()));
    let mut baking = Asking::ask(&several.psflip.control_path(), UPGRADE);
    baking.wait_event("baking");
    assert_eq!(several.draining(), [2, 3]);
    stop(&several.psflip);
    sandbox.assert_no_process_left();
    for generation in [2, 3] {
        assert_eq!(several.signals(generation), 1, "generation {generation}\n{}", several.psflip.log());
    }
}

#[test]
fn a_request_that_comes_with_the_promotion_waits_until_the_anchor_knows_the_generation() {
    // Contract: A2, A3, D3, U7
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let exe = sandbox.path("psflip");
    std::os::unix::fs::symlink(double("psflip-staged"), &exe).unwrap();
    let rest = format!("{AT_ONCE}[upgrade]\ndraining = 3\n[shutdown]\ntimeout = \"1h\"\n");
    let builder = psflip(&sandbox, CHILD, &rest).exe(exe).env("PSFLIP_STAGED", sandbox.dir());
    let psflip = anchored(builder).start().wait_ready();
    let (first, first_child) = (psflip.active(), psflip.child());
    // The old psflip stops right after its acknowledgement, in which it hands a queued request over.
    stage.plan(&sandbox, Some(first), "pause old Sent acknowledge");
    let mut queued = [(); 2].map(|()| Asking::ask(&psflip.control_path(), UPGRADE));
    queued.iter_mut().for_each(|one| drop(one.wait_event("accepted")));
    let paused = stage.wait_pause(&sandbox);
    let second = psflip.wait_successor(first);
    psflip.output().wait_count(2, Stream::Stderr, "healthy, active");
    stage.no_plan(&sandbox);
    assert_eq!(generations(&sandbox).len(), 2, "no third one yet\n{}", sandbox.report());
    paused.go_on();
    let third = psflip.wait_successor(second);
    let third_child = psflip.child();
    // The anchor knows the third: it is still there when both others are gone.
    first_child.signal(Signal::SIGUSR2).unwrap();
    psflip.wait_gone(first);
    for child in sandbox
        .processes()
        .into_iter()
        .filter(|one| one.parent().is_some_and(|up| up.parent() == Some(second)))
    {
        child.signal(Signal::SIGUSR2).unwrap();
    }
    psflip.wait_gone(second);
    assert!(third.is_alive() && third_child.is_alive(), "{}", sandbox.report());
    assert_eq!(psflip.active(), third);
    psflip.program().first().signal(Signal::SIGTERM).unwrap();
    third_child.signal(Signal::SIGUSR2).unwrap();
    assert!(psflip.wait_exit().success());
    sandbox.assert_no_process_left();
}

#[test]
fn one_that_goes_on_alone_before_its_child_starts_stops_the_old_ones() {
    // Contract: D3, F8, F11
    let sandbox = Sandbox::new();
    let mut several = Several::start(&sandbox, &["signal-logger"], 3, "delay = \"1h\"\n");
    several.upgrade();
    let precheck = "draining = 3\nprecheck = [\"sh\", \"-c\", \"while [ ! -e go ]; do sleep 0.01; done\"]";
    configure(&sandbox, &["signal-logger"], &several.rest.replace("draining = 3", precheck));
    let second = several.of(2).0;
    several.psflip.request_flip();
    let third = wait_until(Deadline::default(), "the third generation", || {
        generations(&sandbox).into_iter().find(|one| several.all.iter().all(|(known, _)| one != known))
    });
    several.psflip.wait_for_line(Stream::Stderr, "upgrade started next_generation=3");
    kill(second);
    several.psflip.wait_for_line(Stream::Stderr, "the old psflip was killed; going on alone");
    third.signal(Signal::SIGTERM).unwrap();
    several.psflip.wait_gone(third);
    sandbox.assert_no_process_left();
    assert_eq!(several.signals(1), 1, "{}", several.psflip.log());
}

#[test]
fn a_slot_that_an_older_generation_may_have_is_refused() {
    // Contract: D3, U8
    let sandbox = Sandbox::new();
    let mut several = Several::start(&sandbox, CHILD, 2, "");
    (0..2).for_each(|_| several.upgrade());
    let slotted =
        several.rest.replace("draining = 2", "draining = 1") + "[env]\nA = \"{{ blue_green() }}\"\n";
    configure(&sandbox, CHILD, &slotted);
    several.of(2).1.signal(Signal::SIGUSR2).unwrap();
    several.wait_draining(&[1]);
    let failed = Asking::ask(&several.psflip.control_path(), UPGRADE).wait_event("failed");
    let reason = failed["reason"].as_str().unwrap();
    assert!(
        reason.contains("have values for two generations, and older generations still drain (1)"),
        "{reason}"
    );
    assert_eq!(several.draining(), [1]);
    several.end();
}

#[test]
fn an_operator_ends_all_old_generations() {
    // Contract: D1, D2, D3
    let sandbox = Sandbox::new();
    let mut several = Several::start(&sandbox, CHILD, 2, "");
    (0..2).for_each(|_| several.upgrade());
    // With this one, generation 3 and later ones are waited for.
    configure(&sandbox, CHILD, &several.rest.replace("draining = 2", "draining = 1"));
    several.upgrade();
    several.wait_draining(&[2, 3]);
    let mut waiting = Asking::ask(&several.psflip.control_path(), UPGRADE);
    assert_eq!(
        waiting.wait_event("accepted")["because"],
        "2 old generations still drain; `psflip upgrade --end-draining` kills them at once"
    );
    several.assert_alive(&[2, 3, 4]);
    let end = r#"{"psflip":1,"request":"upgrade","end_draining":true}"#;
    let mut ending = Asking::ask(&several.psflip.control_path(), end);
    assert_eq!(
        ending.wait_event("accepted")["because"],
        "2 old generations still drain and are killed at once"
    );
    waiting.wait_event("promoted");
    several.add();
    several.wait_draining(&[4]);
    several.end();
}
