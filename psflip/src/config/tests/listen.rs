//! `[[listen]]`, `[switch]` and `[hooks]`: their meaning, and every error as a user sees it (contract X1).

use std::fmt::Write as _;

use super::{plan, refused};
use crate::config::{ListenAddress, Protocol};

#[test]
fn every_listen_error_has_advice() {
    // Contract: X1
    let mut text = String::new();
    for wrong in [
        "listen = 'tcp://0.0.0.0:80'",
        "[listen]\naddress = 'tcp://0.0.0.0:80'",
        "listen = ['tcp://0.0.0.0:80']",
        "[[listen]]",
        "[[listen]]\nadress = '0.0.0.0:80'",
        "[[listen]]\naddress = ':80'",
        "[[listen]]\naddress = 'tcp://*:80'",
        "[[listen]]\naddress = 'localhost:80'",
        "[[listen]]\naddress = '::1:80'",
        "[[listen]]\naddress = '0.0.0.0'",
        "[[listen]]\naddress = '0.0.0.0:70000'",
        "[[listen]]\naddress = 'http://0.0.0.0:80'",
        "[[listen]]\naddress = 'unix://'",
        "[[listen]]\naddress = 'systemd:a:b'",
        "[[listen]]\naddress = '0.0.0.0:80'\nname = ''",
        "[[listen]]\naddress = '0.0.0.0:80'\nas = 'fd'",
        "[[listen]]\naddress = '0.0.0.0:80'\nas = []",
        "[[listen]]\naddress = '0.0.0.0:80'\nas = ['stdin', 3]",
        "[[listen]]\naddress = '0.0.0.0:80'\nmode = '0660'",
        "[[listen]]\naddress = '/a'\nmode = 660",
        "[[listen]]\naddress = '/a'\nmode = '888'",
        "[[listen]]\naddress = '/a'\nreuseport = true",
        "[[listen]]\naddress = '@a'\nowner = 'www-data'",
        "[[listen]]\naddress = '0.0.0.0:80'\nv6only = true",
        "[[listen]]\naddress = 'udp://0.0.0.0:80'\nbacklog = 5",
        "[[listen]]\naddress = '0.0.0.0:80'\nfd = 5",
        "[[listen]]\naddress = '0.0.0.0:80'\nfd = 1\nas = 'einhorn'",
        "[[listen]]\naddress = '0.0.0.0:80'\nfd = 1000\nas = 'einhorn'",
        "[[listen]]\naddress = '0.0.0.0:80'\nfd = 5\nas = ['server_starter', 'stdin']",
        "[[listen]]\naddress = 'systemd:web'\nfd = 5\nas = 'einhorn'",
        "[[listen]]\naddress = '/a'\nas = 'stdin'\n[[listen]]\naddress = '/b'\nas = 'einhorn'\nfd = 0",
        "[[listen]]\naddress = '/a'\nas = 'einhorn'\nfd = 5\n[[listen]]\naddress = '/b'",
        "[[listen]]\naddress = '/a'\nkey = 'a'",
        "[[listen]]\naddress = '/a'\nas = 'server_starter'\nkey = 'a=1'",
        "[[listen]]\naddress = '/a'\nas = 'server_starter'\nkey = '80'\n[[listen]]\naddress = '/b'\nas = 'server_starter'\nkey = '80'",
        "[[listen]]\naddress = '1.2.3.4:80'\nas = 'server_starter'\n[[listen]]\naddress = 'udp://1.2.3.4:80'\nas = 'server_starter'",
        "[[listen]]\naddress = 'systemd:web'\nbacklog = 5",
        "[[listen]]\naddress = 'unixgram://'",
        "[[listen]]\naddress = 'unixgram:///a'\nbacklog = 5\nas = 'server_starter'",
        "[[listen]]\naddress = 'unixgram://@a'\nmode = '0660'",
        "[[listen]]\naddress = 'unixpacket:///a'\nnodelay = true\nas = 'server_starter'",
        "[[listen]]\naddress = 'unixpacket://@a'\nowner = 'www-data'",
        "[[listen]]\naddress = 'unixgram:///a'\n[[listen]]\naddress = 'unix:///a'",
        "[[listen]]\naddress = 'unixgram:///a'\n[healthcheck.unix]\npath = '/a'",
        "[[listen]]\naddress = 'unixpacket://@a'\n[healthcheck.http]\nurl = 'unix:@a:/up'",
        "[[listen]]\naddress = '0.0.0.0:80'\nbacklog = 0",
        "[[listen]]\naddress = '0.0.0.0:80'\n[[listen]]\naddress = 'tcp://0.0.0.0:80'",
        "[[listen]]\naddress = '/a'\nas = 'stdin'\n[[listen]]\naddress = '/b'\nas = 'stdin'",
        "[[listen]]\naddress = '0.0.0.0:80'\n[healthcheck.tcp]\naddress = '127.0.0.1:80'",
        "[[listen]]\naddress = '[::]:80'\n[healthcheck.http]\nurl = 'http://127.0.0.1/up'",
        "[[listen]]\naddress = 'unix:///run/a.sock'\n[healthcheck.unix]\npath = '/run/a.sock'",
        "[[listen]]\naddress = '/run/a.sock'\n[healthcheck.fcgi]\naddress = '/run/a.sock'\nscript = '/ping'",
        "[switch]\nlink = '/a'",
        "[switch]\nsymlink = '/a'",
        "[switch]\nsymlink = { path = '/a' }",
        "[switch]\nsymlink = { path = '/a', to = '/a' }",
        "[hooks]\npromote = 'nginx -s reload'",
        "[hooks]\npromoted = ['']",
        "[hooks]\ntimeout = '0s'",
        "[hooks]\non_failure = ['x']",
    ] {
        writeln!(text, "{}\n", refused(&format!("cmd = ['x']\n{wrong}"))).unwrap();
    }
    insta::assert_snapshot!("listen", text);
}

