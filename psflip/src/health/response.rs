//! Reads HTTP/1 answers (RFC 9112), without I/O. `httparse` reads what stands before the body.

use std::borrow::Cow;

use httparse::{EMPTY_HEADER, Error, Header, Status, parse_chunk_size};

/// The most lines of a header. Engines and their proxies send a dozen.
const MOST_FIELDS: usize = 64;

const NO_LINE: &str = "the answer has a line in its header that is none";
const TOO_MANY: &str = "the answer has more than 64 lines in its header";
const NO_CHUNK: &str = "the answer has a chunk that is none";

/// The state of reading the status line of an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    /// The status.
    Status(u16),
    /// The status line is incomplete.
    More,
    /// Not an HTTP/1 answer.
    Unfit,
}

/// The status of an answer, as soon as its status line is complete, whatever follows it (RFC 9112, 4).
pub(super) fn status(answer: &[u8]) -> Reading {
    match start(answer) {
        Start::Status(status, _) => Reading::Status(status),
        Start::More => Reading::More,
        Start::Unfit => Reading::Unfit,
    }
}

/// A whole answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Response<'a> {
    pub(super) status: u16,
    pub(super) body: Cow<'a, [u8]>,
}

/// Decodes an answer. `None`: it is incomplete. `closed`: the other side has closed the connection.
///
/// # Errors
/// Why it is not a valid answer.
pub(super) fn read(answer: &[u8], closed: bool) -> Result<Option<Response<'_>>, &'static str> {
    let (status, header) = match start(answer) {
        Start::Status(status, header) => (status, header?),
        Start::More if closed => return Err("the connection was closed before the end of a status line"),
        Start::More => return Ok(None),
        Start::Unfit => return Err("the answer is not HTTP/1"),
    };
    let body = match header {
        None => None,
        Some((Framing::Chunked, body)) => dechunked(body)?.map(Cow::Owned),
        Some((Framing::Length(length), body)) => body.get(..length).map(Cow::Borrowed),
        Some((Framing::UntilTheEnd, body)) => closed.then_some(Cow::Borrowed(body)),
    };
    match body {
        Some(body) => Ok(Some(Response { status, body })),
        None if closed => Err("the connection was closed in the middle of the answer"),
        None => Ok(None),
    }
}

/// The part of an answer before the body.
enum Start<'a> {
    /// The status; the framing of the body and the bytes after the header, if the header is complete.
    Status(u16, Result<Option<(Framing, &'a [u8])>, &'static str>),
    /// The status line is incomplete.
    More,
    /// Not an HTTP/1 answer.
    Unfit,
}

/// How the end of the body is found (RFC 9112, 6).
enum Framing {
    Chunked,
    Length(usize),
    UntilTheEnd,
}

/// Interim answers (RFC 9110, 15.2) are skipped.
fn start(mut answer: &[u8]) -> Start<'_> {
    loop {
        // The parser skips empty lines, which is for servers (RFC 9112, 2.2).
        if answer.starts_with(b"\r") || answer.starts_with(b"\n") {
            return Start::Unfit;
        }
        let mut fields = [EMPTY_HEADER; MOST_FIELDS];
        let mut response = httparse::Response::new(&mut fields);
        let parsed = response.parse(answer);
        // The reason is set with the end of the status line, even if the rest is incomplete or malformed.
        let (Some(status), Some(_)) = (response.code, response.reason) else {
            return if parsed == Ok(Status::Partial) { Start::More } else { Start::Unfit };
        };
        match (status, parsed) {
            (0..100, _) => return Start::Unfit,
            // These may precede the answer to a request without `Expect` and `Upgrade`.
            (100 | 102..200, Ok(Status::Complete(length))) => answer = &answer[length..],
            (100 | 102..200, Ok(Status::Partial)) => return Start::More,
            (100 | 102..200, Err(_)) => return Start::Unfit,
            (status, Ok(Status::Complete(length))) => {
                let framing = framing(response.headers);
                return Start::Status(status, framing.map(|framing| Some((framing, &answer[length..]))));
            }
            (status, Ok(Status::Partial)) => return Start::Status(status, Ok(None)),
            (status, Err(Error::TooManyHeaders)) => return Start::Status(status, Err(TOO_MANY)),
            (status, Err(_)) => return Start::Status(status, Err(NO_LINE)),
        }
    }
}

