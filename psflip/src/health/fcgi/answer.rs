//! The answer to an `fcgi` check, decoded record by record as it arrives (FastCGI 1.0,
//! 3.3 and 5), without I/O.

use super::request::{REQUEST_ID, VERSION};
use crate::text;

const END_REQUEST: u8 = 3;
const STDOUT: u8 = 6;
const STDERR: u8 = 7;

/// The longest header of an answer, in bytes.
const LONGEST_HEADER: usize = 8 * 1024;
/// How much of STDERR is kept, in bytes.
const KEPT: usize = 4 * 1024;
/// How much of a line is shown, in characters.
const SHOWN: usize = 60;

/// The state of decoding an answer.
#[derive(Debug, Default)]
pub(super) struct Answer {
    /// The header of the current record, as far as it has arrived.
    record: Vec<u8>,
    /// How much of the record's content and of its padding has not arrived yet.
    content: usize,
    padding: usize,
    /// The body of END_REQUEST.
    end: Vec<u8>,
    /// STDOUT, up to the end of the header that it begins with.
    header: Vec<u8>,
    header_is_whole: bool,
    stderr: Vec<u8>,
}

impl Answer {
    /// Decodes the next bytes. Returns the status once the answer is complete, and ignores what follows.
    ///
    /// # Errors
    /// Why the answer is invalid, or can't be healthy.
    pub(super) fn take(&mut self, mut bytes: &[u8]) -> Result<Option<u16>, String> {
        while !bytes.is_empty() {
            if self.record.len() < 8 {
                let part = split(&mut bytes, 8 - self.record.len());
                self.record.extend_from_slice(part);
                if self.record.len() == 8 || !self.record.starts_with(&[VERSION]) {
                    self.begin_record()?;
                }
            } else if self.content > 0 {
                let part = split(&mut bytes, self.content);
                self.content -= part.len();
                self.take_content(part)?;
            } else {
                self.padding -= split(&mut bytes, self.padding).len();
            }
            // A record without content is complete when its header is.
            if self.record.len() == 8 && self.content == 0 {
                if self.record[1] == END_REQUEST {
                    return self.judge_end().map(Some);
                }
                if self.padding == 0 {
                    self.record.clear();
                }
            }
        }
        Ok(None)
    }

    /// The error message for a connection that was closed too early.
    pub(super) fn cut(&self) -> String {
        let place = match (self.record.is_empty() && self.stderr.is_empty(), self.header.is_empty()) {
            (true, true) => "the connection was closed without an answer",
            (_, true) => "the connection was closed before a header",
            (_, false) if !self.header_is_whole => "the connection was closed in the middle of the header",
            (_, false) => "the connection was closed before the end of the request (FCGI_END_REQUEST)",
        };
        place.to_owned()
    }

    /// The last part of STDERR.
    pub(super) fn stderr(&self) -> &[u8] {
        &self.stderr
    }

    fn begin_record(&mut self) -> Result<(), String> {
        let &[VERSION, kind, id_high, id_low, high, low, padding, _] = self.record.as_slice() else {
            return Err(format!(
                "the answer is not FastCGI 1: a record began with `{}`",
                self.record.escape_ascii()
            ));
        };
        let id = u16::from_be_bytes([id_high, id_low]);
        self.content = usize::from(u16::from_be_bytes([high, low]));
        self.padding = usize::from(padding);
        match (id, kind) {
            (0, _) => Ok(()), // a management record that was not requested
            (REQUEST_ID, END_REQUEST) if self.content != 8 => {
                Err(format!("malformed: FCGI_END_REQUEST has {} bytes instead of 8", self.content))
            }
            (REQUEST_ID, STDOUT | STDERR | END_REQUEST) => Ok(()),
            (REQUEST_ID, _) => Err(format!("malformed: an application sends no record of type {kind}")),
            _ => Err(format!("malformed: a record for request {id}, which was not made")),
        }
    }

