//! The client of the demo: sends one request after the other, each on a new connection, and counts which
//! generation answered when.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime};

/// The time limit of one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// The results of the requests.
#[derive(Clone, Debug, Default)]
pub(super) struct Answers {
    /// The number of answers by the millisecond since 1970 in which they arrived, and by the name in the
    /// answer.
    pub(super) answered: BTreeMap<(u64, String), u32>,
    /// When a request failed, in milliseconds since 1970, and why.
    pub(super) failed: Vec<(u64, String)>,
}

impl Answers {
    /// How many requests were answered.
    pub(super) fn count(&self) -> u32 {
        self.answered.values().sum()
    }

    /// The number of answers by name.
    pub(super) fn by_name(&self) -> BTreeMap<&str, u32> {
        let mut names = BTreeMap::new();
        for ((_, name), count) in &self.answered {
            *names.entry(name.as_str()).or_default() += count;
        }
        names
    }
}

/// The time, in milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A client that sends requests until it is stopped.
pub(super) struct Client {
    answers: Arc<(Mutex<Answers>, Condvar)>,
    /// Dropping it stops the client.
    stop: Sender<()>,
    thread: JoinHandle<()>,
}

impl Client {
    /// Starts the client. `pause` is the time between two requests, which lets a picture show them evenly.
    pub(super) fn start(socket: PathBuf, pause: Duration) -> Self {
        let answers = Arc::new((Mutex::new(Answers::default()), Condvar::new()));
        let (stop, stopped) = mpsc::channel();
        let shared = Arc::clone(&answers);
        let thread = thread::spawn(move || {
            loop {
                let answer = ask(&socket);
                let (answers, changed) = &*shared;
                let Ok(mut answers) = answers.lock() else { return };
                match answer {
                    Ok(name) => *answers.answered.entry((now(), name)).or_default() += 1,
                    Err(error) => answers.failed.push((now(), error.to_string())),
                }
                drop(answers);
                changed.notify_all();
                if stopped.recv_timeout(pause) != Err(RecvTimeoutError::Timeout) {
                    return;
                }
            }
        });
        Self { answers, stop, thread }
    }

    /// Waits until `more` further requests were answered.
    pub(super) fn wait_for(&self, more: u32) {
        let (answers, changed) = &*self.answers;
        let Ok(answers) = answers.lock() else { return };
        let wanted = answers.count() + more;
        drop(changed.wait_timeout_while(answers, ANSWER_TIMEOUT, |answers| answers.count() < wanted));
    }

    pub(super) fn stop(self) -> Answers {
        drop(self.stop);
        let _ = self.thread.join(); // a panic of the thread was printed already
        let (answers, _) = &*self.answers;
        answers.lock().map(|answers| answers.clone()).unwrap_or_default()
    }
}

/// One request; returns the name in the answer (`name=generation 1 pid=...`).
fn ask(socket: &Path) -> io::Result<String> {
    let mut stream = UnixStream::connect(socket)?;
    stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let name = answer.split_once("name=").and_then(|(_, rest)| rest.split_once(" pid="));
    match name {
        Some((name, _)) if answer.starts_with("HTTP/1.1 200") => Ok(name.to_owned()),
        _ => Err(io::Error::other(format!("unexpected answer: {answer:?}"))),
    }
}
