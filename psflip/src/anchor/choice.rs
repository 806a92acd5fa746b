//! Whether the first psflip stays as the anchor (contract A1). It does by default wherever the exit of the
//! process that was started would be taken for the exit of the service.
//!
//! Only one supervisor follows the main PID of a service without being configured for it: systemd, if it set
//! `NOTIFY_SOCKET` (`Type=notify`, or `NotifyAccess=` in a unit of another type) and psflip is the process
//! that it started. It then accepts `MAINPID=` from that process (systemd.service(5), sd_notify(3)).
//! `NOTIFY_SOCKET` alone proves nothing: container runtimes and test harnesses set it too, and a wrapper or a
//! shell of another service passes it on.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;

use crate::process::environment::variable;
use crate::process::job_control as job;
use crate::signal::Signal;
use crate::sys::{early, tree};

/// What the command line requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Neither option: an anchor, unless systemd follows the main PID.
    #[default]
    Default,
    /// `--foreground`.
    Always,
    /// `--no-anchor`.
    Never,
}

/// Whether there is an anchor, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Anchor: `--foreground`.
    Requested,
    /// Anchor: this process is PID 1, whose exit kills everything in its PID namespace.
    Pid1,
    /// Anchor: this process leads its session, so its exit would hang up the session's terminal.
    LeadsTerminal,
    /// Anchor: no supervisor has announced that it follows the main PID.
    NoSupervisor,
    /// Anchor: `NOTIFY_SOCKET` is set, but systemd started another process.
    NotStartedBySystemd,
    /// No anchor: systemd follows the main PID.
    FollowedBySystemd,
    /// No anchor: `--no-anchor`.
    Declined,
    /// No anchor: `--no-anchor`, although the first upgrade then stops the service.
    DeclinedAtRisk,
}

impl Choice {
    /// Whether this process stays as the anchor.
    #[must_use]
    pub fn has_anchor(self) -> bool {
        match self {
            Self::Requested
            | Self::Pid1
            | Self::LeadsTerminal
            | Self::NoSupervisor
            | Self::NotStartedBySystemd => true,
            Self::FollowedBySystemd | Self::Declined | Self::DeclinedAtRisk => false,
        }
    }

    /// Whether this is the default, requested by no option.
    #[must_use]
    pub fn is_default(self) -> bool {
        !matches!(self, Self::Requested | Self::Declined | Self::DeclinedAtRisk)
    }

    /// The reason, for people.
    #[must_use]
    pub fn reason(self) -> &'static str {
        match self {
            Self::Requested => "requested by --foreground",
            Self::Pid1 => "started as PID 1",
            Self::LeadsTerminal => "started as the leader of a terminal's session",
            Self::NoSupervisor => "no supervisor follows the main PID: NOTIFY_SOCKET is not set",
            Self::NotStartedBySystemd => {
                "NOTIFY_SOCKET is set, but systemd did not start this process itself"
            }
            Self::FollowedBySystemd => "started by systemd, which follows the main PID (NOTIFY_SOCKET)",
            Self::Declined | Self::DeclinedAtRisk => "declined by --no-anchor",
        }
    }
}

/// What is known about this process. The functions cost system calls, so they are called
/// only if their result matters.
struct Facts<'a> {
    pid: u32,
    parent: u32,
    environment: &'a [CString],
    leads_terminal: &'a dyn Fn() -> bool,
    /// The name of a process, if it may be read.
    name_of: &'a dyn Fn(u32) -> Option<String>,
}

/// Examines this process, the first psflip of a service. `environment`: the one that it was started with.
#[must_use]
pub fn choose(mode: Mode, environment: &[CString]) -> Choice {
    decide(
        mode,
        &Facts {
            pid: std::process::id(),
            parent: std::os::unix::process::parent_id(),
            environment,
            leads_terminal: &|| {
                job::leads_session()
                    && job::has_terminal()
                    && !early::inherited_signals().ignored.contains(Signal::HUP)
            },
            name_of: &tree::name_of,
        },
    )
}

fn decide(mode: Mode, facts: &Facts<'_>) -> Choice {
    let is_pid_1 = facts.pid == 1;
    match mode {
        Mode::Always => Choice::Requested,
        Mode::Never if is_pid_1 || (facts.leads_terminal)() => Choice::DeclinedAtRisk,
        Mode::Never => Choice::Declined,
        Mode::Default if is_pid_1 => Choice::Pid1,
        Mode::Default if !is_set(facts, "NOTIFY_SOCKET") => Choice::NoSupervisor,
        Mode::Default if !started_by_systemd(facts) => Choice::NotStartedBySystemd,
        Mode::Default if (facts.leads_terminal)() => Choice::LeadsTerminal,
        Mode::Default => Choice::FollowedBySystemd,
    }
}

fn is_set(facts: &Facts<'_>, name: &str) -> bool {
    variable(facts.environment, name).is_some_and(|value| !value.is_empty())
}

/// Whether this process is the one that systemd started for a unit. It may be the
/// system's or a user's systemd.
fn started_by_systemd(facts: &Facts<'_>) -> bool {
    // Since version 248 systemd sets the PID of the process that it executes (systemd.exec(5)). A descendant
    // inherits the variable with a PID that is not its own.
    if let Some(named) = variable(facts.environment, "SYSTEMD_EXEC_PID") {
        return named.to_str().and_then(|pid| pid.parse().ok()) == Some(facts.pid);
    }
    match (facts.name_of)(facts.parent) {
        Some(name) => name == "systemd",
        // `ProtectProc=invisible` (since 247) hides PID 1 from a unit. Containers have other
        // sockets and other programs as PID 1.
        None => facts.parent == 1 && socket_is_systemds(facts),
    }
}

