//! Whom psflip tells who is active.

pub mod last_exit;
mod lock;
pub mod pidfile;
pub mod systemd;
