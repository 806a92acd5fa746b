//! The configuration: text -> templates -> typed values -> [`Plan`]. Pure, except for files and variables
//! that templates read.
//!
//! [`Document::read`] reads a file, [`parse`] a text. Both collect all errors ([`Errors`]) instead of
//! stopping at the first, and psflip starts nothing from a configuration with an error (contract X1).
//! `docs/configuration.md` explains the keys.

mod address;
mod build;
mod clashes;
mod control;
mod document;
mod env_files;
pub(crate) mod error;
pub(crate) mod file;
mod flags;
mod generation;
mod health;
mod http;
pub mod keys;
mod lenient;
mod listen;
mod listener;
mod output;
mod plan;
mod proxies;
mod proxy;
pub(crate) mod proxy_flag;
mod raw;
mod reader;
mod render;
pub(crate) mod scalar;
mod section;
mod signals;
mod syntax;
mod template;
#[cfg(test)]
mod tests;
mod values;
mod words;

pub use build::parse;
pub use document::{Document, Warning};
pub use error::Errors;
pub(crate) use error::quoted;
pub use flags::Flags;
pub use generation::{Generation, Slot};
pub use listener::{ListenAddress, Listener, Options, Protocol};
pub use output::{FileOptions, Target, logger_argv};
pub use plan::*;
pub(crate) use proxies::is_reached;
pub use proxy::{Forward, Forwarded, Header, Proxy, ProxyKind};
pub(crate) use scalar::{about, spell};

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
