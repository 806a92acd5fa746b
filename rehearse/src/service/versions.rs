//! The versions of a service that a rehearsal deploys: its configuration as it is, another one (`--next`), and
//! bad ones that psflip must refuse (`--bad`).

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use toml::{Table, Value};

/// A bad version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Bad {
    /// The program exits with code 3 at once
    Crash,
    /// The program starts, and never does anything
    Hang,
    /// The program does not exist
    Missing,
    /// The configuration is no valid TOML
    Broken,
    /// The program becomes healthy, and is killed a second later: needs `upgrade.bake`
    DiesLater,
}

impl Bad {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Hang => "hang",
            Self::Missing => "missing",
            Self::Broken => "broken",
            Self::DiesLater => "dies-later",
        }
    }

    /// What keeps psflip from accepting it.
    pub(crate) fn advice(self) -> &'static str {
        match self {
            Self::Crash | Self::Missing | Self::Broken => "this is a fault of psflip: please report it",
            Self::Hang => {
                "the health check must request something (`healthcheck.http`, `fcgi`, `notify`, ...)"
            }
            Self::DiesLater => {
                "with `upgrade.bake`, psflip gives the traffic back to the old version when the new one dies"
            }
        }
    }
}

/// A version to deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case", tag = "version", content = "bad")]
pub(crate) enum Version {
    /// The configuration as it is.
    Same,
    /// The file of `--next`.
    Next,
    Bad(Bad),
}

impl Version {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Next => "next",
            Self::Bad(bad) => bad.name(),
        }
    }
}

/// How long psflip waits for a version that hangs.
const HANG: &str = "3s";

/// The configuration file, and the texts that it can have.
#[derive(Debug)]
pub(crate) struct Versions {
    path: PathBuf,
    same: Vec<u8>,
    next: Option<Vec<u8>>,
}

impl Versions {
    /// # Errors
    /// A file can't be read.
    pub(crate) fn read(path: &Path, next: Option<&Path>) -> io::Result<Self> {
        let read = |path: &Path| {
            let text = std::fs::read(path);
            text.map_err(|error| io::Error::new(error.kind(), format!("`{}`: {error}", path.display())))
        };
        Ok(Self { path: path.to_owned(), same: read(path)?, next: next.map(read).transpose()? })
    }

    /// Writes a version to the configuration file. `start`: how long a good child takes until it is healthy.
    ///
    /// # Errors
    /// It can't be written, or the configuration has no such version.
    pub(crate) fn deploy(&self, version: Version, start: Duration) -> io::Result<()> {
        let text = match version {
            Version::Same => self.same.clone(),
            Version::Next => self.next.clone().unwrap_or_else(|| self.same.clone()),
            Version::Bad(bad) => bad_text(&self.same, bad, start).map_err(io::Error::other)?,
        };
        // By rename, as a deployment should: psflip never reads half a file. Until then nobody else can read it,
        // as it may contain secrets.
        let directory = directory_of(&self.path);
        let mut new = tempfile::Builder::new().prefix(".rehearse-").tempfile_in(directory)?;
        new.write_all(&text)?;
        if let Ok(metadata) = self.path.metadata() {
            new.as_file().set_permissions(metadata.permissions())?;
        }
        new.persist(&self.path)?;
        Ok(())
    }
}

