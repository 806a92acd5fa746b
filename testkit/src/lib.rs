//! Test harness for psflip and for programs that run under it.
//!
//! A [`Sandbox`] is one test's folder, environment and set of processes. It starts a real psflip
//! ([`Sandbox::psflip`]) or any program ([`Sandbox::command`]). A [`Psflip`] follows a service across its
//! upgrades. Dropping the sandbox stops all processes and removes the folder.
//!
//! Every wait is for an event and has a deadline. When it expires, the panic message contains output,
//! processes and files of the sandbox.

mod binaries;
mod builder;
pub mod client;
mod family;
mod fds;
mod guard;
mod latency;
mod launch;
pub mod managers;
mod marks;
mod need;
pub mod notify;
mod output;
mod pidfd;
pub mod pidfile;
pub mod probe;
pub mod process;
mod psflip;
mod report;
mod running;
mod sandbox;
pub mod systemd;
mod text;
mod wait;

pub use nix::sys::signal::Signal;

pub use crate::binaries::{double, fixture, fixture_cmd, psflip_bin};
pub use crate::builder::{Anchor, PsflipBuilder};
pub use crate::family::child_of;
pub use crate::fds::FdSnapshot;
pub use crate::latency::Latencies;
pub use crate::launch::{Launch, Session, Stdin};
pub use crate::marks::FlipMark;
pub use crate::need::{PROGRAMS, REQUIRE, SKIPPED, need, need_root, skip};
pub use crate::notify::NotifyManager;
pub use crate::output::{Line, Output, Stream};
pub use crate::pidfile::PidfileHistory;
pub use crate::probe::AvailabilityProbe;
pub use crate::process::Process;
pub use crate::psflip::{FailedFlip, Flip, Psflip};
pub use crate::running::{Running, queue_signal};
pub use crate::sandbox::{MARKER, Sandbox};
pub use crate::text::cmd_line;
pub use crate::wait::{Deadline, wait_until};

/// Compiles the README's examples.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
