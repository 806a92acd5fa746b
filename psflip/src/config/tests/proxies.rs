//! `[[proxy]]`: its meaning, and every error as a user sees it (contract X1).

use std::fmt::Write as _;
use std::time::Duration;

use super::{plan, read, refused};
use crate::config::{Forward, Forwarded, Header, Health, ListenAddress, ProxyKind};

/// A proxy with this address, which forwards to an address of its own.
fn proxy(listen: &str, more: &str) -> String {
    format!("[[proxy]]\nlisten = '{listen}'\nforward = '127.0.0.1:3000'\n{more}\n")
}

fn forward(address: &str) -> String {
    format!("[[proxy]]\nlisten = '0.0.0.0:80'\nforward = '{address}'\n")
}

/// Proxies between these addresses.
fn chain(links: &[(&str, &str)]) -> String {
    let one = |(listen, forward)| format!("[[proxy]]\nlisten = '{listen}'\nforward = '{forward}'\n");
    links.iter().copied().map(one).collect()
}

#[test]
fn every_proxy_error_has_advice() {
    // Contract: X1
    let mut text = String::new();
    for wrong in [
        "proxy = 'tcp://0.0.0.0:80'".to_owned(),
        "[proxy]\nlisten = 'tcp://0.0.0.0:80'".to_owned(),
        "proxy = ['tcp://0.0.0.0:80']".to_owned(),
        format!("proxy = [{}]", "{},".repeat(65)),
        "[[proxy]]".to_owned(),
        "[[proxy]]\nlisen = '0.0.0.0:80'\nforwad = '127.0.0.1:80'".to_owned(),
        proxy("0.0.0.0:80", "nodelay = true\nprotocl = 'http'\naddress = '0.0.0.0:80'"),
        proxy(":80", ""),
        proxy("localhost:80", ""),
        proxy("http://0.0.0.0:80/", ""),
        proxy("fastcgi://127.0.0.1:9000", ""),
        proxy("https://0.0.0.0:443", ""),
        proxy("udp://0.0.0.0:53", ""),
        proxy("unixgram:///run/a.sock", ""),
        proxy("unixpacket:///run/a.sock", ""),
        proxy("systemd:a:b", ""),
        proxy("0.0.0.0:80", "mode = '0660'"),
        proxy("0.0.0.0:80", "v6only = true"),
        proxy("/a", "reuseport = true"),
        proxy("@a", "owner = 'www-data'"),
        proxy("systemd:web", "backlog = 5"),
        proxy("/a", "mode = 660"),
        proxy("/a", "backlog = 0"),
        proxy("/a", "protocol = 'https'"),
        proxy("/a", "protocol = 'fcgi'"),
        proxy("/a", "drain = 30"),
        proxy("/a", "send_proxy_protocol = true"),
        proxy("/a", "send_proxy_protocol = 'v3'"),
        proxy("/a", "send_proxy_protocol = 'v1'\nprotocol = 'http'"),
        proxy("/a", "accept_proxy_protocol = 'v1'"),
        proxy("/a", "forwarded = 'append'"),
        proxy("/a", "forwarded = 'none'\nprotocol = 'http'"),
        proxy("/a", "pool = 8"),
        proxy("/a", "pool = 8\nprotocol = 'fastcgi'"),
        proxy("/a", "pool = 1025\nprotocol = 'http'"),
        proxy("/a", "pool = true\nprotocol = 'http'"),
        forward("127.0.0.1:0"),
        forward("tcp://[::1]:0"),
        forward("0.0.0.0:3000"),
        forward("[::]:3000"),
        forward(":3000"),
        forward("localhost:3000"),
        forward("example.com:3000"),
        forward("127.0.0.1"),
        forward("3000"),
        forward("http://127.0.0.1:3000/"),
        forward("udp://127.0.0.1:3000"),
        forward("unix://"),
        forward("unix:///run/"),
        forward("127.0.0.1:80"),
        proxy("0.0.0.0:80", "") + &proxy("tcp://0.0.0.0:80", ""),
        proxy("0.0.0.0:80", "[[listen]]\naddress = '0.0.0.0:80'"),
        proxy("/run/a.sock", "[[listen]]\naddress = 'unixgram:///run/a.sock'"),
        proxy("0.0.0.0:80", "[[listen]]\naddress = '0.0.0.0:3000'"),
        chain(&[("/run/a", "unix:/run/a")]),
        chain(&[("/run/a", "127.0.0.1:81"), ("0.0.0.0:81", "@b"), ("@b", "/run/a")]),
    ] {
        writeln!(text, "{}\n", refused(&format!("cmd = ['x']\n{wrong}"))).unwrap();
    }
    insta::assert_snapshot!("proxies", text);
}

#[test]
fn a_proxy_and_other_settings_can_not_use_the_same_file() {
    // Contract: P4, X1
    let clashes = [
        "pidfile = '/run/a'\n[[proxy]]\nlisten = '/run/a'\nforward = '127.0.0.1:3000'",
        "pidfile = '/run/a'\n[[proxy]]\nlisten = '@x'\nforward = '/run/a'",
        "pidfile = '/run/a'\n[[proxy]]\nlisten = '@x'\nforward = '/run/a.sock'",
        "[[proxy]]\nlisten = '@x'\nforward = '/run/a'\n[switch]\nsymlink = { path = '/run/a', to = 'b' }",
        "[[proxy]]\nlisten = '/run/b'\nforward = '127.0.0.1:3000'\n[switch]\nsymlink = { path = '/run/a', to = 'b' }",
    ];
    let texts = clashes.map(|text| refused(&format!("cmd = ['x']\n{text}")));
    insta::assert_snapshot!("proxy_clashes", texts.join("\n\n"));
}

