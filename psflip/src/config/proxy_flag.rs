//! `--proxy URL`: the URL that clients use, as keys of a `[[proxy]]`. Pure.

/// The port of the child, which it gets as `PORT`. The range is below the kernel's default range for outgoing
/// connections.
pub(crate) const FREE_PORT: &str = "{{ free_port('20000-29999') }}";

/// What a URL says about a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ListenUrl {
    /// `proxy.listen`.
    pub(super) listen: String,
    /// `proxy.protocol`, unless it is the default.
    pub(super) protocol: Option<&'static str>,
    /// `proxy.v6only`.
    pub(super) v6only: Option<bool>,
}

/// Reads `http://IP:PORT`, `fastcgi://IP:PORT`, or a scheme and an address of `listen`, joined by a plus sign:
/// `http+unix:///run/app.sock`. `:PORT` and `*:PORT` stand for all addresses. Everything else is an address of
/// `listen`, and its reader reports what is wrong with it.
pub(super) fn listen_url(url: &str, has_ipv6: impl FnOnce() -> bool) -> ListenUrl {
    let known = ["http", "fastcgi", "tcp"].into_iter().find_map(|scheme| {
        let rest = url.strip_prefix(scheme)?;
        match rest.strip_prefix('+') {
            Some(address) => Some((scheme, address.to_owned())),
            // A URL that is copied from a browser ends in a slash.
            None => {
                rest.strip_prefix("://").map(|host| (scheme, format!("tcp://{}", host.trim_end_matches('/'))))
            }
        }
    });
    let (scheme, listen) = known.unwrap_or(("tcp", url.to_owned()));
    let protocol = (scheme != "tcp").then_some(scheme);
    let host = listen.strip_prefix("tcp://").unwrap_or(&listen);
    match host.strip_prefix(':').or_else(|| host.strip_prefix("*:")) {
        Some(port) if has_ipv6() => {
            ListenUrl { listen: format!("tcp://[::]:{port}"), protocol, v6only: Some(false) }
        }
        Some(port) => ListenUrl { listen: format!("tcp://0.0.0.0:{port}"), protocol, v6only: None },
        None => ListenUrl { listen, protocol, v6only: None },
    }
}

#[cfg(test)]
mod tests {
    use super::{ListenUrl, listen_url};

    #[test]
    fn a_url_is_an_address_and_a_protocol() {
        let read = |url: &str, has_ipv6: bool| {
            let ListenUrl { listen, protocol, v6only } = listen_url(url, || has_ipv6);
            (listen, protocol.unwrap_or("tcp"), v6only)
        };
        for (url, listen, protocol) in [
            ("http://0.0.0.0:8080", "tcp://0.0.0.0:8080", "http"),
            ("http://[::1]:8080/", "tcp://[::1]:8080", "http"),
            ("tcp://127.0.0.1:5432", "tcp://127.0.0.1:5432", "tcp"),
            ("fastcgi://127.0.0.1:9000", "tcp://127.0.0.1:9000", "fastcgi"),
            ("http+unix:///run/a.sock", "unix:///run/a.sock", "http"),
            ("fastcgi+unix:///run/a.sock", "unix:///run/a.sock", "fastcgi"),
            ("http+systemd:web", "systemd:web", "http"),
            ("unix:///run/a.sock", "unix:///run/a.sock", "tcp"),
            ("/run/a.sock", "/run/a.sock", "tcp"),
            // `listen` refuses these, with advice.
            ("http://localhost:80", "tcp://localhost:80", "http"),
            ("https://0.0.0.0:443", "https://0.0.0.0:443", "tcp"),
            ("http://0.0.0.0:80/path", "tcp://0.0.0.0:80/path", "http"),
        ] {
            for has_ipv6 in [true, false] {
                assert_eq!(read(url, has_ipv6), (listen.to_owned(), protocol, None), "{url}");
            }
        }
        for (url, protocol) in
            [("http://:80", "http"), (":80", "tcp"), ("tcp://*:80", "tcp"), ("fastcgi+:80", "fastcgi")]
        {
            assert_eq!(read(url, true), ("tcp://[::]:80".to_owned(), protocol, Some(false)), "{url}");
            assert_eq!(read(url, false), ("tcp://0.0.0.0:80".to_owned(), protocol, None), "{url}");
        }
    }
}
