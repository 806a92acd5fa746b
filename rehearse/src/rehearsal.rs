//! What happens: start, first answers, upgrades under load, stop.

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::clock::Clock;
use crate::exit;
use crate::interrupt::Interrupt;
use crate::load::{Engine, Pace, Record, Settings};
use crate::plan::{Abort, Plan, Subject};
use crate::report::terminal::Progress;
use crate::report::{Report, Result as UpgradeResult, Step, Upgrade};
use crate::service::during::{self, Running};
use crate::service::log::{Log, REHEARSAL};
use crate::service::processes::{self, MemoryWatch, Process, Usage};
use crate::service::psflip::{Service, StartError};
use crate::service::reaper::{self, End, Reaper};
use crate::service::versions::{Version, Versions};

/// How long a service that is ready may take until it answers every kind of request: a web server beside it may
/// still start.
const FIRST_ANSWERS: Duration = Duration::from_secs(10);
/// How long psflip may take to stop, whatever `shutdown.timeout` is.
const STOP: Duration = Duration::from_secs(120);
/// How long processes may take to vanish when psflip has exited (contract C7: milliseconds).
const LEFTOVERS: Duration = Duration::from_secs(3);
/// How often is looked for processes that are left.
const LOOK_AGAIN: Duration = Duration::from_millis(5);
/// The longest time that a command of `--during` may take.
const DURING: Duration = Duration::from_secs(15 * 60);

/// What is upgraded.
#[derive(Debug)]
enum Subjected {
    Psflip { service: Service, versions: Option<Versions> },
    Other { command: String, service: Option<Running> },
}

/// The commands of `--beside`. Whatever is left of them is killed, however the rehearsal ends.
#[derive(Debug, Default)]
struct Beside(Vec<Running>);

impl Beside {
    fn start(plan: &Plan, reaper: &Reaper, log: &Log) -> Result<Self, Abort> {
        let mut beside = Self::default();
        for line in &plan.args.beside {
            let running = Running::start(line, "beside", reaper, log);
            beside.0.push(running.map_err(|error| Abort::failed("--beside", &error))?);
        }
        Ok(beside)
    }

    fn pids(&self) -> Vec<i32> {
        self.0.iter().map(|one| one.pid.as_raw()).collect()
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        self.0.iter().for_each(|one| processes::kill_group(one.pid));
    }
}

struct Rehearsal {
    plan: Plan,
    clock: Clock,
    log: Log,
    reaper: Reaper,
    progress: Progress,
    subject: Subjected,
    beside: Beside,
    record: Arc<Record>,
    interrupt: Interrupt,
    upgrades: Vec<Upgrade>,
    failures: Vec<String>,
    /// How long a good child takes until it is healthy.
    start: Duration,
}

/// Rehearses.
///
/// # Errors
/// There was nothing to observe: the service did not start, or did not answer.
pub(crate) fn run(plan: Plan, log: File, interrupt: Interrupt) -> Result<Report, Abort> {
    let clock = Clock::start();
    let log = Log::new(log, clock.began);
    let reaper = Reaper::start().map_err(|error| Abort::failed("no thread", &error))?;
    let mut progress = Progress::new();
    progress.line(&format!("rehearsing {}", plan.name));
    progress.wait("starting the service");
    // Only a service of this host, which `--during` upgrades, outlives the rehearsal.
    let is_ours = !matches!(&plan.subject, Subject::Other { service: None, .. });
    let (groups, copy) = (reaper.clone(), plan.copy());
    interrupt.at_second(move || {
        if is_ours {
            end_all();
        } else {
            groups.groups().into_iter().for_each(processes::kill_group);
        }
        copy.iter().for_each(|copy| drop(std::fs::remove_file(copy)));
    });
    let rehearsed = rehearse(plan, log, interrupt, clock, &reaper, progress);
    if rehearsed.is_err() && is_ours {
        end_all();
    }
    rehearsed
}

