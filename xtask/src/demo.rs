//! A visible flip: a small HTTP server under psflip is replaced again and again, now and then by a version that crashes, while a client asks it without pause.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, IsTerminal as _, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::args::Args;
use crate::{Error, Outcome, guard, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask demo [--flips N] [--plain]

Runs a small HTTP server under psflip, asks it without pause, and replaces it N times (10), twice in between by a version that crashes. On a terminal it
shows `psflip status --watch` meanwhile, elsewhere or with --plain what each `psflip upgrade` says. In the end: how many requests were answered by which
generation, how many failed, and a picture of the flips.";

/// What an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// For how many answers everybody waits between two flips, so that there is something to see.
const BETWEEN: u32 = 300;

pub(crate) fn run(mut args: Args) -> Outcome {
    let flips: u32 = args.value("flips")?.unwrap_or(10);
    let plain = args.flag("plain") || !io::stdout().is_terminal();
    args.done()?;
    let Some(directory) = guard::scratch() else {
        step::run(repo::cargo().args(["build", "--quiet", "--bins", "-p", "psflip", "-p", "fixtures"]))?;
        return guard::run_again_guarded();
    };
    // A successor is nobody's child but its manager's, which is us.
    prctl::set_child_subreaper(true)?;
    let programs = repo::target_dir()?.join("debug");
    let config = configuration(
        "\"http-server\", \"--unix\", \"app.sock\", \"--name\", \"generation {{ generation() }}\"",
    );
    fs::write(directory.join("app.toml"), &config)?;
    println!("app.toml:\n{}", indented(&config));

    let mut psflip = start(&programs, &directory)?;
    wait_for_answer(&directory, &mut psflip)?;
    let client = Client::start(directory.join("app.sock"));
    let stage = Stage { programs: &programs, directory: &directory, plain };
    let mut watcher =
        if plain { None } else { Some(stage.psflip(&["status", "--watch"], Stdio::inherit()).spawn()?) };
    for flip in 1..=flips {
        client.wait_for(BETWEEN);
        if flip == flips / 3 + 1 || flip == flips * 2 / 3 + 1 {
            stage.failed_upgrade(&config)?;
            expect_anchor(&mut psflip)?;
            client.wait_for(BETWEEN);
        }
        stage.say(&format!("$ psflip upgrade -c app.toml        # flip {flip} of {flips}"));
        let active = named(&directory)?;
        let status = stage.upgrade()?;
        if !status.success() {
            return Err(format!("flip {flip} failed: {status}").into());
        }
        if named(&directory)? == active {
            return Err(format!("flip {flip} changed nothing").into());
        }
        expect_anchor(&mut psflip)?;
    }
    client.wait_for(BETWEEN);
    if let Some(watcher) = &mut watcher {
        kill(Pid::from_raw(watcher.id().cast_signed()), Signal::SIGINT)?;
        watcher.wait()?;
    }
    let picture = repo::target_dir()?.join("demo.svg");
    let status =
        stage.psflip(&["status", "--timeline", &picture.to_string_lossy()], Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("no picture: {status}").into());
    }
    let (answers, failures) = client.stop();
    println!("\n$ psflip stop -c app.toml");
    stage.psflip(&["stop"], Stdio::inherit()).status()?;
    let status = psflip.wait()?;
    if !status.success() {
        return Err(format!("the stopped psflip ended with {status}").into());
    }
    println!("\n{} requests while the server was replaced {flips} times:", answers.values().sum::<u32>());
    for (name, count) in &answers {
        println!("  {count:6}  answered by {name}");
    }
    println!("  {:6}  failed", failures.len());
    println!("The picture of these flips: {}", picture.display());
    match failures.first() {
        None => Ok(()),
        Some(first) => Err(format!("{} requests failed, the first one: {first}", failures.len()).into()),
    }
}

/// Where the service is, and how it is shown.
struct Stage<'a> {
    programs: &'a Path,
    directory: &'a Path,
    plain: bool,
}

