//! The plan of a round: a pure function of the seed, so that one seed gives one sequence of steps. Their
//! results depend on timing as well.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

use crate::manner::Manner;
use crate::next_config::{Bad, Good, Next};
use crate::parent::{Above, Deed, Order};

/// The number of steps in a round.
const STEPS: usize = 10;

/// How clients reach the service of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flavour {
    /// HTTP on a Unix socket that each generation renames into place.
    Http,
    /// FastCGI, on the same kind of socket.
    FastCgi,
    /// HTTP on a TCP port with `SO_REUSEPORT`.
    ReusePort,
    /// HTTP on a TCP socket that psflip opens and all generations inherit (`[[listen]]`).
    Inherited,
    /// HTTP through a `[[proxy]]`, to a server that closes all connections at once when it stops.
    Proxied,
}

/// The old generation is the one that is active when a step begins; the new one is any other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Old,
    New,
}

/// A process of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Psflip,
    Keeper,
    Child,
    /// The child's whole process group, as if a server signals its own.
    Group,
    /// Another descendant of psflip: a worker, an orphan, a probe; the number selects one.
    Other(u8),
}

/// A process, by generation and part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Role(pub(super) Side, pub(super) Part);

/// The file at psflip's path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Binary {
    /// A copy of psflip; two copies take turns.
    Copy,
    /// A script that executes psflip.
    Wrapper,
    /// psflip without execute permission.
    NotExecutable,
    /// A script that exits with 3.
    Script,
    /// A script that is terminated by SIGSEGV.
    Crash,
    /// No file.
    Missing,
}

/// A moment that psflip's log shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moment {
    UpgradeStarted,
    NewPsflipReads,
    ChildStarted,
    /// A generation has the traffic on trial.
    Baking,
    Superseded,
    Active,
    Failed,
}

/// The time of an action: after the action before it, and after this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct When {
    /// It is waited for, but only for a limited time.
    pub(crate) moment: Option<Moment>,
    pub(crate) after: Duration,
}

/// An action.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    /// SIGHUP.
    Request(Side),
    /// A signal without effect: psflip forwards it, and the child ignores it.
    Poke(Side, &'static str),
    /// A real-time signal, which terminates the child.
    RealTime(Side, u8),
    Kill(Role),
    Terminate(Role),
    Interrupt(Side),
    /// SIGSTOP, and SIGCONT later.
    Freeze(Role, Duration),
    RemovePidfile,
    /// Sets RLIMIT_NOFILE of the old psflip to so many more than it has open, until the end of the step.
    LimitFiles(u8),
    Swap(Binary),
    Rewrite(Next),
    /// Starts a second psflip on the same pidfile.
    Second,
    /// An action on the process above the generations.
    Above(Deed),
    /// SIGKILL to a psflip and its keeper at once: only the process above can stop what is left.
    KillPair(Side),
    /// An operator's command.
    Order(Order),
}

/// A step: a configuration and a program for the next generation, and the actions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PlannedStep {
    pub(crate) next: Next,
    pub(crate) binary: Binary,
    pub(crate) acts: Vec<(When, Act)>,
    /// Whether the next step begins without a good upgrade in between; only if the child is an idle one.
    pub(crate) goes_on: bool,
    /// If the service has stopped: a failing start with this comes before the next good start.
    pub(crate) bad_start: Option<Bad>,
}

/// How a round ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Finale {
    Terminate,
    Interrupt,
    Kill,
    /// `psflip stop`.
    Order,
}

/// One life of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) flavour: Flavour,
    pub(crate) above: Above,
    pub(crate) manner: Manner,
    /// Whether every configuration has a `[switch]`.
    pub(crate) switches: bool,
    pub(crate) steps: Vec<PlannedStep>,
    pub(crate) finale: Finale,
    /// Whether the last signal goes to the process above.
    pub(crate) ends_above: bool,
}

