//! The licence texts of what is linked into the programs of a package: MIT, BSD and Apache-2.0 ask for them in every
//! copy.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use super::sbom::Crate;
use crate::{Error, repo, step};

/// The texts, and all licences in one expression.
#[derive(Clone)]
pub(super) struct Licences {
    pub(super) texts: String,
    pub(super) expression: String,
}

/// The file's name in the packages.
pub(super) const FILE: &str = "THIRD-PARTY-LICENSES";

/// Where Debian and its derivatives have the C library's licence.
const LGPL: &str = "/usr/share/common-licenses/LGPL-2.1";

/// The licences of these crates, of Rust's library and of the C library.
pub(super) fn of(crates: &BTreeSet<Crate>, libc: &str) -> Result<Licences, Error> {
    let folders = folders()?;
    let others = || crates.iter().filter(|one| !one.is_ours);
    // Many crates have the same text: it is there once, below the names of all of them.
    let mut owners: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut without = Vec::new();
    for one in others() {
        let name = format!("{} {} ({})", one.name, one.version, one.licence);
        let folder = folders.get(&(one.name.clone(), one.version.clone()));
        let files = files(folder.ok_or_else(|| format!("`cargo metadata` lists no {name}"))?)?;
        if files.is_empty() {
            without.push(name.clone());
        }
        for file in files {
            let text = fs::read(&file)?;
            owners.entry(normal(&String::from_utf8_lossy(&text))).or_default().push(name.clone());
        }
    }
    let mut texts = HEAD.to_owned();
    if !without.is_empty() {
        texts += &format!(
            "\nThese crates contain no text of their licence; the texts of the licences are those below:\n\n    {}\n",
            without.join("\n    ")
        );
    }
    let mut sections: Vec<(Vec<String>, String)> =
        owners.into_iter().map(|(text, owners)| (owners, text)).collect();
    sections.sort();
    for (owners, text) in sections {
        texts += &section(&owners.join("\n"), &text);
    }
    texts += &section("Rust's standard library (MIT OR Apache-2.0)", &of_rust()?);
    texts += &section(&format!("glibc {libc} (LGPL-2.1-or-later)"), &of_libc());
    let expressions: BTreeSet<String> = others().map(|one| bracketed(&one.licence)).collect();
    let expression = expressions.into_iter().fold("(MIT OR Apache-2.0)".to_owned(), |all, one| {
        if all.split(" AND ").any(|known| known == one) { all } else { format!("{all} AND {one}") }
    });
    Ok(Licences { texts, expression: expression + " AND LGPL-2.1-or-later" })
}

const HEAD: &str = "The programs of this package are linked statically, so they contain the libraries below.
psflip's own licence is MIT or Apache-2.0, at your choice.
";

fn section(title: &str, text: &str) -> String {
    format!("\n{}\n{title}\n\n{}\n", "=".repeat(80), text.trim())
}

fn bracketed(licence: &str) -> String {
    if licence.contains(' ') { format!("({licence})") } else { licence.to_owned() }
}

/// A text without differences that are none: ends of lines, and spaces before them.
fn normal(text: &str) -> String {
    text.lines().map(str::trim_end).collect::<Vec<_>>().join("\n").trim().to_owned()
}

/// Where the sources of each package are, by name and version.
fn folders() -> Result<BTreeMap<(String, String), PathBuf>, Error> {
    let text = step::output(repo::cargo().args(["metadata", "--locked", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let text = |package: &Value, key: &str| package[key].as_str().unwrap_or_default().to_owned();
    let packages = metadata["packages"].as_array().into_iter().flatten();
    Ok(packages
        .map(|package| {
            let folder = Path::new(&text(package, "manifest_path")).parent().map(Path::to_owned);
            ((text(package, "name"), text(package, "version")), folder.unwrap_or_default())
        })
        .collect())
}

/// The files of a crate that are its licence, sorted.
fn files(folder: &Path) -> Result<Vec<PathBuf>, Error> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<_>>()?;
    files
        .retain(|file| file.is_file() && is_licence(&file.file_name().unwrap_or_default().to_string_lossy()));
    files.sort();
    Ok(files)
}

fn is_licence(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["LICENSE", "LICENCE", "NOTICE", "COPYING", "COPYRIGHT", "UNLICENSE"]
        .iter()
        .any(|start| name.starts_with(start))
}

/// What the compiler's distribution says about its library: notices and texts of all that it contains.
fn of_rust() -> Result<String, Error> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let root = step::output(Command::new(rustc).args(["--print", "sysroot"]))?;
    let page = Path::new(root.trim()).join("share/doc/rust/COPYRIGHT-library.html");
    match fs::read_to_string(&page) {
        Ok(html) => Ok(plain(&html)),
        Err(_) => Ok(format!(
            "The compiler that built this has no `{}`.\nThe text is in the file COPYRIGHT of Rust's sources.",
            page.file_name().unwrap_or_default().display()
        )),
    }
}

/// The text of an HTML page, without empty lines one after the other.
fn plain(html: &str) -> String {
    let body = html.split_once("<body>").map_or(html, |(_, body)| body);
    let text: String =
        body.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect();
    let text = ENTITIES.iter().fold(text, |text, (entity, meant)| text.replace(entity, meant));
    let mut plain = String::new();
    for line in text.lines().map(str::trim) {
        if !line.is_empty() || !plain.ends_with("\n\n") {
            plain += line;
            plain += "\n";
        }
    }
    plain
}

/// `&` comes last: it may be the beginning of another's text.
const ENTITIES: [(&str, &str); 8] = [
    ("&#60;", "<"),
    ("&lt;", "<"),
    ("&#62;", ">"),
    ("&gt;", ">"),
    ("&#34;", "\""),
    ("&#39;", "'"),
    ("&#38;", "&"),
    ("&amp;", "&"),
];

fn of_libc() -> String {
    let own = "glibc's sources are those of the distribution's package of this version. psflip's sources and \
        `cargo xtask dist`\nlink the programs with another version of it (section 6 of the licence).\n";
    match fs::read_to_string(LGPL) {
        Ok(text) => format!("{own}\n{text}"),
        Err(_) => format!(
            "{own}The licence is in {LGPL} on Debian, and at https://www.gnu.org/licenses/old-licenses/lgpl-2.1.txt"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences_are_found_by_their_names() {
        for name in ["LICENSE-MIT", "license.txt", "COPYING", "NOTICE", "UNLICENSE"] {
            assert!(is_licence(name), "{name}");
        }
        assert!(!is_licence("README.md") && !is_licence("Cargo.toml"));
    }

    #[test]
    fn a_page_becomes_text() {
        let page =
            "<html><head><title>x</title></head><body>\n<p>A &amp;lt; <b>b</b></p>\n\n\n\n<p>c</p></body>";
        assert_eq!(plain(page), "\nA &lt; b\n\nc\n");
    }
}
