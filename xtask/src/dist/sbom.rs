//! The bill of materials of a program, in CycloneDX's format 1.5: what is linked into it.
//!
//! It is made from `cargo tree`, which resolves the features of this one program for this target, as the build
//! does. Build scripts, procedural macros and the dependencies of tests are not in the program, so not here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use super::target::Target;
use crate::{Error, repo, step};

/// A crate in a program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Crate {
    pub(super) name: String,
    pub(super) version: String,
    pub(super) licence: String,
    pub(super) is_ours: bool,
}

/// What is linked into a program, and what needs what.
#[derive(Default)]
pub(super) struct Linked {
    pub(super) crates: BTreeSet<Crate>,
    /// By `NAME@VERSION`.
    needs: BTreeMap<String, BTreeSet<String>>,
}

/// The crates in the program of `package`.
pub(super) fn linked(package: &str, target: &Target) -> Result<Linked, Error> {
    let mut tree = repo::cargo();
    tree.args(["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "depth", "--no-dedupe"]);
    tree.args(["--format", "{p}|{l}", "--target", &target.triple, "--package", package]);
    parse(&step::output(&mut tree)?)
}

/// Writes the bill of `package`'s `program` into `directory`; returns its path.
pub(super) fn make(
    package: &str,
    program: &Path,
    version: &str,
    directory: &Path,
    target: &Target,
) -> Result<PathBuf, Error> {
    let Linked { crates, mut needs } = linked(package, target)?;
    let sums = checksums(&fs::read_to_string(repo::root().join("Cargo.lock"))?);
    let rustc = step::output(Command::new("rustc").arg("--version"))?;
    let mut components: Vec<Value> =
        crates.iter().filter(|one| one.name != package).map(|one| component(one, &sums)).collect();
    let (std, libc) = (rustc.split(' ').nth(1).unwrap_or_default(), target.libc.as_str());
    components.push(system("rust-std", std, "MIT OR Apache-2.0"));
    components.push(system("glibc", libc, "LGPL-2.1-or-later"));
    let (std, libc) = (format!("rust-std@{std}"), format!("glibc@{libc}"));
    needs.entry(format!("{package}@{version}")).or_default().extend([std.clone(), libc.clone()]);
    let of_std = of_std(&fs::read(program)?);
    for (name, version) in &of_std {
        components.push(component_of_std(name, version));
        needs.entry(std.clone()).or_default().insert(reference_of_std(name, version));
    }
    needs.entry(std).or_default().insert(libc);
    let dependencies: Vec<Value> =
        needs.iter().map(|(one, others)| json!({ "ref": one, "dependsOn": others })).collect();
    let date = step::output(Command::new("date").args([
        "--utc",
        "+%FT%TZ",
        "--date",
        &format!("@{}", super::date()?),
    ]))?;
    let bill = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.5.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "version": 1,
        "metadata": {
            "timestamp": date.trim(),
            "component": {
                "type": "application",
                "bom-ref": format!("{package}@{version}"),
                "name": package,
                "version": version,
                "licenses": [{ "expression": "MIT OR Apache-2.0" }],
                "properties": [{ "name": "target", "value": target.triple }],
            },
        },
        "components": components,
        "dependencies": dependencies,
    });
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let file = directory.join(format!("{name}.cdx.json"));
    fs::write(&file, format!("{bill:#}\n"))?;
    println!("{name}: {} crates, Rust's library with {} crates, and libc", crates.len(), of_std.len());
    Ok(file)
}

/// The version of the C library that is linked in for this host: of Debian's package, which tells its patches too, or of the library.
pub(super) fn libc() -> Result<String, Error> {
    if repo::is_installed("dpkg-query")
        && let Ok(version) =
            step::output(Command::new("dpkg-query").args(["--show", "--showformat=${Version}", "libc6-dev"]))
    {
        return Ok(version);
    }
    let libc = step::output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    Ok(libc.trim().trim_start_matches("glibc ").to_owned())
}

/// The crates of Rust's library in a program: its panics name their sources, `/rust/deps/NAME-VERSION/src/lib.rs`.
fn of_std(program: &[u8]) -> BTreeSet<(String, String)> {
    named(program, "/rust/deps/", 0)
}

/// The packages of which the program's panics name sources: `PREFIX...NAME-VERSION/...`, after so many folders.
pub(super) fn named(program: &[u8], prefix: &str, folders: usize) -> BTreeSet<(String, String)> {
    let text = String::from_utf8_lossy(program);
    let places = text.split(prefix).skip(1).filter_map(|place| place.split('/').nth(folders));
    places.filter_map(split_version).map(|(name, version)| (name.to_owned(), version.to_owned())).collect()
}

/// The name and the version in `h2-0.4.20` or `toml-1.2.1+spec-1.1.0`.
fn split_version(package: &str) -> Option<(&str, &str)> {
    let at = package
        .match_indices('-')
        .find(|(at, _)| package[at + 1..].starts_with(|next: char| next.is_ascii_digit()));
    at.map(|(at, _)| (&package[..at], &package[at + 1..]))
}

