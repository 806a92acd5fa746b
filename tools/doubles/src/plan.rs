//! The plan of a double: a text file that the test writes, one step per line.

use std::path::PathBuf;

/// Environment variable with the file's path. Only doubles read it.
pub const VARIABLE: &str = "PSFLIP_DOUBLE_PLAN";

/// The lines of the plan; none without a plan, and then a double does what it does by default.
pub(crate) fn lines() -> Vec<String> {
    let Some(path) = std::env::var_os(VARIABLE).map(PathBuf::from) else { return Vec::new() };
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// Replaces `\n` in a plan by a line break.
pub(crate) fn plain(text: &str) -> String {
    text.replace("\\n", "\n")
}
