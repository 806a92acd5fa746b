//! Snapshots of what operators see: wide and narrow, with and without colour, and invariants of all of it.

use super::*;
use crate::control::protocol::{
    Event, Listener, OldGeneration, Proxy, ProxyState, Recycle, Relay, ServiceState, Source, Status, Switch,
};
use crate::history::{Counts, Drain, Outcome, Record, Timed, UpgradeStep};
use crate::proxy::Hold;

/// 2026-11-23 16:20:00 UTC.
const NOON: u64 = 1_795_450_800_000;

fn view(width: usize) -> View {
    View { width, colour: false, now: NOON }
}

fn steps(list: &[(UpgradeStep, u64)]) -> Vec<Timed<UpgradeStep>> {
    list.iter().map(|&(step, at_ms)| Timed { step, at_ms }).collect()
}

fn drain(list: &[(Drain, u64)]) -> Vec<Timed<Drain>> {
    list.iter().map(|&(step, at_ms)| Timed { step, at_ms }).collect()
}

const ALL: &[(UpgradeStep, u64)] = &[
    (UpgradeStep::Started, 0),
    (UpgradeStep::Spawned, 1),
    (UpgradeStep::Starting, 4),
    (UpgradeStep::Child, 6),
    (UpgradeStep::Healthy, 118),
    (UpgradeStep::Hook, 118),
    (UpgradeStep::Switch, 120),
    (UpgradeStep::Pidfile, 120),
];

fn source(path: &str, changed: Option<bool>) -> Source {
    Source { path: path.to_owned(), changed, seen: None }
}

/// A start, an upgrade, a failure, an upgrade whose old child had to be killed, and a running upgrade.
fn busy() -> Status {
    let start = Record {
        upgrade: 0,
        to: 1,
        began_at: NOON - 90_000_000,
        steps: steps(&ALL[2..6]),
        result: Some(Outcome::Promoted),
        took_ms: Some(121),
        ..Record::default()
    };
    let flip = Record {
        upgrade: 1,
        from: Some(1),
        to: 2,
        began_at: NOON - 600_000,
        by: "SIGHUP from pid 412 (root)".to_owned(),
        steps: steps(ALL),
        failed_probes: 3,
        probe: Some("can't connect to `127.0.0.1:8081`: Connection refused".to_owned()),
        result: Some(Outcome::Promoted),
        took_ms: Some(123),
        drain: drain(&[(Drain::Delay, 123), (Drain::Signalled, 323), (Drain::Gone, 640)]),
        ..Record::default()
    };
    let failed = Record {
        upgrade: 2,
        from: Some(2),
        to: 3,
        began_at: NOON - 300_000,
        by: "pid 413 (root) over the control socket".to_owned(),
        steps: steps(&ALL[..4]),
        result: Some(Outcome::Failed),
        took_ms: Some(71),
        reason: Some(
            "the child exited before it was healthy: exit code 3; last probe: no <socket> \"a&b\"".to_owned(),
        ),
        ..Record::default()
    };
    let killed = Record {
        upgrade: 3,
        began_at: NOON - 100_000,
        by: "pid 414 (root) over the control socket".to_owned(),
        from: Some(2),
        to: 3,
        drain: drain(&[(Drain::Signalled, 123), (Drain::Killed, 900), (Drain::Gone, 905)]),
        failed_probes: 1,
        ..flip.clone()
    };
    let coming = Record {
        upgrade: 4,
        from: Some(3),
        to: 4,
        began_at: NOON - 800,
        by: "pid 415 (root) over the control socket".to_owned(),
        steps: steps(&ALL[..4]),
        failed_probes: 7,
        probe: Some("can't connect to `127.0.0.1:8080`: Connection refused".to_owned()),
        ..Record::default()
    };
    Status {
        psflip: 1,
        version: "0.1.0".to_owned(),
        pid: 5641,
        anchor: None,
        state: ServiceState::Upgrading,
        generation: 3,
        slot: "a".to_owned(),
        child: Some(5653),
        command: ["./server", "--name", "it's mine", "--port=8080"].map(str::to_owned).into(),
        started_at: NOON - 100_100,
        active_since: Some(NOON - 99_877),
        health: "http".to_owned(),
        config: Some(source("/etc/psflip/app.toml", Some(true))),
        program: Some(source("/usr/bin/psflip", Some(false))),
        files: Some(vec![
            source("/srv/app/releases/1", Some(true)),
            source("/srv/app/releases/1/server", Some(false)),
            source("/net/app.env", None),
        ]),
        pidfile: Some("/run/app/app.pid".to_owned()),
        control: Some("/run/app/app.pid.sock".to_owned()),
        listeners: vec![Listener { address: "tcp://0.0.0.0:8080".to_owned(), name: "web".to_owned() }],
        proxies: Vec::new(),
        relay: None,
        hold: None,
        recycle: None,
        switch: Some(Switch { path: "/run/app/app.sock".to_owned(), to: "/run/app/blue.sock".to_owned() }),
        upgrade_queued: true,
        predecessor: Some(OldGeneration {
            generation: Some(2),
            pid: 5600,
            step: Some(Drain::Signalled),
            left_ms: Some(8_200),
        }),
        older: vec![OldGeneration {
            generation: Some(1),
            pid: 5500,
            step: Some(Drain::Signalled),
            left_ms: Some(3_590_000),
        }],
        upgrade: Some(coming),
        bake_left_ms: None,
        upgrade_left_ms: Some(59_200),
        settle_left_ms: None,
        upgrades: Some(Counts { promoted: 22, failed: 5, rolled_back: 1 }),
        history: vec![start, flip, failed, killed],
    }
}

