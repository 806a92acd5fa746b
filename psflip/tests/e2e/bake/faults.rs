//! Each system call of an upgrade with a bake fails once. The upgrade succeeds, or the old child has the traffic
//! (again); and the next upgrade works.

#![expect(clippy::print_stdout, reason = "which fault it was that failed the test")]

use std::collections::BTreeSet;

use testkit::client::http::HttpClient;
use testkit::{Deadline, Sandbox, double, wait_until};

use super::{CARELESS, config};
use crate::failures::faults::cases;
use crate::failures::stage::Stage;
use crate::service::{generations, psflip};

/// Makes each call of this process fail, with the first of its errors.
#[track_caller]
fn each_call_of(role: &str) {
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let exe = sandbox.path("psflip");
    std::os::unix::fs::symlink(double("psflip-staged"), &exe).unwrap();
    // A fault of a child is one of each probe's command as well, so no probe succeeds: the upgrade fails in time.
    let builder = psflip(&sandbox, CARELESS, &config("bake = \"20ms\"\ntimeout = \"3s\"\n"));
    let psflip = builder.exe(exe).env("PSFLIP_STAGED", sandbox.dir()).start().wait_ready();
    let serves = |what: &str| {
        wait_until(Deadline::default(), format!("one generation to serve: {what}"), || {
            HttpClient::new(sandbox.path("web.sock").as_path()).get("/").ok()?;
            (generations(&sandbox) == [psflip.active()]).then_some(())
        });
    };
    serves("the first");
    stage.plan(&sandbox, Some(psflip.active()), "record");
    psflip.flip();
    serves("the second");
    stage.no_plan(&sandbox);
    let mut seen = BTreeSet::new();
    let all = cases(&sandbox.read("trace"), |of| of == role);
    let all: Vec<_> = all
        .into_iter()
        .filter(|case| !case.nth.ends_with('+') && seen.insert((case.call.clone(), case.nth.clone())))
        .collect();
    assert!(!all.is_empty());
    for case in all {
        println!("{case}");
        let (old, mark) = (psflip.active(), psflip.output().mark());
        stage.plan(&sandbox, Some(old), &case.to_string());
        psflip.request_flip();
        psflip.output().wait_for(Deadline::default(), &format!("the upgrade to finish: {case}"), |lines| {
            let its_own = |text: &str| text.contains(&format!("pid={old}}}"));
            let ends = |text: &str| {
                text.contains("upgrade failed; the old child keeps running")
                    || text.contains("upgrade rolled back; the old child keeps running")
                    || text.contains("new generation took over")
            };
            lines[mark..].iter().find(|line| its_own(&line.text) && ends(&line.text)).cloned()
        });
        serves(&case.to_string());
        stage.no_plan(&sandbox);
        psflip.flip();
        serves(&format!("after {case}"));
    }
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn each_call_of_the_old_psflip_may_fail() {
    // Contract: B3, F10
    each_call_of("old");
}

#[test]
fn each_call_of_the_new_psflip_may_fail() {
    // Contract: B3, F10
    each_call_of("new");
}

#[test]
fn each_call_of_the_keepers_and_the_new_child_may_fail() {
    // Contract: B3, B4, F10
    for role in ["old-keeper", "new-keeper", "new-child"] {
        each_call_of(role);
    }
}