    fn take_content(&mut self, part: &[u8]) -> Result<(), String> {
        match (self.record[1], self.record[2..4] == [0, 0]) {
            (END_REQUEST, false) => self.end.extend_from_slice(part),
            (STDERR, false) => {
                self.stderr.extend_from_slice(part);
                let surplus = self.stderr.len().saturating_sub(KEPT);
                self.stderr.drain(..surplus);
            }
            (STDOUT, false) if !self.header_is_whole => {
                // The start of the last line, which is incomplete.
                let line = self.header.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
                self.header.extend_from_slice(part);
                self.look_for_the_end_of_the_header(line)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn look_for_the_end_of_the_header(&mut self, mut line: usize) -> Result<(), String> {
        while let Some(length) = self.header[line..].iter().position(|byte| *byte == b'\n') {
            let text = &self.header[line..line + length];
            if text.is_empty() || text == b"\r" {
                self.header.truncate(line);
                self.header_is_whole = true;
                return Ok(());
            }
            if field(text).is_none() {
                let shown = text::head(&String::from_utf8_lossy(text), SHOWN);
                return Err(format!("malformed: `{shown}` is no line of a header"));
            }
            line += length + 1;
        }
        if self.header.len() > LONGEST_HEADER {
            return Err("no end of the header within 8 KiB".to_owned());
        }
        Ok(())
    }

    /// Evaluates the complete answer.
    fn judge_end(&self) -> Result<u16, String> {
        let [app @ .., protocol, _, _, _] = self.end.as_slice() else {
            return Err("malformed: FCGI_END_REQUEST is for no request".to_owned());
        };
        match protocol {
            0 => {}
            1 => {
                return Err("the application takes no more requests on this connection (FCGI_CANT_MPX_CONN)"
                    .to_owned());
            }
            2 => return Err("the application is overloaded (FCGI_OVERLOADED)".to_owned()),
            3 => return Err("the application is no responder (FCGI_UNKNOWN_ROLE)".to_owned()),
            other => return Err(format!("malformed: protocol status {other}")),
        }
        let code = app.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        if code != 0 {
            return Err(format!("the application ended the request with exit status {}", code.cast_signed()));
        }
        if !self.header_is_whole {
            let what = if self.header.is_empty() { "the answer is empty" } else { "the header has no end" };
            return Err(what.to_owned());
        }
        self.status()
    }

    /// The status in the header (RFC 3875, 6.2): a redirection needs none, and 200 is the default.
    fn status(&self) -> Result<u16, String> {
        let mut status = 200;
        for (name, value) in self.header.split(|byte| *byte == b'\n').filter_map(field) {
            if name.eq_ignore_ascii_case(b"Status") {
                return match value {
                    [a @ b'1'..=b'9', b, c] | [a @ b'1'..=b'9', b, c, b' ', ..]
                        if b.is_ascii_digit() && c.is_ascii_digit() =>
                    {
                        Ok([a, b, c]
                            .into_iter()
                            .fold(0, |number, digit| number * 10 + u16::from(digit - b'0')))
                    }
                    other => {
                        let shown = text::head(&String::from_utf8_lossy(other), SHOWN);
                        Err(format!("malformed: `Status: {shown}` is no status"))
                    }
                };
            }
            if name.eq_ignore_ascii_case(b"Location") {
                status = 302;
            }
        }
        Ok(status)
    }
}

/// Takes at most `most` bytes from the front.
fn split<'a>(bytes: &mut &'a [u8], most: usize) -> &'a [u8] {
    let (part, rest) = bytes.split_at(most.min(bytes.len()));
    *bytes = rest;
    part
}

/// Name and value of a header line.
fn field(line: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = line.iter().position(|byte| *byte == b':')?;
    let name = &line[..colon];
    let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    is_name.then(|| (name, line[colon + 1..].trim_ascii()))
}

#[cfg(test)]
mod tests {
    use super::super::request::record;
    use super::*;

