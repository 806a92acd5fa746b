//! `[hooks]`: commands that the configuration runs at a promotion or after a failed upgrade. Each has a
//! keeper and a time limit.

use std::collections::BTreeMap;
use std::os::fd::AsFd;

use super::Runtime;
use super::poller::Token;
use super::timers::Key;
use crate::flip::{Event, Hook};
use crate::history::Step;
use crate::process::command::SupervisedCommand;
use crate::process::keeper::Tree;

/// The running hooks.
pub(super) type Running = BTreeMap<Hook, SupervisedCommand>;

fn token(hook: Hook) -> Token {
    match hook {
        Hook::Promote => Token::PromoteHook,
        Hook::Promoted => Token::PromotedHook,
        Hook::Failed => Token::FailedHook,
    }
}

/// Its name in the configuration.
fn name(hook: Hook) -> &'static str {
    match hook {
        Hook::Promote => "promote",
        Hook::Promoted => "promoted",
        Hook::Failed => "failed",
    }
}

impl Runtime {
    /// Starts a hook. An earlier run that is still going is killed.
    pub(super) fn run_hook(&mut self, hook: Hook) {
        let argv = match hook {
            Hook::Promote => &self.plan.hooks.promote,
            Hook::Promoted => &self.plan.hooks.promoted,
            Hook::Failed => &self.plan.hooks.failed,
        };
        if argv.is_empty() {
            if hook == Hook::Promote {
                self.queue.push_back(Event::HookSucceeded);
            }
            return;
        }
        let argv = argv.clone();
        if hook == Hook::Promote {
            self.note(Step::Hook);
        }
        let child = self.tree.as_ref().and_then(Tree::child_pid).unwrap_or_default().to_string();
        let psflip = std::process::id().to_string();
        let mut variables =
            vec![("PSFLIP_HOOK", name(hook)), ("PSFLIP_PID", &psflip), ("PSFLIP_CHILD_PID", &child)];
        let listeners = self.listeners.addresses().join(" ");
        if !listeners.is_empty() {
            variables.push(("PSFLIP_LISTEN", &listeners));
        }
        if let (Hook::Failed, Some(reason)) = (hook, &self.upgrade_failure) {
            variables.push(("PSFLIP_REASON", reason));
        }
        tracing::debug!(hook = name(hook), command = argv[0], "hook started");
        let (workdir, signals) = (self.plan.workdir.clone(), self.identity.signals);
        let started =
            SupervisedCommand::start(&argv, &self.envp, &variables, workdir, signals).and_then(|command| {
                let watched = self.poller.watch(token(hook), command.as_fd());
                watched.map(|()| command).map_err(|error| format!("can't be waited for: {error}"))
            });
        match started {
            Ok(command) => {
                self.timers.set(Key::Hook(hook), self.plan.hooks.timeout);
                self.hooks.insert(hook, command);
            }
            Err(why) => self.hook_ended(hook, Err(why)),
        }
    }

    /// Kills a hook with all its processes, if it runs.
    pub(super) fn end_hook(&mut self, hook: Hook) {
        self.timers.clear(Key::Hook(hook));
        self.poller.forget(token(hook));
        self.hooks.remove(&hook);
    }

    /// A hook has exited, or has written output.
    pub(super) fn on_hook(&mut self, hook: Hook) {
        let Some(command) = self.hooks.get_mut(&hook) else { return };
        match command.advance() {
            Ok(false) => {}
            Ok(true) => {
                let output = command.output();
                self.hook_ended(hook, Ok(output));
            }
            Err(why) => self.hook_ended(hook, Err(why)),
        }
    }

    /// A hook has reached its time limit. It may have exited in time all the same, if psflip was stopped
    /// meanwhile.
    pub(super) fn hook_is_late(&mut self, hook: Hook) {
        self.on_hook(hook);
        if let Some(command) = self.hooks.get(&hook) {
            let why = command.overdue(self.plan.hooks.timeout);
            self.hook_ended(hook, Err(why));
        }
    }

    fn hook_ended(&mut self, hook: Hook, result: Result<Option<String>, String>) {
        self.end_hook(hook);
        match (hook, result) {
            (_, Ok(output)) => {
                tracing::debug!(hook = name(hook), output, "hook exited with 0");
                if hook == Hook::Promote {
                    self.queue.push_back(Event::HookSucceeded);
                }
            }
            (Hook::Promote, Err(why)) => {
                self.failure = Some(format!("`hooks.promote` failed: {why}"));
                self.queue.push_back(Event::HookFailed);
            }
            (Hook::Promoted | Hook::Failed, Err(reason)) => {
                tracing::warn!(hook = name(hook), reason, "hook failed; nothing depends on it");
            }
        }
    }
}
