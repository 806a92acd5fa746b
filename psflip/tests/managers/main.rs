//! psflip under real process managers that want one steady process: runit, s6, daemontools, Supervisor and Docker, each from its Debian
//! package, with the run scripts of `examples/managers`. What is seen here is the table in `docs/managers.md`.

mod docker;
mod page;
mod rig;
mod supervisors;