    /// An answer of these records, with this END_REQUEST if there is one.
    fn answer(records: &[(u8, &[u8])], end: Option<[u8; 8]>) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, content) in records {
            record(&mut bytes, *kind, content);
        }
        if let Some(end) = end {
            record(&mut bytes, END_REQUEST, &end);
        }
        bytes
    }

    const COMPLETE: Option<[u8; 8]> = Some([0; 8]);

    /// The result, which must be the same if the bytes arrive at once or one by one.
    fn read(bytes: &[u8]) -> Result<Option<u16>, String> {
        let at_once = Answer::default().take(bytes);
        let mut slow = Answer::default();
        let mut last = Ok(None);
        for byte in bytes {
            last = slow.take(&[*byte]);
            if !matches!(last, Ok(None)) {
                break;
            }
        }
        assert_eq!(at_once, last, "it matters how it comes: {}", bytes.escape_ascii());
        at_once
    }

    fn read_header(header: &str) -> Result<Option<u16>, String> {
        read(&answer(&[(STDOUT, header.as_bytes()), (STDOUT, b"")], COMPLETE))
    }

    #[test]
    fn the_status_is_that_of_the_header() {
        // Contract: H1
        for (header, status) in [
            ("Status: 503 Service Unavailable\r\nA: b\r\n\r\nbody", 503),
            ("Content-type: text/html\r\nstatus:204\r\n\r\n", 204),
            ("A: b\n\nStatus: 500\n\n", 200),
            ("Location: /elsewhere\r\n\r\n", 302),
            ("Location: /elsewhere\r\nStatus: 201\r\n\r\n", 201),
        ] {
            assert_eq!(read_header(header), Ok(Some(status)), "{header:?}");
        }
    }

    #[test]
    fn an_answer_may_be_split_into_any_records_with_padding_and_stderr() {
        // Contract: H1
        let mut bytes = answer(&[(STDERR, b"careful"), (STDOUT, b"Sta"), (STDERR, b"!")], None);
        bytes.extend_from_slice(&[1, STDOUT, 0, 1, 0, 9, 7, 0]);
        bytes.extend_from_slice(b"tus: 404\r_______");
        bytes.extend_from_slice(&[1, 10, 0, 0, 0, 2, 0, 0, b'x', b'y']); // a management record
        bytes.extend(answer(&[(STDOUT, b"\n\r\nbody"), (STDOUT, b"more"), (STDOUT, b"")], COMPLETE));
        assert_eq!(read(&bytes), Ok(Some(404)));
        let mut whole = Answer::default();
        whole.take(&bytes).unwrap();
        assert_eq!(whole.stderr(), b"careful!");
    }

    #[test]
    fn only_the_last_part_of_stderr_is_kept() {
        // Contract: X2
        let mut answer_ = Answer::default();
        for _ in 0..3 {
            answer_.take(&answer(&[(STDERR, &[b'x'; 60_000]), (STDERR, b"end")], None)).unwrap();
        }
        assert_eq!(answer_.stderr().len(), KEPT);
        assert!(answer_.stderr().ends_with(b"xend"));
    }

    #[test]
    fn a_partial_answer_waits_for_more_data() {
        // Contract: H1
        let bytes = answer(&[(STDOUT, b"Status: 200\r\n\r\nbody"), (STDOUT, b"")], COMPLETE);
        for length in 0..bytes.len() {
            assert_eq!(Answer::default().take(&bytes[..length]), Ok(None), "{length}");
        }
    }

    #[test]
    fn the_end_request_status_of_the_application_counts() {
        // Contract: H1, H4
        let fine: &[(u8, &[u8])] = &[(STDOUT, b"A: b\r\n\r\n")];
        for (end, wanted) in [
            ([0, 0, 0, 7, 0, 0, 0, 0], "exit status 7"),
            ([255, 255, 255, 255, 0, 0, 0, 0], "exit status -1"),
            ([0, 0, 0, 0, 1, 0, 0, 0], "FCGI_CANT_MPX_CONN"),
            ([0, 0, 0, 0, 2, 0, 0, 0], "overloaded"),
            ([0, 0, 0, 0, 3, 0, 0, 0], "no responder"),
            ([0, 0, 0, 0, 9, 0, 0, 0], "protocol status 9"),
        ] {
            let failure = read(&answer(fine, Some(end))).unwrap_err();
            assert!(failure.contains(wanted), "{failure}");
        }
    }

    #[test]
    fn invalid_answers_are_described() {
        // Contract: H4, X2
        let other_id = [1, STDOUT, 0, 9, 0, 0, 0, 0].as_slice();
        let short_end = [1, END_REQUEST, 0, 1, 0, 2, 0, 0, 0, 0].as_slice();
        let odd_kind = [1, 5, 0, 1, 0, 0, 0, 0].as_slice();
        let foreign_end = [1, END_REQUEST, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0].as_slice();
        for (bytes, wanted) in [
            (b"HTTP/1.1 400 Bad Request\r\n".as_slice(), "not FastCGI 1: a record began with `H"),
            (other_id, "request 9, which was not made"),
            (odd_kind, "no record of type 5"),
            (short_end, "2 bytes instead of 8"),
            (foreign_end, "for no request"),
            (&answer(&[(STDOUT, b"<html>\n")], None), "`<html>` is no line of a header"),
            (&answer(&[(STDOUT, b"Status: fine\r\n\r\n")], COMPLETE), "`Status: fine` is no status"),
            (&answer(&[], COMPLETE), "the answer is empty"),
            (&answer(&[(STDOUT, b"A: b\r\n")], COMPLETE), "the header has no end"),
            (&answer(&[(STDOUT, &[b'x'; 9000])], None), "no end of the header within 8 KiB"),
        ] {
            let failure = Answer::default().take(bytes).unwrap_err();
            assert!(failure.contains(wanted), "`{wanted}` is not in: {failure}");
        }
    }

    #[test]
    fn a_truncated_answer_reports_where_it_was_cut() {
        // Contract: H4
        let whole = answer(&[(STDOUT, b"A: b\r\n\r\nbody")], COMPLETE);
        let cut = |length: usize| {
            let mut answer = Answer::default();
            assert_eq!(answer.take(&whole[..length]), Ok(None));
            answer.cut()
        };
        assert!(cut(0).ends_with("without an answer"));
        assert!(cut(4).ends_with("before a header"));
        assert!(cut(11).ends_with("in the middle of the header"));
        assert!(cut(20).ends_with("(FCGI_END_REQUEST)"));
    }

    proptest::proptest! {
        #[test]
        fn arbitrary_bytes_cause_no_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..200)) {
            // Contract: X2
            let mut framed = Answer::default();
            let _ = framed.take(&answer(&[(STDOUT, &bytes)], COMPLETE));
            let _ = Answer::default().take(&bytes);
            let mut plausible = vec![1];
            plausible.extend_from_slice(&bytes);
            let _ = Answer::default().take(&plausible);
        }
    }
}
