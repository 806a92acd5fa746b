//! HTTP/1.1 requests and answers (RFC 9112).

use super::extra::Extra;
use super::record::{Failed, Stage};
use super::target::Kind;

/// What became of an answer so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// More is to come; a connection that ends now ends at this stage.
    More(Stage),
    /// The answer is complete. `reusable`: whether the connection takes another request.
    Done { reusable: bool },
    /// The server ended the connection as its protocol provides, and lost nothing.
    ClosedPolitely,
    /// The answer is invalid, or says that the service failed.
    Failed(Failed),
}

/// The most bytes of an answer's head.
const MOST_HEAD: usize = 64 * 1024;
/// The most headers of an answer.
const MOST_HEADERS: usize = 128;

/// One client's requests, one after the other.
#[derive(Debug)]
pub(crate) struct Http {
    request: Vec<u8>,
    /// Where the request pauses: between the halves of its body.
    pause_at: Option<usize>,
    accepted: Accepted,
    state: State,
}

/// The statuses that a good answer has: a range, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Accepted(pub(crate) u16, pub(crate) u16);

impl Accepted {
    pub(crate) fn check(self, status: u16) -> Result<(), Failed> {
        if (self.0..=self.1).contains(&status) {
            return Ok(());
        }
        let cause = format!("status {status}");
        Err(Failed { stage: Stage::Status, cause, status: Some(status) })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of the body are to come.
    Length {
        left: u64,
        close: bool,
    },
    Chunked {
        chunk: Chunk,
        close: bool,
    },
    UntilClose,
}

/// Where in a chunked body the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    Size,
    /// So many bytes of the chunk, and its CR LF.
    Data(u64),
    /// The lines after the last chunk.
    Trailer,
}

impl Http {
    pub(crate) fn new(kind: Kind, host: &str, path: &str, accepted: Accepted, extra: &Extra) -> Self {
        let has_body = matches!(kind, Kind::Post | Kind::PostHalf);
        let method = if has_body { "POST" } else { "GET" };
        let length = extra.body.len().to_string();
        let mut headers = vec![("Host", host), ("User-Agent", "psflip-rehearse")];
        if has_body {
            headers.extend([("Content-Type", "application/octet-stream"), ("Content-Length", &length)]);
        }
        if matches!(kind, Kind::New | Kind::PostHalf | Kind::Stream) {
            headers.push(("Connection", "close"));
        }
        let mut request = extra.head(&format!("{method} {path} HTTP/1.1"), &headers);
        let pause_at = (kind == Kind::PostHalf).then_some(request.len() + extra.body.len() / 2);
        if has_body {
            request.extend_from_slice(&extra.body);
        }
        Self { request, pause_at, accepted, state: State::Head }
    }

    /// Appends the next request. Returns where it pauses.
    pub(crate) fn request(&mut self, out: &mut Vec<u8>) -> Option<usize> {
        self.state = State::Head;
        out.extend_from_slice(&self.request);
        self.pause_at
    }

    /// Takes what has arrived from `input`. `is_end`: the server sends no more.
    pub(crate) fn receive(&mut self, input: &mut Vec<u8>, is_end: bool) -> Progress {
        loop {
            let next = match self.state {
                State::Head if input.is_empty() => return Progress::More(Stage::FirstByte),
                State::Head => self.head(input),
                State::Length { left, close } => Ok(length(input, left, close)),
                State::Chunked { chunk, close } => chunked(input, chunk, close),
                State::UntilClose => {
                    input.clear();
                    Ok(if is_end { Next::Done { close: true } } else { Next::More(State::UntilClose) })
                }
            };
            match next {
                Ok(Next::Go(state)) => self.state = state,
                Ok(Next::More(state)) => {
                    self.state = state;
                    return Progress::More(if state == State::Head { Stage::Head } else { Stage::Body });
                }
                Ok(Next::Done { close }) => return Progress::Done { reusable: !close },
                Err(failed) => return Progress::Failed(failed),
            }
        }
    }

    fn head(&self, input: &mut Vec<u8>) -> Result<Next, Failed> {
        let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
        let mut answer = httparse::Response::new(&mut headers);
        let length = match answer.parse(input) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if input.len() > MOST_HEAD => {
                return Err(Failed::new(Stage::Protocol, format!("a head of more than {MOST_HEAD} bytes")));
            }
            Ok(httparse::Status::Partial) => return Ok(Next::More(State::Head)),
            Err(error) => return Err(Failed::new(Stage::Protocol, format!("invalid HTTP: {error}"))),
        };
        let status = answer.code.unwrap_or_default();
        if (100..200).contains(&status) && status != 101 {
            input.drain(..length);
            return Ok(Next::Go(State::Head));
        }
        self.accepted.check(status)?;
        let state = body(&answer, status)?;
        input.drain(..length);
        Ok(Next::Go(state))
    }
}

enum Next {
    Go(State),
    More(State),
    Done { close: bool },
}

