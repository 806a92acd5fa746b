//! Test doubles of psflip: programs built from its library, each different from the real one in one way. No
//! production binary contains this code. Tests find them with `testkit::double`.
//!
//! - `psflip-staged`: a test can make every system call fail, and stop it at every step ([`staged`]).
//! - `psflip-other`: an older or newer version, as far as the other side can see ([`other`]); `psflip-relay`
//!   belongs to it.
//! - `psflip-rogue`: sends whatever messages a plan contains, in any order ([`rogue`]).
//! - `psflip-shaken`: has short delays at random places ([`shaken`]).

pub mod other;
pub mod plan;
pub mod rogue;
pub mod shaken;
pub mod staged;