/// The usual state: nothing is going on.
fn calm() -> Status {
    let mut status = busy();
    status.state = ServiceState::Serving;
    status.upgrade_queued = false;
    status.predecessor = None;
    status.older.clear();
    status.upgrade = None;
    status.upgrade_left_ms = None;
    status.config = Some(source("app.toml", Some(false)));
    status.switch = None;
    status.history.truncate(2);
    status
}

/// A service with two proxies, held, whose old generation still answers.
fn proxied() -> Status {
    let mut status = calm();
    let http = Proxy {
        listen: "tcp://0.0.0.0:8080".to_owned(),
        forward: "127.0.0.1:20411".to_owned(),
        protocol: "http".to_owned(),
        state: ProxyState::Held,
        connections: 710,
        open: 12,
        requests: 5301,
        reused: 4410,
        under_way: 3,
        errors: 1,
    };
    let tcp = Proxy {
        listen: "unix:///run/app/raw.sock".to_owned(),
        forward: "unix:///run/app/b.sock".to_owned(),
        protocol: "tcp".to_owned(),
        errors: 0,
        requests: 0,
        reused: 0,
        ..http.clone()
    };
    status.proxies = vec![http, tcp];
    status.relay = Some(Relay { pid: Some(5642), unexpected_exits: 2 });
    status.hold = Some(Hold { since: NOON - 4_200, max_ms: 30_000 });
    status.predecessor = Some(OldGeneration {
        generation: Some(3),
        pid: 5600,
        step: Some(Drain::Answering),
        left_ms: Some(28_200),
    });
    let flip = &mut status.history[1];
    flip.drain =
        drain(&[(Drain::Answering, 123), (Drain::Delay, 300), (Drain::Signalled, 323), (Drain::Gone, 640)]);
    (flip.passed_on, flip.waited_for) = (Some(214), Some(1));
    status
}

#[test]
fn a_status_shows_what_each_proxy_does() {
    // Contract: T11, T12
    let (wide, narrow) = (status(&proxied(), 9, &view(160)), status(&proxied(), 9, &view(57)));
    insta::assert_snapshot!(format!("{wide}---\n{narrow}---\n{}", summary(&proxied(), NOON)));
    let mut lost = proxied();
    lost.relay = Some(Relay { pid: None, unexpected_exits: 1 });
    lost.proxies.iter_mut().for_each(|proxy| proxy.state = ProxyState::Waiting);
    let lost = status(&lost, 0, &view(UNLIMITED));
    assert!(lost.contains("(http): not accepting yet; open 12,"), "{lost}");
    let relay =
        "\nrelay     is being started again; exited unexpectedly once, and its connections were lost\n";
    assert!(lost.contains(relay), "{lost}");
}

