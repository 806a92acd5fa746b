//! The seam ([`psflip::testing::sys::seam`]) of `psflip-staged`, which follows a test's plan.
//!
//! `PSFLIP_STAGED` names a folder of the test, with
//! - `plan`: the faults and pauses, see `plan.rs`. It is read before every call, so a test can change it at
//!   any time.
//! - `trace`: every call and step (with its process) so far if the plan says `record`, and every injected
//!   fault.
//! - `stage`: a Unix socket. A process that pauses reports its step there, and waits until the test closes
//!   the connection.
//!
//! Without the variable it behaves as psflip.

mod plan;
mod role;

use std::fmt;
use std::fs::OpenOptions;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::OnceLock;

use nix::errno::Errno;
use psflip::testing::sys::seam::{self, Call, Moment, Os};

use plan::Plan;
use role::Roles;

/// Environment variable with the folder's path.
pub const VARIABLE: &str = "PSFLIP_STAGED";

struct Stage {
    folder: PathBuf,
    roles: Roles,
}

static STAGE: OnceLock<Stage> = OnceLock::new();

/// psflip's main function, with the seam installed.
#[must_use]
pub fn main() -> u8 {
    if let Some(folder) = std::env::var_os(VARIABLE) {
        let stage = Stage { folder: PathBuf::from(folder), roles: Roles::of_this_process() };
        seam::install(STAGE.get_or_init(|| stage));
        seam::step(Moment::Begins, format_args!("psflip"));
    }
    psflip::main()
}

impl Os for Stage {
    fn before(&self, call: Call) -> Result<(), Errno> {
        let Some(plan) = Plan::read(&self.folder) else { return Ok(()) };
        let role = self.roles.now(plan.old);
        let nth = self.roles.count(plan.id, call);
        if plan.records {
            self.note(&format!("call {role} {call:?} {nth}"));
        }
        match plan.fault(role, call, nth) {
            Some(errno) => {
                self.note(&format!("fault {role} {call:?} {nth} {}", errno as i32));
                Err(errno)
            }
            None => Ok(()),
        }
    }

    fn step(&self, moment: Moment, what: fmt::Arguments<'_>) {
        let what = what.to_string();
        if moment == Moment::Begins {
            self.roles.begin(&what);
        }
        // A step has a `Debug` text such as `Acknowledge { upgrade_queued: false }`; its name is the first
        // word.
        let name = what.split([' ', '{']).next().unwrap_or_default();
        let Some(plan) = Plan::read(&self.folder) else { return };
        let role = self.roles.now(plan.old);
        if plan.records {
            self.note(&format!("step {} {role} {moment:?} {name}", std::process::id()));
        }
        if plan.pauses(role, moment, name) {
            self.pause(&format!("{} {role} {moment:?} {name}\n", std::process::id()));
        }
    }
}

impl Stage {
    /// Appends a line to the trace, in one write, so that lines of several processes don't mix.
    fn note(&self, line: &str) {
        let file = OpenOptions::new().append(true).create(true).open(self.folder.join("trace"));
        // The folder is gone if the test is over.
        let _ = file.and_then(|mut file| file.write_all(format!("{line}\n").as_bytes()));
    }

    /// Reports the step to the test, and waits until the test closes the connection or is over.
    fn pause(&self, line: &str) {
        let Ok(mut test) = UnixStream::connect(self.folder.join("stage")) else { return };
        if test.write_all(line.as_bytes()).is_ok() {
            let _ = test.read(&mut [0]);
        }
    }
}
