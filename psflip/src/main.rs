//! The `psflip` binary. What happens before `main` is told in `sys/early.rs`.

use std::process::ExitCode;

fn main() -> ExitCode {
    psflip::cli::main()
}
