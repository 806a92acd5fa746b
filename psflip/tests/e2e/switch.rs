//! `[switch]`: the symlink that leads clients to the active child. A promotion repoints it, and restores it
//! if the promotion fails.

use std::path::Path;

use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, Process, Psflip, PsflipBuilder, Sandbox, Stream, wait_until};

use crate::service::{AT_ONCE, UNTIL_FILE, configure, freeze, kill, psflip, stop, thaw, wait_coming};
use crate::traffic::nginx::{self, Nginx};

/// Each generation listens on the socket of its slot. `app.sock` is the symlink to the active one's.
const SERVER: &[&str] =
    &["http-server", "--unix", "{{ blue_green() }}.sock", "--keep-idle", "2s", "--linger", "100ms"];
const SWITCH: &str = "[healthcheck.unix]\npath = \"{{ blue_green() }}.sock\"\ninterval = \"10ms\"\n[log]\nlevel = \"debug\"\n\
    [switch]\nsymlink = { path = \"app.sock\", to = \"{{ blue_green() }}.sock\" }\n";

fn start(sandbox: &Sandbox) -> PsflipBuilder {
    psflip(sandbox, SERVER, SWITCH)
}

/// The target of the symlink.
#[track_caller]
fn leads(sandbox: &Sandbox) -> String {
    std::fs::read_link(sandbox.path("app.sock")).unwrap().display().to_string()
}

/// The generation that answers behind the symlink.
#[track_caller]
fn answer(sandbox: &Sandbox) -> String {
    HttpClient::unix(sandbox.path("app.sock")).get("/").unwrap().tag("name").unwrap()
}

/// Requests an upgrade that fails, and checks that the old generation and its symlink are unchanged. Returns
/// the reason.
#[track_caller]
fn fails(sandbox: &Sandbox, psflip: &Psflip, cause: impl FnOnce(Process, usize)) -> String {
    let (old, child, link) = (psflip.active(), psflip.child(), leads(sandbox));
    let mark = psflip.output().mark();
    psflip.request_flip();
    cause(old, mark);
    let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
    wait_until(Deadline::default(), "only one psflip, keeper and child to be left", || {
        (sandbox.processes().len() == 3).then_some(())
    });
    assert_eq!((psflip.active(), psflip.child(), leads(sandbox)), (old, child, link), "{}", sandbox.report());
    assert_nothing_aside(sandbox);
    line.text
}

#[track_caller]
fn assert_nothing_aside(sandbox: &Sandbox) {
    let names = std::fs::read_dir(sandbox.dir()).unwrap().map(|entry| entry.unwrap().file_name());
    let aside: Vec<_> = names.filter(|name| name.to_string_lossy().contains(".psflip-")).collect();
    assert!(aside.is_empty(), "{aside:?}\n{}", sandbox.report());
}

/// The symlink, and a child that is healthy when the test allows it.
fn switch_when_told() -> String {
    let (_, rest) = SWITCH.split_once("[log]").unwrap();
    format!("{UNTIL_FILE}[log]{rest}")
}

#[test]
fn the_symlink_points_to_the_active_generation_and_no_request_is_lost() {
    // Contract: U4, U2
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox).start().wait_ready();
    let path = sandbox.path("app.sock");
    let probe = AvailabilityProbe::start(4, |number| {
        let client = HttpClient::unix(&path);
        let mut client = if number % 2 == 0 { client.keep_alive() } else { client };
        move || client.get("/")?.tag("name")
    });
    for generation in 1..=10 {
        probe.wait_tag(&format!("gen{generation}"));
        assert_eq!(leads(&sandbox), if generation % 2 == 1 { "blue.sock" } else { "green.sock" });
        psflip.flip();
    }
    probe.finish().assert_no_failures();
    assert_nothing_aside(&sandbox);
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_symlink_to_another_target_is_repointed_at_the_first_start() {
    // Contract: U4
    let sandbox = Sandbox::new();
    std::os::unix::fs::symlink("nowhere", sandbox.path("app.sock")).unwrap();
    let psflip = start(&sandbox).start().wait_ready();
    assert_eq!((leads(&sandbox), answer(&sandbox)), ("blue.sock".into(), "gen1".into()));
    stop(&psflip);
}

