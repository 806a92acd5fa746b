//! `[[listen]]`: the sockets that psflip opens once and that the child of every generation inherits.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use toml::de::DeValue;

use super::build::misspelled;
use super::error::{Error, any_of, quoted};
use super::plan::{Endpoint, Health};
use super::reader::{Node, Reader, Section, a};
use super::scalar::{Refused, refuse, refuse_help};
use super::{address, keys};

/// The keys of a `[[listen]]`.
pub(super) const LISTEN: &[&str] = keys::LISTEN.names;

/// A limit that is far above usual configurations, and low enough for every hand-over: each socket is one
/// message in a queue.
const MOST: usize = 64;

/// One `[[listen]]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address it listens on. No two listeners of a configuration have the same.
    pub address: ListenAddress,
    /// Its name in `LISTEN_FDNAMES`. Not empty, at most 255 characters, no `:` and no control characters.
    pub name: String,
    /// How psflip passes the socket to the child; never empty, no duplicates.
    pub protocols: Vec<Protocol>,
    /// How the socket is configured; all defaults for [`ListenAddress::Systemd`].
    pub options: Options,
}

/// `listen.address`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ListenAddress {
    /// `tcp://IP:PORT`. Port 0: the kernel chooses a port, and all generations share it.
    Tcp(SocketAddr),
    /// `udp://IP:PORT`.
    Udp(SocketAddr),
    /// `unix://PATH`, a stream socket; a leading `@` means the abstract namespace (unix(7)). Fits into
    /// sun_path.
    Unix(PathBuf),
    /// `unixgram://PATH`, a datagram socket; the path is as in [`ListenAddress::Unix`].
    Unixgram(PathBuf),
    /// `unixpacket://PATH`, a sequential-packet socket; the path is as in [`ListenAddress::Unix`].
    Unixpacket(PathBuf),
    /// `systemd:NAME`: the socket that the service manager passed to psflip under this name
    /// (sd_listen_fds(3)).
    Systemd(String),
}

/// `listen.as`: how psflip passes sockets to the child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Protocol {
    /// `LISTEN_FDS`, `LISTEN_PID`, `LISTEN_FDNAMES`, descriptors from 3 on (sd_listen_fds(3)).
    ListenFds,
    /// Descriptor 0, as required by FastCGI's specification (2.2) and inetd's `wait`.
    Stdin,
    /// `SERVER_STARTER_PORT`, of Perl's Server::Starter.
    ServerStarter,
    /// `EINHORN_FD_COUNT`, `EINHORN_FD_n`, of Ruby's einhorn.
    Einhorn,
}

/// How a socket is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The permissions of a Unix socket's file; `None`: what the umask leaves of 0777.
    pub mode: Option<u32>,
    /// Its owner, a name or a number; `None`: psflip's user.
    pub owner: Option<String>,
    /// Its group, a name or a number; `None`: psflip's group.
    pub group: Option<String>,
    /// How many connections may wait to be accepted (listen(2)); the kernel limits it to net.core.somaxconn.
    pub backlog: u32,
    /// SO_REUSEPORT: sockets of other processes may listen on the same port.
    pub reuseport: bool,
    /// IPV6_V6ONLY; `None`: the kernel's default.
    pub v6only: Option<bool>,
    /// TCP_NODELAY, which accepted connections inherit; `None`: left to the child.
    pub nodelay: Option<bool>,
    /// O_NONBLOCK; `None`: a new socket is blocking, and the child may change that. Never set for an
    /// activated socket.
    pub nonblock: Option<bool>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            mode: None,
            owner: None,
            group: None,
            backlog: 4096,
            reuseport: false,
            v6only: None,
            nodelay: None,
            nonblock: None,
        }
    }
}

const PROTOCOLS: &[(&str, Protocol)] = &[
    ("listen_fds", Protocol::ListenFds),
    ("stdin", Protocol::Stdin),
    ("server_starter", Protocol::ServerStarter),
    ("einhorn", Protocol::Einhorn),
];