fn rehearse(
    plan: Plan,
    log: Log,
    interrupt: Interrupt,
    clock: Clock,
    reaper: &Reaper,
    mut progress: Progress,
) -> Result<Report, Abort> {
    let on_wait = || {
        progress.still_waiting(|| log.last_line());
        !interrupt.is_seen()
    };
    let subject = start(&plan, reaper, &log, clock, on_wait)?;
    let start = clock.began.elapsed();
    let beside = Beside::start(&plan, reaper, &log)?;
    let record = Record::new(clock.began, plan.loads());
    let mut rehearsal = Rehearsal {
        plan,
        clock,
        log,
        reaper: reaper.clone(),
        progress,
        subject,
        beside,
        record,
        interrupt,
        upgrades: Vec::new(),
        failures: Vec::new(),
        start,
    };
    rehearsal.progress.wait("waiting for the first answers");
    rehearsal.first_answers()?;
    rehearsal.log.line(REHEARSAL, "every client has an answer: the load begins");
    let engine = rehearsal.load()?;
    rehearsal.pause();
    if rehearsal.interrupt.is_seen() {
        engine.finish();
        return Err(interrupted());
    }
    rehearsal.upgrade_all();
    engine.finish();
    rehearsal.check_own_errors()?;
    let loaded = rehearsal.clock.now_ms();
    let (end, left) = rehearsal.stop();
    Ok(rehearsal.report(loaded, end, left))
}

fn start(
    plan: &Plan,
    reaper: &Reaper,
    log: &Log,
    clock: Clock,
    on_wait: impl FnMut() -> bool,
) -> Result<Subjected, Abort> {
    match &plan.subject {
        Subject::Other { during, service } => {
            let start = |line: &String| Running::start(line, "service", reaper, log);
            let service = service.as_ref().map(start).transpose();
            let service = service.map_err(|error| Abort::failed("--service", &error))?;
            Ok(Subjected::Other { command: during.clone(), service })
        }
        Subject::Psflip { invocation, config, .. } => {
            let read = |path: &std::path::PathBuf| Versions::read(path, plan.args.next.as_deref());
            let versions = config.as_ref().map(read).transpose();
            let versions = versions.map_err(|error| Abort::new(exit::CONFIG, error.to_string()))?;
            let service = Service::start(invocation, reaper, log, clock)
                .map_err(|error| Abort::failed(&format!("`{}`", invocation.program.display()), &error))?;
            let limit = plan.args.start_timeout;
            service.wait_ready(limit, on_wait).map_err(|error| {
                let what = match error {
                    StartError::Interrupted => return interrupted(),
                    StartError::Ended(end) => format!("psflip {end}"),
                    StartError::TimeOut => {
                        format!("it was not healthy within {} s (--start-timeout)", limit.as_secs())
                    }
                    StartError::Io(error) => format!("its control socket can't be used: {error}"),
                };
                Abort::new(
                    exit::FAILED,
                    format!("the service did not start: {what}. Its last lines:\n{}", log.last()),
                )
            })?;
            Ok(Subjected::Psflip { service, versions })
        }
    }
}

/// Ctrl-C before the first upgrade: there is nothing to report.
fn interrupted() -> Abort {
    Abort::new(exit::INTERRUPTED, "interrupted by Ctrl-C before the first upgrade")
}

impl Rehearsal {
    fn settings(&self) -> Settings {
        let args = &self.plan.args;
        let pace = args.rate.map_or(Pace::Closed, Pace::Rate);
        let extra = Arc::clone(&self.plan.extra);
        Settings { pace, timeout: args.timeout, accepted: args.accept, extra }
    }

    fn load(&self) -> Result<Engine, Abort> {
        let engine = Engine::start(&self.plan.clients, &self.settings(), &self.record);
        engine.map_err(|error| Abort::failed("the load", &error))
    }

