//! Records of FastCGI (<https://fastcgi-archives.github.io/FastCGI_Specification.html>, section 3.3), as far
//! as a relay must know them: where each begins and ends, and which request it belongs to.

/// The bytes of a record's header.
pub(super) const HEADER: usize = 8;

/// Kinds of records (section 8).
pub(super) const BEGIN_REQUEST: u8 = 1;
pub(super) const END_REQUEST: u8 = 3;
pub(super) const STDIN: u8 = 5;
pub(super) const STDOUT: u8 = 6;
pub(super) const GET_VALUES: u8 = 9;
pub(super) const GET_VALUES_RESULT: u8 = 10;
pub(super) const UNKNOWN_TYPE: u8 = 11;

/// `FCGI_KEEP_CONN`: the flag of a request whose sender wants the connection to stay open (section 5.1).
pub(super) const KEEP_CONNECTION: u8 = 1;

/// The header of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u8,
    pub(super) request: u16,
    /// The bytes of its content.
    pub(super) content: usize,
    /// The bytes after its content, which mean nothing.
    pub(super) padding: usize,
}

impl Header {
    /// # Errors
    /// The version is not 1: these bytes are no FastCGI.
    pub(super) fn parse(bytes: [u8; HEADER]) -> Result<Self, NoFastCgi> {
        let [version, kind, request_high, request_low, content_high, content_low, padding, _] = bytes;
        if version != 1 {
            return Err(NoFastCgi);
        }
        Ok(Self {
            kind,
            request: u16::from_be_bytes([request_high, request_low]),
            content: u16::from_be_bytes([content_high, content_low]).into(),
            padding: padding.into(),
        })
    }

    /// The length of the whole record.
    pub(super) fn length(self) -> usize {
        HEADER + self.content + self.padding
    }
}

/// The bytes are no records of FastCGI.
#[derive(Debug, thiserror::Error)]
#[error("these bytes are not FastCGI")]
pub(super) struct NoFastCgi;

/// A record.
pub(super) fn record(kind: u8, request: u16, content: &[u8]) -> Vec<u8> {
    let mut record = vec![1, kind];
    record.extend(request.to_be_bytes());
    record.extend((content.len() as u16).to_be_bytes());
    record.extend([0, 0]);
    record.extend(content);
    record
}

/// The end of a request: the application's status 0, and `FCGI_REQUEST_COMPLETE` (section 5.5).
pub(super) fn end_request(request: u16) -> Vec<u8> {
    record(END_REQUEST, request, &[0; 8])
}

/// Finds the records in a stream of bytes, whatever pieces it comes in, without keeping their contents.
#[derive(Debug, Default)]
pub(super) struct Framing {
    /// The bytes of a header that has not come whole.
    partial: Vec<u8>,
    /// The record under way, and how many of its bytes are still to come.
    rest: Option<(Header, usize)>,
}

impl Framing {
    /// Whether the next byte is the first of a record.
    pub(super) fn is_between_records(&self) -> bool {
        self.partial.is_empty() && self.rest.is_none()
    }

    /// Looks at the next bytes, up to the end of a record or of `bytes`. Returns how many belong to it, and
    /// the record if it is complete with them.
    ///
    /// # Errors
    /// [`NoFastCgi`].
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<(usize, Option<Header>), NoFastCgi> {
        let mut used = 0;
        if self.rest.is_none() {
            used = bytes.len().min(HEADER - self.partial.len());
            self.partial.extend_from_slice(&bytes[..used]);
            let Ok(header) = <[u8; HEADER]>::try_from(&*self.partial) else { return Ok((used, None)) };
            self.partial.clear();
            let header = Header::parse(header)?;
            self.rest = Some((header, header.content + header.padding));
        }
        let Some((header, rest)) = &mut self.rest else { return Ok((used, None)) };
        let more = (bytes.len() - used).min(*rest);
        *rest -= more;
        let header = *header;
        let is_complete = *rest == 0;
        if is_complete {
            self.rest = None;
        }
        Ok((used + more, is_complete.then_some(header)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_found_in_pieces_of_any_size() {
        let mut bytes = record(STDOUT, 1, b"hello");
        bytes[6] = 3; // padding
        bytes.extend([0, 0, 0]);
        bytes.extend(record(STDOUT, 1, b""));
        bytes.extend(end_request(1));
        for size in 1..=bytes.len() {
            let mut framing = Framing::default();
            let mut kinds = Vec::new();
            for mut piece in bytes.chunks(size) {
                while !piece.is_empty() {
                    let (used, record) = framing.next(piece).unwrap();
                    kinds.extend(record.map(|header| (header.kind, header.content)));
                    piece = &piece[used..];
                }
            }
            assert_eq!(kinds, [(STDOUT, 5), (STDOUT, 0), (END_REQUEST, 8)], "{size}");
        }
        Framing::default().next(b"GET / HTTP/1.1").unwrap_err();
    }
}
