//! Clients of the control socket that send requests without pause, some of them invalid, and checks of the
//! answers: while a service runs there is an answer, the numbers of generations and upgrades never decrease,
//! and the last status fits the observed state.

use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use fastrand::Rng;
use serde_json::Value;

use crate::pause::pause;

/// How long an answer may take. A psflip may be stopped (SIGSTOP) for a while, and without descriptors it
/// tries again after a second.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// The pause between two requests: psflip needs time for the rest, too.
const REST: Duration = Duration::from_millis(6);

/// All events of the control socket.
const EVENTS: [&str; 14] = [
    "status", "accepted", "step", "baking", "promoted", "drained", "failed", "moved", "refused", "error",
    "stopping", "ignored", "waiting", "stopped",
];

/// The operators of one round.
pub(crate) struct Operators {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    socket: PathBuf,
    /// The periods in which there may be no answer; one without an end is still open.
    silence: Vec<(Instant, Option<Instant>)>,
}

struct Shared {
    socket: PathBuf,
    over: AtomicBool,
    /// The number of the service: answers of different services are not compared.
    service: AtomicU64,
    answers: AtomicU64,
    complaints: Mutex<Vec<Complaint>>,
    /// No requests are to be sent.
    hushed: AtomicBool,
    /// Each of the two clients holds its lock while it has a connection.
    turns: [Mutex<()>; 2],
}

/// A wrong or a missing answer.
#[derive(Clone, Debug)]
struct Complaint {
    begun: Instant,
    ended: Instant,
    /// There was no answer, which may be allowed.
    is_silence: bool,
    what: String,
}

/// Why there is no valid answer.
enum RequestError {
    /// No psflip listens, or it has closed the connection.
    NoAnswer(String),
    /// The answer is invalid.
    Invalid(String),
}

impl Operators {
    /// Starts the clients. At first no service runs.
    pub(crate) fn start(socket: &Path, seed: u64) -> Self {
        let silence = vec![(Instant::now(), None)];
        let shared = Arc::new(Shared {
            socket: socket.to_owned(),
            over: AtomicBool::new(false),
            service: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            complaints: Mutex::default(),
            hushed: AtomicBool::new(false),
            turns: Default::default(),
        });
        let run = |work: fn(&Shared, u64)| {
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || work(&shared, seed))
        };
        let threads = vec![run(Shared::ask_how_things_are), run(Shared::annoy)];
        Self { shared, threads, socket: socket.to_owned(), silence }
    }

    /// Prepares for another service. No request is sent until [`Operators::speak`], and no answer is required
    /// until [`Operators::forbid_silence`].
    pub(crate) fn new_service(&mut self) {
        self.hush();
        self.allow_silence();
        self.shared.service.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn allow_silence(&mut self) {
        if self.silence.last().is_none_or(|(_, end)| end.is_some()) {
            self.silence.push((Instant::now(), None));
        }
    }

    /// Requires answers from now on.
    pub(crate) fn forbid_silence(&mut self) {
        if let Some((_, end)) = self.silence.last_mut() {
            end.get_or_insert_with(Instant::now);
        }
    }

    /// The number of answers so far.
    pub(crate) fn answers(&self) -> u64 {
        self.shared.answers.load(Ordering::Relaxed)
    }

    /// The first violation since the last call.
    pub(crate) fn judge(&self) -> Option<String> {
        let complaints = std::mem::take(&mut *lock(&self.shared.complaints));
        let is_allowed = |complaint: &Complaint| {
            let overlaps = |(start, end): &(Instant, Option<Instant>)| {
                *start <= complaint.ended && end.is_none_or(|end| complaint.begun <= end)
            };
            complaint.is_silence && self.silence.iter().any(overlaps)
        };
        complaints.into_iter().find(|complaint| !is_allowed(complaint)).map(|complaint| complaint.what)
    }

    /// Stops the requests: when it returns, no connection is left.
    pub(crate) fn hush(&self) {
        self.shared.hushed.store(true, Ordering::SeqCst);
        for turn in &self.shared.turns {
            drop(lock(turn));
        }
    }

    /// Ends [`Operators::hush`].
    pub(crate) fn speak(&self) {
        self.shared.hushed.store(false, Ordering::SeqCst);
    }

    /// Requests the status. Call it while the clients are hushed and psflip is at rest.
    pub(crate) fn status(&self) -> Result<Value, String> {
        match status(&self.socket) {
            Ok(Some(status)) => Ok(status),
            Ok(None) => Err("it has moved".to_owned()),
            Err(RequestError::NoAnswer(why) | RequestError::Invalid(why)) => Err(why),
        }
    }
}

