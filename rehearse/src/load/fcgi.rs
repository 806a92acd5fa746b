//! FastCGI requests and answers, as a web server sends them (FastCGI specification, section 3).

use super::extra::{Extra, Header};
use super::http::{Accepted, Progress};
use super::record::{Failed, Stage};

const BEGIN_REQUEST: u8 = 1;
const END_REQUEST: u8 = 3;
const PARAMS: u8 = 4;
const STDIN: u8 = 5;
const STDOUT: u8 = 6;
/// FCGI_RESPONDER.
const RESPONDER: u8 = 1;
/// The length of a record's header.
const HEADER: usize = 8;

/// One client's requests, one after the other.
#[derive(Debug)]
pub(crate) struct Fcgi {
    request: Vec<u8>,
    keep_alive: bool,
    accepted: Accepted,
    stdout: Vec<u8>,
}

impl Fcgi {
    /// `script` is SCRIPT_FILENAME. With `keep_alive`, FCGI_KEEP_CONN asks the server to leave the connection
    /// open.
    pub(crate) fn new(script: &str, keep_alive: bool, accepted: Accepted, extra: &Extra) -> Self {
        let mut params = Vec::new();
        let (path, query) = script.split_once('?').unwrap_or((script, ""));
        for (name, value) in [
            ("SCRIPT_FILENAME", path),
            ("SCRIPT_NAME", path),
            ("REQUEST_URI", script),
            ("QUERY_STRING", query),
            ("REQUEST_METHOD", "GET"),
            ("CONTENT_LENGTH", ""),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("SERVER_SOFTWARE", "psflip-rehearse"),
            ("REMOTE_ADDR", "127.0.0.1"),
            ("SERVER_NAME", "localhost"),
            ("SERVER_PORT", "80"),
        ] {
            pair(&mut params, name, value);
        }
        for (name, value) in parameters(&extra.headers) {
            pair(&mut params, &name, &value);
        }
        let mut request = Vec::new();
        record(&mut request, BEGIN_REQUEST, &[0, RESPONDER, u8::from(keep_alive), 0, 0, 0, 0, 0]);
        for part in params.chunks(usize::from(u16::MAX)) {
            record(&mut request, PARAMS, part);
        }
        record(&mut request, PARAMS, &[]);
        record(&mut request, STDIN, &[]);
        Self { request, keep_alive, accepted, stdout: Vec::new() }
    }

    /// Appends the next request.
    pub(crate) fn request(&mut self, out: &mut Vec<u8>) {
        self.stdout.clear();
        out.extend_from_slice(&self.request);
    }

    /// Takes what has arrived from `input`.
    pub(crate) fn receive(&mut self, input: &mut Vec<u8>) -> Progress {
        loop {
            let has_begun = !self.stdout.is_empty();
            let stage = if has_begun { Stage::Body } else { Stage::FirstByte };
            let &[version, kind, _, _, high, low, padding, _, ref rest @ ..] = &input[..] else {
                return Progress::More(if input.is_empty() { stage } else { Stage::Head });
            };
            if version != 1 {
                return Progress::Failed(Failed::new(Stage::Protocol, format!("FastCGI version {version}")));
            }
            let length = usize::from(u16::from_be_bytes([high, low]));
            if rest.len() < length + usize::from(padding) {
                return Progress::More(if has_begun { Stage::Body } else { Stage::Head });
            }
            if kind == STDOUT {
                self.stdout.extend_from_slice(&rest[..length]);
            }
            let protocol_status = rest[..length].get(4).copied().unwrap_or_default();
            input.drain(..HEADER + length + usize::from(padding));
            if kind == END_REQUEST {
                return self.end(protocol_status);
            }
        }
    }

    fn end(&self, protocol_status: u8) -> Progress {
        if protocol_status != 0 {
            let cause = format!("the server refused the request: protocolStatus {protocol_status}");
            return Progress::Failed(Failed::new(Stage::Status, cause));
        }
        match self.accepted.check(status(&self.stdout)) {
            Ok(()) => Progress::Done { reusable: self.keep_alive },
            Err(failed) => Progress::Failed(failed),
        }
    }
}

