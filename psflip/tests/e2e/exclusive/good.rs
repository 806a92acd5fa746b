//! Upgrades that succeed.

use testkit::client::http::HttpClient;
use testkit::{Deadline, FdSnapshot, Sandbox, Stream, wait_until};

use super::{HEALTHY, assert_once, clients, next, once, proxied, text, upgrades_and_ends, web};
use crate::service::{configure, generations, program, psflip};

#[test]
fn clients_of_a_proxy_wait_and_no_request_is_lost() {
    // Contract: E2, E5, E7, T6
    let sandbox = Sandbox::new();
    let psflip = proxied(&sandbox, "").start().wait_ready();
    let probe = clients(&sandbox);
    for generation in 1..=10 {
        probe.wait_tag(&format!("gen{generation}"));
        psflip.flip();
    }
    probe.wait_tag("gen11");
    let report = probe.finish();
    report.assert_no_failures();
    let log = psflip.log();
    let (prepared, gone) = (log.find("is prepared").unwrap(), log.find("the child has exited").unwrap());
    let started = log.match_indices("child started").nth(1).unwrap().0;
    assert!(prepared < gone && gone < started, "{log}");
    assert!(log.contains("clients_waited="), "{log}");
    psflip.stop();
    assert_once(&sandbox);
    sandbox.assert_no_process_left();
}

#[test]
fn clients_of_a_shared_socket_wait_in_its_queue() {
    // Contract: E2
    let sandbox = Sandbox::new();
    let listen = "[[listen]]\naddress = \"unix://web.sock\"\nbacklog = 128\n";
    let argv = super::locked(&["http-server", "--inherit", "listen_fds", "--linger", "0ms"]);
    let health = "[healthcheck.alive]\ntimeout = \"20ms\"\n";
    let psflip =
        sandbox.psflip().cmd(argv).config(text("", &format!("{health}{listen}"))).start().wait_ready();
    let path = web(&sandbox);
    let probe = testkit::AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::new(path.as_path());
        move || client.get("/")?.tag("name")
    });
    for generation in 1..=5 {
        probe.wait_tag(&format!("gen{generation}"));
        psflip.flip();
    }
    probe.wait_tag("gen6");
    probe.finish().assert_no_failures();
    psflip.stop();
    assert_once(&sandbox);
    sandbox.assert_no_process_left();
}

#[test]
fn without_a_socket_of_psflips_the_child_opens_its_own_again() {
    // Contract: E2, C3
    let sandbox = Sandbox::new();
    let psflip = sandbox.psflip().cmd(once(&[])).config(text("", HEALTHY)).start().wait_ready();
    let open = FdSnapshot::of(psflip.active());
    for generation in 2..=4 {
        psflip.flip();
        open.assert_same_in(psflip.active());
        let answer = HttpClient::unix(sandbox.path("app.sock")).get("/").unwrap();
        assert_eq!(answer.tag("name").unwrap(), format!("gen{generation}"));
    }
    psflip.stop();
    assert_once(&sandbox);
    sandbox.assert_no_process_left();
}

#[test]
fn leftover_processes_of_the_old_child_are_gone_before_the_new_one_starts() {
    // Contract: E2, C8
    let sandbox = Sandbox::new();
    let argv = super::locked(&["forks-workers", "--orphans", "2", "--ignore-term"]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let rest = text("", "[healthcheck.alive]\ntimeout = \"20ms\"\n").replace("\"1s\"", "\"100ms\"");
    let psflip = psflip(&sandbox, &argv, &rest).start().wait_ready();
    for _ in 0..2 {
        psflip.flip();
    }
    assert!(psflip.log().contains("leftover processes"), "{}", psflip.log());
    psflip.stop();
    assert_once(&sandbox);
    sandbox.assert_no_process_left();
}

#[test]
fn either_configuration_is_enough() {
    // Contract: E2, E6
    let sandbox = Sandbox::new();
    let overlaps = text("", HEALTHY).replace("overlap = false", "overlap = true");
    let argv = once(&[]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    // To an exclusive configuration, and from it.
    let psflip = psflip(&sandbox, &argv, &overlaps).start().wait_ready();
    for rest in [text("", HEALTHY), overlaps] {
        let mark = psflip.output().mark();
        configure(&sandbox, &argv, &rest);
        psflip.flip();
        psflip.output().wait_after(mark, Stream::Stderr, "is prepared; stopping the old child");
    }
    psflip.stop();
    assert_once(&sandbox);
    sandbox.assert_no_process_left();
}

#[test]
fn an_upgrade_that_is_requested_meanwhile_follows() {
    // Contract: E2, U7
    let sandbox = Sandbox::new();
    let psflip = proxied(&sandbox, "").start().wait_ready();
    next(
        &sandbox,
        &once(&[]),
        "precheck = [\"sh\", \"-c\", \"until test -e go; do sleep 0.01; done\"]",
        HEALTHY,
    );
    let mark = psflip.output().mark();
    let old = psflip.request_flip();
    psflip.output().wait_after(mark, Stream::Stderr, "hook started");
    old.signal(testkit::Signal::SIGHUP).unwrap();
    psflip.output().wait_after(mark, Stream::Stderr, "upgrade queued");
    sandbox.write("go", "");
    wait_until(Deadline::default(), "generation 3 to answer", || {
        let answer = HttpClient::new(web(&sandbox).as_path()).get("/").ok()?;
        (answer.tag("name").ok()? == "gen3").then_some(())
    });
    wait_until(Deadline::default(), "one generation", || (generations(&sandbox).len() == 1).then_some(()));
    upgrades_and_ends(&sandbox, &psflip);
}

#[test]
fn precheck_runs_before_an_overlapping_child_starts_too() {
    // Contract: E1
    let sandbox = Sandbox::new();
    let rest = |check: &str| {
        format!(
            "[upgrade]\nprecheck = [\"sh\", \"-c\", \"{check}\"]\n[healthcheck.alive]\ntimeout = \"0s\"\n"
        )
    };
    let argv = program(&["never-ready"]);
    let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
    let psflip = psflip(&sandbox, &argv, &rest("echo x >> checked")).start().wait_ready();
    assert!(!sandbox.path("checked").exists(), "at the first start, the start itself is the check");
    psflip.flip();
    assert_eq!(sandbox.read("checked"), "x\n");
    configure(&sandbox, &argv, &rest("echo no such table; exit 3"));
    let (mark, child) = (psflip.output().mark(), psflip.child());
    psflip.request_flip();
    let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
    assert!(line.text.contains("`upgrade.precheck` failed"), "{line}");
    assert!(line.text.contains("no such table") && line.text.contains("keeps running"), "{line}");
    assert_eq!(psflip.child(), child);
    configure(&sandbox, &argv, &rest("exit 0"));
    psflip.flip();
    psflip.stop();
    sandbox.assert_no_process_left();
}
