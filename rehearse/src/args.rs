//! The command line.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;

use crate::load::{Header, Kind, Load};
use crate::service::versions::Bad;

/// Will my app survive its upgrades? Runs them in a sandbox, under load, and explains every lost request.
///
/// The service starts with its own configuration in a sandbox: same paths, ports and pidfile, beside the real
/// one, and nothing that it writes remains. Clients send requests without pause while it is upgraded again and
/// again. The report says which requests were lost, on which kind of connection, when, why, and what to do.
#[derive(Clone, Debug, Parser)]
#[command(name = "psflip-rehearse", bin_name = "psflip rehearse", version, after_help = AFTER_HELP, max_term_width = 100)]
pub(crate) struct Args {
    /// The configuration file of psflip (TOML)
    #[arg(short, long, value_name = "FILE", default_value = "psflip.toml")]
    pub(crate) config: PathBuf,
    /// What to request; may be repeated. Default: the first `[[proxy]]`, or else what the health check
    /// requests. With kinds: stream=http://127.0.0.1:8000/events, new+post=http://:8080/
    #[arg(long, value_name = "[KINDS=]URL")]
    pub(crate) load: Vec<Load>,
    /// The kinds of requests of all http loads
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "KIND",
        default_value = "new,keep-alive",
        hide_possible_values = false
    )]
    pub(crate) kinds: Vec<Kind>,
    /// A header of every request, such as 'Authorization: Bearer ...'; may be repeated. Host and Content-Type
    /// replace those of the load; for FastCGI it is a parameter HTTP_...
    #[arg(long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<Header>,
    /// The body of the kinds post and post-half, up to 1 MiB [default: 2 KiB]. Its type: --header 'Content-Type: ...'
    #[arg(long, value_name = "FILE")]
    pub(crate) body: Option<PathBuf>,
    /// How many clients send requests at the same time
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    pub(crate) clients: u16,
    /// Requests a second, of all clients together; without it each client sends its next request at once
    #[arg(long, value_name = "N", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// How many upgrades
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub(crate) flips: u32,
    /// Bad versions, one in turn after each upgrade: each must be refused, and cost no request
    #[arg(long, value_delimiter = ',', value_name = "VERSION", conflicts_with = "during")]
    pub(crate) bad: Vec<Bad>,
    /// Another configuration file: every other upgrade goes to it, and the next one back
    #[arg(long, value_name = "FILE", conflicts_with = "during")]
    pub(crate) next: Option<PathBuf>,
    /// A command (for `sh -c`) that runs along, such as a web server in front
    #[arg(long, value_name = "COMMAND")]
    pub(crate) beside: Vec<String>,
    /// An address outside that the service needs, such as a database: 127.0.0.1:5432
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) pass: Vec<SocketAddr>,
    /// The network of the sandbox
    #[arg(long, value_name = "WHICH", value_enum, default_value = "own", conflicts_with_all = ["pass", "no_sandbox"])]
    pub(crate) net: Net,
    /// Rehearse any other tool instead of psflip: a command (for `sh -c`) that upgrades the service, such as
    /// 'systemctl reload app'. With --service in a sandbox, otherwise on this host
    #[arg(long, value_name = "COMMAND")]
    pub(crate) during: Option<String>,
    /// With --during: the command (for `sh -c`) that starts the service. SERVICE_PID is its pid in --during
    #[arg(long, value_name = "COMMAND", requires = "during")]
    pub(crate) service: Option<String>,
    /// How long the load goes on after each upgrade, before the next one. An upgrade of psflip is over when
    /// the old child is gone, one of --during when the command has exited
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = duration)]
    pub(crate) pause: Duration,
    /// Fail if a request makes no progress for this time
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = duration)]
    pub(crate) timeout: Duration,
    /// How long the service may take to start
    #[arg(long, value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub(crate) start_timeout: Duration,
    /// Status codes of good answers
    #[arg(long, value_name = "RANGE", default_value = "200-399", value_parser = statuses)]
    pub(crate) accept: (u16, u16),
    /// How many requests may be lost
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub(crate) max_lost: u64,
    /// How many requests on reused keep-alive connections may be lost on top of these. Many servers close idle
    /// connections as they stop; clients that repeat such a request don't mind
    #[arg(long, value_name = "N", default_value_t = 0, alias = "expect-kept-lost")]
    pub(crate) max_keep_alive_lost: u64,
    /// How long an upgrade may take, from the request until the new version has the traffic
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) max_flip: Option<Duration>,
    /// The longest time that 99 % of the requests during an upgrade may take
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) max_p99: Option<Duration>,
    /// Write report.json, junit.xml, report.html and log.txt to this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Print the report as JSON
    #[arg(long)]
    pub(crate) json: bool,
    /// Run on this host, without a sandbox: same ports and files as the real service, which must not run
    #[arg(long)]
    pub(crate) no_sandbox: bool,
    /// The psflip to run [default: the one beside this program, or in PATH]
    #[arg(long, value_name = "FILE")]
    pub(crate) psflip: Option<PathBuf>,
    /// Flags and command of `psflip run`, instead of a file: -- --proxy http://:8080 -- ./server
    #[arg(last = true, value_name = "RUN", allow_hyphen_values = true)]
    pub(crate) run: Vec<OsString>,
}

