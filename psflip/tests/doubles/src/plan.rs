//! What the doubles of other versions do: a text file of the test's, one step a line.

use std::path::PathBuf;

/// The variable that names the file. Only doubles obey it.
pub const VARIABLE: &str = "PSFLIP_DOUBLE_PLAN";

/// The lines of the plan; none without a plan, so that a double behaves as it does without being asked.
pub(crate) fn lines() -> Vec<String> {
    let Some(path) = std::env::var_os(VARIABLE).map(PathBuf::from) else { return Vec::new() };
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
}

/// `\n` in a plan stands for a line break.
pub(crate) fn plain(text: &str) -> String {
    text.replace("\\n", "\n")
}
