//! The process whose events are logged.

use std::fmt::{self, Display};

/// The process whose events these are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Source {
    /// `psflip`, `relay` or `watch`.
    pub(super) name: &'static str,
    /// `psflip watch` has none.
    pub(super) generation: Option<u64>,
    pub(super) pid: u32,
}

impl Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, generation, pid } = self;
        match generation {
            Some(generation) => write!(f, "{name}{{generation={generation} pid={pid}}}"),
            None => write!(f, "{name}{{pid={pid}}}"),
        }
    }
}