#[test]
fn the_chart_distinguishes_answering_from_the_delay() {
    let picture = timeline::svg(&proxied(), &view(80));
    let bars: Vec<&str> = picture.lines().filter(|line| line.contains("under way: 177 ms")).collect();
    assert!(matches!(bars[..], [bar] if bar.starts_with("<rect class=\"answering\"")), "{picture}");
}

#[test]
fn a_status_names_the_anchor() {
    // Contract: A1
    let mut status = calm();
    status.anchor = Some(5500);
    let text = super::status(&status, 0, &view(80));
    assert!(text.contains("\nanchor    pid 5500, which no upgrade changes\n"), "{text}");
}

#[test]
fn a_status_on_a_wide_terminal() {
    insta::assert_snapshot!(status(&busy(), 3, &view(160)));
}

#[test]
fn a_status_on_a_narrow_terminal() {
    insta::assert_snapshot!(status(&busy(), 9, &view(40)));
}

#[test]
fn a_status_when_idle() {
    insta::assert_snapshot!(status(&calm(), 9, &view(100)));
}

#[test]
fn lines_fit_the_width_and_colours_change_no_text() {
    for width in [20, 30, 40, 57, 80, 100, 160] {
        for shown in [busy(), calm(), proxied(), Status::default()] {
            let plain = status(&shown, 9, &view(width));
            for line in plain.lines() {
                assert!(line.chars().count() <= width, "{width}: {line:?}");
            }
            let coloured = status(&shown, 9, &View { colour: true, ..view(width) });
            assert_eq!(without_colour(&coloured), plain);
        }
    }
    assert!(status(&busy(), 9, &View { colour: true, ..view(80) }).contains("\x1b[1;31mFAILED\x1b[0m"));
}

/// The text without SGR sequences (console_codes(4)).
fn without_colour(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        out += before;
        rest = after.split_once('m').unwrap().1;
    }
    out + rest
}

#[test]
fn untrusted_text_can_not_control_the_terminal() {
    let mut shown = busy();
    shown.command = vec!["\x1b[2J\r\nx".to_owned()];
    shown.history[2].reason = Some("\x1b]0;title\x07".to_owned());
    shown.upgrade.as_mut().unwrap().probe = Some("\x1b[31m".to_owned());
    for text in [status(&shown, 9, &view(80)), summary(&shown, NOON), timeline::svg(&shown, &view(80))] {
        assert!(!text.contains('\x1b') && !text.contains('\x07') && !text.contains('\r'), "{text:?}");
    }
}

#[test]
fn one_line_summarizes_the_service_and_current_activity() {
    insta::assert_snapshot!([summary(&calm(), NOON), summary(&busy(), NOON)].join("\n"));
}

#[test]
fn a_child_that_settles_is_shown_with_the_time_that_is_left() {
    // Contract: H6
    let mut status = busy();
    let upgrade = status.upgrade.as_mut().unwrap();
    upgrade.step(UpgradeStep::Settling, 700);
    status.settle_left_ms = Some(1200);
    let shown = super::status::status(&status, 0, &view(200));
    assert!(shown.contains(": child is healthy; settling, 1.20 s left"), "{shown}");
    let mut done = Record { took_ms: Some(2125), result: Some(Outcome::Promoted), ..Record::default() };
    for (step, at_ms) in [(UpgradeStep::Child, 6), (UpgradeStep::Settling, 118), (UpgradeStep::Healthy, 2120)]
    {
        done.step(step, at_ms);
    }
    let shown = super::history::record(&done, &view(200));
    assert!(shown.contains("probing 112 ms, settle 2.00 s, promotion 5 ms"), "{shown}");
    done.probe_failed("probe 4 failed: refused");
    assert!(done.steps.iter().all(|timed| timed.step != UpgradeStep::Settling), "it has to settle again");
}

#[test]
fn an_upgrade_reports_how_long_the_child_settles() {
    // Contract: H6
    let settling = Event::Step {
        upgrade: 6,
        step: UpgradeStep::Settling,
        at_ms: 118,
        pid: Some(71),
        child: Some(72),
        probe: None,
        left_ms: Some(2000),
    };
    let mut progress = Progress::default();
    let lines = progress.on(&settling, false, &view(80));
    assert_eq!(lines, ["  0.118 s  child is healthy; settling for 2.00 s"]);
    assert!(progress.live(&view(80)).contains("settling for 2.00 s"));
}

