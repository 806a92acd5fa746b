//! Upgrades that fail: the old child keeps running, or is started again.

use testkit::client::http::HttpClient;
use testkit::{Psflip, Sandbox, Stream};

use super::{HEALTHY, assert_once, clients, next, once, proxied, upgrades_and_ends, web};
use crate::service::{AT_ONCE, configure, freeze, wait_coming};

const NEVER: &str = "[healthcheck.command]\ncmd = [\"false\"]\ninterval = \"10ms\"\n";

/// An upgrade that fails after the old child stopped. Nothing is lost, and the child of the same generation
/// serves again.
#[track_caller]
fn starts_again(
    sandbox: &Sandbox,
    psflip: &Psflip,
    reason: &str,
    cause: impl FnOnce(testkit::Process, usize),
) {
    let (old, child, mark) = (psflip.active(), psflip.child(), psflip.output().mark());
    psflip.request_flip();
    cause(old, mark);
    let line =
        psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed; starting the old child again");
    assert!(line.text.contains(reason), "no `{reason}` in {line}");
    psflip.output().wait_after(mark, Stream::Stderr, "the old child serves again");
    assert_eq!(psflip.active(), old);
    assert_ne!(psflip.child(), child);
    let answer = HttpClient::new(web(sandbox).as_path()).get("/").unwrap();
    assert_eq!(answer.tag("name").unwrap(), "gen1");
    assert_once(sandbox);
}

#[test]
fn the_old_child_starts_again_when_the_new_one_fails() {
    // Contract: E3, F3, F4, F6, U8
    let sandbox = Sandbox::new();
    let psflip = proxied(&sandbox, "").start().wait_ready();
    let probe = clients(&sandbox);
    probe.wait_requests(20);
    let locked = |argv: &[&str]| super::locked(argv);
    next(&sandbox, &locked(&["crash-on-init"]), "", HEALTHY);
    starts_again(&sandbox, &psflip, "the child exited before it was healthy", |_, _| ());
    next(&sandbox, &once(&[]), "timeout = \"300ms\"", NEVER);
    starts_again(&sandbox, &psflip, "not healthy within 300ms", |_, _| ());
    next(&sandbox, &once(&[]), "", &format!("{HEALTHY}[hooks]\npromote = [\"false\"]\n"));
    starts_again(&sandbox, &psflip, "`hooks.promote` failed", |_, _| ());
    next(&sandbox, &once(&[]), "", NEVER);
    starts_again(&sandbox, &psflip, "killed, crashed, or not a psflip", |old, mark| {
        psflip.output().wait_after(mark, Stream::Stderr, "child started");
        crate::service::kill(wait_coming(&sandbox, old));
    });
    probe.wait_requests(20);
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.keys().collect::<Vec<_>>(), ["gen1"], "{report}");
    next(&sandbox, &once(&[]), "", HEALTHY);
    upgrades_and_ends(&sandbox, &psflip);
}

