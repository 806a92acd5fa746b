//! The anchor: one process that stays while generations of psflip come and go below it, for managers that want one process for ever,
//! for a terminal, and for PID 1 of a container (`psflip run --foreground`).
//!
//! The first psflip forks its first generation and becomes the anchor. It starts nothing afterwards: generations start each other as
//! ever, and fall to the anchor as to the nearest subreaper. It forwards signals to the active generation, reaps whatever falls to it,
//! and ends as the last generation ended. It neither reads a configuration nor decides anything about an upgrade.
//!
//! All generations have the other end of one socket, which is handed from one to the next by inheritance. On it they tell the anchor who
//! is who (`message.rs`; the kernel adds who says it), and by its end they see the anchor's.
//! What follows from what was said and who died is `state.rs`, pure; the process is `steward.rs`; `renew.rs` replaces its program.

mod link;
mod message;
mod relay;
mod renew;
mod state;
mod steward;

pub use link::Link;
pub use message::Message;
pub use renew::resumed;

use std::io;

use crate::end::End;
use crate::job;
use crate::reaper::Reaper;
use crate::runtime::Origin;
use crate::signal::Signal;
use crate::sys::early;
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

/// Finds the anchor above this process, or becomes one if that is wanted and this is the first psflip. In the anchor it returns when the
/// last generation has ended.
///
/// # Errors
/// A successor's: what it inherited is no anchor's socket. A first psflip's: what socketpair(2), signalfd(2) and fork(2) say.
pub fn begin(origin: &Origin, foreground: bool) -> io::Result<Place> {
    if origin.handover.is_some() {
        return origin.anchor.as_deref().map(Link::inherited).transpose().map(Place::Generation);
    }
    if !foreground && !has_to_stay() {
        return Ok(Place::Generation(None));
    }
    become_anchor()
}

/// Whether the end of this process would be the end of a successor as well: PID 1's ends its namespace, and that of the leader of a
/// terminal's session hangs up on all that is left in it.
fn has_to_stay() -> bool {
    let hangs_up = || {
        job::leads_session()
            && job::has_terminal()
            && !early::inherited_signals().ignored.contains(Signal::HUP)
    };
    std::process::id() == 1 || hangs_up()
}

fn become_anchor() -> io::Result<Place> {
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