impl Drop for Operators {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic of the thread was printed already
        }
    }
}

impl Shared {
    /// Requests one status after the other, and compares each with the one before.
    fn ask_how_things_are(&self, _seed: u64) {
        let mut last = (0, 0, 0);
        while !self.over.load(Ordering::Relaxed) {
            let Some(turn) = self.turn(0) else { continue };
            let (begun, service) = (Instant::now(), self.service.load(Ordering::Relaxed));
            let answer = status(&self.socket);
            let is_same = service == self.service.load(Ordering::Relaxed);
            drop(turn);
            let complain = |is_silence, what: String| self.complain(begun, is_silence, what);
            match answer {
                Ok(Some(status)) => {
                    self.answers.fetch_add(1, Ordering::Relaxed);
                    match story(&status) {
                        Ok((generation, upgrade)) if is_same => {
                            if last.0 == service && (generation < last.1 || upgrade < last.2) {
                                complain(
                                    false,
                                    format!(
                                        "generation {generation} and upgrade {upgrade} were reported after {} and {}: {status}",
                                        last.1, last.2
                                    ),
                                );
                            }
                            last = (service, generation, upgrade);
                        }
                        Ok(_) => {}
                        Err(why) => complain(false, format!("{why}: {status}")),
                    }
                }
                Ok(None) => {} // request it again
                Err(RequestError::NoAnswer(why)) => complain(true, why),
                Err(RequestError::Invalid(why)) => complain(false, why),
            }
            pause(REST);
        }
    }

    /// Sends invalid or aborted requests. They must be answered as well, if the client waits.
    fn annoy(&self, seed: u64) {
        let mut dice = Rng::with_seed(seed);
        while !self.over.load(Ordering::Relaxed) {
            let Some(turn) = self.turn(1) else { continue };
            let begun = Instant::now();
            match annoy(&self.socket, &mut dice) {
                Ok(()) | Err(RequestError::NoAnswer(_)) => {}
                Err(RequestError::Invalid(why)) => self.complain(begun, false, why),
            }
            drop(turn);
            pause(REST + Duration::from_micros(dice.u64(..6000)));
        }
    }