impl Protocol {
    /// The value in the configuration.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        PROTOCOLS.iter().find(|(_, protocol)| *protocol == self).map_or("", |(name, _)| name)
    }
}

impl ListenAddress {
    /// The path of a Unix socket of any type; a leading `@` means the abstract namespace.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) | Self::Unixgram(path) | Self::Unixpacket(path) => Some(path),
            Self::Tcp(_) | Self::Udp(_) | Self::Systemd(_) => None,
        }
    }

    /// Whether psflip calls listen(2) on it: it has a queue of connections, not of datagrams.
    #[must_use]
    pub fn is_connected_to(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_) | Self::Unixpacket(_))
    }

    /// Whether it has an IP address.
    #[must_use]
    pub fn is_internet(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Udp(_))
    }
}

/// The address as written in a configuration. Equal addresses have equal texts: generations identify a socket
/// by this text.
impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp://{address}"),
            Self::Udp(address) => write!(f, "udp://{address}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Unixgram(path) => write!(f, "unixgram://{}", path.display()),
            Self::Unixpacket(path) => write!(f, "unixpacket://{}", path.display()),
            Self::Systemd(name) => write!(f, "systemd:{name}"),
        }
    }
}

/// Reads all of `[[listen]]`.
pub(super) fn listeners(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<Listener> {
    let items = match node.get_ref() {
        DeValue::Array(items) => items,
        other => {
            let help = if other.is_table() { "write `[[listen]]`, once for every socket" } else { EXAMPLE };
            reader.error(
                Error::at(node.span(), format!("`listen` must be an array of tables, not {}", a(node)))
                    .help(help),
            );
            return Vec::new();
        }
    };
    if items.len() > MOST {
        reader.error(Error::at(
            node.span(),
            format!("{} listeners are too many: at most {MOST} are allowed", items.len()),
        ));
        return Vec::new();
    }
    let mut listeners: Vec<Listener> = Vec::new();
    for item in items.iter() {
        let DeValue::Table(table) = item.get_ref() else {
            reader.error(
                Error::at(item.span(), format!("a listener must be a table, not {}", a(item))).help(EXAMPLE),
            );
            continue;
        };
        let section = Section::new("[[listen]]", table);
        let Some(listener) = listener(reader, &section, item) else { continue };
        let address = &listener.address;
        if listeners.iter().any(|other| other.address == *address) {
            reader.error(
                Error::at(item.span(), format!("two listeners for {}", quoted(&address.to_string())))
                    .help("keep one; `as` takes several protocols: `as = [\"listen_fds\", \"stdin\"]`"),
            );
            continue;
        }
        let path = address.unix_path();
        if let Some(other) =
            listeners.iter().find(|other| path.is_some() && other.address.unix_path() == path)
        {
            let (one, other) = (quoted(&other.address.to_string()), quoted(&address.to_string()));
            reader.error(
                Error::at(item.span(), format!("two sockets at one path: {one} and {other}"))
                    .help("a path can have one socket, of one type: give each a path of its own"),
            );
            continue;
        }
        let is_stdin = |listener: &Listener| listener.protocols.contains(&Protocol::Stdin);
        if is_stdin(&listener) && listeners.iter().any(is_stdin) {
            reader.error(
                Error::at(item.span(), "two listeners with `as = \"stdin\"`")
                    .help("there is only one descriptor 0"),
            );
        }
        listeners.push(listener);
    }
    listeners
}

const EXAMPLE: &str =
    "write `[[listen]]` on a line of its own and below it for example `address = \"tcp://0.0.0.0:8080\"`";

fn listener(reader: &mut Reader<'_>, section: &Section<'_>, node: Node<'_>) -> Option<Listener> {
    let mut address = None;
    let mut name = None;
    let mut protocols = vec![Protocol::ListenFds];
    let mut options = Options::default();
    for (key, span, node) in &section.entries {
        match *key {
            "address" => address = Some(reader.parsed("address", node, parse_address)),
            "name" => name = reader.parsed("name", node, parse_name),
            "as" => protocols = reader_protocols(reader, node).unwrap_or(protocols),
            "mode" => options.mode = mode(reader, node),
            "owner" => options.owner = reader.parsed("owner", node, parse_account),
            "group" => options.group = reader.parsed("group", node, parse_account),
            "backlog" => {
                options.backlog = reader.whole("backlog", node, 1..=65535).unwrap_or(options.backlog);
            }
            "reuseport" => options.reuseport = reader.boolean("reuseport", node).unwrap_or_default(),
            "v6only" => options.v6only = reader.boolean("v6only", node),
            "nodelay" => options.nodelay = reader.boolean("nodelay", node),
            "nonblock" => options.nonblock = reader.boolean("nonblock", node),
            _ => reader.unknown(section, key, span, LISTEN),
        }
    }
    let Some(address) = address else {
        if misspelled(section, "address", LISTEN) {
            return None;
        }
        reader.error(Error::at(node.span(), "`address` is missing in `[[listen]]`").help(
            "where to listen: `address = \"tcp://0.0.0.0:8080\"` or `address = \"unix:///run/app/app.sock\"`",
        ));
        return None;
    };
    let address = address?;
    refuse_what_does_not_apply(reader, section, &address, &protocols);
    let name = name.unwrap_or_else(|| match &address {
        ListenAddress::Systemd(name) => name.clone(),
        // The name that sd_listen_fds_with_names(3) gives descriptors without a name.
        _ => "unknown".to_owned(),
    });
    Some(Listener { address, name, protocols, options })
}

/// An option that has no effect for the address is an error: the user expects an effect.
fn refuse_what_does_not_apply(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    address: &ListenAddress,
    protocols: &[Protocol],
) {
    let abstract_name = address.unix_path().is_some_and(|path| path.to_string_lossy().starts_with('@'));
    let (allowed, kind): (&[&str], _) = match address {
        ListenAddress::Tcp(SocketAddr::V6(_)) => {
            (&["backlog", "reuseport", "nodelay", "nonblock", "v6only"], "an IPv6 TCP socket")
        }
        ListenAddress::Tcp(SocketAddr::V4(_)) => {
            (&["backlog", "reuseport", "nodelay", "nonblock"], "an IPv4 TCP socket")
        }
        ListenAddress::Udp(SocketAddr::V6(_)) => (&["reuseport", "nonblock", "v6only"], "an IPv6 UDP socket"),
        ListenAddress::Udp(SocketAddr::V4(_)) => (&["reuseport", "nonblock"], "an IPv4 UDP socket"),
        ListenAddress::Unix(_) if abstract_name => {
            (&["backlog", "nonblock"], "an abstract Unix socket, which has no file")
        }
        ListenAddress::Unix(_) => (&["backlog", "nonblock", "mode", "owner", "group"], "a Unix socket"),
        ListenAddress::Unixgram(_) if abstract_name => {
            (&["nonblock"], "an abstract Unix datagram socket, which has no file and no connections")
        }
        ListenAddress::Unixgram(_) => {
            (&["nonblock", "mode", "owner", "group"], "a Unix datagram socket, which has no connections")
        }
        ListenAddress::Unixpacket(_) if abstract_name => {
            (&["backlog", "nonblock"], "an abstract Unix socket, which has no file")
        }
        ListenAddress::Unixpacket(_) => {
            (&["backlog", "nonblock", "mode", "owner", "group"], "a Unix packet socket")
        }
        ListenAddress::Systemd(_) => (&[], "a socket that the process that started psflip has set up"),
    };
    for (key, span, _) in &section.entries {
        if LISTEN.contains(key) && !["address", "name", "as"].contains(key) && !allowed.contains(key) {
            reader.error(Error::at(span.clone(), format!("`{key}` does not apply to {kind}")));
        }
    }
    let unknown = match address {
        ListenAddress::Udp(_) => Some("UDP sockets"),
        ListenAddress::Unixgram(_) => Some("Unix datagram sockets"),
        ListenAddress::Unixpacket(_) => Some("Unix packet sockets"),
        ListenAddress::Tcp(_) | ListenAddress::Unix(_) | ListenAddress::Systemd(_) => None,
    };
    if let Some(unknown) = unknown
        && protocols.contains(&Protocol::ServerStarter)
    {
        let span = section.entries.iter().find(|(key, ..)| *key == "as").map(|(_, span, _)| span.clone());
        reader.error(Error {
            message: format!("`server_starter` does not support {unknown}"),
            span,
            help: Some("use `as = \"listen_fds\"`".to_owned()),
        });
    }
}

/// Reads `tcp://IP:PORT`, `udp://IP:PORT`, `unix://PATH` and similar, a path, or `systemd:NAME`.
fn parse_address(text: &str) -> Result<ListenAddress, Refused> {
    if let Some(name) = text.strip_prefix("systemd:") {
        return parse_name(name).map(ListenAddress::Systemd);
    }
    let unix = |rest: &str| address::unix(&format!("unix://{}", rest.strip_prefix("//").unwrap_or(rest)));
    if let Some(rest) = text.strip_prefix("unixgram:") {
        return unix(rest).map(ListenAddress::Unixgram);
    }
    if let Some(rest) = text.strip_prefix("unixpacket:") {
        return unix(rest).map(ListenAddress::Unixpacket);
    }
    if text.starts_with("unix:") || text.starts_with(['/', '@', '.']) {
        return address::unix(text).map(ListenAddress::Unix);
    }
    let (scheme, rest) = text.split_once("://").unwrap_or(("tcp", text));
    match scheme {
        "tcp" => socket_address(rest).map(ListenAddress::Tcp),
        "udp" => socket_address(rest).map(ListenAddress::Udp),
        _ => refuse_help(
            format!("{} is no address to listen on", quoted(text)),
            "write `tcp://0.0.0.0:8080`, `udp://[::]:53`, `unix:///run/app/app.sock`, `unixgram://PATH`, `unixpacket://PATH` or `systemd:NAME`",
        ),
    }
}

/// An IP address and a port. Names are rejected: psflip queries no name server, and a name may have several
/// addresses.
fn socket_address(text: &str) -> Result<SocketAddr, Refused> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Ok(address);
    }
    let example = "write an IP address and a port: `0.0.0.0:8080` for all IPv4 addresses, `[::]:8080` for all, `127.0.0.1:8080` for this host";
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let Ok(port) = port.parse::<u16>() else {
        return refuse_help(format!("{} is no address to listen on", quoted(text)), example);
    };
    let suggest = |ip: IpAddr| format!("did you mean `{}`?", SocketAddr::new(ip, port));
    match host {
        "" | "*" => refuse_help(
            format!("{} does not say on which address to listen", quoted(text)),
            format!(
                "write `{}` for all IPv4 addresses, or `{}` for all",
                SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), port),
                SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port)
            ),
        ),
        "localhost" => refuse_help(
            format!("{} is a name, which may stand for several addresses", quoted(host)),
            suggest(Ipv4Addr::LOCALHOST.into()),
        ),
        _ => match host.parse::<Ipv6Addr>() {
            Ok(ip) => refuse_help(format!("{} is no address", quoted(text)), suggest(ip.into())),
            Err(_) => refuse_help(format!("{} is no address to listen on", quoted(text)), example),
        },
    }
}

