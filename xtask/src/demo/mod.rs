//! `cargo xtask demo`: upgrades a small HTTP server under psflip several times, and sometimes to a version
//! that crashes, while a client sends requests without pause.

mod client;
mod picture;

use std::fs;
use std::io::{self, IsTerminal as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::args::Args;
use crate::{Error, Outcome, guard, repo, step};
use client::{Answers, Client};

pub(crate) use picture::check_recorded;

pub(crate) const USAGE: &str = "\
cargo xtask demo [--flips N] [--plain] [--record]

Runs a small HTTP server under psflip, sends it requests without a pause, and upgrades it N times. Twice in between it
tries an upgrade to a version that crashes. On a terminal it shows `psflip status --watch`, otherwise the output of each
`psflip upgrade`. At the end it prints how many requests each generation answered and how many failed, and draws pictures.

  --flips N  the number of successful upgrades (default 10)
  --plain    print the output of each `psflip upgrade` on a terminal, too
  --record   renew the README's picture (docs/images): two upgrades and a failed one";

/// How many answers the demo waits for between two upgrades, so that it can be watched.
const BETWEEN: u32 = 300;

pub(crate) fn run(mut args: Args) -> Outcome {
    let record = args.flag("record");
    let flips: u32 = args.value("flips")?.unwrap_or(if record { 2 } else { 10 });
    let plain = args.flag("plain") || !io::stdout().is_terminal();
    args.done()?;
    let Some(directory) = guard::scratch() else {
        step::run(repo::cargo().args([
            "build",
            "--quiet",
            "--bins",
            "-p",
            "psflip",
            "-p",
            "psflip-fixtures",
        ]))?;
        return guard::run_again_guarded();
    };
    // Successors are reparented to the process that started psflip; that is this one.
    prctl::set_child_subreaper(true)?;
    let programs = repo::target_dir()?.join("debug");
    let mut good =
        r#""http-server", "--unix", "app.sock", "--name", "generation {{ generation() }}""#.to_owned();
    let mut broken = r#""crash-on-init", "--code", "3""#.to_owned();
    if record {
        // For the README's picture the application takes time to start and to stop, as real ones do.
        good = format!(r#""sh", "-c", 'sleep 0.3; exec "$0" "$@"', {good}, "--linger", "250ms""#);
        broken = format!(r#""sh", "-c", 'sleep 0.2; exec "$0" "$@"', {broken}"#);
    }
    let (config, broken) = (configuration(&good), configuration(&broken));
    fs::write(directory.join("app.toml"), &config)?;
    println!("app.toml:\n{}", indented(&config));

    let mut psflip = start(&programs, &directory)?;
    wait_for_answer(&directory, &mut psflip)?;
    let pause = if record { Duration::from_millis(1) } else { Duration::ZERO };
    let client = Client::start(directory.join("app.sock"), pause);
    let stage = Stage { programs: &programs, directory: &directory, plain };
    let mut watcher =
        if plain { None } else { Some(stage.psflip(&["status", "--watch"], Stdio::inherit()).spawn()?) };
    for flip in 1..=flips {
        client.wait_for(BETWEEN);
        if is_after_broken_version(flip, flips) {
            stage.failed_upgrade(&config, &broken)?;
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
    let history = history(&stage)?;
    let answers = client.stop();
    println!("\n$ psflip stop -c app.toml");
    stage.psflip(&["stop"], Stdio::inherit()).status()?;
    let status = psflip.wait()?;
    if !status.success() {
        return Err(format!("the stopped psflip exited with {status}").into());
    }
    report(&answers, flips);
    let story = repo::target_dir()?.join("demo-requests.svg");
    picture::write(&history, &answers, &story, record)?;
    println!("The requests: {}\nThe upgrades: {}", story.display(), picture.display());
    match answers.failed.first() {
        None => Ok(()),
        Some((_, why)) => {
            Err(format!("{} requests failed, the first one: {why}", answers.failed.len()).into())
        }
    }
}

/// Whether to try an upgrade to a version that crashes before this one: twice, or once if there are few
/// upgrades.
fn is_after_broken_version(flip: u32, flips: u32) -> bool {
    flip == flips * 2 / 3 + 1 || flips >= 3 && flip == flips / 3 + 1
}

fn report(answers: &Answers, flips: u32) {
    println!("\n{} requests while the server was upgraded {flips} times:", answers.count());
    for (name, count) in answers.by_name() {
        println!("  {count:6}  answered by {name}");
    }
    println!("  {:6}  failed", answers.failed.len());
}

/// The upgrades in the output of `psflip status --json`.
fn history(stage: &Stage<'_>) -> Result<Vec<Value>, Error> {
    let output = stage.psflip(&["status", "--json"], Stdio::piped()).output()?;
    let status: Value = serde_json::from_slice(&output.stdout)?;
    match &status["history"] {
        Value::Array(history) => Ok(history.clone()),
        _ => Err(format!("`psflip status --json` has no history: {status}").into()),
    }
}

/// The service, and how the demo shows it.
struct Stage<'a> {
    programs: &'a Path,
    directory: &'a Path,
    plain: bool,
}

impl Stage<'_> {
    /// A psflip command for the service.
    fn psflip(&self, args: &[&str], stdout: Stdio) -> Command {
        let mut command = Command::new(self.programs.join("psflip"));
        command.args(args).args(["-c", "app.toml"]).current_dir(self.directory).stdout(stdout);
        command
    }

    /// Prints nothing while `status --watch` draws on the terminal.
    fn say(&self, text: &str) {
        if self.plain {
            println!("\n{text}");
        }
    }

    /// Requests an upgrade, and waits until it is over.
    fn upgrade(&self) -> Result<std::process::ExitStatus, Error> {
        let shown = || if self.plain { Stdio::inherit() } else { Stdio::null() };
        let mut command = self.psflip(&["upgrade", "--wait", "drained"], shown());
        Ok(command.stderr(shown()).status()?)
    }

    /// Tries an upgrade to a version that crashes, and checks that it changes nothing.
    fn failed_upgrade(&self, good: &str, broken: &str) -> Outcome {
        let active = named(self.directory)?;
        self.say(
            "$ # a version that crashes when it starts, and an upgrade to it\n$ psflip upgrade -c app.toml",
        );
        fs::write(self.directory.join("app.toml"), broken)?;
        let status = self.upgrade()?;
        if status.code() != Some(1) {
            return Err(format!("an upgrade to a version that crashes exited with {status}").into());
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

/// Checks that the started process, which is the anchor, still runs: no upgrade may stop it, successful or
/// not.
fn expect_anchor(psflip: &mut Child) -> Outcome {
    match psflip.try_wait()? {
        None => Ok(()),
        Some(status) => Err(format!("the first process exited at an upgrade: {status}").into()),
    }
}

fn named(directory: &Path) -> Result<Pid, Error> {
    Ok(Pid::from_raw(fs::read_to_string(directory.join("app.pid"))?.trim().parse()?))
}

/// Waits for the pidfile, which is written when the first generation is healthy.
fn wait_for_answer(directory: &Path, psflip: &mut Child) -> Outcome {
    let inotify = nix::sys::inotify::Inotify::init(nix::sys::inotify::InitFlags::IN_CLOEXEC)?;
    inotify.add_watch(directory, nix::sys::inotify::AddWatchFlags::IN_MOVED_TO)?;
    while !directory.join("app.pid").exists() {
        if let Some(status) = psflip.try_wait()? {
            return Err(format!("psflip exited: {status}").into());
        }
        inotify.read_events()?;
    }
    Ok(())
}