impl Round {
    /// The round of this seed.
    pub(crate) fn of(seed: u64) -> Self {
        let mut dice = Rng::with_seed(seed);
        let flavour = match dice.u8(..10) {
            0 | 1 => Flavour::Http,
            2..=4 => Flavour::Proxied,
            5 => Flavour::FastCgi,
            6 => Flavour::ReusePort,
            _ => Flavour::Inherited,
        };
        let manner = Manner::roll(flavour, seed, &mut dice);
        let mut steps: Vec<PlannedStep> = (0..STEPS).map(|_| PlannedStep::roll(&mut dice)).collect();
        let finale = match dice.u8(..7) {
            0..=2 => Finale::Terminate,
            3 => Finale::Interrupt,
            4 => Finale::Order,
            _ => Finale::Kill,
        };
        let above = Above::roll(&mut dice);
        above.add_to(&mut steps, &mut dice);
        manner.add_to(&mut steps, &mut dice);
        // The symlink has two targets.
        let switches = dice.bool() && manner != Manner::Drains;
        let ends_above = above != Above::Nobody && dice.u8(..3) > 0;
        Self { flavour, above, manner, switches, steps, finale, ends_above }
    }
}

impl PlannedStep {
    fn roll(dice: &mut Rng) -> Self {
        match dice.u8(..100) {
            0..=21 => Self::undisturbed(dice),
            22..=37 => Self::disturbed(dice, 1..=3, harmless),
            38..=75 => Self::disturbed(dice, 1..=3, violent),
            76..=79 => Self::left_alone(dice),
            80..=84 => Self::disturbed(dice, 1..=2, stop),
            85 | 86 => Self::caught(dice),
            87 => Self::left_alone(dice),
            88..=92 => Self::disturbed(dice, 1..=1, limit),
            _ => Self::disturbed(dice, 2..=5, anything),
        }
    }

    /// A step with requests only.
    fn undisturbed(dice: &mut Rng) -> Self {
        let binary = if dice.u8(..4) == 0 { binary(dice) } else { Binary::Copy };
        let next = if binary == Binary::Copy { Next::roll(dice) } else { Next::Good(Good::roll(dice)) };
        let mut acts = vec![(When::NOW, Act::Request(Side::Old))];
        for _ in 0..*dice.choice(&[0, 0, 0, 1, 2, 12]).unwrap_or(&0) {
            let side = if dice.u8(..4) == 0 { Side::New } else { Side::Old };
            acts.push((When::roll(dice), Act::Request(side)));
        }
        Self { next, binary, acts, goes_on: dice.u8(..3) > 0, bad_start: None }
    }

    /// A step that usually has an upgrade, with other actions meanwhile.
    fn disturbed(dice: &mut Rng, count: std::ops::RangeInclusive<u8>, act: fn(&mut Rng) -> Act) -> Self {
        let next = Next::roll(dice);
        let mut acts = Vec::new();
        if dice.u8(..8) > 0 {
            acts.push((When::NOW, Act::Request(Side::Old)));
        }
        for _ in 0..dice.u8(count) {
            let act = act(dice);
            // Without an upgrade there is no new generation.
            if act.is_about(Side::New) && !acts.is_empty() && dice.bool() {
                acts.push((When::NOW, Act::Request(Side::Old)));
            }
            // A limit must be in place before the upgrade.
            match act {
                Act::LimitFiles(_) => acts.insert(0, (When::NOW, act)),
                act => acts.push((When::roll(dice), act)),
            }
            if dice.u8(..3) == 0 {
                acts.push((When::roll(dice), Act::Request(Side::Old)));
            }
        }
        let bad_start = (dice.u8(..4) == 0).then(|| Bad::roll(dice));
        Self { next, binary: Binary::Copy, acts, goes_on: dice.u8(..3) > 0, bad_start }
    }

