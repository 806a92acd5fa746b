//! What a generation does when its child was stopped by a signal (contract S3): pure.
//!
//! The child's process group stays in the terminal's background until the child needs the terminal. psflip
//! acts for its child as a shell acts for its jobs. It gives the terminal to a child that was stopped because
//! it used the terminal, and stops itself after a Ctrl-Z, so that the shell sees a stopped job.

use super::signals::Sender;
use super::state::{Phase, Predecessor, State};
use crate::signal::Signal;

/// Which process group is in the terminal's foreground.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreground {
    /// There is no controlling terminal.
    NoTerminal,
    /// The job that the shell knows: the anchor's group if there is an anchor, else psflip's.
    Job,
    /// The child's.
    Child,
    /// Any other group: the shell's, or that of another generation's child.
    Other,
}

/// The role of a generation in the service, as far as job control needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// It is the only generation.
    Alone,
    /// It is the service, and a successor starts or a predecessor drains.
    Beside,
    /// It starts, and its predecessor serves.
    Coming,
    /// A successor is the service, or this generation failed.
    Leaving,
}

/// A child that was stopped by a signal.
#[derive(Clone, Copy, Debug)]
pub struct ChildStop {
    /// The signal that stopped it.
    pub signal: Signal,
    /// The last job-control signal that psflip got since the child was last started or continued, and its
    /// sender.
    pub requested: Option<(Signal, Sender)>,
    /// Whether the child has not acted on that signal yet: it is pending, or came after the stop. `None`: not
    /// known yet.
    pub is_pending: Option<bool>,
    /// Which group has the terminal.
    pub foreground: Foreground,
    /// The role of the child's generation.
    pub part: Part,
    /// No shell waits for the job, so the kernel would not stop it (`Orphaned process groups` in setpgid(2)
    /// and POSIX).
    pub orphaned: bool,
}

/// What psflip does after a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterStop {
    /// The child stays stopped, and psflip keeps running.
    Nothing,
    /// The child's group becomes the terminal's foreground group and is continued.
    Lend,
    /// The child's group is continued.
    Continue,
    /// psflip stops as well.
    StopToo,
    /// It depends on [`ChildStop::is_pending`].
    FindOut,
}

/// Whether the kernel sends this signal to background processes that use the terminal.
#[must_use]
pub fn needs_terminal(signal: Signal) -> bool {
    [Signal::TTIN, Signal::TTOU].contains(&signal)
}

/// Whether a terminal stops a job by this signal.
#[must_use]
pub fn is_terminal_stop(signal: Signal) -> bool {
    signal == Signal::TSTP || needs_terminal(signal)
}

/// What psflip does after a stop.
#[must_use]
pub fn after_stop(stop: &ChildStop) -> AfterStop {
    let ChildStop { signal, foreground, part, orphaned, .. } = *stop;
    let requested = match stop.requested {
        // A child that ignored Ctrl-Z may need the terminal later. But SIGCONT discards a Ctrl-Z that the
        // child has not acted on yet (signal(7)), so psflip must not continue the child then.
        Some((requested, _)) if needs_terminal(signal) && requested != signal => match stop.is_pending {
            None => return AfterStop::FindOut,
            Some(is_pending) => stop.requested.filter(|_| is_pending),
        },
        requested => requested,
    };
    match requested {
        Some((_, Sender::Process | Sender::Own)) => return AfterStop::StopToo,
        Some((_, Sender::Kernel)) | None if foreground == Foreground::NoTerminal => {
            return AfterStop::Nothing;
        }
        None if needs_terminal(signal) => {
            return match (foreground, part) {
                (Foreground::NoTerminal, _) | (_, Part::Leaving) => AfterStop::Nothing,
                (Foreground::Job, _) => AfterStop::Lend,
                (Foreground::Child, _) => AfterStop::Continue,
                (Foreground::Other, Part::Alone) if !orphaned => AfterStop::StopToo,
                (Foreground::Other, _) => AfterStop::Nothing,
            };
        }
        None if signal != Signal::TSTP => return AfterStop::Nothing,
        Some((_, Sender::Kernel)) | None => {}
    }
    match part {
        Part::Alone | Part::Beside if !orphaned => AfterStop::StopToo,
        // Nothing could continue the job.
        Part::Alone | Part::Beside | Part::Coming | Part::Leaving => AfterStop::Continue,
    }
}

