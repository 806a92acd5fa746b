//! `cargo xtask bench --proxy`: psflip's proxy beside haproxy and nginx, all before the same origin server.
//!
//! The origin is an nginx of its own with one process. Load comes from wrk where it is good (many requests on
//! few connections), otherwise from here. Everything runs on this host, so client, proxy and origin compete
//! for its processors: compare subjects of one run only. psflip is started as users start it, and measured by
//! its relay. Beside a port of the origin it is also measured with a Unix socket.

mod load;
mod origin;
mod subject;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};

use self::origin::Origin;
use self::subject::{Mode, Subject};
use crate::{Error, repo};

/// The number of idle connections.
const IDLE: usize = 2000;

/// What is measured, in the order of the table. `-`: less is better.
const ROWS: [&str; 16] = [
    "tcp keep-alive, requests/s",
    "tcp keep-alive, CPU us/request -",
    "tcp new connections/s",
    "tcp new connection, CPU us -",
    "tcp 1 GiB, s -",
    "tcp 1 GiB, CPU s -",
    "tcp idle, kB -",
    "tcp idle, descriptors -",
    "http keep-alive, requests/s",
    "http keep-alive, CPU us/request -",
    "http new connections/s",
    "http new connection, CPU us -",
    "http 1 GiB, s -",
    "http 1 GiB, CPU s -",
    "http idle, kB -",
    "http idle, descriptors -",
];

/// Figures by row, then by subject, one for each round.
type Figures = BTreeMap<String, BTreeMap<&'static str, Vec<f64>>>;

/// Measures all subjects in turns, prints a table, and returns the figures.
/// `before`: a psflip from before a change, to be measured as well.
pub(super) fn measure(
    rounds: u32,
    seconds: u64,
    before: Option<PathBuf>,
    directory: &Path,
) -> Result<Value, Error> {
    for program in ["nginx", "wrk"] {
        if !repo::is_installed(program) {
            return Err(format!(
                "`{program}` is not installed: apt-get install nginx wrk haproxy libnginx-mod-stream"
            )
            .into());
        }
    }
    let origin = Origin::start(directory)?;
    let subjects = subject::all(before)?;
    let mut figures = Figures::new();
    for round in 1..=rounds {
        for mode in [Mode::Tcp, Mode::Http] {
            for subject in subjects.iter().filter(|subject| subject.speaks(mode)) {
                one_round(subject, mode, &origin, seconds, directory, &mut figures)
                    .map_err(|error| format!("{}, {mode}: {error}", subject.name))?;
            }
        }
        println!("  round {round} of {rounds}");
    }
    Ok(print(&figures, &subjects))
}

fn one_round(
    subject: &Subject,
    mode: Mode,
    origin: &Origin,
    seconds: u64,
    directory: &Path,
    figures: &mut Figures,
) -> Result<(), Error> {
    let mut add = |what: &str, figure: f64| {
        let row = figures.entry(format!("{mode} {what}")).or_default();
        row.entry(subject.name).or_default().push(figure);
    };
    let running = subject.start(mode, &origin.small, directory)?;
    for (name, closes, per_second, cost) in [
        ("keep-alive", false, "keep-alive, requests/s", "keep-alive, CPU us/request -"),
        ("new", true, "new connections/s", "new connection, CPU us -"),
    ] {
        let before = running.cpu()?;
        let (requests, rate) =
            load::wrk(running.address, closes, seconds).map_err(|error| format!("{name}: {error}"))?;
        let used = running.cpu()? - before;
        add(per_second, rate);
        add(cost, used.as_secs_f64() * 1e6 / requests);
    }
    for (part, value) in load::latencies(running.address, Duration::from_secs(seconds))? {
        add(&format!("latency {part} at 1,000/s, ms -"), value);
    }
    let bulk = subject.start(mode, &origin.bulk, directory)?;
    let before = bulk.cpu()?;
    let took = load::download(bulk.address)?;
    add("1 GiB, s -", took.as_secs_f64());
    add("1 GiB, CPU s -", (bulk.cpu()? - before).as_secs_f64());
    drop(bulk);
    drop(running);

    let running = subject.start(mode, &origin.small, directory)?;
    let descriptors = running.descriptors()?;
    // The first connections make a program allocate what it needs once.
    drop(load::idle(running.address, 100, mode == Mode::Http)?);
    // It may not have opened all of its own before them.
    running.wait_for_descriptors(|now| now <= descriptors + 16)?;
    let (memory, descriptors) = (running.memory()?, running.descriptors()?);
    let idle = load::idle(running.address, IDLE, mode == Mode::Http)?;
    let each = if mode == Mode::Tcp { 2 } else { 1 };
    // Some that counted before may have been closed meanwhile.
    running.wait_for_descriptors(|now| now + 24 >= descriptors + each * IDLE)?;
    #[expect(clippy::cast_precision_loss, reason = "thousands")]
    let each = |now: usize, before: usize| (now as f64 - before as f64) / IDLE as f64;
    add("idle, kB -", each(running.memory()?, memory));
    add("idle, descriptors -", each(running.descriptors()?, descriptors));
    drop(idle);
    Ok(())
}

/// Prints the medians of all rounds, and psflip's ratio to the best peer.
fn print(figures: &Figures, subjects: &[Subject]) -> Value {
    print!("  {:<36}", "");
    subjects.iter().for_each(|subject| print!("{:>10}", subject.name));
    println!("   {} : best peer (above 1 is better)", subject::OURS);
    let others = figures.keys().filter(|row| row.contains("latency")).map(String::as_str);
    for row in ROWS.into_iter().chain(others) {
        let Some(by_name) = figures.get(row) else { continue };
        print!("  {row:<36}");
        subjects.iter().for_each(|subject| print!("{:>10.2}", median(by_name.get(subject.name))));
        let less = row.ends_with('-');
        let peers = subjects.iter().filter(|subject| subject.is_peer());
        let peers = peers.map(|peer| median(by_name.get(peer.name))).filter(|one| !one.is_nan());
        let best = peers.reduce(if less { f64::min } else { f64::max }).unwrap_or(f64::NAN);
        let ours = median(by_name.get(subject::OURS));
        println!("   {:.2}", if less { best / ours } else { ours / best });
    }
    json!(figures)
}

fn median(figures: Option<&Vec<f64>>) -> f64 {
    let mut sorted = figures.cloned().unwrap_or_default();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Writes a file of the configuration of another program.
fn write(directory: &Path, name: &str, text: &str) -> Result<std::path::PathBuf, Error> {
    let path = directory.join(name);
    fs::write(&path, text).map_err(|error| format!("can't write `{}`: {error}", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_one_in_the_middle_and_none_is_no_number() {
        assert_eq!(format!("{:.1}", median(Some(&vec![3.0, 1.0, 2.0]))), "2.0");
        assert!(median(None).is_nan());
    }
}