#[test]
fn only_sockets_of_server_starter_need_keys_of_their_own() {
    let listeners = |text: &str| plan(&format!("cmd = ['x']\n{text}")).listeners.len();
    let (tcp, udp) = ("[[listen]]\naddress = '1.2.3.4:80'\n", "[[listen]]\naddress = 'udp://1.2.3.4:80'\n");
    let starter = "as = 'server_starter'\n";
    assert_eq!(listeners(&format!("{tcp}{udp}{starter}")), 2);
    assert_eq!(listeners(&format!("{tcp}{starter}{udp}{starter}key = 'u80'\n")), 2);
    // The kernel chooses two ports.
    let chosen = |text: &str| text.replace(":80", ":0");
    assert_eq!(listeners(&format!("{}{starter}{}{starter}", chosen(tcp), chosen(udp))), 2);
}

#[test]
fn addresses_are_normalized() {
    let address = |text: &str| {
        let plan = plan(&format!("cmd = ['x']\n[[listen]]\naddress = '{text}'"));
        plan.listeners[0].address.to_string()
    };
    assert_eq!(address("0.0.0.0:80"), "tcp://0.0.0.0:80");
    assert_eq!(address("tcp://[0:0::1]:80"), "tcp://[::1]:80");
    assert_eq!(address("udp://[::]:53"), "udp://[::]:53");
    assert_eq!(address("/run/a.sock"), "unix:///run/a.sock");
    assert_eq!(address("unix:a.sock"), "unix://a.sock");
    assert_eq!(address("@a"), "unix://@a");
    assert_eq!(address("systemd:web"), "systemd:web");
}

#[test]
fn defaults_match_the_documentation() {
    let plan = plan(
        "cmd = ['x']\n[[listen]]\naddress = '/a'\n[[listen]]\naddress = 'systemd:web'\n[hooks]\npromoted = []",
    );
    let [first, second] = &plan.listeners[..] else { panic!("{:?}", plan.listeners) };
    assert_eq!((first.name.as_str(), first.options.backlog, first.options.mode), ("unknown", 4096, None));
    assert_eq!(first.protocols, [Protocol::ListenFds]);
    assert_eq!(second.address, ListenAddress::Systemd("web".to_owned()));
    assert_eq!(second.name, "web");
    assert!(plan.hooks.promoted.is_empty());
}

#[test]
fn printed_listeners_round_trip() {
    // Contract: X1
    let text = "cmd = ['x']\n\
        [[listen]]\naddress = '/run/a.sock'\nname = 'web'\nas = ['stdin', 'listen_fds']\nmode = '0660'\nowner = 'www-data'\n\
        group = '33'\nbacklog = 16\n\
        [[listen]]\naddress = '[::]:80'\nv6only = false\nnodelay = true\nnonblock = false\nreuseport = true\nas = 'einhorn'\n\
        [[listen]]\naddress = 'udp://127.0.0.1:0'\n\
        [[listen]]\naddress = 'systemd:admin'\nas = 'server_starter'\n\
        [switch]\nsymlink = { path = '/run/app.sock', to = 'app-{{ slot() }}.sock' }\n\
        [hooks]\npromote = ['nginx', '-s', 'reload']\nfailed = ['x']\ntimeout = '3s'\n";
    let text = text.replace("{{ slot() }}", "{{ blue_green() }}");
    let numbered = "cmd = ['x']\n\
        [[listen]]\naddress = '@b'\nas = ['server_starter', 'stdin']\nfd = 0\n\
        [[listen]]\naddress = 'udp://0.0.0.0:53'\nas = ['einhorn', 'server_starter']\nfd = 7\nkey = '53'\n";
    for text in [&text, numbered] {
        let mut first = plan(text);
        first.uses_slot = false; // what is printed is that of one generation
        let printed = first.to_string();
        assert_eq!(plan(&printed), first, "{printed}");
    }
}
