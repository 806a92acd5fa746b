//! What a generation decides, and nothing else: no clock, no descriptor, no process.
//!
//! [`decide()`] takes the [`State`] of one generation and an [`Event`], changes the state, and returns the [`Effect`]s that the
//! runtime has to perform, in this order. All that can happen is in `snapshots/*table.snap`: every state that can be reached,
//! with every event.
//!
//! ```text
//!                      healthy            hook run, traffic switched, pidfile taken (first generation)
//!  begin ──> Starting ─────────> Promoting ──────────────────────────────────> Serving <──────────────┐
//!               │                   │    likewise, then predecessor told,        │ │   upgrade failed │
//!               │                   │    acknowledged (successor)                │ │                  │
//!               │ failed, stopped   │ failed, stopped            child ended     │ └──> Upgrading ─────┘
//!               │                   │                                            │         │ successor ready,
//!               └────────────────> Draining <────────────────────────────────────┴─────────┘ acknowledged
//!                                     │ nothing left of the child's tree
//!                                     ├──> Ended <───────────────┐
//!                                     └──> AwaitingPredecessor ──┘ that has ended, too
//!                                          (after a stop, while it drains)
//! ```
//!
//! The point of no return is one step: the predecessor's acknowledgement ([`Effect::Acknowledge`]). It succeeds only if the
//! successor still listens ([`Event::Committed`]); a successor that gives up stops listening first ([`Effect::Withdraw`]),
//! and learns by that whether it was too late. So both sides always agree on who is promoted.

mod decide;
mod drain;
mod effect;
mod event;
pub mod job_control;
mod questions;
pub mod signals;
mod state;

pub use decide::{begin, decide};
pub use effect::{Effect, Hook, News};
pub use event::{ChildSignal, Event};
pub use questions::NotNow;
pub use state::{
    Child, Elder, Failure, Outcome, Phase, Predecessor, Promotion, Role, StartFailure, State, Step,
    Successor, Timer,
};

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
