//! Requests and their answers: status, upgrade, stop.

use serde_json::json;
use testkit::{Sandbox, Signal, Stream, psflip_bin};

use super::{UNTIL_FILE, ask, names, status, upgrade_that_waits};
use crate::service::{AT_ONCE, configure, kill, psflip, stop};

#[test]
fn the_status_reports_the_active_generation_and_its_start_time() {
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[[listen]]\naddress = \"unix://app.sock\"\nname = \"web\"\n");
    let psflip = psflip(&sandbox, &["signal-logger", "--exit-on=TERM"], &rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let status = status(&psflip);
    assert_eq!(status["pid"], psflip.active_pid());
    assert_eq!(status["child"], psflip.child_pid());
    assert_eq!(status["state"], "serving");
    assert_eq!((&status["generation"], &status["slot"]), (&json!(1), &json!("a")));
    assert_eq!(status["command"][1], "--exit-on=TERM");
    assert_eq!(status["health"], "alive");
    assert_eq!(status["listeners"], json!([{"address": "unix://app.sock", "name": "web"}]));
    assert_eq!(status["pidfile"], psflip.pidfile_path().to_string_lossy().as_ref());
    assert_eq!(status["control"], psflip.control_path().to_string_lossy().as_ref());
    assert_eq!(status["config"]["path"], sandbox.path("psflip.toml").to_string_lossy().as_ref());
    // psflip looks at no file for a client, which compares with what was there.
    assert!(
        status["config"]["changed"].is_null() && status["config"]["seen"]["stamp"].is_string(),
        "{status}"
    );
    let (started, active) =
        (status["started_at"].as_u64().unwrap(), status["active_since"].as_u64().unwrap());
    assert!(started > 1_700_000_000_000 && active >= started, "{started} {active}");
    for nothing in ["predecessor", "upgrade", "switch"] {
        assert!(status[nothing].is_null(), "{nothing}: {}", status[nothing]);
    }
    let record = &status["history"][0];
    assert_eq!(
        (&record["upgrade"], &record["to"], &record["result"]),
        (&json!(0), &json!(1), &json!("promoted"))
    );
    stop(&psflip);
}

#[test]
fn the_configuration_of_the_active_generation_is_known() {
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let read = sandbox.read("psflip.toml");
    configure(&sandbox, &["signal-logger", "--exit-on=TERM"], AT_ONCE);
    let answer = ask(&psflip, "config").rest();
    assert_eq!(answer, [json!({"event": "config", "generation": 1, "text": read})]);
    let status =
        sandbox.command([psflip_bin()]).args(["status", "-c", "psflip.toml", "--running-config"]).start();
    assert!(status.wait_exit().success(), "{}", status.stderr());
    status.output().wait_closed();
    assert_eq!(status.stdout(), read);
    psflip.flip();
    assert_eq!(ask(&psflip, "config").rest()[0]["text"], sandbox.read("psflip.toml"));

    // psflip keeps no text that would not fit into what may wait for a client.
    let long = format!("# {}\n{}", "x".repeat(70 << 10), sandbox.read("psflip.toml"));
    sandbox.write("psflip.toml", long);
    psflip.flip();
    assert_eq!(names(&ask(&psflip, "config").rest()), ["refused"]);
    stop(&psflip);
}

