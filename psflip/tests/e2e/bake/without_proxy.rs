//! Bakes with `[[listen]]` and `[switch]`.

use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, Psflip, Sandbox, Signal, Stream, wait_until};

use super::LONG;
use crate::service::{configure, psflip};

/// Starts an upgrade, and waits until the new generation has the traffic.
#[track_caller]
fn bake(psflip: &Psflip) {
    let mark = psflip.output().mark();
    psflip.request_flip();
    psflip.output().wait_after(mark, Stream::Stderr, "has the traffic and bakes");
}

#[track_caller]
fn run(sandbox: &Sandbox, command: &str) {
    let client = sandbox.command([testkit::psflip_bin()]).args([command]).start();
    let status = client.wait_exit();
    client.output().wait_closed();
    assert!(status.success(), "{command}: {status}\n{}", client.stderr());
}

#[test]
fn the_symlink_leads_to_the_new_child_in_its_bake_and_back_after_it() {
    // Contract: B1, B3
    let sandbox = Sandbox::new();
    let rest = format!(
        "[upgrade]\n{LONG}[healthcheck.unix]\npath = \"{{{{ blue_green() }}}}.sock\"\ninterval = \"10ms\"\n\
         [switch]\nsymlink = {{ path = \"app.sock\", to = \"{{{{ blue_green() }}}}.sock\" }}\n"
    );
    let server = &["http-server", "--unix", "{{ blue_green() }}.sock"];
    let psflip = psflip(&sandbox, server, &rest).start().wait_ready();
    let target = || std::fs::read_link(sandbox.path("app.sock")).unwrap();
    let name = || HttpClient::new(sandbox.path("app.sock").as_path()).get("/").unwrap().tag("name").unwrap();
    let first = target();
    for back in [Signal::SIGKILL, Signal::SIGTERM] {
        bake(&psflip);
        assert_eq!(name(), "gen2");
        assert_ne!(target(), first);
        let mark = psflip.output().mark();
        let new = crate::service::wait_coming(&sandbox, psflip.active());
        new.signal(back).unwrap();
        psflip.output().wait_after(mark, Stream::Stderr, "upgrade rolled back");
        assert_eq!((name().as_str(), target()), ("gen1", first.clone()));
    }
    bake(&psflip);
    run(&sandbox, "rollback");
    assert_eq!((name().as_str(), target()), ("gen1", first.clone()));
    bake(&psflip);
    run(&sandbox, "keep");
    assert_eq!(name(), "gen2");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn both_children_accept_on_a_shared_socket() {
    // Contract: B9, B3
    let sandbox = Sandbox::new();
    let rest = format!(
        "[upgrade]\n{LONG}[healthcheck.alive]\ntimeout = \"0s\"\n[log]\nlevel = \"debug\"\n[[listen]]\naddress = \"unix://web.sock\"\n"
    );
    let server = &["http-server", "--inherit", "listen_fds"];
    let psflip = psflip(&sandbox, server, &rest).start().wait_ready();
    let (old, old_child) = (psflip.active(), psflip.child());
    let name = || {
        let mut client = HttpClient::new(sandbox.path("web.sock").as_path());
        client.get("/").ok().and_then(|answer| answer.tag("name").ok())
    };
    bake(&psflip);
    for generation in ["gen1", "gen2"] {
        wait_until(Deadline::default(), format!("{generation} to accept"), || {
            (name()? == generation).then_some(())
        });
    }
    run(&sandbox, "rollback");
    for _ in 0..20 {
        assert_eq!(name().as_deref(), Some("gen1"));
    }
    assert_eq!((psflip.active(), psflip.child()), (old, old_child));
    configure(&sandbox, server, &rest.replace(LONG, ""));
    psflip.flip();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_failing_health_check_takes_a_shared_socket_from_the_new_child_without_a_lost_request() {
    // Contract: B2, B3, B9
    let sandbox = Sandbox::new();
    let rest = format!(
        "[upgrade]\n{LONG}[healthcheck.command]\ncmd = [\"sh\", \"-c\", \"! test -e sick\"]\ninterval = \"20ms\"\n\
         failures = 2\n[[listen]]\naddress = \"unix://web.sock\"\n"
    );
    let server = &["http-server", "--inherit", "listen_fds"];
    let psflip = psflip(&sandbox, server, &rest).start().wait_ready();
    let before = (psflip.active(), psflip.child());
    let path = sandbox.path("web.sock");
    let probe = AvailabilityProbe::start(4, |_| {
        let mut client = HttpClient::new(path.as_path());
        move || client.get("/")?.tag("name")
    });
    probe.wait_requests(20);
    for _ in 0..3 {
        bake(&psflip);
        probe.wait_tag("gen2");
        let mark = psflip.output().mark();
        sandbox.write("sick", "");
        let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade rolled back");
        assert!(line.text.contains("the health check failed in the bake"), "{line}");
        std::fs::remove_file(sandbox.path("sick")).unwrap();
        assert_eq!((psflip.active(), psflip.child()), before);
    }
    probe.wait_requests(20);
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}
