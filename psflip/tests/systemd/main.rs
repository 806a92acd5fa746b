//! psflip under a real systemd, which every test boots for itself (`testkit::systemd`). Needs root and
//! Debian's systemd; elsewhere the tests say `SKIPPED`, or fail with `TESTKIT_REQUIRE=systemd`, as CI sets
//! it.
//!
//! Every process has two pids: one inside the machine, which systemd, pidfile, log and journal use, and one
//! outside.

mod anchors;
mod baking;
mod draining;
mod examples;
mod killed;
mod notify_units;
mod pidfile_units;
#[path = "../e2e/traffic/ports.rs"]
mod ports;
mod quick_start;
mod reload;
mod rig;
mod servers;
mod sockets;
mod user;

/// The systemd that the machines of these tests run. `tests/systemd_newer` uses another one.
pub(crate) const RELEASE: testkit::systemd::Release = testkit::systemd::Release::Installed;