/// How the body of an answer is delimited (RFC 9112, section 6.3).
fn body(answer: &httparse::Response<'_, '_>, status: u16) -> Result<State, Failed> {
    let is_old = answer.version == Some(0);
    let mut close = is_old;
    let (mut length, mut is_chunked) = (None, false);
    for header in answer.headers.iter() {
        let value = String::from_utf8_lossy(header.value);
        let has = |word: &str| value.split(',').any(|part| part.trim().eq_ignore_ascii_case(word));
        if header.name.eq_ignore_ascii_case("connection") {
            close = has("close") || (is_old && !has("keep-alive"));
        } else if header.name.eq_ignore_ascii_case("transfer-encoding") {
            is_chunked = has("chunked");
        } else if header.name.eq_ignore_ascii_case("content-length") {
            let number = value.trim().parse::<u64>();
            length =
                Some(number.map_err(|_| Failed::new(Stage::Protocol, format!("Content-Length `{value}`")))?);
        }
    }
    if matches!(status, 204 | 304) {
        return Ok(State::Length { left: 0, close });
    }
    Ok(match length {
        _ if is_chunked => State::Chunked { chunk: Chunk::Size, close },
        Some(left) => State::Length { left, close },
        None => State::UntilClose,
    })
}

fn length(input: &mut Vec<u8>, left: u64, close: bool) -> Next {
    let taken = (input.len() as u64).min(left);
    input.drain(..taken as usize);
    match left - taken {
        0 => Next::Done { close },
        left => Next::More(State::Length { left, close }),
    }
}

fn chunked(input: &mut Vec<u8>, chunk: Chunk, close: bool) -> Result<Next, Failed> {
    let go = |chunk| Next::Go(State::Chunked { chunk, close });
    let more = |chunk| Next::More(State::Chunked { chunk, close });
    match chunk {
        Chunk::Size => match httparse::parse_chunk_size(input) {
            Ok(httparse::Status::Complete((at, 0))) => {
                input.drain(..at);
                Ok(go(Chunk::Trailer))
            }
            Ok(httparse::Status::Complete((at, size))) => {
                input.drain(..at);
                Ok(go(Chunk::Data(size.saturating_add(2))))
            }
            Ok(httparse::Status::Partial) => Ok(more(Chunk::Size)),
            Err(_) => Err(Failed::new(Stage::Protocol, "an invalid chunk size")),
        },
        Chunk::Data(left) => {
            let taken = (input.len() as u64).min(left);
            input.drain(..taken as usize);
            Ok(match left - taken {
                0 => go(Chunk::Size),
                left => more(Chunk::Data(left)),
            })
        }
        Chunk::Trailer => {
            let Some(at) = input.windows(2).position(|window| window == b"\r\n") else {
                return Ok(more(Chunk::Trailer));
            };
            input.drain(..at + 2);
            Ok(if at == 0 { Next::Done { close } } else { go(Chunk::Trailer) })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Accepted = Accepted(200, 399);

    fn receive(parts: &[&str], is_end: bool) -> Progress {
        let mut http = Http::new(Kind::KeepAlive, "h", "/", GOOD, &Extra::default());
        let (mut input, mut out) = (Vec::new(), Vec::new());
        http.request(&mut out);
        let mut last = Progress::More(Stage::FirstByte);
        for (number, part) in parts.iter().enumerate() {
            input.extend_from_slice(part.as_bytes());
            last = http.receive(&mut input, is_end && number + 1 == parts.len());
        }
        assert!(!matches!(last, Progress::Done { .. }) || input.is_empty(), "{input:?}");
        last
    }

    #[test]
    fn answers_end_as_their_heads_say() {
        let done = |reusable| Progress::Done { reusable };
        assert_eq!(receive(&["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"], false), done(true));
        let close = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(receive(&[close], false), done(false));
        assert_eq!(receive(&["HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"], false), done(false));
        assert_eq!(receive(&["HTTP/1.1 204 No Content\r\n\r\n"], false), done(true));
        assert_eq!(receive(&["HTTP/1.1 200 OK\r\n\r\n", "all"], true), done(false));
        let chunked =
            ["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r", "\nabc\r\n0\r\nA: b\r\n", "\r\n"];
        assert_eq!(receive(&chunked, false), done(true));
        let after_continue =
            ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"];
        assert_eq!(receive(&after_continue, false), done(true));
    }

    #[test]
    fn a_connection_that_ends_early_ends_at_a_stage() {
        assert_eq!(receive(&[""], true), Progress::More(Stage::FirstByte));
        assert_eq!(receive(&["HTTP/1.1 20"], true), Progress::More(Stage::Head));
        let short = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc";
        assert_eq!(receive(&[short], true), Progress::More(Stage::Body));
        let open = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n";
        assert_eq!(receive(&[open], true), Progress::More(Stage::Body));
    }

    #[test]
    fn a_bad_status_is_a_failure_of_the_service() {
        let Progress::Failed(failed) =
            receive(&["HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"], false)
        else {
            panic!("no failure")
        };
        assert_eq!((failed.stage, failed.status), (Stage::Status, Some(502)));
        let invalid = receive(&["nonsense\r\n\r\n"], false);
        assert!(matches!(invalid, Progress::Failed(failed) if failed.stage == Stage::Protocol));
    }

    #[test]
    fn half_a_body_is_sent_before_the_pause() {
        let extra = Extra { body: b"0123456789".to_vec(), ..Extra::default() };
        let (mut out, mut http) = (Vec::new(), Http::new(Kind::PostHalf, "h", "/p", GOOD, &extra));
        let pause = http.request(&mut out).unwrap();
        assert_eq!(&out[pause..], b"56789");
        assert!(String::from_utf8_lossy(&out).starts_with("POST /p HTTP/1.1\r\nHost: h\r\n"));
    }
}
