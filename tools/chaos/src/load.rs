//! Clients that send requests without pause and compare every answer. A request may fail only while loss is
//! allowed.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use testkit::client::fcgi::FcgiClient;
use testkit::client::http::HttpClient;
use testkit::client::{ClientError, Stage, field};

use crate::pause::pause;
use crate::plan::Flavour;

/// The number of clients.
const CLIENTS: usize = 2;

/// The clients of one round.
pub(crate) struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    flavour: Flavour,
    /// The periods in which requests may fail; one without an end is still open.
    allowed: Vec<(Instant, Option<Instant>)>,
}

#[derive(Default)]
struct Shared {
    over: AtomicBool,
    answered: AtomicU64,
    failures: Mutex<Vec<Failure>>,
}

/// A failed request.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) begun: Instant,
    pub(crate) ended: Instant,
    pub(crate) error: ClientError,
}

/// A client's request: takes the text that the answer must echo, and returns the answer.
type Request = Box<dyn FnMut(&str) -> Result<String, ClientError> + Send>;

impl Load {
    /// Starts the clients. At first no service runs.
    pub(crate) fn start(flavour: Flavour, socket: &Path, port: u16) -> Self {
        let allowed = vec![(Instant::now(), None)];
        let shared = Arc::new(Shared::default());
        let start = |number: usize| {
            let shared = Arc::clone(&shared);
            let mut request = client(flavour, socket, port);
            std::thread::spawn(move || shared.run(number, &mut request))
        };
        let threads = (0..CLIENTS).map(start).collect();
        Self { shared, threads, flavour, allowed }
    }

    /// Allows requests to fail from now on.
    pub(crate) fn allow_loss(&mut self) {
        if self.allowed.last().is_none_or(|(_, end)| end.is_some()) {
            self.allowed.push((Instant::now(), None));
        }
    }

    /// Requires that requests succeed from now on.
    pub(crate) fn forbid_loss(&mut self) {
        if let Some((_, end)) = self.allowed.last_mut() {
            end.get_or_insert_with(Instant::now);
        }
    }

    /// The number of answers so far.
    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Takes the failures since the last call: the allowed ones, and the others.
    pub(crate) fn judge(&mut self) -> (Vec<Failure>, Vec<Failure>) {
        let failures =
            std::mem::take(&mut *self.shared.failures.lock().unwrap_or_else(PoisonError::into_inner));
        failures.into_iter().partition(|failure| self.is_allowed(failure))
    }

    fn is_allowed(&self, failure: &Failure) -> bool {
        // A wrong answer is never allowed.
        if failure.error.stage >= Stage::Protocol {
            return false;
        }
        // When a socket is closed, the kernel resets the connections in its queue; see fixtures/README.md.
        if self.flavour == Flavour::ReusePort && failure.error.cause != "time-out" {
            return true;
        }
        let overlaps = |(start, end): &(Instant, Option<Instant>)| {
            *start <= failure.ended && end.is_none_or(|end| failure.begun <= end)
        };
        self.allowed.iter().any(overlaps)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join(); // a panic of the thread was printed already
        }
    }
}

impl Shared {
    fn run(&self, client: usize, request: &mut Request) {
        let mut number = 0_u64;
        while !self.over.load(Ordering::Relaxed) {
            number += 1;
            let token = format!("{client}-{number}");
            let begun = Instant::now();
            let answer = request(&token).and_then(|text| compare(&text, &token));
            match answer {
                Ok(()) => {
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    let failure = Failure { begun, ended: Instant::now(), error };
                    self.failures.lock().unwrap_or_else(PoisonError::into_inner).push(failure);
                    // A refused connection fails at once; without a pause, the client would take a whole
                    // core.
                    pause(Duration::from_millis(2));
                }
            }
        }
    }
}

fn client(flavour: Flavour, socket: &Path, port: u16) -> Request {
    match flavour {
        Flavour::FastCgi => {
            let mut client = FcgiClient::unix(socket);
            Box::new(move |token| Ok(client.get(&path(token))?.text()))
        }
        Flavour::Proxied => {
            // Keep-alive connections outlive generations (T6).
            let mut client = HttpClient::unix(socket).keep_alive();
            Box::new(move |token| {
                let answer = client.get(&path(token))?;
                // The relay's words for a child that was killed.
                if (502..=504).contains(&answer.status) {
                    let status = answer.status;
                    return Err(ClientError {
                        stage: Stage::Read,
                        ..ClientError::content(format!("status {status}, {}", answer.text()))
                    });
                }
                Ok(answer.text())
            })
        }
        Flavour::Http => {
            let mut client = HttpClient::unix(socket);
            Box::new(move |token| Ok(client.get(&path(token))?.text()))
        }
        Flavour::ReusePort | Flavour::Inherited => {
            let mut client = HttpClient::tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
            Box::new(move |token| Ok(client.get(&path(token))?.text()))
        }
    }
}

/// Every fourth request takes a while, so that some are in progress when a generation stops.
fn path(token: &str) -> String {
    let slow = if token.ends_with(['0', '4', '8']) { "delay=15ms&" } else { "" };
    format!("/?{slow}echo={token}")
}

fn compare(text: &str, token: &str) -> Result<(), ClientError> {
    let is_number = |key| field(text, key).is_some_and(|value| value.parse::<u32>().is_ok());
    if field(text, "echo") == Some(token) && is_number("pid") && is_number("request") {
        return Ok(());
    }
    Err(ClientError::content(format!("requested echo={token}, and got `{}`", text.trim_end())))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(flavour: Flavour) -> Load {
        Load { shared: Arc::default(), threads: Vec::new(), flavour, allowed: Vec::new() }
    }

    fn failure(begun: Instant, millis: u64, error: ClientError) -> Failure {
        Failure { begun, ended: begun + Duration::from_millis(millis), error }
    }

    fn refused() -> ClientError {
        ClientError { stage: Stage::Connect, ..ClientError::content("refused") }
    }

    #[test]
    fn a_request_may_fail_while_loss_is_allowed_and_at_no_other_time() {
        let mut load = load(Flavour::Http);
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        load.allowed = vec![(at(100), Some(at(200))), (at(300), None)];
        let allowed = |begun, millis| load.is_allowed(&failure(at(begun), millis, refused()));
        assert_eq!(
            [allowed(0, 50), allowed(0, 150), allowed(150, 500), allowed(210, 50)],
            [false, true, true, false]
        );
        assert!(allowed(250, 60) && allowed(9000, 1));
    }

    #[test]
    fn a_wrong_answer_is_never_allowed_and_a_reset_always_with_so_reuseport() {
        let mut load = load(Flavour::ReusePort);
        let now = Instant::now();
        assert!(load.is_allowed(&failure(now, 1, refused())));
        load.allow_loss();
        assert!(!load.is_allowed(&failure(
            now,
            1,
            compare("name=gen1 pid=7 request=1 echo=0-1", "0-2").unwrap_err()
        )));
        assert!(compare("name=gen1 pid=7 request=1 echo=0-2", "0-2").is_ok());
    }
}