fn framing(fields: &[Header<'_>]) -> Result<Framing, &'static str> {
    let mut framing = Framing::UntilTheEnd;
    for Header { name, value } in fields {
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case("Transfer-Encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err("the answer has a transfer encoding that was not requested");
            }
            framing = Framing::Chunked;
        } else if name.eq_ignore_ascii_case("Content-Length") && !matches!(framing, Framing::Chunked) {
            let digits = std::str::from_utf8(value).ok().filter(|_| value.iter().all(u8::is_ascii_digit));
            let length = digits.and_then(|digits| digits.parse().ok());
            framing = Framing::Length(length.ok_or("the answer's Content-Length is no number")?);
        }
    }
    Ok(framing)
}

/// The body without its chunk framing (RFC 9112, 7.1). `None`: the last chunk is missing. Trailers are not
/// waited for.
fn dechunked(mut rest: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    let mut body = Vec::new();
    loop {
        // The parser takes a line without a digit for the last chunk.
        if rest.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
            return Err(NO_CHUNK);
        }
        let Status::Complete((line, size)) = parse_chunk_size(rest).map_err(|_| NO_CHUNK)? else {
            return Ok(None);
        };
        let size = usize::try_from(size).map_err(|_| NO_CHUNK)?;
        if size == 0 {
            return Ok(Some(body));
        }
        let tail = &rest[line..];
        let Some(chunk) = tail.get(..size) else { return Ok(None) };
        body.extend_from_slice(chunk);
        rest = match &tail[size..] {
            [b'\r', b'\n', after @ ..] => after,
            [] | [b'\r'] => return Ok(None),
            _ => return Err(NO_CHUNK),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_http_1_status_line_is_read() {
        for line in [
            "HTTP/1.1 200 OK\r\n",
            "HTTP/1.0 200\r\n",
            "HTTP/1.1 200 \n",
            "HTTP/1.1 200 x y\r\nA: b",
            "HTTP/1.1 200 gr\u{fc}n\r\n",
            "HTTP/1.1 200 OK\r\nno field\r\n\r\n",
        ] {
            assert_eq!(status(line.as_bytes()), Reading::Status(200), "{line:?}");
        }
    }

    #[test]
    fn a_partial_status_line_waits_for_more_data() {
        let line = "HTTP/1.1 503 Service Unavailable\r\n";
        for length in 0..line.len() {
            assert_eq!(status(&line.as_bytes()[..length]), Reading::More, "{length}");
        }
        assert_eq!(status(line.as_bytes()), Reading::Status(503));
    }

    #[test]
    fn interim_responses_are_skipped() {
        let answer = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n";
        assert_eq!(status(answer.as_bytes()), Reading::Status(204));
        assert_eq!(status(&answer.as_bytes()[..40]), Reading::More);
        assert_eq!(status(b"HTTP/1.1 103 Early Hints\r\nnonsense\r\n"), Reading::Unfit);
    }

    #[test]
    fn anything_but_http_1_is_refused() {
        let others = [
            "220 mail",
            "HTTP/2 200\n",
            "HTTP/1.9 200\n", // there is no such version, and there won't be
            "HTTP/1.1  200\n",
            "HTTP/1.1 20\n",
            "HTTP/1.1 2000\n",
            "HTTP/1.x 200\n",
            "HTTP/1.1 099 x\n",
            "HTTP/1.1\n",
            "HTTP/1.1 200 a\0b\n",
            "<html>",
            "\n",
            "\r\nHTTP/1.1 200 OK\r\n",
        ];
        for line in others {
            assert_eq!(status(line.as_bytes()), Reading::Unfit, "{line:?}");
        }
    }

    const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nWiki\r\n6;x=y\r\npedia \r\nB\r\nin \r\nchunks\r\n0\r\n\r\n";
    const SIZED: &str = "HTTP/1.1 404 Not Found\r\nA: b\r\ncontent-length: 5\r\n\r\nhello";

    fn body(answer: &str, closed: bool) -> Result<Option<String>, &'static str> {
        Ok(read(answer.as_bytes(), closed)?.map(|found| String::from_utf8(found.body.into_owned()).unwrap()))
    }

    #[test]
    fn the_body_ends_where_the_header_says() {
        assert_eq!(body(CHUNKED, false), Ok(Some("Wikipedia in \r\nchunks".into())));
        assert_eq!(body(SIZED, false), Ok(Some("hello".into())));
        let open = "HTTP/1.0 200 OK\r\n\r\nall of it";
        assert_eq!((body(open, false), body(open, true)), (Ok(None), Ok(Some("all of it".into()))));
    }

    #[test]
    fn a_partial_response_waits_for_more_or_is_truncated() {
        for (answer, whole) in [(CHUNKED, CHUNKED.len() - 2), (SIZED, SIZED.len())] {
            for length in 0..whole {
                assert_eq!(body(&answer[..length], false), Ok(None), "{:?}", &answer[..length]);
                body(&answer[..length], true).unwrap_err();
            }
        }
    }

    #[test]
    fn a_body_without_a_detectable_end_is_refused() {
        let many = "A: b\r\n".repeat(MOST_FIELDS) + "A: b";
        for header in [
            "Transfer-Encoding: gzip",
            "Content-Length: 5x",
            "Content-Length: -1",
            "Content-Length: +1",
            "Content-Length:",
            "Content-Length : 5",
            "nonsense",
            &many,
        ] {
            body(&format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n"), false).unwrap_err();
        }
        for chunk in ["x\r\n", "-4\r\nWiki\r\n", "ffffffffffffffffff\r\n", "3\r\nWiki\r\n", "\r\n"] {
            let answer = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunk}");
            body(&answer, false).unwrap_err();
        }
        body("SSH-2.0\r\n", false).unwrap_err();
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_cause_no_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            // Contract: X2
            let _ = read(&bytes, true);
            for header in ["Transfer-Encoding: chunked", "Content-Length: 7"] {
                let answer = [format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n").as_bytes(), &bytes].concat();
                let _ = read(&answer, false);
            }
        }
    }
}
