//! What to request, and on which kind of connection: `--load`, `--kinds`.

use std::fmt;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

use serde::Serialize;

/// A server's address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Unix(path) => write!(f, "{}", path.display()),
        }
    }
}

/// How requests are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// HTTP/1.1: the Host header and the path with its query.
    Http { host: String, path: String },
    /// FastCGI: the path of the script.
    Fcgi { script: String },
}

/// A kind of request: what is open on the connection when the server stops differs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, clap::ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A connection for each request.
    New,
    /// One request after the other on a keep-alive connection.
    #[value(alias = "kept")]
    KeepAlive,
    /// A POST with a body, on a keep-alive connection.
    Post,
    /// A POST whose body arrives in two halves, 100 ms apart, on a new connection.
    PostHalf,
    /// An answer that takes long (events, a download), which must arrive completely.
    Stream,
    /// A WebSocket, with a ping every 50 ms.
    Websocket,
}

impl Kind {
    /// Its name, as `--kinds` takes it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::KeepAlive => "keep-alive",
            Self::Post => "post",
            Self::PostHalf => "post-half",
            Self::Stream => "stream",
            Self::Websocket => "websocket",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        let all = [Self::New, Self::KeepAlive, Self::Post, Self::PostHalf, Self::Stream, Self::Websocket];
        all.into_iter().find(|kind| kind.name() == name || (name == "kept" && *kind == Self::KeepAlive))
    }
}

/// A `--load`: a URL, and the kinds of its requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    /// The URL as the user wrote it.
    pub(crate) url: String,
    pub(crate) address: Address,
    pub(crate) protocol: Protocol,
    /// Empty: those of `--kinds`.
    pub(crate) kinds: Vec<Kind>,
}

/// Why a `--load` is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LoadError {
    #[error(
        "`{0}` is not a URL: write http://127.0.0.1:8000/path, http+unix:///run/app.sock:/path, ws://..., fcgi://... or fcgi+unix:///run/app.sock:/script"
    )]
    NoUrl(String),
    #[error("rehearse sends no TLS: request the address behind it, by http://")]
    Tls,
    #[error("unknown scheme `{0}`: http, http+unix, ws, ws+unix, fcgi and fcgi+unix are known")]
    Scheme(String),
    #[error("`{0}` has no port")]
    NoPort(String),
    #[error("`{0}` can't be resolved: {1}")]
    Resolve(String, String),
    #[error("`{0}` is not a kind of request: new, keep-alive, post, post-half, stream or websocket")]
    Kind(String),
    #[error("kind `{0}` needs an http:// URL")]
    NotForFcgi(&'static str),
}

impl FromStr for Load {
    type Err = LoadError;

    /// `URL`, or `KIND[+KIND...]=URL`.
    fn from_str(text: &str) -> Result<Self, LoadError> {
        let (kinds, url) = match text.split_once('=') {
            Some((kinds, url)) if !kinds.contains([':', '/']) => (kinds_of(kinds)?, url),
            _ => (Vec::new(), text),
        };
        let (scheme, rest) = url.split_once("://").ok_or_else(|| LoadError::NoUrl(url.to_owned()))?;
        let (base, is_unix) = scheme.strip_suffix("+unix").map_or((scheme, false), |base| (base, true));
        let (authority, path) = if is_unix { split_unix(rest) } else { split_tcp(rest) };
        let known = match base {
            "http" | "ws" | "fcgi" | "fastcgi" => Ok(()),
            "https" | "wss" => Err(LoadError::Tls),
            _ => Err(LoadError::Scheme(scheme.to_owned())),
        };
        known?;
        if authority.is_empty() {
            return Err(LoadError::NoUrl(url.to_owned()));
        }
        let default_port = matches!(base, "http" | "ws").then_some(80);
        let address = if is_unix {
            Address::Unix(PathBuf::from(authority))
        } else {
            Address::Tcp(resolve(authority, default_port)?)
        };
        let kinds = if base == "ws" { vec![Kind::Websocket] } else { kinds };
        let protocol = if base.starts_with('f') {
            let other = kinds.iter().find(|kind| !matches!(kind, Kind::New | Kind::KeepAlive));
            if let Some(kind) = other {
                return Err(LoadError::NotForFcgi(kind.name()));
            }
            Protocol::Fcgi { script: path.to_owned() }
        } else {
            let host = if is_unix { "localhost" } else { authority };
            Protocol::Http { host: host.to_owned(), path: path.to_owned() }
        };
        Ok(Self { url: url.to_owned(), address, protocol, kinds })
    }
}

