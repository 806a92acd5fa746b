//! `http`: any answer to an HTTP health check, in any pieces.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use psflip::config::{Endpoint, Health, HttpRequest, Pace};
use psflip::health::{Checker, ChildInfo, Verdict};
use psflip::sys::early::inherited_signals;

use super::{Run, ensure};
use crate::Error;
use crate::rng::{Rng, hash};

pub(super) const WORDS: &[&str] = &[
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
];

/// The longest text of a probe's failure.
const FAILURE: usize = 1000;

pub(super) fn start(folder: &Path) -> Result<Run, Error> {
    let path = folder.join("app.sock");
    let listener = UnixListener::bind(&path)?;
    let second = Duration::from_secs(1);
    let health = Health::Http {
        request: HttpRequest {
            url: "unix:app.sock:/up".to_owned(),
            target: Endpoint::Unix(path),
            host: "localhost".to_owned(),
            path: "/up".to_owned(),
        },
        status: vec![200..=399],
        pace: Pace { after: Duration::ZERO, interval: second, timeout: second, successes: 1 },
    };
    Ok(Box::new(move |bytes| answer(&listener, &health, bytes)))
}

fn answer(listener: &UnixListener, health: &Health, bytes: &[u8]) -> Result<(), String> {
    let text = |error: std::io::Error| format!("the test itself failed: {error}");
    let signals = inherited_signals();
    let child = ChildInfo { pid: 1, envp: Vec::new(), workdir: None, signals, predecessor: None };
    let Some(mut checker) = Checker::new(health, child) else { return Ok(()) };
    let mut healthy = checker.start().verdict == Verdict::Healthy;
    let (mut server, _) = listener.accept().map_err(text)?;
    healthy |= checker.on_ready().verdict == Verdict::Healthy;
    let _ = server.read(&mut [0; 4096]).map_err(text)?;
    let mut rng = Rng::new(hash(bytes));
    let mut rest = bytes;
    while !rest.is_empty() && checker.watch().is_some() {
        let (piece, behind) = rest.split_at((1 + rng.rarely_below(2, 8, 4000)).min(rest.len()));
        server.write_all(piece).map_err(text)?;
        rest = behind;
        healthy |= checker.on_ready().verdict == Verdict::Healthy;
    }
    drop(server);
    healthy |= checker.on_ready().verdict == Verdict::Healthy;
    ensure(checker.watch().is_none(), || "the probe goes on after its connection was closed".to_owned())?;
    if healthy {
        let good =
            [b"HTTP/1." as &[u8]].iter().any(|start| bytes.starts_with(start)) && bytes.contains(&b'\n');
        return ensure(good, || "it is healthy by an answer that is none".to_owned());
    }
    let failure = checker.last_failure().ok_or("it failed without saying why")?;
    ensure(failure.len() < FAILURE && !failure.contains(char::is_control), || format!("{failure:?}"))
}
