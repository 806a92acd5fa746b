//! What changes from generation to generation: slots, numbers, the working directory. And nothing waits for a
//! clock.

use std::os::unix::fs::symlink;

use testkit::{Sandbox, Stream};

use crate::service::{AT_ONCE, configure, psflip, stop};

const SLOTS: &str = "[env]\nMY_AB = \"{{ ab('left', 'right') }}\"\nMY_COLOUR = \"{{ blue_green() }}\"\n";

#[test]
fn slots_alternate_with_promotions_only() {
    // Contract: C3, U2
    let sandbox = Sandbox::new();
    let rest = format!("{AT_ONCE}{SLOTS}");
    let psflip = psflip(&sandbox, &["never-ready"], &rest).start().wait_ready();
    let seen = || {
        let child = psflip.child();
        ["PSFLIP_GENERATION", "PSFLIP_SLOT", "MY_AB", "MY_COLOUR"].map(|name| child.env(name).unwrap())
    };
    assert_eq!(seen(), ["1", "a", "left", "blue"]);
    for _ in 0..3 {
        configure(&sandbox, &["crash-on-init"], "");
        let mark = psflip.output().mark();
        psflip.request_flip();
        psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
    }
    assert_eq!(seen(), ["1", "a", "left", "blue"]);
    configure(&sandbox, &["never-ready"], &rest);
    psflip.flip();
    assert_eq!(seen(), ["2", "b", "right", "green"], "failed upgrades took no turn");
    psflip.flip();
    assert_eq!(seen(), ["3", "a", "left", "blue"]);
    stop(&psflip);
}

#[test]
fn a_workdir_symlink_is_resolved_at_each_upgrade() {
    // Contract: C1, U2
    let sandbox = Sandbox::new();
    for release in ["r1", "r2"] {
        std::fs::create_dir(sandbox.path(release)).unwrap();
    }
    symlink("r1", sandbox.path("current")).unwrap();
    let rest = format!("workdir = \"current\"\n{AT_ONCE}");
    let psflip = psflip(&sandbox, &["never-ready"], &rest).start().wait_ready();
    assert_eq!(psflip.child().cwd().unwrap(), sandbox.path("r1"));
    symlink("r2", sandbox.path("next")).unwrap();
    std::fs::rename(sandbox.path("next"), sandbox.path("current")).unwrap();
    assert_eq!(psflip.child().cwd().unwrap(), sandbox.path("r1"));
    psflip.flip();
    assert_eq!(psflip.child().cwd().unwrap(), sandbox.path("r2"), "{}", sandbox.report());
    stop(&psflip);
}

#[test]
fn the_first_probe_runs_at_once() {
    // Contract: U9
    let sandbox = Sandbox::new();
    let rest = "[healthcheck.command]\ncmd = [\"true\"]\ninterval = \"1h\"\n[upgrade]\ntimeout = \"2h\"\n";
    let psflip = psflip(&sandbox, &["never-ready"], rest).start().wait_ready();
    psflip.flip();
    psflip.flip();
    stop(&psflip);
}
