//! The `psflip` binary. What happens before `main`, and why it has none of Rust's own, is told in `sys/early.rs` and
//! `sys/entry.rs`.
#![no_main]

psflip::entry!(psflip::cli::main);