#[test]
fn clients_of_a_shared_socket_wait_until_the_old_child_serves_again() {
    // Contract: E2, E3
    let sandbox = Sandbox::new();
    let rest =
        super::text("", "[healthcheck.notify]\n[[listen]]\naddress = \"unix://web.sock\"\nbacklog = 128\n");
    let server = super::locked(&["http-server", "--inherit", "listen_fds", "--linger", "0ms"]);
    let psflip = sandbox.psflip().cmd(server).config(&rest).start().wait_ready();
    let path = web(&sandbox);
    let probe = testkit::AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::new(path.as_path());
        move || client.get("/")?.tag("name")
    });
    for _ in 0..3 {
        probe.wait_requests(20);
        let crash = super::locked(&["crash-on-init"]);
        configure(&sandbox, &crash.iter().map(String::as_str).collect::<Vec<_>>(), &rest);
        starts_again(&sandbox, &psflip, "the child exited before it was healthy", |_, _| ());
    }
    probe.wait_requests(20);
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.keys().collect::<Vec<_>>(), ["gen1"], "{report}");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn the_old_child_notices_nothing_of_what_fails_before_it_stops() {
    // Contract: E1, F1, F3, U8
    let sandbox = Sandbox::new();
    let psflip = proxied(&sandbox, "").start().wait_ready();
    let child = psflip.child();
    let probe = clients(&sandbox);
    let cases: [(&[&str], &str, &str, &str); 3] = [
        (&[], "precheck = [\"sh\", \"-c\", \"echo no such table; exit 3\"]", "", "no such table"),
        (&["/no/such/program"], "", "", "can't execute `/no/such/program`"),
        (&[], "", "[hooks]\npromote = 7\n", "the configuration is invalid"),
    ];
    for (argv, upgrade, rest, reason) in cases {
        let argv: Vec<String> = argv.iter().map(|&part| part.to_owned()).collect();
        let argv = if argv.is_empty() { once(&[]) } else { argv };
        next(&sandbox, &argv, upgrade, &format!("{HEALTHY}{rest}"));
        let mark = psflip.output().mark();
        psflip.request_flip();
        let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
        assert!(line.text.contains(reason) && line.text.contains("keeps running"), "{line}");
    }
    assert_eq!(psflip.child(), child);
    probe.wait_requests(20);
    probe.finish().assert_no_failures();
    next(&sandbox, &once(&[]), "", HEALTHY);
    upgrades_and_ends(&sandbox, &psflip);
}

#[test]
fn a_new_psflip_that_hangs_is_killed_and_the_old_child_starts_again() {
    // Contract: E3, F5
    let sandbox = Sandbox::new();
    let psflip = proxied(&sandbox, "").start().wait_ready();
    next(
        &sandbox,
        &once(&[]),
        "timeout = \"3s\"\nprecheck = [\"sh\", \"-c\", \"until test -e go; do sleep 0.01; done\"]",
        NEVER,
    );
    starts_again(&sandbox, &psflip, "did not answer within", |old, mark| {
        let new = wait_coming(&sandbox, old);
        sandbox.write("go", "");
        psflip.output().wait_after(mark, Stream::Stderr, "child started");
        freeze(new);
    });
    next(&sandbox, &once(&[]), "", HEALTHY);
    upgrades_and_ends(&sandbox, &psflip);
}

