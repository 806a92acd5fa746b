//! Header fields that concern one connection only, and those that name the client (RFC 9110, section 7.6.1;
//! RFC 9112, section 9.3).

use hyper::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRAILER,
    TRANSFER_ENCODING, UPGRADE,
};
use hyper::{Request, Response, Version};

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

/// Makes a client's request one for the child. Returns whether it asks for another protocol.
pub(super) fn prepare_request<B>(request: &mut Request<B>, client: &Addresses, forwarded: Forwarded) -> bool {
    let headers = request.headers_mut();
    let upgrade = headers.get(UPGRADE).filter(|_| connection_has(headers, "upgrade")).cloned();
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
        None => {
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
        }
    }
    name_client(headers, client, forwarded);
    *request.version_mut() = Version::HTTP_11;
    upgrade.is_some()
}

/// Makes the child's answer one for the client.
pub(super) fn prepare_response<B>(response: &mut Response<B>) {
    remove_of_connection(response.headers_mut());
    *response.version_mut() = Version::HTTP_11;
}

/// Removes what concerns one connection only. A length beside `Transfer-Encoding` goes, too: hyper has read the
/// body by the latter, and the two together are how requests are smuggled (RFC 9112, section 6.3). Returns whether
/// the body was chunked.
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

/// Sets the fields that name the client, as configured.
pub(super) fn name_client(headers: &mut HeaderMap, client: &Addresses, forwarded: Forwarded) {
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
    if let Some(host) = headers.get(HOST).filter(|_| !headers.contains_key(FORWARDED_HOST)).cloned() {
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
        prepare_request(&mut request, &client, forwarded);
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
}
