//! A FastCGI 1.0 client that behaves as a web server does: role responder, one request at a time per
//! connection.

use std::path::Path;
use std::time::Duration;

use super::{ClientError, Connection, TIMEOUT, Target};

const VERSION: u8 = 1;
const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;
const ROLE_RESPONDER: u16 = 1;
const KEEP_CONN: u8 = 1;
/// The longest content of a record that is a multiple of eight.
const MOST_CONTENT: usize = 65_528;
/// The request ID: one is enough for one request at a time.
const REQUEST_ID: u16 = 1;

/// Sends requests to one FastCGI server. By default it opens a connection for each request.
#[derive(Debug)]
pub struct FcgiClient {
    target: Target,
    keep_alive: bool,
    retry_stale: bool,
    timeout: Duration,
    connection: Option<Connection>,
    retries: u64,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FcgiResponse {
    /// From the header `Status:`; 200 without one.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The rest of the stream STDOUT.
    pub body: Vec<u8>,
    /// The stream STDERR.
    pub stderr: Vec<u8>,
    /// The application's exit status.
    pub app_status: u32,
    /// Whether the answer came on a connection that had served another request before.
    pub reused: bool,
}

impl FcgiResponse {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The value of `key=value` in the body if the status is 200: the tag for an availability probe, as the
    /// fixtures answer.
    ///
    /// # Errors
    /// [`crate::client::Stage::Content`]: another status, or no such word in the body.
    pub fn tag(&self, key: &str) -> Result<String, ClientError> {
        let text = self.text();
        match super::field(&text, key) {
            Some(value) if self.status == 200 => Ok(value.to_owned()),
            _ => Err(ClientError::content(format!("status {}, body `{}`", self.status, text.trim_end()))),
        }
    }
}

impl FcgiClient {
    /// For a server at a TCP address or a Unix socket.
    #[must_use]
    pub fn new(target: impl Into<Target>) -> Self {
        Self {
            target: target.into(),
            keep_alive: false,
            retry_stale: false,
            timeout: TIMEOUT,
            connection: None,
            retries: 0,
        }
    }

    /// For a server at a Unix socket.
    #[must_use]
    pub fn unix(path: impl AsRef<Path>) -> Self {
        Self::new(path.as_ref())
    }

    /// Sets FCGI_KEEP_CONN, and keeps the connection for the next request until the server closes it.
    #[must_use]
    pub fn keep_alive(mut self) -> Self {
        self.keep_alive = true;
        self
    }

    /// Repeats a request once, as nginx does, if an idle keep-alive connection turns out to be closed.
    /// Without this, such a request fails.
    #[must_use]
    pub fn retry_stale(mut self) -> Self {
        self.retry_stale = true;
        self
    }

    /// The time limit of a request, connecting included.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many requests [`FcgiClient::retry_stale`] has repeated.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// `GET uri`, with the parameters that a web server sends.
    ///
    /// # Errors
    /// No complete answer came. An answer with any status is a success.
    pub fn get(&mut self, uri: &str) -> Result<FcgiResponse, ClientError> {
        let params = standard_params("GET", uri, 0);
        self.request(&borrowed(&params), b"")
    }

    /// `POST uri` with a body on STDIN.
    ///
    /// # Errors
    /// See [`FcgiClient::get`].
    pub fn post(&mut self, uri: &str, body: &[u8]) -> Result<FcgiResponse, ClientError> {
        let params = standard_params("POST", uri, body.len());
        self.request(&borrowed(&params), body)
    }

    /// A request with any parameters.
    ///
    /// # Errors
    /// See [`FcgiClient::get`].
    pub fn request(&mut self, params: &[(&str, &str)], stdin: &[u8]) -> Result<FcgiResponse, ClientError> {
        match self.once(params, stdin) {
            Err(error) if self.retry_stale && error.is_stale_connection() => {
                self.retries += 1;
                self.once(params, stdin)
            }
            result => result,
        }
    }

    fn once(&mut self, params: &[(&str, &str)], stdin: &[u8]) -> Result<FcgiResponse, ClientError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.target, self.timeout)?,
        };
        connection.begin();
        connection.send(&encode_request(params, stdin, self.keep_alive))?;
        let response = read_answer(&mut connection)?;
        if self.keep_alive {
            self.connection = Some(connection);
        }
        Ok(response)
    }
}

