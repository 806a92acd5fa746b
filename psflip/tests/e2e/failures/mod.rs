//! Processes die and calls fail during an upgrade, and what holds then (contract F). In every test, clients
//! send requests without pause.

pub(crate) mod each_call;
pub(crate) mod faults;
mod injected;
mod killed;
mod limits;
mod matrix;
mod resources;
mod rig;
pub(crate) mod stage;
mod start;
mod suspended;
mod versions;