/// The status of a CGI answer: 200 without a Status header (RFC 3875, section 6.3.3).
fn status(stdout: &[u8]) -> u16 {
    let head = String::from_utf8_lossy(&stdout[..stdout.len().min(4096)]);
    let mut lines = head.lines().take_while(|line| !line.is_empty());
    let value = lines.find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("status").then(|| value.trim().get(..3).and_then(|code| code.parse().ok()))
    });
    value.map_or(200, |code| code.unwrap_or(0))
}

fn record(out: &mut Vec<u8>, kind: u8, content: &[u8]) {
    let length = u16::try_from(content.len()).expect("at most 65535 bytes a record").to_be_bytes();
    out.extend_from_slice(&[1, kind, 0, 1, length[0], length[1], 0, 0]);
    out.extend_from_slice(content);
}

/// The name of a header as a CGI parameter (RFC 3875, section 4.1.18).
fn parameter(header: &str) -> String {
    let name = header.to_ascii_uppercase().replace('-', "_");
    if name == "CONTENT_TYPE" { name } else { format!("HTTP_{name}") }
}

/// The parameters of these headers: those of one name are one, as RFC 3875, section 4.1.18, has it.
fn parameters(headers: &[Header]) -> Vec<(String, String)> {
    let mut joined: Vec<(String, String)> = Vec::new();
    for header in headers {
        let name = parameter(&header.name);
        // RFC 9110, section 5.3; cookies are no list, and have a separator of their own (RFC 6265, section 5.4).
        let separator = if name == "HTTP_COOKIE" { "; " } else { ", " };
        match joined.iter_mut().find(|(known, _)| *known == name) {
            Some((_, value)) => *value = format!("{value}{separator}{}", header.value),
            None => joined.push((name, header.value.clone())),
        }
    }
    joined
}

fn pair(out: &mut Vec<u8>, name: &str, value: &str) {
    for text in [name, value] {
        match u8::try_from(text.len()) {
            Ok(short) if short < 128 => out.push(short),
            _ => out.extend_from_slice(&(text.len() as u32 | 1 << 31).to_be_bytes()),
        }
    }
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(value.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(stdout: &[u8], protocol_status: u8) -> Vec<u8> {
        let mut bytes = Vec::new();
        record(&mut bytes, STDOUT, stdout);
        record(&mut bytes, STDOUT, &[]);
        record(&mut bytes, END_REQUEST, &[0, 0, 0, 0, protocol_status, 0, 0, 0]);
        bytes
    }

    fn receive(mut bytes: Vec<u8>) -> Progress {
        Fcgi::new("/ping", true, Accepted(200, 399), &Extra::default()).receive(&mut bytes)
    }

    #[test]
    fn an_answer_ends_with_its_end_request() {
        let whole = answer(b"Content-Type: text/plain\r\n\r\npong", 0);
        assert_eq!(receive(whole.clone()), Progress::Done { reusable: true });
        assert_eq!(receive(Vec::new()), Progress::More(Stage::FirstByte));
        assert_eq!(receive(whole[..5].to_vec()), Progress::More(Stage::Head));
        assert_eq!(receive(whole[..whole.len() - 1].to_vec()), Progress::More(Stage::Body));
    }

    #[test]
    fn headers_of_one_name_are_one_parameter() {
        let headers = ["X-A: 1", "Cookie: a=1", "x-a: 2", "Content-Type: text/plain", "cookie: b=2"];
        let found = parameters(&headers.map(|text| text.parse().unwrap()));
        let found: Vec<_> = found.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let wanted = [("HTTP_X_A", "1, 2"), ("HTTP_COOKIE", "a=1; b=2"), ("CONTENT_TYPE", "text/plain")];
        assert_eq!(found, wanted);
    }

    #[test]
    fn failures_are_told_from_answers() {
        let status = receive(answer(b"Status: 503 Service Unavailable\r\n\r\n", 0));
        assert!(matches!(status, Progress::Failed(failed) if failed.status == Some(503)));
        let overloaded = receive(answer(b"", 2));
        assert!(matches!(overloaded, Progress::Failed(failed) if failed.cause.contains("protocolStatus 2")));
        assert!(matches!(receive(vec![7; 16]), Progress::Failed(failed) if failed.stage == Stage::Protocol));
    }
}
