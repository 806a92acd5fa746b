//! The edits of a release: each takes a file's text and returns the new one. Nothing is read or written here.

use std::collections::BTreeSet;

use semver::Version;

use crate::Error;

/// A release: the version before it, its own, and its date.
pub(super) struct Release {
    pub(super) old: Version,
    pub(super) new: Version,
    /// `2026-12-01`.
    pub(super) day: String,
    /// `Tue, 01 Dec 2026 12:00:00 +0000`, as a Debian changelog has it.
    pub(super) time: String,
    /// What is new, from the changelog.
    pub(super) notes: String,
}

impl Release {
    /// `v1.2.3`.
    pub(super) fn tag(&self) -> String {
        format!("v{}", self.new)
    }
}

/// The heading of what is not released yet.
const UNRELEASED: &str = "## Unreleased\n";

/// The version of the workspace, from the root Cargo.toml.
pub(super) fn current(manifest: &str) -> Result<Version, Error> {
    let (_, package) =
        manifest.split_once("[workspace.package]\n").ok_or("Cargo.toml has no [workspace.package]")?;
    let version = package.lines().find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'));
    Ok(Version::parse(version.ok_or("[workspace.package] of Cargo.toml has no `version`")?)?)
}

/// The section Unreleased of the changelog; an error if it lists nothing.
pub(super) fn unreleased(changelog: &str) -> Result<String, Error> {
    let (_, rest) = changelog.split_once(UNRELEASED).ok_or("CHANGELOG.md has no section `## Unreleased`")?;
    let section = rest.split("\n## ").next().unwrap_or_default().trim();
    if !section.lines().any(|line| line.starts_with("- ")) {
        return Err("the section Unreleased of CHANGELOG.md is empty: list what has changed for users".into());
    }
    Ok(section.to_owned())
}

/// CHANGELOG.md: what was unreleased belongs to this version, and a new empty section is above it.
pub(super) fn changelog(text: &str, release: &Release) -> Result<String, Error> {
    let heading = format!("{UNRELEASED}\n## {} - {}\n", release.new, release.day);
    replaced(text, UNRELEASED, &heading, "CHANGELOG.md")
}

/// Cargo.toml: the version of all packages, and that of the dependencies in this repository.
pub(super) fn manifest(text: &str, release: &Release) -> Result<String, Error> {
    let mut lines = Vec::new();
    let mut section = "";
    for line in text.lines() {
        section = if line.starts_with('[') { line } else { section };
        let is_ours = match section {
            "[workspace.package]" => line.starts_with("version"),
            "[workspace.dependencies]" => line.contains("path = "),
            _ => false,
        };
        lines.push(if is_ours { requirement(line, release)? } else { line.to_owned() });
    }
    Ok(lines.join("\n") + "\n")
}

/// A line with the version, or with the requirement of exactly this version.
fn requirement(line: &str, release: &Release) -> Result<String, Error> {
    for exactly in ["", "="] {
        let version = |version: &Version| format!("version = \"{exactly}{version}\"");
        if line.contains(&version(&release.old)) {
            return Ok(line.replace(&version(&release.old), &version(&release.new)));
        }
    }
    let old = &release.old;
    Err(format!("Cargo.toml: the version in `{line}` is not {old}: repair it by hand first").into())
}

/// The packages of this repository in Cargo.lock: they have the workspace's version, and no source.
pub(super) fn own_packages(lock: &str, release: &Release) -> BTreeSet<String> {
    let is_ours = |package: &&str| {
        !package.contains("\nsource = ") && package.contains(&format!("\nversion = \"{}\"\n", release.old))
    };
    let name = |package: &str| {
        package.lines().find_map(|line| Some(line.strip_prefix("name = \"")?.strip_suffix('"')?.to_owned()))
    };
    lock.split("[[package]]").filter(is_ours).filter_map(name).collect()
}

/// A Cargo.lock: the version of these packages.
pub(super) fn lock(text: &str, packages: &BTreeSet<String>, release: &Release) -> String {
    packages.iter().fold(text.to_owned(), |text, package| {
        let entry = |version| format!("[[package]]\nname = \"{package}\"\nversion = \"{version}\"\n");
        text.replace(&entry(&release.old), &entry(&release.new))
    })
}

/// A manual page: version and date in its title.
pub(super) fn manual(text: &str, release: &Release) -> Result<String, Error> {
    let old = format!("\"psflip {}\"", release.old);
    let title = text.lines().find(|line| line.starts_with(".TH ") && line.contains(&old));
    let title = title.ok_or_else(|| nothing_to_replace("a manual page", &old))?;
    let mut words: Vec<String> = title.splitn(5, ' ').map(str::to_owned).collect();
    if let [_, _, _, date, rest] = &mut words[..] {
        date.clone_from(&release.day);
        *rest = rest.replace(&old, &format!("\"psflip {}\"", release.new));
    }
    Ok(text.replace(title, &words.join(" ")))
}