    /// Stops the old psflip, so that the new one waits for the acknowledgement after it has taken the
    /// pidfile; kills it there.
    fn caught(dice: &mut Rng) -> Self {
        let after = |millis| When { moment: None, after: Duration::from_millis(millis) };
        let freeze = Act::Freeze(Role(Side::Old, Part::Psflip), Duration::from_millis(dice.u64(100..400)));
        let when =
            When { moment: Some(Moment::NewPsflipReads), after: Duration::from_micros(dice.u64(..1000)) };
        let part = *dice.choice(&[Part::Psflip, Part::Keeper, Part::Child]).unwrap_or(&Part::Psflip);
        let acts = vec![
            (When::NOW, Act::Request(Side::Old)),
            (when, freeze),
            (after(dice.u64(10..100)), Act::Kill(Role(Side::New, part))),
        ];
        Self {
            next: Next::Good(Good::roll(dice)),
            binary: Binary::Copy,
            acts,
            goes_on: false,
            bad_start: None,
        }
    }

    /// Kills a part of the old generation during an upgrade.
    fn left_alone(dice: &mut Rng) -> Self {
        let moment =
            *dice.choice(&[Moment::NewPsflipReads, Moment::ChildStarted]).unwrap_or(&Moment::ChildStarted);
        let when = When { moment: Some(moment), after: Duration::from_micros(dice.u64(..6000)) };
        let part =
            *dice.choice(&[Part::Psflip, Part::Psflip, Part::Keeper, Part::Child]).unwrap_or(&Part::Psflip);
        let acts = vec![(When::NOW, Act::Request(Side::Old)), (when, Act::Kill(Role(Side::Old, part)))];
        Self {
            next: Next::Good(Good::roll(dice)),
            binary: Binary::Copy,
            acts,
            goes_on: false,
            bad_start: None,
        }
    }

    /// Whether the actions are requests only.
    pub(crate) fn is_undisturbed(&self) -> bool {
        let asks = |act: &Act| {
            matches!(act, Act::Request(_) | Act::Above(Deed::Request) | Act::Order(Order::Upgrade(_)))
        };
        self.acts.iter().all(|(_, act)| asks(act))
    }
}

impl Act {
    /// Whether the action has this side as its target.
    pub(crate) fn is_about(&self, wanted: Side) -> bool {
        match self {
            Self::Request(side) | Self::Poke(side, _) | Self::RealTime(side, _) | Self::Interrupt(side) => {
                *side == wanted
            }
            Self::Kill(Role(side, _)) | Self::Terminate(Role(side, _)) | Self::Freeze(Role(side, _), _) => {
                *side == wanted
            }
            Self::KillPair(side) => *side == wanted,
            Self::LimitFiles(_) => wanted == Side::Old,
            Self::RemovePidfile
            | Self::Swap(_)
            | Self::Rewrite(_)
            | Self::Second
            | Self::Above(_)
            | Self::Order(_) => false,
        }
    }

    /// Whether the action may stop the service.
    pub(crate) fn is_rough(&self) -> bool {
        match self {
            Self::RealTime(..)
            | Self::Interrupt(_)
            | Self::Kill(_)
            | Self::KillPair(_)
            | Self::Terminate(_)
            | Self::LimitFiles(_)
            | Self::Above(Deed::Stop | Deed::Kill | Deed::KillKeeper)
            | Self::Order(Order::Stop(_)) => true,
            Self::Request(_)
            | Self::Poke(..)
            | Self::Freeze(..)
            | Self::RemovePidfile
            | Self::Swap(_)
            | Self::Rewrite(_)
            | Self::Second
            | Self::Above(Deed::Request | Deed::Freeze(_))
            | Self::Order(Order::Upgrade(_) | Order::Keep | Order::Rollback) => false,
        }
    }

    /// Whether the action can't kill the old generation.
    pub(crate) fn spares_the_old(&self) -> bool {
        match self {
            Self::Request(_)
            | Self::Poke(..)
            | Self::Freeze(..)
            | Self::RemovePidfile
            | Self::Second
            | Self::Above(Deed::Request | Deed::Freeze(_))
            | Self::Order(Order::Upgrade(_) | Order::Keep | Order::Rollback) => true,
            Self::RealTime(..)
            | Self::Interrupt(_)
            | Self::Kill(_)
            | Self::KillPair(_)
            | Self::Terminate(_) => self.is_about(Side::New),
            Self::LimitFiles(_) | Self::Swap(_) | Self::Rewrite(_) | Self::Above(_) | Self::Order(_) => false,
        }
    }
}

