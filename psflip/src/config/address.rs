//! Parses the addresses of health checks: TCP, Unix sockets, URLs, status codes. No name is ever resolved.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;

use super::error::quoted;
use super::plan::Endpoint;
use super::scalar::{Refused, refuse, refuse_help};

/// Reads `127.0.0.1:80`, `[::1]:80`, `localhost:80` and `:80` (the same as `localhost:80`), with or without
/// `tcp://`.
pub(super) fn tcp(text: &str) -> Result<Vec<SocketAddr>, Refused> {
    let rest = text.strip_prefix("tcp://").unwrap_or(text);
    if rest.is_empty() {
        return refuse_help("the address is empty", "write for example `127.0.0.1:8080`");
    }
    if rest.contains("://") || rest.starts_with('/') || rest.starts_with("unix:") {
        return refuse_help(
            format!("{} is not a TCP address", quoted(text)),
            "write for example `127.0.0.1:8080`; for a Unix socket use `[healthcheck.unix]`, for a URL `[healthcheck.http]`",
        );
    }
    authority(rest, None)
}

/// Reads `host:port`; `default` is the port if there is none.
fn authority(text: &str, default: Option<u16>) -> Result<Vec<SocketAddr>, Refused> {
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (text, None),
    };
    if host.contains(':') && !(host.starts_with('[') && host.ends_with(']')) {
        return refuse_help(
            format!("{} is not an address", quoted(text)),
            "write an IPv6 address in brackets: `[::1]:8080`",
        );
    }
    let port = match (port, default) {
        (None, None) => {
            return refuse_help(
                format!("the address {} has no port", quoted(text)),
                format!("write for example `{}:8080`", if host.is_empty() { "127.0.0.1" } else { host }),
            );
        }
        (None, Some(port)) => port,
        (Some(port), _) => match port.parse::<u16>() {
            Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => number,
            _ => {
                return refuse_help(
                    format!("{} is not a port", quoted(port)),
                    "a port is a number from 1 to 65535",
                );
            }
        },
    };
    let ips: Vec<IpAddr> = if host.is_empty() || host.eq_ignore_ascii_case("localhost") {
        vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]
    } else if let Some(inner) = host.strip_prefix('[') {
        let inner = inner.strip_suffix(']').unwrap_or(inner);
        match inner.parse::<Ipv6Addr>() {
            Ok(ip) => vec![ip.into()],
            Err(_) => return refuse(format!("{} is not an IPv6 address", quoted(inner))),
        }
    } else if let Ok(ip) = host.parse::<Ipv4Addr>() {
        vec![ip.into()]
    } else {
        return refuse_help(
            format!("the host {} is neither an IP address nor `localhost`", quoted(host)),
            "psflip resolves no names, because a resolver can block for seconds; write the IP address",
        );
    };
    Ok(ips.into_iter().map(|ip| SocketAddr::new(ip, port)).collect())
}

/// The length of `sun_path` (unix(7)), including its closing NUL.
const SUN_PATH: usize = 108;

/// Reads a path, `@name` for the abstract namespace, or either after `unix:` or `unix://`.
pub(super) fn unix(text: &str) -> Result<PathBuf, Refused> {
    let path = match text.strip_prefix("unix:") {
        Some(rest) => rest.strip_prefix("//").unwrap_or(rest),
        None if text.contains("://") || text.starts_with("tcp:") => {
            return refuse_help(
                format!("{} is not a path of a Unix socket", quoted(text)),
                "write for example `/run/app/app.sock`; for TCP use `[healthcheck.tcp]`",
            );
        }
        None => text,
    };
    if path.is_empty() {
        return refuse_help("the path of the socket is empty", "write for example `/run/app/app.sock`");
    }
    // The `@` stands for the leading NUL of an abstract name, which needs no closing NUL.
    let (longest, empty) = if path.starts_with('@') { (SUN_PATH, "@") } else { (SUN_PATH - 1, "") };
    if path == empty {
        return refuse_help("the abstract socket `@` has no name", "write for example `@app`");
    }
    if path.ends_with('/') {
        return refuse(format!("{} is a directory, not a socket", quoted(path)));
    }
    if path.len() > longest {
        return refuse_help(
            format!("the path of the socket {} has {} bytes", quoted(path), path.len()),
            format!(
                "the kernel allows at most {longest}; a path relative to psflip's directory may be shorter"
            ),
        );
    }
    Ok(PathBuf::from(path))
}

