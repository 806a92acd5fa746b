//! What a team needs for tests of its own app: the next version, addresses, reports.

use std::panic::{AssertUnwindSafe, catch_unwind};

use psflip_testkit::client::http::HttpClient;
use psflip_testkit::{AvailabilityProbe, Psflip, Sandbox, fixture_cmd};

const CONFIG: &str = "[[listen]]\naddress = \"127.0.0.1:0\"\nname = \"web\"\n[healthcheck.notify]\n";

/// The fixture's server on a socket that all generations share.
fn server(more: &[&str]) -> Vec<std::ffi::OsString> {
    fixture_cmd([&["http-server", "--inherit", "listen_fds"], more].concat())
}

fn start(sandbox: &Sandbox, more: &[&str]) -> Psflip {
    sandbox.psflip().cmd(server(more)).config(CONFIG).start().wait_ready()
}

#[test]
fn the_next_version_serves_at_the_same_address() {
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, &["--version-tag", "1"]);
    let mut client = HttpClient::tcp(psflip.address("web"));
    assert_eq!(client.get("/").unwrap().header("x-version"), Some("1"));
    psflip.set_cmd(server(&["--version-tag", "2"]));
    psflip.flip();
    assert_eq!(client.get("/").unwrap().tag("version").unwrap(), "2");
    psflip.set_config(format!("{CONFIG}[env]\nFIXTURE_VERSION = \"3\"\n"));
    psflip.set_cmd(server(&[]));
    psflip.flip();
    assert_eq!(client.get("/").unwrap().tag("version").unwrap(), "3");
    let unknown = catch_unwind(AssertUnwindSafe(|| psflip.address("no such"))).unwrap_err();
    let text = unknown.downcast_ref::<String>().unwrap();
    assert!(text.starts_with("there is no `[[listen]]` named `no such`, but \"web\""), "{text}");
    psflip.stop();
}

#[test]
fn a_bad_version_fails_with_its_reason_and_the_old_one_stays() {
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, &["--bad-from", "2", "--bad", "crash"]);
    let failed = psflip.flip_fails();
    assert!(failed.reason.contains("exit code 1"), "{failed:?}");
    assert_eq!(failed.active, psflip.active());
    assert!(sandbox.report().contains("  flip 1: requested at "), "{}", sandbox.report());
    psflip.set_cmd(server(&[]));
    psflip.flip();
    let succeeds = catch_unwind(AssertUnwindSafe(|| psflip.flip_fails())).unwrap_err();
    assert!(succeeds.downcast_ref::<String>().unwrap().starts_with("the upgrade did not fail: {"));
    psflip.stop();
}

#[test]
fn a_report_has_the_flips_and_latencies_on_the_clock_of_the_sandbox() {
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox, &["--keep-idle", "2s"]);
    let address = psflip.address("web");
    let probe = AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::tcp(address).keep_alive();
        move || client.get("/")?.tag("pid")
    });
    probe.wait_requests(20);
    psflip.flip();
    psflip.set_cmd(server(&["--bad", "crash"]));
    psflip.flip_fails();
    probe.wait_requests(20);
    let report = probe.finish();
    report.assert_no_failures();
    let [flip, failed] = report.flips.as_slice() else { panic!("{report}") };
    assert!(flip.requested >= report.started && flip.active <= flip.over && flip.failed.is_none());
    assert!(flip.over.unwrap() <= failed.requested && failed.failed.is_some() && failed.active.is_none());
    assert_eq!(report.latencies.count(), report.requests);
    assert!((1..=report.requests).contains(&report.latencies_in_flips.count()), "{report}");
    assert!(report.percentile(50.0) <= report.percentile(99.0) && report.percentile(100.0) == report.slowest);
    let text = report.to_string();
    assert!(text.contains("\n  flip 1: requested at ") && text.contains("old generation gone"), "{text}");
    assert!(
        text.contains("\n  flip 2: ") && text.contains(", failed ") && text.contains("  in flips: "),
        "{text}"
    );
    let json = report.to_json();
    assert_eq!(
        (json["failed"].as_u64(), json["flips"].as_array().map(Vec::len)),
        (Some(0), Some(2)),
        "{json}"
    );
    assert_eq!(json["requests"].as_u64(), Some(report.requests));
    assert!(json["flips"][1]["failed"].is_string() && json["latencies"]["p99_ms"].is_f64(), "{json}");
    // One clock: the line that announces the new generation is within the flip.
    let active = psflip
        .output()
        .lines()
        .into_iter()
        .find(|line| line.text.contains("healthy, active") && line.at >= flip.requested);
    assert!(active.is_some_and(|line| line.at <= flip.over.unwrap()), "{report}\n{}", sandbox.report());
    psflip.stop();
}

#[test]
fn careless_servers_are_found_out() {
    for (flag, kept_only) in [("--careless", false), ("--close-idle", true)] {
        let sandbox = Sandbox::new();
        let psflip = start(&sandbox, &[flag]);
        let address = psflip.address("web");
        let probe = AvailabilityProbe::start(4, |_| {
            let mut client = HttpClient::tcp(address).keep_alive();
            move || client.get("/slow?ms=1")?.tag("pid")
        });
        // An idle connection: it sends its next request after the flip.
        let mut idle = HttpClient::tcp(address).keep_alive();
        idle.get("/").unwrap();
        for _ in 0..3 {
            probe.wait_requests(20);
            psflip.flip();
        }
        let lost = idle.get("/").expect_err("the idle connection was closed");
        assert!(lost.reused, "{flag}: {lost}");
        let report = probe.finish();
        if kept_only {
            assert!(report.failures.iter().all(|failure| failure.error.reused), "{flag}: {report}");
        } else {
            let json = report.to_json();
            let failures = json["failures"].as_array().cloned().unwrap_or_default();
            assert!(failures.iter().any(|failure| failure["flip"].is_u64()), "{flag}: {report}");
        }
        psflip.stop();
    }
}