#[test]
fn one_line_says_how_an_upgrade_has_ended() {
    let mut shown = calm();
    for (result, words) in [
        (Outcome::Failed, "the last upgrade failed"),
        (Outcome::RolledBack, "the last upgrade was rolled back"),
    ] {
        if let Some(last) = shown.history.last_mut() {
            last.result = Some(result);
        }
        assert!(summary(&shown, NOON).contains(words), "{}", summary(&shown, NOON));
    }
    // A bake is over, and its generation not gone or promoted yet.
    let baked = Record { steps: steps(&[(UpgradeStep::Baking, 200)]), began_at: NOON, ..Record::default() };
    shown.upgrade = Some(baked);
    assert!(summary(&shown, NOON).ends_with(": its bake is over"), "{}", summary(&shown, NOON));
}

fn step(step: UpgradeStep, at_ms: u64, probe: Option<&str>) -> Event {
    let probe = probe.map(str::to_owned);
    Event::Step { upgrade: 6, step, at_ms, pid: Some(71), child: Some(72), probe, left_ms: None }
}

/// The events of a whole upgrade, as psflip sends them.
fn told() -> Vec<Event> {
    vec![
        Event::Accepted { upgrade: 6, because: Some("an upgrade is under way".to_owned()) },
        Event::Step {
            upgrade: 5,
            step: UpgradeStep::Healthy,
            at_ms: 9,
            pid: None,
            child: None,
            probe: None,
            left_ms: None,
        },
        step(UpgradeStep::Started, 0, None),
        step(UpgradeStep::Spawned, 1, None),
        step(UpgradeStep::Starting, 4, None),
        step(UpgradeStep::Child, 6, None),
        step(UpgradeStep::Probe, 7, Some("probe 1 failed: can't connect to `app.sock`: Connection refused")),
        step(
            UpgradeStep::Probe,
            108,
            Some("probe 2 failed: can't connect to `app.sock`: Connection refused"),
        ),
        step(UpgradeStep::Healthy, 1118, None),
        step(UpgradeStep::Pidfile, 1120, None),
        Event::Promoted {
            upgrade: 6,
            generation: 8,
            pid: Some(71),
            child: Some(72),
            took_ms: 1123,
            waited_ms: None,
        },
        Event::Drained { upgrade: 6, killed: true },
    ]
}

#[test]
fn an_upgrade_is_reported_line_by_line() {
    let mut progress = Progress::default();
    let lines: Vec<String> =
        told().iter().flat_map(|event| progress.on(event, false, &view(UNLIMITED))).collect();
    insta::assert_snapshot!(lines.join("\n"));
}

#[test]
fn a_failed_probe_in_a_bake_is_not_one_of_a_child_that_starts() {
    // Contract: B2
    let mut progress = Progress::default();
    progress.on(&step(UpgradeStep::Baking, 20, None), false, &view(80));
    progress.on(&Event::Baking { upgrade: 6, generation: 8, bake_ms: 60_000 }, false, &view(80));
    let probe = step(UpgradeStep::Probe, 900, Some("probe 7 failed: HTTP status 503"));
    let lines = progress.on(&probe, false, &view(80));
    assert_eq!(lines, ["  0.900 s  the health check fails: probe 7 failed: HTTP status 503"]);
    assert!(progress.live(&view(80)).contains("generation 8 bakes"), "{}", progress.live(&view(80)));
}

#[test]
fn on_a_terminal_one_line_shows_the_current_state() {
    let mut progress = Progress::default();
    let mut shown = Vec::new();
    for event in told() {
        for line in progress.on(&event, true, &view(60)) {
            shown.push(format!("kept  {line}"));
        }
        let live = progress.live(&View { now: NOON + 250, ..view(60) });
        assert!(live.chars().count() < 60, "{live}");
        shown.push(format!("live  {live}"));
    }
    insta::assert_snapshot!(shown.join("\n"));
}

#[test]
fn a_failure_shows_the_reason_what_still_runs_and_where_to_look() {
    let failed = Event::Failed {
        rolled_back: false,
        upgrade: 6,
        generation: 8,
        reason:
            "the child exited before it was healthy: exit code 3; last probe: can't connect to `app.sock`"
                .to_owned(),
        output: Some(
            "Traceback:\n  no such table `users`, and this line is rather long for a narrow terminal"
                .to_owned(),
        ),
        pid: Some(71),
        child: Some(12),
        waited_ms: None,
    };
    let look = ["psflip's log: /var/log/app.log".to_owned()];
    let wide = failure(&failed, &look, &view(120));
    insta::assert_snapshot!(format!("{wide}---\n{}", failure(&failed, &look, &view(40))));
}

