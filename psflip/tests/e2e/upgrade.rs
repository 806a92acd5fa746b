//! Upgrades (U1 to U10).
