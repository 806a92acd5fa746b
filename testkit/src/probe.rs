//! Sends requests without pause during a whole test: was the service available at every moment, and which
//! process answered?

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::client::ClientError;
use crate::latency::{Latencies, millis};
use crate::marks::FlipMark;
use crate::report;
use crate::sandbox::Inner;
use crate::wait::Deadline;

/// The number of failures kept with all details; further ones are only counted.
const MOST_FAILURES: usize = 1000;
/// The number of failures that [`Report`]'s text shows.
const SHOWN: usize = 40;

/// Clients in threads of their own that send one request after the other until [`AvailabilityProbe::finish`].
///
/// ```no_run
/// # use psflip_testkit::{AvailabilityProbe, Sandbox, client::http::HttpClient};
/// # let sandbox = Sandbox::new();
/// # let psflip = sandbox.psflip().start();
/// let socket = sandbox.path("app.sock");
/// let probe = AvailabilityProbe::start(8, |_| {
///     let mut client = HttpClient::unix(&socket).keep_alive();
///     move || client.get("/")?.tag("pid")
/// });
/// probe.wait_requests(100);
/// psflip.flip();
/// probe.wait_requests(100);
/// let report = probe.finish();
/// report.assert_no_failures();
/// assert_eq!(report.by_tag.len(), 2, "both generations answered");
/// ```
#[derive(Debug)]
pub struct AvailabilityProbe {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    started: Instant,
    /// The sandboxes of the thread that started the probe; the first one's start is the origin of the times
    /// in the report's text.
    sandboxes: Vec<Weak<Inner>>,
    origin: Instant,
    stop: AtomicBool,
    seen: Mutex<Report>,
    changed: Condvar,
}

/// A failed request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// When the request failed, since the start of the probe.
    pub at: Duration,
    /// How long the request took to fail.
    pub took: Duration,
    /// The index of the client.
    pub client: usize,
    /// The stage and the cause.
    pub error: ClientError,
}

/// All answers with one tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Their number.
    pub count: u64,
    /// When the first arrived, since the start of the probe.
    pub first: Duration,
    /// When the last arrived, since the start of the probe.
    pub last: Duration,
}

/// The result of a probe.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The number of completed requests, including failed ones.
    pub requests: u64,
    /// The number of failed requests.
    pub failed: u64,
    /// The first 1000 failures, with all details.
    pub failures: Vec<Failure>,
    /// Answers by the tag that the client's closure returned.
    pub by_tag: BTreeMap<String, Answers>,
    /// The start of the probe, since the start of the sandbox. The text and the JSON of the report have all
    /// times since the start of the sandbox, as the sandbox's own report has.
    pub started: Duration,
    /// The upgrades that the test requested while the probe ran; times are since the start of the sandbox.
    pub flips: Vec<FlipMark>,
    /// How long all requests took, including failed ones.
    pub latencies: Latencies,
    /// How long the requests took that ran during an upgrade, at least in part.
    pub latencies_in_flips: Latencies,
    /// The duration of the slowest request, including failed ones.
    pub slowest: Duration,
    /// When the slowest request completed, since the start of the probe.
    pub slowest_at: Duration,
    /// How long the probe ran.
    pub duration: Duration,
}

impl AvailabilityProbe {
    /// Starts `clients` threads. `make` returns the client for each: a closure that sends one request and
    /// returns a tag of the answer, such as the pid or the name of the generation in it.
    ///
    /// # Panics
    /// If a thread can't be started.
    pub fn start<C>(clients: usize, mut make: impl FnMut(usize) -> C) -> Self
    where
        C: FnMut() -> Result<String, ClientError> + Send + 'static,
    {
        let sandboxes = report::concerned();
        let started = Instant::now();
        let origin = sandboxes.iter().map(|sandbox| sandbox.started).min().unwrap_or(started);
        let shared = Arc::new(Shared {
            started,
            sandboxes: sandboxes.iter().map(Arc::downgrade).collect(),
            origin,
            stop: AtomicBool::new(false),
            seen: Mutex::default(),
            changed: Condvar::new(),
        });
        let start = |number| {
            let (shared, client) = (Arc::clone(&shared), make(number));
            let thread = std::thread::Builder::new().name(format!("testkit-client-{number}"));
            thread.spawn(move || shared.run(number, client)).expect("a thread can be started")
        };
        let threads = (0..clients).map(start).collect();
        Self { shared, threads }
    }

