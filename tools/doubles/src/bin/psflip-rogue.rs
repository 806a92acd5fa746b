//! See `tools/doubles/src/rogue.rs`.
#![no_main]

psflip::entry!(psflip_doubles::rogue::main);
