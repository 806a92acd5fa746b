//! What `--header` and `--body` add to the requests.

use std::fmt::Write as _;
use std::str::FromStr;

/// Headers that say how a request is delimited, or what its connection is for: those are the load's own.
const OWN: [&str; 7] = [
    "connection",
    "content-length",
    "sec-websocket-key",
    "sec-websocket-version",
    "te",
    "transfer-encoding",
    "upgrade",
];

/// A header of `--header`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(super) name: String,
    pub(super) value: String,
}

/// Why a `--header` is invalid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("`{0}` is no header: write 'Name: value'")]
    Form(String),
    #[error("the load sets `{0}` itself")]
    Own(String),
}

impl FromStr for Header {
    type Err = HeaderError;

    fn from_str(text: &str) -> Result<Self, HeaderError> {
        let (name, value) = text.split_once(':').ok_or_else(|| HeaderError::Form(text.to_owned()))?;
        let value = value.trim_matches([' ', '\t']);
        // RFC 9110, sections 5.6.2 and 5.5.
        let is_token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
        let is_control = |c: char| c.is_control() && c != '\t';
        if name.is_empty() || !name.chars().all(is_token) || value.contains(is_control) {
            return Err(HeaderError::Form(text.to_owned()));
        }
        if OWN.iter().any(|own| own.eq_ignore_ascii_case(name)) {
            return Err(HeaderError::Own(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), value: value.to_owned() })
    }
}

/// What every request has on top of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Extra {
    pub(crate) headers: Vec<Header>,
    /// The body of a POST.
    pub(crate) body: Vec<u8>,
}

/// The body of a POST without `--body`.
const BODY: [u8; 2048] = [b'x'; 2048];

impl Default for Extra {
    fn default() -> Self {
        Self { headers: Vec::new(), body: BODY.to_vec() }
    }
}

/// Headers that a request has once (RFC 9110, sections 7.2 and 8.3).
const SINGLE: [&str; 2] = ["Host", "Content-Type"];

impl Extra {
    /// A header that a request has once, and that is given twice.
    pub(crate) fn doubled(&self) -> Option<&'static str> {
        let count =
            |name: &str| self.headers.iter().filter(|one| one.name.eq_ignore_ascii_case(name)).count();
        SINGLE.into_iter().find(|name| count(name) > 1)
    }

    /// The head of a request: its first line, `own` headers, and these. Of a header with one value, one of
    /// `--header` replaces the own one.
    pub(super) fn head(&self, first: &str, own: &[(&str, &str)]) -> Vec<u8> {
        let is_replaced = |name: &str| self.headers.iter().any(|one| one.name.eq_ignore_ascii_case(name));
        let mut head = format!("{first}\r\n");
        let own = own.iter().copied().filter(|(name, _)| !is_replaced(name));
        let all = own.chain(self.headers.iter().map(|one| (one.name.as_str(), one.value.as_str())));
        for (name, value) in all {
            let _ = write!(head, "{name}: {value}\r\n"); // writing to a string can't fail
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Result<Header, String> {
        text.parse().map_err(|error: HeaderError| error.to_string())
    }

    #[test]
    fn headers_are_read_as_curl_reads_them() {
        let parsed = header("Authorization:  Bearer a:b ").unwrap();
        assert_eq!((parsed.name.as_str(), parsed.value.as_str()), ("Authorization", "Bearer a:b"));
        for wrong in ["no colon", ": x", "A b: c", "A: b\r\nC: d", "Ä: b"] {
            assert!(header(wrong).unwrap_err().contains("write 'Name: value'"), "{wrong}");
        }
        for own in ["connection: close", "Content-Length: 3", "Transfer-Encoding: chunked"] {
            assert!(header(own).unwrap_err().contains("the load sets"), "{own}");
        }
    }

    #[test]
    fn a_header_that_a_request_has_once_is_not_given_twice() {
        let of = |headers: &[&str]| {
            let headers = headers.iter().map(|text| header(text).unwrap()).collect();
            Extra { headers, body: Vec::new() }.doubled()
        };
        assert_eq!(of(&["Host: a", "X-A: 1", "X-A: 2"]), None);
        assert_eq!(of(&["Host: a", "HOST: b"]), Some("Host"));
        assert_eq!(of(&["content-type: a", "Content-Type: a"]), Some("Content-Type"));
    }

    #[test]
    fn a_header_replaces_the_own_one_of_its_name() {
        let headers = vec![header("host: example.org").unwrap(), header("X-A: 1").unwrap()];
        let head = Extra { headers, body: Vec::new() }.head("GET / HTTP/1.1", &[("Host", "h"), ("B", "2")]);
        assert_eq!(
            String::from_utf8(head).unwrap(),
            "GET / HTTP/1.1\r\nB: 2\r\nhost: example.org\r\nX-A: 1\r\n\r\n"
        );
    }
}
