//! `notify`: any datagrams on the socket for the child's readiness notifications.
//!
//! An input is a list of datagrams, separated by lines `---`. A datagram that begins with `+N` carries N
//! descriptors.

use std::io::IoSlice;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};
use psflip::testing::health::Notifications;

use super::{Run, ensure, open_descriptors};
use crate::Error;

pub(super) const WORDS: &[&str] = &[
    "READY=1",
    "READY=0",
    "STATUS=",
    "ERRNO=",
    "EXIT_STATUS=",
    "STOPPING=1",
    "EXTEND_TIMEOUT_USEC=",
    "MAINPID=1",
    "BARRIER=1",
    "WATCHDOG=1",
    "FDSTORE=1",
    "RELOADING=1",
    "=",
    "\n",
    "\n---\n",
    "+1",
    "+9",
    "X_",
    "=1",
];

/// The longest datagram that psflip accepts.
const LONGEST: usize = 4096;

pub(super) fn start(_: &Path) -> Result<Run, Error> {
    let sender = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None)?;
    let null = OwnedFd::from(std::fs::File::open("/dev/null")?);
    Ok(Box::new(move |bytes| {
        let before = open_descriptors()?;
        hear(&sender, &null, bytes)?;
        let after = open_descriptors()?;
        ensure(before == after, || format!("{before} descriptors were open before, {after} are after"))
    }))
}

fn hear(sender: &OwnedFd, null: &OwnedFd, bytes: &[u8]) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| format!("the test itself failed: {error}");
    let mut notifications = Notifications::open().map_err(|error| text(&error))?;
    let name = notifications.address();
    let address =
        UnixAddr::new_abstract(name.trim_start_matches('@').as_bytes()).map_err(|error| text(&error))?;
    // Pass the parent of this process as the keeper, so that this process counts as the child.
    let (keeper, own) = (nix::unistd::getppid().as_raw().cast_unsigned(), std::process::id());
    let mut ready = false;
    let mut rest = Some(bytes);
    while let Some(here) = rest {
        let at = here.windows(5).position(|window| window == b"\n---\n");
        let datagram = at.map_or(here, |at| &here[..at]);
        rest = at.map(|at| &here[at + 5..]);
        let (count, datagram) = match datagram {
            [b'+', digit @ b'0'..=b'9', datagram @ ..] => (usize::from(digit - b'0'), datagram),
            datagram => (0, datagram),
        };
        let fds = vec![null.as_raw_fd(); count];
        let rights = [ControlMessage::ScmRights(&fds)];
        let rights: &[_] = if count == 0 { &[] } else { &rights };
        let sent = sendmsg(
            sender.as_raw_fd(),
            &[IoSlice::new(datagram)],
            rights,
            MsgFlags::MSG_DONTWAIT,
            Some(&address),
        );
        let lines = datagram.split(|byte| *byte == b'\n');
        // Longer ones exceed the kernel's limit and are not sent.
        ready |=
            sent.is_ok() && datagram.len() <= LONGEST && lines.into_iter().any(|line| line == b"READY=1");
        notifications.receive(keeper, Some(own)).map_err(|error| text(&error))?;
    }
    ensure(notifications.is_ready() == ready, || {
        format!("ready: {}, wanted: {ready}", notifications.is_ready())
    })?;
    for told in [
        Some(notifications.why_not_ready()),
        notifications.last_words(),
        notifications.status().map(str::to_owned),
    ] {
        let told = told.unwrap_or_default();
        ensure(told.len() < 5000 && !told.contains(char::is_control), || format!("{told:?}"))?;
    }
    Ok(())
}
