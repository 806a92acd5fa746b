//! Signals (S1, S4, S6, S7).