#[test]
fn a_chain_of_proxies_is_no_circle() {
    for fine in [
        chain(&[("0.0.0.0:80", "127.0.0.1:81"), ("127.0.0.1:81", "127.0.0.1:82")]),
        // Another host's address, or a container's, on the same port.
        chain(&[("0.0.0.0:80", "172.17.0.2:80")]),
        // IPv6 does not reach a socket that is bound to IPv4.
        chain(&[("0.0.0.0:80", "[::1]:80")]),
        chain(&[("0.0.0.0:80", "/run/a"), ("0.0.0.0:81", "/run/a")]),
    ] {
        assert_eq!(plan(&format!("cmd = ['x']\n{fine}")).proxies.len(), fine.matches("[[proxy]]").count());
    }
}

#[test]
fn defaults_of_a_proxy_match_the_documentation() {
    let plan = plan(&format!("cmd = ['x']\n{}{}", proxy("[::]:80", ""), proxy("systemd:web", "")));
    let [first, second] = &plan.proxies[..] else { panic!("{:?}", plan.proxies) };
    assert_eq!(first.forward, Forward::Tcp("127.0.0.1:3000".parse().unwrap()));
    assert_eq!((first.protocol, first.drain), (ProxyKind::Tcp, Duration::from_secs(30)));
    assert_eq!((first.send_proxy_protocol, first.accept_proxy_protocol), (None, false));
    assert_eq!((first.forwarded, first.pool), (Forwarded::Append, 0));
    let options = &first.socket.options;
    assert_eq!((options.backlog, options.reuseport, options.v6only), (4096, false, None));
    assert_eq!(second.socket.address, ListenAddress::Systemd("web".to_owned()));
    assert_eq!(second.socket.name, "web");
}

#[test]
fn the_socket_of_a_proxy_does_not_block_and_is_not_passed_to_the_child() {
    for (address, name) in [
        ("tcp://[::1]:80", "proxy-tcp-1-80"),
        ("unix:///run/a b:c.sock", "proxy-unix-run-a-b-c.sock"),
        ("systemd:web", "web"),
    ] {
        let plan = plan(&format!("cmd = ['x']\n{}", proxy(address, "")));
        let socket = &plan.proxies[0].socket;
        assert_eq!((socket.name.as_str(), socket.options.nonblock), (name, Some(true)), "{address}");
        assert_eq!((socket.protocols.as_slice(), socket.options.nodelay), (&[][..], None), "{address}");
        assert!(plan.listeners.is_empty() && plan.sockets().eq([socket]));
    }
}

#[test]
fn forward_addresses_are_normalized() {
    let shown =
        |address: &str| plan(&format!("cmd = ['x']\n{}", forward(address))).proxies[0].forward.to_string();
    assert_eq!(shown("tcp://127.0.0.1:3000"), "127.0.0.1:3000");
    assert_eq!(shown("[0:0::1]:3000"), "[::1]:3000");
    assert_eq!(shown("unix:a.sock"), "unix://a.sock");
    assert_eq!(shown("/run/a.sock"), "unix:///run/a.sock");
    assert_eq!(shown("@a"), "unix://@a");
}

#[test]
fn printed_proxies_round_trip() {
    // Contract: X1
    let text = format!(
        "cmd = ['x']\n{}{}{}[[proxy]]\nlisten = 'systemd:web'\nforward = 'unix:@a'\n[healthcheck.http]\nurl = 'http://[::1]:1/'",
        proxy(
            "/run/a.sock",
            "mode = '0660'\nowner = 'www-data'\ngroup = '33'\nbacklog = 16\nsend_proxy_protocol = 'v2'\ndrain = '0s'"
        ),
        proxy(
            "[::]:80",
            "v6only = false\nreuseport = true\nprotocol = 'http'\nforwarded = 'off'\naccept_proxy_protocol = true\npool = 8"
        ),
        proxy("127.0.0.1:9000", "protocol = 'fastcgi'"),
    );
    let first = plan(&text);
    assert_eq!(first.proxies[0].send_proxy_protocol, Some(Header::V2));
    assert_eq!((first.proxies[1].forwarded, first.proxies[1].pool), (Forwarded::Off, 8));
    let printed = first.to_string();
    assert_eq!(plan(&printed), first, "{printed}");
}

#[test]
fn a_path_alone_is_asked_of_the_address_that_the_proxy_forwards_to() {
    let url = |text: &str| match read(&format!("cmd = ['x']\n[healthcheck.http]\nurl = '/up?a=b'\n{text}")) {
        Ok(plan) => {
            assert_eq!(super::plan(&plan.to_string()), plan);
            let Health::Http { request, .. } = plan.health else { panic!("{:?}", plan.health) };
            assert_eq!(request.path, "/up?a=b");
            request.url
        }
        Err(errors) => errors.to_string(),
    };
    assert_eq!(url(&proxy("/a", "")), "http://127.0.0.1:3000/up?a=b");
    assert_eq!(url(&forward("/run/b.sock")), "unix:///run/b.sock:/up?a=b");
    assert_eq!(url(&(proxy("/a", "") + &proxy("/b", ""))), "http://127.0.0.1:3000/up?a=b");
    let refused = [
        String::new(),
        chain(&[("/a", "127.0.0.1:1"), ("/b", "127.0.0.1:2")]),
        proxy("/a", "protocol = 'fastcgi'"),
        // No second error about the path.
        proxy("localhost:80", ""),
    ];
    insta::assert_snapshot!("path_alone", refused.map(|text| url(&text)).join("\n\n"));
}
