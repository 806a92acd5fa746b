//! `link`: a successor receives any packets, with any descriptors, from whatever descriptor its variable
//! names.
//!
//! An input is a list of packets, separated by lines `---`. A packet that begins with `+N` carries N
//! descriptors.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};
use std::path::Path;

use psflip::testing::handover::predecessor::{FromPredecessor, PredecessorLink, meet};
use psflip::testing::sys::pidfd::PidFd;
use psflip::testing::sys::socket::Socket;

use super::{Run, ensure, open_descriptors};
use crate::Error;

pub(super) fn start(_: &Path) -> Result<Run, Error> {
    let files = [
        OwnedFd::from(std::fs::File::open("/dev/null")?),
        OwnedFd::from(std::io::pipe()?.0),
        OwnedFd::from(std::os::unix::net::UnixStream::pair()?.0),
    ];
    Ok(Box::new(move |bytes| {
        let before = open_descriptors()?;
        hear(bytes, &files).map_err(|error| format!("the test itself failed: {error}"))?;
        let after = open_descriptors()?;
        ensure(before == after, || format!("{before} descriptors were open before, {after} are after"))
    }))
}

fn hear(bytes: &[u8], files: &[OwnedFd]) -> Result<(), Error> {
    let own = PidFd::open(std::process::id())?;
    let (ours, theirs) = Socket::pair()?;
    let mut rest = bytes;
    loop {
        let (packet, behind) = match rest.windows(5).position(|window| window == b"\n---\n") {
            Some(at) => (&rest[..at], Some(&rest[at + 5..])),
            None => (rest, None),
        };
        let (count, packet) = match packet {
            [b'+', digit @ b'0'..=b'9', packet @ ..] => (usize::from(digit - b'0'), packet),
            packet => (0, packet),
        };
        let fds: Vec<BorrowedFd<'_>> =
            std::iter::once(own.as_fd()).chain(files.iter().cycle().map(AsFd::as_fd)).take(count).collect();
        // An error means that the packet is too long for the kernel, or the queue is full: the other packets
        // are enough.
        let _ = ours.send(packet, &fds);
        match behind {
            Some(behind) => rest = behind,
            None => break,
        }
    }
    let number = OwnedFd::from(theirs).into_raw_fd();
    match meet(&number.to_string()) {
        Ok(met) => listen(&met.link),
        Err((error, link)) => {
            if error.to_string().is_empty() {
                return Err("an error without a text".into());
            }
            if let Some(link) = link {
                listen(&link);
            }
        }
    }
    // `meet` adopts the descriptor whatever it is, so by now it must be closed.
    if meet(&number.to_string()).is_ok() || ours.as_fd().as_raw_fd() == number {
        return Err("the descriptor is still there".into());
    }
    Ok(())
}

/// Receives all queued messages, before and after this side withdraws.
fn listen(link: &PredecessorLink) {
    let _ = link.receive();
    let _ = link.withdraw();
    while let Ok(Some(FromPredecessor::Message(_))) = link.receive() {}
}