/// The pytest plugin's version, as Python writes it (PEP 440): `1.0.0rc1` for `1.0.0-rc.1`.
pub(super) fn python(text: &str, release: &Release) -> Result<String, Error> {
    let line = |version: &Version| -> Result<String, Error> {
        Ok(format!("__version__ = \"{}\"", pep440(version)?))
    };
    replaced(text, &line(&release.old)?, &line(&release.new)?, "testkit/python/pytest_psflip/__init__.py")
}

/// The Ansible collection's version.
pub(super) fn ansible(text: &str, release: &Release) -> Result<String, Error> {
    let line = |version: &Version| format!("\nversion: {version}\n");
    replaced(text, &line(&release.old), &line(&release.new), "galaxy.yml")
}

fn pep440(version: &Version) -> Result<String, Error> {
    let plain = format!("{}.{}.{}", version.major, version.minor, version.patch);
    if version.build.is_empty() && version.pre.is_empty() {
        return Ok(plain);
    }
    let short = |kind: &str| {
        [("alpha", "a"), ("beta", "b"), ("rc", "rc")].into_iter().find(|(long, _)| *long == kind)
    };
    match version.pre.split_once('.') {
        Some((kind, number)) if version.build.is_empty() && number.parse::<u32>().is_ok() => {
            match short(kind) {
                Some((_, short)) => Ok(format!("{plain}{short}{number}")),
                None => Err(no_python_version(version)),
            }
        }
        _ => Err(no_python_version(version)),
    }
}

fn no_python_version(version: &Version) -> Error {
    format!("Python has no version like {version}: use -alpha.N, -beta.N or -rc.N, without build metadata")
        .into()
}

/// The changelog of the Debian packages: an entry with the same changes, without Markdown's links. It replaces an entry of
/// the same version: that of the first release.
pub(super) fn debian(text: &str, release: &Release) -> String {
    let version = crate::dist::packaged(&release.new.to_string());
    let mut entry = format!("psflip ({version}) unstable; urgency=medium\n");
    for paragraph in paragraphs(&release.notes) {
        if let Some(heading) = paragraph.strip_prefix("### ") {
            entry += &format!("\n  [ {heading} ]\n");
        } else {
            entry += &wrapped(&without_links(paragraph.trim_start_matches("- ")));
        }
    }
    let is_first = text.starts_with(&format!("psflip ({version}) "));
    let earlier = if is_first {
        text.split_once("\npsflip (").map(|(_, rest)| format!("psflip ({rest}"))
    } else {
        Some(text.to_owned())
    };
    let earlier = earlier.map(|entries| format!("\n{entries}")).unwrap_or_default();
    entry + &format!("\n -- The psflip developers <nobody@psflip.invalid>  {}\n{earlier}", release.time)
}

/// Headings, items and paragraphs, each in one line.
fn paragraphs(text: &str) -> Vec<String> {
    let mut paragraphs: Vec<String> = Vec::new();
    let mut is_open = false;
    for line in text.lines().map(str::trim) {
        match paragraphs.last_mut() {
            Some(last)
                if is_open && !line.is_empty() && !line.starts_with("- ") && !line.starts_with('#') =>
            {
                *last += &format!(" {line}");
            }
            _ if !line.is_empty() => paragraphs.push(line.to_owned()),
            _ => {}
        }
        is_open = !line.is_empty() && !line.starts_with('#');
    }
    paragraphs
}

/// `[text](target)` becomes `text`.
fn without_links(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('[') {
        let link = after.split_once("](").and_then(|(name, after)| Some((name, after.split_once(')')?.1)));
        let (name, after) = link.filter(|(name, _)| !name.contains('[')).unwrap_or(("[", after));
        plain += before;
        plain += name;
        rest = after;
    }
    plain + rest
}

/// An item of a Debian changelog, in lines of at most 78 columns.
fn wrapped(text: &str) -> String {
    let (mut lines, mut line) = (String::new(), "  *".to_owned());
    for word in text.split_whitespace() {
        if line.len() + 1 + word.len() > 78 {
            lines += &(line + "\n");
            line = "   ".to_owned();
        }
        line += " ";
        line += word;
    }
    lines + &line + "\n"
}

fn replaced(text: &str, old: &str, new: &str, file: &str) -> Result<String, Error> {
    if text.matches(old).count() == 1 {
        Ok(text.replacen(old, new, 1))
    } else {
        Err(nothing_to_replace(file, old))
    }
}

