//! Processes: how a program is started, the keeper that owns a child's process tree, how psflip
//! itself was started, and job control.

pub mod command;
pub mod environment;
pub mod invocation;
pub mod job_control;
pub mod keeper;
pub mod launch;
pub mod memory;
pub(crate) mod reaper;
