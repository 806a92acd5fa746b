//! Whom psflip tells who is active.

pub mod pidfile;
