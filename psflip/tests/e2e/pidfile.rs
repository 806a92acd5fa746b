//! The pidfile (P1 to P4).
