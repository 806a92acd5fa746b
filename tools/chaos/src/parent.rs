//! The process above the generations of a round (anchor or `psflip watch`), what chaos does to it, and
//! operators' commands. Pure, as plan.rs is.

use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use fastrand::Rng;

use crate::plan::{Act, PlannedStep, Side, When};

/// The process that was started, and that stays while generations change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Above {
    /// None: the first psflip exits with its generation (`--no-anchor`).
    Nobody,
    /// The anchor, which is the default.
    Anchor,
    /// `psflip watch`.
    Watch,
}

/// An action on the process above, or on its keeper (`psflip watch` has one).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deed {
    /// SIGHUP, as a service manager sends it.
    Request,
    /// SIGTERM, as a service manager sends it.
    Stop,
    Kill,
    KillKeeper,
    /// SIGSTOP, and SIGCONT later.
    Freeze(Duration),
}

/// An operator's command; with a time, it is killed after that time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// `psflip upgrade`.
    Upgrade(Option<Duration>),
    /// `psflip stop`.
    Stop(Option<Duration>),
    /// `psflip keep`.
    Keep,
    /// `psflip rollback`.
    Rollback,
}

impl Above {
    pub(crate) fn roll(dice: &mut Rng) -> Self {
        match dice.u8(..10) {
            0..=4 => Self::Nobody,
            5..=7 => Self::Anchor,
            _ => Self::Watch,
        }
    }

    /// Adds actions on the process above, and operators' commands, to some steps.
    pub(crate) fn add_to(self, steps: &mut [PlannedStep], dice: &mut Rng) {
        for step in steps {
            let is_gentle = step.acts.iter().all(|(_, act)| !act.is_rough());
            for act in [self.deed(dice, is_gentle), order(dice, is_gentle)].into_iter().flatten() {
                let at = dice.usize(..=step.acts.len());
                // A limit must be in place before the upgrade.
                let at =
                    if matches!(step.acts.first(), Some((_, Act::LimitFiles(_)))) { at.max(1) } else { at };
                step.acts.insert(at, (When::roll(dice), act));
            }
        }
    }

    /// An action in one step of three. Actions that stop the service go mostly to steps in which it may stop
    /// anyway.
    fn deed(self, dice: &mut Rng, is_gentle: bool) -> Option<Act> {
        let (is_meant, ends) = (dice.u8(..3) == 0, !is_gentle || dice.u8(..4) == 0);
        let time = millis(dice, 1..=600);
        let deed = match dice.u8(..12) {
            0..=3 => Deed::Request,
            4 | 5 => Deed::Freeze(time),
            6 | 7 if ends => Deed::Kill,
            8 if ends && self == Self::Watch => Deed::KillKeeper,
            8 | 9 if ends => Deed::Stop,
            10 | 11 if ends => {
                let side = if dice.u8(..3) == 0 { Side::New } else { Side::Old };
                return (is_meant && self != Self::Nobody).then_some(Act::KillPair(side));
            }
            _ => Deed::Request,
        };
        (is_meant && self != Self::Nobody).then_some(Act::Above(deed))
    }
}

/// A command in one step of three. A stop is used only in steps in which the service may stop anyway.
fn order(dice: &mut Rng, is_gentle: bool) -> Option<Act> {
    let is_meant = dice.u8(..3) == 0;
    let killed = (dice.u8(..3) == 0).then(|| Duration::from_micros(dice.u64(..40_000)));
    let stops = dice.u8(..6) == 0 && !is_gentle;
    let order = if stops { Order::Stop(killed) } else { Order::Upgrade(killed) };
    is_meant.then_some(Act::Order(order))
}

fn millis(dice: &mut Rng, range: RangeInclusive<u64>) -> Duration {
    Duration::from_millis(dice.u64(range))
}

impl fmt::Display for Deed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => write!(f, "SIGHUP to the parent"),
            Self::Stop => write!(f, "SIGTERM to the parent"),
            Self::Kill => write!(f, "SIGKILL to the parent"),
            Self::KillKeeper => write!(f, "SIGKILL to the keeper above"),
            Self::Freeze(time) => write!(f, "stop the parent for {time:?}"),
        }
    }
}

impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, killed) = match self {
            Self::Upgrade(killed) => ("upgrade", *killed),
            Self::Stop(killed) => ("stop", *killed),
            Self::Keep => ("keep", None),
            Self::Rollback => ("rollback", None),
        };
        write!(f, "`psflip {name}`")?;
        killed.map_or(Ok(()), |after| write!(f, ", killed after {after:?}"))
    }
}