/// The network of the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Net {
    /// Its own: the same ports as the real service, and nothing outside but --pass
    Own,
    /// The host's: addresses outside can be reached, and ports are shared with the real service. Unix sockets in the
    /// file system stay hidden
    Host,
}

const AFTER_HELP: &str = "\
Exit status:
    0  no request was lost
    1  requests were lost, a limit was exceeded, a bad version was accepted, or processes were left
    2  wrong usage
   77  no sandbox is possible here
   78  the configuration is invalid
  125  the service did not start, or did not answer well before the first upgrade
  130  interrupted by Ctrl-C before the first upgrade; later, the report counts as failed (1)

Examples:
  psflip rehearse -c app.toml
  psflip rehearse -c app.toml --load http://127.0.0.1:8000/up --bad crash,hang,broken --out report
  psflip rehearse -c app.toml --next deployed.toml --kinds new,keep-alive,post-half
  psflip rehearse --load http://:8080/ -- --proxy http://:8080 -- ./server
  psflip rehearse --service 'exec gunicorn app' --during 'kill -HUP $SERVICE_PID' --load http://:8000/";

fn rate(text: &str) -> Result<f64, String> {
    let number =
        text.trim_end_matches("/s").parse::<f64>().map_err(|_| "a number of requests a second".to_owned())?;
    if (0.1..=1e6).contains(&number) {
        Ok(number)
    } else {
        Err("from 0.1 to 1000000 requests a second".to_owned())
    }
}

/// `500ms`, `2s`, `1m`, `1h`, as in psflip's configuration.
fn duration(text: &str) -> Result<Duration, String> {
    let at =
        text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    let unit = match unit {
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err("a number with ms, s, m or h, such as 500ms".to_owned()),
    };
    let seconds =
        number.parse::<f64>().map_err(|_| "a number with ms, s, m or h, such as 500ms".to_owned())? * unit;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn statuses(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if (100..=last).contains(&first) && last <= 599 => Ok((first, last)),
        _ => Err("a status code or a range, such as 200-399".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Args::command().debug_assert();
    }

    #[test]
    fn values_are_read() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert!(duration("5").is_err() && duration("x").is_err());
        assert_eq!(statuses("204"), Ok((204, 204)));
        assert!(statuses("399-200").is_err());
        assert_eq!(rate("200/s"), Ok(200.0));
        assert!(rate("0").is_err());
    }

    #[test]
    fn a_service_may_be_configured_by_flags() {
        let args = Args::try_parse_from([
            "psflip-rehearse",
            "--load",
            "http://:8080/",
            "--",
            "--proxy",
            "http://:8080",
            "--",
            "./server",
        ]);
        assert_eq!(args.unwrap().run, ["--proxy", "http://:8080", "--", "./server"]);
    }
}