    /// Every client must be answered well before the first upgrade: otherwise the rehearsal would show nothing.
    fn first_answers(&mut self) -> Result<(), Abort> {
        let record = Record::new(self.clock.began, self.plan.loads());
        let engine = Engine::start(&self.plan.clients, &self.settings(), &record);
        let engine = engine.map_err(|error| Abort::failed("the load", &error))?;
        let limit = match &self.subject {
            Subjected::Other { service: Some(_), .. } => self.plan.args.start_timeout,
            _ => FIRST_ANSWERS,
        };
        let limit = limit + self.turns(1);
        let Self { progress, log, interrupt, .. } = self;
        let missing = record.wait_first_answers(limit, || {
            progress.still_waiting(|| log.last_line());
            !interrupt.is_seen()
        });
        engine.finish();
        if self.interrupt.is_seen() {
            return Err(interrupted());
        }
        let Some(client) = missing.first() else { return Ok(()) };
        let (load, kind) = &self.plan.clients[*client];
        let seen = record.lock();
        if let Some(error) = &seen.own_error {
            return Err(Self::own_error(error));
        }
        let last = seen.losses.iter().rev().find(|loss| usize::from(loss.client) == *client);
        // A connection that was refused long ago says only that the server had not started then.
        let last = last.filter(|loss| loss.at + Duration::from_secs(1) >= self.clock.began.elapsed());
        let cause = last.map_or_else(|| "no complete answer".to_owned(), |loss| loss.cause.clone());
        let mut text = format!(
            "{} can't be requested ({}): {cause}. Every load must be answered before the first upgrade, within {} s",
            load.url,
            kind.name(),
            limit.as_secs()
        );
        if last.is_some_and(|loss| loss.status.is_some()) {
            text.push_str(". Another path? --load; or is this status good? --accept");
        }
        Err(Abort::new(exit::FAILED, format!("{text}. The service's last lines:\n{}", self.log.last())))
    }

    /// How long it takes until every client has had so many turns, at a given rate.
    fn turns(&self, count: u32) -> Duration {
        let each = f64::from(count) * self.plan.clients.len() as f64;
        self.plan.args.rate.map_or(Duration::ZERO, |rate| Duration::from_secs_f64(each / rate))
    }

    fn own_error(error: &str) -> Abort {
        let text = format!(
            "the load itself has failed, not the service: {error}. Fewer --clients, a --rate, or `ulimit -n`"
        );
        Abort::new(exit::FAILED, text)
    }

    fn check_own_errors(&self) -> Result<(), Abort> {
        self.record.lock().own_error.as_ref().map_or(Ok(()), |error| Err(Self::own_error(error)))
    }

    /// The versions to deploy, in this order.
    fn versions(&self) -> Vec<Version> {
        let args = &self.plan.args;
        let mut versions = Vec::new();
        for number in 0..args.flips {
            let is_next = args.next.is_some() && number % 2 == 0;
            versions.push(if is_next { Version::Next } else { Version::Same });
            if !args.bad.is_empty() {
                versions.push(Version::Bad(args.bad[number as usize % args.bad.len()]));
            }
        }
        // Each of them at least once.
        let tried = versions.iter().filter(|version| matches!(version, Version::Bad(_))).count();
        versions.extend(args.bad.iter().skip(tried).map(|bad| Version::Bad(*bad)));
        versions
    }

    fn upgrade_all(&mut self) {
        let versions = self.versions();
        let count = versions.len();
        for (index, version) in versions.into_iter().enumerate() {
            if let Err(abort) = self.upgrade(index + 1, count, version) {
                self.failures.push(format!(
                    "upgrade {}: {}. The service's last lines:\n{}",
                    index + 1,
                    abort.text,
                    self.log.last()
                ));
                break;
            }
            if let Some(end) = self.service_end() {
                self.failures.push(format!("the service is gone after upgrade {}: it {end}", index + 1));
                break;
            }
            if self.interrupt.is_seen() {
                self.failures.push(format!("interrupted by Ctrl-C after {} of {count} upgrades", index + 1));
                break;
            }
        }
    }

    fn service_end(&self) -> Option<End> {
        match &self.subject {
            Subjected::Psflip { service, .. } => service.end(),
            // A tool may replace the process that was started; only the clients know whether it serves.
            Subjected::Other { .. } => None,
        }
    }

