//! Measures an idle psflip: memory, descriptors and wake-ups of anchor, psflip and keeper, without the child.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollTimeout, poll};
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::Build;
use super::supervised::Supervised;
use crate::{Error, guard};

/// How long a psflip may still be busy after a start or an upgrade before the idle measurement begins.
const SETTLE: Duration = Duration::from_millis(500);
/// The number of upgrades between the two measurements.
const FLIPS: u32 = 20;

/// A process at one moment. Sizes are in KiB.
struct Snapshot {
    pid: Pid,
    /// The role of the process, from its name.
    role: &'static str,
    pss: u64,
    rss: u64,
    private_dirty: u64,
    peak: u64,
    threads: u64,
    descriptors: usize,
    /// Context switches of all threads so far, voluntary or not: each follows a moment of running.
    switches: u64,
}

/// Measures each build before an upgrade and after [`FLIPS`], prints a line per process, and returns the
/// figures.
pub(super) fn measure(builds: &[Build], window: Duration, directory: &Path) -> Result<Value, Error> {
    println!(
        "  {:<34}{:>7}{:>7}{:>9}{:>7}{:>9}{:>5}{:>10}",
        "", "PSS", "RSS", "private", "peak", "threads", "fds", "wake-ups"
    );
    println!("  {:<34}{:>7}{:>7}{:>9}{:>7}", "", "KiB", "KiB", "dirty", "RSS");
    let mut figures = serde_json::Map::new();
    for build in builds {
        let mut psflip = Supervised::start(build, directory)?;
        let before = idle(&psflip, build.name, "before a flip", window)?;
        for _ in 0..FLIPS {
            let (_, old) = psflip.flip()?;
            psflip.wait_until_gone(old)?;
        }
        let after = idle(&psflip, build.name, &format!("after {FLIPS} flips"), window)?;
        psflip.stop()?;
        figures.insert(
            build.name.to_owned(),
            json!({ "seconds": window.as_secs(), "before": before, "after": after }),
        );
    }
    Ok(Value::Object(figures))
}

/// Waits for the window, and prints the size of each process and its wake-ups meanwhile.
fn idle(psflip: &Supervised, build: &str, when: &str, window: Duration) -> Result<Value, Error> {
    let_pass(SETTLE)?;
    let root = psflip.anchor.unwrap_or(psflip.pid);
    let at_start = snapshots(root)?;
    let_pass(window)?;
    let at_end = snapshots(root)?;
    println!("  {build}, {when}");
    let (mut total, mut processes) = (0, Vec::new());
    for now in &at_end {
        let role = now.role;
        let Some(before) = at_start.iter().find(|before| before.pid == now.pid) else {
            return Err(format!("process {} of an idle psflip was started meanwhile", now.pid).into());
        };
        // Reading /proc doesn't wake up the process in question.
        let wakeups = now.switches - before.switches;
        println!(
            "    {role:<32}{:>7}{:>7}{:>9}{:>7}{:>9}{:>5}{wakeups:>10}",
            now.pss, now.rss, now.private_dirty, now.peak, now.threads, now.descriptors
        );
        total += now.pss;
        processes.push(json!({
            "role": role, "pss_kib": now.pss, "rss_kib": now.rss, "private_dirty_kib": now.private_dirty, "peak_rss_kib": now.peak,
            "threads": now.threads, "descriptors": now.descriptors, "wakeups": wakeups,
        }));
    }
    println!("    {:<32}{total:>7}", "together");
    Ok(json!({ "pss_kib": total, "processes": processes }))
}

/// The anchor if there is one, otherwise psflip, and its descendants that run the same program.
fn snapshots(psflip: Pid) -> Result<Vec<Snapshot>, Error> {
    let program = fs::read_link(format!("/proc/{psflip}/exe"))
        .map_err(|error| format!("psflip {psflip} has exited: {error}"))?;
    let (mut found, mut todo) = (Vec::new(), vec![psflip]);
    while let Some(pid) = todo.pop() {
        if fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == program) {
            found.push(snapshot(pid)?);
            todo.extend(guard::children_of(pid)?);
        }
    }
    Ok(found)
}

fn snapshot(pid: Pid) -> Result<Snapshot, Error> {
    let read = |name: &str| {
        fs::read_to_string(format!("/proc/{pid}/{name}"))
            .map_err(|error| format!("can't read /proc/{pid}/{name}: {error}"))
    };
    let (memory, status) = (read("smaps_rollup")?, read("status")?);
    let mut switches = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = fs::read_to_string(thread?.path().join("status"))?;
        switches +=
            field(&status, "voluntary_ctxt_switches")? + field(&status, "nonvoluntary_ctxt_switches")?;
    }
    let role = match read("comm")?.trim_end() {
        "psflip: anchor" => "anchor",
        "psflip: keeper" => "keeper",
        _ => "psflip",
    };
    Ok(Snapshot {
        pid,
        role,
        pss: field(&memory, "Pss")?,
        rss: field(&memory, "Rss")?,
        private_dirty: field(&memory, "Private_Dirty")?,
        peak: field(&status, "VmHWM")?,
        threads: field(&status, "Threads")?,
        descriptors: fs::read_dir(format!("/proc/{pid}/fd"))?.count(),
        switches,
    })
}

/// The number in a line such as `Pss:   812 kB`.
fn field(text: &str, name: &str) -> Result<u64, Error> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let number =
        value.and_then(|value| value.split_whitespace().next()).and_then(|number| number.parse().ok());
    Ok(number.ok_or_else(|| format!("no number `{name}` in the kernel's text: {text}"))?)
}

/// Waits for a fixed time, which is what this measurement needs.
fn let_pass(duration: Duration) -> Result<(), Error> {
    let deadline = Instant::now() + duration;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(());
        }
        match poll(&mut [], PollTimeout::try_from(left)?) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_exact_name() {
        let text = "Rss:  812 kB\nPss: 7 kB\nnonvoluntary_ctxt_switches:\t3\nvoluntary_ctxt_switches:\t2\n";
        assert_eq!(field(text, "Pss").unwrap(), 7);
        assert_eq!(field(text, "voluntary_ctxt_switches").unwrap(), 2);
        assert!(field(text, "Ps").is_err());
    }

    #[test]
    fn this_process_has_a_snapshot() {
        let all = snapshots(Pid::this()).unwrap();
        assert_eq!(all[0].pid, Pid::this());
        assert!(
            all[0].rss > 0 && all[0].peak >= all[0].rss / 2 && all[0].threads > 0 && all[0].descriptors > 2
        );
    }
}
