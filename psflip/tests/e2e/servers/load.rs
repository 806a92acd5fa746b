//! Eight clients without pause, and the next upgrade as soon as the last one has taken over.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use testkit::client::http::HttpClient;
use testkit::client::{ClientError, Stage, Target};
use testkit::pidfile::named_process;
use testkit::probe::{Failure, Report};
use testkit::{AvailabilityProbe, Deadline, Psflip, wait_until};

use crate::traffic::clients::Question;

/// Clients that send requests at the same time. Those with even numbers keep their connections.
pub(super) const CLIENTS: usize = 8;
/// Without `SERVERS_FLIPS`, no upgrade starts after this time, so a slow host runs fewer of them.
const LONGEST: Duration = Duration::from_secs(8);
/// The fewest upgrades, however slow the host.
const FEWEST: u64 = 3;

/// The number from `SERVERS_FLIPS`. `None`: as many as the time allows, at most 20.
fn wanted() -> Option<u64> {
    std::env::var("SERVERS_FLIPS").ok().and_then(|text| text.parse().ok())
}

/// The form of the application's answers: plain HTTP with the length of the body, or PHP's with length and
/// checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Application {
    Http,
    Php,
}

/// The clients of a server at `target`. They check every answer to its last byte, and never repeat a request.
pub(super) fn clients(target: impl Into<Target>, application: Application) -> AvailabilityProbe {
    let target = target.into();
    AvailabilityProbe::start(CLIENTS, |number| {
        let mut client = client(&target, number);
        let mut count = 0;
        move || {
            count += 1;
            let question = Question::new(number, count, application == Application::Php);
            let response = ask(&mut client, &question.uri, question.body.as_deref())?;
            question.tag(response.0, &response.1)
        }
    })
}

/// Like [`clients`], for a server whose answer begins with `pid=N`. The pid is the tag.
pub(super) fn clients_of_pids(target: impl Into<Target>) -> AvailabilityProbe {
    let target = target.into();
    AvailabilityProbe::start(CLIENTS, |number| {
        let mut client = client(&target, number);
        move || client.get("/")?.tag("pid")
    })
}

pub(super) fn client(target: &Target, number: usize) -> HttpClient {
    let client = HttpClient::new(target.clone());
    if number.is_multiple_of(2) { client.keep_alive() } else { client }
}

fn ask(client: &mut HttpClient, uri: &str, body: Option<&[u8]>) -> Result<(u16, String), ClientError> {
    let response = match body {
        Some(body) => client.post(uri, body)?,
        None => client.get(uri)?,
    };
    Ok((response.status, response.text()))
}

/// Upgrades under load. Each waits until the last generation has taken over and answers. Returns the clients'
/// report.
#[track_caller]
pub(super) fn flip_under_load(what: &str, psflip: &Psflip, probe: AvailabilityProbe) -> Report {
    flip_under_load_with(what, psflip, probe, || ())
}

/// As [`flip_under_load`]. `before` is called before each request for an upgrade.
#[expect(clippy::print_stdout, reason = "these tests measure as well; `--no-capture` shows it")]
#[track_caller]
pub(super) fn flip_under_load_with(
    what: &str,
    psflip: &Psflip,
    probe: AvailabilityProbe,
    before: impl Fn(),
) -> Report {
    probe.wait_requests(50);
    let begun = Instant::now();
    let mut flips = 0;
    while wanted()
        .map_or(flips < 20 && (flips < FEWEST || begun.elapsed() < LONGEST), |wanted| flips < wanted)
    {
        let known = probe.report().by_tag.len();
        before();
        let old = psflip.request_flip();
        flips += 1;
        wait_until(Deadline::default(), "the pidfile to name the successor", || {
            named_process(psflip.pidfile_path()).filter(|named| *named != old)
        });
        wait_until(Deadline::default(), "the successor to answer", || {
            (probe.report().by_tag.len() > known).then_some(())
        });
    }
    let took = begun.elapsed().as_secs_f64();
    probe.wait_requests(50);
    let report = probe.finish();
    let kept = report.failures.iter().filter(|failure| is_kept(failure)).count();
    println!(
        "{what}: {} requests, {flips} flips, {} failed ({kept} of them on keep-alive connections); {:.1} flips/s, {:.0} requests/s, \
         slowest request {:.1} ms",
        report.requests,
        report.failed,
        flips as f64 / took,
        report.requests as f64 / report.duration.as_secs_f64(),
        report.slowest.as_secs_f64() * 1e3,
    );
    for (cause, count) in report.causes() {
        println!("  {count} times {cause}");
    }
    report
}

fn is_kept(failure: &Failure) -> bool {
    failure.client.is_multiple_of(2)
}

/// For a server that closes idle keep-alive connections when it stops. The only failed requests are those
/// that were sent on such a connection and got no byte of an answer. A client may repeat them if they are
/// idempotent (RFC 9112, 9.3.1).
#[track_caller]
pub(super) fn assert_only_stale_connections_failed(report: &Report) {
    let other: Vec<_> = report
        .failures
        .iter()
        .filter(|failure| !is_kept(failure) || !failure.error.is_stale_connection())
        .collect();
    assert!(other.is_empty(), "{other:?}\n{report}");
}

/// For a server that, when it stops, closes even connections without a request so far, and answers 500
/// or 503 meanwhile. No connection is refused, no answer is wrong, and each client loses at most one request per
/// upgrade.
#[track_caller]
pub(super) fn assert_only_what_was_open_failed(report: &Report) {
    let is_its_own = |failure: &&Failure| {
        let error = &failure.error;
        let was_closed = matches!(error.stage, Stage::Write | Stage::Read) && error.cause != "time-out";
        // Its listening socket was closed while the handshake completed.
        let was_closed =
            was_closed || error.stage == Stage::Connect && error.kind == Some(ErrorKind::ConnectionReset);
        was_closed && error.received == 0
            || ["status 500", "status 503"].iter().any(|status| error.cause.starts_with(status))
    };
    let other: Vec<_> = report.failures.iter().filter(|failure| !is_its_own(failure)).collect();
    assert!(other.is_empty(), "{other:?}\n{report}");
    let flips = report.by_tag.len() - 1;
    assert!(report.failures.len() <= flips * CLIENTS, "{flips} flips\n{report}");
}