    fn upgrade(&mut self, number: usize, count: usize, version: Version) -> Result<(), Abort> {
        let label = format!("{number}/{count}");
        let before = self.record.lock().tally.all.requests;
        let memory = MemoryWatch::start(own_pid(), self.beside.pids());
        self.record.lock().tally.begin_upgrade();
        let mut upgrade = self.perform(&label, version)?;
        // Every client has met the new version, or has lost a request.
        let limit = self.plan.args.timeout + Duration::from_secs(1) + self.turns(2);
        let silent = self.record.wait_each(2, limit);
        self.pause();
        let peak_memory_kb = memory.finish();
        if matches!(self.subject, Subjected::Other { .. }) {
            // Its command may return before the upgrade is over.
            upgrade.steps.push(Step { step: "observed".to_owned(), at_ms: self.clock.now_ms() });
            end_upgrade(&self.record, upgrade.span().1);
        }
        let (psflip, child) = match &self.subject {
            Subjected::Psflip { service, .. } => service.usage(),
            Subjected::Other { service, .. } => {
                let tree =
                    service.as_ref().map(|one| processes::tree(&[one.pid.as_raw()])).unwrap_or_default();
                (Usage::default(), processes::usage(&tree))
            }
        };
        let upgrade = Upgrade { number, psflip, child, peak_memory_kb, ..upgrade };
        self.judge(&upgrade);
        if let Some(client) = silent.first() {
            let (load, kind) = &self.plan.clients[*client];
            self.failures.push(format!(
                "after upgrade {number}, {} ({}) had no answer for {} s",
                load.url,
                kind.name(),
                limit.as_secs()
            ));
        }
        let seen = self.record.lock();
        let lost = seen.losses.iter().filter(|loss| loss.at.as_secs_f64() * 1e3 >= upgrade.span().0).count();
        self.progress.upgrade(&label, &upgrade, seen.tally.all.requests - before, lost);
        drop(seen);
        self.upgrades.push(upgrade);
        Ok(())
    }

    /// Lets the load go on for `--pause`, or until Ctrl-C.
    fn pause(&self) {
        let until = Instant::now() + self.plan.args.pause;
        while let Some(left) = until.checked_duration_since(Instant::now())
            && !self.interrupt.is_seen()
        {
            self.record.wait_for(left.min(Duration::from_millis(100)));
        }
    }

    fn perform(&mut self, label: &str, version: Version) -> Result<Upgrade, Abort> {
        let failed = |error: io::Error| Abort::failed("the upgrade", &error);
        let (clock, log, record, progress) = (self.clock, &self.log, &self.record, &mut self.progress);
        log.line(REHEARSAL, &format!("upgrade {label} ({})", version.name()));
        let performed = match &self.subject {
            Subjected::Other { command, service } => {
                progress.state(&format!("{label} {command}"));
                let interrupt = &self.interrupt;
                during::upgrade(command, service.as_ref(), &self.reaper, log, clock, DURING, interrupt)
                    .map_err(failed)?
            }
            Subjected::Psflip { service, versions } => {
                if let Some(versions) = versions {
                    versions.deploy(version, self.start).map_err(failed)?;
                }
                let on_step = |step: &Step| {
                    if step.ends_upgrade() {
                        end_upgrade(record, step.at_ms);
                    }
                    log.line(REHEARSAL, &format!("  {} at {:.1} ms", step.step, step.at_ms));
                    progress.state(&format!("{label} {} {}", version.name(), step.step));
                };
                let performed = service.upgrade(on_step).map_err(failed)?;
                if let (Some(versions), Version::Bad(_)) = (versions, version) {
                    versions.deploy(Version::Same, self.start).map_err(failed)?;
                }
                performed
            }
        };
        Ok(Upgrade {
            number: 0,
            version,
            steps: performed.steps,
            result: performed.result,
            generation: performed.generation,
            killed: performed.killed,
            requests: 0,
            lost: 0,
            latency: crate::report::Latency::default(),
            psflip: Usage::default(),
            child: Usage::default(),
            peak_memory_kb: 0,
        })
    }