/// The directory that contains the file.
pub(crate) fn directory_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn bad_text(same: &[u8], bad: Bad, start: Duration) -> Result<Vec<u8>, String> {
    if bad == Bad::Broken {
        return Ok([same, b"\nthis is = = no TOML\n"].concat());
    }
    let text = std::str::from_utf8(same).map_err(|_| "the configuration is not UTF-8".to_owned())?;
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let Some(Value::Array(cmd)) = table.get("cmd").cloned() else {
        return Err("the configuration has no `cmd`".to_owned());
    };
    let shell = |script: String| vec!["/bin/sh".to_owned(), "-c".to_owned(), script];
    let strings = |argv: Vec<String>| argv.into_iter().map(Value::String).collect::<Vec<_>>();
    let cmd = match bad {
        Bad::Crash | Bad::Broken => {
            strings(shell("echo 'this version exits at once' >&2; exit 3".to_owned()))
        }
        // `exec`, so that signals reach it as they would a real child.
        Bad::Hang => strings(shell("exec sleep 1000000".to_owned())),
        Bad::Missing => strings(vec!["/psflip-rehearse/no-such-program".to_owned()]),
        Bad::DiesLater => {
            let seconds = start.as_secs_f64() + 1.0;
            let killer = format!("(sleep {seconds:.1}; kill -9 $$) & exec \"$@\"");
            [strings(shell(killer)), strings(vec!["sh".to_owned()]), cmd].concat()
        }
    };
    table.insert("cmd".to_owned(), Value::Array(cmd));
    if bad == Bad::Hang {
        let upgrade = table.entry("upgrade").or_insert_with(|| Value::Table(Table::new()));
        if let Value::Table(upgrade) = upgrade {
            upgrade.insert("timeout".to_owned(), Value::String(HANG.to_owned()));
        }
    }
    Ok(toml::to_string(&table).map_err(|error| error.to_string())?.into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt as _;

    const CONFIG: &str = "cmd = ['./server', \"{{ local('port') }}\"]\n[upgrade]\nbake = '2s'\n";

    fn table(bad: Bad) -> Table {
        let text = bad_text(CONFIG.as_bytes(), bad, Duration::from_millis(250)).unwrap();
        String::from_utf8(text).unwrap().parse().unwrap()
    }

    #[test]
    fn bad_versions_differ_in_their_command() {
        let argv = |bad| {
            table(bad)["cmd"]
                .as_array()
                .unwrap()
                .iter()
                .map(|arg| arg.as_str().unwrap().to_owned())
                .collect::<Vec<_>>()
        };
        assert!(argv(Bad::Crash)[2].contains("exit 3"));
        assert_eq!(argv(Bad::Missing), ["/psflip-rehearse/no-such-program"]);
        let dies = argv(Bad::DiesLater);
        assert!(dies[2].contains("sleep 1.2; kill -9 $$"), "{dies:?}");
        assert_eq!(dies[3..], ["sh", "./server", "{{ local('port') }}"]);
        assert_eq!(table(Bad::Hang)["upgrade"]["timeout"].as_str(), Some("3s"));
        assert_eq!(table(Bad::Hang)["upgrade"]["bake"].as_str(), Some("2s"));
    }

    #[test]
    fn a_broken_version_is_no_toml() {
        let text = bad_text(CONFIG.as_bytes(), Bad::Broken, Duration::ZERO).unwrap();
        assert!(String::from_utf8(text).unwrap().parse::<Table>().is_err());
    }

    #[test]
    fn a_version_is_deployed_whole() {
        let folder = tempfile::tempdir().unwrap();
        let (path, next) = (folder.path().join("a.toml"), folder.path().join("b.toml"));
        std::fs::write(&path, CONFIG).unwrap();
        std::fs::write(&next, "cmd = ['./next']\n").unwrap();
        let versions = Versions::read(&path, Some(&next)).unwrap();
        versions.deploy(Version::Next, Duration::ZERO).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "cmd = ['./next']\n");
        versions.deploy(Version::Same, Duration::ZERO).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), CONFIG);
        assert!(Versions::read(Path::new("/no/such"), None).is_err());
    }

    #[test]
    fn a_deployed_version_is_as_secret_as_the_one_before_and_touches_no_other_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.toml");
        let other = folder.path().join("other");
        std::fs::write(&path, CONFIG).unwrap();
        std::fs::write(&other, "other").unwrap();
        // The name that an earlier version wrote to.
        std::os::unix::fs::symlink(&other, folder.path().join("a.toml.rehearse")).unwrap();
        for mode in [0o600, 0o640] {
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let versions = Versions::read(&path, None).unwrap();
            versions.deploy(Version::Bad(Bad::Crash), Duration::ZERO).unwrap();
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            versions.deploy(Version::Same, Duration::ZERO).unwrap();
        }
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "other");
        // A directory can't be replaced by a file, even as root.
        let versions = Versions::read(&path, None).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        versions.deploy(Version::Same, Duration::ZERO).unwrap_err();
        let mut left: Vec<_> =
            std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["a.toml", "a.toml.rehearse", "other"]);
    }
}
