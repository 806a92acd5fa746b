//! `[hooks]`: commands that the configuration runs at a promotion or after a failed upgrade. Each has a
//! keeper and a time limit.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::time::Duration;

use super::poller::Token;
use super::timers::Key;
use super::waiting::Waiting;
use crate::flip::Hook;
use crate::process::command::SupervisedCommand;

/// The running hooks.
#[derive(Debug, Default)]
pub(super) struct Hooks {
    running: BTreeMap<Hook, SupervisedCommand>,
    /// The result of [`Hook::Promoted`], until it is taken.
    promoted: Option<HookResult>,
}

/// The result of a hook. `Err`: why it failed.
pub(super) type HookResult = Result<(), String>;

fn token(hook: Hook) -> Token {
    match hook {
        Hook::Precheck => Token::Precheck,
        Hook::Promote => Token::PromoteHook,
        Hook::Promoted => Token::PromotedHook,
        Hook::Failed => Token::FailedHook,
        Hook::RolledBack => Token::RolledBackHook,
    }
}

/// Its name, without that of its table.
pub(super) fn name(hook: Hook) -> &'static str {
    match hook {
        Hook::Precheck => "precheck",
        Hook::Promote => "promote",
        Hook::Promoted => "promoted",
        Hook::Failed => "failed",
        Hook::RolledBack => "rolled_back",
    }
}

impl Hooks {
    /// Watches a hook that was started. Returns the result if it could not be started, and something depends
    /// on it. An earlier run that is still going is killed.
    pub(super) fn add(
        &mut self,
        hook: Hook,
        started: Result<SupervisedCommand, String>,
        limit: Duration,
        wait: &mut Waiting,
    ) -> Option<HookResult> {
        let started = started.and_then(|command| {
            let watched = wait.poller.watch(token(hook), command.as_fd());
            watched.map(|()| command).map_err(|error| format!("can't be waited for: {error}"))
        });
        match started {
            Ok(command) => {
                wait.timers.set(Key::Hook(hook), limit);
                self.running.insert(hook, command);
                None
            }
            Err(why) => self.ended(hook, Err(why), wait),
        }
    }

    /// Kills a hook with all its processes, if it runs.
    pub(super) fn end(&mut self, hook: Hook, wait: &mut Waiting) {
        wait.timers.clear(Key::Hook(hook));
        wait.poller.forget(token(hook));
        self.running.remove(&hook);
    }

    /// Kills all hooks.
    pub(super) fn clear(&mut self) {
        self.running.clear();
    }

    /// A hook has exited, or has written output. Returns its result if something depends on it.
    pub(super) fn on_ready(&mut self, hook: Hook, wait: &mut Waiting) -> Option<HookResult> {
        let command = self.running.get_mut(&hook)?;
        match command.advance() {
            Ok(false) => None,
            Ok(true) => {
                let output = command.output();
                self.ended(hook, Ok(output), wait)
            }
            Err(why) => self.ended(hook, Err(why), wait),
        }
    }

    /// A hook has reached its time limit. It may have exited in time all the same, if psflip was stopped
    /// meanwhile.
    pub(super) fn is_late(&mut self, hook: Hook, limit: Duration, wait: &mut Waiting) -> Option<HookResult> {
        let result = self.on_ready(hook, wait);
        match self.running.get(&hook) {
            Some(command) => {
                let why = command.overdue(limit);
                self.ended(hook, Err(why), wait)
            }
            None => result,
        }
    }

    /// The result of [`Hook::Promoted`], once.
    pub(super) fn take_promoted(&mut self) -> Option<HookResult> {
        self.promoted.take()
    }

    fn ended(
        &mut self,
        hook: Hook,
        result: Result<Option<String>, String>,
        wait: &mut Waiting,
    ) -> Option<HookResult> {
        self.end(hook, wait);
        if hook == Hook::Promoted {
            self.promoted = Some(result.as_ref().map(|_| ()).map_err(Clone::clone));
        }
        match (hook, result) {
            (_, Ok(output)) => {
                tracing::debug!(hook = name(hook), output, "hook exited with 0");
                matches!(hook, Hook::Precheck | Hook::Promote).then_some(Ok(()))
            }
            (Hook::Precheck, Err(why)) => Some(Err(format!("`upgrade.precheck` failed: {why}"))),
            (Hook::Promote, Err(why)) => Some(Err(format!("`hooks.promote` failed: {why}"))),
            (Hook::Promoted | Hook::Failed | Hook::RolledBack, Err(reason)) => {
                tracing::warn!(hook = name(hook), reason, "hook failed; nothing depends on it");
                None
            }
        }
    }
}
