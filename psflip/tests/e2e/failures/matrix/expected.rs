//! What the contract wants of a cell. It is no table of what was seen: it follows from the clauses and from
//! one fact, whether the acknowledgement was sent, which is the point of no return (`docs/handover.md`).

use testkit::Signal;

/// Who gets the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    OldPsflip,
    OldKeeper,
    OldChild,
    NewPsflip,
    NewKeeper,
    NewChild,
    /// The new psflip and its keeper, in the same instant.
    NewPsflipAndKeeper,
    Anchor,
}

impl Target {
    pub(super) fn is_keeper(self) -> bool {
        matches!(self, Self::OldKeeper | Self::NewKeeper)
    }

    pub(super) fn is_of_new_generation(self) -> bool {
        match self {
            Self::NewPsflip | Self::NewKeeper | Self::NewChild | Self::NewPsflipAndKeeper => true,
            Self::OldPsflip | Self::OldKeeper | Self::OldChild | Self::Anchor => false,
        }
    }
}

/// What is left in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The old generation serves on, untouched.
    Old,
    /// The new generation is the service.
    New,
    /// Nothing, since the service was stopped or its child died: no process, no pidfile.
    Nothing,
    /// Nothing, since the psflip that was the service was killed: the pidfile is stale.
    StalePidfile,
}

/// What the contract wants. `successor`: its process existed when the signal came. `committed`: the
/// acknowledgement was sent.
pub(super) fn expected(signal: Signal, target: Target, successor: bool, committed: bool) -> Left {
    use Target::{
        Anchor, NewChild, NewKeeper, NewPsflip, NewPsflipAndKeeper, OldChild, OldKeeper, OldPsflip,
    };
    match (signal, target) {
        // F12: nobody is lost, and nothing fails if no time runs down.
        (Signal::SIGSTOP, _) => Left::New,
        // F8 before the promotion, F9 after it.
        (Signal::SIGKILL, OldPsflip) if successor => Left::New,
        // C7.
        (Signal::SIGKILL, OldPsflip) => Left::StalePidfile,
        // F7; a keeper's end is its child's.
        (_, OldChild) | (Signal::SIGKILL, OldKeeper) => Left::New,
        // F6, F3, U8.
        (_, NewPsflip | NewPsflipAndKeeper | NewChild) | (Signal::SIGKILL, NewKeeper) if !committed => {
            Left::Old
        }
        // It is the service by now: C7, and what is next is the manager's business.
        (_, NewPsflipAndKeeper) | (Signal::SIGKILL, NewPsflip) => Left::StalePidfile,
        // C5, S5, P2.
        (_, NewPsflip | NewChild) | (Signal::SIGKILL, NewKeeper) => Left::Nothing,
        // F11; after the promotion it is an old generation that is ending anyway.
        (_, OldPsflip) if committed => Left::New,
        (_, OldPsflip) => Left::Nothing,
        // Keepers have everything blocked that can be.
        (_, OldKeeper | NewKeeper) => Left::New,
        // A4; A2 and F11: whoever is active ends, and nobody takes over.
        (Signal::SIGKILL, Anchor) => Left::StalePidfile,
        (_, Anchor) => Left::Nothing,
    }
}
