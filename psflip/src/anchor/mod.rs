//! The anchor: one process that stays while generations of psflip come and go below it. It is there unless systemd follows the main PID
//! (`choice.rs`): everybody else takes the end of the process that was started for the end of the service.
//!
//! The first psflip forks its first generation and becomes the anchor. It starts nothing afterwards: generations start each other as
//! ever, and fall to the anchor as to the nearest subreaper. It forwards signals to the active generation, reaps whatever falls to it,
//! and ends as the last generation ended. It neither reads a configuration nor decides anything about an upgrade.
//!
//! All generations have the other end of one socket, which is handed from one to the next by inheritance. On it they tell the anchor who
//! is who (`message.rs`; the kernel adds who says it), and by its end they see the anchor's.
//! What follows from what was said and who died is `state.rs`, pure; the process is `steward.rs`; `renew.rs` replaces its program.

mod choice;
mod link;
mod message;
mod relay;
mod renew;
mod state;
mod steward;

pub use choice::{Choice, Mode, choose};
pub use link::Link;
pub use message::Message;
pub use renew::resumed;

use std::io;

use crate::end::End;
use crate::process::invocation::Invocation;
use crate::process::reaper::Reaper;
use crate::sys::early;
use crate::sys::memory;
use crate::sys::process::{self, Fork};
use crate::sys::seam::{self, Moment};
use crate::sys::signal::{SignalFd, SignalSet};
use crate::sys::socket::Socket;

/// What a process is after [`begin`].
#[derive(Debug)]
pub enum Place {
    /// A generation, below an anchor or not.
    Generation(Option<Link>),
    /// The anchor, and everything is over: this is how it ends.
    Anchor(End),
}

/// Finds the anchor above this process, or becomes one if this is the first psflip and `choice` says so. In the anchor it returns when
/// the last generation has ended.
///
/// # Errors
/// A successor's: what it inherited is no anchor's socket. A first psflip's: what socketpair(2), signalfd(2) and fork(2) say.
pub fn begin(origin: &Invocation, choice: Choice) -> io::Result<Place> {
    if origin.handover.is_some() {
        let anchor = origin.anchor.as_deref().map(Link::inherited).transpose()?;
        // Whoever signals the anchor's group means the anchor (contract C10). Nothing was started yet that could share it.
        if anchor.is_some() {
            process::lead_group()?;
        }
        return Ok(Place::Generation(anchor));
    }
    if choice.has_anchor() { become_anchor() } else { Ok(Place::Generation(None)) }
}

fn become_anchor() -> io::Result<Place> {
    memory::reserve_stack(); // no generation yet that would end with it
    let reaper = Reaper::new()?;
    early::stop_ignoring_sigchld()?;
    let (ours, theirs) = Socket::pair()?;
    ours.ask_for_senders()?;
    let signals = SignalFd::open(SignalSet::from_bits(u64::MAX))?;
    let anchor = std::process::id();
    match process::fork()? {
        Fork::Child => {
            drop((ours, signals));
            seam::step(Moment::Begins, format_args!("generation"));
            process::lead_group()?;
            let link = Link::new(theirs, anchor);
            link.die_with_anchor()?;
            Ok(Place::Generation(Some(link)))
        }
        Fork::Parent(first) => {
            drop(theirs);
            seam::step(Moment::Begins, format_args!("anchor"));
            let state = state::State::new(first);
            Ok(Place::Anchor(steward::Steward::new(ours, signals, reaper, state).stay()))
        }
    }
}