    /// Permission to connect; `None` while hushed.
    fn turn(&self, who: usize) -> Option<MutexGuard<'_, ()>> {
        let turn = lock(&self.turns[who]);
        if self.hushed.load(Ordering::SeqCst) {
            drop(turn);
            pause(Duration::from_millis(1));
            return None;
        }
        Some(turn)
    }

    fn complain(&self, begun: Instant, is_silence: bool, what: String) {
        let complaint = Complaint { begun, ended: Instant::now(), is_silence, what };
        lock(&self.complaints).push(complaint);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn connect(socket: &Path) -> Result<UnixStream, RequestError> {
    let stream =
        UnixStream::connect(socket).map_err(|error| RequestError::NoAnswer(format!("connect: {error}")))?;
    let patience = stream
        .set_read_timeout(Some(ANSWER_TIMEOUT))
        .and_then(|()| stream.set_write_timeout(Some(ANSWER_TIMEOUT)));
    patience.map_err(|error| RequestError::Invalid(format!("the harness: {error}")))?;
    Ok(stream)
}

/// Requests the status; `None` if this generation is not the active one any more.
fn status(socket: &Path) -> Result<Option<Value>, RequestError> {
    let mut stream = connect(socket)?;
    let gone = |error: std::io::Error| RequestError::NoAnswer(format!("status: {error}"));
    stream.write_all(b"{\"psflip\":1,\"request\":\"status\"}\n").map_err(gone)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(gone)?;
    if line.is_empty() {
        return Err(RequestError::NoAnswer("status: the connection was closed without an answer".to_owned()));
    }
    let mut event = parse(&line)?;
    match event["event"].as_str() {
        Some("status") => Ok(Some(event["status"].take())),
        Some("moved") => Ok(None),
        Some("stopped") => Err(RequestError::NoAnswer(format!("status: {}", line.trim_end()))),
        _ => Err(RequestError::Invalid(format!(
            "a status was requested, and the answer was {}",
            line.trim_end()
        ))),
    }
}

fn parse(line: &str) -> Result<Value, RequestError> {
    let event: Option<Value> = serde_json::from_str(line).ok();
    let known = |event: &Value| event["event"].as_str().is_some_and(|name| EVENTS.contains(&name));
    event
        .filter(known)
        .ok_or_else(|| RequestError::Invalid(format!("a line on the control socket is no event: {line}")))
}

/// One client that sends an invalid request, disconnects early, or follows and watches for a moment.
fn annoy(socket: &Path, dice: &mut Rng) -> Result<(), RequestError> {
    let mut stream = connect(socket)?;
    let number = dice.u64(..40);
    let request = match dice.u8(..12) {
        0 => String::new(),
        1 => "{\"psflip\":1,\"request\":\"sta".to_owned(),
        2 => "\u{fffd}\0nonsense\n".to_owned(),
        3 => "x".repeat(5000),
        4 => "{\"psflip\":1}\n".to_owned(),
        5 => "{\"psflip\":1,\"request\":\"follow\"}\n".to_owned(),
        6..=8 => format!("{{\"psflip\":1,\"request\":\"follow\",\"upgrade\":{number}}}\n"),
        _ => "{\"psflip\":1,\"request\":\"watch\"}\n".to_owned(),
    };
    let _ = stream.write_all(request.as_bytes()); // EPIPE: the answer may come before everything was written
    match dice.u8(..4) {
        0 => return Ok(()),
        1 => drop(stream.shutdown(std::net::Shutdown::Write)),
        _ => {}
    }
    // Some read for a while, the others disconnect at the first byte.
    let until = Instant::now() + Duration::from_millis(if dice.bool() { dice.u64(1..40) } else { 1 });
    // an error only leaves the longer timeout
    let _ = stream.set_read_timeout(Some(Duration::from_millis(1)));
    let mut said = Vec::new();
    let mut buffer = [0; 16 << 10];
    while Instant::now() < until {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => break,
        }
    }
    let complete = said.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    String::from_utf8_lossy(&said[..complete]).lines().try_for_each(|line| parse(line).map(drop))
}

/// The generation and the last upgrade of a status, if its parts are consistent.
pub(crate) fn story(status: &Value) -> Result<(u64, u64), String> {
    let generation = status["generation"].as_u64().ok_or("no generation")?;
    let state = status["state"].as_str().unwrap_or_default();
    if !["starting", "serving", "upgrading", "stopping"].contains(&state) {
        return Err(format!("the state `{state}` is none"));
    }
    let history = status["history"].as_array().ok_or("no history")?;
    let number = |record: &Value| record["upgrade"].as_u64().unwrap_or(0);
    let mut newest = None;
    for record in history {
        if newest.is_some_and(|newest| number(record) <= newest) {
            return Err("upgrades are not in their order".to_owned());
        }
        newest = Some(number(record));
        let reason = record["reason"].as_str().unwrap_or_default();
        match record["result"].as_str() {
            Some("promoted") if reason.is_empty() => {}
            Some("failed" | "rolled_back") if !reason.is_empty() => {}
            other => return Err(format!("upgrade {} is {other:?}, because `{reason}`", number(record))),
        }
        if record["to"].as_u64().is_none_or(|to| to > generation + 1) {
            return Err(format!("this service has no upgrade {}", number(record)));
        }
    }
    let under_way = status["upgrade"].as_object().map(|_| number(&status["upgrade"]));
    if let (Some(now), Some(newest)) = (under_way, newest)
        && now <= newest
    {
        return Err(format!("upgrade {now} is under way after upgrade {newest}"));
    }
    Ok((generation, under_way.or(newest).unwrap_or(0)))
}
