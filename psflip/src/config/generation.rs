//! What distinguishes one generation from another: its number, its slot, its start, its environment.

use std::ffi::OsString;
use std::time::SystemTime;

/// What templates can see of their generation.
pub struct Generation<'a> {
    /// 1 for the first generation.
    pub number: u64,
    /// The slot that it uses.
    pub slot: Slot,
    /// When it started: the value of `now()` in every template.
    pub started: SystemTime,
    /// psflip's environment at its start; values need not be UTF-8 (environ(7)).
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
}

impl std::fmt::Debug for Generation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .field("slot", &self.slot)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

/// The slot of a generation: `a` in the first one, then alternating with every promotion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Slot {
    /// The first generation's slot.
    A,
    /// The second generation's slot.
    B,
}

impl Slot {
    /// `a` or `b`, as in `PSFLIP_SLOT`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::A => "a",
            Self::B => "b",
        }
    }

    /// The slot of the next generation.
    #[must_use]
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }
}
