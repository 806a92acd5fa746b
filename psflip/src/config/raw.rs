//! Carries bytes that are not UTF-8 through the TOML text that flags are converted to (TOML is UTF-8). Pure.
//!
//! Such a byte becomes [`MARK`] and two hexadecimal digits. The mark is a noncharacter, which no text
//! contains (Unicode, 23.7). If a flag contains it all the same, the bytes of the mark are encoded likewise.
//! So the output of a template can still be decoded.

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

const MARK: char = '\u{FDD0}';

/// The encoded text, and whether it contains a mark.
pub(super) fn encode(value: &OsStr) -> (String, bool) {
    let mut text = String::with_capacity(value.len());
    let mark = |text: &mut String, bytes: &[u8]| {
        for byte in bytes {
            let _ = write!(text, "{MARK}{byte:02X}");
        }
    };
    for chunk in value.as_bytes().utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == MARK {
                mark(&mut text, c.encode_utf8(&mut [0; 4]).as_bytes());
            } else {
                text.push(c);
            }
        }
        mark(&mut text, chunk.invalid());
    }
    let marked = text.contains(MARK);
    (text, marked)
}

/// The reverse of [`encode`].
pub(super) fn decode(text: &str) -> OsString {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split(MARK);
    bytes.extend_from_slice(parts.next().unwrap_or_default().as_bytes());
    for part in parts {
        match part.get(..2).and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend_from_slice(&part.as_bytes()[2..]);
            }
            // A template produced this mark: it is kept as it is.
            None => {
                bytes.extend_from_slice(MARK.encode_utf8(&mut [0; 4]).as_bytes());
                bytes.extend_from_slice(part.as_bytes());
            }
        }
    }
    OsString::from_vec(bytes)
}

/// As [`decode`], but for people: `caf\xE9`.
pub(super) fn unmarked(text: &str) -> String {
    crate::text::lossy(decode(text))
}

/// As [`decode`], for a path.
pub(super) fn path(path: &Path) -> PathBuf {
    path.to_str().map_or_else(|| path.to_owned(), |text| decode(text).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn raw(bytes: &[u8]) -> OsString {
        OsString::from_vec(bytes.to_vec())
    }

    #[test]
    fn utf_8_stays_unchanged() {
        assert_eq!(encode(OsStr::new("café {{ x }}")), ("café {{ x }}".to_owned(), false));
        let (text, marked) = encode(&raw(b"caf\xe9 {{ x }}"));
        assert_eq!((text.as_str(), marked), ("caf\u{FDD0}E9 {{ x }}", true));
        assert_eq!(unmarked(&text), r"caf\xE9 {{ x }}");
        assert_eq!(decode("a\u{FDD0}x\u{FDD0}"), OsString::from("a\u{FDD0}x\u{FDD0}"));
    }

    proptest! {
        #[test]
        fn every_argument_round_trips(bytes: Vec<u8>, marks in "[\u{FDD0}0-9A-Fx]{0,6}") {
            let value = raw(&[&bytes[..], marks.as_bytes(), &bytes].concat());
            prop_assert_eq!(decode(&encode(&value).0), value);
        }
    }
}
