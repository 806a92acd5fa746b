//! Processes: how a program is started, the keeper that owns a child's process tree, what psflip itself was started as, and job
//! control.

pub mod command;
pub mod environment;
pub mod invocation;
pub mod job_control;
pub mod keeper;
pub mod launch;
pub(crate) mod reaper;
