//! Slows `psflip-shaken` down at random: it may wait briefly before any system call and at any step, as if
//! the scheduler had given its core to another process.
//!
//! A race that needs a delay at one place, and so shows once in ten thousand runs, shows about once in a
//! hundred here. The seed comes from the clock and the pid, so no two runs are alike: a finding must be
//! understood from the failed test's report, and then gets a deterministic test. `cargo xtask e2e --shaken`
//! runs the suites with it.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use psflip::testing::sys::seam::{self, Call, Moment, Os};

/// How many of 1,024 calls wait, and the longest wait.
const WAITS: [(u64, Duration); 2] = [(8, Duration::from_millis(30)), (96, Duration::from_millis(2))];

struct Shaken;

static STATE: AtomicU64 = AtomicU64::new(0);

/// psflip's main function, with random delays.
#[must_use]
pub fn main() -> u8 {
    seam::install(&Shaken);
    psflip::main()
}

impl Os for Shaken {
    fn before(&self, _: Call) -> Result<(), Errno> {
        wait();
        Ok(())
    }

    fn step(&self, _: Moment, _: fmt::Arguments<'_>) {
        wait();
    }
}

fn wait() {
    let drawn = draw();
    let (dice, share) = (drawn % 1024, drawn >> 32);
    let mut below = 0;
    for (chance, longest) in WAITS {
        below += chance;
        if dice < below {
            let until = Instant::now() + longest.mul_f64(share as f64 / f64::from(u32::MAX));
            // Yield instead of sleeping: tests take a sleeping psflip for an idle one.
            while Instant::now() < until {
                std::thread::yield_now();
            }
            return;
        }
    }
}

/// splitmix64. A fork has a copy of the state, so each number also depends on the pid and the clock.
fn draw() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos() as u64;
    let step = 0x9e37_79b9_7f4a_7c15;
    let mut z = STATE.fetch_add(step, Ordering::Relaxed) ^ now ^ (u64::from(std::process::id()) << 40);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
