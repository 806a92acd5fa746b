//! psflip whose system calls a test can make fail, and which a test can stop at any step. See
//! `tools/doubles/src/staged/`.
#![no_main]

psflip::entry!(psflip_doubles::staged::main);
