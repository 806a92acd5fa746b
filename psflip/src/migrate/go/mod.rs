//! Translates Go's text/template, as upstream uses it, into psflip's templates, or reports why that is
//! impossible.

mod jinja;
mod parse;
#[cfg(test)]
mod roundtrip;
#[cfg(test)]
mod tests;
mod time;
mod token;
mod translate;

pub(super) use translate::translate;

/// Something that has no translation, or is not a valid template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// The place in the template, in bytes.
    pub(super) at: usize,
    /// The reason; a lowercase fragment.
    pub(super) message: String,
}

impl Fault {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}
