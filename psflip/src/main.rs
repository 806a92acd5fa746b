//! The `psflip` binary. `sys/early.rs` and `sys/entry.rs` explain what runs before `main`, and why psflip has
//! no `main` of Rust's own.
#![no_main]

psflip::entry!(psflip::main);