#[test]
fn an_upgrade_is_reported_step_by_step() {
    // Contract: U1, U2, U3, U4, U5
    let sandbox = Sandbox::new();
    let rest = "[hooks]\npromote = [\"true\"]\n[healthcheck.alive]\ntimeout = \"0s\"\n[switch]\nsymlink = { path = \"link\", to = \"/\" }\n";
    let psflip = psflip(&sandbox, &["signal-logger"], rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let old = psflip.active();
    let events = ask(&psflip, "upgrade").rest();
    let steps = [
        "accepted", "started", "spawned", "starting", "child", "healthy", "hook", "switch", "pidfile",
        "promoted", "drained",
    ];
    assert_eq!(names(&events), steps, "{events:#?}");
    let promoted = &events[9];
    assert_eq!(promoted["generation"], 2);
    assert_eq!(promoted["pid"], psflip.active_pid());
    assert_eq!(promoted["child"], psflip.child_pid());
    assert_eq!(events[10]["killed"], false);
    let times: Vec<u64> = events.iter().filter_map(|event| event["at_ms"].as_u64()).collect();
    assert!(times.is_sorted(), "{times:?}");
    // The new generation has the history, too. It learns that the old one is gone before it answers the next
    // client.
    psflip.wait_gone(old);
    let history = status(&psflip)["history"].clone();
    let record = &history[1];
    assert_eq!((&record["upgrade"], &record["from"], &record["to"]), (&json!(1), &json!(1), &json!(2)));
    assert_eq!(record["result"], "promoted");
    let by = record["by"].as_str().unwrap();
    assert!(by.starts_with("pid ") && by.ends_with(" over the control socket"), "{record}");
    let drain: Vec<&str> =
        record["drain"].as_array().unwrap().iter().filter_map(|step| step["step"].as_str()).collect();
    assert_eq!(drain, ["delay", "asked", "orphans", "gone"]);
    stop(&psflip);
}

#[test]
fn a_failed_upgrade_reports_the_reason_and_what_keeps_running() {
    // Contract: U8, H4
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let child = psflip.child_pid();
    configure(&sandbox, &["/bin/sh", "-c", "echo no database >&2; exit 3"], UNTIL_FILE);
    let events = ask(&psflip, "upgrade").rest();
    let failed = events.last().unwrap();
    assert_eq!(failed["event"], "failed", "{events:#?}");
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.contains("the child exited before it was healthy: exit code 3"), "{reason}");
    assert_eq!(
        (&failed["child"], &failed["upgrade"], &failed["generation"]),
        (&json!(child), &json!(1), &json!(2))
    );
    let status = status(&psflip);
    assert_eq!((&status["generation"], &status["state"]), (&json!(1), &json!("serving")));
    assert_eq!(
        (&status["history"][1]["result"], &status["history"][1]["reason"]),
        (&json!("failed"), &json!(reason))
    );
    // Standard error is a pipe here, and psflip can't read back what was written to it.
    assert!(failed["output"].is_null(), "{failed}");
    stop(&psflip);
}

#[test]
fn a_failure_quotes_the_last_lines_of_a_stderr_file() {
    // Contract: U8
    let sandbox = Sandbox::new();
    let redirected = ["sh", "-c", "echo earlier >errors; exec \"$@\" 2>>errors", "sh"];
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).wrapper(redirected).start().wait_ready();
    configure(&sandbox, &["/bin/sh", "-c", "echo no database >&2; exit 3"], UNTIL_FILE);
    let failed = ask(&psflip, "upgrade").wait_event("failed");
    let output = failed["output"].as_str().unwrap();
    assert!(output.lines().any(|line| line == "no database"), "{output}");
    assert!(!output.contains("earlier"), "{output}");
    stop(&psflip);
}

#[test]
fn failed_probes_are_reported_while_they_fail() {
    // Contract: H4
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let probe = "[healthcheck.command]\ncmd = [\"sh\", \"-c\", \"echo not yet; test -e healthy\"]\ninterval = \"5ms\"\n";
    configure(&sandbox, &["signal-logger"], probe);
    let mut asking = ask(&psflip, "upgrade");
    let failed = std::iter::from_fn(|| asking.next_event()).find(|event| event["step"] == "probe").unwrap();
    assert!(failed["probe"].as_str().unwrap().contains("not yet"), "{failed}");
    let under_way = &status(&psflip)["upgrade"];
    assert!(under_way["failed_probes"].as_u64().unwrap() >= 1, "{under_way}");
    assert_eq!(under_way["upgrade"], 1);
    sandbox.write("healthy", "");
    asking.wait_event("drained");
    stop(&psflip);
}

