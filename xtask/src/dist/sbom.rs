//! The bill of materials of a program, in CycloneDX's format 1.5: what is linked into it.
//!
//! It is made from `cargo tree`, which resolves the features of this one program for this target, as the build
//! does. Build scripts, procedural macros and the dependencies of tests are not in the program, so not here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::{Error, binaries, repo, step};

/// A crate in a program.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Crate {
    name: String,
    version: String,
    licence: String,
    is_ours: bool,
}

/// Writes the bill of `package`'s program into `directory`; returns its path.
pub(super) fn make(package: &str, version: &str, directory: &Path) -> Result<PathBuf, Error> {
    let target = binaries::host()?;
    let mut tree = repo::cargo();
    tree.args(["tree", "--locked", "--edges", "normal,no-proc-macro", "--prefix", "none", "--no-dedupe"]);
    tree.args(["--format", "{p}|{l}", "--target", &target, "--package", package]);
    let crates = crates(&step::output(&mut tree)?)?;
    let sums = checksums(&fs::read_to_string(repo::root().join("Cargo.lock"))?);
    let rustc = step::output(Command::new("rustc").arg("--version"))?;
    let libc = step::output(Command::new("getconf").arg("GNU_LIBC_VERSION"))?;
    let mut components: Vec<Value> =
        crates.iter().filter(|one| one.name != package).map(|one| component(one, &sums)).collect();
    components.push(system("rust-std", rustc.split(' ').nth(1).unwrap_or_default(), "MIT OR Apache-2.0"));
    components.push(system("glibc", libc.trim().trim_start_matches("glibc "), "LGPL-2.1-or-later"));
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
                "properties": [{ "name": "target", "value": target }],
            },
        },
        "components": components,
    });
    let file = directory.join(format!("{package}.cdx.json"));
    fs::write(&file, format!("{bill:#}\n"))?;
    println!("{package}: {} crates, Rust's library and libc are in it", crates.len());
    Ok(file)
}

/// A crate from the lines of `cargo tree`: `NAME vVERSION (PATH)|LICENCE`, repeated where several need it.
fn crates(tree: &str) -> Result<BTreeSet<Crate>, Error> {
    let parse = |line: &str| {
        let (package, licence) = line.split_once('|')?;
        let mut words = package.split(' ');
        let (name, version) = (words.next()?, words.next()?.strip_prefix('v')?);
        Some(Crate {
            name: name.to_owned(),
            version: version.to_owned(),
            // An old form of `OR`, which is no valid expression.
            licence: licence.replace(" / ", " OR ").replace('/', " OR "),
            is_ours: words.next().is_some(),
        })
    };
    tree.lines()
        .filter(|line| !line.is_empty())
        .map(|line| {
            parse(line).ok_or_else(|| format!("`cargo tree` printed an unknown line: `{line}`").into())
        })
        .collect()
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
        let found = crates(
            "psflip v1.0.0 (/src/psflip)|MIT\nfnv v1.0.7|Apache-2.0 / MIT\nfnv v1.0.7|Apache-2.0 / MIT\n\n",
        )
        .unwrap();
        let names: Vec<(&str, &str, bool)> =
            found.iter().map(|one| (one.name.as_str(), one.licence.as_str(), one.is_ours)).collect();
        assert_eq!(names, [("fnv", "Apache-2.0 OR MIT", false), ("psflip", "MIT", true)]);
        let lock = "[[package]]\nname = \"fnv\"\nversion = \"1.0.7\"\nchecksum = \"3f9e\"\n[[package]]\nname = \"psflip\"\nversion = \"1.0.0\"\n";
        let fnv = component(found.first().unwrap(), &checksums(lock));
        assert_eq!(fnv["hashes"][0]["content"], "3f9e");
        assert_eq!(fnv["purl"], "pkg:cargo/fnv@1.0.7");
        assert_eq!(component(found.last().unwrap(), &checksums(lock))["hashes"], Value::Null);
        assert!(crates("what is this").is_err());
    }
}
