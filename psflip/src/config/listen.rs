//! `[[listen]]`: the sockets that psflip opens once and that the child of every generation inherits.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use toml::de::DeValue;

use super::address;
use super::error::{Error, quoted};
use super::keys::Kind;
use super::listener::{ListenAddress, Listener, Options, Protocol};
use super::reader::{Reader, a};
use super::scalar::{Refused, refuse, refuse_help};
use super::section::{Section, entries};

/// How messages call the items of an array of tables.
pub(super) struct Items {
    /// The key of the array.
    pub(super) key: &'static str,
    /// One item, with its article, and several.
    pub(super) one: &'static str,
    pub(super) many: &'static str,
    /// The help for a key that is one table: how often to write the header.
    pub(super) header: &'static str,
    /// How to write an item.
    pub(super) example: &'static str,
}

const LISTENERS: Items = Items {
    key: "listen",
    one: "a listener",
    many: "listeners",
    header: "write `[[listen]]`, once for every socket",
    example: "write `[[listen]]` on a line of its own and below it for example `address = \"tcp://0.0.0.0:8080\"`",
};

/// The tables of an array of tables; unknown keys in them are errors. `None`: there is no valid array.
pub(super) fn tables<'t>(
    reader: &mut Reader<'_>,
    file: &Section<'t>,
    items: &Items,
) -> Option<Vec<Section<'t>>> {
    let &Items { key, one, many, header, example } = items;
    let node = file.find(key)?;
    let Kind::Many(table, most) = file.key(key).kind else { return None };
    let found = match node.get_ref() {
        DeValue::Array(found) => found,
        other => {
            let help = if other.is_table() { header } else { example };
            let message = format!("`{key}` must be an array of tables, not {}", a(node));
            reader.error(Error::at(node.span(), message).help(help));
            return None;
        }
    };
    if found.len() > most as usize {
        let message = format!("{} {many} are too many: at most {most} are allowed", found.len());
        reader.error(Error::at(node.span(), message));
        return None;
    }
    let mut sections = Vec::new();
    for item in found.iter() {
        let DeValue::Table(inner) = item.get_ref() else {
            let message = format!("{one} must be a table, not {}", a(item));
            reader.error(Error::at(item.span(), message).help(example));
            continue;
        };
        let section = Section { table, entries: entries(inner), span: Some(item.span()) };
        reader.refuse_unknown(&section);
        sections.push(section);
    }
    Some(sections)
}

/// Reads all of `[[listen]]`.
pub(super) fn listeners(reader: &mut Reader<'_>, file: &Section<'_>) -> Vec<Listener> {
    let mut listeners: Vec<Listener> = Vec::new();
    for section in tables(reader, file, &LISTENERS).unwrap_or_default() {
        let span = section.span.clone().unwrap_or_default();
        let Some(listener) = listener(reader, &section) else { continue };
        let address = &listener.address;
        if listeners.iter().any(|other| other.address == *address) {
            reader.error(
                Error::at(span, format!("two listeners for {}", quoted(&address.to_string())))
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
                Error::at(span, format!("two sockets at one path: {one} and {other}"))
                    .help("a path can have one socket, of one type: give each a path of its own"),
            );
            continue;
        }
        let is_stdin = |listener: &Listener| listener.protocols.contains(&Protocol::Stdin);
        if is_stdin(&listener) && listeners.iter().any(is_stdin) {
            reader.error(
                Error::at(span, "two listeners with `as = \"stdin\"`").help("there is only one descriptor 0"),
            );
        } else {
            refuse_shared_number(reader, &section, &listener, &listeners);
        }
        refuse_shared_key(reader, &section, &listener, &listeners);
        listeners.push(listener);
    }
    listeners
}

const ADDRESS_HELP: &str =
    "where to listen: `address = \"tcp://0.0.0.0:8080\"` or `address = \"unix:///run/app/app.sock\"`";

