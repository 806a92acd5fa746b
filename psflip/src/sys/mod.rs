//! The operating system, as safe functions. This is the only place with `unsafe`: one wrapper per system
//! call, each with the contract that makes it sound. It contains no decisions.
#![expect(unsafe_code, reason = "this is the one place for it; every block says why it is sound")]

pub mod children;
pub mod datagram;
pub mod early;
mod entry;
pub mod errors;
pub mod fd;
pub mod kernel;
pub mod memory;
pub mod open_files;
pub mod pidfd;
pub mod process;
pub mod random;
pub mod seam;
pub mod signal;
pub mod socket;
pub mod tree;
pub mod tty;
pub mod unix_path;
pub mod wait;

use std::io;

/// The convention of libc: -1 means that `errno` has the error.
fn cerr(result: libc::c_int) -> io::Result<libc::c_int> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
