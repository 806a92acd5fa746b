//! What is rehearsed: a service under psflip, or ([`during`]) under any other tool.

pub(crate) mod control;
pub(crate) mod during;
pub(crate) mod log;
pub(crate) mod processes;
pub(crate) mod psflip;
pub(crate) mod reaper;
pub(crate) mod versions;