/// Reads the address of a FastCGI server: `unix:///path`, `/path`, `@name`, or `host:port` with or without
/// `tcp://`.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, Refused> {
    if text.starts_with("unix:") || text.starts_with(['/', '@']) {
        return unix(text).map(Endpoint::Unix);
    }
    let rest = text.strip_prefix("tcp://").unwrap_or(text);
    let example = "write for example `unix:///run/app/app.sock` or `127.0.0.1:9000`";
    if rest.is_empty() {
        return refuse_help("the address is empty", example);
    }
    if rest.contains('/') {
        return refuse_help(format!("{} is not an address of a FastCGI server", quoted(text)), example);
    }
    authority(rest, None).map(Endpoint::Tcp)
}

/// Reads the address of a container engine: a Unix socket, as [`unix`] does.
pub(super) fn engine(text: &str) -> Result<PathBuf, Refused> {
    if text.starts_with("tcp:") || (text.contains("://") && !text.starts_with("unix:")) {
        return refuse_help(
            format!("{} is not the Unix socket of an engine", quoted(text)),
            "psflip connects to the Engine over its Unix socket only: `unix:///var/run/docker.sock`",
        );
    }
    unix(text)
}

/// The parts of a URL.
pub(super) struct Url {
    /// Where to connect.
    pub(super) target: Endpoint,
    /// The `Host` header that goes with it.
    pub(super) host: String,
    /// Path and query; begins with `/`.
    pub(super) path: String,
}

/// Reads `http://host:port/path?query` or `unix:///run/app.sock:/path`.
pub(super) fn url(text: &str) -> Result<Url, Refused> {
    let example = "write for example `http://127.0.0.1:8080/up` or `unix:///run/app.sock:/up`";
    if text.is_empty() {
        return refuse_help("the URL is empty", example);
    }
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    if lower.starts_with("https://") {
        return refuse_help(
            format!("{} needs TLS, which psflip does not speak", quoted(text)),
            "probe plain HTTP, or let curl do it: `[healthcheck.command]` with `cmd = [\"curl\", \"-fsS\", \"https://…\"]`",
        );
    }
    let (target, host, path) = if lower.starts_with("http://") {
        let rest = &text["http://".len()..];
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(at);
        if host.is_empty() {
            return refuse_help(format!("the URL {} has no host", quoted(text)), example);
        }
        if host.contains('@') {
            return refuse_help(
                format!("the URL {} has a user name in it", quoted(text)),
                "psflip sends no credentials; let curl do it: `[healthcheck.command]`",
            );
        }
        // `:8080` means this host. Servers expect a name in `Host`.
        let name = if host.starts_with(':') { format!("localhost{host}") } else { host.to_owned() };
        (Endpoint::Tcp(authority(host, Some(80))?), name, path)
    } else if let Some(rest) = text.strip_prefix("unix:") {
        let rest = rest.strip_prefix("//").unwrap_or(rest);
        let (socket, path) = rest.find(":/").map_or((rest, ""), |at| (&rest[..at], &rest[at + 1..]));
        (Endpoint::Unix(unix(socket)?), "localhost".to_owned(), path)
    } else {
        return refuse_help(format!("{} is not a URL that psflip can probe", quoted(text)), example);
    };
    if path.contains('#') {
        return refuse_help(
            format!("the URL {} has a fragment (`#`), which is never sent to a server", quoted(text)),
            "leave it out, or write `%23` for the character itself",
        );
    }
    if let Some(bad) = path.chars().find(|c| !c.is_ascii_graphic()) {
        return refuse_help(
            format!("the URL has the character {} in it", quoted(&bad.escape_debug().to_string())),
            format!("write it percent-encoded: `{}`", percent(bad)),
        );
    }
    let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
    Ok(Url { target, host, path })
}

/// A character in percent-encoding (RFC 3986, 2.1).
fn percent(c: char) -> String {
    let mut bytes = [0; 4];
    c.encode_utf8(&mut bytes).bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// Reads `200`, `200-399` or `200,204,300-399`.
pub(super) fn status(text: &str) -> Result<Vec<RangeInclusive<u16>>, Refused> {
    let example = "write codes from 100 to 599 and ranges of them: `200`, `200-399` or `200,204,300-399`";
    let code = |part: &str| {
        let part = part.trim();
        let digits = part.len() == 3 && part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u16>().ok().filter(|code| digits && (100..=599).contains(code))
    };
    text.split(',')
        .map(|part| {
            let (from, to) = part.split_once('-').unwrap_or((part, part));
            match (code(from), code(to)) {
                (Some(from), Some(to)) if from <= to => Ok(from..=to),
                (Some(from), Some(to)) => refuse_help(
                    format!("the range {} of status codes is empty", quoted(part.trim())),
                    format!("did you mean `{to}-{from}`?"),
                ),
                _ => refuse_help(format!("{} is not an HTTP status", quoted(part.trim())), example),
            }
        })
        .collect()
}
