//! `[control]`.

use std::path::Path;

use insta::assert_snapshot;

use super::{read, refused};
use crate::config::{Control, ListenAddress};

fn path(text: &str) -> Option<String> {
    let plan = read(text).unwrap();
    plan.control.path(plan.pidfile.as_deref()).map(|path| path.display().to_string())
}

#[test]
fn by_default_the_socket_is_next_to_the_pidfile() {
    assert_eq!(path("cmd = ['x']\npidfile = '/run/app.pid'").as_deref(), Some("/run/app.pid.sock"));
    assert_eq!(path("cmd = ['x']"), None);
    assert_eq!(path("cmd = ['x']\npidfile = 'a.pid'\n[control]\nsocket = false"), None);
    assert_eq!(
        path("cmd = ['x']\n[control]\nsocket = '{{ blue_green() }}.sock'").as_deref(),
        Some("blue.sock")
    );
    // A path longer than the kernel allows: the default is still used (the socket is bound from its
    // directory, or left out).
    assert!(path(&format!("cmd = ['x']\npidfile = '/{}'", "x".repeat(120))).is_some());
    assert_eq!(path("cmd = ['x']\npidfile = '@x'").as_deref(), Some("./@x.sock"), "no abstract socket");
}

#[test]
fn the_socket_is_for_its_owner_alone() {
    let listener = Control::At("/run/x".into()).listener(None).unwrap();
    assert_eq!(listener.address, ListenAddress::Unix("/run/x".into()));
    assert_eq!((listener.options.mode, listener.options.nonblock), (Some(0o600), Some(true)));
    assert!(Control::Off.listener(Some(Path::new("/run/app.pid"))).is_none());
}

#[test]
fn invalid_control_socket_paths_are_refused() {
    // Contract: X1
    let broken = [
        "cmd = ['x']\n[control]\nsocket = '@app'\nsoket = 'x'",
        "cmd = ['x']\n[control]\nsocket = true",
        "cmd = ['x']\npidfile = '/run/a'\n[control]\nsocket = '/run/a'",
        "cmd = ['x']\n[control]\nsocket = '/run/a'\n[[listen]]\naddress = 'unix:///run/a'",
    ];
    assert_snapshot!("control_refused", broken.map(refused).join("\n\n"));
}

#[test]
fn without_a_pidfile_the_socket_is_in_the_runtime_directory() {
    use super::super::{Generation, Slot, parse};
    let path = |directory: &'static str, text: &str| {
        let env =
            move |name: &str| (name == "RUNTIME_DIRECTORY").then(|| std::ffi::OsString::from(directory));
        let generation =
            Generation { number: 1, slot: Slot::A, started: std::time::SystemTime::UNIX_EPOCH, env: &env };
        let plan = parse("app.toml", text, &generation).unwrap();
        plan.control.path(plan.pidfile.as_deref()).map(|path| path.display().to_string())
    };
    assert_eq!(path("/run/a:/run/b", "cmd = ['x']").as_deref(), Some("/run/a/psflip.sock"));
    assert_eq!(path("/run/a", "cmd = ['x']\npidfile = 'x.pid'").as_deref(), Some("x.pid.sock"));
    assert_eq!(path("/run/a", "cmd = ['x']\n[control]\nsocket = false"), None);
    assert_eq!(path("a", "cmd = ['x']"), None);
}

#[test]
fn two_settings_can_not_use_the_same_file() {
    // Contract: P4, X1
    let clashes = [
        "cmd = ['./x']\npidfile = './x'",
        "cmd = ['x', '/run/a']\nworkdir = '/srv'\npidfile = '/srv/'",
        "cmd = ['bin/x']\nworkdir = '/srv'\npidfile = '/srv/bin/x'",
        "cmd = ['x']\npidfile = '/a/b/../hook'\n[hooks]\npromoted = ['/a/hook']",
        "cmd = ['x']\npidfile = '/a/probe'\n[healthcheck.command]\ncmd = ['/a/probe']",
        "cmd = ['x']\npidfile = '/a/s'\n[healthcheck.unix]\npath = '/a/s'",
        "cmd = ['x']\npidfile = '/a/s'\n[switch]\nsymlink = { path = '/a/s', to = 'x' }",
        "cmd = ['x']\npidfile = '/a/x'\n[switch]\nsymlink = { path = '/a/s', to = 'x' }",
        "cmd = ['x']\npidfile = '/a'\n[[listen]]\naddress = '/a'",
        "cmd = ['x']\npidfile = '/a'\n[[listen]]\naddress = '/a.sock'",
        "cmd = ['/a/x']\n[switch]\nsymlink = { path = '/a/x', to = 'y' }",
        "cmd = ['x']\n[control]\nsocket = '/a'\n[[listen]]\naddress = 'unix:///a'",
        "cmd = ['x']\npidfile = '/a'\n[[listen]]\naddress = 'unixgram:///a'",
        "cmd = ['x']\npidfile = '/a'\n[[listen]]\naddress = 'unixpacket:///a'",
        "cmd = ['x']\npidfile = '/a'\n[control]\nsocket = '/a.last'",
        "cmd = ['/a.last']\n[control]\nsocket = '/a'",
    ];
    assert_snapshot!("clashes", clashes.map(refused).join("\n\n"));
    for fine in [
        "cmd = ['/a', '--pid', '/run/a']\npidfile = '/run/a'",
        "cmd = ['x']\npidfile = 'x'",
        "cmd = ['x']\n[switch]\nsymlink = { path = '/s', to = '/{{ blue_green() }}' }\n[healthcheck.unix]\npath = '/s'",
    ] {
        read(fine).unwrap();
    }
}

#[test]
fn a_pidfile_path_too_long_for_a_message_is_refused() {
    // Contract: X1, X2
    let refusal = refused(&format!("cmd = ['x']\npidfile = '/{}'", "x".repeat(1024)));
    assert!(refusal.contains("has 1025 bytes") && refusal.contains("at most 1024"), "{refusal}");
    read(&format!("cmd = ['x']\npidfile = '/{}'", "x".repeat(1023))).unwrap();
}
