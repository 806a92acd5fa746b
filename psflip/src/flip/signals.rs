//! What a signal means (contract S1 to S5).

use crate::signal::Signal;

/// Who sent a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The kernel: a terminal, the end of a session.
    Kernel,
    /// psflip itself, by what it wrote.
    Own,
    /// Some process.
    Process,
}

/// What has to be known to tell what a signal means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Situation {
    /// `upgrade.signal`. `None`: whoever the signal is forwarded to knows whether it is one.
    pub upgrade_signal: Option<Signal>,
    /// The child is in psflip's process group, so that a terminal signals both.
    pub child_in_our_group: bool,
    /// psflip leads its session, so that the kernel's SIGHUP is for psflip alone.
    pub session_leader: bool,
    /// psflip was stopped together with its child, and the child runs again: whoever continued psflip continued the group.
    pub child_was_continued: bool,
}

/// What is to be done about a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meaning {
    /// The child gets it too.
    pub forward: bool,
    /// It is a request to psflip.
    pub request: Option<Request>,
}

/// What a signal asks psflip for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// An upgrade.
    Upgrade,
    /// The end.
    Stop,
}

/// Tells what a signal means.
#[must_use]
pub fn meaning(signal: Signal, sender: Sender, situation: &Situation) -> Meaning {
    let nothing = Meaning { forward: false, request: None };
    if signal == Signal::CHLD {
        return nothing;
    }
    match sender {
        // write(2) raises these where it fails; the error is handled where psflip wrote.
        Sender::Own if signal == Signal::PIPE || signal == Signal::XFSZ => return nothing,
        Sender::Process | Sender::Own if Some(signal) == situation.upgrade_signal => {
            return Meaning { forward: false, request: Some(Request::Upgrade) };
        }
        Sender::Process | Sender::Own | Sender::Kernel => {}
    }
    let request = (signal == Signal::TERM || signal == Signal::INT).then_some(Request::Stop);
    Meaning { forward: !child_has_it(signal, sender, situation), request }
}

/// Whether the child got the signal along with psflip.
fn child_has_it(signal: Signal, sender: Sender, situation: &Situation) -> bool {
    match sender {
        // A terminal signals its whole foreground process group (S2), but a hang-up is told to the session's leader alone.
        Sender::Kernel => {
            situation.child_in_our_group && !(signal == Signal::HUP && situation.session_leader)
        }
        Sender::Own | Sender::Process => signal == Signal::CONT && situation.child_was_continued,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Situation = Situation {
        upgrade_signal: Some(Signal::HUP),
        child_in_our_group: true,
        session_leader: false,
        child_was_continued: false,
    };

    fn told(signal: &str, sender: Sender, situation: &Situation) -> (bool, Option<Request>) {
        let Meaning { forward, request } = meaning(signal.parse().unwrap(), sender, situation);
        (forward, request)
    }

    #[test]
    fn every_signal_of_a_process_is_forwarded_but_for_three() {
        // Contract: S1
        let kept: Vec<String> = Signal::all()
            .filter(|signal| !meaning(*signal, Sender::Process, &USUAL).forward)
            .map(|signal| signal.to_string())
            .collect();
        assert_eq!(kept, ["SIGHUP", "SIGCHLD"]);
        assert_eq!(told("PIPE", Sender::Own, &USUAL), (false, None));
    }

    #[test]
    fn what_a_terminal_gave_to_the_group_is_not_given_twice() {
        // Contract: S2
        for signal in ["INT", "QUIT", "TSTP", "WINCH"] {
            assert!(!told(signal, Sender::Kernel, &USUAL).0, "{signal}");
            let apart = Situation { child_in_our_group: false, ..USUAL };
            assert!(told(signal, Sender::Kernel, &apart).0, "{signal} for a child in a group of its own");
        }
    }

    #[test]
    fn a_hangup_of_the_terminal_is_no_upgrade() {
        // Contract: S4
        assert_eq!(told("HUP", Sender::Process, &USUAL), (false, Some(Request::Upgrade)));
        assert_eq!(told("HUP", Sender::Kernel, &USUAL), (false, None), "the group has it");
        let leader = Situation { session_leader: true, ..USUAL };
        assert_eq!(told("HUP", Sender::Kernel, &leader), (true, None));
    }

    #[test]
    fn term_and_int_are_stop_requests_and_quit_is_none() {
        // Contract: S5
        assert_eq!(told("TERM", Sender::Process, &USUAL), (true, Some(Request::Stop)));
        assert_eq!(told("INT", Sender::Kernel, &USUAL), (false, Some(Request::Stop)));
        assert_eq!(told("QUIT", Sender::Process, &USUAL), (true, None));
    }

    #[test]
    fn a_continue_for_the_group_is_not_given_twice() {
        // Contract: S2, S3
        assert!(told("CONT", Sender::Process, &USUAL).0);
        let continued = Situation { child_was_continued: true, ..USUAL };
        assert!(!told("CONT", Sender::Process, &continued).0);
    }
}
