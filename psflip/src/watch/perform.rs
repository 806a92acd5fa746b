//! Performs the effects that `state.rs` decides.

use std::io;
use std::time::{Duration, Instant};

use super::Watch;
use super::state::{Effect, Event, Notice, Timer, To};
use crate::flip::signals::Reach;
use crate::signal::Signal;
use crate::sys::signal::Received;
use crate::sys::tree;

/// How long killed processes may take to disappear. After that, their keeper counts as hung.
const KILLED: Duration = Duration::from_secs(5);

impl Watch {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Report(notice) => self.report(notice),
            Effect::MarkRead => self.file.judged(),
            Effect::Follow(pid) => {
                self.processes.retain(|(known, _)| *known != pid);
                self.processes.extend(self.named.take().filter(|(named, _)| *named == pid));
            }
            Effect::Forward(received, to) => self.forward(&received, to),
            Effect::AskKeeper => match self.tree.request_catch_up() {
                // If the keeper is gone, a report says so.
                Err(error) if error.raw_os_error() != Some(libc::EPIPE) => {
                    tracing::debug!(%error, "can't ask the keeper; trying again");
                    self.decide(Event::QueryNotSent);
                }
                Ok(()) | Err(_) => {}
            },
            Effect::Arm(Timer::Stop) => self.stop_until = Some(Instant::now() + self.options.grace),
            Effect::Arm(Timer::Patience) => self.until = Some(Instant::now() + self.options.patience),
            Effect::Arm(Timer::Grace) => self.until = Some(Instant::now() + self.options.grace),
            Effect::Arm(Timer::Killed) => self.until = Some(Instant::now() + KILLED),
            Effect::Disarm => self.until = None,
            // Errors of these mean that nothing is left.
            Effect::StopAll => {
                let _ = self.tree.signal_all(Signal::TERM);
                let _ = self.tree.signal_all(Signal::CONT); // a stopped process can't act on SIGTERM
            }
            Effect::KillAll => drop(self.tree.kill_all()),
            Effect::KillKeeper => self.tree.kill_keeper(), // its orphans become children of this process
            Effect::Exit(end) => self.exit = Some(end),
        }
    }

    fn forward(&mut self, received: &Received, to: To) {
        let sent = match to {
            To::All => self.tree.signal_all(received.signal),
            To::Command(reach) => self.tree.forward(received, reach),
            // If the service is a direct child of the keeper, the keeper can signal its whole group.
            To::Service(pid, Reach::Group) if tree::parent_of(pid) == Some(self.tree.keeper_pid()) => {
                self.tree.signal_group(pid, received.signal)
            }
            To::Service(pid, _) => self.send(pid, received),
        };
        if let Err(error) = sent
            && !matches!(error.raw_os_error(), Some(libc::ESRCH | libc::EPIPE))
        {
            tracing::error!(signal = %received.signal, %error, "can't forward a signal");
        }
    }

    fn send(&self, to: u32, received: &Received) -> io::Result<()> {
        match self.processes.iter().find(|(pid, _)| *pid == to) {
            Some((_, process)) => process.forward(received),
            None => Ok(()),
        }
    }

    fn report(&self, notice: Notice) {
        let text = |end: Option<crate::exit_status::ExitStatus>| {
            end.map_or_else(|| "in an unknown way".to_owned(), |end| end.to_string())
        };
        match notice {
            Notice::Follows(pid) => tracing::info!(service = pid, "follows the pidfile"),
            Notice::GetsStopToo(pid, signal) => {
                tracing::info!(service = pid, %signal, "it was named after the stop request, and gets it too");
            }
            Notice::Stranger(pid) => tracing::warn!(
                named = pid,
                pidfile = %self.options.pidfile.display(),
                "the pidfile names a process that is none of the command's; it is ignored"
            ),
            Notice::ServiceExited(end) => tracing::info!(end = text(end), "the service has exited"),
            Notice::Waits => tracing::warn!(
                patience = ?self.options.patience,
                "waiting for another process to take its place"
            ),
            Notice::Outage(end) => tracing::error!(
                end = text(end),
                "the service is down: it terminated without a stop request, and nothing took its place"
            ),
            Notice::Stopping(end) => tracing::info!(%end, "stopped; stopping what is left"),
            Notice::Kills => tracing::warn!("killing what did not exit within {:?}", self.options.grace),
            Notice::NothingLeft(end) => tracing::info!(%end, "stopped; nothing is left"),
        }
    }
}
