//! The thread that drives all clients by epoll(7).

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::epoll;
use rustix::event::{Timespec, epoll::CreateFlags};

use super::client::{Client, Context};
use super::extra::Extra;
use super::http::Accepted;
use super::record::Record;
use super::target::{Kind, Load};

/// How often time limits and pauses are looked at. How late that happens is how late the load itself was.
const TICK: Duration = Duration::from_millis(5);
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
    pub(crate) extra: Arc<Extra>,
}

/// The running load. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Engine {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
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
        let accepted = Accepted(settings.accepted.0, settings.accepted.1);
        let make = |(number, (load, kind)): (usize, &(Load, Kind))| {
            Client::new(number, load, *kind, accepted, &settings.extra)
        };
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

    /// Lets requests under way complete, and ends the load. Those that don't are lost.
    pub(crate) fn finish(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // If it panicked, its message is on standard error, and the counts end there.
            let _ = thread.join();
        }
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
    fn run(mut self) {
        let mut buffer = vec![0; BUFFER];
        let mut events = Vec::with_capacity(1024);
        let begun = Instant::now();
        let (mut tick, mut delay) = (begun + TICK, Duration::ZERO);
        let mut turn = Turn { due: begun, client: 0 };
        let mut end = None;
        loop {
            let wake = match self.settings.pace {
                _ if self.clients.iter().any(Client::has_more) => begun, // at once
                Pace::Rate(_) => tick.min(turn.due.max(Instant::now())),
                Pace::Closed => tick,
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
            for client in self.clients.iter_mut().filter(|client| client.has_more()) {
                client.drive(Instant::now(), &mut context);
            }
            let is_ending = self.stop.load(Ordering::Relaxed);
            if !is_ending {
                self.settings.pace.begin(&mut self.clients, &mut turn, now, &mut context);
            }
            if now >= tick {
                self.clients.iter_mut().for_each(|client| client.on_tick(now, &mut context));
                self.record.own_delay(delay.max(now - tick));
                (tick, delay) = (now + TICK, Duration::ZERO);
            }
            delay = delay.max(now.elapsed());
            if is_ending && self.has_ended(*end.get_or_insert(now + self.settings.timeout), now) {
                return self.clients.iter_mut().for_each(|client| client.finish(now, &mut context));
            }
        }
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

/// Whose turn it is, and when, at a given rate.
struct Turn {
    due: Instant,
    client: usize,
}

impl Pace {
    /// Begins the requests that are due.
    fn begin(self, clients: &mut [Client], turn: &mut Turn, now: Instant, context: &mut Context<'_>) {
        match self {
            Self::Closed => {
                for client in clients.iter_mut().filter(|client| client.is_due(now)) {
                    let now = Instant::now();
                    client.begin(now, now, context);
                }
            }
            Self::Rate(rate) => {
                while turn.due <= now {
                    // Every client in its turn, so that each kind gets its share.
                    let count = clients.len();
                    let order = (turn.client..count).chain(0..turn.client);
                    let Some(number) = order.into_iter().find(|number| clients[*number].is_due(now)) else {
                        return;
                    };
                    clients[number].begin(turn.due, Instant::now(), context);
                    turn.due += Duration::from_secs_f64(1.0 / rate);
                    turn.client = (number + 1) % count;
                }
            }
        }
    }
}