impl State {
    /// The role of this generation in job control.
    #[must_use]
    pub fn part(&self) -> Part {
        match self.phase {
            Phase::Preparing { predecessor: Predecessor::None, .. }
            | Phase::Starting { predecessor: Predecessor::None, .. }
            | Phase::Restarting { .. }
            | Phase::Settling { predecessor: Predecessor::None }
            | Phase::Promoting { predecessor: Predecessor::None, .. } => Part::Alone,
            Phase::Serving { .. } if self.old.draining == 0 => Part::Alone,
            Phase::Serving { .. } | Phase::Upgrading { .. } | Phase::GivingWay { .. } => Part::Beside,
            Phase::Preparing { predecessor: Predecessor::Serves, .. }
            | Phase::Starting { predecessor: Predecessor::Serves, .. }
            | Phase::Settling { predecessor: Predecessor::Serves }
            | Phase::Promoting { predecessor: Predecessor::Serves, .. }
            | Phase::Baking { .. } => Part::Coming,
            Phase::Draining { .. } | Phase::AwaitingPredecessor { .. } | Phase::Exiting => Part::Leaving,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [Part; 4] = [Part::Alone, Part::Beside, Part::Coming, Part::Leaving];
    const USUAL: ChildStop = ChildStop {
        signal: Signal::TTIN,
        requested: None,
        is_pending: None,
        foreground: Foreground::Job,
        part: Part::Alone,
        orphaned: false,
    };

    fn in_every_part(stop: ChildStop) -> [AfterStop; 4] {
        PARTS.map(|part| after_stop(&ChildStop { part, ..stop }))
    }

    #[test]
    fn a_child_that_needs_the_terminal_gets_it_when_the_job_has_it() {
        // Contract: S3
        use AfterStop::{Continue, Lend, Nothing, StopToo};
        for signal in [Signal::TTIN, Signal::TTOU] {
            let usual = ChildStop { signal, ..USUAL };
            assert_eq!(in_every_part(usual), [Lend, Lend, Lend, Nothing]);
            let has_it = ChildStop { foreground: Foreground::Child, ..usual };
            assert_eq!(in_every_part(has_it), [Continue, Continue, Continue, Nothing]);
            let background = ChildStop { foreground: Foreground::Other, ..usual };
            assert_eq!(in_every_part(background), [StopToo, Nothing, Nothing, Nothing]);
            let nobodys = ChildStop { orphaned: true, ..background };
            assert_eq!(in_every_part(nobodys), [Nothing; 4], "it would be stopped again and again");
        }
    }

    #[test]
    fn ctrl_z_at_the_moment_in_which_the_child_needs_the_terminal_is_not_lost() {
        // Contract: S3
        use AfterStop::{Continue, FindOut, Lend, StopToo};
        for signal in [Signal::TTIN, Signal::TTOU] {
            let stop = ChildStop { signal, requested: Some((Signal::TSTP, Sender::Kernel)), ..USUAL };
            assert_eq!(in_every_part(stop), [FindOut; 4]);
            let unheard = ChildStop { is_pending: Some(true), ..stop };
            assert_eq!(in_every_part(unheard), [StopToo, StopToo, Continue, Continue]);
            // A child that ignores Ctrl-Z, and reads from the terminal later.
            let ignored = ChildStop { is_pending: Some(false), ..stop };
            assert_eq!(in_every_part(ignored), [Lend, Lend, Lend, AfterStop::Nothing]);
            let requested = Some((Signal::TSTP, Sender::Process));
            let of_process = ChildStop { requested, is_pending: Some(true), ..stop };
            assert_eq!(in_every_part(of_process), [StopToo; 4]);
        }
    }

    #[test]
    fn ctrl_z_stops_the_job_if_a_shell_waits_for_it() {
        // Contract: S3
        use AfterStop::{Continue, StopToo};
        let direct = ChildStop { signal: Signal::TSTP, foreground: Foreground::Child, ..USUAL };
        let requested = Some((Signal::TSTP, Sender::Kernel));
        let tidies_first = ChildStop { signal: Signal::STOP, requested, ..USUAL };
        for stop in [direct, ChildStop { requested, ..direct }, tidies_first] {
            assert_eq!(in_every_part(stop), [StopToo, StopToo, Continue, Continue]);
            assert_eq!(in_every_part(ChildStop { orphaned: true, ..stop }), [Continue; 4]);
        }
    }

    #[test]
    fn without_a_terminal_psflip_stops_only_when_it_got_a_request_itself() {
        // Contract: S3
        let none = ChildStop { foreground: Foreground::NoTerminal, orphaned: true, ..USUAL };
        for signal in [Signal::TSTP, Signal::TTIN, Signal::TTOU] {
            let stop = ChildStop { signal, ..none };
            assert_eq!(in_every_part(stop), [AfterStop::Nothing; 4]);
            for stopped_by in [signal, Signal::STOP] {
                let requested = Some((signal, Sender::Process));
                let stop = ChildStop { signal: stopped_by, requested, ..none };
                assert_eq!(in_every_part(stop), [AfterStop::StopToo; 4], "{signal} {stopped_by}");
            }
        }
    }

    #[test]
    fn suspending_the_child_alone_does_not_suspend_psflip() {
        // Contract: S3, F12
        for foreground in [Foreground::NoTerminal, Foreground::Job, Foreground::Child, Foreground::Other] {
            let stop = ChildStop { signal: Signal::STOP, foreground, ..USUAL };
            assert_eq!(in_every_part(stop), [AfterStop::Nothing; 4]);
        }
    }
}