fn listener(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<Listener> {
    reader.require(section, "address", ADDRESS_HELP);
    let address = reader.parsed(section, "address", parse_address);
    let name = reader.parsed(section, "name", parse_name);
    let protocols = reader.words(section, "as");
    let fd = reader.optional_number(section, "fd").and_then(|fd| u16::try_from(fd).ok());
    let key = reader.parsed(section, "key", parse_key);
    let options = Options {
        mode: mode(reader, section),
        owner: reader.parsed(section, "owner", parse_account),
        group: reader.parsed(section, "group", parse_account),
        backlog: reader.number(section, "backlog"),
        reuseport: reader.boolean(section, "reuseport"),
        v6only: reader.optional_boolean(section, "v6only"),
        nodelay: reader.optional_boolean(section, "nodelay"),
        nonblock: reader.optional_boolean(section, "nonblock"),
    };
    let address = address?;
    refuse_what_does_not_apply(reader, section, &address, &["address", "name", "as", "fd", "key"]);
    refuse_protocols(reader, section, &address, &protocols);
    refuse_number(reader, section, &address, &protocols, fd);
    let name = name.unwrap_or_else(|| match &address {
        ListenAddress::Systemd(name) => name.clone(),
        // The name that sd_listen_fds_with_names(3) gives descriptors without a name.
        _ => "unknown".to_owned(),
    });
    Some(Listener { address, name, protocols, fd, key, options })
}

/// An option that has no effect for the address is an error: the user expects an effect.
/// `own` are the keys that are no options of a socket.
pub(super) fn refuse_what_does_not_apply(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    address: &ListenAddress,
    own: &[&str],
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
        if section.table.key(key).is_some() && !own.contains(key) && !allowed.contains(key) {
            reader.error(Error::at(span.clone(), format!("`{key}` does not apply to {kind}")));
        }
    }
}

/// Not every type of socket can be passed by Server::Starter's protocol.
fn refuse_protocols(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    address: &ListenAddress,
    protocols: &[Protocol],
) {
    let unknown = match address {
        ListenAddress::Unixgram(_) => Some("Unix datagram sockets"),
        ListenAddress::Unixpacket(_) => Some("Unix packet sockets"),
        ListenAddress::Tcp(_)
        | ListenAddress::Udp(_)
        | ListenAddress::Unix(_)
        | ListenAddress::Systemd(_) => None,
    };
    if let Some(unknown) = unknown
        && protocols.contains(&Protocol::ServerStarter)
    {
        reader.error(Error {
            message: format!("`server_starter` does not support {unknown}"),
            span: place(section, "as"),
            help: Some("use `as = \"listen_fds\"`".to_owned()),
        });
    }
    if let Some(span) = place(section, "key")
        && !protocols.contains(&Protocol::ServerStarter)
    {
        reader.error(
            Error::at(span, "`key` is only for `as = \"server_starter\"`")
                .help("for `LISTEN_FDNAMES` of `listen_fds` set `name`"),
        );
    }
}

/// The place of a key in the file.
fn place(section: &Section<'_>, name: &str) -> Option<Range<usize>> {
    section.entries.iter().find(|(key, ..)| *key == name).map(|(_, span, _)| span.clone())
}

/// A descriptor number that the socket can't have.
fn refuse_number(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    address: &ListenAddress,
    protocols: &[Protocol],
    fd: Option<u16>,
) {
    let (Some(fd), Some(span)) = (fd, place(section, "fd")) else { return };
    let has = |protocol| protocols.contains(&protocol);
    let (message, help) = match fd {
        1 | 2 => (
            format!("descriptor {fd} is the child's standard {}", ["output", "error"][usize::from(fd - 1)]),
            "give 0, or a number from 3 on",
        ),
        _ if matches!(address, ListenAddress::Systemd(_)) => (
            "`fd` does not apply to `systemd:NAME`, which may stand for several sockets".to_owned(),
            "leave `fd` out: the child gets the numbers in variables",
        ),
        _ if has(Protocol::ListenFds) => (
            "`listen_fds` numbers its sockets from 3 on, so `fd` can't be set".to_owned(),
            "write `as = \"server_starter\"`, or leave `fd` out",
        ),
        1.. if has(Protocol::Stdin) => (
            format!("`as = \"stdin\"` is descriptor 0, so `fd` can't be {fd}"),
            "leave `fd` or `as` out: a socket has one number",
        ),
        _ => return,
    };
    reader.error(Error::at(span, message).help(help));
}