/// Whether `NOTIFY_SOCKET` is that of the systemd of this host (unit_setup_notify in systemd's
/// src/core/manager.c): a path since 229, or a name of the abstract namespace before.
fn socket_is_systemds(facts: &Facts<'_>) -> bool {
    let socket = variable(facts.environment, "NOTIFY_SOCKET").map(OsStrExt::as_bytes).unwrap_or_default();
    socket == b"/run/systemd/notify" || socket.starts_with(b"@/org/freedesktop/systemd1/notify")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The choice for the process 70, which has this parent.
    fn choice(environment: &[&str], parent: u32, name: Option<&str>) -> Choice {
        let environment: Vec<CString> =
            environment.iter().map(|entry| CString::new(*entry).unwrap()).collect();
        decide(
            Mode::Default,
            &Facts {
                pid: 70,
                parent,
                environment: &environment,
                leads_terminal: &|| false,
                name_of: &|pid| {
                    assert_eq!(pid, parent);
                    name.map(str::to_owned)
                },
            },
        )
    }

    #[test]
    fn an_anchor_is_omitted_only_where_systemd_follows_the_main_pid() {
        // Contract: A1
        const SOCKET: &str = "NOTIFY_SOCKET=/run/systemd/notify";
        let cases = [
            // A shell, runit, s6, tini, `docker run --init`; systemd's `Type=simple`, `systemd-run`.
            (&["PATH=/bin"][..], 7, Some("bash"), Choice::NoSupervisor),
            (&[], 1, Some("tini"), Choice::NoSupervisor),
            (&["SYSTEMD_EXEC_PID=70"], 1, Some("systemd"), Choice::NoSupervisor),
            (&["NOTIFY_SOCKET=", "SYSTEMD_EXEC_PID=70"], 1, Some("systemd"), Choice::NoSupervisor),
            // `Type=notify`, also of a user's systemd, under any process name.
            (&[SOCKET, "SYSTEMD_EXEC_PID=70"], 1, Some("systemd"), Choice::FollowedBySystemd),
            (&[SOCKET, "SYSTEMD_EXEC_PID=70"], 1, None, Choice::FollowedBySystemd),
            (
                &["NOTIFY_SOCKET=/run/user/7/systemd/notify", "SYSTEMD_EXEC_PID=70"],
                50,
                Some("systemd"),
                Choice::FollowedBySystemd,
            ),
            // Below a wrapper of such a unit, or orphaned there.
            (&[SOCKET, "SYSTEMD_EXEC_PID=69"], 69, Some("sh"), Choice::NotStartedBySystemd),
            (&[SOCKET, "SYSTEMD_EXEC_PID=69"], 1, Some("systemd"), Choice::NotStartedBySystemd),
            (&[SOCKET, "SYSTEMD_EXEC_PID=x"], 1, Some("systemd"), Choice::NotStartedBySystemd),
            // A systemd before 248.
            (&[SOCKET], 1, Some("systemd"), Choice::FollowedBySystemd),
            (&[SOCKET], 50, Some("systemd"), Choice::FollowedBySystemd),
            (&[SOCKET], 50, Some("sh"), Choice::NotStartedBySystemd),
            (&[SOCKET], 1, None, Choice::FollowedBySystemd),
            (&["NOTIFY_SOCKET=@/org/freedesktop/systemd1/notify/12"], 1, None, Choice::FollowedBySystemd),
            (&[SOCKET], 50, None, Choice::NotStartedBySystemd),
            // `podman run --sdnotify=container --init`, a test harness.
            (&["NOTIFY_SOCKET=/run/notify/notify.sock"], 1, Some("catatonit"), Choice::NotStartedBySystemd),
            (&["NOTIFY_SOCKET=/run/notify/notify.sock"], 1, None, Choice::NotStartedBySystemd),
            (&["NOTIFY_SOCKET=/tmp/x"], 7, Some("python3"), Choice::NotStartedBySystemd),
        ];
        for (environment, parent, name, expected) in cases {
            let got = choice(environment, parent, name);
            assert_eq!(got, expected, "{environment:?}, child of {parent} {name:?}");
            assert_eq!(got.has_anchor(), got != Choice::FollowedBySystemd);
            assert!(got.is_default() && !got.reason().is_empty());
        }
    }

    #[test]
    fn pid_1_and_session_leaders_get_an_anchor_unless_it_is_declined() {
        // Contract: A1
        let environment = [c"NOTIFY_SOCKET=/run/systemd/notify".to_owned(), c"SYSTEMD_EXEC_PID=1".to_owned()];
        let environment_of_70 =
            [c"NOTIFY_SOCKET=/run/systemd/notify".to_owned(), c"SYSTEMD_EXEC_PID=70".to_owned()];
        let facts = |pid: u32, leads: bool| {
            let environment = if pid == 1 { &environment } else { &environment_of_70 };
            move |mode| {
                decide(
                    mode,
                    &Facts {
                        pid,
                        parent: 0,
                        environment,
                        leads_terminal: &move || leads,
                        name_of: &|_| None,
                    },
                )
            }
        };
        assert_eq!(facts(1, false)(Mode::Default), Choice::Pid1);
        assert_eq!(facts(70, true)(Mode::Default), Choice::LeadsTerminal);
        assert_eq!(facts(70, false)(Mode::Default), Choice::FollowedBySystemd);
        for (pid, leads) in [(1, false), (70, true), (70, false)] {
            assert_eq!(facts(pid, leads)(Mode::Always), Choice::Requested);
            let declined = facts(pid, leads)(Mode::Never);
            let at_risk = pid == 1 || leads;
            assert_eq!(declined, if at_risk { Choice::DeclinedAtRisk } else { Choice::Declined });
            assert!(!declined.has_anchor() && !declined.is_default());
        }
    }
}
