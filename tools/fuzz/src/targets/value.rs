//! `value`: any text as the value of every key with a syntax of its own.

use std::path::Path;
use std::time::Duration;

use psflip::testing::config::{Health, Plan};

use super::{Run, config, ensure, template};
use crate::Error;

pub(super) const WORDS: &[&str] = &[
    "ms",
    "s",
    "m",
    "h",
    "d",
    "us",
    "ns",
    "1h30m",
    "5s",
    "500ms",
    "0s",
    "365d",
    ".5s",
    "SIG",
    "SIGTERM",
    "HUP",
    "RTMIN",
    "SIGRTMIN+",
    "RTMAX-",
    "+3",
    "http://",
    "https://",
    "HTTP://",
    "unix:",
    "unix://",
    "tcp://",
    "unixgram://",
    "unixpacket:",
    "127.0.0.1",
    "[::1]",
    "[fe80::1%eth0]",
    "localhost",
    ":80",
    ":",
    "@",
    "/run/a.sock",
    "/",
    "?a=b",
    "#x",
    "200",
    "200-399",
    ",",
    "-",
    "100",
    "599",
    "600",
    "kill",
    "leave",
    "text",
    "json",
    "debug",
    "%41",
    "user:pass@",
    "::ffff:1.2.3.4",
    "..",
    "~",
    "GET",
    "HEAD",
    "POST",
    "\r\n",
    "app.example",
];

/// The keys, each as the beginning of a file.
const KEYS: &[&str] = &[
    "upgrade.timeout",
    "upgrade.signal",
    "signals.SIGTERM",
    "signals.SIGWINCH",
    "shutdown.delay",
    "shutdown.signal",
    "shutdown.timeout",
    "shutdown.orphans",
    "healthcheck.alive.timeout",
    "healthcheck.tcp.address",
    "healthcheck.unix.path",
    "healthcheck.http.url",
    "healthcheck.http = { url = 'http://127.0.0.1:1/', status",
    "healthcheck.http = { url = 'http://127.0.0.1:1/', method",
    "healthcheck.http = { url = 'http://127.0.0.1:1/', host",
    "healthcheck.http = { url = 'http://127.0.0.1:1/', headers.X-A",
    "listen = [{ address = 'unixgram:///a', as = 'stdin' }, { address",
    "healthcheck.tcp = { address = ':1', after",
    "healthcheck.tcp = { address = ':1', interval",
    "healthcheck.tcp = { address = ':1', successes",
    "output.stdout",
    "log.level",
    "log.format",
    "pidfile",
    "workdir",
    "quiet",
];

/// The longest duration that a configuration accepts.
const YEAR: Duration = Duration::from_secs(365 * 86_400);

pub(super) fn start(_: &Path) -> Result<Run, Error> {
    Ok(Box::new(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let literal = template::literal(&text);
        for key in KEYS {
            let close = match (key.contains('['), key.contains('{')) {
                (true, _) => " }]",
                (false, true) => " }",
                (false, false) => "",
            };
            // Quoted, and bare: a number, a date, or garbage.
            for value in [&literal, &*text] {
                let file = format!("cmd = ['x']\n{key} = {value}{close}\n");
                config::check(&file).map_err(|error| format!("{error}\nin `{key} = {value}`"))?;
                if let Ok(plan) = config::read(&file) {
                    in_range(&plan)?;
                }
            }
        }
        Ok(())
    }))
}

fn in_range(plan: &Plan) -> Result<(), String> {
    let mut times = vec![plan.upgrade.timeout, plan.shutdown.delay, plan.shutdown.timeout];
    match &plan.health {
        Health::Alive { timeout } => times.push(*timeout),
        Health::Tcp { addresses, pace, .. } => {
            ensure(!addresses.is_empty(), || "an address that is none".to_owned())?;
            ensure(pace.successes > 0 && !pace.interval.is_zero(), || "a pace that is none".to_owned())?;
            times.extend([pace.after, pace.interval, pace.timeout]);
        }
        Health::Unix { path, .. } => {
            ensure(path.as_os_str().len() <= 108, || "a path that fits into no socket's name".to_owned())?;
        }
        Health::Http { request, status, .. } => {
            let graphic =
                request.path.starts_with('/') && request.path.bytes().all(|byte| byte.is_ascii_graphic());
            let one_line = |text: &str| !text.contains(['\r', '\n', '\0']);
            let headers = request
                .headers
                .iter()
                .all(|(name, value)| !name.contains([':', ' ']) && one_line(name) && one_line(value));
            ensure(graphic && headers && one_line(&request.host) && !request.host.contains(' '), || {
                format!("a request by {request:?}")
            })?;
            ensure(!status.is_empty() && status.iter().all(|range| range.start() <= range.end()), || {
                format!("{status:?}")
            })?;
        }
        _ => {}
    }
    ensure(times.iter().all(|time| *time <= YEAR), || format!("a duration of more than a year in {times:?}"))
}
