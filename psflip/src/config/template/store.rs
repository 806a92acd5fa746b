//! The data that the functions of templates use.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use super::ports::Ports;
use crate::config::generation::{Generation, Slot};

/// A `[locals]` value.
#[derive(Clone, Debug)]
pub(super) enum Local {
    Rendered(String),
    /// It is defined later in the file.
    Later,
    /// Its own error is already reported.
    Broken,
}

/// The data that the functions use.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) number: u64,
    slot: Slot,
    pub(super) started: SystemTime,
    changing: Mutex<Changing>,
}

/// The part that changes between two renderings.
#[derive(Debug, Default)]
pub(super) struct Changing {
    pub(super) locals: BTreeMap<String, Local>,
    pub(super) variables: BTreeMap<String, Option<OsString>>,
    /// The ports of `free_port()`.
    pub(super) ports: Ports,
    /// A function depended on the slot.
    pub(super) uses_slot: bool,
    /// A variable that a function did not find in `variables`.
    pub(super) wanted: Option<String>,
}

impl Store {
    /// What templates see of this generation.
    pub(super) fn of(generation: &Generation<'_>, ports: Ports) -> Self {
        Self {
            number: generation.number,
            slot: generation.slot,
            started: generation.started,
            changing: Mutex::new(Changing { ports, ..Changing::default() }),
        }
    }

    /// The slot, for a function that depends on it.
    pub(super) fn use_slot(&self) -> Slot {
        self.changing().uses_slot = true;
        self.slot
    }

    pub(super) fn changing(&self) -> MutexGuard<'_, Changing> {
        // A panic elsewhere can't leave these maps half changed.
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
