//! How psflip announces which generation is active: the pidfile, systemd's protocol, and
//! a record of the last exit.

pub mod last_exit;
mod lock;
pub mod pidfile;
pub mod systemd;
