//! The anchor: the stable parent of all generations of psflip. There is one unless systemd follows
//! the main PID (`choice.rs`): every other supervisor takes the exit of the process that it
//! started for the exit of the service.
//!
//! The first psflip forks its first generation and becomes the anchor. After that the anchor starts nothing.
//! Generations start each other as they do without an anchor, and become its children because it is the
//! nearest subreaper. The anchor forwards signals to the active generation, reaps its children, and exits
//! with the exit status of the last generation. It reads no configuration and takes no part in upgrades.
//!
//! All generations share the other end of one socket, which each inherits from its predecessor. They
//! send messages on it (`message.rs`), and the kernel adds the sender. When the anchor's end is
//! closed, they know that the anchor is dead.
//!
//! `state.rs` computes what follows from the messages and exits, without system calls. `parent.rs` is the
//! process, and `renew.rs` replaces its program.

mod choice;
mod link;
mod message;
mod parent;
mod relay;
mod renew;
mod state;

pub use choice::{Choice, Mode, choose};
pub use link::AnchorLink;
pub use message::AnchorMessage;
pub use renew::resumed;

use std::io;

use crate::exit_status::ExitStatus;
use crate::process::invocation::Invocation;
use crate::process::reaper::Reaper;
use crate::sys::early;
use crate::sys::memory;
use crate::sys::process::{self, Fork};
use crate::sys::seam::{self, Moment};
use crate::sys::signal::{SignalFd, SignalSet};
use crate::sys::socket::Socket;

/// The role of a process after [`begin`].
#[derive(Debug)]
pub enum ProcessKind {
    /// A generation, with its anchor if there is one.
    Generation(Option<AnchorLink>),
    /// The anchor, after the service has exited: its own exit status.
    Anchor(ExitStatus),
}

/// Connects to the anchor of this process, or becomes the anchor if this is the first psflip and `choice`
/// says so. In the anchor it returns when the last generation has exited.
///
/// # Errors
/// In a successor: the inherited descriptor is no anchor's socket. In a first psflip: those of
/// socketpair(2), signalfd(2) and fork(2).
pub fn begin(origin: &Invocation, choice: Choice) -> io::Result<ProcessKind> {
    if origin.handover.is_some() {
        let anchor = origin.anchor.as_deref().map(AnchorLink::inherited).transpose()?;
        // A signal to the anchor's group is meant for the anchor only (contract C10). No process that could
        // share the group has been started yet.
        if anchor.is_some() {
            process::lead_group()?;
        }
        return Ok(ProcessKind::Generation(anchor));
    }
    if choice.has_anchor() { become_anchor() } else { Ok(ProcessKind::Generation(None)) }
}

fn become_anchor() -> io::Result<ProcessKind> {
    memory::reserve_stack(); // before there is a generation that a failure would kill
    let reaper = Reaper::new()?;
    early::stop_ignoring_sigchld()?;
    let (ours, theirs) = Socket::pair()?;
    ours.request_senders()?;
    let signals = SignalFd::open(SignalSet::from_bits(u64::MAX))?;
    let anchor = std::process::id();
    match process::fork()? {
        Fork::Child => {
            drop((ours, signals));
            seam::step(Moment::Begins, format_args!("generation"));
            process::lead_group()?;
            let link = AnchorLink::new(theirs, anchor);
            link.die_with_anchor()?;
            Ok(ProcessKind::Generation(Some(link)))
        }
        Fork::Parent(first) => {
            drop(theirs);
            seam::step(Moment::Begins, format_args!("anchor"));
            let state = state::AnchorState::new(first);
            Ok(ProcessKind::Anchor(parent::Anchor::new(ours, signals, reaper, state).stay()))
        }
    }
}
