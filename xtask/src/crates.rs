//! `cargo xtask crates`: checks the crates that would be published. Nothing is ever uploaded.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::args::Args;
use crate::{Error, Outcome, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask crates [--verify]

Checks the crates that would be published on crates.io: what a page there needs (description, readme, licence, keywords,
categories), that their dependencies can be published, and that each crate contains its sources, its readme and its licences,
and nothing else. Takes seconds. Nothing is uploaded.

  --verify  then pack all crates, build each as its users would (`cargo publish --dry-run`), and install psflip and
            psflip-rehearse from their paths, into target/installed";

/// The crates, in an order in which they can be uploaded: dependencies first.
const CRATES: &[&str] = &["psflip-relay", "psflip-testkit", "psflip-fixtures", "psflip-rehearse", "psflip"];

/// The categories of crates.io that we use. It refuses others, but only at the upload.
const CATEGORIES: &[&str] = &[
    "command-line-utilities",
    "development-tools::testing",
    "network-programming",
    "os::linux-apis",
    "web-programming::http-server",
];

/// What a crate contains besides `src`. Cargo itself adds its manifests and the commit.
const FILES: &[&str] = &["Cargo.lock", "Cargo.toml", "LICENSE-APACHE", "LICENSE-MIT", "README.md"];
const FILES_OF_CARGO: &[&str] = &[".cargo_vcs_info.json", "Cargo.toml.orig"];

pub(crate) fn run(mut args: Args) -> Outcome {
    let and_verify = args.flag("verify");
    args.done()?;
    check()?;
    if and_verify { verify() } else { Ok(()) }
}

/// The checks that take no time.
pub(crate) fn check() -> Outcome {
    let metadata = metadata()?;
    let mut findings = Vec::new();
    let packages: Vec<&Value> = metadata["packages"].as_array().into_iter().flatten().collect();
    let published: BTreeSet<&str> = packages
        .iter()
        .filter(|package| is_published(package))
        .filter_map(|package| package["name"].as_str())
        .collect();
    if published != CRATES.iter().copied().collect() {
        findings.push(format!("these would be published: {published:?}; wanted: {CRATES:?}"));
    }
    for package in packages.into_iter().filter(|package| is_published(package)) {
        let name = package["name"].as_str().unwrap_or_default();
        let mut faults = faults(package);
        faults.extend(faults_of_files(&listed(name)?, &sources(package)?));
        findings.extend(faults.into_iter().map(|fault| format!("{name}: {fault}")));
    }
    if findings.is_empty() {
        println!("{} crates could be published: {}", CRATES.len(), CRATES.join(", "));
        return Ok(());
    }
    Err(findings.join("\n").into())
}

/// Packs all crates, builds each from its package, and installs psflip and psflip-rehearse from their paths.
fn verify() -> Outcome {
    step::run(repo::cargo().args(["publish", "--workspace", "--dry-run", "--locked", "--allow-dirty"]))?;
    let root = repo::target_dir()?.join("installed");
    for path in ["psflip", "rehearse"] {
        let mut cargo = repo::cargo();
        cargo.args(["install", "--locked", "--debug", "--force", "--path", path, "--root"]).arg(&root);
        step::run(cargo.arg("--target-dir").arg(root.join("target")))?;
    }
    step::run(std::process::Command::new(root.join("bin/psflip")).arg("--version"))
}

/// What `cargo metadata` reports about the packages of the workspace.
pub(crate) fn metadata() -> Result<Value, Error> {
    let text = step::output(repo::cargo().args(["metadata", "--no-deps", "--format-version", "1"]))?;
    Ok(serde_json::from_str(&text)?)
}

/// Whether a package may be uploaded; `publish = false` is an empty list of registries here.
fn is_published(package: &Value) -> bool {
    package["publish"].as_array().is_none_or(|registries| !registries.is_empty())
}

/// What crates.io would refuse, or show as missing.
fn faults(package: &Value) -> Vec<String> {
    let mut faults = Vec::new();
    for key in ["description", "license", "readme", "rust_version"] {
        if package[key].as_str().is_none_or(str::is_empty) {
            faults.push(format!("Cargo.toml has no `{key}`"));
        }
    }
    if package["publish"] != serde_json::json!(["crates-io"]) {
        faults.push("`publish` has to name crates-io, so that it goes to no other registry".to_owned());
    }
    let words = |key: &str| -> Vec<String> {
        package[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let keywords = words("keywords");
    if keywords.is_empty() || keywords.len() > 5 || keywords.iter().any(|keyword| keyword.len() > 20) {
        faults.push(format!("{keywords:?}: 1 to 5 keywords of at most 20 characters are allowed"));
    }
    let categories = words("categories");
    if categories.is_empty() || !categories.iter().all(|category| CATEGORIES.contains(&category.as_str())) {
        faults.push(format!("{categories:?}: known categories are {CATEGORIES:?}"));
    }
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let name = dependency["name"].as_str().unwrap_or_default();
        let is_ours = dependency["path"].is_string();
        if dependency["req"] == "*" || (is_ours && !CRATES.contains(&name)) {
            faults.push(format!("the dependency `{name}` has no version, or is not published"));
        }
    }
    faults
}

/// The files in the package of a crate.
fn listed(name: &str) -> Result<BTreeSet<String>, Error> {
    let mut cargo = repo::cargo();
    cargo.args(["package", "--list", "--quiet", "--allow-dirty", "--package", name]);
    Ok(step::output(&mut cargo)?.lines().map(str::to_owned).collect())
}

/// The source files of a crate, without the snapshots of its tests.
fn sources(package: &Value) -> Result<BTreeSet<String>, Error> {
    let manifest = std::path::Path::new(package["manifest_path"].as_str().unwrap_or_default());
    let folder = manifest.parent().ok_or("cargo metadata names no manifest")?;
    let mut files = BTreeSet::new();
    for file in repo::files_below(&folder.join("src"))? {
        let path = file.strip_prefix(folder)?.to_string_lossy().into_owned();
        if !path.contains("/snapshots/") {
            files.insert(path);
        }
    }
    Ok(files)
}

fn faults_of_files(listed: &BTreeSet<String>, sources: &BTreeSet<String>) -> Vec<String> {
    let fixed = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<String>>();
    let wanted: BTreeSet<String> = sources.union(&fixed(FILES)).cloned().collect();
    let allowed: BTreeSet<String> = wanted.union(&fixed(FILES_OF_CARGO)).cloned().collect();
    let missing = wanted.difference(listed).map(|file| format!("the package lacks `{file}`"));
    let needless =
        listed.difference(&allowed).map(|file| format!("`{file}` does not belong into the package"));
    missing.chain(needless).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(change: impl Fn(&mut Value)) -> Value {
        let mut package = serde_json::json!({
            "name": "one", "description": "A", "license": "MIT", "readme": "README.md", "rust_version": "1.95",
            "publish": ["crates-io"], "keywords": ["a"], "categories": ["os::linux-apis"],
            "dependencies": [{ "name": "psflip-relay", "req": "^0.1.0", "path": "/relay" }],
        });
        change(&mut package);
        package
    }

    #[test]
    fn what_the_registry_would_refuse_is_found() {
        assert_eq!(faults(&package(|_| ())), [""; 0]);
        let changes: [(&str, Value); 6] = [
            ("description", Value::Null),
            ("readme", Value::Null),
            ("publish", Value::Null),
            ("keywords", serde_json::json!(["a", "b", "c", "d", "e", "f"])),
            ("categories", serde_json::json!(["linux"])),
            ("dependencies", serde_json::json!([{ "name": "doubles", "req": "^0.1.0", "path": "/tools" }])),
        ];
        for (key, value) in changes {
            assert_eq!(faults(&package(|package| package[key] = value.clone())).len(), 1, "{key}");
        }
    }

    #[test]
    fn a_missing_and_a_needless_file_are_found() {
        let set = |files: &[&str]| files.iter().map(|file| (*file).to_owned()).collect::<BTreeSet<String>>();
        let sources = set(&["src/lib.rs", "src/a.rs"]);
        let complete = &set(FILES) | &sources;
        assert!(faults_of_files(&complete, &sources).is_empty());
        let wrong = &(&complete - &set(&["src/a.rs"])) | &set(&["tests/big.bin"]);
        let found = ["the package lacks `src/a.rs`", "`tests/big.bin` does not belong into the package"];
        assert_eq!(faults_of_files(&wrong, &sources), found);
    }
}