fn harmless(dice: &mut Rng) -> Act {
    let side = side(dice);
    match dice.u8(..10) {
        0..=2 => Act::Freeze(role(dice), Duration::from_millis(dice.u64(1..600))),
        3..=5 => Act::Poke(side, dice.choice(&["USR1", "USR2", "WINCH", "CONT"]).copied().unwrap_or("USR1")),
        6 => Act::RemovePidfile,
        7 => Act::Second,
        8 => Act::Rewrite(Next::roll(dice)),
        _ => Act::Request(side),
    }
}

fn violent(dice: &mut Rng) -> Act {
    match dice.u8(..12) {
        0..=7 => Act::Kill(role(dice)),
        8 => Act::Terminate(role(dice)),
        9 => Act::RealTime(side(dice), dice.u8(..15)),
        _ => Act::Freeze(role(dice), Duration::from_millis(dice.u64(1..600))),
    }
}

fn stop(dice: &mut Rng) -> Act {
    let side = if dice.u8(..4) == 0 { Side::New } else { Side::Old };
    if dice.bool() { Act::Interrupt(side) } else { Act::Terminate(Role(side, Part::Psflip)) }
}

fn limit(dice: &mut Rng) -> Act {
    Act::LimitFiles(dice.u8(..7))
}

fn anything(dice: &mut Rng) -> Act {
    match dice.u8(..10) {
        0..=4 => harmless(dice),
        5..=7 => violent(dice),
        8 => stop(dice),
        _ => Act::Swap(binary(dice)),
    }
}

fn side(dice: &mut Rng) -> Side {
    if dice.bool() { Side::Old } else { Side::New }
}

fn role(dice: &mut Rng) -> Role {
    let part = match dice.u8(..8) {
        0..=2 => Part::Psflip,
        3..=4 => Part::Keeper,
        5 => Part::Child,
        6 => Part::Group,
        _ => Part::Other(dice.u8(..)),
    };
    Role(side(dice), part)
}

fn binary(dice: &mut Rng) -> Binary {
    match dice.u8(..7) {
        0 => Binary::Copy,
        1 | 2 => Binary::Wrapper,
        3 => Binary::NotExecutable,
        4 => Binary::Script,
        5 => Binary::Crash,
        _ => Binary::Missing,
    }
}

impl When {
    pub(crate) const NOW: Self = Self { moment: None, after: Duration::ZERO };

    pub(crate) fn roll(dice: &mut Rng) -> Self {
        const MOMENTS: [Moment; 6] = [
            Moment::UpgradeStarted,
            Moment::NewPsflipReads,
            Moment::ChildStarted,
            Moment::Superseded,
            Moment::Active,
            Moment::Failed,
        ];
        let moment = if dice.bool() { dice.choice(&MOMENTS).copied() } else { None };
        // An upgrade takes about 10 ms, and a drain 50 ms.
        let after = match dice.u8(..6) {
            0 => Duration::ZERO,
            1 | 2 => Duration::from_micros(dice.u64(..2500)),
            3 => Duration::from_micros(dice.u64(..8000)),
            4 => Duration::from_millis(dice.u64(..20)),
            _ => Duration::from_millis(dice.u64(..90)),
        };
        Self { moment, after }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = if self.0 == Side::Old { "old" } else { "new" };
        match self.1 {
            Part::Psflip => write!(f, "{side} psflip"),
            Part::Keeper => write!(f, "{side} keeper"),
            Part::Child => write!(f, "{side} child"),
            Part::Group => write!(f, "{side} child's group"),
            Part::Other(_) => write!(f, "{side} descendant"),
        }
    }
}