#[test]
fn a_stop_is_reported_until_the_exit() {
    // Contract: S5, C5
    let sandbox = Sandbox::new();
    let exits = ["/bin/sh", "-c", "trap 'exit 7' TERM; sleep 1h & echo ready; wait"];
    let psflip = psflip(&sandbox, &exits, AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready");
    let child = psflip.child_pid();
    let events = ask(&psflip, "stop").rest();
    assert_eq!(names(&events), ["stopping", "stopped"]);
    assert_eq!(events[0]["child"], child);
    assert_eq!((&events[1]["end"], &events[1]["code"]), (&json!("exit code 7"), &json!(7)));
    assert_eq!(psflip.wait_exit().code(), Some(7));
    assert!(!psflip.control_path().exists(), "the socket is left");
    sandbox.assert_no_process_left();
}

#[test]
fn a_stop_that_the_child_ignores_is_reported_as_ignored() {
    // Contract: S5
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}[shutdown]\ntimeout = \"50ms\"\n");
    let psflip = psflip(&sandbox, &["ignore-sigterm", "--exit-on", "USR2"], &rest).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let events = ask(&psflip, "stop").rest();
    assert_eq!(names(&events), ["stopping", "ignored"]);
    assert_eq!(status(&psflip)["state"], "serving");
    psflip.signal_child(Signal::SIGUSR2);
    psflip.wait_exit();
}

#[test]
fn a_stop_during_an_upgrade_stops_both_generations() {
    // Contract: F11, S5
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let mut upgrade = upgrade_that_waits(&sandbox, &psflip);
    let stopped = ask(&psflip, "stop").wait_event("stopped");
    assert_eq!(stopped["end"], "exit code 0");
    let failed = upgrade.wait_event("failed");
    assert!(failed["reason"].as_str().unwrap().contains("aborted by a stop request"), "{failed}");
    // The client that waits for the upgrade also gets `stopped`, and its connection stays open until then.
    assert_eq!(names(&upgrade.rest()), ["stopped"]);
    psflip.wait_exit();
    sandbox.assert_no_process_left();
}

#[test]
fn a_starting_generation_answers_requests() {
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], UNTIL_FILE).start();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let status = status(&psflip);
    assert_eq!((&status["state"], &status["upgrade"]["upgrade"]), (&json!("starting"), &json!(0)));
    let mut following = testkit::client::control::Asking::ask(
        &psflip.control_path(),
        r#"{"psflip":1,"request":"follow","upgrade":0}"#,
    );
    following.wait_event("accepted");
    let mut upgrade = ask(&psflip, "upgrade");
    let accepted = upgrade.wait_event("accepted");
    assert_eq!(
        (&accepted["upgrade"], &accepted["because"]),
        (&json!(1), &json!("the child is not healthy yet"))
    );
    sandbox.write("healthy", "");
    assert_eq!(following.wait_event("promoted")["generation"], 1);
    assert_eq!(upgrade.wait_event("promoted")["generation"], 2);
    upgrade.wait_event("drained");
    stop(&psflip);
}

#[test]
fn a_failing_psflip_notifies_waiting_clients() {
    // Contract: C6
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["dies-later", "--on-file", "die"], UNTIL_FILE).start();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let mut upgrade = ask(&psflip, "upgrade");
    let mut watching = ask(&psflip, "watch");
    upgrade.wait_event("accepted");
    watching.wait_event("status");
    sandbox.write("die", "");
    upgrade.wait_event("refused");
    let stopped = watching.wait_event("stopped");
    assert!(!stopped["code"].is_null(), "{stopped}");
    psflip.wait_exit();
}

#[test]
fn watching_clients_are_notified_of_every_change() {
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let mut watching = ask(&psflip, "watch");
    assert_eq!(watching.wait_event("status")["status"]["state"], "serving");
    configure(&sandbox, &["signal-logger"], UNTIL_FILE);
    let mut upgrade = ask(&psflip, "upgrade");
    let mut state = watching.wait_event("status");
    while state["status"]["state"] != "upgrading" {
        state = watching.wait_event("status");
    }
    sandbox.write("healthy", "");
    assert_eq!(watching.wait_event("moved")["upgrade"], json!(null));
    upgrade.wait_event("drained");
    stop(&psflip);
}

#[test]
fn a_successor_that_is_killed_is_a_failed_upgrade() {
    // Contract: F6, U8
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    let old = psflip.active();
    let mut upgrade = upgrade_that_waits(&sandbox, &psflip);
    kill(crate::service::wait_coming(&sandbox, old));
    let failed = upgrade.wait_event("failed");
    assert!(failed["reason"].as_str().unwrap().contains("exited without a reason"), "{failed}");
    stop(&psflip);
}
