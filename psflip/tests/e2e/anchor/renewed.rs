//! The anchor executes a new program in place (A5).
