//! `psflip-rogue`: not a psflip. It follows the plan ([`crate::plan`]) as a successor, line by line:
//! - `say TEXT`, `fds N TEXT`, `pidfd PID TEXT`: sends a message, with N descriptors, or with a pidfd of this
//!   process.
//! - `pad N TEXT`: sends a message with a key of N bytes; `bytes HEX`: a packet of these bytes; `empty`: an
//!   empty packet.
//! - `flood N TEXT`: sends the message N times, as fast as the predecessor reads; `flood 0 TEXT`: without
//!   end.
//! - `hear VERB`: waits for this message; `close`: closes the connection; `exit CODE`: exits.
//!
//! After the last line it waits to be killed.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use psflip::testing::process::environment::HANDOVER_VARIABLE;
use psflip::testing::sys::fd;
use psflip::testing::sys::pidfd::PidFd;
use psflip::testing::sys::socket::{Packet, Socket};

use crate::plan::{lines, plain};

type Error = Box<dyn std::error::Error>;

/// Runs the plan.
#[must_use]
#[expect(clippy::print_stderr, reason = "a double has no log")]
pub fn main() -> u8 {
    match follow() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("psflip-rogue: {error}");
            98
        }
    }
}

fn follow() -> Result<u8, Error> {
    let number = std::env::var(HANDOVER_VARIABLE)?.parse()?;
    let mut socket = Some(Socket::from_owned(fd::adopt(number)?));
    for line in lines() {
        let (step, rest) = line.split_once(' ').unwrap_or((&line, ""));
        let (first, text) = rest.split_once(' ').unwrap_or((rest, ""));
        let text = plain(text);
        if step == "exit" {
            return Ok(first.parse()?);
        }
        if step == "close" {
            socket = None;
            continue;
        }
        let Some(socket) = &socket else { return Err("the connection is closed".into()) };
        match step {
            "say" => say(socket, plain(rest).as_bytes(), &[])?,
            "fds" => {
                let null = OwnedFd::from(std::fs::File::open("/dev/null")?);
                say(socket, text.as_bytes(), &vec![null.as_fd(); first.parse()?])?;
            }
            "pidfd" => say(socket, text.as_bytes(), &[PidFd::open(first.parse()?)?.as_fd()])?,
            "pad" => {
                let text = format!("{text}\nfuture {}", "x".repeat(first.parse()?));
                say(socket, text.as_bytes(), &[])?;
            }
            "bytes" => {
                let byte = |pair: &[u8]| Ok(u8::from_str_radix(std::str::from_utf8(pair)?, 16)?);
                let bytes: Result<Vec<u8>, Error> = first.as_bytes().chunks(2).map(byte).collect();
                say(socket, &bytes?, &[])?;
            }
            "empty" => say(socket, b"", &[])?,
            "flood" => {
                let times = first.parse().ok().filter(|times| *times > 0).unwrap_or(u64::MAX);
                for _ in 0..times {
                    say(socket, text.as_bytes(), &[])?;
                }
            }
            "hear" => hear(socket, first)?,
            other => return Err(format!("unknown step `{other}`").into()),
        }
    }
    loop {
        nix::unistd::pause();
    }
}

/// Sends a packet, and waits until there is room for it.
fn say(socket: &Socket, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Error> {
    loop {
        match socket.send(bytes, fds) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => wait(socket, PollFlags::POLLOUT)?,
            other => return Ok(other?),
        }
    }
}

/// Waits for a message with this verb.
fn hear(socket: &Socket, verb: &str) -> Result<(), Error> {
    loop {
        match socket.receive()? {
            Packet::Data(bytes, _) if bytes.split(|byte| *byte == b'\n').next() == Some(verb.as_bytes()) => {
                return Ok(());
            }
            Packet::Data(..) => {}
            Packet::Nothing => wait(socket, PollFlags::POLLIN)?,
            Packet::Closed => return Err(format!("the connection was closed before `{verb}`").into()),
        }
    }
}

fn wait(socket: &Socket, flags: PollFlags) -> Result<(), Error> {
    match poll(&mut [PollFd::new(socket.as_fd(), flags)], PollTimeout::NONE) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
