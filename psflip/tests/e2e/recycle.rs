//! `[recycle]`: upgrades that psflip requests by itself.

use serde_json::Value;
use testkit::{Deadline, Sandbox, Signal, Stream, need, psflip_bin, wait_until};

use crate::service::{AT_ONCE, configure, kill, psflip, stop};

/// What `psflip status --json` prints.
#[track_caller]
fn status(sandbox: &Sandbox) -> Value {
    let status = sandbox.command([psflip_bin()]).args(["status", "-c", "psflip.toml", "--json"]).start();
    status.wait_exit();
    status.output().wait_closed();
    serde_json::from_str(&status.stdout()).unwrap_or_else(|error| panic!("{error}: {}", status.stderr()))
}

/// Waits until the status is as this function wants it.
#[track_caller]
fn wait_status(sandbox: &Sandbox, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
    wait_until(Deadline::default(), what.to_owned(), || Some(status(sandbox)).filter(&is_so))
}

#[test]
fn a_generation_is_replaced_when_it_has_served_for_long_but_not_while_the_old_one_drains() {
    // Contract: R1, R3
    let sandbox = Sandbox::new();
    let slow = format!("{AT_ONCE}[shutdown]\ntimeout = \"1m\"\n");
    let aging = format!("{slow}[recycle]\nafter = \"50ms\"\n");
    let psflip = psflip(&sandbox, &["ignore-sigterm"], &slow).start().wait_ready();
    let old = psflip.child();
    configure(&sandbox, &["/bin/sleep", "1000"], &aging);
    psflip.request_flip();
    // The old child ignores SIGTERM, so its generation drains until the child is killed below.
    let due = wait_status(&sandbox, "generation 2 to be due", |status| {
        status["generation"] == 2 && status["recycle"]["next_ms"] == 0
    });
    assert!(due["predecessor"]["pid"].is_u64() && due["upgrade"].is_null(), "{due}");
    assert!(!psflip.log().contains("reason=\"recycle"), "{}", psflip.log());
    configure(&sandbox, &["/bin/sleep", "1000"], &format!("{AT_ONCE}[recycle]\nafter = \"1h\"\n"));
    kill(old);
    let status = wait_status(&sandbox, "generation 3", |status| status["generation"] == 3);
    let by = status["history"][2]["by"].as_str().unwrap_or_default().to_owned();
    assert!(by.starts_with("recycle: running for "), "{status}");
    let log = psflip.log();
    assert!(log.contains(&format!("upgrade requested reason=\"{by}\"")), "{log}");
    let gone = log.find("the old generation is gone").expect("it is gone");
    assert!(log.find("reason=\"recycle").is_some_and(|requested| gone < requested), "{log}");
    let hour = 3_600_000..=3_960_000;
    let recycle = &status["recycle"];
    assert!(recycle["after_ms"].as_u64().is_some_and(|after| hour.contains(&after)), "{recycle}");
    assert!(recycle["next_ms"].as_u64().is_some_and(|next| next > 3_500_000), "{recycle}");
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn no_generation_is_replaced_while_connections_are_held() {
    // Contract: R3, T11
    let sandbox = Sandbox::new();
    let server = ["http-server", "--unix", "{{ blue_green() }}.sock"];
    let proxied = format!(
        "{AT_ONCE}[[proxy]]\nlisten = \"unix://web.sock\"\nforward = \"unix://{{{{ blue_green() }}}}.sock\"\n"
    );
    let psflip = psflip(&sandbox, &server, &proxied).start().wait_ready();
    let run = |command: &str| {
        let client = sandbox.command([psflip_bin()]).args([command, "-c", "psflip.toml"]).start();
        assert!(client.wait_exit().success(), "{}", client.stderr());
    };
    run("hold");
    configure(&sandbox, &server, &format!("{proxied}[recycle]\nafter = \"50ms\"\n"));
    psflip.request_flip();
    let due = wait_status(&sandbox, "generation 2 to be due, alone", |status| {
        status["recycle"]["next_ms"] == 0 && status["predecessor"].is_null()
    });
    assert!(due["generation"] == 2 && due["upgrade"].is_null() && due["hold"].is_object(), "{due}");
    configure(&sandbox, &server, &proxied);
    run("resume");
    wait_status(&sandbox, "generation 3", |status| status["generation"] == 3);
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_version_that_does_not_start_is_tried_again_after_a_pause_and_the_old_one_serves() {
    // Contract: R1, R3, U8
    let sandbox = Sandbox::new();
    let recycling = format!("{AT_ONCE}[recycle]\nafter = \"300ms\"\n");
    let psflip = psflip(&sandbox, &["/bin/sleep", "1000"], &recycling).start().wait_ready();
    configure(&sandbox, &["/no/such/program"], &recycling);
    psflip.wait_for_line(Stream::Stderr, "the next attempt follows in 3");
    let before = (psflip.active(), psflip.child());
    psflip.wait_for_line(Stream::Stderr, "failures=2");
    assert_eq!((psflip.active(), psflip.child()), before, "{}", sandbox.report());
    let failed = status(&sandbox);
    assert!(failed["recycle"]["failures"].as_u64() >= Some(2), "{failed}");
    // An attempt for each `after`, and not one after the other without a pause.
    let began = |record: &Value| record["began_at"].as_u64().expect("a time");
    let records = failed["history"].as_array().expect("records");
    let attempts: Vec<u64> = records.iter().filter(|one| one["result"] == "failed").map(began).collect();
    let pauses: Vec<u64> = attempts.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(!pauses.is_empty() && pauses.iter().all(|pause| *pause >= 290), "{pauses:?}: {failed}");
    configure(&sandbox, &["/bin/sleep", "1000"], AT_ONCE);
    let better =
        wait_status(&sandbox, "a new generation", |status| status["generation"] != failed["generation"]);
    assert!(better["recycle"].is_null(), "the new configuration has no `[recycle]`: {better}");
    stop(&psflip);
    sandbox.assert_no_process_left();
}

/// A child that takes 64 MB when it gets SIGUSR1.
const GROWS: &str = "import signal\n\
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1])\n\
    open('waits', 'w')\n\
    signal.sigwait([signal.SIGUSR1])\n\
    memory = b'x' * (64 << 20)\n\
    signal.pause()\n";

#[test]
fn a_child_that_needs_too_much_memory_is_replaced() {
    // Contract: R1, R2
    let Some(python) = need("python3") else { return };
    let sandbox = Sandbox::new();
    let python = python.display().to_string();
    let recycling =
        |memory| format!("{AT_ONCE}[recycle]\nmemory = \"{memory}\"\njitter = \"0%\"\ninterval = \"20ms\"\n");
    let psflip = psflip(&sandbox, &[&python, "-S", "-c", GROWS], &recycling("60M")).start().wait_ready();
    wait_until(Deadline::default(), "the child to wait for its signal", || {
        sandbox.path("waits").exists().then_some(())
    });
    let below = wait_status(&sandbox, "a look at the memory", |status| status["recycle"]["memory"].is_u64());
    assert!(below["recycle"]["memory"].as_u64() < Some(60 << 20), "{below}");
    assert_eq!(below["recycle"]["memory_limit"], 60 << 20);
    // For the next child any memory is too much, so a third one would not help.
    configure(&sandbox, &["/bin/sleep", "1000"], &recycling("1K"));
    psflip.signal(Signal::SIGUSR1);
    let requested = psflip.wait_for_line(Stream::Stderr, "upgrade requested reason=\"recycle: memory ");
    assert!(requested.text.contains("M of 60M"), "{}", requested.text);
    psflip.wait_for_line(Stream::Stderr, "used more than `recycle.memory` from the beginning");
    let status = status(&sandbox);
    assert_eq!((&status["generation"], &status["upgrade"]), (&Value::from(2), &Value::Null), "{status}");
    stop(&psflip);
    sandbox.assert_no_process_left();
}
