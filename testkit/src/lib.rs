//! Harness for tests of psflip and of programs that run under it.
