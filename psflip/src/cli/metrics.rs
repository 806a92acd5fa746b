//! `psflip metrics`: the state of services for Prometheus.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use clap::Args;

use super::list::{Answered, ask_all, ask_one, restore_signals};
use super::render;
use super::render::metrics::Measured;
use super::target::{ServiceArgs, Trouble};
use crate::config;
use crate::exit;
use crate::exit_status::ExitStatus;

/// `psflip metrics`.
#[derive(Debug, Args)]
pub(super) struct Metrics {
    #[command(flatten)]
    which: ServiceArgs,
    /// All services that this user may ask, as `psflip list` finds them
    #[arg(long, conflicts_with_all = ["config", "socket"])]
    all: bool,
    /// Serve the metrics by HTTP at this address, such as 127.0.0.1:9945, until SIGTERM
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// How long each psflip may take to answer
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

impl Metrics {
    /// Runs the command.
    pub(super) fn run(&self) -> ExitStatus {
        restore_signals();
        let end = match &self.listen {
            Some(address) => self.serve(address),
            None => self.text().map(|text| {
                // a closed standard output is not an error
                let _ = io::stdout().write_all(text.as_bytes());
            }),
        };
        end.map_or_else(|trouble| trouble.report(), |()| ExitStatus::Exited(exit::OK))
    }

    fn text(&self) -> Result<String, Trouble> {
        let answers: Vec<Answered> = if self.all {
            ask_all(self.timeout)
        } else {
            let address = self.which.locate()?;
            vec![ask_one(&address.socket, address.name(), self.timeout)]
        };
        let measured: Vec<Measured<'_>> = answers
            .iter()
            .map(|answered| match &answered.status {
                Ok((_, status)) => {
                    Measured { service: render::name(status, answered), status: Some(&**status) }
                }
                Err(_) => Measured { service: crate::text::lossy(&answered.found.named), status: None },
            })
            .collect();
        Ok(render::metrics::metrics(&measured))
    }

    /// Answers one client after the other. Each answer is of the moment of its request.
    fn serve(&self, address: &str) -> Result<(), Trouble> {
        let failed = |error: &io::Error| Trouble::new(format!("can't listen at {address}: {error}"));
        let listener = TcpListener::bind(address).map_err(|error| failed(&error))?;
        let at = listener.local_addr().map_err(|error| failed(&error))?;
        super::print_text(&format!("psflip: metrics at http://{at}/metrics\n"));
        for client in listener.incoming() {
            let client = match client {
                Ok(client) => client,
                // The client is gone, or descriptors are short for a moment.
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(failed(&error)),
            };
            let _ = self.answer(client); // it may be gone
        }
        Ok(())
    }

    fn answer(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_write_timeout(Some(CLIENT_TIMEOUT))?;
        let request = read_head(&mut client)?;
        let mut words = request.split(' ');
        let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let path = target.split('?').next().unwrap_or_default();
        let (status, kind, body) = match (method, path) {
            ("GET" | "HEAD", "/metrics") => match self.text() {
                Ok(text) => ("200 OK", "application/openmetrics-text; version=1.0.0; charset=utf-8", text),
                Err(trouble) => ("503 Service Unavailable", "text/plain", trouble.message + "\n"),
            },
            ("GET" | "HEAD", _) => {
                ("404 Not Found", "text/plain", "the metrics are at /metrics\n".to_owned())
            }
            _ => ("405 Method Not Allowed", "text/plain", "GET /metrics\n".to_owned()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        );
        client.write_all(head.as_bytes())?;
        if method != "HEAD" {
            client.write_all(body.as_bytes())?;
        }
        Ok(())
    }
}

/// The head of a request, up to the empty line.
fn read_head(client: &mut TcpStream) -> io::Result<String> {
    let deadline = Instant::now() + CLIENT_TIMEOUT;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || head.len() > LONGEST_REQUEST {
            return Err(io::ErrorKind::InvalidData.into());
        }
        client.set_read_timeout(Some(left))?;
        match client.read(&mut piece)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => head.extend_from_slice(&piece[..length]),
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}
