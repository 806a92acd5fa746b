//! Capabilities of the terminal, if there is one: colours and size.

use std::ffi::OsString;
use std::io::IsTerminal;
use std::os::fd::AsFd;

/// Whether to write colours: on a terminal that supports them, unless the user wants none
/// (<https://no-color.org>).
pub(crate) fn has_colour(stream: &impl IsTerminal, variable: impl Fn(&str) -> Option<OsString>) -> bool {
    stream.is_terminal() && may_colour(variable)
}

fn may_colour(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let refused = variable("NO_COLOR").is_some_and(|value| !value.is_empty());
    let known = variable("TERM").is_some_and(|value| !value.is_empty() && value != "dumb");
    known && !refused
}

/// The number of columns. `None`: it is not a terminal, or its size is unknown (a serial line).
#[must_use]
pub(crate) fn columns(stream: &impl AsFd) -> Option<usize> {
    let (width, _) = terminal_size::terminal_size_of(stream)?;
    (width.0 > 0).then_some(usize::from(width.0))
}

/// The number of rows, as [`columns`].
#[must_use]
pub(crate) fn rows(stream: &impl AsFd) -> Option<usize> {
    let (_, height) = terminal_size::terminal_size_of(stream)?;
    (height.0 > 0).then_some(usize::from(height.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_are_used_on_terminals_unless_disabled() {
        let may = |term: Option<&str>, no: Option<&str>| {
            may_colour(|name| if name == "TERM" { term } else { no }.map(OsString::from))
        };
        assert!(may(Some("xterm"), None) && may(Some("xterm"), Some("")));
        assert!(!may(Some("xterm"), Some("1")));
        assert!(!may(Some("dumb"), None) && !may(None, None) && !may(Some(""), None));
    }
}
