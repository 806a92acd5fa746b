//! Whom psflip tells who is active.

mod lock;
pub mod pidfile;
pub mod systemd;
