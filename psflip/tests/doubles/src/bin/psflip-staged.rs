//! psflip on a stage: a test may let its system calls fail and stop it at any step. See `psflip/tests/doubles/src/staged/`.
#![no_main]

psflip::entry!(psflip_doubles::staged::main);
