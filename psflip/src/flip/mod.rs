//! All decisions of a generation, as a pure state machine: no clock, no descriptor, no process.
//!
//! [`decide()`] takes the [`State`] of one generation and an [`Event`], changes the state, and returns the
//! [`Effect`]s that the runtime has to perform, in this order. `snapshots/*table.snap` lists everything that
//! can happen: every reachable state, with every event.
//!
//! ```text
//!             healthy       settled      hook run, traffic switched, pidfile taken (first generation)
//!  begin ──> Starting <──> Settling ──> Promoting ────────────────────> Serving <────────────────┐
//!               │ unhealthy   │             │  the same, then ready         │ │   upgrade failed │
//!               │             │             │  reported and acknowledged    │ │                  │
//!               │             │             │  (successor)                  │ └──> Upgrading ────┘
//!               │ failed,     │ failed,     │ failed,          child exited │         │ successor ready,
//!               │ stopped     │ stopped     │ stopped                       │         │ acknowledged
//!               └─────────────┴─────────> Draining <────────────────────────┴─────────┘
//!                                           │ nothing left of the child's process tree
//!                                           ├──> Exiting <─────────────┐
//!                                           └──> AwaitingPredecessor ──┘ old generations exited, too
//!                                                (after a stop, while they drain)
//! ```
//!
//! A successor whose child must not run beside the predecessor's (`upgrade.overlap = false`) begins earlier,
//! and the predecessor's child goes first:
//!
//! ```text
//!  successor:    begin ──> Preparing ──────────────────────────────> Starting ──> ...
//!                             │ prepared              turn granted ▲
//!                             ▼                                    │
//!  predecessor: Upgrading ──> GivingWay ──────────────> Upgrading ─┘──> Draining
//!                                 │ successor failed        │ successor failed
//!                                 └─────────> Restarting <──┘
//!                                                 │ healthy
//!                                                 └──> Serving
//! ```
//!
//! The point of no return is a single step: the predecessor's acknowledgement ([`Effect::Acknowledge`]). It
//! succeeds only if the successor still reads ([`Event::Committed`]). A successor that gives up stops reading
//! first ([`Effect::Withdraw`]), and so finds out whether it was too late. So both sides always agree on
//! which generation is promoted.

#![deny(clippy::wildcard_enum_match_arm)]

mod bake;
mod decide;
mod drain;
mod effect;
mod event;
mod give_way;
pub mod job_control;
mod old_generations;
mod prepare;
mod promote;
mod queries;
mod settling;
pub mod signals;
mod state;
mod upgrade;

pub use decide::{begin, decide};
pub use effect::{Effect, Hook, Notice, RelayOrder};
pub use event::{ChildSignal, Event};
pub use queries::UpgradeBlocked;
#[cfg(test)]
use state::{Bake, Child, GiveWay, Phase, Predecessor, Preparation, Promotion, Restart, Stopping};
pub use state::{DrainStep, Failure, OldGenerations, Outcome, Role, StartFailure, State, Successor, Timer};

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
