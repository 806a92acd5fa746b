//! Whom psflip tells who is active.

pub mod pidfile;
pub mod systemd;
