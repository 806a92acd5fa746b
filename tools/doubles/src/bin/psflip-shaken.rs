//! psflip with short delays at random places. See `tools/doubles/src/shaken.rs`.
#![no_main]

psflip::entry!(psflip_doubles::shaken::main);
