//! A WebSocket client that only pings (RFC 6455): a server must answer each ping with a pong, so this works with
//! any application.

use super::extra::Extra;
use super::http::Progress;
use super::record::{Failed, Stage};

const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;
/// Close codes (section 7.4.1): none, and a server that has failed.
const NO_CODE: u16 = 1005;
const INTERNAL_ERROR: u16 = 1011;
/// FIN, the first bit of an unfragmented frame.
const FIN: u8 = 0x80;
const PAYLOAD: &[u8; 8] = b"rehearse";
/// Clients must mask frames; the key protects proxies from scripts in browsers, so any will do here.
const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// One client's connection.
#[derive(Debug)]
pub(crate) struct Websocket {
    handshake: Vec<u8>,
    is_open: bool,
    /// Answers to the server's own pings.
    pongs: Vec<u8>,
}

impl Websocket {
    pub(crate) fn new(host: &str, path: &str, extra: &Extra) -> Self {
        let own = [
            ("Host", host),
            ("Upgrade", "websocket"),
            ("Connection", "Upgrade"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Sec-WebSocket-Version", "13"),
        ];
        let handshake = extra.head(&format!("GET {path} HTTP/1.1"), &own);
        Self { handshake, is_open: false, pongs: Vec::new() }
    }

    /// What is to be sent besides requests.
    pub(crate) fn take_pongs(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.pongs)
    }

    /// Appends the handshake if the connection is new, or a ping.
    pub(crate) fn request(&mut self, is_first: bool, out: &mut Vec<u8>) {
        if is_first {
            self.is_open = false;
            out.extend_from_slice(&self.handshake);
        } else {
            frame(out, PING, PAYLOAD);
        }
    }

    /// Takes what has arrived from `input`.
    pub(crate) fn receive(&mut self, input: &mut Vec<u8>) -> Progress {
        if !self.is_open {
            return self.handshake_answer(input);
        }
        loop {
            let Some((opcode, payload, length)) = parse(input) else {
                return Progress::More(if input.is_empty() { Stage::FirstByte } else { Stage::Body });
            };
            let is_ours = payload == PAYLOAD;
            let code = payload.get(..2).map_or(NO_CODE, |code| u16::from_be_bytes([code[0], code[1]]));
            if opcode == PING && payload.len() < 126 {
                frame(&mut self.pongs, PONG, payload);
            }
            input.drain(..length);
            match opcode {
                PONG if is_ours => return Progress::Done { reusable: true },
                CLOSE if code == INTERNAL_ERROR => {
                    return Progress::Failed(Failed::new(
                        Stage::Body,
                        format!("close frame with code {code}"),
                    ));
                }
                CLOSE => return Progress::ClosedPolitely,
                _ => {}
            }
        }
    }

    fn handshake_answer(&mut self, input: &mut Vec<u8>) -> Progress {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut answer = httparse::Response::new(&mut headers);
        match answer.parse(input) {
            Ok(httparse::Status::Complete(length)) if answer.code == Some(101) => {
                input.drain(..length);
                self.is_open = true;
                Progress::Done { reusable: true }
            }
            Ok(httparse::Status::Complete(_)) => {
                let status = answer.code.unwrap_or_default();
                let cause = format!("status {status} instead of 101 Switching Protocols");
                Progress::Failed(Failed { stage: Stage::Status, cause, status: Some(status) })
            }
            Ok(httparse::Status::Partial) if input.is_empty() => Progress::More(Stage::FirstByte),
            Ok(httparse::Status::Partial) => Progress::More(Stage::Head),
            Err(error) => Progress::Failed(Failed::new(Stage::Protocol, format!("invalid HTTP: {error}"))),
        }
    }
}

/// The close frame of a client that leaves (status 1001).
pub(crate) fn goodbye() -> Vec<u8> {
    let mut out = Vec::new();
    frame(&mut out, CLOSE, &1001_u16.to_be_bytes());
    out
}

fn frame(out: &mut Vec<u8>, opcode: u8, payload: &[u8]) {
    out.extend_from_slice(&[FIN | opcode, 0x80 | payload.len() as u8]);
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
}

/// The opcode, the payload and the whole length of the first frame, if it is complete.
fn parse(input: &[u8]) -> Option<(u8, &[u8], usize)> {
    let (&first, &second) = (input.first()?, input.get(1)?);
    let (start, length) = match second & 0x7f {
        126 => (4, u64::from(u16::from_be_bytes(input.get(2..4)?.try_into().ok()?))),
        127 => (10, u64::from_be_bytes(input.get(2..10)?.try_into().ok()?)),
        short => (2, u64::from(short)),
    };
    let end = start + usize::try_from(length).ok()?;
    Some((first & 0x0f, input.get(start..end)?, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pings_are_answered_between_other_frames() {
        let mut socket = Websocket::new("h", "/", &Extra::default());
        let mut input = b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec();
        assert_eq!(socket.receive(&mut input), Progress::Done { reusable: true });
        let mut input = b"\x81\x02hi".to_vec();
        assert_eq!(socket.receive(&mut input), Progress::More(Stage::FirstByte));
        input.extend_from_slice(b"\x8a\x08rehearse");
        assert_eq!(socket.receive(&mut input), Progress::Done { reusable: true });
        assert_eq!(socket.receive(&mut b"\x88\x02\x03\xe9".to_vec()), Progress::ClosedPolitely);
        let failed = socket.receive(&mut b"\x88\x02\x03\xf3".to_vec());
        assert!(matches!(failed, Progress::Failed(failed) if failed.cause.contains("1011")));
        assert_eq!(socket.receive(&mut b"\x81".to_vec()), Progress::More(Stage::Body));
    }

    #[test]
    fn pings_of_the_server_are_answered() {
        let mut socket = Websocket::new("h", "/", &Extra::default());
        socket.receive(&mut b"HTTP/1.1 101 Switching Protocols\r\n\r\n".to_vec());
        assert_eq!(socket.receive(&mut b"\x89\x02hi".to_vec()), Progress::More(Stage::FirstByte));
        let pong = socket.take_pongs();
        let payload: Vec<u8> =
            pong[6..].iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!((pong[0], payload), (0x8a, b"hi".to_vec()));
    }

    #[test]
    fn a_refused_handshake_is_a_failure() {
        let mut socket = Websocket::new("h", "/", &Extra::default());
        let refused = socket.receive(&mut b"HTTP/1.1 404 Not Found\r\n\r\n".to_vec());
        assert!(matches!(refused, Progress::Failed(failed) if failed.status == Some(404)));
    }

    #[test]
    fn frames_of_a_client_are_masked() {
        let mut out = Vec::new();
        frame(&mut out, PING, PAYLOAD);
        assert_eq!(out[..2], [0x89, 0x88]);
        let unmasked: Vec<u8> =
            out[6..].iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
        assert_eq!(unmasked, PAYLOAD);
    }
}
