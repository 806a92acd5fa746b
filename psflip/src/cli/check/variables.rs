//! Warnings about `env_file` and `env_dir`: a file with secrets that everybody can read.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::config::{EnvChange, EnvSource, Plan, Warning, quoted};

/// The bit of a mode (stat(2)) that lets everybody read.
const READABLE_BY_ALL: u32 = 0o004;
/// The bit of a directory's mode that lets everybody pass through it.
const SEARCHABLE_BY_ALL: u32 = 0o001;

/// A warning for each file or directory that everybody can read and that seems to hold secrets.
pub(super) fn of(plan: &Plan) -> Vec<Warning> {
    plan.env_sources.iter().filter_map(readable_secret).collect()
}

fn readable_secret(source: &EnvSource) -> Option<Warning> {
    let name = source.changes.iter().find_map(|change| match change {
        EnvChange::Set(name, value) => {
            let file = if source.is_dir { source.path.join(name) } else { source.path.clone() };
            let readable = is_secret(name) && !value.is_empty() && is_readable_by_all(&file);
            (readable && (!source.is_dir || is_readable_by_all(&source.path))).then_some(name)
        }
        EnvChange::Remove(_) => None,
    })?;
    Some(Warning {
        key: source.key().to_owned(),
        message: format!(
            "every user can read {}, which sets {}",
            quoted(&source.path.to_string_lossy()),
            quoted(name)
        ),
        help: "let only psflip's user read it: `chmod o-r`".to_owned(),
    })
}

/// Whether every user can read the file, and pass through all directories above it.
fn is_readable_by_all(file: &Path) -> bool {
    let Ok(file) = fs::canonicalize(file) else { return false };
    let mode = |path: &Path| fs::metadata(path).map_or(0, |there| there.permissions().mode());
    let mut above = file.ancestors().skip(1);
    mode(&file) & READABLE_BY_ALL != 0 && above.all(|directory| mode(directory) & SEARCHABLE_BY_ALL != 0)
}

/// Whether the value of a variable with this name is probably a secret.
fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["SECRET", "PASSWORD", "PASSWD", "TOKEN", "CREDENTIAL"].iter().any(|word| name.contains(word))
        || ["KEY", "PASS", "PWD", "DSN"].iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_recognized() {
        for name in ["DB_PASSWORD", "secret_key_base", "GITHUB_TOKEN", "API_KEY", "MYSQL_PWD"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["PORT", "RAILS_ENV", "KEYBOARD", "LOG_LEVEL", "PASSENGER_APP"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