fn nothing_to_replace(file: &str, old: &str) -> Error {
    format!("{file} does not contain `{}` exactly once: repair it by hand first", old.trim()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANGES: &str = "# Changelog\n\n## Unreleased\n\n### Added\n\n- `[[proxy]]`, see\n  [the page](docs/proxy.md).\n- Two.\n\n## 0.1.0 - 2026-11-23\n\n- First.\n";

    fn release(new: &str) -> Release {
        Release {
            old: Version::new(0, 1, 0),
            new: new.parse().unwrap(),
            day: "2026-12-01".to_owned(),
            time: "Tue, 01 Dec 2026 12:00:00 +0000".to_owned(),
            notes: unreleased(CHANGES).unwrap(),
        }
    }

    #[test]
    fn the_changelog_begins_a_new_section() {
        let edited = changelog(CHANGES, &release("0.2.0")).unwrap();
        assert!(edited.contains("## Unreleased\n\n## 0.2.0 - 2026-12-01\n\n### Added\n"), "{edited}");
        assert!(unreleased(&edited).unwrap_err().to_string().contains("is empty"));
        assert!(unreleased("# Changelog\n").is_err());
    }

    #[test]
    fn only_our_own_versions_change() {
        let release = release("0.2.0");
        let text = "[workspace.package]\nversion = \"0.1.0\"\n[workspace.dependencies]\nown = { path = \"own\", version = \"0.1.0\" }\ninner = { path = \"inner\", version = \"=0.1.0\" }\nother = { version = \"0.1.0\" }\n";
        let edited = manifest(text, &release).unwrap();
        assert_eq!(edited.matches("0.2.0").count(), 3, "{edited}");
        let odd = text.replace("\"=0.1.0\"", "\"^0.1\"");
        assert!(manifest(&odd, &release).unwrap_err().to_string().contains("inner = "));
        assert!(edited.contains("other = { version = \"0.1.0\" }"), "{edited}");
        assert_eq!(current(&edited).unwrap(), release.new);
        let text = "[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"other\"\nversion = \"0.1.0\"\nsource = \"registry\"\n";
        let packages = own_packages(text, &release);
        assert_eq!(packages, BTreeSet::from(["own".to_owned()]));
        let edited = lock(text, &packages, &release);
        assert_eq!((edited.matches("0.2.0").count(), edited.matches("0.1.0").count()), (1, 1), "{edited}");
    }

    #[test]
    fn a_manual_page_gets_version_and_date() {
        let edited =
            manual(".ie 1\n.TH psflip 1 2026-11-23 \"psflip 0.1.0\" psflip\nx\n", &release("0.2.0")).unwrap();
        assert_eq!(edited, ".ie 1\n.TH psflip 1 2026-12-01 \"psflip 0.2.0\" psflip\nx\n");
        assert!(manual(".TH psflip 1 2026-11-23 \"psflip 0.0.9\" psflip\n", &release("0.2.0")).is_err());
    }

    #[test]
    fn pre_releases_have_pythons_form() {
        for (version, wanted) in [("1.0.0", "1.0.0"), ("1.0.0-rc.1", "1.0.0rc1"), ("1.0.0-beta.2", "1.0.0b2")]
        {
            assert_eq!(pep440(&version.parse().unwrap()).unwrap(), wanted);
        }
        for version in ["1.0.0-nightly.1", "1.0.0-rc", "1.0.0+abc"] {
            assert!(pep440(&version.parse().unwrap()).is_err(), "{version}");
        }
    }

    #[test]
    fn debians_entry_has_the_same_changes() {
        let entry = debian("psflip (0.1.0) unstable; urgency=medium\n", &release("0.2.0-rc.1"));
        let wanted = "psflip (0.2.0~rc.1) unstable; urgency=medium\n\n  [ Added ]\n  * `[[proxy]]`, see the page.\n  * Two.\n\n \
            -- The psflip developers <nobody@psflip.invalid>  Tue, 01 Dec 2026 12:00:00 +0000\n\npsflip (0.1.0)";
        assert!(entry.starts_with(wanted), "{entry}");
        let first =
            debian("psflip (0.1.0) unstable; urgency=medium\n\n  * First.\n\n -- x\n", &release("0.1.0"));
        assert!(first.ends_with(" +0000\n") && first.matches("psflip (0.1.0)").count() == 1, "{first}");
        let long = wrapped(&"word ".repeat(40));
        assert!(long.lines().all(|line| line.len() <= 78) && long.lines().count() == 3, "{long}");
    }
}
