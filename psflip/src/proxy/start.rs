//! The start of a relay: both sides of it, in psflip and in the new process.
//!
//! A relay executes psflip's own program again. A fork without an exec would do for the keeper, which only
//! waits; but the relay is large and busy, and must not share a page, a lock or a descriptor with psflip.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd};
use std::os::unix::ffi::OsStringExt as _;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use relay::message::Order;

use super::{Relay, in_message};
use crate::config::Proxy;
use crate::log;
use crate::process::invocation::Program;
use crate::sys::fd;
use crate::sys::process::{self, StringArray};
use crate::sys::seam::{self, Call};
use crate::sys::signal::{SignalSet, set_mask};
use crate::sys::socket::Socket;

/// The first argument of a relay, which ps(1) shows, and its name in top(1).
const NAME: &str = "psflip: relay";
/// The descriptor of its link to psflip.
const LINK: i32 = 3;
/// The running program, even if its file was replaced (proc(5)).
const OWN_PROGRAM: &std::ffi::CStr = c"/proc/self/exe";

/// What a relay is started with.
#[derive(Debug)]
pub struct Start<'s> {
    /// How psflip itself was started.
    pub program: &'s Program,
    /// How to log ([`log::as_argument`]).
    pub log: &'s str,
    /// The proxies, each with its listening sockets.
    pub proxies: Vec<(&'s Proxy, Vec<BorrowedFd<'s>>)>,
}

impl Start<'_> {
    /// Starts it. It reports when it can accept.
    ///
    /// # Errors
    /// memfd_create(2)'s, socketpair(2)'s, clone(2)'s and execve(2)'s: EMFILE, ENOMEM, EAGAIN, ...
    pub fn start(&self) -> io::Result<Relay> {
        seam::before(Call::MemoryFile)?;
        let counts = File::from(memfd_create(c"psflip: counts", MFdFlags::MFD_CLOEXEC)?);
        let (ours, theirs) = Socket::pair()?;
        // All memory is allocated before the new process is there.
        let argv = [NAME, self.log].map(|part| CString::new(part).unwrap_or_default());
        let argv = StringArray::new(argv.into());
        let envp = StringArray::new(self.program.envp.clone());
        let nothing = File::open("/dev/null").ok();
        let parent = std::process::id();
        let become_relay = || {
            let prepared = set_mask(SignalSet::from_bits(u64::MAX))
                .and_then(|_| process::lead_group())
                .and_then(|()| process::die_with_parent(parent))
                .and_then(|()| match &nothing {
                    Some(nothing) => process::duplicate_onto(nothing.as_fd(), 0),
                    None => Ok(()),
                })
                .and_then(|()| inherit_as_link(theirs.as_fd()));
            if let Err(error) = prepared {
                return error;
            }
            let mut error = process::exec(OWN_PROGRAM, &argv, &envp);
            for candidate in &self.program.candidates {
                error = process::exec(candidate, &argv, &envp); // /proc is not there
            }
            error
        };
        let (pid, process) = process::spawn(become_relay)??;
        let relay = Relay { socket: ours, pid, process, counts };
        let proxies = self.proxies.iter().map(|(proxy, sockets)| in_message(proxy, sockets.len())).collect();
        let sockets = self.proxies.iter().flat_map(|(_, sockets)| sockets.iter().copied());
        let fds: Vec<BorrowedFd<'_>> = sockets.chain([relay.counts.as_fd()]).collect();
        relay.socket.send(&serde_json::to_vec(&Order::Start { proxies })?, &fds)?;
        Ok(relay)
    }
}

/// Runs a relay, if this process was started as one. `None`: it was not. Otherwise the exit code.
#[must_use]
pub fn relay_process() -> Option<u8> {
    let mut arguments = std::env::args_os().map(OsString::into_vec);
    if arguments.next()? != NAME.as_bytes() {
        return None;
    }
    log::start_relay(&String::from_utf8_lossy(&arguments.next()?));
    process::set_name(c"psflip: relay");
    let code = match run() {
        Ok(()) => crate::exit::OK,
        Err(error) => {
            tracing::error!(%error, "the relay can't go on");
            crate::exit::FAILURE
        }
    };
    Some(code)
}

/// Lets the link survive the exec, as number [`LINK`].
fn inherit_as_link(end: BorrowedFd<'_>) -> io::Result<()> {
    if end.as_raw_fd() == LINK {
        fd::set_close_on_exec(end, false) // dup2(2) does nothing
    } else {
        process::duplicate_onto(end, LINK)
    }
}

fn run() -> io::Result<()> {
    let link = fd::adopt(LINK)?;
    fd::set_close_on_exec(link.as_fd(), true)?;
    // What psflip inherited and its child needs is not for the relay.
    process::close_above_standard(&[link.as_fd()]);
    raise_limit();
    relay::run(link)
}

/// Each connection takes two descriptors, and the usual soft limit of 1,024 is for programs that call
/// select(2).
fn raise_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, "can't raise the limit of open files");
    }
}
