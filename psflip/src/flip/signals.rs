//! What a signal means (contract S1 to S5).

use crate::signal::Signal;

/// Who sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel: for a terminal, or at the end of a session.
    Kernel,
    /// psflip itself, such as by a failed write(2).
    Own,
    /// A process.
    Process,
}

/// What the meaning of a signal depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// `upgrade.signal`. `None`: psflip forwards every signal, and the receiver decides whether it is an
    /// upgrade request.
    pub upgrade_signal: Option<Signal>,
    /// psflip stopped itself after its child's whole process group was stopped.
    pub suspended: bool,
}

/// What psflip does about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// What the signal is forwarded to.
    pub forward: Option<Reach>,
    /// What the signal requests from psflip.
    pub request: Option<Request>,
}

/// The target of a forwarded signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// The child.
    Child,
    /// The child's whole process group.
    Group,
}

/// What a signal requests from psflip.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// An upgrade.
    Upgrade,
    /// A stop.
    Stop,
}

/// Returns the meaning of a signal.
#[must_use]
pub fn meaning(signal: Signal, sender: Sender, situation: &Situation) -> Meaning {
    let nothing = Meaning { forward: None, request: None };
    if signal == Signal::CHLD {
        return nothing;
    }
    match sender {
        // A failed write(2) raises these; psflip handles the error where it wrote.
        Sender::Own if signal == Signal::PIPE || signal == Signal::XFSZ => return nothing,
        Sender::Process | Sender::Own if Some(signal) == situation.upgrade_signal => {
            return Meaning { forward: None, request: Some(Request::Upgrade) };
        }
        Sender::Process | Sender::Own | Sender::Kernel => {}
    }
    let request = (signal == Signal::TERM || signal == Signal::INT).then_some(Request::Stop);
    let whole_group = match sender {
        Sender::Kernel => is_of_terminal(signal),
        Sender::Process | Sender::Own => signal == Signal::CONT && situation.suspended,
    };
    Meaning { forward: Some(if whole_group { Reach::Group } else { Reach::Child }), request }
}

/// Whether the kernel sends this signal to whole process groups for a terminal: for its keys, its size, its
/// use from the background, and its hangup (termios(3), tty_ioctl(4), and `Orphaned process groups` in
/// POSIX).
#[must_use]
pub fn is_of_terminal(signal: Signal) -> bool {
    let of_keys = [Signal::INT, Signal::QUIT, Signal::TSTP];
    let others = [Signal::WINCH, Signal::TTIN, Signal::TTOU, Signal::HUP, Signal::CONT];
    of_keys.contains(&signal) || others.contains(&signal)
}

/// The signal that the child gets instead of `signal`, according to `[signals]`; `None`: it gets none. This
/// does not change what the signal means for psflip (contract S8).
#[must_use]
pub fn forwarded_as(signal: Signal, rules: &[(Signal, Option<Signal>)]) -> Option<Signal> {
    rules.iter().find(|(received, _)| *received == signal).map_or(Some(signal), |(_, sent)| *sent)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Situation = Situation { upgrade_signal: Some(Signal::HUP), suspended: false };
    const CHILD: Option<Reach> = Some(Reach::Child);
    const GROUP: Option<Reach> = Some(Reach::Group);

    #[test]
    fn a_signal_is_mapped_by_the_table_or_forwarded_unchanged() {
        // Contract: S8
        let winch: Signal = "SIGWINCH".parse().unwrap();
        let rules = [(Signal::TERM, Some(Signal::QUIT)), (winch, None), (Signal::QUIT, Some(Signal::TERM))];
        assert_eq!(forwarded_as(Signal::TERM, &rules), Some(Signal::QUIT), "once, not again");
        assert_eq!(forwarded_as(Signal::QUIT, &rules), Some(Signal::TERM));
        assert_eq!(forwarded_as(winch, &rules), None);
        assert_eq!(forwarded_as(Signal::INT, &rules), Some(Signal::INT));
        assert_eq!(forwarded_as(Signal::INT, &[]), Some(Signal::INT));
    }

    fn decided(signal: &str, sender: Sender, situation: &Situation) -> (Option<Reach>, Option<Request>) {
        let Meaning { forward, request } = meaning(signal.parse().unwrap(), sender, situation);
        (forward, request)
    }

    #[test]
    fn every_signal_from_a_process_but_three_is_forwarded() {
        // Contract: S1
        let kept: Vec<String> = Signal::all()
            .filter(|signal| meaning(*signal, Sender::Process, &USUAL).forward != CHILD)
            .map(|signal| signal.to_string())
            .collect();
        assert_eq!(kept, ["SIGHUP", "SIGCHLD"]);
        assert_eq!(decided("PIPE", Sender::Own, &USUAL), (None, None));
    }

    #[test]
    fn terminal_signals_are_forwarded_to_the_whole_group() {
        // Contract: S2
        for signal in ["QUIT", "TSTP", "WINCH", "TTIN", "TTOU", "CONT"] {
            assert_eq!(decided(signal, Sender::Kernel, &USUAL), (GROUP, None), "{signal}");
        }
        for signal in ["ALRM", "XCPU", "IO"] {
            assert_eq!(
                decided(signal, Sender::Kernel, &USUAL),
                (CHILD, None),
                "{signal}: not the terminal's"
            );
        }
    }

    #[test]
    fn a_terminal_hangup_is_not_an_upgrade_request() {
        // Contract: S4
        assert_eq!(decided("HUP", Sender::Process, &USUAL), (None, Some(Request::Upgrade)));
        assert_eq!(decided("HUP", Sender::Kernel, &USUAL), (GROUP, None));
    }

    #[test]
    fn sigterm_and_sigint_are_stop_requests_and_sigquit_is_not() {
        // Contract: S5
        assert_eq!(decided("TERM", Sender::Process, &USUAL), (CHILD, Some(Request::Stop)));
        assert_eq!(decided("INT", Sender::Kernel, &USUAL), (GROUP, Some(Request::Stop)));
        assert_eq!(decided("QUIT", Sender::Process, &USUAL), (CHILD, None));
    }

    #[test]
    fn sigcont_is_sent_to_the_whole_group_after_a_suspension() {
        // Contract: S3
        assert_eq!(decided("CONT", Sender::Process, &USUAL).0, CHILD);
        assert_eq!(decided("CONT", Sender::Process, &Situation { suspended: true, ..USUAL }).0, GROUP);
    }
}
