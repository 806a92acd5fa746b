//! The thread that drives all clients by epoll(7).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::event::{Timespec, epoll::CreateFlags};

use super::client::{Client, Context};
use super::http::Accepted;
use super::record::Record;
use super::target::{Kind, Load};

/// How often time limits and pauses are looked at. How late that happens is how late the load itself was.
const TICK: Duration = Duration::from_millis(5);
/// How long requests under way may take to complete when the load ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);
const BUFFER: usize = 64 * 1024;

/// When requests begin.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Pace {
    /// Every client sends its next request as soon as it has its answer.
    Closed,
    /// So many requests a second, whether the service keeps up or not; a request's time counts from when it was
    /// due.
    Rate(f64),
}

/// The settings of a load.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) pace: Pace,
    /// How long a request may make no progress.
    pub(crate) timeout: Duration,
    pub(crate) accepted: (u16, u16),
}

/// The running load. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Engine {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<usize>>,
}

impl Engine {
    /// Starts a thread with one client for each of `clients`: a load, and the kind of its requests.
    ///
    /// # Errors
    /// No epoll instance, or no thread.
    pub(crate) fn start(
        clients: &[(Load, Kind)],
        settings: &Settings,
        record: &Arc<Record>,
    ) -> std::io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let now = Instant::now();
        let accepted = Accepted(settings.accepted.0, settings.accepted.1);
        let make =
            |(number, (load, kind)): (usize, &(Load, Kind))| Client::new(number, load, *kind, accepted, now);
        let running = Running {
            clients: clients.iter().enumerate().map(make).collect(),
            epoll,
            record: Arc::clone(record),
            stop: Arc::default(),
            settings: settings.clone(),
        };
        let stop = Arc::clone(&running.stop);
        let thread = std::thread::Builder::new().name("load".to_owned()).spawn(move || running.run())?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Lets requests under way complete, and ends the load. Returns how many have not completed.
    pub(crate) fn finish(mut self) -> usize {
        self.end()
    }

    fn end(&mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(0, |thread| thread.join().unwrap_or(0))
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.end();
    }
}

struct Running {
    clients: Vec<Client>,
    epoll: OwnedFd,
    record: Arc<Record>,
    stop: Arc<AtomicBool>,
    settings: Settings,
}

impl Running {
    fn run(mut self) -> usize {
        let mut buffer = vec![0; BUFFER];
        let mut events = Vec::with_capacity(1024);
        let begun = Instant::now();
        let (mut tick, mut due, mut delay) = (begun + TICK, begun, Duration::ZERO);
        let mut end = None;
        loop {
            let wake = match self.settings.pace {
                Pace::Rate(_) if due > Instant::now() => tick.min(due),
                _ => tick,
            };
            self.wait(&mut events, wake);
            let now = Instant::now();
            let mut context = Context {
                record: &self.record,
                epoll: &self.epoll,
                buffer: &mut buffer,
                timeout: self.settings.timeout,
            };
            for event in events.drain(..) {
                let number = event.data.u64() as usize;
                self.clients[number].on_event(now, &mut context);
            }
            let is_ending = self.stop.load(Ordering::Relaxed);
            if !is_ending {
                self.settings.pace.begin(&mut self.clients, &mut due, now, &mut context);
            }
            if now >= tick {
                self.clients.iter_mut().for_each(|client| client.on_tick(now, &mut context));
                self.record.own_delay(now, delay.max(now - tick));
                (tick, delay) = (now + TICK, Duration::ZERO);
            }
            delay = delay.max(now.elapsed());
            if is_ending && self.has_ended(*end.get_or_insert(now + LAST_ANSWERS), now) {
                break;
            }
        }
        let unfinished = self.clients.iter().filter(|client| !client.is_idle()).count();
        self.clients.iter_mut().for_each(Client::finish);
        unfinished
    }

    fn has_ended(&self, end: Instant, now: Instant) -> bool {
        // A stream may have no end; it says nothing that it is still open.
        now >= end || self.clients.iter().all(|client| client.is_idle() || client.kind == Kind::Stream)
    }

    fn wait(&self, events: &mut Vec<epoll::Event>, wake: Instant) {
        let left = wake.saturating_duration_since(Instant::now());
        let limit = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        events.clear();
        // EINTR: there are no events; the caller looks at the clock.
        let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(events), Some(&limit));
    }
}

impl Pace {
    /// Begins the requests that are due.
    fn begin(self, clients: &mut [Client], due: &mut Instant, now: Instant, context: &mut Context<'_>) {
        match self {
            Self::Closed => {
                for client in clients.iter_mut().filter(|client| client.is_due(now)) {
                    client.begin(now, now, context);
                }
            }
            Self::Rate(rate) => {
                let mut idle = clients.iter_mut().filter(|client| client.is_due(now));
                while *due <= now
                    && let Some(client) = idle.next()
                {
                    client.begin(*due, now, context);
                    *due += Duration::from_secs_f64(1.0 / rate);
                }
            }
        }
    }
}