    /// What of an upgrade itself is wrong; lost requests are counted at the end.
    fn judge(&mut self, upgrade: &Upgrade) {
        let number = upgrade.number;
        let mut fail = |text: String| self.failures.push(text);
        match (&upgrade.result, upgrade.version) {
            (UpgradeResult::Promoted, Version::Bad(bad)) => {
                fail(format!(
                    "upgrade {number}: the bad version `{}` was accepted; {}",
                    bad.name(),
                    bad.advice()
                ));
            }
            (UpgradeResult::Failed { reason, .. }, version) if !matches!(version, Version::Bad(_)) => {
                fail(format!("upgrade {number} ({}) failed: {reason}", version.name()));
            }
            _ => {}
        }
        if upgrade.killed {
            fail(format!(
                "upgrade {number}: processes of the old child had to be killed, since they did not exit within `shutdown.timeout`"
            ));
        }
        if let (Some(limit), Some(took)) = (self.plan.args.max_flip, upgrade.took_ms())
            && took > limit.as_secs_f64() * 1e3
        {
            fail(format!("upgrade {number} took {took:.0} ms (--max-flip)"));
        }
    }

    /// Stops the service. Returns how it ended, and what it left.
    fn stop(&mut self) -> (Option<String>, Vec<Process>) {
        self.progress.state("stopping");
        let stopped = match &self.subject {
            Subjected::Psflip { service, .. } => Some(service.stop(STOP)),
            Subjected::Other { service, .. } => {
                service.as_ref().map(|service| self.current(service).stop(STOP))
            }
        };
        let own = own_pid();
        let ours = processes::tree(&self.beside.pids());
        let left = || -> Vec<Process> {
            let mut all = processes::tree(&[own]);
            all.retain(|one| one.pid != own && !ours.iter().any(|other| other.pid == one.pid));
            all
        };
        let until = Instant::now() + LEFTOVERS;
        // A tool that upgrades a service of this host may have started it anew: that is no leftover of ours.
        let mut found = if stopped.is_some() { left() } else { Vec::new() };
        while !found.is_empty() && Instant::now() < until {
            self.record.wait_for(Duration::from_millis(20));
            found = left();
        }
        self.beside.0.iter().for_each(|one| {
            one.stop(Duration::from_secs(5));
        });
        let end = stopped.map(|end| {
            end.map_or_else(
                || format!("did not exit within {} s, and was killed", STOP.as_secs()),
                |end| end.to_string(),
            )
        });
        if matches!(stopped, Some(None)) {
            self.failures.push(format!("the service did not stop within {} s", STOP.as_secs()));
        }
        if !found.is_empty() {
            self.failures.push(format!("{} processes were left when the service had stopped", found.len()));
            end_all();
        }
        (end, found)
    }

    /// The main process now: some tools replace it at an upgrade (nginx and gunicorn, USR2), and the kernel gives
    /// the new one to this process.
    fn current(&self, service: &Running) -> Running {
        let beside: Vec<Pid> = self.beside.0.iter().map(|one| one.pid).collect();
        service.current(own_pid(), &beside)
    }

    fn report(mut self, loaded_ms: f64, end: Option<String>, left: Vec<Process>) -> Report {
        let seen = std::mem::take(&mut *self.record.lock());
        let mut report = Report::new(&self.plan, self.clock, loaded_ms, self.upgrades, &seen);
        (report.end, report.left) = (end, left);
        report.failures = self.failures;
        report.apply_limits(&self.plan.args);
        self.progress.clear();
        report
    }
}

/// The upgrade under way ended at this time: requests from then on do not belong to it.
fn end_upgrade(record: &Record, at_ms: f64) {
    record.lock().tally.end_upgrade((at_ms * 1e3) as u64);
}

/// Kills all descendants: outside of a sandbox, nothing else would. psflip's first, so that it starts nothing anew.
fn end_all() {
    let (own, until) = (own_pid(), Instant::now() + LEFTOVERS);
    loop {
        let mut left = processes::tree(&[own]);
        left.retain(|process| process.pid != own);
        if left.is_empty() || Instant::now() >= until {
            return;
        }
        left.iter().for_each(|process| reaper::signal(Pid::from_raw(process.pid), Signal::SIGKILL));
        std::thread::park_timeout(LOOK_AGAIN); // one that was just forked is killed in the next turn
    }
}

fn own_pid() -> i32 {
    i32::try_from(std::process::id()).unwrap_or_default()
}
