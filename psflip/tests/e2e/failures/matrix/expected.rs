//! The outcome that the contract requires for a cell. The table does not record what was observed: it follows
//! from the clauses and from one fact, whether the acknowledgement was sent. That is the point of no return
//! (`docs/handover.md`).

use testkit::Signal;

/// The process that gets the signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    OldPsflip,
    OldKeeper,
    OldChild,
    NewPsflip,
    NewKeeper,
    NewChild,
    /// The new psflip and its keeper, at the same instant.
    NewPsflipAndKeeper,
    OldRelay,
    NewRelay,
    Anchor,
}

impl Target {
    pub(super) fn is_keeper(self) -> bool {
        matches!(self, Self::OldKeeper | Self::NewKeeper)
    }

    pub(super) fn is_of_new_generation(self) -> bool {
        match self {
            Self::NewPsflip | Self::NewKeeper | Self::NewChild | Self::NewPsflipAndKeeper => true,
            Self::NewRelay => true,
            Self::OldPsflip | Self::OldKeeper | Self::OldChild | Self::OldRelay | Self::Anchor => false,
        }
    }
}

/// What is left at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// The old generation keeps serving, unchanged.
    Old,
    /// The new generation is the service.
    New,
    /// No process and no pidfile: the service was stopped, or its child died.
    Nothing,
    /// A stale pidfile and no process: the psflip that was the service was killed.
    StalePidfile,
}

/// The outcome that the contract requires. `successor`: the new psflip existed when the signal came.
/// `committed`: the acknowledgement was sent.
pub(super) fn expected(signal: Signal, target: Target, successor: bool, committed: bool) -> Left {
    use Target::{
        Anchor, NewChild, NewKeeper, NewPsflip, NewPsflipAndKeeper, NewRelay, OldChild, OldKeeper, OldPsflip,
        OldRelay,
    };
    match (signal, target) {
        // F12: no process is lost, and nothing fails unless a timeout expires.
        (Signal::SIGSTOP, _) => Left::New,
        // F8 before the promotion, F9 after it.
        (Signal::SIGKILL, OldPsflip) if successor => Left::New,
        // T9: it is started again, and whether a new one still starts is for the caller to see.
        (_, OldRelay | NewRelay) => Left::New,
        // C7.
        (Signal::SIGKILL, OldPsflip) => Left::StalePidfile,
        // F7. The death of a keeper counts as its child's.
        (_, OldChild) | (Signal::SIGKILL, OldKeeper) => Left::New,
        // F6, F3, U8.
        (_, NewPsflip | NewPsflipAndKeeper | NewChild) | (Signal::SIGKILL, NewKeeper) if !committed => {
            Left::Old
        }
        // It is the service by now: C7. The restart is up to the service manager.
        (_, NewPsflipAndKeeper) | (Signal::SIGKILL, NewPsflip) => Left::StalePidfile,
        // C5, S5, P2.
        (_, NewPsflip | NewChild) | (Signal::SIGKILL, NewKeeper) => Left::Nothing,
        // F11. After the promotion the old generation is stopping anyway.
        (_, OldPsflip) if committed => Left::New,
        (_, OldPsflip) => Left::Nothing,
        // Keepers block every signal that can be blocked.
        (_, OldKeeper | NewKeeper) => Left::New,
        // A4; A2 and F11: the active generation stops, and none takes over.
        (Signal::SIGKILL, Anchor) => Left::StalePidfile,
        (_, Anchor) => Left::Nothing,
    }
}
