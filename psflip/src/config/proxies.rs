//! `[[proxy]]`: the addresses at which psflip accepts connections for the child.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::address;
use super::error::{Error, quoted};
use super::listen::{self, Items};
use super::listener::{ListenAddress, Listener, Options};
use super::proxy::{Forward, Forwarded, Proxy, ProxyKind};
use super::reader::Reader;
use super::scalar::{Refused, refuse_help};
use super::section::Section;

const PROXIES: Items = Items {
    key: "proxy",
    one: "a proxy",
    many: "proxies",
    header: "write `[[proxy]]`, once for every address",
    example: "write `[[proxy]]` on a line of its own and below it for example `listen = \"tcp://0.0.0.0:8080\"` and `forward = \"127.0.0.1:{{ free_port('20000-29999') }}\"`",
};

const LISTEN_HELP: &str =
    "where clients connect: `listen = \"tcp://0.0.0.0:8080\"` or `listen = \"unix:///run/app/app.sock\"`";

const FORWARD_HELP: &str = "where the child of this generation listens: `forward = \"127.0.0.1:{{ free_port('20000-29999') }}\"` or `\"unix:///run/app/{{ blue_green() }}.sock\"`";

/// Keys that are no options of the socket.
const OWN: &[&str] = &[
    "listen",
    "forward",
    "protocol",
    "drain",
    "send_proxy_protocol",
    "accept_proxy_protocol",
    "forwarded",
    "pool",
];

/// Reads all of `[[proxy]]`; `listeners` are those of `[[listen]]`. `None`: some have an error.
pub(super) fn proxies(
    reader: &mut Reader<'_>,
    file: &Section<'_>,
    listeners: &[Listener],
) -> Option<Vec<Proxy>> {
    if file.find("proxy").is_none() {
        return Some(Vec::new());
    }
    let sections = listen::tables(reader, file, &PROXIES)?;
    let mut proxies: Vec<Proxy> = Vec::new();
    let mut spans = Vec::new();
    let count = sections.len();
    for section in sections {
        let Some(proxy) = proxy(reader, &section) else { continue };
        let span = section.span.clone().unwrap_or_default();
        let address = &proxy.socket.address;
        let is_same = |other: &&ListenAddress| {
            let path = address.unix_path();
            *other == address || path.is_some() && other.unix_path() == path
        };
        let shown = quoted(&address.to_string());
        if proxies.iter().map(|other| &other.socket.address).any(|other| is_same(&other)) {
            reader.error(
                Error::at(span, format!("two proxies for {shown}"))
                    .help("an address has one proxy, which forwards to one child: keep one"),
            );
        } else if listeners.iter().map(|listener| &listener.address).any(|other| is_same(&other)) {
            reader.error(
                Error::at(span, format!("{shown} is also the address of a `[[listen]]`"))
                    .help("the child accepts on the sockets of `[[listen]]`, and psflip on those of `[[proxy]]`: keep one of them"),
            );
        } else {
            if let Some(shared) = listeners.iter().find(|listener| is_reached(&proxy.forward, listener)) {
                let message = format!(
                    "the proxy for {shown} forwards to the shared listener {}",
                    quoted(&shared.address.to_string())
                );
                reader.error(Error::at(span.clone(), message).help(
                    "the children of both generations accept on it, so clients would reach the new one before it is healthy; \
                     forward to an address of the new child's own, or let clients connect to the listener",
                ));
            }
            proxies.push(proxy);
            spans.push(span);
        }
    }
    for (circle, span) in proxies.iter().zip(spans).enumerate().filter_map(|(index, (_, span))| {
        let circle = circle_from(&proxies, index)?;
        // Each circle is reported once, at its first proxy.
        circle.iter().all(|other| *other >= index).then_some((circle, span))
    }) {
        let addresses: Vec<String> =
            circle.iter().map(|index| quoted(&proxies[*index].socket.address.to_string())).collect();
        let message = match addresses.as_slice() {
            [only] => format!("the proxy for {only} forwards to itself"),
            [first, others @ ..] => {
                format!("the proxy for {first} forwards to {}, and that one back to it", others.join(", to "))
            }
            [] => continue,
        };
        reader.error(Error::at(span, message).help(FORWARD_HELP));
    }
    (proxies.len() == count).then_some(proxies)
}

