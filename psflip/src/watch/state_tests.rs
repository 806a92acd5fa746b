//! What follows from every event in typical situations, and rules about single events.

use std::fmt::Write as _;

use super::*;

const COMMAND: u32 = 10;
const OLD: u32 = 20;
const NEW: u32 = 30;

fn received(signal: Signal) -> Received {
    Received { signal, code: 0, pid: 1, uid: 0, value: 0 }
}

fn signal(signal: Signal) -> Event {
    let is_stop = signal == Signal::TERM;
    Event::Signal { received: received(signal), reach: Reach::Child, is_stop }
}

fn names(pid: u32) -> Event {
    Event::Read(Reading::Names(pid, Membership::Below))
}

fn after(events: &[Event]) -> State {
    let mut state = State::new(true);
    for event in events {
        decide(&mut state, *event);
    }
    state
}

/// Situations, and the events that lead there.
fn situations() -> Vec<(&'static str, Vec<Event>)> {
    let runs = vec![Event::Started(COMMAND)];
    let with = |before: &[Event], more: &[Event]| [before, more].concat();
    let daemon = with(&runs, &[Event::CommandExited(ExitStatus::Exited(0))]);
    let serves = with(&daemon, &[names(OLD), Event::Settled]);
    let replaced = with(&serves, &[names(NEW), Event::Settled]);
    let exits =
        |pid| [Event::Gone(pid), Event::Settled, Event::OtherExited(pid, ExitStatus::Exited(pid as u8))];
    let missing = Event::Read(Reading::Missing { missed: false });
    let waits = with(&with(&replaced, &exits(NEW)), &[Event::Read(Reading::Nothing), Event::CaughtUp]);
    let ends = with(&with(&serves, &exits(OLD)), &[missing, Event::CaughtUp]);
    vec![
        ("the command is being started", Vec::new()),
        ("the command runs", runs.clone()),
        ("the command got a stop request", with(&runs, &[signal(Signal::TERM)])),
        ("the command is the service", with(&runs, &[names(COMMAND)])),
        ("the command is a wrapper of the service", with(&runs, &[names(OLD)])),
        ("the command became a daemon without a name", daemon.clone()),
        ("a daemon is the service", serves.clone()),
        ("a daemon is the service, and got a stop request", with(&serves, &[signal(Signal::TERM)])),
        ("the service has exited, and the keeper was asked", with(&serves, &exits(OLD)[..2])),
        ("a second daemon is the service", replaced),
        ("the second daemon has exited, and the first may take over", waits),
        ("what is left is being stopped", ends.clone()),
        ("what is left is being killed", with(&ends, &[Event::TimeIsUp])),
    ]
}

fn events() -> Vec<Event> {
    let mut events = vec![
        Event::Started(COMMAND),
        Event::CommandExited(ExitStatus::Exited(0)),
        Event::CommandExited(ExitStatus::Exited(3)),
        Event::OtherExited(OLD, ExitStatus::Exited(5)),
        Event::CaughtUp,
        Event::Settled,
        Event::QueryNotSent,
        Event::StopIsOld { command_runs: false },
        Event::StopIsOld { command_runs: true },
        Event::TimeIsUp,
        signal(Signal::HUP),
        signal(Signal::TERM),
    ];
    events.extend([OLD, NEW].map(Event::Gone));
    let mut readings =
        vec![Reading::Missing { missed: false }, Reading::Missing { missed: true }, Reading::Nothing];
    let all = [COMMAND, OLD, NEW];
    readings.extend(all.map(|pid| Reading::Names(pid, Membership::Gone)));
    events.extend(readings.iter().map(|reading| Event::NothingLeft(*reading)));
    readings.extend(all.map(|pid| Reading::Names(pid, Membership::Below)));
    readings.push(Reading::Names(NEW, Membership::Elsewhere));
    events.extend(readings.iter().map(|reading| Event::Read(*reading)));
    events
}

fn name(event: Event) -> String {
    match event {
        Event::Signal { received, .. } => format!("Signal({})", received.signal),
        Event::Started(_)
        | Event::Gone(_)
        | Event::CommandExited(_)
        | Event::OtherExited(..)
        | Event::CaughtUp
        | Event::Read(_)
        | Event::Settled
        | Event::QueryNotSent
        | Event::StopIsOld { .. }
        | Event::TimeIsUp
        | Event::NothingLeft(_) => format!("{event:?}"),
    }
}

fn effect_name(effect: Effect) -> String {
    match effect {
        Effect::Forward(received, to) => format!("Forward({} to {to:?})", received.signal),
        Effect::Report(_)
        | Effect::MarkRead
        | Effect::Follow(_)
        | Effect::AskKeeper
        | Effect::Arm(_)
        | Effect::Disarm
        | Effect::StopAll
        | Effect::KillAll
        | Effect::KillKeeper
        | Effect::Exit(_) => format!("{effect:?}"),
    }
}