impl Stage<'_> {
    /// A client of psflip's.
    fn psflip(&self, args: &[&str], stdout: Stdio) -> Command {
        let mut command = Command::new(self.programs.join("psflip"));
        command.args(args).args(["-c", "app.toml"]).current_dir(self.directory).stdout(stdout);
        command
    }

    /// Where `status --watch` draws, nothing else may write.
    fn say(&self, text: &str) {
        if self.plain {
            println!("\n{text}");
        }
    }

    /// Asks for an upgrade, and waits until it is over.
    fn upgrade(&self) -> Result<std::process::ExitStatus, Error> {
        let shown = || if self.plain { Stdio::inherit() } else { Stdio::null() };
        let mut command = self.psflip(&["upgrade", "--wait", "drained"], shown());
        Ok(command.stderr(shown()).status()?)
    }

    /// A version that crashes changes nothing for anybody.
    fn failed_upgrade(&self, good: &str) -> Outcome {
        let active = named(self.directory)?;
        self.say(
            "$ # a version that crashes when it starts, and an upgrade to it\n$ psflip upgrade -c app.toml",
        );
        let broken = configuration("\"crash-on-init\", \"--code\", \"3\"");
        fs::write(self.directory.join("app.toml"), broken)?;
        let status = self.upgrade()?;
        if status.code() != Some(1) {
            return Err(format!("an upgrade to a version that crashes ended with {status}").into());
        }
        fs::write(self.directory.join("app.toml"), good)?;
        if named(self.directory)? == active {
            Ok(())
        } else {
            Err("a failed upgrade changed the pidfile".into())
        }
    }
}

fn configuration(cmd: &str) -> String {
    format!("cmd     = [{cmd}]\npidfile = \"app.pid\"\n\n[healthcheck.http]\nurl = \"unix://app.sock:/up\"\n")
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}\n")).collect()
}

fn start(programs: &Path, directory: &Path) -> Result<Child, Error> {
    println!("$ psflip -c app.toml");
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap_or_default());
    let mut command = Command::new(programs.join("psflip"));
    command.args(["-c", "app.toml"]).current_dir(directory).env("PATH", path).stdin(Stdio::null());
    command.stdout(fs::File::create(directory.join("children.log"))?);
    command.stderr(fs::File::create(directory.join("psflip.log"))?);
    command.spawn().map_err(|error| step::cannot_start(&command, &error))
}

/// The process that was started is the anchor: no upgrade ends it, whatever becomes of that.
fn expect_anchor(psflip: &mut Child) -> Outcome {
    match psflip.try_wait()? {
        None => Ok(()),
        Some(status) => Err(format!("the process that was started ended by an upgrade: {status}").into()),
    }
}

fn named(directory: &Path) -> Result<Pid, Error> {
    Ok(Pid::from_raw(fs::read_to_string(directory.join("app.pid"))?.trim().parse()?))
}

/// Until the first generation is healthy there is no socket; then its pidfile follows at once.
fn wait_for_answer(directory: &Path, psflip: &mut Child) -> Outcome {
    let inotify = nix::sys::inotify::Inotify::init(nix::sys::inotify::InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(directory, nix::sys::inotify::AddWatchFlags::IN_MOVED_TO)?;
    while !directory.join("app.pid").exists() {
        if let Some(status) = psflip.try_wait()? {
            return Err(format!("psflip ended: {status}").into());
        }
        inotify.read_events()?;
    }
    Ok(())
}

type Counts = (BTreeMap<String, u32>, Vec<String>);

/// Asks without pause, with a new connection each time.
struct Client {
    counts: Arc<(Mutex<Counts>, std::sync::Condvar)>,
    done: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl Client {
    fn start(socket: PathBuf) -> Self {
        let counts = Arc::new((Mutex::new(Counts::default()), std::sync::Condvar::new()));
        let done = Arc::new(AtomicBool::new(false));
        let (shared, stop) = (Arc::clone(&counts), Arc::clone(&done));
        let thread = thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                let answer = ask(&socket);
                let (counts, changed) = &*shared;
                let Ok(mut counts) = counts.lock() else { return };
                match answer {
                    Ok(name) => *counts.0.entry(name).or_default() += 1,
                    Err(error) => counts.1.push(error.to_string()),
                }
                changed.notify_all();
            }
        });
        Self { counts, done, thread }
    }

    /// Returns when so many more requests were answered.
    fn wait_for(&self, more: u32) {
        let (counts, changed) = &*self.counts;
        let Ok(counts) = counts.lock() else { return };
        let answered = |counts: &Counts| counts.0.values().sum::<u32>();
        let wanted = answered(&counts) + more;
        drop(changed.wait_timeout_while(counts, PATIENCE, |counts| answered(counts) < wanted));
    }

    fn stop(self) -> Counts {
        self.done.store(true, Ordering::Relaxed);
        let _ = self.thread.join(); // a panic there has printed itself
        let (counts, _) = &*self.counts;
        counts.lock().map(|counts| counts.clone()).unwrap_or_default()
    }
}

/// One request; returns the name in the answer (`name=generation 1 pid=...`).
fn ask(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let name = answer.split_once("name=").and_then(|(_, rest)| rest.split_once(" pid="));
    match name {
        Some((name, _)) if answer.starts_with("HTTP/1.1 200") => Ok(name.to_owned()),
        _ => Err(io::Error::other(format!("odd answer: {answer:?}"))),
    }
}
