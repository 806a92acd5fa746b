//! `psflip metrics`: the state of services for Prometheus.

use std::cell::OnceCell;
use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use clap::Args;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::discover::{Found, services};
use super::list::{Answered, ask, restore_signals};
use super::render;
use super::render::metrics::Measured;
use super::target::{ServiceArgs, Trouble};
use crate::config;
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::signal::Signal;
use crate::sys::signal::{SignalFd, SignalSet};

/// `psflip metrics`.
#[derive(Debug, Args)]
pub(super) struct Metrics {
    #[command(flatten)]
    which: ServiceArgs,
    /// All services that this user may ask, as `psflip list` finds them
    #[arg(long, conflicts_with_all = ["config", "socket"])]
    all: bool,
    /// Serve the metrics by HTTP at this address, such as 127.0.0.1:9945, until a signal stops it
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// How long the psflips may take to answer
    #[arg(long, value_name = "DURATION", value_parser = config::duration, default_value = "2s")]
    timeout: Duration,
}

pub(super) const AFTER_HELP: &str = "\
Examples:
  psflip metrics -c app.toml
  psflip metrics --all > /var/lib/prometheus/node-exporter/psflip.prom.new     # then mv it: textfile collector
  psflip metrics --all --listen 127.0.0.1:9945                                 # to be scraped

The format is OpenMetrics 1.0. `psflip_up` is 0 if a psflip does not answer, so the exit code is 0 then as well.

Exit codes:
    0  the metrics were printed
   78  the configuration does not say where the control socket is
  125  the address can't be listened at";

/// The longest request that is read.
const LONGEST_REQUEST: usize = 8 * 1024;
/// How long a client may take for its request, and to take the answer.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// How many clients are served at the same time. One more takes the place of the oldest.
const MOST_CLIENTS: usize = 64;
/// How long no client is accepted when descriptors or memory are short.
const PAUSE: Duration = Duration::from_secs(1);

impl Metrics {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitStatus {
        let end = match &self.listen {
            Some(address) => self.serve(address).map(ExitStatus::Killed),
            None => {
                restore_signals();
                self.text().map(|text| {
                    // a closed standard output is not an error
                    let _ = io::stdout().write_all(text.as_bytes());
                    ExitStatus::Exited(exit::OK)
                })
            }
        };
        end.unwrap_or_else(|trouble| trouble.report())
    }

    fn text(&self) -> Result<String, Trouble> {
        let services = if self.all { services() } else { vec![Found::at(&self.which.locate()?.socket)] };
        let answers = ask(services, self.timeout);
        let measured: Vec<Measured<'_>> = answers
            .iter()
            .map(|Answered { found, status, .. }| Measured {
                service: crate::text::lossy(&found.named),
                cgroup: found.cgroup.as_deref(),
                status: status.as_ref().ok().map(|(_, status)| &**status),
            })
            .collect();
        Ok(render::metrics::metrics(&measured))
    }