impl fmt::Display for When {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(moment) = self.moment {
            write!(f, "at {moment:?} ")?;
        }
        if self.after.is_zero() { Ok(()) } else { write!(f, "+{:?} ", self.after) }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let psflip = |side| Role(side, Part::Psflip);
        match self {
            Self::Request(side) => write!(f, "SIGHUP to the {}", psflip(*side)),
            Self::Poke(side, signal) => write!(f, "SIG{signal} to the {}", psflip(*side)),
            Self::RealTime(side, number) => write!(f, "SIGRTMIN+{number} to the {}", psflip(*side)),
            Self::Kill(role) => write!(f, "SIGKILL to the {role}"),
            Self::Terminate(role) => write!(f, "SIGTERM to the {role}"),
            Self::Interrupt(side) => write!(f, "SIGINT to the {}", psflip(*side)),
            Self::Freeze(role, time) => write!(f, "stop the {role} for {time:?}"),
            Self::RemovePidfile => write!(f, "remove the pidfile"),
            Self::LimitFiles(room) => {
                write!(f, "RLIMIT_NOFILE of the old psflip leaves room for {room} descriptors")
            }
            Self::Swap(binary) => write!(f, "psflip's file becomes {binary:?}"),
            Self::Rewrite(next) => write!(f, "the configuration becomes {next}"),
            Self::Second => write!(f, "a second psflip on the same pidfile"),
            Self::Above(deed) => write!(f, "{deed}"),
            Self::KillPair(side) => write!(f, "SIGKILL to the {} and its keeper at once", psflip(*side)),
            Self::Order(order) => write!(f, "{order}"),
        }
    }
}

impl fmt::Display for PlannedStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.next)?;
        if self.binary != Binary::Copy {
            write!(f, ", psflip's file is {:?}", self.binary)?;
        }
        self.acts.iter().try_for_each(|(when, act)| write!(f, "; {when}{act}"))?;
        if self.goes_on && matches!(self.next, Next::Idle(_)) {
            write!(f, "; goes on")?;
        }
        self.bad_start.map_or(Ok(()), |bad| write!(f, "; if all exit, a start with {}", Next::Bad(bad)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_seed_gives_one_sequence_and_another_seed_another() {
        assert_eq!(Round::of(7), Round::of(7));
        assert_ne!(Round::of(7), Round::of(8));
    }

    #[test]
    fn every_action_happens_eventually() {
        let text: Vec<String> =
            (0..200).flat_map(|seed| Round::of(seed).steps).map(|step| step.to_string()).collect();
        let text = text.join("\n");
        let wanted = [
            "SIGHUP to the old",
            "SIGHUP to the new",
            "SIGUSR1",
            "SIGUSR2",
            "SIGWINCH",
            "SIGCONT",
            "SIGRTMIN",
            "SIGINT",
            "SIGKILL to the old psflip",
            "SIGKILL to the new psflip",
            "SIGKILL to the old keeper",
            "SIGKILL to the new keeper",
            "SIGKILL to the old child",
            "SIGKILL to the new child",
            "SIGKILL to the new descendant",
            "SIGTERM to the new child",
            "stop the old psflip",
            "stop the new keeper",
            "remove the pidfile",
            "RLIMIT_NOFILE",
            "becomes Missing",
            "second psflip",
            "file is NotExecutable",
            "file is Wrapper",
            "file is Crash",
            "file is Script",
            "half-written",
            "the configuration becomes",
            "SIGHUP to the parent",
            "SIGTERM to the parent",
            "SIGKILL to the parent",
            "SIGKILL to the keeper above",
            "stop the parent",
            "SIGKILL to the old psflip and its keeper",
            "`psflip upgrade`",
            "`psflip upgrade`, killed",
            "`psflip stop`",
            "bad configuration HookFails",
            "bad configuration HookHangs",
            "bad configuration SickInBake",
            "`psflip rollback`",
            "`psflip keep`",
            "at Baking",
        ];
        for part in wanted {
            assert!(text.contains(part), "`{part}` is never done");
        }
    }
}
