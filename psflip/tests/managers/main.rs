//! psflip under real supervisors that expect a PID that never changes: runit, s6, daemontools, Supervisor and
//! Docker, each from its Debian package, with the run scripts of `examples/managers`. The table in
//! `docs/managers.md` lists the results.

mod containers;
mod deploying;
mod docker;
mod page;
mod rig;
mod supervisors;
