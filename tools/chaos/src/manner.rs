//! How one generation follows another in a round: beside it, from a bake (`upgrade.bake`), without overlap
//! (`overlap = false`), or while earlier ones still drain (`upgrade.draining`). Pure, as plan.rs is.

use fastrand::Rng;

use crate::next_config::{Bad, Next};
use crate::parent::Order;
use crate::plan::{Act, Flavour, Moment, PlannedStep, When};

/// How generations change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// The old child runs until the new generation is promoted.
    Overlaps,
    /// A new generation has the traffic on trial, and may be rolled back.
    Bakes,
    /// No upgrade waits for old generations that drain. So many may drain that none is killed to make room.
    Drains,
    /// The old child stops before the new one starts, and is started again if that one fails. Each child holds
    /// a lock; a second child at the same time leaves the file [`TWICE`].
    Alone,
}

/// The file that tells of two children at the same time.
pub(crate) const TWICE: &str = "twice";

/// Runs the rest of the command line while it holds the lock, which its descendants inherit.
pub(crate) const ONCE: &str =
    "exec 9>once.lock; flock -n 9 || { echo \"$PSFLIP_GENERATION $*\" >> twice; exit 99; }; exec \"$@\"";

impl Manner {
    /// Clients of other flavours have no psflip that holds or moves them.
    pub(crate) fn roll(flavour: Flavour, seed: u64, dice: &mut Rng) -> Self {
        match (flavour, dice.u8(..3)) {
            (Flavour::Proxied | Flavour::Inherited, 1) => Self::Bakes,
            (Flavour::Proxied | Flavour::Inherited, 2) => Self::Alone,
            // By the seed itself, so that the steps of the other rounds stay what they were.
            _ if seed % 3 == 2 => Self::Drains,
            _ => Self::Overlaps,
        }
    }

    /// How many generations may be there at the same time (contracts U7 and D3).
    pub(crate) fn most_generations(self) -> usize {
        match self {
            Self::Overlaps | Self::Bakes | Self::Alone => 2,
            Self::Drains => 8,
        }
    }

    /// Adds to some steps what happens only in this manner.
    pub(crate) fn add_to(self, steps: &mut [PlannedStep], dice: &mut Rng) {
        if self != Self::Bakes {
            return;
        }
        for step in steps {
            // The new psflip inherits the limit, and then can't run a health check by a command.
            if step.acts.iter().any(|(_, act)| matches!(act, Act::LimitFiles(_))) {
                continue;
            }
            if dice.u8(..5) == 0 {
                step.next = Next::Bad(Bad::SickInBake);
            }
            for (when, _) in &mut step.acts {
                if when.moment.is_some() && dice.bool() {
                    when.moment = Some(Moment::Baking);
                }
            }
            let order = match dice.u8(..4) {
                0 => Order::Rollback,
                1 => Order::Keep,
                _ => continue,
            };
            let when = When { moment: Some(Moment::Baking), ..When::roll(dice) };
            // After the first request, if there is one.
            let at = dice.usize(..=step.acts.len()).max(1).min(step.acts.len());
            step.acts.insert(at, (when, Act::Order(order)));
        }
    }
}
