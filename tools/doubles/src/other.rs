//! `psflip-other`: psflip as a successor of another version. A relay changes the messages between it and its
//! predecessor.
//!
//! Both sides run the real psflip, and each meets another version. The plan ([`crate::plan`]):
//! - `hello KEY VALUE`: sets a key of the predecessor's first message; `hello KEY` removes it.
//! - `noise`: every message in both directions gets many unknown keys and unexpected descriptors, and
//!   messages with unknown verbs come in between.

use std::os::fd::{AsFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use psflip::testing::process::environment::HANDOVER_VARIABLE;
use psflip::testing::sys::fd;
use psflip::testing::sys::socket::{Packet, Socket};

use crate::plan::{lines, plain};

/// Environment variable that makes the relay add noise.
const NOISE: &str = "PSFLIP_RELAY_NOISE";

type Error = Box<dyn std::error::Error>;

/// psflip's main function; a successor gets a relay.
#[must_use]
pub fn main() -> u8 {
    let plan = lines();
    let mut relay = None;
    if let Ok(value) = std::env::var(HANDOVER_VARIABLE)
        && !plan.is_empty()
    {
        match go_between(&value, &plan) {
            Ok(child) => relay = Some(child),
            Err(error) => return fail("psflip-other", &*error),
        }
    }
    let code = psflip::main();
    // The relay must forward the last messages before this process exits, since its exit is visible to the
    // predecessor.
    if let Some(mut relay) = relay {
        let _ = relay.wait(); // ECHILD: psflip may have reaped it
    }
    code
}

/// The main function of `psflip-relay`: descriptor 0 leads to the predecessor, 1 to the successor.
#[must_use]
pub fn relay() -> u8 {
    match fd::adopt(0).and_then(|old| Ok((old, fd::adopt(1)?))) {
        Ok((old, new)) => match carry(&Socket::from_owned(old), &Socket::from_owned(new)) {
            Ok(()) => 0,
            Err(error) => fail("psflip-relay", &*error),
        },
        Err(error) => fail("psflip-relay", &error),
    }
}

#[expect(clippy::print_stderr, reason = "a double has no log")]
fn fail(who: &str, error: &dyn std::error::Error) -> u8 {
    eprintln!("{who}: {error}");
    99
}

/// Puts a relay between this process and its predecessor.
fn go_between(value: &str, plan: &[String]) -> Result<Child, Error> {
    let mut number = fd::adopt(value.parse()?)?;
    let outer = number.try_clone()?;
    let (ours, inner) = Socket::pair()?;
    nix::unistd::dup2(&inner, &mut number)?;
    fd::set_close_on_exec(number.as_fd(), true)?; // the relay must not have both ends
    let _ = number.into_raw_fd(); // psflip adopts this number

    // psflip expects the first messages to be queued already.
    let outer = Socket::from_owned(outer);
    let Packet::Data(bytes, fds) = outer.receive()? else { return Err("no hello".into()) };
    let hello = rewrite(&String::from_utf8(bytes)?, plan);
    let noise = plan.iter().any(|line| line == "noise");
    send(&ours, &hello, &fds, noise)?;
    while let Packet::Data(bytes, fds) = outer.receive()? {
        send(&ours, &String::from_utf8(bytes)?, &fds, noise)?;
    }
    let program = std::fs::read_link("/proc/self/exe")?;
    let mut relay = Command::new(program.parent().unwrap_or(Path::new("/")).join("psflip-relay"));
    relay.env_clear().stdin(OwnedFd::from(outer)).stdout(OwnedFd::from(ours));
    if noise {
        relay.env(NOISE, "1");
    }
    Ok(relay.spawn()?)
}

/// Changes the first message as the plan says.
fn rewrite(hello: &str, plan: &[String]) -> String {
    let mut lines: Vec<String> = hello.lines().map(str::to_owned).collect();
    for step in plan.iter().filter_map(|line| line.strip_prefix("hello ")) {
        let (key, value) = step.split_once(' ').unwrap_or((step, ""));
        lines.retain(|line| line.split(' ').next() != Some(key));
        if !value.is_empty() {
            lines.push(format!("{key} {}", plain(value)));
        }
    }
    lines.join("\n")
}

/// Forwards messages in both directions until one side closes its connection.
fn carry(old: &Socket, new: &Socket) -> Result<(), Error> {
    let noise = std::env::var_os(NOISE).is_some();
    loop {
        let mut ready =
            [PollFd::new(old.as_fd(), PollFlags::POLLIN), PollFd::new(new.as_fd(), PollFlags::POLLIN)];
        match poll(&mut ready, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for (from, to) in [(old, new), (new, old)] {
            loop {
                match from.receive()? {
                    Packet::Data(bytes, fds) => {
                        // The receiver is gone. The sender notices it when this process exits.
                        if send(to, &String::from_utf8_lossy(&bytes), &fds, noise).is_err() {
                            return Ok(());
                        }
                    }
                    Packet::Nothing => break,
                    Packet::Closed => return Ok(()),
                }
            }
        }
    }
}

/// Sends a message as it is or, with noise, with additions that a later version might make.
fn send(to: &Socket, message: &str, fds: &[OwnedFd], noise: bool) -> Result<(), Error> {
    let mut all: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
    if !noise {
        return Ok(to.send(message.as_bytes(), &all)?);
    }
    let null = std::fs::File::open("/dev/null")?;
    all.extend([null.as_fd(); 20]);
    let (verb, keys) = message.split_once('\n').unwrap_or((message, ""));
    let long = "x".repeat(1500);
    let message =
        format!("{verb}\nfuture 7\nfuture-list a,b,\\n\\\\\nempty\n{keys}\nlong {long}\nlonger {long}");
    if verb != "hello" {
        to.send(b"sing\nsong loud", &[null.as_fd(); 3])?;
    }
    to.send(message.as_bytes(), &all)?;
    Ok(to.send(b"dance", &[])?)
}
