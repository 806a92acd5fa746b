//! Why a value can't be rendered.

use std::fmt;
use std::ops::Range;

use minijinja::ErrorKind;

/// The longest value, rendered or not; the kernel accepts arguments of at most 128 KiB.
pub(crate) const LONGEST: usize = 64 * 1024;

/// Why a value can't be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) message: String,
    pub(crate) help: Option<String>,
    /// Where in the template.
    pub(crate) range: Option<Range<usize>>,
    /// The error follows from another one that is already reported.
    pub(crate) silent: bool,
}

impl Fault {
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), help: None, range: None, silent: false }
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Fault {}

impl From<Fault> for minijinja::Error {
    fn from(fault: Fault) -> Self {
        Self::new(ErrorKind::InvalidOperation, fault.message.clone()).with_source(fault)
    }
}

/// The fault of a value that is longer than [`LONGEST`].
pub(crate) fn too_long(value: &str) -> Fault {
    Fault::new(format!("the value is {} bytes long", value.len()))
        .help(format!("at most {LONGEST} bytes are allowed"))
}
