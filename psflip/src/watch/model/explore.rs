//! What must hold in the model, and the exploration of it.

use super::*;

impl World {
    /// The process that is the service by contract W1 is the last one in `named`.
    pub(super) fn follow_the_contract(&mut self, event: Event) {
        if self.verdict.is_some() {
            return;
        }
        let (Event::Read(Reading::Names(pid, place)) | Event::NothingLeft(Reading::Names(pid, place))) =
            event
        else {
            return;
        };
        let lives = self.named.last().is_some_and(|last| self.runs(*last));
        // A process that has exited counts once its exit is known.
        let counts = place == Membership::Below || !lives && self.state.exits.of(pid).is_some();
        if counts && self.named.last() != Some(&pid) {
            self.named.push(pid);
        }
    }

    /// The exit status of a process, if the keeper reports it at some time.
    fn reported(&self, pid: u32) -> Option<ExitStatus> {
        match self.process(pid).life {
            Life::Exited(end) if !self.process(pid).of_command => Some(end),
            Life::Exited(_) | Life::NotYet | Life::Runs => None,
        }
    }

    fn judge(&mut self) {
        let command = self.reported(COMMAND);
        self.other_verdict = None;
        self.verdict = Some(match *self.named {
            // The one before it may have taken over and given up before the pidfile was read.
            [.., before, last] if self.file.is_none() && self.is_touched => {
                self.other_verdict = self.reported(before);
                self.reported(last)
            }
            [.., last] => self.reported(last),
            [] if self.stop_requested && command.is_none_or(|end| end == ExitStatus::Exited(0)) => None,
            [] => command,
        });
    }

    /// Everything is stopped, as if nothing could follow.
    pub(super) fn check_stop(&mut self, event: Event) -> Result<(), String> {
        if let Some(pid) = self.named.last()
            && self.runs(*pid)
        {
            return Err(format!("W3: everything is stopped although the service {pid} runs"));
        }
        if let [.., before, last] = *self.named
            && self.runs(before)
            && !(self.named.len() > 2 && self.named[self.named.len() - 3] == last)
            && event != Event::TimeIsUp
            && !self.stop_requested
        {
            return Err(format!("W1: the service {before} before {last} can't take over again"));
        }
        self.judge();
        Ok(())
    }