fn standard_params(method: &str, uri: &str, length: usize) -> Vec<(String, String)> {
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let length = if length > 0 { length.to_string() } else { String::new() };
    let params = [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_PROTOCOL", "HTTP/1.1"),
        ("REQUEST_METHOD", method),
        ("REQUEST_URI", uri),
        ("SCRIPT_NAME", path),
        ("SCRIPT_FILENAME", path),
        ("QUERY_STRING", query),
        ("CONTENT_LENGTH", &length),
    ];
    params.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn borrowed(params: &[(String, String)]) -> Vec<(&str, &str)> {
    params.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

fn encode_request(params: &[(&str, &str)], stdin: &[u8], keep: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let [high, low] = ROLE_RESPONDER.to_be_bytes();
    record(&mut bytes, BEGIN_REQUEST, &[high, low, if keep { KEEP_CONN } else { 0 }, 0, 0, 0, 0, 0]);
    let mut pairs = Vec::new();
    for (name, value) in params {
        encode_length(&mut pairs, name.len());
        encode_length(&mut pairs, value.len());
        pairs.extend_from_slice(name.as_bytes());
        pairs.extend_from_slice(value.as_bytes());
    }
    for (kind, content) in [(PARAMS, pairs.as_slice()), (STDIN, stdin)] {
        for chunk in content.chunks(MOST_CONTENT) {
            record(&mut bytes, kind, chunk);
        }
        record(&mut bytes, kind, &[]);
    }
    bytes
}

fn encode_length(bytes: &mut Vec<u8>, length: usize) {
    match u8::try_from(length) {
        Ok(short @ 0..=127) => bytes.push(short),
        _ => bytes.extend((u32::try_from(length).unwrap_or(u32::MAX) | 0x8000_0000).to_be_bytes()),
    }
}

/// Appends one record, padded to a multiple of eight as the specification recommends.
fn record(bytes: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let padding = content.len().next_multiple_of(8) - content.len();
    let length = u16::try_from(content.len()).expect("a record's content is cut to less than 64 KiB");
    let ([id_high, id_low], [high, low]) = (REQUEST_ID.to_be_bytes(), length.to_be_bytes());
    bytes.extend([VERSION, kind, id_high, id_low, high, low, padding as u8, 0]);
    bytes.extend_from_slice(content);
    bytes.resize(bytes.len() + padding, 0);
}

fn read_answer(connection: &mut Connection) -> Result<FcgiResponse, ClientError> {
    let reused = connection.requests > 1;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let app_status = loop {
        let header = connection.read_exact(8)?;
        let content = connection.read_exact(usize::from(u16::from_be_bytes([header[4], header[5]])))?;
        connection.read_exact(usize::from(header[6]))?;
        let wrong = |what: String| Err(connection.explain(ClientError::protocol(what)));
        let id = u16::from_be_bytes([header[2], header[3]]);
        if header[0] != VERSION || id != REQUEST_ID {
            return wrong(format!("a record of version {} for request {id}", header[0]));
        }
        match header[1] {
            STDOUT => stdout.extend(content),
            STDERR => stderr.extend(content),
            END_REQUEST => match content[..] {
                [a, b, c, d, 0, ..] => break u32::from_be_bytes([a, b, c, d]),
                [_, _, _, _, status, ..] => {
                    return wrong(format!("the request was refused with protocol status {status}"));
                }
                _ => return wrong(format!("END_REQUEST has {} bytes, not 8", content.len())),
            },
            kind => return wrong(format!("an unexpected record of type {kind}")),
        }
    };
    let (status, headers, body) =
        parse_cgi(&stdout).map_err(|what| connection.explain(ClientError::protocol(what)))?;
    Ok(FcgiResponse { status, headers, body, stderr, app_status, reused })
}

/// Status, headers and body.
type Cgi = (u16, Vec<(String, String)>, Vec<u8>);

/// Parses the answer of a CGI program (RFC 3875, 6): headers, an empty line, the body; lines may end without
/// CR.
fn parse_cgi(stdout: &[u8]) -> Result<Cgi, String> {
    let mut status = 200;
    let mut headers = Vec::new();
    let mut rest = stdout;
    loop {
        let end = rest.iter().position(|byte| *byte == b'\n').ok_or("the headers have no end")?;
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        if line.is_empty() {
            return Ok((status, headers, rest.to_vec()));
        }
        let line = String::from_utf8_lossy(line);
        let (name, value) =
            line.split_once(':').ok_or_else(|| format!("a header without a colon: `{line}`"))?;
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            let code = value.split_ascii_whitespace().next().and_then(|code| code.parse().ok());
            status = code.ok_or_else(|| format!("`{value}` is no status"))?;
        }
        headers.push((name.to_ascii_lowercase(), value.to_owned()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_takes_one_byte_below_128_and_four_from_there_on() {
        let encoded = |length| {
            let mut bytes = Vec::new();
            encode_length(&mut bytes, length);
            bytes
        };
        assert_eq!(encoded(127), [127]);
        assert_eq!(encoded(128), [0x80, 0, 0, 128]);
    }

    #[test]
    fn a_cgi_answer_has_a_status_headers_and_a_body() {
        let (status, headers, body) = parse_cgi(b"Status: 404 Not Found\r\nX-A: b\n\r\nbo\ndy").unwrap();
        assert_eq!((status, body.as_slice()), (404, &b"bo\ndy"[..]));
        assert_eq!(headers[1], ("x-a".to_owned(), "b".to_owned()));
        assert!(parse_cgi(b"no end").is_err() && parse_cgi(b"no colon\n\n").is_err());
    }

    #[test]
    fn a_request_ends_its_streams_and_is_padded() {
        let bytes = encode_request(&[("A", "b")], b"", true);
        assert_eq!(bytes.len() % 8, 0);
        assert_eq!(bytes[10], KEEP_CONN);
        assert!(bytes.ends_with(&[VERSION, STDIN, 0, 1, 0, 0, 0, 0]));
    }
}
