//! Reads and writes configurations as text, for the builder.

use std::ffi::OsStr;

/// A line `cmd = [...]` of a configuration, with its strings quoted for TOML.
#[must_use]
pub fn cmd_line<A: AsRef<OsStr>>(argv: impl IntoIterator<Item = A>) -> String {
    let quoted: Vec<_> = argv.into_iter().map(|arg| quoted(&arg.as_ref().to_string_lossy())).collect();
    format!("cmd = [{}]\n", quoted.join(", "))
}

/// A TOML basic string.
pub(crate) fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            control if control.is_control() => quoted.push_str(&format!("\\u{:04X}", u32::from(control))),
            other => quoted.push(other),
        }
    }
    quoted.push('"');
    quoted
}

/// The value of a line `key = "value"` before the first table.
pub(crate) fn top_level(text: &str, key: &str) -> Option<String> {
    let lines = text.lines().map(str::trim_start).take_while(|line| !line.starts_with('['));
    let values = lines.filter_map(|line| line.strip_prefix(key)?.trim_start().strip_prefix('='));
    let value = values.map(str::trim_start).next()?;
    let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
    Some(value[1..].split(quote).next()?.to_owned())
}