    /// Waits until `count` more requests have completed.
    ///
    /// # Panics
    /// If they haven't within the default deadline.
    #[track_caller]
    pub fn wait_requests(&self, count: u64) {
        let wanted = self.shared.lock().requests + count;
        self.wait(&format!("{count} more requests of the availability probe"), |seen| {
            seen.requests >= wanted
        });
    }

    /// Waits until an answer with this tag arrives, or has arrived already.
    ///
    /// # Panics
    /// If none arrives within the default deadline.
    #[track_caller]
    pub fn wait_tag(&self, tag: &str) {
        self.wait(&format!("an answer tagged `{tag}`"), |seen| seen.by_tag.contains_key(tag));
    }

    #[track_caller]
    fn wait(&self, what: &str, mut there: impl FnMut(&Report) -> bool) {
        let deadline = Deadline::default();
        let mut seen = self.shared.lock();
        while !there(&seen) {
            if deadline.has_expired() {
                let report = seen.clone();
                drop(seen);
                report::expired(&deadline, &format!("{what}; so far: {report}"));
            }
            let waited = self.shared.changed.wait_timeout(seen, deadline.remaining());
            seen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// The result so far.
    #[must_use]
    pub fn report(&self) -> Report {
        let Shared { started, sandboxes, origin, .. } = &*self.shared;
        let mut report = self.shared.lock().clone();
        report.duration = started.elapsed();
        report.started = *started - *origin;
        let marks = sandboxes.iter().filter_map(Weak::upgrade).flat_map(|sandbox| {
            let later = sandbox.started - *origin;
            sandbox.marks.all().into_iter().map(move |mark| mark.later(later))
        });
        let since = report.started;
        report.flips = marks.filter(|mark| mark.over.is_none_or(|over| over >= since)).collect();
        report.flips.sort_by_key(|mark| mark.requested);
        report
    }

    /// Lets every client complete its request, stops the probe, and returns the result.
    #[must_use]
    pub fn finish(mut self) -> Report {
        let duration = self.shared.started.elapsed();
        self.stop();
        Report { duration, ..self.report() }
    }

    fn stop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() && !std::thread::panicking() {
                report::fail("a client of the availability probe panicked");
            }
        }
    }
}

impl Drop for AvailabilityProbe {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Report> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A number that changes when an upgrade begins or is over, and whether one runs.
    fn flips(&self) -> (u64, bool) {
        let states = self.sandboxes.iter().filter_map(Weak::upgrade).map(|sandbox| sandbox.marks.state());
        states.fold((0, false), |all, one| (all.0 + one.0, all.1 || one.1))
    }

    fn run(&self, client: usize, mut request: impl FnMut() -> Result<String, ClientError>) {
        while !self.stop.load(Ordering::Relaxed) {
            let before = self.flips();
            let begun = Instant::now();
            let result = request();
            let (took, at) = (begun.elapsed(), self.started.elapsed());
            let in_flip = before.1 || self.flips() != before;
            let failed = result.is_err();
            let mut seen = self.lock();
            seen.requests += 1;
            seen.latencies.add(took);
            if in_flip {
                seen.latencies_in_flips.add(took);
            }
            if took > seen.slowest {
                (seen.slowest, seen.slowest_at) = (took, at);
            }
            match result {
                Ok(tag) => {
                    let answers = seen.by_tag.entry(tag).or_insert(Answers { count: 0, first: at, last: at });
                    answers.count += 1;
                    answers.last = at;
                }
                Err(error) => {
                    seen.failed += 1;
                    if seen.failures.len() < MOST_FAILURES {
                        seen.failures.push(Failure { at, took, client, error });
                    }
                }
            }
            drop(seen);
            self.changed.notify_all();
            if failed {
                // A refused connection fails at once: without a pause, retries would take a whole processor
                // from the program under test.
                crate::wait::pause_after_failure();
            }
        }
    }
}

