//! Reads a whole HTTP/1 answer: its status and its body (RFC 9112, 6 and 7.1), without I/O.

use std::borrow::Cow;

use super::http::{Reading, status};

/// An answer.
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
    let (status, rest) = match status(answer) {
        Reading::Status(status, rest) => (status, rest),
        Reading::More if closed => return Err("the connection was closed before the end of a status line"),
        Reading::More => return Ok(None),
        Reading::Unfit => return Err("the answer is not HTTP/1"),
    };
    let body = match header(rest)? {
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

/// How the end of the body is found.
enum Framing {
    Chunked,
    Length(usize),
    UntilTheEnd,
}

/// The framing from the header, and what follows the header. `None`: the header is incomplete.
fn header(mut rest: &[u8]) -> Result<Option<(Framing, &[u8])>, &'static str> {
    let mut framing = Framing::UntilTheEnd;
    loop {
        let Some((line, tail)) = line(rest) else { return Ok(None) };
        rest = tail;
        if line.is_empty() {
            return Ok(Some((framing, rest)));
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Err("the answer has a line in its header that is none");
        };
        let value = line[colon + 1..].trim_ascii();
        if line[..colon].eq_ignore_ascii_case(b"Transfer-Encoding") {
            if !value.eq_ignore_ascii_case(b"chunked") {
                return Err("the answer has a transfer encoding that was not requested");
            }
            framing = Framing::Chunked;
        } else if line[..colon].eq_ignore_ascii_case(b"Content-Length")
            && !matches!(framing, Framing::Chunked)
        {
            let length = std::str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            framing = Framing::Length(length.ok_or("the answer's Content-Length is no number")?);
        }
    }
}

/// The line before the first line end, and what follows that.
fn line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    Some((bytes[..end].strip_suffix(b"\r").unwrap_or(&bytes[..end]), &bytes[end + 1..]))
}

/// The body without its chunk framing. `None`: the last chunk is missing. Trailers are not waited for.
fn dechunked(mut rest: &[u8]) -> Result<Option<Vec<u8>>, &'static str> {
    const BAD: &str = "the answer has a chunk that is none";
    let mut body = Vec::new();
    loop {
        let Some((size, tail)) = line(rest) else { return Ok(None) };
        let digits = size.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        if !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(BAD);
        }
        let size = std::str::from_utf8(digits).ok().and_then(|digits| usize::from_str_radix(digits, 16).ok());
        match size.ok_or(BAD)? {
            0 => return Ok(Some(body)),
            size => {
                let Some(chunk) = tail.get(..size) else { return Ok(None) };
                body.extend_from_slice(chunk);
                match line(&tail[size..]) {
                    Some((b"", after)) => rest = after,
                    Some(_) => return Err(BAD),
                    None => return Ok(None),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn every_part_of_an_answer_waits_for_more_or_is_cut() {
        for (answer, whole) in [(CHUNKED, CHUNKED.len() - 2), (SIZED, SIZED.len())] {
            for length in 0..whole {
                assert_eq!(body(&answer[..length], false), Ok(None), "{:?}", &answer[..length]);
                body(&answer[..length], true).unwrap_err();
            }
        }
    }

    #[test]
    fn what_has_no_end_that_can_be_found_is_refused() {
        for header in ["Transfer-Encoding: gzip", "Content-Length: 5x", "Content-Length: -1", "nonsense"] {
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
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            // Contract: X2
            let _ = read(&bytes, true);
            for header in ["Transfer-Encoding: chunked", "Content-Length: 7"] {
                let answer = [format!("HTTP/1.1 200 OK\r\n{header}\r\n\r\n").as_bytes(), &bytes].concat();
                let _ = read(&answer, false);
            }
        }
    }
}