#[test]
fn durations_have_about_three_digits() {
    let spans: Vec<String> =
        [0, 999, 1000, 9999, 10_000, 59_999, 60_000, 3_599_999, 3_600_000, 86_400_000, 90_000_000_000]
            .into_iter()
            .map(span)
            .collect();
    insta::assert_snapshot!(spans.join(", "), @"0 ms, 999 ms, 1.00 s, 9.99 s, 10.0 s, 59.9 s, 1 min 0 s, 59 min 59 s, 1 h 0 min, 1 d 0 h, 1041 d 16 h");
}

#[test]
fn status_shows_when_psflip_upgrades_by_itself() {
    // Contract: R1, R3
    let row = |recycle| {
        let text = super::status(&Status { recycle: Some(recycle), ..Status::default() }, 0, &view(200));
        text.lines().find_map(|line| line.strip_prefix("recycle   ")).unwrap_or_default().to_owned()
    };
    let (after_ms, next_ms) = (Some(86_700_000), Some(83_520_000));
    let rows = [
        Recycle { after_ms, next_ms, ..Recycle::default() },
        Recycle { memory_limit: Some(478 << 20), look_ms: Some(72_000), ..Recycle::default() },
        Recycle {
            next_ms,
            after_ms,
            memory: Some(130 << 20),
            memory_limit: Some(4 << 40),
            look_ms: Some(40_000),
            failures: 1,
        },
        Recycle { after_ms, next_ms: Some(0), failures: 3, ..Recycle::default() },
    ]
    .map(row);
    insta::assert_snapshot!(rows.join("\n"), @r"
    in 23 h 12 min, after 1 d 0 h
    memory 478M, next look in 1 min 12 s
    in 23 h 12 min, after 1 d 0 h; memory 130M of 4096G, next look in 40.0 s; 1 attempt failed
    due as soon as nothing else is under way; 3 attempts failed in a row
    ");
}

#[test]
fn words_are_wrapped_and_long_ones_cut() {
    assert_eq!(wrap("one two three", 8), ["one two", "three"]);
    assert_eq!(wrap("0123456789abcdef x", 8), ["01234567", "89abcdef", "x"]);
    assert_eq!(wrap("", 8), [""]);
}

#[test]
fn the_chart_of_recent_upgrades() {
    let picture = timeline::svg(&busy(), &view(80));
    insta::assert_snapshot!(picture);
    let without = timeline::svg(&Status::default(), &view(80));
    assert!(without.ends_with("</svg>\n"), "{without}");
}

#[test]
fn short_upgrades_stay_visible_beside_long_ones_in_the_chart() {
    let mut shown = busy();
    shown.history[3].took_ms = Some(300_000);
    shown.history[3].drain = drain(&[(Drain::Signalled, 300_000), (Drain::Gone, 310_000)]);
    let picture = timeline::svg(&shown, &view(80));
    assert!(picture.contains(">5 min 0 s</text>"), "{picture}");
    for class in ["start", "child", "probing", "promotion", "drain"] {
        let bars = picture.split("<rect class=\"").filter(|rest| rest.starts_with(&format!("{class}\"")));
        for bar in bars.filter(|bar| bar.contains("<title>") && !bar.contains(": 0 ms")) {
            let width = bar.split_once(" width=\"").unwrap().1.split_once('"').unwrap().0;
            assert!(width.parse::<f64>().unwrap() >= 2.9, "{bar}");
        }
    }
}

#[test]
fn the_chart_lists_the_newest_upgrade_first_and_failure_reasons() {
    let picture = timeline::svg(&busy(), &view(80));
    let numbers: Vec<u64> = picture
        .lines()
        .filter_map(|line| line.split_once("\">#")?.1.split_once(' ')?.0.parse().ok())
        .collect();
    assert!(numbers.len() > 2 && numbers.is_sorted_by(|newer, older| newer > older), "{numbers:?}");
    assert!(picture.contains("exit code 3"), "{picture}");
}