/// Two listeners with one descriptor number, or with numbers that `listen_fds` needs.
fn refuse_shared_number(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    listener: &Listener,
    others: &[Listener],
) {
    let number =
        |listener: &Listener| listener.protocols.contains(&Protocol::Stdin).then_some(0).or(listener.fd);
    let span = || place(section, "fd").or_else(|| section.span.clone()).unwrap_or_default();
    if number(listener).is_some_and(|fd| others.iter().any(|other| number(other) == Some(fd))) {
        let fd = number(listener).unwrap_or_default();
        reader.error(
            Error::at(span(), format!("two listeners for descriptor {fd}"))
                .help("give each a number of its own; `as = \"stdin\"` is descriptor 0"),
        );
    }
    let is_systemds = |listener: &Listener| listener.protocols.contains(&Protocol::ListenFds);
    let is_numbered = |listener: &Listener| listener.fd.is_some_and(|fd| fd > 0);
    if is_numbered(listener) && others.iter().any(is_systemds)
        || is_systemds(listener) && others.iter().any(is_numbered)
    {
        reader.error(
            Error::at(span(), "`fd` of one listener and `listen_fds` of another may need the same number")
                .help("`listen_fds` numbers its sockets from 3 on: pass all of them in one way, or leave `fd` out"),
        );
    }
}

/// Two sockets with one key in `SERVER_STARTER_PORT`: a program finds only one of them.
fn refuse_shared_key(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    listener: &Listener,
    others: &[Listener],
) {
    let key = |listener: &Listener| {
        let key = listener.key.clone().or_else(|| match &listener.address {
            // The key has the port that the kernel chooses.
            ListenAddress::Tcp(address) | ListenAddress::Udp(address) => {
                (address.port() != 0).then(|| address.to_string())
            }
            ListenAddress::Unix(path) => Some(path.display().to_string()),
            ListenAddress::Unixgram(_) | ListenAddress::Unixpacket(_) | ListenAddress::Systemd(_) => None,
        });
        key.filter(|_| listener.protocols.contains(&Protocol::ServerStarter))
    };
    let Some(shared) =
        key(listener).filter(|own| others.iter().any(|other| key(other).as_ref() == Some(own)))
    else {
        return;
    };
    let span = place(section, "key").or_else(|| section.span.clone()).unwrap_or_default();
    reader.error(
        Error::at(span, format!("two listeners with the key {} in `SERVER_STARTER_PORT`", quoted(&shared)))
            .help("a program finds only one of them: give each a `key` of its own"),
    );
}

/// The key of a socket in `SERVER_STARTER_PORT`, whose entries are separated by `;`.
fn parse_key(text: &str) -> Result<String, Refused> {
    let allowed = |c: char| !c.is_control() && !matches!(c, '=' | ';');
    if !text.is_empty() && text.len() <= 255 && text.chars().all(allowed) {
        return Ok(text.to_owned());
    }
    refuse_help(
        format!("{} is no key for `SERVER_STARTER_PORT`", quoted(text)),
        "write at most 255 bytes without `=`, `;` and control characters: `8080`, `127.0.0.1:8080`",
    )
}

/// Reads `tcp://IP:PORT`, `udp://IP:PORT`, `unix://PATH` and similar, a path, or `systemd:NAME`.
pub(super) fn parse_address(text: &str) -> Result<ListenAddress, Refused> {
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
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, Refused> {
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
pub(super) fn parse_account(text: &str) -> Result<String, Refused> {
    if text.is_empty() || text.contains(['\0', ':', '\n']) {
        return refuse_help(format!("{} is no user or group", quoted(text)), "write a name or a number");
    }
    Ok(text.to_owned())
}

/// Permissions in octal, as a string: a bare `0660` is not valid TOML, and `660` would be another number.
pub(super) fn mode(reader: &mut Reader<'_>, section: &Section<'_>) -> Option<u32> {
    if let Some(node) = section.find("mode")
        && let DeValue::Integer(number) = node.get_ref()
    {
        let written = number.as_str().to_owned();
        reader.error(
            Error::at(node.span(), "`mode` must be a string, not an integer")
                .help(format!("permissions are octal digits: did you mean `\"0{written}\"`?")),
        );
        return None;
    }
    reader.parsed(section, "mode", |text| {
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
