//! Each system call of one process in an upgrade fails once: the driver that the kinds of upgrades share.

#![expect(clippy::print_stdout, reason = "which fault it was that failed the test")]

use std::collections::BTreeSet;
use std::path::Path;

use testkit::client::http::HttpClient;
use testkit::{Deadline, Process, Psflip, Sandbox, wait_until};

use super::faults::{Case, cases};
use super::stage::Stage;
use crate::service::generations;

/// A service whose upgrades are to survive each fault.
pub(crate) struct Upgraded<'s> {
    pub(crate) sandbox: &'s Sandbox,
    pub(crate) stage: &'s Stage,
    pub(crate) psflip: &'s Psflip,
    /// The Unix socket at which it answers HTTP requests.
    pub(crate) socket: &'s Path,
    /// What the old psflip may log in the end, apart from a success and a failure.
    pub(crate) or_ends: &'static str,
    /// The old generations that stay meanwhile.
    pub(crate) beside: &'s [Process],
}

impl Upgraded<'_> {
    /// Waits until the active generation alone answers, beside those that stay.
    #[track_caller]
    pub(crate) fn serves(&self, what: &str) {
        wait_until(Deadline::default(), format!("one generation to serve: {what}"), || {
            HttpClient::new(self.socket).get("/").ok()?;
            let active = self.psflip.active();
            let others = generations(self.sandbox).into_iter().filter(|one| !self.beside.contains(one));
            (others.collect::<Vec<_>>() == [active]).then_some(())
        });
    }

    /// Makes each call of this process fail that is meant, with the first of its errors. `check`: more to check
    /// after each upgrade.
    #[track_caller]
    pub(crate) fn each_call_may_fail(&self, role: &str, is_meant: impl Fn(&Case) -> bool, check: impl Fn()) {
        let Self { sandbox, stage, psflip, .. } = self;
        self.serves("the first");
        stage.plan(sandbox, Some(psflip.active()), "record");
        psflip.flip();
        self.serves("the second");
        stage.no_plan(sandbox);
        let mut seen = BTreeSet::new();
        let all = cases(&sandbox.read("trace"), |of| of == role);
        let all: Vec<_> = all
            .into_iter()
            .filter(|case| !case.nth.ends_with('+') && seen.insert((case.call.clone(), case.nth.clone())))
            .filter(is_meant)
            .collect();
        assert!(!all.is_empty());
        for case in all {
            println!("{case}");
            let (old, mark) = (psflip.active(), psflip.output().mark());
            stage.plan(sandbox, Some(old), &case.to_string());
            psflip.request_flip();
            let what = format!("the upgrade to finish: {case}");
            psflip.output().wait_for(Deadline::default(), &what, |lines| {
                let its_own = |text: &str| text.contains(&format!("pid={old}}}"));
                let ends = |text: &str| {
                    text.contains("upgrade failed; the old child keeps running")
                        || text.contains(self.or_ends)
                        || text.contains("new generation took over")
                };
                lines[mark..].iter().find(|line| its_own(&line.text) && ends(&line.text)).cloned()
            });
            self.serves(&case.to_string());
            stage.no_plan(sandbox);
            check();
            psflip.flip();
            self.serves(&format!("after {case}"));
            check();
        }
    }
}
