//! Header fields that concern one connection only, and those that name the client (RFC 9110, section 7.6.1;
//! RFC 9112, section 9.3).

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Request, Response, StatusCode, Version};

use crate::addresses::Addresses;
use crate::message::Forwarded;

/// Fields of one connection, whether or not `Connection` names them.
const OF_CONNECTION: [HeaderName; 3] =
    [CONNECTION, HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")];

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// Whether `Connection` contains this option.
fn connection_has(headers: &HeaderMap, option: &str) -> bool {
    headers.get_all(CONNECTION).iter().any(|value| {
        let Ok(value) = value.to_str() else { return false };
        value.split(',').any(|one| one.trim().eq_ignore_ascii_case(option))
    })
}

/// Makes the target and `Host` those of a request to the origin server (RFC 9112, sections 3.2 and 3.3).
/// `false`: the request does not say which host it is for, or names two.
pub(super) fn prepare_host<B>(request: &mut Request<B>, client: &Addresses) -> bool {
    let mut hosts = request.headers().get_all(HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    let is_absent = first.is_none();
    if second.is_some() || is_absent && request.version() != Version::HTTP_10 {
        return false;
    }
    let host = if let Some(authority) = request.uri().authority() {
        // Without the user's name and password.
        let host = authority.as_str().rsplit('@').next().map(str::to_owned);
        let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
        let Ok(path) = path.parse() else { return false };
        *request.uri_mut() = path;
        host
    } else if is_absent {
        // HTTP/1.0 needs none, but the child gets HTTP/1.1.
        Some(client.destination.map_or("localhost".to_owned(), |address| address.to_string()))
    } else {
        None
    };
    let Some(host) = host else { return true };
    let Ok(host) = HeaderValue::from_str(&host) else { return false };
    request.headers_mut().insert(HOST, host);
    true
}

/// Makes a client's request one for the child. `keeps`: the connection may stay open after it. Returns
/// whether it asks for another protocol.
pub(super) fn prepare_request<B>(
    request: &mut Request<B>,
    client: &Addresses,
    forwarded: Forwarded,
    keeps: bool,
) -> bool {
    let headers = request.headers_mut();
    let upgrade = headers.get(UPGRADE).filter(|_| connection_has(headers, "upgrade"));
    let upgrade = upgrade.and_then(without_http2);
    let wants_trailers =
        headers.get_all(TE).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    if remove_of_connection(headers) {
        // hyper sends no body of unknown length with GET or HEAD unless the field is there.
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    // hyper has told the client to go on with its body (RFC 9110, section 10.1.1).
    headers.remove(EXPECT);
    if wants_trailers {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
    match &upgrade {
        Some(protocol) => {
            headers.insert(UPGRADE, protocol.clone());
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        }
        // The child's connection is for this one request, and a child that keeps it open would wait in vain.
        None if !keeps => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
        None => {}
    }
    let host = headers.get(HOST).cloned();
    name_client(headers, client, host, forwarded);
    *request.version_mut() = Version::HTTP_11;
    upgrade.is_some()
}

/// Whether every server agrees on where this answer to a request other than HEAD ends, so that its connection
/// may be used again (RFC 9112, sections 6.3 and 9.3).
pub(super) fn has_certain_end<B>(response: &Response<B>) -> bool {
    let headers = response.headers();
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let (length, second) = (lengths.next(), lengths.next());
    let is_chunked = headers.contains_key(TRANSFER_ENCODING);
    let is_framed = match response.status() {
        // A child that announces a body may well send it, and nobody would expect it.
        StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED => {
            !is_chunked && length.is_none_or(|length| length.as_bytes() == b"0")
        }
        _ => is_chunked != length.is_some(),
    };
    let closes = connection_has(headers, "close");
    is_framed && second.is_none() && response.version() == Version::HTTP_11 && !closes
}

/// Makes the child's answer one for the client.
pub(super) fn prepare_response<B>(response: &mut Response<B>) {
    remove_of_connection(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
}

/// Removes what concerns one connection only. A length beside `Transfer-Encoding` goes, too: hyper has read
/// the body by the latter, and the two together are how requests are smuggled (RFC 9112, section 6.3).
/// Returns whether the body was chunked.
fn remove_of_connection(headers: &mut HeaderMap) -> bool {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // A client can't have these removed.
        .filter(|name| {
            ![HOST, CONTENT_LENGTH, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST, TRAILER].contains(name)
        })
        .collect();
    named.iter().chain(&OF_CONNECTION).for_each(|name| {
        headers.remove(name);
    });
    headers.remove(UPGRADE);
    headers.remove(TE);
    let is_chunked = headers.remove(TRANSFER_ENCODING).is_some();
    if is_chunked {
        headers.remove(CONTENT_LENGTH);
    }
    is_chunked
}

/// Whether the body is in a coding that hyper does not undo: any but `chunked` (RFC 9112, section 7).
pub(super) fn has_unknown_coding(headers: &HeaderMap) -> bool {
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let first = codings.next();
    first.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"chunked"))
        || codings.next().is_some()
}

/// The protocols that a client offers, without HTTP/2: the relay could not carry what follows, and a server
/// may ignore the offer (RFC 9110, section 7.8).
fn without_http2(upgrade: &HeaderValue) -> Option<HeaderValue> {
    let protocols: Vec<&str> = upgrade.to_str().ok()?.split(',').map(str::trim).collect();
    let others: Vec<&str> = protocols
        .iter()
        .copied()
        .filter(|protocol| !protocol.is_empty() && !protocol.eq_ignore_ascii_case("h2c"))
        .collect();
    if others.is_empty() {
        return None;
    }
    HeaderValue::from_str(&others.join(", ")).ok()
}

/// Sets the fields that name the client and the host that it asked for, as configured.
pub(super) fn name_client(
    headers: &mut HeaderMap,
    client: &Addresses,
    host: Option<HeaderValue>,
    forwarded: Forwarded,
) {
    let replaces = match forwarded {
        Forwarded::Off => return,
        Forwarded::Replace => true,
        Forwarded::Append => false,
    };
    if replaces {
        [FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST].iter().for_each(|name| {
            headers.remove(name);
        });
    }
    if let Some(source) = client.source {
        let mut names: Vec<String> = headers
            .get_all(FORWARDED_FOR)
            .iter()
            .filter_map(|value| Some(value.to_str().ok()?.to_owned()))
            .collect();
        names.push(source.ip().to_canonical().to_string());
        if let Ok(value) = HeaderValue::from_str(&names.join(", ")) {
            headers.insert(FORWARDED_FOR, value);
        }
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    }
    if let Some(host) = host.filter(|_| !headers.contains_key(FORWARDED_HOST)) {
        headers.insert(FORWARDED_HOST, host);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(fields: &[(&str, &str)]) -> Request<()> {
        let mut request = Request::builder().uri("/");
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap()
    }

    fn prepared(fields: &[(&str, &str)], forwarded: Forwarded) -> Vec<(String, String)> {
        let client = Addresses { source: "192.0.2.7:4711".parse().ok(), destination: None };
        let mut request = request(fields);
        prepare_request(&mut request, &client, forwarded, false);
        let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
        let mut all: Vec<_> =
            request.headers().iter().map(|(name, value)| (name.to_string(), text(value))).collect();
        all.sort();
        all
    }

    fn pairs(fields: &[(&str, &str)]) -> Vec<(String, String)> {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn fields_of_one_connection_are_not_forwarded() {
        let fields = [
            ("connection", "x-own, keep-alive, content-length, host"),
            ("x-own", "1"),
            ("keep-alive", "timeout=5"),
            ("host", "a"),
            ("content-length", "3"),
            ("te", "trailers"),
            ("expect", "100-continue"),
        ];
        let wanted = [("connection", "close"), ("content-length", "3"), ("host", "a"), ("te", "trailers")];
        assert_eq!(prepared(&fields, Forwarded::Off), pairs(&wanted));
    }

    #[test]
    fn a_length_beside_transfer_encoding_is_not_forwarded() {
        let fields = [("content-length", "3"), ("transfer-encoding", "chunked")];
        let wanted = [("connection", "close"), ("transfer-encoding", "chunked")];
        assert_eq!(prepared(&fields, Forwarded::Off), pairs(&wanted));
    }

    #[test]
    fn the_client_is_named_as_configured() {
        let fields = [("host", "a.example"), ("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https")];
        let appended = [
            ("connection", "close"),
            ("host", "a.example"),
            ("x-forwarded-for", "10.0.0.1, 192.0.2.7"),
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-proto", "https"),
        ];
        assert_eq!(prepared(&fields, Forwarded::Append), pairs(&appended));
        let replaced = [
            ("connection", "close"),
            ("host", "a.example"),
            ("x-forwarded-for", "192.0.2.7"),
            ("x-forwarded-host", "a.example"),
            ("x-forwarded-proto", "http"),
        ];
        assert_eq!(prepared(&fields, Forwarded::Replace), pairs(&replaced));
    }

    #[test]
    fn an_offer_of_http_2_is_not_forwarded() {
        let fields = [("connection", "upgrade, http2-settings"), ("http2-settings", "x"), ("upgrade", "h2c")];
        assert_eq!(prepared(&fields, Forwarded::Off), pairs(&[("connection", "close")]));
        let fields = [("connection", "upgrade"), ("upgrade", "h2c, websocket")];
        let wanted = [("connection", "upgrade"), ("upgrade", "websocket")];
        assert_eq!(prepared(&fields, Forwarded::Off), pairs(&wanted));
    }

    #[test]
    fn each_request_names_one_host() {
        let client = Addresses { source: None, destination: "192.0.2.1:80".parse().ok() };
        let host = |version: Version, target: &str, hosts: &[&str]| {
            let mut request = Request::builder().version(version).uri(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            let mut request = request.body(()).unwrap();
            prepare_host(&mut request, &client).then(|| {
                let host = request.headers().get(HOST).unwrap().to_str().unwrap();
                (request.uri().to_string(), host.to_owned())
            })
        };
        let is = |target: &str, host: &str| Some((target.to_owned(), host.to_owned()));
        assert_eq!(host(Version::HTTP_11, "/a?b", &["x"]), is("/a?b", "x"));
        assert_eq!(host(Version::HTTP_11, "/", &[]), None);
        assert_eq!(host(Version::HTTP_11, "/", &["x", "x"]), None);
        assert_eq!(host(Version::HTTP_10, "/", &["x", "y"]), None);
        assert_eq!(host(Version::HTTP_10, "/", &[]), is("/", "192.0.2.1:80"));
        assert_eq!(host(Version::HTTP_11, "http://me:pw@y:81/a?b", &["x"]), is("/a?b", "y:81"));
        assert_eq!(host(Version::HTTP_11, "http://y", &["x"]), is("/", "y"));
        assert_eq!(host(Version::HTTP_11, "*", &["x"]), is("*", "x"));
    }
}
