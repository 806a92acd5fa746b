//! What `psflip upgrade --strict` waits for when the old generation is gone: `hooks.promoted` of the new one.

use super::session::Session;
use super::target::Trouble;
use super::wait::Wakeup;
use crate::control::protocol::{ControlRequest, Event, Status};
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::history::HookState;

/// The most connections in a row that may close without a status.
const MOST_LOST_CONNECTIONS: u32 = 3;

/// How the wait ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum HookEnd {
    /// It has succeeded, or there is none.
    Succeeded,
    /// It has failed, for this reason.
    Failed(String),
    /// The user interrupted the command.
    Interrupted(ExitStatus),
}

/// Waits until the hook of this upgrade's new generation has exited.
///
/// # Errors
/// The timeout has passed, or psflip does not know what became of it.
pub(super) fn await_hook(session: &mut Session, upgrade: u64) -> Result<HookEnd, Trouble> {
    let mut lost = 0;
    session.request(ControlRequest::Watch)?;
    loop {
        let otherwise = "the new generation is active, and what became of `hooks.promoted` is not known";
        match session.wait(None, otherwise)? {
            Wakeup::Line(_, event) => match *event {
                Event::Status { status } => {
                    lost = 0;
                    if let Some(end) = hook_of(&status, upgrade)? {
                        return Ok(end);
                    }
                    let line = session.labelled("waiting for hooks.promoted");
                    session.show_live(&line);
                }
                Event::Moved { .. } => session.request(ControlRequest::Watch)?,
                Event::Error { reason } => return Err(Trouble::refused(&reason)),
                Event::Stopped { .. } => return Err(unknown("psflip has stopped")),
                _ => {}
            },
            Wakeup::Closed if lost < MOST_LOST_CONNECTIONS => {
                lost += 1;
                session.request(ControlRequest::Watch)?;
            }
            Wakeup::Closed => return Err(unknown("psflip closes the connection")),
            Wakeup::Interrupted(signal) => {
                session.screen.clear();
                let what = format!(
                    "no longer waiting ({signal}); the new generation is active, and `hooks.promoted` still runs"
                );
                super::complain(&session.labelled(&what));
                return Ok(HookEnd::Interrupted(ExitStatus::Killed(signal)));
            }
            Wakeup::TimedOut => {
                let message = "the time is up; the new generation is active, and `hooks.promoted` still runs"
                    .to_owned();
                return Err(Trouble { message, code: exit::NOT_HEALTHY });
            }
            Wakeup::Tick | Wakeup::Resized => {}
        }
    }
}

fn unknown(why: &str) -> Trouble {
    Trouble::new(format!("{why}; what became of `hooks.promoted` is not known"))
}

/// The end of the hook, by this status. `None`: it still runs.
fn hook_of(status: &Status, upgrade: u64) -> Result<Option<HookEnd>, Trouble> {
    let record = status.history.iter().find(|record| record.upgrade == upgrade);
    let record = record.ok_or_else(|| unknown(&format!("psflip has no record of upgrade {upgrade}")))?;
    Ok(match record.promoted_hook {
        None if status.upgrades.is_none() => {
            return Err(unknown("the running psflip is older than this one and does not record it"));
        }
        None | Some(HookState::Succeeded) => Some(HookEnd::Succeeded),
        Some(HookState::Failed) => Some(HookEnd::Failed(record.hook_failure.clone().unwrap_or_default())),
        Some(HookState::Running) if status.generation == record.to => None,
        Some(HookState::Running) => {
            Some(HookEnd::Failed("it had not exited when the next upgrade began".to_owned()))
        }
        Some(HookState::Other) => return Err(unknown("the running psflip is newer than this one")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Counts, Record};

    #[test]
    fn the_record_of_the_upgrade_decides() {
        // Contract: O7
        let of = |promoted_hook, generation| {
            let record = Record { upgrade: 4, to: 3, promoted_hook, ..Record::default() };
            let upgrades = Some(Counts::default());
            hook_of(&Status { generation, upgrades, history: vec![record], ..Status::default() }, 4)
        };
        assert_eq!(of(None, 3).unwrap(), Some(HookEnd::Succeeded));
        assert_eq!(of(Some(HookState::Succeeded), 3).unwrap(), Some(HookEnd::Succeeded));
        assert!(matches!(of(Some(HookState::Failed), 3).unwrap(), Some(HookEnd::Failed(_))));
        assert_eq!(of(Some(HookState::Running), 3).unwrap(), None);
        assert!(matches!(of(Some(HookState::Running), 4).unwrap(), Some(HookEnd::Failed(_))));
        assert!(of(Some(HookState::Other), 3).is_err());
        assert!(hook_of(&Status::default(), 4).is_err());
        // An older psflip does not record hooks.
        let record = Record { upgrade: 4, to: 3, ..Record::default() };
        let older = Status { generation: 3, history: vec![record], ..Status::default() };
        assert!(hook_of(&older, 4).unwrap_err().message.contains("older than this one"));
    }
}
