//! The request of an `fcgi` check, as bytes (FastCGI 1.0, 3.3 to 5.1).

use crate::config::FcgiRequest;

pub(super) const VERSION: u8 = 1;
/// The ID of the only request on its connection.
pub(super) const REQUEST_ID: u16 = 1;

const BEGIN_REQUEST: u8 = 1;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
/// Role responder, and no FCGI_KEEP_CONN: the application closes the connection.
const RESPONDER: [u8; 8] = [0, 1, 0, 0, 0, 0, 0, 0];

/// The whole request: its parameters, and an empty body.
pub(super) fn encode(request: &FcgiRequest) -> Vec<u8> {
    let mut pairs = Vec::new();
    for (name, value) in params(request) {
        length(&mut pairs, name.len());
        length(&mut pairs, value.len());
        pairs.extend_from_slice(name.as_bytes());
        pairs.extend_from_slice(value.as_bytes());
    }
    let mut bytes = Vec::with_capacity(pairs.len() + 64);
    record(&mut bytes, BEGIN_REQUEST, &RESPONDER);
    for part in pairs.chunks(usize::from(u16::MAX)) {
        record(&mut bytes, PARAMS, part);
    }
    record(&mut bytes, PARAMS, &[]);
    record(&mut bytes, STDIN, &[]);
    bytes
}

/// What a web server would send (RFC 3875, 4.1), with the changes and additions of the configuration.
fn params(request: &FcgiRequest) -> Vec<(String, String)> {
    let FcgiRequest { script, query, .. } = request;
    let uri = if query.is_empty() { script.clone() } else { format!("{script}?{query}") };
    let root = script.rsplit_once('/').map_or("", |(folder, _)| folder);
    let software = concat!("psflip/", env!("CARGO_PKG_VERSION"));
    let mut params: Vec<(String, String)> = [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", software),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("SERVER_NAME", "localhost"),
        ("SERVER_ADDR", "127.0.0.1"),
        ("SERVER_PORT", "80"),
        ("REMOTE_ADDR", "127.0.0.1"),
        ("REQUEST_METHOD", "GET"),
        ("REQUEST_URI", &uri),
        ("DOCUMENT_URI", script),
        ("DOCUMENT_ROOT", if root.is_empty() { "/" } else { root }),
        ("SCRIPT_NAME", script),
        ("SCRIPT_FILENAME", script),
        ("QUERY_STRING", query),
        ("CONTENT_TYPE", ""),
        ("CONTENT_LENGTH", "0"),
        ("REDIRECT_STATUS", "200"), // without it php-cgi may refuse (its cgi.force_redirect)
        ("HTTP_HOST", "localhost"),
        ("HTTP_USER_AGENT", software),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    for (name, value) in &request.params {
        match params.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => known.clone_from(value),
            None => params.push((name.clone(), value.clone())),
        }
    }
    params
}

/// The length of a name or value: one byte if it is short, else four with the highest bit set (3.4).
fn length(bytes: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short @ ..0x80) => bytes.push(short),
        _ => {
            // The configuration allows 64 KiB.
            let length = u32::try_from(length).unwrap_or(0x7fff_ffff) | 0x8000_0000;
            bytes.extend_from_slice(&length.to_be_bytes());
        }
    }
}

/// One record without padding (3.3). `content` has at most 65,535 bytes.
pub(super) fn record(bytes: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let [id_high, id_low] = REQUEST_ID.to_be_bytes();
    let [high, low] = u16::try_from(content.len()).unwrap_or(u16::MAX).to_be_bytes();
    bytes.extend_from_slice(&[VERSION, kind, id_high, id_low, high, low, 0, 0]);
    bytes.extend_from_slice(content);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Endpoint;

    fn request(script: &str, query: &str, params: &[(&str, &str)]) -> FcgiRequest {
        FcgiRequest {
            address: "app".into(),
            target: Endpoint::Unix("app".into()),
            script: script.into(),
            query: query.into(),
            params: params.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
        }
    }

    fn value<'a>(params: &'a [(String, String)], wanted: &str) -> &'a str {
        let mut found = params.iter().filter(|(name, _)| name == wanted);
        let value = &found.next().unwrap_or_else(|| panic!("no {wanted}")).1;
        assert!(found.next().is_none(), "{wanted} twice");
        value
    }

    #[test]
    fn the_parameters_match_those_of_a_web_server() {
        // Contract: H1
        let params = params(&request("/srv/app/ping.php", "deep=1", &[]));
        for (name, wanted) in [
            ("SCRIPT_FILENAME", "/srv/app/ping.php"),
            ("SCRIPT_NAME", "/srv/app/ping.php"),
            ("DOCUMENT_ROOT", "/srv/app"),
            ("QUERY_STRING", "deep=1"),
            ("REQUEST_URI", "/srv/app/ping.php?deep=1"),
            ("REQUEST_METHOD", "GET"),
            ("CONTENT_LENGTH", "0"),
            ("GATEWAY_INTERFACE", "CGI/1.1"),
        ] {
            assert_eq!(value(&params, name), wanted, "{name}");
        }
        let bare = super::params(&request("/ping", "", &[]));
        assert_eq!((value(&bare, "REQUEST_URI"), value(&bare, "DOCUMENT_ROOT")), ("/ping", "/"));
    }

    #[test]
    fn a_parameter_of_the_user_replaces_or_adds() {
        // Contract: H1
        let params = params(&request(
            "/ping",
            "",
            &[("SCRIPT_NAME", "/x"), ("HTTP_X", ""), ("REQUEST_METHOD", "HEAD")],
        ));
        assert_eq!(value(&params, "SCRIPT_NAME"), "/x");
        assert_eq!((value(&params, "HTTP_X"), value(&params, "REQUEST_METHOD")), ("", "HEAD"));
    }

    #[test]
    fn lengths_are_written_in_one_byte_or_four() {
        let bytes_of = |number| {
            let mut bytes = Vec::new();
            length(&mut bytes, number);
            bytes
        };
        assert_eq!((bytes_of(0), bytes_of(127)), (vec![0], vec![127]));
        assert_eq!((bytes_of(128), bytes_of(70_000)), (vec![0x80, 0, 0, 128], vec![0x80, 1, 0x11, 0x70]));
    }

    #[test]
    fn every_stream_of_the_request_is_terminated() {
        // Contract: H1
        let long = "x".repeat(66_000);
        let bytes = encode(&request("/ping", "", &[("LONG", &long)]));
        let (mut rest, mut records) = (bytes.as_slice(), Vec::new());
        while let [1, kind, 0, 1, high, low, 0, 0, tail @ ..] = rest {
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            records.push((*kind, length));
            rest = &tail[length..];
        }
        assert!(rest.is_empty(), "{:?}", rest.first());
        let kinds: Vec<u8> = records.iter().map(|(kind, _)| *kind).collect();
        assert_eq!(kinds, [BEGIN_REQUEST, PARAMS, PARAMS, PARAMS, STDIN]);
        assert_eq!((records[0].1, records[1].1, records[3].1, records[4].1), (8, 65_535, 0, 0));
    }
}