#[test]
fn the_symlink_is_restored_when_the_pidfile_is_refused() {
    // Contract: U4, U8
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox).start().wait_ready();
    // Another psflip takes the new pidfile between the check and the promotion.
    let other = Sandbox::new();
    let pidfile = other.path("psflip.pid");
    let config = SWITCH
        .replace("[healthcheck.unix]\npath = \"{{ blue_green() }}.sock\"\ninterval = \"10ms\"\n", UNTIL_FILE);
    let cmd = testkit::cmd_line(crate::service::program(SERVER));
    sandbox.write("psflip.toml", format!("{cmd}pidfile = \"{}\"\n{config}", pidfile.display()));
    let reason = fails(&sandbox, &psflip, |_, mark| {
        psflip.output().wait_after(mark, Stream::Stdout, "name=gen2");
        let usurper =
            crate::service::psflip(&other, &["/bin/sleep", "infinity"], AT_ONCE).start().wait_ready();
        sandbox.write("healthy", "");
        psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
        stop(&usurper);
    });
    assert!(reason.contains("psflip.pid"), "{reason}");
    assert_eq!(answer(&sandbox), "gen1");
    configure(&sandbox, SERVER, SWITCH);
    psflip.flip();
    assert_eq!((leads(&sandbox), answer(&sandbox)), ("green.sock".into(), "gen2".into()));
    stop(&psflip);
}

