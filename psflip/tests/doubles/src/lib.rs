//! Test doubles of psflip: programs of their own that are built from its library, each different from the real one in one way.
//! No production binary contains any of this. Tests find them with `testkit::double`.
//!
//! - `psflip-staged`: every system call can be made to fail, every step can be stopped ([`staged`]).
//! - `psflip-other`: a version that is older or newer, as far as the other side can tell ([`other`]); `psflip-relay` belongs to it.
//! - `psflip-rogue`: says anything that a plan says, in any order ([`rogue`]).
//! - `psflip-shaken`: waits a little at random places ([`shaken`]).

pub mod other;
pub mod plan;
pub mod rogue;
pub mod shaken;
pub mod staged;