/// A release fails that `current` leads to by now. The first generation has `[upgrade]` as it says.
#[track_caller]
fn the_old_release_starts_again(overlap: &str) {
    let sandbox = Sandbox::new();
    let release = |number: u32, rest: &str| {
        std::fs::create_dir(sandbox.path(format!("release{number}"))).unwrap();
        let text = format!("echo release {number}; {rest}");
        crate::service::script(&sandbox, &format!("release{number}/run"), &text);
        let (new, current) = (sandbox.path("current.new"), sandbox.path("current"));
        std::os::unix::fs::symlink(format!("release{number}"), &new).unwrap();
        std::fs::rename(new, current).unwrap();
    };
    let server = testkit::fixture("http-server");
    release(1, &format!("exec {} --unix app.sock", server.display()));
    // The health check is of the release that the child belongs to, too.
    let rest = format!("workdir = \"current\"\n{}", super::text("timeout = \"10s\"", HEALTHY));
    let first = rest.replace("overlap = false", overlap);
    let psflip = sandbox.psflip().cmd(["./run"]).config(first).start().wait_ready();
    psflip.output().wait(Stream::Stdout, "release 1");
    release(2, "exit 3");
    configure(&sandbox, &["./run"], &rest);
    let mark = psflip.output().mark();
    psflip.request_flip();
    psflip.output().wait_after(mark, Stream::Stdout, "release 2");
    psflip.output().wait_after(mark, Stream::Stderr, "the old child serves again");
    psflip.output().wait_after(mark, Stream::Stdout, "release 1");
    assert!(!psflip.log().contains("changed since the old child started"), "{}", psflip.log());
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn the_old_release_starts_again_after_the_symlink_has_moved() {
    // Contract: E3
    the_old_release_starts_again("overlap = false");
}

#[test]
fn the_old_release_starts_again_when_only_the_new_configuration_allows_no_overlap() {
    // Contract: E3, E6
    the_old_release_starts_again("overlap = true");
}

#[test]
fn a_release_that_overwrites_the_old_one_is_warned_of() {
    // Contract: E3
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("app")).unwrap();
    let release = |line: &str| sandbox.write("app/run.sh", format!("{line}; exec sleep infinity\n"));
    release("touch ok$PSFLIP_GENERATION");
    sandbox.write("app/data", "");
    let rest = super::text(
        "",
        "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"ok{{ generation() }}\"]\ninterval = \"10ms\"\n",
    );
    let psflip = sandbox.psflip().cmd(["sh", "run.sh", "data"]).config(format!("workdir = \"app\"\n{rest}"));
    let psflip = psflip.start().wait_ready();
    let upgrade = || {
        let client = sandbox.command([testkit::psflip_bin()]).args(["upgrade"]).start();
        let code = client.wait_exit().code();
        client.output().wait_closed();
        (code, client.stdout() + &client.stderr())
    };
    // Data changes all the time.
    sandbox.write("app/data", "1");
    let (code, said) = upgrade();
    assert!(code == Some(0) && !said.contains("warning"), "{said}");
    release("exit 3");
    let old = psflip.active();
    let (code, said) = upgrade();
    assert_eq!(code, Some(1), "{said}");
    let file = sandbox.path("app/run.sh");
    assert!(said.contains(&format!("warning: `{}` changed since", file.display())), "{said}");
    assert_eq!(psflip.wait_end_of(old).code(), Some(3));
    sandbox.assert_no_process_left();
}

#[test]
fn an_argument_that_leads_through_a_moved_symlink_is_warned_of() {
    // Contract: E3
    let sandbox = Sandbox::new();
    let release = |number: u32| {
        std::fs::create_dir(sandbox.path(format!("release{number}"))).unwrap();
        sandbox.write(format!("release{number}/run.sh"), "exec sleep infinity\n");
        let (new, current) = (sandbox.path("current.new"), sandbox.path("current"));
        std::os::unix::fs::symlink(format!("release{number}"), &new).unwrap();
        std::fs::rename(new, current).unwrap();
    };
    release(1);
    let file = sandbox.path("current/run.sh").display().to_string();
    let psflip = sandbox.psflip().cmd(["sh", &file]).config(super::text("", AT_ONCE)).start().wait_ready();
    release(2);
    let client = sandbox.command([testkit::psflip_bin()]).args(["upgrade"]).start();
    assert!(client.wait_exit().success());
    let line = client.output().wait(Stream::Stdout, "warning: ");
    assert!(line.text.contains(&format!("warning: a symlink in `{file}` has moved since")), "{line}");
    assert!(line.text.contains("`workdir`") && !psflip.log().contains("of its own"), "{}", psflip.log());
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn psflip_exits_with_the_failure_if_the_old_child_does_not_start_again() {
    // Contract: E3, C6
    let sandbox = Sandbox::new();
    let psflip = proxied(&sandbox, "").start().wait_ready();
    let mark = psflip.output().mark();
    next(&sandbox, &super::locked(&["crash-on-init"]), "", HEALTHY);
    sandbox.write("broken", "");
    psflip.request_flip();
    let line =
        psflip.output().wait_after(mark, Stream::Stderr, "the service is down: after a failed upgrade");
    assert!(line.text.contains("exit code 7"), "{line}");
    assert_eq!(psflip.wait_exit().code(), Some(7));
    assert_once(&sandbox);
    sandbox.assert_no_process_left();
}