/// Parses the lines of `cargo tree`: `DEPTHNAME vVERSION (PATH)|LICENCE`, repeated where several need it.
fn parse(tree: &str) -> Result<Linked, Error> {
    let mut linked = Linked::default();
    let mut above: Vec<String> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let (depth, one) =
            crate_of(line).ok_or_else(|| format!("`cargo tree` printed an unknown line: `{line}`"))?;
        let reference = format!("{}@{}", one.name, one.version);
        above.truncate(depth);
        if let Some(user) = above.last() {
            linked.needs.entry(user.clone()).or_default().insert(reference.clone());
        }
        linked.needs.entry(reference.clone()).or_default();
        above.push(reference);
        linked.crates.insert(one);
    }
    Ok(linked)
}

fn crate_of(line: &str) -> Option<(usize, Crate)> {
    let (package, licence) = line.split_once('|')?;
    let name_at = package.find(|letter: char| !letter.is_ascii_digit())?;
    let depth = package[..name_at].parse().ok()?;
    let mut words = package[name_at..].split(' ');
    let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
    let one = Crate {
        name: name.to_owned(),
        version: version.to_owned(),
        // An old form of `OR`, which is no valid expression.
        licence: licence.replace(" / ", " OR ").replace('/', " OR "),
        is_ours: words.next().is_some(),
    };
    Some((depth, one))
}

/// The checksums in Cargo.lock, by `NAME VERSION`. Packages of this workspace have none.
fn checksums(lock: &str) -> BTreeMap<String, String> {
    let mut sums = BTreeMap::new();
    for package in lock.split("[[package]]") {
        let value = |key: &str| {
            package.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"'))
        };
        if let (Some(name), Some(version), Some(sum)) = (value("name"), value("version"), value("checksum")) {
            sums.insert(format!("{name} {version}"), sum.to_owned());
        }
    }
    sums
}

fn component(one: &Crate, sums: &BTreeMap<String, String>) -> Value {
    let Crate { name, version, licence, is_ours } = one;
    let mut component = json!({
        "type": "library",
        "bom-ref": format!("{name}@{version}"),
        "name": name,
        "version": version,
        "licenses": [{ "expression": licence }],
    });
    if !is_ours {
        component["purl"] = json!(format!("pkg:cargo/{name}@{version}"));
    }
    if let Some(sum) = sums.get(&format!("{name} {version}")) {
        component["hashes"] = json!([{ "alg": "SHA-256", "content": sum }]);
    }
    component
}

/// A crate of Rust's library. Its licence is in the notices of the library.
fn component_of_std(name: &str, version: &str) -> Value {
    json!({
        "type": "library",
        "bom-ref": reference_of_std(name, version),
        "name": name,
        "version": version,
        "purl": format!("pkg:cargo/{name}@{version}"),
    })
}

/// The program may have a crate of the same name and version besides.
fn reference_of_std(name: &str, version: &str) -> String {
    format!("rust-std/{name}@{version}")
}

/// What is linked in but is no crate of the registry.
fn system(name: &str, version: &str, licence: &str) -> Value {
    json!({
        "type": "library",
        "bom-ref": format!("{name}@{version}"),
        "name": name,
        "version": version,
        "licenses": [{ "expression": licence }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_crate_is_listed_once_with_a_valid_licence_and_its_checksum() {
        let linked = parse(
            "0psflip v1.0.0 (/src/psflip)|MIT\n1h2 v1.0.0|MIT\n2fnv v1.0.7|Apache-2.0 / MIT\n1fnv v1.0.7|Apache-2.0 / MIT\n\n",
        )
        .unwrap();
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(linked.needs["psflip@1.0.0"], set(&["fnv@1.0.7", "h2@1.0.0"]));
        assert_eq!(linked.needs["h2@1.0.0"], set(&["fnv@1.0.7"]));
        assert_eq!(linked.needs["fnv@1.0.7"], set(&[]));
        let found = linked.crates;
        let names: Vec<(&str, &str, bool)> =
            found.iter().map(|one| (one.name.as_str(), one.licence.as_str(), one.is_ours)).collect();
        assert_eq!(
            names,
            [("fnv", "Apache-2.0 OR MIT", false), ("h2", "MIT", false), ("psflip", "MIT", true)]
        );
        let lock = "[[package]]\nname = \"fnv\"\nversion = \"1.0.7\"\nchecksum = \"3f9e\"\n[[package]]\nname = \"psflip\"\nversion = \"1.0.0\"\n";
        let fnv = component(found.first().unwrap(), &checksums(lock));
        assert_eq!(fnv["hashes"][0]["content"], "3f9e");
        assert_eq!(fnv["purl"], "pkg:cargo/fnv@1.0.7");
        assert_eq!(component(found.last().unwrap(), &checksums(lock))["hashes"], Value::Null);
        assert!(parse("what is this").is_err());
    }

    #[test]
    fn the_crates_of_rusts_library_are_found_in_a_program() {
        let program = b"x/rust/deps/gimli-0.32.3/src/lib.rs\0/rust/deps/gimli-0.32.3/src/a.rs/rust/deps/x";
        assert_eq!(of_std(program), BTreeSet::from([("gimli".to_owned(), "0.32.3".to_owned())]));
    }
}