    pub(super) fn check_exit(&mut self, end: ExitStatus) -> Result<(), String> {
        if self.anything_runs() {
            return Err("C8: watch exits, and processes are left".to_owned());
        }
        if self.verdict.is_none() {
            self.judge();
        }
        match self.verdict {
            Some(Some(due)) if due != end && self.other_verdict != Some(end) => {
                Err(format!("C5: the exit status is {end}, not {due}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn check_asleep(&self) -> Result<(), String> {
        if self.undelivered && self.signals.is_empty() && self.state.service_lives() {
            return Err("W2: the service has not got a signal".to_owned());
        }
        Ok(())
    }

    /// It exits, or a process runs that may be the service, or become it.
    fn is_settled(&self) -> bool {
        let serves = self.named.last().map_or_else(|| self.anything_runs(), |service| self.runs(*service));
        self.exited || self.runs(COMMAND) || serves && self.verdict.is_none()
    }
}

const NOTHING: Budget = Budget { starts: 0, writes: 0, removes: 0, signals: 0, stops: 0, stubborn: 0 };

/// The command and another process take over from each other.
const TAKES_OVER: Budget = Budget { starts: 1, writes: 3, removes: 1, ..NOTHING };

/// The command starts two others.
const DAEMONS: Budget = Budget { starts: 2, writes: 2, ..NOTHING };

/// With a stop request, and a process that ignores it.
const STOPS: Budget = Budget { starts: 1, writes: 2, stops: 1, stubborn: 1, ..NOTHING };

/// With a signal that is no stop request.
const SIGNALS: Budget = Budget { starts: 1, writes: 2, removes: 1, signals: 1, ..NOTHING };

/// Visits every reachable state. Returns the number of states, or the first broken promise with the shortest
/// path to it.
fn explore(budget: Budget, decide: Decide) -> Result<usize, String> {
    let first = World::new(budget);
    let mut numbers = HashMap::from([(first.clone(), 0_usize)]);
    let mut worlds = vec![first];
    let mut came_from: Vec<Option<(usize, Step)>> = vec![None];
    // The states before each state, by steps that need no help from outside.
    let mut before: Vec<Vec<usize>> = vec![Vec::new()];
    let way = |came_from: &[Option<(usize, Step)>], mut at: usize| {
        let mut way = Vec::new();
        while let Some((before, step)) = came_from[at] {
            way.push(format!("  {step:?}"));
            at = before;
        }
        way.reverse();
        way.join("\n")
    };
    let mut next = 0;
    while next < worlds.len() {
        let world = worlds[next].clone();
        for (step, needs_no_help) in world.steps() {
            let after = world.after(step, decide).map_err(|broken| {
                format!("{broken}\nafter\n{}\n  {step:?}\nfrom\n{world:#?}", way(&came_from, next))
            })?;
            let number = *numbers.entry(after).or_insert_with_key(|after| {
                worlds.push(after.clone());
                came_from.push(Some((next, step)));
                before.push(Vec::new());
                worlds.len() - 1
            });
            if needs_no_help {
                before[number].push(next);
            }
        }
        next += 1;
    }
    let stuck = |is_there: &dyn Fn(&World) -> bool, concerns: &dyn Fn(&World) -> bool| {
        let comes = comes_to(&before, |number| is_there(&worlds[number]));
        (0..worlds.len()).find(|number| concerns(&worlds[*number]) && !comes[*number])
    };
    if let Some(at) = stuck(&World::is_settled, &|_| true) {
        return Err(format!("stuck for ever after\n{}\nin\n{:#?}", way(&came_from, at), worlds[at]));
    }
    if let Some(at) = stuck(&|world| world.exited, &|world| world.stop_requested) {
        return Err(format!("S5: a stop ends nothing after\n{}\nin\n{:#?}", way(&came_from, at), worlds[at]));
    }
    Ok(worlds.len())
}

/// For each state, whether it can reach a state for which `is_there` holds.
fn comes_to(before: &[Vec<usize>], is_there: impl Fn(usize) -> bool) -> Vec<bool> {
    let mut comes = vec![false; before.len()];
    let mut queue: VecDeque<usize> = (0..before.len()).filter(|number| is_there(*number)).collect();
    while let Some(number) = queue.pop_front() {
        if !std::mem::replace(&mut comes[number], true) {
            queue.extend(before[number].iter());
        }
    }
    comes
}

#[track_caller]
#[expect(clippy::print_stdout, reason = "`--no-capture` shows how large the world is")]
fn breaks_no_promise(budget: Budget, least: usize) {
    match explore(budget, decide) {
        Ok(states) => {
            println!("{states} states");
            assert!(states > least, "only {states} states: the world has become too small");
        }
        Err(broken) => panic!("{broken}"),
    }
}

#[test]
fn no_order_in_which_processes_take_over_breaks_a_promise() {
    // Contract: C5, C8, W1, W3
    breaks_no_promise(TAKES_OVER, 1_000);
}

#[test]
fn no_order_in_which_two_daemons_come_and_go_breaks_a_promise() {
    // Contract: C5, C8, W1, W3
    breaks_no_promise(DAEMONS, 1_000);
}

#[test]
fn no_stop_request_breaks_a_promise() {
    // Contract: C5, C8, S5, W2, W3
    breaks_no_promise(STOPS, 1_000);
}

#[test]
fn no_signal_breaks_a_promise() {
    // Contract: C5, S1, S5, W2, W3
    breaks_no_promise(SIGNALS, 1_000);
}

/// Faulty decisions: each has a fault that a developer might make, the world in which it shows, and the
/// promise that it breaks.
const MUTANTS: &[(&str, Budget, &str, Decide)] = &[
    ("a process that is named after a stop request does not get it", STOPS, "S5", |state, event| {
        let mut effects = decide(state, event);
        if let Event::Read(_) = event {
            effects.retain(|effect| !matches!(effect, Effect::Forward(..)));
        }
        effects
    }),
    ("a stop request is given again to a process that has it", STOPS, "S1", |state, event| {
        if let Some(stop) = &mut state.stop {
            stop.given.clear();
        }
        decide(state, event)
    }),
    ("a process that writes its pid and exits ends a service that runs", DAEMONS, "W3", |state, event| {
        if let Event::Read(Reading::Names(pid, Membership::Gone)) = event
            && state.exits.of(pid).is_some()
        {
            state.service = None;
        }
        decide(state, event)
    }),
    ("the previous service is forgotten", TAKES_OVER, "W1", |state, event| {
        state.older = None;
        decide(state, event)
    }),
    ("a name that was missed does not count", TAKES_OVER, "C5", |state, event| {
        let is_missed = matches!(event, Event::NothingLeft(Reading::Names(..)));
        decide(state, if is_missed { Event::NothingLeft(Reading::Nothing) } else { event })
    }),
    ("an older answer of the keeper is taken for the one that is due", DAEMONS, "C5", |state, event| {
        if event == Event::CaughtUp {
            for one in [&mut state.service, &mut state.older].into_iter().flatten() {
                one.queried = one.queried.map(|_| 0);
            }
        }
        decide(state, event)
    }),
    ("the service's exit status is the command's", DAEMONS, "C5", |state, event| {
        let mut effects = decide(state, event);
        for effect in &mut effects {
            if let (Effect::Exit(end), Some(command)) = (effect, state.command.end) {
                *end = command;
            }
        }
        effects
    }),
    ("a stop request while nobody serves is only queued", STOPS, "S5", |state, event| {
        if let (Event::Signal { received, is_stop: true, .. }, Target::Nobody) = (event, state.target()) {
            state.queued.push(received);
            return Vec::new();
        }
        decide(state, event)
    }),
    ("a signal for a service that isn't there yet is dropped", SIGNALS, "W2", |state, event| {
        state.queued.clear();
        decide(state, event)
    }),
    ("the time for another service never ends", TAKES_OVER, "stuck", |state, event| {
        if event == Event::TimeIsUp && state.is_waiting() { Vec::new() } else { decide(state, event) }
    }),
    ("what ignores SIGTERM is not killed", STOPS, "stuck", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::KillAll);
        effects
    }),
    ("a process becomes the service when everything is being stopped", STOPS, "S1", |state, event| {
        if let (Event::Read(Reading::Names(_, Membership::Below)), true) = (event, state.is_over()) {
            state.phase = Phase::Watching;
        }
        decide(state, event)
    }),
    ("the keeper is never asked", TAKES_OVER, "stuck", |state, event| {
        let mut effects = decide(state, event);
        effects.retain(|effect| *effect != Effect::AskKeeper);
        effects
    }),
];

/// Checks every fourth fault, beginning at `remainder`.
#[track_caller]
fn are_found(remainder: usize) {
    for (fault, budget, promise, mutant) in MUTANTS.iter().skip(remainder).step_by(4) {
        match explore(*budget, *mutant) {
            Ok(states) => panic!("nobody noticed in {states} states that {fault}"),
            Err(broken) => assert!(broken.starts_with(promise), "{fault}: {broken}"),
        }
    }
}

#[test]
fn injected_faults_are_found_1() {
    // Contract: C5, C8, S5
    are_found(0);
}

#[test]
fn injected_faults_are_found_2() {
    // Contract: C5, S1, W3
    are_found(1);
}

#[test]
fn injected_faults_are_found_3() {
    // Contract: C5, W1
    are_found(2);
}

#[test]
fn injected_faults_are_found_4() {
    // Contract: C8, S5, W3
    are_found(3);
}