impl Report {
    /// Asserts that no request failed and at least one was sent.
    ///
    /// # Panics
    /// Otherwise; the message has a timeline of the failures and of which process answered when.
    #[track_caller]
    pub fn assert_no_failures(&self) {
        if self.failed > 0 || self.requests == 0 {
            report::fail(&format!("the service was not available at every moment: {self}"));
        }
    }

    /// The duration that this percentage of the requests (0 to 100) did not exceed, to within 3 %:
    /// `report.percentile(99.0)`. For those during upgrades, see [`Report::latencies_in_flips`].
    #[must_use]
    pub fn percentile(&self, percent: f64) -> Duration {
        self.latencies.percentile(percent)
    }

    /// The report as JSON, for a script or a file; its times are milliseconds since the start of the sandbox.
    #[must_use]
    pub fn to_json(&self) -> serde_json::Value {
        let at = |time: Duration| millis(self.started + time);
        let answers = |(tag, answers): (&String, &Answers)| {
            let Answers { count, first, last } = answers;
            let value = serde_json::json!({"count": count, "first_ms": at(*first), "last_ms": at(*last)});
            (tag.clone(), value)
        };
        let failure = |failure: &Failure| {
            serde_json::json!({
                "at_ms": at(failure.at), "took_ms": millis(failure.took), "client": failure.client,
                "flip": self.flip_of(failure), "stage": failure.error.stage.name(),
                "cause": failure.error.cause, "reused": failure.error.reused,
            })
        };
        serde_json::json!({
            "requests": self.requests,
            "failed": self.failed,
            "started_ms": millis(self.started),
            "duration_ms": millis(self.duration),
            "latencies": self.latencies.to_json(),
            "latencies_in_flips": self.latencies_in_flips.to_json(),
            "answers": self.by_tag.iter().map(answers).collect::<serde_json::Map<_, _>>(),
            "flips": self.flips.iter().map(FlipMark::to_json).collect::<Vec<_>>(),
            "failures": self.failures.iter().map(failure).collect::<Vec<_>>(),
        })
    }

    /// The number of the upgrade, from 1, that ran at some moment of this failed request.
    #[must_use]
    pub fn flip_of(&self, failure: &Failure) -> Option<usize> {
        let end = self.started + failure.at;
        let begin = end.saturating_sub(failure.took);
        self.flips.iter().position(|flip| flip.overlaps(begin, end)).map(|index| index + 1)
    }

    /// The number of failures by stage and cause.
    #[must_use]
    pub fn causes(&self) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::new();
        for failure in &self.failures {
            *counts.entry(failure.error.to_string()).or_insert(0) += 1;
        }
        counts
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |time: &Duration| format!("{:.3}", (self.started + *time).as_secs_f64());
        let duration = self.duration.as_secs_f64();
        write!(f, "{} of {} requests failed in {duration:.3} s; ", self.failed, self.requests)?;
        writeln!(f, "slowest {:.1} ms at {}", self.slowest.as_secs_f64() * 1e3, seconds(&self.slowest_at))?;
        writeln!(f, "  all: {}", self.latencies)?;
        for (number, flip) in self.flips.iter().enumerate() {
            writeln!(f, "  flip {}: {flip}", number + 1)?;
        }
        if !self.flips.is_empty() {
            writeln!(f, "  in flips: {}", self.latencies_in_flips)?;
        }
        let mut tags: Vec<_> = self.by_tag.iter().collect();
        tags.sort_by_key(|(_, answers)| answers.first);
        for (tag, answers) in tags {
            writeln!(
                f,
                "  {} - {}: {} answers from `{tag}`",
                seconds(&answers.first),
                seconds(&answers.last),
                answers.count
            )?;
        }
        for (cause, count) in self.causes() {
            writeln!(f, "  {count} times {cause}")?;
        }
        for failure in self.failures.iter().take(SHOWN) {
            let took = failure.took.as_secs_f64() * 1e3;
            writeln!(
                f,
                "  {}{} client {} after {took:.1} ms: {}",
                seconds(&failure.at),
                self.flip_of(failure).map(|number| format!(" in flip {number}")).unwrap_or_default(),
                failure.client,
                failure.error
            )?;
        }
        if self.failures.len() > SHOWN {
            writeln!(f, "  … and {} more", self.failed - SHOWN as u64)?;
        }
        Ok(())
    }
}
