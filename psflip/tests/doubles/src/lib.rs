//! Test doubles of psflip: programs of their own that are built from its library, each different from the real one in one way.
//! No production binary contains any of this. Tests find them with `testkit::double`.
//!
//! - `psflip-staged`: every system call can be made to fail, every step can be stopped ([`staged`]).

pub mod staged;