/// A name as systemd allows it in `FileDescriptorName=` (systemd.socket(5)).
fn parse_name(text: &str) -> Result<String, Refused> {
    let bad = |c: char| c == ':' || c.is_control() || !c.is_ascii();
    if text.is_empty() {
        return refuse_help("the name is empty", "write for example `web`");
    }
    if text.len() > 255 {
        return refuse(format!("the name has {} characters, and at most 255 are allowed", text.len()));
    }
    if let Some(bad) = text.chars().find(|c| bad(*c)) {
        return refuse_help(
            format!(
                "the name {} has the character {} in it",
                quoted(text),
                quoted(&bad.escape_debug().to_string())
            ),
            "`LISTEN_FDNAMES` separates names by `:`: use printable ASCII without `:`",
        );
    }
    Ok(text.to_owned())
}

/// The name or number of a user or group. Whether it exists is checked when the socket is created.
fn parse_account(text: &str) -> Result<String, Refused> {
    if text.is_empty() || text.contains(['\0', ':', '\n']) {
        return refuse_help(format!("{} is no user or group", quoted(text)), "write a name or a number");
    }
    Ok(text.to_owned())
}

/// Permissions in octal, as a string: a bare `0660` is not valid TOML, and `660` would be another number.
fn mode(reader: &mut Reader<'_>, node: Node<'_>) -> Option<u32> {
    if let DeValue::Integer(number) = node.get_ref() {
        let written = number.as_str().to_owned();
        reader.error(
            Error::at(node.span(), "`mode` must be a string, not an integer")
                .help(format!("permissions are octal digits: did you mean `\"0{written}\"`?")),
        );
        return None;
    }
    reader.parsed("mode", node, |text| {
        let octal = (3..=4).contains(&text.len()) && text.bytes().all(|byte| (b'0'..=b'7').contains(&byte));
        match u32::from_str_radix(text, 8) {
            Ok(mode) if octal && mode <= 0o777 => Ok(mode),
            _ => refuse_help(
                format!("{} are no permissions", quoted(text)),
                "write octal digits from `0000` to `0777`, for example `0660`",
            ),
        }
    })
}

