//! What the clients have seen: every request with its time, and every loss with its cause.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::histogram::Histogram;
use super::tally::{Sample, Tally};

/// How far a request got before it was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Stage {
    /// No connection could be made.
    Connect,
    /// The connection failed while the request was sent.
    Send,
    /// The request was sent; no byte of an answer arrived.
    FirstByte,
    /// The head of the answer arrived in part.
    Head,
    /// The body of the answer arrived in part.
    Body,
    /// The answer violates the protocol.
    Protocol,
    /// The answer is complete, but its status says that the service failed.
    Status,
}

/// The connection of a lost request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Connection {
    /// Opened for this request alone.
    Own,
    /// A keep-alive connection, for its first request.
    First,
    /// A keep-alive connection that had served other requests.
    Reused,
}

/// A lost request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Loss {
    /// When it was lost, since the rehearsal began.
    pub(crate) at: Duration,
    /// How long it had taken by then.
    pub(crate) took: Duration,
    pub(crate) client: u16,
    pub(crate) stage: Stage,
    pub(crate) connection: Connection,
    pub(crate) cause: String,
    /// The status of the answer, if that is the failure.
    pub(crate) status: Option<u16>,
}

/// A request that was lost, before it is known when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    pub(crate) stage: Stage,
    pub(crate) cause: String,
    pub(crate) status: Option<u16>,
}

impl Failed {
    pub(crate) fn new(stage: Stage, cause: impl Into<String>) -> Self {
        Self { stage, cause: cause.into(), status: None }
    }
}

/// How often who waits for the first answers is called.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// The most losses that are kept with their causes.
const MOST_LOSSES: usize = 10_000;

/// What one thread writes and the others read.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) began: Instant,
    seen: Mutex<Seen>,
    changed: Condvar,
    /// The load of each client.
    loads: Vec<usize>,
    is_awaited: AtomicBool,
    /// The requests that each client has completed.
    completed: Vec<AtomicU64>,
    /// The answers among them that were good.
    answered: Vec<AtomicU64>,
}

/// The requests, losses and delays so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) tally: Tally,
    pub(crate) losses: Vec<Loss>,
    /// Connections that the server closed as its protocol provides (WebSocket's close frame).
    pub(crate) closed_politely: u64,
    /// The first error of the load's own, which is none of the service.
    pub(crate) own_error: Option<String>,
    /// How late the load itself was, in microseconds.
    pub(crate) own_delays: Histogram,
}

impl Record {
    /// `loads`: the number of each client's load.
    pub(crate) fn new(began: Instant, loads: Vec<usize>) -> Arc<Self> {
        let counters = || (0..loads.len()).map(|_| AtomicU64::new(0)).collect();
        Arc::new(Self {
            began,
            seen: Mutex::default(),
            changed: Condvar::new(),
            is_awaited: AtomicBool::new(false),
            completed: counters(),
            answered: counters(),
            loads,
        })
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Microseconds since the rehearsal began.
    pub(crate) fn micros(&self, at: Instant) -> u64 {
        at.saturating_duration_since(self.began).as_micros() as u64
    }

    pub(crate) fn success(&self, client: usize, began: Instant, now: Instant) {
        self.sample(client, began, now, false);
        self.answered[client].fetch_add(1, Ordering::Relaxed);
        self.notify();
    }

    pub(crate) fn loss(
        &self,
        client: usize,
        began: Instant,
        now: Instant,
        connection: Connection,
        failed: Failed,
    ) {
        self.sample(client, began, now, true);
        let mut seen = self.lock();
        if seen.losses.len() < MOST_LOSSES {
            let Failed { stage, cause, status } = failed;
            let (at, took) =
                (now.saturating_duration_since(self.began), now.saturating_duration_since(began));
            seen.losses.push(Loss { at, took, client: client as u16, stage, connection, cause, status });
        }
        drop(seen);
        self.notify();
    }

    fn sample(&self, client: usize, began: Instant, now: Instant, lost: bool) {
        let took = now.saturating_duration_since(began).as_micros();
        let took = u32::try_from(took).unwrap_or(u32::MAX);
        self.lock().tally.add(Sample { at: self.micros(now), took, load: self.loads[client], lost });
        self.completed[client].fetch_add(1, Ordering::Relaxed);
    }

    /// The answer of a stream has begun; it may have no end.
    pub(crate) fn stream_began(&self, client: usize) {
        self.completed[client].fetch_add(1, Ordering::Relaxed);
        self.answered[client].fetch_add(1, Ordering::Relaxed);
        self.notify();
    }

    pub(crate) fn own_error(&self, text: String) {
        self.lock().own_error.get_or_insert(text);
    }

    pub(crate) fn polite_close(&self) {
        self.lock().closed_politely += 1;
    }

    pub(crate) fn own_delay(&self, delay: Duration) {
        let micros = u32::try_from(delay.as_micros()).unwrap_or(u32::MAX);
        self.lock().own_delays.add(micros);
    }

    fn notify(&self) {
        if self.is_awaited.load(Ordering::Relaxed) {
            self.changed.notify_all();
        }
    }

    /// Waits until every client has completed `count` more requests, or for `limit`. Returns the clients that
    /// have not.
    pub(crate) fn wait_each(&self, count: u64, limit: Duration) -> Vec<usize> {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let wanted: Vec<u64> = self.completed.iter().map(|counter| load(counter) + count).collect();
        self.wait(limit, || {
            let clients = self.completed.iter().zip(&wanted).enumerate();
            clients
                .filter(|(_, (counter, wanted))| load(counter) < **wanted)
                .map(|(client, _)| client)
                .collect()
        })
    }

    /// Waits until every client has had a good answer, or for `limit`. Returns the clients that have had none.
    /// `on_wait` is called again and again meanwhile, until it returns false.
    pub(crate) fn wait_first_answers(
        &self,
        limit: Duration,
        mut on_wait: impl FnMut() -> bool,
    ) -> Vec<usize> {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let missing = self.wait_answers(left.min(LOOK_AGAIN));
            if missing.is_empty() || left.is_zero() || !on_wait() {
                return missing;
            }
        }
    }

    fn wait_answers(&self, limit: Duration) -> Vec<usize> {
        self.wait(limit, || {
            let clients = self.answered.iter().enumerate();
            clients
                .filter(|(_, counter)| counter.load(Ordering::Relaxed) == 0)
                .map(|(client, _)| client)
                .collect()
        })
    }

    /// Lets the load go on for this time.
    pub(crate) fn wait_for(&self, time: Duration) {
        self.wait(time, || vec![0]);
    }

    fn wait(&self, limit: Duration, missing: impl Fn() -> Vec<usize>) -> Vec<usize> {
        let end = Instant::now() + limit;
        self.is_awaited.store(true, Ordering::Relaxed);
        let mut seen = self.lock();
        let missing = loop {
            let clients = missing();
            let left = end.saturating_duration_since(Instant::now());
            if clients.is_empty() || left.is_zero() {
                break clients;
            }
            // The load notifies without the lock, so look again after a while even if it did just before.
            let left = left.min(Duration::from_millis(20));
            seen = self.changed.wait_timeout(seen, left).unwrap_or_else(PoisonError::into_inner).0;
        };
        self.is_awaited.store(false, Ordering::Relaxed);
        missing
    }
}
