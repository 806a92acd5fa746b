//! Go's text/template, as upstream uses it, into a template of psflip with the same meaning, or the reason why there is none.

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

/// What has no translation, or is no template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Where in the template, in bytes.
    pub(super) at: usize,
    /// What it is; a lowercase fragment.
    pub(super) message: String,
}

impl Fault {
    fn new(at: usize, message: impl Into<String>) -> Self {
        Self { at, message: message.into() }
    }
}
