//! `http`, `fcgi` and `docker`: any reply to a health check, split into any pieces.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use psflip::testing::config::{Endpoint, FcgiRequest, Health, HttpMethod, HttpRequest, Pace};
use psflip::testing::health::{CheckResult, Checker, ChildInfo, Verdict};
use psflip::testing::sys::early::inherited_signals;

use super::{Run, ensure};
use crate::Error;
use crate::rng::{Rng, hash};

pub(super) const HTTP_WORDS: &[&str] = &[
    "HTTP/1.1",
    "HTTP/1.0",
    "HTTP/2",
    " 200 ",
    " 204",
    " 100 ",
    " 103 ",
    " 101 ",
    " 099 ",
    " 599",
    " 999",
    "\r\n",
    "\n",
    "\r\n\r\n",
    "\r",
    "OK",
    "Content-Length: 5",
    "Transfer-Encoding: chunked",
    ": ",
    " ",
    "0\r\n\r\n",
    "ffffffff\r\n",
    "{\"State\":",
    "{\"Health\":",
    "{\"Status\":\"healthy\"}",
    "\"Running\":false",
    "null",
    "[[[[",
    "\"starting\"",
    "}}",
];

pub(super) const FCGI_WORDS: &[&str] = &[
    "\x01\x06\0\x01\0\x08\0\0",
    "\x01\x03\0\x01\0\x08\0\0\0\0\0\0\0\0\0\0",
    "\x01\x07\0\x01\0\x04\0\0",
    "\x01\x06\0\x01\0\0\0\0",
    "\x01\x06\0\x02\0\0\0\0",
    "\x01\x0b\0\0\0\x08\0\0",
    "\x01",
    "\x06",
    "\x03",
    "\x7f",
    "Status: 200\r\n",
    "Status: 503",
    "\r\n\r\n",
    "Content-Type: text/plain",
    "\0",
    "\0\0\0\0",
    "\x01\x03\0\x01\0\x08\0\0\0\0\0\0\x03\0\0\0",
];

/// The maximum length of a probe's failure message, in bytes.
const FAILURE: usize = 2000;
const SECOND: Duration = Duration::from_secs(1);
const PACE: Pace = Pace {
    after: Duration::ZERO,
    interval: SECOND,
    timeout: SECOND,
    successes: 1,
    failures: 3,
    settle: Duration::ZERO,
};

pub(super) fn http(folder: &Path) -> Result<Run, Error> {
    start(folder, b"HTTP/1.", |target| Health::Http {
        request: HttpRequest {
            url: "unix:app.sock:/up".to_owned(),
            target,
            method: HttpMethod::Get,
            host: "localhost".to_owned(),
            headers: Vec::new(),
            path: "/up".to_owned(),
        },
        status: vec![200..=399],
        pace: PACE,
    })
}

pub(super) fn fcgi(folder: &Path) -> Result<Run, Error> {
    start(folder, b"\x01", |target| Health::Fcgi {
        request: FcgiRequest {
            address: "unix:app.sock".to_owned(),
            target,
            script: "/up".to_owned(),
            query: String::new(),
            params: Vec::new(),
        },
        status: vec![200..=399],
        pace: PACE,
    })
}

pub(super) fn docker(folder: &Path) -> Result<Run, Error> {
    let socket = folder.join(SOCKET);
    start(folder, b"HTTP/1.", |_| Health::Docker { container: "app".to_owned(), socket, pace: PACE })
}

const SOCKET: &str = "app.sock";

/// `beginning` is the prefix of every reply that can be healthy.
fn start(
    folder: &Path,
    beginning: &'static [u8],
    health: impl FnOnce(Endpoint) -> Health,
) -> Result<Run, Error> {
    let path = folder.join(SOCKET);
    let listener = UnixListener::bind(&path)?;
    let health = health(Endpoint::Unix(path));
    Ok(Box::new(move |bytes| answer(&listener, &health, beginning, bytes)))
}

fn answer(listener: &UnixListener, health: &Health, beginning: &[u8], bytes: &[u8]) -> Result<(), String> {
    let text = |error: std::io::Error| format!("the test itself failed: {error}");
    let signals = inherited_signals();
    let child = ChildInfo { pid: 1, envp: [].into(), workdir: None, signals, old_psflips: Vec::new() };
    let mut checker = Checker::new(health, child).ok_or("a check without probes")?;
    let mut healthy = is_healthy(checker.start());
    let (mut server, _) = listener.accept().map_err(text)?;
    healthy |= is_healthy(checker.on_ready());
    let _ = server.read(&mut [0; 4096]).map_err(text)?;
    let mut rng = Rng::new(hash(bytes));
    let mut rest = bytes;
    while !rest.is_empty() && checker.watch().is_some() {
        let (piece, behind) = rest.split_at((1 + rng.rarely_below(2, 8, 4000)).min(rest.len()));
        server.write_all(piece).map_err(text)?;
        rest = behind;
        healthy |= is_healthy(checker.on_ready());
    }
    drop(server);
    // The probe may need several reads for what is still queued.
    for _ in 0..bytes.len() / 1000 + 2 {
        healthy |= is_healthy(checker.on_ready());
    }
    ensure(checker.watch().is_none(), || "the probe goes on after its connection was closed".to_owned())?;
    if healthy {
        return ensure(bytes.starts_with(beginning), || "it is healthy by an answer that is none".to_owned());
    }
    let failure = checker.last_failure().ok_or("it failed without saying why")?;
    ensure(failure.len() < FAILURE && !failure.contains(char::is_control), || format!("{failure:?}"))
}

fn is_healthy(step: CheckResult) -> bool {
    step.verdict == Verdict::Healthy
}
