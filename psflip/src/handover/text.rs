//! The text format of a message: a verb, then `key value` lines (see [`super::message`]).

use std::fmt::{Display, Write as _};

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::history::Counts;
use crate::proxy::Hold;
use crate::sys::socket::LONGEST;
use crate::traffic::FileId;

/// A packet that is not a message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub(super) String);

/// The name of an enum value of `history` in JSON.
pub(super) fn word(step: &impl Serialize) -> String {
    serde_json::to_value(step).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

pub(super) fn from_word<T: DeserializeOwned>(word: &str) -> Result<T, Malformed> {
    serde_json::from_value(word.into()).map_err(|error| Malformed(error.to_string()))
}

/// A message under construction.
pub(super) struct Text(String);

impl Text {
    pub(super) fn new(verb: &str) -> Self {
        Self(verb.to_owned())
    }

    pub(super) fn add(&mut self, key: &str, value: &dyn Display) {
        let value = value.to_string().replace('\\', "\\\\").replace('\n', "\\n");
        let _ = write!(self.0, "\n{key} {value}"); // writing to a String can't fail
    }

    pub(super) fn add_hold(&mut self, hold: Option<Hold>) {
        if let Some(Hold { since, max_ms }) = hold {
            self.add("hold-since", &since);
            self.add("hold-ms", &max_ms);
        }
    }

    /// Whether it fits into a packet.
    pub(super) fn fits(&self) -> bool {
        self.0.len() <= LONGEST
    }

    /// Truncates a message that is too long. Only free text at its end can be too long.
    pub(super) fn finish(mut self) -> String {
        if self.0.len() > LONGEST {
            let end = (0..=LONGEST - 3).rev().find(|end| self.0.is_char_boundary(*end)).unwrap_or(0);
            self.0.truncate(end);
            // Half an escape sequence would spoil the rest.
            while self.0.ends_with('\\') {
                self.0.pop();
            }
            self.0.push_str("...");
        }
        self.0
    }
}

/// The fields of a received message.
pub(super) struct Fields<'a>(Vec<(&'a str, &'a str)>);

impl<'a> Fields<'a> {
    pub(super) fn split(packet: &'a [u8]) -> Result<(&'a str, Self), Malformed> {
        let text = std::str::from_utf8(packet).map_err(|error| Malformed(error.to_string()))?;
        let mut lines = text.split('\n');
        let verb = lines.next().unwrap_or_default();
        let fields = lines.map(|line| line.split_once(' ').unwrap_or((line, ""))).collect();
        Ok((verb, Self(fields)))
    }

    pub(super) fn optional(&self, key: &str) -> Option<String> {
        let (_, value) = self.0.iter().find(|(known, _)| *known == key)?;
        let mut plain = String::with_capacity(value.len());
        let mut characters = value.chars();
        while let Some(character) = characters.next() {
            match character {
                '\\' => match characters.next() {
                    Some('n') => plain.push('\n'),
                    Some(other) => plain.push(other),
                    None => {}
                },
                other => plain.push(other),
            }
        }
        Some(plain)
    }

    pub(super) fn text(&self, key: &str) -> Result<String, Malformed> {
        self.optional(key).ok_or_else(|| Malformed(format!("no `{key}`")))
    }

    pub(super) fn optional_number<T: std::str::FromStr>(&self, key: &str) -> Result<Option<T>, Malformed> {
        self.optional(key).map(|_| self.number(key)).transpose()
    }

    pub(super) fn file(&self) -> Result<Option<FileId>, Malformed> {
        Ok(match (self.optional_number("device")?, self.optional_number("inode")?) {
            (Some(device), Some(inode)) => Some(FileId { device, inode }),
            _ => None,
        })
    }

    pub(super) fn hold(&self) -> Result<Option<Hold>, Malformed> {
        let hold = |max_ms| Ok(Hold { since: self.number("hold-since")?, max_ms });
        self.optional_number("hold-ms")?.map(hold).transpose()
    }

    pub(super) fn counts(&self) -> Result<Option<Counts>, Malformed> {
        let Some(promoted) = self.optional_number("promoted")? else { return Ok(None) };
        Ok(Some(Counts {
            promoted,
            failed: self.number("failed")?,
            rolled_back: self.number("rolled-back")?,
        }))
    }

    pub(super) fn number<T: std::str::FromStr>(&self, key: &str) -> Result<T, Malformed> {
        let text = self.text(key)?;
        text.parse().map_err(|_| Malformed(format!("`{key} {text}` is no number in range")))
    }
}
