//! Clients that send nonsense, send nothing, never read, or have no permission. None of them disturbs the
//! service or another client.

use std::os::unix::fs::PermissionsExt;

use serde_json::json;
use testkit::client::control::Asking;
use testkit::{Deadline, Psflip, Sandbox, Stream, wait_until};

use super::{ask, status};
use crate::service::{AT_ONCE, psflip, stop};

#[track_caller]
fn start(sandbox: &Sandbox) -> Psflip {
    let psflip = psflip(sandbox, &["signal-logger"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    psflip
}

#[test]
fn invalid_requests_are_refused_with_a_reason() {
    // Contract: X2
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox);
    let socket = psflip.control_path();
    let answer = |request: &str| {
        let events = Asking::ask(&socket, request).rest();
        assert_eq!(super::names(&events), ["error"], "{request:?}");
        events[0]["reason"].as_str().unwrap().to_owned()
    };
    insta::assert_snapshot!(
        [
            "hello",
            "",
            "[]",
            "{}",
            r#"{"psflip":2,"request":"status"}"#,
            r#"{"psflip":1}"#,
            r#"{"psflip":1,"request":"dance"}"#,
            r#"{"psflip":1,"request":"follow"}"#,
            r#"{"psflip":1,"request":"follow","upgrade":-1}"#,
            "\u{1b}[31m",
        ]
        .map(answer)
        .join("\n")
        .replace(concat!("psflip ", env!("CARGO_PKG_VERSION")), "psflip VERSION")
    );
    assert!(answer(&"x".repeat(5000)).contains("more than 4096 bytes"));
    assert!(answer(&"[".repeat(4000)).contains("is no request"));
    assert_eq!(status(&psflip)["state"], "serving");
    stop(&psflip);
}

#[test]
fn keys_of_a_later_version_are_accepted() {
    // Contract: V1
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox);
    let request = r#"{"request":"status","colour":"red","psflip":1}"#;
    assert_eq!(super::names(&Asking::ask(&psflip.control_path(), request).rest()), ["status"]);
    stop(&psflip);
}

#[test]
fn a_request_may_come_in_pieces_and_without_a_line_break() {
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox);
    let mut asking = Asking::connect(&psflip.control_path());
    asking.send(br#"{"psflip":1,"#);
    // Other clients get their answers meanwhile.
    assert_eq!(status(&psflip)["state"], "serving");
    asking.send(br#""request":"status"}"#);
    // `socat` shuts down its side at the end of its input. The answer must still arrive.
    asking.finish();
    asking.wait_event("status");
    stop(&psflip);
}

#[test]
fn silent_clients_are_disconnected_for_active_ones() {
    // Contract: O2, X2
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox);
    let descriptors = psflip.active().open_fds().unwrap().len();
    let silent: Vec<Asking> = (0..200).map(|_| Asking::connect(&psflip.control_path())).collect();
    assert_eq!(status(&psflip)["state"], "serving");
    let open = psflip.active().open_fds().unwrap().len();
    assert!(open <= descriptors + 64, "{open} descriptors instead of {descriptors}");
    let told = silent.into_iter().next().unwrap().rest();
    let [told] = &*told else { panic!("one reason, then the end: {told:?}") };
    assert!(told["reason"].as_str().unwrap().contains("the oldest that has sent no request"), "{told}");
    stop(&psflip);
}

#[test]
fn watching_clients_are_disconnected_for_requesting_ones() {
    // Contract: O2, X2
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox);
    // None of these clients ever reads, as if all were stopped.
    let mut watching: Vec<Asking> = (0..64).map(|_| ask(&psflip, "watch")).collect();
    for one in &mut watching {
        one.wait_event("status");
    }
    assert_eq!(status(&psflip)["state"], "serving");
    ask(&psflip, "upgrade").wait_event("drained");
    let mut first = watching.into_iter().next().unwrap();
    let told = first.wait_event("error");
    assert!(told["reason"].as_str().unwrap().contains("another one needs the place of the oldest"), "{told}");
    stop(&psflip);
}

#[test]
fn clients_that_wait_for_an_upgrade_are_not_disconnected_for_others() {
    // Contract: X2
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox);
    let config = sandbox.read("psflip.toml");
    let never = "[healthcheck.command]\ncmd = [\"false\"]\ninterval = \"1h\"\n";
    sandbox.write("psflip.toml", config.replace(crate::service::AT_ONCE, never));
    let mut waiting: Vec<Asking> = (0..64).map(|_| ask(&psflip, "upgrade")).collect();
    for one in &mut waiting {
        one.wait_event("accepted");
    }
    let refused = ask(&psflip, "status").rest();
    let reason = refused[0]["reason"].as_str().unwrap();
    assert!(reason.contains("64 clients already wait for an upgrade or a stop"), "{refused:?}");
    drop(waiting.pop());
    wait_until(Deadline::default(), "psflip to notice that one client has disconnected", || {
        ask(&psflip, "status").rest().iter().any(|event| event["event"] == "status").then_some(())
    });
    stop(&psflip);
}

#[test]
fn a_client_that_never_reads_costs_bounded_memory_and_gets_the_last_state() {
    // Contract: X2
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox);
    let mut lazy = ask(&psflip, "watch");
    lazy.wait_event("status");
    crate::service::configure(&sandbox, &["exit-with", "3"], super::UNTIL_FILE);
    // Each request causes several changes. All statuses together exceed the socket's buffer.
    for _ in 0..60 {
        ask(&psflip, "upgrade").wait_event("failed");
    }
    let newest = status(&psflip)["history"].as_array().unwrap().last().unwrap()["upgrade"].clone();
    assert_eq!(newest, json!(60));
    loop {
        let status = lazy.wait_event("status");
        let told = status["status"]["history"].as_array().unwrap().last().unwrap()["upgrade"].clone();
        if told == newest && status["status"]["state"] == "serving" {
            break;
        }
    }
    stop(&psflip);
}

#[test]
fn only_the_same_user_and_root_may_connect() {
    let sandbox = Sandbox::new();
    let psflip = start(&sandbox);
    let socket = psflip.control_path();
    let mode = std::fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(nix::unistd::geteuid().is_root(), "this test has to change its user: run it as root");
    // Even if the socket's file is open to everyone, the kernel names the peer's user (SO_PEERCRED).
    std::fs::set_permissions(&socket, std::fs::Permissions::from_mode(0o666)).unwrap();
    std::fs::set_permissions(sandbox.dir(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let ask = r#"echo '{"psflip":1,"request":"stop"}' | perl -MIO::Socket::UNIX -e '$SIG{PIPE} = "IGNORE"; $s = IO::Socket::UNIX->new($ARGV[0]) or die $!; print $s $_ while <STDIN>; $s->flush; print while <$s>' "$0""#;
    let other = sandbox
        .command([
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            "sh",
            "-c",
            ask,
            &socket.to_string_lossy(),
        ])
        .start();
    other.wait_exit();
    assert!(
        other.stdout().contains("uid 65534 may not send requests to it"),
        "{}\n{}",
        other.stdout(),
        other.stderr()
    );
    assert_eq!(status(&psflip)["state"], "serving");
    stop(&psflip);
}
