//! The program. Everything is in the library, so that the documentation can be generated from it.

use std::process::ExitCode;

fn main() -> ExitCode {
    psflip_rehearse::main()
}