fn summary(state: &State) -> String {
    let pid = |one: Option<Service>| one.map_or_else(|| "none".to_owned(), |one| one.pid.to_string());
    format!("{:?}, service {}, previous {}", state.phase, pid(state.service), pid(state.older))
}

#[test]
fn the_whole_table() {
    let mut text = String::new();
    for (situation, way) in situations() {
        let from = after(&way);
        writeln!(text, "{situation}: {}", summary(&from)).unwrap();
        let mut silent = Vec::new();
        for event in events() {
            let mut to = from.clone();
            let effects = decide(&mut to, event);
            let is_same = summary(&to) == summary(&from);
            if is_same && effects.is_empty() {
                silent.push(name(event));
                continue;
            }
            let target = if is_same { "stays".to_owned() } else { summary(&to) };
            writeln!(text, "  {} -> {target}", name(event)).unwrap();
            if !effects.is_empty() {
                let effects: Vec<String> = effects.into_iter().map(effect_name).collect();
                writeln!(text, "      {}", effects.join(", ")).unwrap();
            }
        }
        writeln!(text, "  no effect: {}\n", silent.join(", ")).unwrap();
    }
    insta::assert_snapshot!("watch", text);
}

#[test]
fn a_stop_request_reaches_each_process_once() {
    // Contract: S1, S5, W2
    let forwarded = |effects: Vec<Effect>| effects.iter().any(|effect| matches!(effect, Effect::Forward(..)));
    let mut state = after(&[Event::Started(COMMAND)]);
    assert!(forwarded(decide(&mut state, signal(Signal::TERM))), "to the command");
    assert!(!forwarded(decide(&mut state, names(COMMAND))), "it has it");
    assert!(forwarded(decide(&mut state, names(NEW))), "it has not");
    assert!(!forwarded(decide(&mut state, names(COMMAND))), "it takes over again");
    decide(&mut state, Event::StopIsOld { command_runs: true });
    assert!(!forwarded(decide(&mut state, names(OLD))), "long after the request");
}

#[test]
fn a_question_that_could_not_be_sent_is_asked_again() {
    // Contract: C5, F10
    let asks = |effects: Vec<Effect>| effects.contains(&Effect::AskKeeper);
    let mut state = after(&[Event::Started(COMMAND), names(COMMAND)]);
    decide(&mut state, Event::Gone(COMMAND));
    assert!(asks(decide(&mut state, Event::Settled)));
    assert!(!asks(decide(&mut state, Event::Settled)), "it was asked");
    decide(&mut state, Event::QueryNotSent);
    assert!(asks(decide(&mut state, Event::Settled)));
}

#[test]
fn a_command_that_ignored_an_old_stop_request_may_become_a_daemon() {
    // Contract: W2, S5
    let stops = |effects: Vec<Effect>| effects.contains(&Effect::StopAll);
    for command_runs in [false, true] {
        let mut state = after(&[Event::Started(COMMAND)]);
        decide(&mut state, signal(Signal::TERM));
        decide(&mut state, Event::StopIsOld { command_runs });
        decide(&mut state, Event::CommandExited(ExitStatus::Exited(0)));
        assert_eq!(stops(decide(&mut state, Event::Settled)), !command_runs);
    }
}

#[test]
fn a_stop_request_to_a_command_whose_pid_is_not_known_yet_reaches_it_once() {
    // Contract: S1, W2
    let mut state = after(&[signal(Signal::TERM), Event::Started(COMMAND)]);
    let effects = decide(&mut state, names(COMMAND));
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::Forward(..))), "{effects:?}");
}

#[test]
fn the_exit_status_of_a_program_that_ran_the_service_is_not_replaced_by_a_stop_request() {
    // Contract: C5
    let wrapper = [Event::Started(COMMAND), names(OLD), Event::Gone(OLD), Event::Settled];
    let exits = [
        Event::OtherExited(OLD, ExitStatus::Exited(5)),
        Event::Read(Reading::Missing { missed: false }),
        Event::CaughtUp,
        Event::CommandExited(ExitStatus::Exited(0)),
    ];
    for (before, due) in [
        ([&wrapper[..], &exits].concat(), ExitStatus::Exited(5)),
        (vec![Event::Started(COMMAND), Event::CommandExited(ExitStatus::Exited(7))], ExitStatus::Exited(7)),
    ] {
        let mut state = after(&before);
        let effects = decide(&mut state, signal(Signal::TERM));
        assert!(effects.contains(&Effect::Report(Notice::Stopping(due))), "{effects:?}");
    }
}
