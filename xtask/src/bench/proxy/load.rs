//! What loads the proxies.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use super::origin::BULK;
use crate::{Error, step};

/// The clients of wrk.
const CLIENTS: &str = "32";

/// The clients that send 1,000 requests a second together, each on a connection of its own.
const STEADY: u32 = 10;

/// How long any answer may take.
const ANSWER: Duration = Duration::from_secs(30);

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// As many requests as possible. Returns their number, and how many there were in a second.
pub(super) fn wrk(address: SocketAddr, closes: bool, seconds: u64) -> Result<(f64, f64), Error> {
    let mut command = Command::new("wrk");
    command.args(["--threads", "1", "--connections", CLIENTS, "--duration", &format!("{seconds}s")]);
    if closes {
        command.args(["--header", "Connection: close"]);
    }
    command.arg(format!("http://{address}/"));
    let output = command.output().map_err(|error| step::cannot_start(&command, &error))?;
    parse(&String::from_utf8_lossy(&output.stdout))
}

fn parse(text: &str) -> Result<(f64, f64), Error> {
    let error = || format!("wrk says: {text}");
    if text.contains("Socket errors") || text.contains("Non-2xx") {
        return Err(error().into());
    }
    let number = |word: Option<&str>| word.and_then(|word| word.parse::<f64>().ok());
    let requests = text
        .lines()
        .find(|line| line.contains(" requests in "))
        .and_then(|line| number(line.split_whitespace().next()));
    let rate = text
        .lines()
        .find_map(|line| line.strip_prefix("Requests/sec:"))
        .and_then(|rest| number(Some(rest.trim())));
    Ok((requests.ok_or_else(error)?, rate.ok_or_else(error)?))
}

/// The latencies of 1,000 requests a second, in milliseconds: median, 99th and 99.9th percentile. A request
/// that is late because the answer before it was counts from its time.
pub(super) fn latencies(address: SocketAddr, time: Duration) -> Result<[(&'static str, f64); 3], Error> {
    let interval = Duration::from_millis(u64::from(STEADY));
    let mut all = Vec::new();
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..STEADY)
            .map(|number| {
                let offset = interval * number / STEADY;
                scope
                    .spawn(move || steady(address, interval, offset, time).map_err(|error| error.to_string()))
            })
            .collect();
        for client in clients {
            all.extend(client.join().map_err(|_| "a client has panicked")??);
        }
        Ok::<(), Error>(())
    })?;
    all.sort();
    let at = |thousandths: usize| {
        let found = all.get(all.len() * thousandths / 1000).copied().unwrap_or_default();
        found.as_secs_f64() * 1000.0
    };
    Ok([("p50", at(500)), ("p99", at(990)), ("p99.9", at(999))])
}

fn steady(
    address: SocketAddr,
    interval: Duration,
    offset: Duration,
    time: Duration,
) -> Result<Vec<Duration>, Error> {
    let mut stream = connect(address)?;
    let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, TimerFlags::TFD_CLOEXEC)?;
    let mut next = Instant::now() + offset + interval;
    let end = next + time;
    let mut latencies = Vec::new();
    while next < end {
        let left = next.saturating_duration_since(Instant::now());
        let begins = if left.is_zero() {
            next
        } else {
            timer.set(Expiration::OneShot(TimeSpec::from_duration(left)), TimerSetTimeFlags::empty())?;
            timer.wait()?;
            Instant::now()
        };
        ask(&mut stream)?;
        latencies.push(begins.elapsed());
        next += interval;
    }
    Ok(latencies)
}

fn connect(address: SocketAddr) -> Result<TcpStream, Error> {
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(ANSWER))?;
    Ok(stream)
}

/// Sends a request, and reads its answer, which comes in one piece.
fn ask(stream: &mut TcpStream) -> Result<(), Error> {
    stream.write_all(REQUEST)?;
    let (mut buffer, mut got) = ([0; 1024], 0);
    loop {
        match stream.read(&mut buffer[got..])? {
            0 => return Err("the answer is cut short".into()),
            length => got += length,
        }
        if buffer[..got].ends_with(b"world\n") {
            return Ok(());
        }
    }
}

/// Reads a large answer, and returns how long that took.
pub(super) fn download(address: SocketAddr) -> Result<Duration, Error> {
    let mut stream = connect(address)?;
    let start = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let (mut buffer, mut length) = (vec![0; 1 << 18], 0);
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            more => length += more as u64,
        }
    }
    if length < BULK {
        return Err(format!("only {length} bytes came").into());
    }
    Ok(start.elapsed())
}

/// Opens connections; `asks`: with a request on each.
pub(super) fn idle(address: SocketAddr, number: usize, asks: bool) -> Result<Vec<TcpStream>, Error> {
    (0..number)
        .map(|_| {
            let mut stream = connect(address)?;
            if asks {
                ask(&mut stream)?;
            }
            Ok(stream)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrk_is_understood_and_errors_are_not_passed_over() {
        let text =
            "  2 threads\n  61234 requests in 1.00s, 5MB read\nRequests/sec:  61200.50\nTransfer/sec: 1\n";
        assert_eq!(
            parse(text).map(|(requests, rate)| format!("{requests} {rate}")).unwrap(),
            "61234 61200.5"
        );
        assert!(parse(&format!("{text}  Socket errors: connect 0, read 1\n")).is_err());
        assert!(parse("nothing").is_err());
    }
}