    /// Answers clients until a signal arrives, which is returned. Each answer is of its request's moment.
    fn serve(&self, address: &str) -> Result<Signal, Trouble> {
        let failed = |error: &io::Error| Trouble::new(format!("can't listen at {address}: {error}"));
        let listener = TcpListener::bind(address).map_err(|error| failed(&error))?;
        listener.set_nonblocking(true).map_err(|error| failed(&error))?;
        let at = listener.local_addr().map_err(|error| failed(&error))?;
        // psflip's start blocked all signals (see `sys/early.rs`), and as PID 1 none has a default effect.
        let mut ends = SignalSet::default();
        ["SIGINT", "SIGTERM", "SIGHUP"]
            .iter()
            .filter_map(|name| name.parse().ok())
            .for_each(|one| ends.insert(one));
        let signals = SignalFd::open(ends).map_err(|error| failed(&error))?;
        super::print_text(&format!("psflip: metrics at http://{at}/metrics\n"));
        let mut clients: VecDeque<Client> = VecDeque::new();
        let mut paused_until: Option<Instant> = None;
        loop {
            let now = Instant::now();
            clients.retain(|client| client.until > now);
            paused_until = paused_until.filter(|until| *until > now);
            let next = clients.iter().map(|client| client.until).chain(paused_until).min();
            let wait = next.map_or(PollTimeout::NONE, |next| {
                PollTimeout::try_from(next.saturating_duration_since(now).as_millis() + 1)
                    .unwrap_or(PollTimeout::MAX)
            });
            let mut fds = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
            fds.extend(clients.iter().map(|client| PollFd::new(client.stream.as_fd(), client.interest())));
            if paused_until.is_none() {
                fds.push(PollFd::new(listener.as_fd(), PollFlags::POLLIN));
            }
            match poll(&mut fds, wait) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(errno) => return Err(Trouble::new(format!("can't wait: {errno}"))),
            }
            if let Ok(Some(received)) = signals.next() {
                return Ok(received.signal);
            }
            // One answer for all whose requests have come by now.
            let text = OnceCell::new();
            let metrics = || text.get_or_init(|| self.text().map_err(|trouble| trouble.message)).clone();
            clients.retain_mut(|client| client.proceed(metrics).is_ok_and(|goes_on| goes_on));
            if paused_until.is_none() {
                match listener.accept() {
                    Ok((stream, _)) => {
                        if stream.set_nonblocking(true).is_ok() {
                            clients.push_back(Client::new(stream));
                        }
                        if clients.len() > MOST_CLIENTS {
                            clients.pop_front();
                        }
                    }
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(_) => paused_until = Some(Instant::now() + PAUSE),
                }
            }
        }
    }
}

/// A client of `--listen`: one request, one answer.
struct Client {
    stream: TcpStream,
    request: Vec<u8>,
    answer: Option<Vec<u8>>,
    written: usize,
    until: Instant,
}

impl Client {
    fn new(stream: TcpStream) -> Self {
        Self { stream, request: Vec::new(), answer: None, written: 0, until: Instant::now() + CLIENT_TIMEOUT }
    }

    fn interest(&self) -> PollFlags {
        if self.answer.is_some() { PollFlags::POLLOUT } else { PollFlags::POLLIN }
    }

    /// Reads and writes as far as possible without waiting. Returns whether there is more to do.
    fn proceed(&mut self, metrics: impl FnOnce() -> Result<String, String>) -> io::Result<bool> {
        let mut piece = [0; 1024];
        while self.answer.is_none() {
            match self.stream.read(&mut piece) {
                Ok(0) => return Ok(false),
                Ok(length) => self.request.extend_from_slice(&piece[..length]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
            if self.request.windows(4).any(|end| end == b"\r\n\r\n") {
                self.answer = Some(answer(&self.request, metrics));
                break;
            }
            if self.request.len() > LONGEST_REQUEST {
                return Ok(false);
            }
        }
        let answer = self.answer.as_deref().unwrap_or_default();
        while self.written < answer.len() {
            match self.stream.write(&answer[self.written..]) {
                Ok(length) => self.written += length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// The answer to a request: its head and its body.
fn answer(request: &[u8], metrics: impl FnOnce() -> Result<String, String>) -> Vec<u8> {
    let line = request.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split('?').next().unwrap_or_default();
    let (status, kind, body) = match (method, path) {
        ("GET" | "HEAD", "/metrics") => match metrics() {
            Ok(text) => ("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
            Err(why) => ("503 Service Unavailable", "text/plain", why + "\n"),
        },
        ("GET" | "HEAD", _) => ("404 Not Found", "text/plain", "the metrics are at /metrics\n".to_owned()),
        _ => ("405 Method Not Allowed", "text/plain", "GET /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    let body = if method == "HEAD" { "" } else { &body };
    (head + body).into_bytes()
}