fn reader_protocols(reader: &mut Reader<'_>, node: Node<'_>) -> Option<Vec<Protocol>> {
    match node.get_ref() {
        DeValue::Array(items) => {
            if items.is_empty() {
                let names: Vec<&str> = PROTOCOLS.iter().map(|(name, _)| *name).collect();
                reader.error(
                    Error::at(node.span(), "`as` is empty").help(format!("it can have {}", any_of(&names))),
                );
                return None;
            }
            let mut protocols = Vec::new();
            for item in items.iter() {
                let protocol = reader.word("as", item, PROTOCOLS)?;
                if !protocols.contains(&protocol) {
                    protocols.push(protocol);
                }
            }
            Some(protocols)
        }
        _ => reader.word("as", node, PROTOCOLS).map(|protocol| vec![protocol]),
    }
}

/// The listener that a connection of this health check would reach, if any. While a new child starts, the old
/// child accepts on it as well, so a success would prove nothing about the new one. A Unix socket of another
/// type counts as well: a connection to it never succeeds.
#[must_use]
pub(super) fn shared_with<'l>(listeners: &'l [Listener], health: &Health) -> Option<&'l Listener> {
    let (tcp, unix): (&[SocketAddr], Option<&Path>) = match health {
        Health::Alive { .. } | Health::Command { .. } | Health::Docker { .. } | Health::Notify { .. } => {
            return None;
        }
        Health::Tcp { addresses, .. } => (addresses, None),
        Health::Unix { path, .. } => (&[], Some(path)),
        Health::Http { request, .. } => parts(&request.target),
        Health::Fcgi { request, .. } => parts(&request.target),
    };
    listeners.iter().find(|listener| match &listener.address {
        ListenAddress::Tcp(bound) => tcp.iter().any(|address| reaches(*address, *bound)),
        ListenAddress::Udp(_) | ListenAddress::Systemd(_) => false,
        address => unix.is_some() && address.unix_path() == unix,
    })
}

fn parts(target: &Endpoint) -> (&[SocketAddr], Option<&Path>) {
    match target {
        Endpoint::Tcp(addresses) => (addresses, None),
        Endpoint::Unix(path) => (&[], Some(path)),
    }
}

/// Whether a socket bound to `bound` accepts connections to `address`.
fn reaches(address: SocketAddr, bound: SocketAddr) -> bool {
    let everywhere = bound.ip().is_unspecified() && (bound.is_ipv6() || address.is_ipv4());
    address.port() == bound.port() && (everywhere || address.ip() == bound.ip())
}
