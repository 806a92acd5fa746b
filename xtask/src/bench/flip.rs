//! Measures an upgrade: from SIGHUP until the pidfile names the new generation, whose child is ready at once.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

use super::Build;
use super::stats::{self, Samples};
use super::supervised::Supervised;
use crate::{Error, step};

/// Measures every build in turns, along with a lower bound: an upgrade starts two programs (psflip and the
/// child), so `/bin/true` run twice is what the kernel alone takes.
pub(super) fn measure(builds: &[Build], flips: u32, directory: &Path) -> Result<Value, Error> {
    let mut floor = Samples::new("/bin/true twice");
    let mut all = Vec::new();
    for build in builds {
        all.push((Samples::new(build.name), Supervised::start(build, directory)?));
    }
    for flip in 1..=flips {
        let start = Instant::now();
        step::run(&mut Command::new("/bin/true"))?;
        step::run(&mut Command::new("/bin/true"))?;
        floor.add(start.elapsed());
        for (samples, psflip) in &mut all {
            let (took, old) = psflip.flip()?;
            samples.add(took);
            // The next upgrade would wait for the old generation (contract U7), and that time is not to be
            // measured.
            psflip.wait_until_gone(old)?;
        }
        if flip % 50 == 0 {
            println!("  {flip} of {flips}");
        }
    }
    let mut table = vec![floor];
    for (samples, psflip) in all {
        psflip.stop()?;
        table.push(samples);
    }
    Ok(stats::table(&table, "/bin/true twice"))
}