fn proxy(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Proxy> {
    reader.require(section, "listen", LISTEN_HELP);
    reader.require(section, "forward", FORWARD_HELP);
    let address = reader.parsed(section, "listen", parse_listen);
    let forward = reader.parsed(section, "forward", parse_forward);
    let protocol = reader.word(section, "protocol").unwrap_or(ProxyKind::Tcp);
    let options = Options {
        mode: listen::mode(reader, section),
        owner: reader.parsed(section, "owner", listen::parse_account),
        group: reader.parsed(section, "group", listen::parse_account),
        backlog: reader.number(section, "backlog"),
        reuseport: reader.boolean(section, "reuseport"),
        v6only: reader.optional_boolean(section, "v6only"),
        nodelay: None,
        // The relays of all generations wait for connections on the same socket: one that loses the race for
        // a connection must not block in accept(2).
        nonblock: Some(true),
    };
    let drain = reader.duration(section, "drain");
    let send_proxy_protocol = reader.word(section, "send_proxy_protocol");
    let accept_proxy_protocol = reader.boolean(section, "accept_proxy_protocol");
    let forwarded = reader.word(section, "forwarded").unwrap_or(Forwarded::Append);
    let pool = reader.number(section, "pool");
    for (key, only, help) in [
        (
            "send_proxy_protocol",
            ProxyKind::Tcp,
            "leave it out; with `http` the child finds the client in `X-Forwarded-For` (`forwarded`)",
        ),
        ("forwarded", ProxyKind::Http, "set `protocol = \"http\"`, or leave it out"),
        (
            "pool",
            ProxyKind::Http,
            if protocol == ProxyKind::Fastcgi {
                "leave it out: servers of FastCGI, such as php-fpm, have a process for each open connection, also an idle one"
            } else {
                "set `protocol = \"http\"`, or leave it out: by `tcp` a connection belongs to one client"
            },
        ),
    ] {
        if protocol != only
            && let Some((_, span, _)) = section.entries.iter().find(|(name, ..)| *name == key)
        {
            let message = format!(
                "`{key}` is only for `protocol = \"{}\"`, and this proxy has `\"{}\"`",
                only.as_str(),
                protocol.as_str()
            );
            reader.error(Error::at(span.clone(), message).help(help));
        }
    }
    let address = address?;
    listen::refuse_what_does_not_apply(reader, section, &address, OWN);
    let socket =
        Listener { name: name(&address), address, protocols: Vec::new(), fd: None, key: None, options };
    Some(Proxy {
        socket,
        forward: forward?,
        protocol,
        drain,
        send_proxy_protocol,
        accept_proxy_protocol,
        forwarded,
        pool,
    })
}

/// The name of the socket. The child does not get it, but lists of descriptors show it (systemd's store).
fn name(address: &ListenAddress) -> String {
    if let ListenAddress::Systemd(name) = address {
        return name.clone();
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let mut name = String::from("proxy");
    for part in address.to_string().split(|c| !is_plain(c)).filter(|part| !part.is_empty()) {
        name.push('-');
        name.push_str(part);
    }
    name.truncate(255);
    name
}

/// An address of `[[listen]]` with connections, which all are streams of bytes.
fn parse_listen(text: &str) -> Result<ListenAddress, Refused> {
    if let Some((scheme, rest)) = text.split_once("://") {
        let rest = rest.trim_end_matches('/');
        match scheme {
            "http" | "fastcgi" => {
                return refuse_help(
                    format!("{} is no address to listen on: the protocol is a key of its own", quoted(text)),
                    format!("did you mean `listen = \"tcp://{rest}\"` with `protocol = \"{scheme}\"`?"),
                );
            }
            "https" => {
                return refuse_help(
                    format!("{} needs TLS, which psflip does not speak", quoted(text)),
                    "let nginx, HAProxy or a load balancer in front terminate TLS, and listen on `tcp://` for it",
                );
            }
            _ => {}
        }
    }
    match listen::parse_address(text)? {
        address @ (ListenAddress::Tcp(_) | ListenAddress::Unix(_) | ListenAddress::Systemd(_)) => Ok(address),
        ListenAddress::Udp(_) | ListenAddress::Unixgram(_) | ListenAddress::Unixpacket(_) => refuse_help(
            format!("{} is no stream socket, and a proxy forwards streams only", quoted(text)),
            "use `tcp://`, `unix://` or `systemd:NAME`; a child can receive datagrams by `[[listen]]`",
        ),
    }
}

/// Reads `IP:PORT`, with or without `tcp://`, and `unix://PATH`.
fn parse_forward(text: &str) -> Result<Forward, Refused> {
    if text.starts_with("unix:") || text.starts_with(['/', '@', '.']) {
        return address::unix(text).map(Forward::Unix);
    }
    let example = "write where the child listens: `127.0.0.1:3000` or `unix:///run/app/app.sock`";
    let rest = match text.split_once("://") {
        Some(("tcp", rest)) => rest,
        Some(("http" | "fastcgi", rest)) => {
            return refuse_help(
                format!("{} is no address to forward to", quoted(text)),
                format!(
                    "did you mean `{}`? What clients speak is set by `protocol`",
                    rest.trim_end_matches('/')
                ),
            );
        }
        Some(_) => return refuse_help(format!("{} is no address to forward to", quoted(text)), example),
        None => text,
    };
    if let Ok(address) = rest.parse::<SocketAddr>() {
        if address.port() == 0 {
            return refuse_help(
                format!("{} has port 0, on which nobody can listen", quoted(text)),
                "let psflip choose a free port and tell the child: `{{ free_port('20000-29999') }}`",
            );
        }
        if address.ip().is_unspecified() {
            let local = SocketAddr::new(loopback_of(address.ip()), address.port());
            return refuse_help(
                format!(
                    "{} stands for all addresses of this host, to which nobody can connect",
                    quoted(text)
                ),
                format!("did you mean `{local}`?"),
            );
        }
        return Ok(Forward::Tcp(address));
    }
    match rest.rsplit_once(':') {
        Some(("" | "localhost", port)) if port.parse::<u16>().is_ok_and(|port| port > 0) => refuse_help(
            format!("{} may stand for several addresses", quoted(text)),
            format!("did you mean `127.0.0.1:{port}`?"),
        ),
        _ => refuse_help(format!("{} is no address to forward to", quoted(text)), example),
    }
}

fn loopback_of(ip: IpAddr) -> IpAddr {
    if ip.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { std::net::Ipv6Addr::LOCALHOST.into() }
}

/// The proxies from `start` on, each forwarding to the next and the last to `start`.
fn circle_from(proxies: &[Proxy], start: usize) -> Option<Vec<usize>> {
    let mut circle = vec![start];
    let mut last = start;
    while circle.len() <= proxies.len() {
        let forward = &proxies[last].forward;
        last = proxies.iter().position(|proxy| is_reached(forward, &proxy.socket))?;
        if last == start {
            return Some(circle);
        }
        circle.push(last);
    }
    None
}

/// Whether a connection to `forward` reaches this socket.
pub(crate) fn is_reached(forward: &Forward, socket: &Listener) -> bool {
    match (forward, &socket.address) {
        (Forward::Tcp(to), ListenAddress::Tcp(bound)) => {
            // An address of another interface may be another host's: a container's, for example.
            let takes =
                to.is_ipv6() == bound.is_ipv6() || bound.is_ipv6() && socket.options.v6only != Some(true);
            let is_local = bound.ip().is_unspecified() && to.ip().is_loopback() && takes;
            to.port() == bound.port() && (is_local || to.ip() == bound.ip())
        }
        (Forward::Unix(path), address) => address.unix_path() == Some(path),
        (Forward::Tcp(_), _) => false,
    }
}
