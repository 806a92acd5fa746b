//! See `tools/doubles/src/other.rs`.
#![no_main]

psflip::entry!(psflip_doubles::other::main);
