//! Each process of an upgrade gets each signal at each step (F3, F6 to F12, C7, S5), one test for each cell.
//! `psflip-staged` pauses at the step until the signal has arrived.

#[macro_use]
mod steps;
mod cell;
mod expected;

use expected::Target;
use testkit::Signal;

/// The kind of service that is upgraded.
#[derive(Clone, Copy)]
struct Setting {
    anchored: bool,
    /// It has a `[[proxy]]`.
    proxied: bool,
    /// A new generation has the traffic on trial before it is promoted.
    bakes: bool,
    child: Child,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Child {
    /// One process.
    Plain,
    /// Has workers and orphans, which outlive it and their parents.
    Workers,
    /// The same, but psflip is not root and finds none of them in proc(5).
    Hidden,
    /// Signals its whole process group as it exits.
    SignalsGroup,
}

impl Child {
    /// The number of processes that belong to the child, besides itself.
    fn more(self) -> usize {
        match self {
            Self::Plain => 0,
            Self::SignalsGroup => 1,
            Self::Workers | Self::Hidden => 2,
        }
    }
}

const PLAIN: Setting = Setting { anchored: false, proxied: false, bakes: false, child: Child::Plain };
const PROXIED: Setting = Setting { proxied: true, ..PLAIN };
const BAKED: Setting = Setting { bakes: true, ..PROXIED };
const ANCHORED: Setting = Setting { anchored: true, ..PLAIN };
const WORKERS: Setting = Setting { anchored: true, child: Child::Workers, ..PLAIN };
const HIDDEN: Setting = Setting { child: Child::Hidden, ..PLAIN };
const GROUP: Setting = Setting { child: Child::SignalsGroup, ..PLAIN };

/// Each column is a module, with one test for each step of `$steps` at which its target exists.
macro_rules! columns {
    ($steps:ident: $(#[test] fn $column:ident() { $signal:ident to $target:ident in $setting:ident })*) => {
        $(mod $column {
            $steps! { cells! [$target $signal $setting] }
        })*
    };
}

columns! { steps:
    #[test]
    fn the_old_psflip_is_killed() {
        // Contract: F8, F9, C7
        SIGKILL to OldPsflip in PLAIN
    }

    #[test]
    fn the_new_psflip_is_killed() {
        // Contract: F6, U8, C7
        SIGKILL to NewPsflip in PLAIN
    }

    #[test]
    fn the_old_child_is_killed() {
        // Contract: F7
        SIGKILL to OldChild in PLAIN
    }

    #[test]
    fn the_new_child_is_killed() {
        // Contract: F3, U8, C5
        SIGKILL to NewChild in PLAIN
    }

    #[test]
    fn the_old_keeper_is_killed() {
        // Contract: F7, C7
        SIGKILL to OldKeeper in PLAIN
    }

    #[test]
    fn the_new_keeper_is_killed() {
        // Contract: F3, U8, C7
        SIGKILL to NewKeeper in PLAIN
    }

    #[test]
    fn the_old_psflip_is_stopped_and_continued() {
        // Contract: F12
        SIGSTOP to OldPsflip in PLAIN
    }

    #[test]
    fn the_new_psflip_is_stopped_and_continued() {
        // Contract: F12
        SIGSTOP to NewPsflip in PLAIN
    }

    #[test]
    fn the_old_child_is_stopped_and_continued() {
        // Contract: F12
        SIGSTOP to OldChild in PLAIN
    }

    #[test]
    fn the_new_child_is_stopped_and_continued() {
        // Contract: F12
        SIGSTOP to NewChild in PLAIN
    }

    #[test]
    fn the_old_keeper_is_stopped_and_its_psflip_continues_it() {
        // Contract: F12
        SIGSTOP to OldKeeper in PLAIN
    }

    #[test]
    fn the_new_keeper_is_stopped_and_its_psflip_continues_it() {
        // Contract: F12
        SIGSTOP to NewKeeper in PLAIN
    }

    #[test]
    fn the_old_psflip_gets_sigterm() {
        // Contract: F11, S5
        SIGTERM to OldPsflip in PLAIN
    }

    #[test]
    fn the_new_psflip_gets_sigterm() {
        // Contract: S5, U8, F11
        SIGTERM to NewPsflip in PLAIN
    }

    #[test]
    fn the_old_child_gets_sigterm() {
        // Contract: F7
        SIGTERM to OldChild in PLAIN
    }

    #[test]
    fn the_new_child_gets_sigterm() {
        // Contract: F3, U8
        SIGTERM to NewChild in PLAIN
    }

    #[test]
    fn the_old_keeper_gets_sigterm_and_ignores_it() {
        // Contract: C7, U8
        SIGTERM to OldKeeper in PLAIN
    }

    #[test]
    fn the_new_keeper_gets_sigterm_and_ignores_it() {
        // Contract: C7, U8
        SIGTERM to NewKeeper in PLAIN
    }

    #[test]
    fn the_old_child_signals_its_group() {
        // Contract: C10, F7
        SIGTERM to OldChild in GROUP
    }

    #[test]
    fn the_new_child_signals_its_group() {
        // Contract: C10, F3, U8
        SIGTERM to NewChild in GROUP
    }

    #[test]
    fn with_hidden_processes_the_old_psflip_is_killed() {
        // Contract: F8, F9, C7
        SIGKILL to OldPsflip in HIDDEN
    }

    #[test]
    fn with_hidden_processes_the_new_psflip_is_killed() {
        // Contract: F6, U8, C7
        SIGKILL to NewPsflip in HIDDEN
    }

    #[test]
    fn with_hidden_processes_the_new_keeper_is_killed() {
        // Contract: F3, U8, C7
        SIGKILL to NewKeeper in HIDDEN
    }

    #[test]
    fn the_anchor_gets_sigterm() {
        // Contract: A2, A3, F11, S5
        SIGTERM to Anchor in ANCHORED
    }

    #[test]
    fn the_anchor_is_killed() {
        // Contract: A4, C7
        SIGKILL to Anchor in ANCHORED
    }

    #[test]
    fn the_anchor_is_stopped_and_continued() {
        // Contract: A2, F12
        SIGSTOP to Anchor in ANCHORED
    }

    #[test]
    fn below_an_anchor_the_old_psflip_is_killed() {
        // Contract: A1, A3, F8, F9, C7
        SIGKILL to OldPsflip in ANCHORED
    }

    #[test]
    fn below_an_anchor_the_new_psflip_is_killed() {
        // Contract: A1, A3, F6, U8, C7
        SIGKILL to NewPsflip in ANCHORED
    }

    #[test]
    fn below_an_anchor_the_new_psflip_and_its_keeper_are_killed() {
        // Contract: A3, F6, U8, C7
        SIGKILL to NewPsflipAndKeeper in WORKERS
    }
}

columns! { steps_of_relays:
    #[test]
    fn with_a_proxy_the_old_psflip_is_killed() {
        // Contract: T1, T3, F8, F9, C7
        SIGKILL to OldPsflip in PROXIED
    }

    #[test]
    fn with_a_proxy_the_new_psflip_is_killed() {
        // Contract: T1, T3, F6, U8, C7
        SIGKILL to NewPsflip in PROXIED
    }

    #[test]
    fn with_a_proxy_the_old_child_is_killed() {
        // Contract: T8, F7
        SIGKILL to OldChild in PROXIED
    }

    #[test]
    fn with_a_proxy_the_new_child_is_killed() {
        // Contract: T3, F3, U8
        SIGKILL to NewChild in PROXIED
    }

    #[test]
    fn the_old_relay_is_killed() {
        // Contract: T9
        SIGKILL to OldRelay in PROXIED
    }

    #[test]
    fn the_new_relay_is_killed() {
        // Contract: T9, U8
        SIGKILL to NewRelay in PROXIED
    }

    #[test]
    fn the_old_relay_is_stopped_and_continued() {
        // Contract: T9, F12
        SIGSTOP to OldRelay in PROXIED
    }

    #[test]
    fn the_new_relay_is_stopped_and_continued() {
        // Contract: T9, F12
        SIGSTOP to NewRelay in PROXIED
    }
}

columns! { steps_of_bakes:
    #[test]
    fn in_a_bake_the_old_psflip_is_killed() {
        // Contract: B4, F8, C7
        SIGKILL to OldPsflip in BAKED
    }

    #[test]
    fn in_a_bake_the_new_psflip_is_killed() {
        // Contract: B2, B3, F6, U8, C7
        SIGKILL to NewPsflip in BAKED
    }

    #[test]
    fn in_a_bake_the_old_child_is_killed() {
        // Contract: B4, F7
        SIGKILL to OldChild in BAKED
    }

    #[test]
    fn in_a_bake_the_new_child_is_killed() {
        // Contract: B2, B3, U8
        SIGKILL to NewChild in BAKED
    }

    #[test]
    fn in_a_bake_the_old_keeper_is_killed() {
        // Contract: B4, F7, C7
        SIGKILL to OldKeeper in BAKED
    }

    #[test]
    fn in_a_bake_the_new_keeper_is_killed() {
        // Contract: B2, B3, U8, C7
        SIGKILL to NewKeeper in BAKED
    }

    #[test]
    fn in_a_bake_the_old_relay_is_killed() {
        // Contract: B3, T9
        SIGKILL to OldRelay in BAKED
    }

    #[test]
    fn in_a_bake_the_new_relay_is_killed() {
        // Contract: B2, T9, U8
        SIGKILL to NewRelay in BAKED
    }

    #[test]
    fn in_a_bake_the_old_psflip_is_stopped_and_continued() {
        // Contract: B3, F12
        SIGSTOP to OldPsflip in BAKED
    }

    #[test]
    fn in_a_bake_the_new_psflip_is_stopped_and_continued() {
        // Contract: B3, F12
        SIGSTOP to NewPsflip in BAKED
    }

    #[test]
    fn in_a_bake_the_old_psflip_gets_sigterm() {
        // Contract: B5, F11, S5
        SIGTERM to OldPsflip in BAKED
    }

    #[test]
    fn in_a_bake_the_new_psflip_gets_sigterm() {
        // Contract: B2, B3, F11, S5
        SIGTERM to NewPsflip in BAKED
    }
}
