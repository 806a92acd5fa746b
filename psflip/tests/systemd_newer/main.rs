//! The tests of `tests/systemd` again, under a newer systemd than the installed one, and tests of features
//! that only the newer one has. `cargo xtask systemd` downloads it. Without it the tests say `SKIPPED`, or
//! fail with `TESTKIT_REQUIRE=newer-systemd`, as CI sets it once it has it.

#[path = "../systemd/anchors.rs"]
mod anchors;
#[path = "../systemd/baking.rs"]
mod baking;
#[path = "../systemd/examples.rs"]
mod examples;
#[path = "../systemd/killed.rs"]
mod killed;
mod notify_reload;
#[path = "../systemd/notify_units.rs"]
mod notify_units;
#[path = "../systemd/pidfile_units.rs"]
mod pidfile_units;
#[path = "../e2e/traffic/ports.rs"]
mod ports;
#[path = "../systemd/quick_start.rs"]
mod quick_start;
#[path = "../systemd/reload.rs"]
mod reload;
#[path = "../systemd/rig.rs"]
mod rig;
#[path = "../systemd/servers.rs"]
mod servers;
#[path = "../systemd/sockets.rs"]
mod sockets;
#[path = "../systemd/user.rs"]
mod user;

/// As in `tests/systemd`.
pub(crate) const RELEASE: testkit::systemd::Release = testkit::systemd::Release::Newer;