#[test]
fn the_symlink_is_restored_without_an_acknowledgement() {
    // Contract: U4, U8, F12
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox).start().wait_ready();
    configure(&sandbox, SERVER, &switch_when_told());
    fails(&sandbox, &psflip, |old, mark| {
        psflip.output().wait_after(mark, Stream::Stdout, "name=gen2");
        let new = wait_coming(&sandbox, old);
        freeze(old);
        sandbox.write("healthy", "");
        assert_eq!(psflip.wait_successor(old), new);
        assert_eq!(leads(&sandbox), "green.sock");
        // The new psflip waits ten seconds, then restores the symlink itself.
        wait_until(Deadline::default(), "the symlink to be repointed back", || {
            (leads(&sandbox) == "blue.sock").then_some(())
        });
        thaw(old);
    });
    assert_eq!(answer(&sandbox), "gen1");
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn the_old_psflip_restores_the_symlink_of_a_killed_successor() {
    // Contract: F6, U8
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox).start().wait_ready();
    configure(&sandbox, SERVER, &switch_when_told());
    fails(&sandbox, &psflip, |old, mark| {
        psflip.output().wait_after(mark, Stream::Stdout, "name=gen2");
        let new = wait_coming(&sandbox, old);
        freeze(old);
        sandbox.write("healthy", "");
        assert_eq!(psflip.wait_successor(old), new);
        assert_eq!(leads(&sandbox), "green.sock");
        kill(new);
        psflip.wait_gone(new);
        thaw(old);
    });
    assert_eq!(answer(&sandbox), "gen1");
    configure(&sandbox, SERVER, SWITCH);
    psflip.flip();
    assert_eq!(answer(&sandbox), "gen2");
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_failed_upgrade_keeps_a_symlink_that_was_repointed_by_hand() {
    // Contract: U8
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox).start().wait_ready();
    let by_hand = |to: &str| {
        std::os::unix::fs::symlink(to, sandbox.path("by-hand")).unwrap();
        std::fs::rename(sandbox.path("by-hand"), sandbox.path("app.sock")).unwrap();
    };
    by_hand("maintenance.sock");
    // Before the switch, and after it.
    sandbox.write("psflip.toml", "cmd = 7\n");
    fails(&sandbox, &psflip, |_, _| {});
    configure(&sandbox, SERVER, &switch_when_told());
    fails(&sandbox, &psflip, |old, mark| {
        psflip.output().wait_after(mark, Stream::Stdout, "name=gen2");
        let new = wait_coming(&sandbox, old);
        freeze(old);
        sandbox.write("healthy", "");
        assert_eq!(psflip.wait_successor(old), new);
        assert_eq!(leads(&sandbox), "green.sock");
        kill(new);
        psflip.wait_gone(new);
        thaw(old);
    });
    assert_eq!(leads(&sandbox), "maintenance.sock");
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn non_symlinks_are_not_replaced_and_missing_targets_are_refused() {
    // Contract: U8, C6
    let sandbox = Sandbox::new();
    let refused = |config: &str, reason: &str| {
        let psflip = psflip(&sandbox, SERVER, config).start();
        assert_eq!(psflip.wait_exit().code(), Some(125), "{}", sandbox.report());
        psflip.wait_for_line(Stream::Stderr, reason);
        assert_nothing_aside(&sandbox);
        assert!(!psflip.pidfile_path().exists());
        sandbox.assert_no_process_left();
    };
    sandbox.write("app.sock", "precious");
    refused(SWITCH, "it is not replaced");
    assert_eq!(sandbox.read("app.sock"), "precious");
    std::fs::remove_file(sandbox.path("app.sock")).unwrap();
    std::fs::create_dir(sandbox.path("app.sock")).unwrap();
    refused(SWITCH, "it is not replaced");
    std::fs::remove_dir(sandbox.path("app.sock")).unwrap();
    let dangling = SWITCH.replace("to = \"{{ blue_green() }}.sock\"", "to = \"missing.sock\"");
    refused(&dangling, "the target can't be seen");
    assert!(std::fs::symlink_metadata(sandbox.path("app.sock")).is_err());
    let no_folder = SWITCH.replace("path = \"app.sock\"", "path = \"missing/app.sock\"");
    refused(&no_folder, "the target can't be seen");

    // The same by an upgrade.
    let psflip = start(&sandbox).start().wait_ready();
    configure(&sandbox, SERVER, &dangling);
    let reason = fails(&sandbox, &psflip, |_, _| {});
    assert!(reason.contains("can't point the link `app.sock` to `missing.sock`"), "{reason}");
    sandbox.write("precious", "precious");
    let foreign = SWITCH.replace("path = \"app.sock\"", "path = \"precious\"");
    configure(&sandbox, SERVER, &foreign);
    let reason = fails(&sandbox, &psflip, |_, _| {});
    assert!(reason.contains("it is not replaced"), "{reason}");
    assert_eq!(sandbox.read("precious"), "precious");
    stop(&psflip);
}

#[test]
fn a_successor_without_predecessor_repoints_the_symlink() {
    // Contract: F8
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox).start().wait_ready();
    let old = psflip.active();
    configure(&sandbox, SERVER, &switch_when_told());
    psflip.request_flip();
    psflip.output().wait(Stream::Stdout, "name=gen2");
    kill(old);
    psflip.wait_gone(old);
    sandbox.write("healthy", "");
    psflip.wait_pidfile();
    assert_eq!((leads(&sandbox), answer(&sandbox)), ("green.sock".into(), "gen2".into()));
    stop(&psflip);
}

#[test]
fn nginx_follows_the_symlink_over_upgrades() {
    // Contract: U4, U2
    if !nginx::is_installed() {
        return;
    }
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox).start().wait_ready();
    let folder = sandbox.dir().display();
    let http = format!(
        "server {{ listen unix:{folder}/web.sock; location / {{ proxy_pass http://unix:{folder}/app.sock:; }} }}\n"
    );
    let nginx = Nginx::start(&sandbox, &http);
    let web = sandbox.path("web.sock");
    let probe = AvailabilityProbe::start(4, |_| {
        let mut client = HttpClient::unix(Path::new(&web)).keep_alive();
        move || client.post("/", b"hello")?.tag("name")
    });
    for generation in 1..=10 {
        probe.wait_tag(&format!("gen{generation}"));
        psflip.flip();
    }
    probe.finish().assert_no_failures();
    nginx.stop();
    stop(&psflip);
}
