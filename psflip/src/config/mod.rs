//! The configuration: text -> templates -> typed values -> [`Plan`]. Pure, except for files and variables
//! that templates read.
//!
//! [`load`] reads a file, [`parse`] a text. Both collect all errors ([`Errors`]) instead of stopping at the
//! first, and psflip starts nothing from a configuration with an error (contract X1). `docs/configuration.md`
//! explains the keys.

mod address;
mod build;
mod clashes;
mod control;
mod document;
pub(crate) mod error;
pub(crate) mod file;
mod flags;
mod functions;
mod health;
mod http;
mod inspect;
pub mod keys;
mod lenient;
mod listen;
mod plan;
mod raw;
mod reader;
mod render;
pub(crate) mod scalar;
mod signals;
mod syntax;
mod template;
#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::path::Path;
use std::time::SystemTime;

pub use document::{Document, Warning};
pub use error::{Error, Errors};
pub use flags::Flags;
pub use listen::{ListenAddress, Listener, Options, Protocol};
pub use plan::*;
pub(crate) use scalar::spell;

/// What templates can see of their generation.
pub struct Generation<'a> {
    /// 1 for the first generation.
    pub number: u64,
    /// The slot that it uses.
    pub slot: Slot,
    /// When it started: the value of `now()` in every template.
    pub started: SystemTime,
    /// psflip's environment at its start; values need not be UTF-8 (environ(7)).
    pub env: &'a dyn Fn(&str) -> Option<OsString>,
}

impl std::fmt::Debug for Generation<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Generation")
            .field("number", &self.number)
            .field("slot", &self.slot)
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

/// Reads a duration in the syntax of the configuration (`1m30s`), for the command line.
///
/// # Errors
/// What is wrong with it, and what is allowed.
pub fn duration(text: &str) -> Result<std::time::Duration, String> {
    scalar::duration(text).map_err(|refused| match refused.help {
        Some(help) => format!("{}; {help}", refused.message),
        None => refused.message,
    })
}

/// Reads the configuration at `path`: a regular file, or a pipe that psflip inherited (`/dev/stdin`), of at
/// most 1 MiB.
///
/// # Errors
/// All errors; one without a place if the file can't be read.
pub fn load(path: &Path, generation: &Generation<'_>) -> Result<Plan, Errors> {
    Document::read(path)?.plan(generation)
}

/// Reads the configuration `text`; `name` precedes every message. It has no effects, except that a template
/// may read a file with `cat(path)`.
///
/// # Errors
/// All errors, in the order of the text.
pub fn parse(name: &str, text: &str, generation: &Generation<'_>) -> Result<Plan, Errors> {
    match parse_even_if_broken(name, text, generation)? {
        (plan, None) => Ok(plan),
        (_, Some(errors)) => Err(errors),
    }
}

/// As [`parse`], but returns the valid parts as well, beside the errors of the rest.
///
/// # Errors
/// The text is not TOML.
fn parse_even_if_broken(
    name: &str,
    text: &str,
    generation: &Generation<'_>,
) -> Result<(Plan, Option<Errors>), Errors> {
    let root = match syntax::tree(text) {
        Ok(root) => root,
        Err(list) => return Err(Errors::new(name, text, list, 0)),
    };
    let mut reader = reader::Reader::new(text, template::Templates::new(generation));
    let plan = build::plan(&mut reader, root.get_ref(), name);
    let (list, dropped) = reader.mistakes();
    let errors = (!list.is_empty()).then(|| Errors::new(name, text, list, dropped));
    Ok((plan, errors))
}