fn kinds_of(text: &str) -> Result<Vec<Kind>, LoadError> {
    text.split('+')
        .map(|name| Kind::from_name(name).ok_or_else(|| LoadError::Kind(name.to_owned())))
        .collect()
}

/// `127.0.0.1:8000/path?query`.
fn split_tcp(rest: &str) -> (&str, &str) {
    match rest.find('/') {
        Some(at) => rest.split_at(at),
        None => (rest, "/"),
    }
}

/// `/run/app.sock:/path`, as in `healthcheck.http`.
fn split_unix(rest: &str) -> (&str, &str) {
    rest.split_once(':')
        .map_or((rest, "/"), |(socket, path)| (socket, if path.is_empty() { "/" } else { path }))
}

fn resolve(authority: &str, default_port: Option<u16>) -> Result<SocketAddr, LoadError> {
    // `:8080` is this host, as in `--proxy http://:8080`.
    let authority =
        if authority.starts_with(':') { format!("127.0.0.1{authority}") } else { authority.to_owned() };
    let has_port = authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let full = match default_port {
        _ if has_port => authority,
        Some(port) => format!("{authority}:{port}"),
        None => return Err(LoadError::NoPort(authority)),
    };
    let failed = |error: String| LoadError::Resolve(full.clone(), error);
    let mut found: Vec<_> = full.to_socket_addrs().map_err(|error| failed(error.to_string()))?.collect();
    // `localhost` is ::1 first on many hosts, and many servers listen on IPv4 alone.
    found.sort_by_key(SocketAddr::is_ipv6);
    found.into_iter().next().ok_or_else(|| failed("no address".to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Load, String> {
        text.parse().map_err(|error: LoadError| error.to_string())
    }

    #[test]
    fn urls_name_address_and_path() {
        let load = parse("http://127.0.0.1:8000/a?b=c").unwrap();
        assert_eq!(load.address, Address::Tcp("127.0.0.1:8000".parse().unwrap()));
        let http = |host: &str, path: &str| Protocol::Http { host: host.into(), path: path.into() };
        assert_eq!(load.protocol, http("127.0.0.1:8000", "/a?b=c"));
        assert!(load.kinds.is_empty());
        let load = parse("http+unix:///run/app.sock:/up").unwrap();
        assert_eq!(
            (load.address, load.protocol),
            (Address::Unix("/run/app.sock".into()), http("localhost", "/up"))
        );
        let load = parse("fcgi+unix:///run/app.sock:/ping").unwrap();
        assert_eq!(load.protocol, Protocol::Fcgi { script: "/ping".into() });
        assert_eq!(parse("http://:8080").unwrap().address, Address::Tcp("127.0.0.1:8080".parse().unwrap()));
        assert_eq!(parse("http://127.0.0.1").unwrap().address, Address::Tcp("127.0.0.1:80".parse().unwrap()));
    }

    #[test]
    fn kinds_stand_before_the_url() {
        assert_eq!(parse("stream=http://127.0.0.1:1/events").unwrap().kinds, [Kind::Stream]);
        assert_eq!(parse("new+kept=http://127.0.0.1:1/").unwrap().kinds, [Kind::New, Kind::KeepAlive]);
        assert_eq!(parse("ws://127.0.0.1:1/").unwrap().kinds, [Kind::Websocket]);
    }

    #[test]
    fn errors_say_what_to_write() {
        let error = |text: &str| parse(text).unwrap_err();
        assert!(error("127.0.0.1:8000").contains("is not a URL"));
        assert!(error("https://127.0.0.1/").contains("no TLS"));
        assert!(error("redis://127.0.0.1/").contains("unknown scheme `redis`"));
        assert!(error("fcgi://127.0.0.1/x").contains("has no port"));
        assert!(error("old=http://127.0.0.1/").contains("`old` is not a kind"));
        assert!(error("stream=fcgi://127.0.0.1:9/").contains("needs an http:// URL"));
        assert!(error("http://").contains("is not a URL"));
    }
}
