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
    // One that nobody asked for must not break what has worked without it.
    assert_eq!(path(&format!("cmd = ['x']\npidfile = '/{}'", "x".repeat(120))), None);
}

#[test]
fn the_socket_is_for_its_owner_alone() {
    let listener = Control::At("/run/x".into()).listener(None).unwrap();
    assert_eq!(listener.address, ListenAddress::Unix("/run/x".into()));
    assert_eq!((listener.options.mode, listener.options.nonblock), (Some(0o600), Some(true)));
    assert!(Control::Off.listener(Some(Path::new("/run/app.pid"))).is_none());
}

#[test]
fn what_can_not_be_a_control_socket_is_refused() {
    // Contract: X1
    let broken = [
        "cmd = ['x']\n[control]\nsocket = '@app'\nsoket = 'x'",
        "cmd = ['x']\n[control]\nsocket = true",
        "cmd = ['x']\npidfile = '/run/a'\n[control]\nsocket = '/run/a'",
        "cmd = ['x']\n[control]\nsocket = '/run/a'\n[[listen]]\naddress = 'unix:///run/a'",
    ];
    assert_snapshot!("control_refused", broken.map(refused).join("\n\n"));
}
