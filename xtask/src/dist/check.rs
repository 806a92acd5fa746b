//! Checks the files of a release: reproducible, complete, and readable by the programs of those who install them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use testkit::Sandbox;

use super::target::Target;
use super::{Made, Plan, collection, cross, deb, installed, licences, rpm, sbom, tarball};
use crate::{Error, Outcome, python, repo, step};

/// Validates bills of materials: the library of CycloneDX's own authors, with the schema.
const VALIDATOR: &str = "cyclonedx-python-lib[json-validation]==11.6.0";

/// Runs all checks.
pub(super) fn check(made: &Made, plan: &Plan) -> Outcome {
    let target = &made.programs.target;
    is_static_and_stripped(&made.programs.psflip, target)?;
    is_static_and_stripped(&made.programs.rehearse, target)?;
    if plan.all {
        is_the_same_again(made)?;
    }
    // The sandbox's guard, which ends what is left if this is killed.
    step::run(repo::cargo().args(["build", "--quiet", "--package", "psflip-testkit", "--bins"]))?;
    tarball_unpacks(made)?;
    if target.is_foreign() {
        installed::has_all_files(&made.package)?;
        cross::check(&made.programs)?;
    } else {
        installed::check(made, plan.before.as_deref())?;
    }
    if let Some(package) = &made.rpm {
        rpm_installs(made, package)?;
    }
    if let Some(tarball) = &made.collection {
        collection::installs(tarball)?;
    }
    bills_are_valid(made, plan.all)?;
    lint(&made.packages)
}

/// A static binary has neither an interpreter nor a symbol table (elf(5)). The text of an interpreter's path may be in it:
/// glibc's look-up of names has it.
fn is_static_and_stripped(binary: &Path, target: &Target) -> Outcome {
    let content = fs::read(binary)?;
    let contains = |text: &[u8]| content.windows(text.len()).any(|window| window == text);
    if has_interpreter(&content) != Some(false) || contains(b".symtab\0") {
        return Err(format!("`{}` is not static, or not stripped", binary.display()).into());
    }
    if machine(&content) != Some(target.architecture.as_str()) {
        return Err(format!(
            "`{}` is for {:?}, not {}",
            binary.display(),
            machine(&content),
            target.architecture
        )
        .into());
    }
    for path in [repo::root(), crate::binaries::cargo_home()?] {
        if contains(path.join("").as_os_str().as_encoded_bytes()) {
            return Err(format!("`{}` contains the path `{}`", binary.display(), path.display()).into());
        }
    }
    println!("static, stripped, without a path of this host: {} KiB", content.len() / 1024);
    Ok(())
}

/// Refuses a program that needs an interpreter, so libraries of its host.
pub(super) fn is_static(binary: &Path) -> Outcome {
    let content = fs::read(binary).map_err(|error| format!("can't read `{}`: {error}", binary.display()))?;
    if has_interpreter(&content) == Some(false) {
        return Ok(());
    }
    Err(format!("`{}` is no static program: build it by `cargo xtask dist`", binary.display()).into())
}

/// The architecture of an ELF64 file that is little-endian: `e_machine` of its header (elf(5)).
fn machine(content: &[u8]) -> Option<&'static str> {
    let kind = content.starts_with(b"\x7fELF\x02\x01").then(|| content.get(18..20)).flatten()?;
    match u16::from_le_bytes([kind[0], kind[1]]) {
        62 => Some("x86_64"),
        183 => Some("aarch64"),
        _ => None,
    }
}

/// Whether a program header of an ELF64 file names an interpreter; `None` if it is no such file.
fn has_interpreter(content: &[u8]) -> Option<bool> {
    const PT_INTERP: usize = 3;
    let number = |at: usize, length: usize| {
        let bytes = content.get(at..at + length)?;
        Some(bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte)) as usize)
    };
    let is_elf64 = content.starts_with(b"\x7fELF\x02\x01");
    let (headers, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    let kinds: Option<Vec<usize>> = (0..count).map(|index| number(headers + index * size, 4)).collect();
    kinds.filter(|_| is_elf64).map(|kinds| kinds.contains(&PT_INTERP))
}

/// Packs the same programs once more.
fn is_the_same_again(made: &Made) -> Outcome {
    let directory = made.package.with_file_name("again");
    fs::create_dir_all(&directory)?;
    let mut pairs: Vec<(&Path, PathBuf)> = vec![
        (&made.package, deb::psflip(&made.programs, &made.version, deb::SMALL, &directory)?),
        (&made.tarball, tarball::make(&made.programs, &made.version, &directory)?),
    ];
    if let Some(package) = &made.rpm {
        pairs.push((package, rpm::make(&made.programs, &made.version, &directory)?));
    }
    if let Some(tarball) = &made.collection {
        pairs.push((tarball, collection::make(&made.version, &directory)?));
    }
    for (first, second) in &pairs {
        if fs::read(first)? != fs::read(second)? {
            let (first, second) = (first.display(), second.display());
            return Err(format!("`{first}` and `{second}` differ, made of the same files").into());
        }
    }
    println!("{} packages made twice: the same bytes", pairs.len());
    Ok(fs::remove_dir_all(&directory)?)
}

/// Unpacks the tarball, and compares its files with its own checksums.
fn tarball_unpacks(made: &Made) -> Outcome {
    let sandbox = Sandbox::new();
    let owners = step::output(
        Command::new("tar").args(["--list", "--verbose", "--numeric-owner", "--file"]).arg(&made.tarball),
    )?;
    if let Some(line) = owners.lines().find(|line| line.split_whitespace().nth(1) != Some("0/0")) {
        return Err(format!("a file of the tarball does not belong to root: {line}").into());
    }
    let mut tar = Command::new("tar");
    tar.arg("--extract").arg("--directory").arg(sandbox.dir()).args(["--strip-components=1", "--file"]);
    step::output(tar.arg(&made.tarball))?;
    let sums = Path::new("share/doc/psflip/SHA256SUMS");
    step::output(
        Command::new("sha256sum")
            .args(["--check", "--quiet", "--strict"])
            .arg(sums)
            .current_dir(sandbox.dir()),
    )?;
    let listed = fs::read_to_string(sandbox.path(sums))?.lines().count();
    let unpacked = repo::files_below(sandbox.dir())?.len();
    if listed + 1 != unpacked {
        return Err(format!("the tarball has {unpacked} files, and checksums of {listed}").into());
    }
    let licences = fs::read_to_string(sandbox.path("share/doc/psflip").join(licences::FILE))?;
    // The first and the last part, and the notices of libraries.
    for part in ["Copyright (c) ", "Rust's standard library", "GNU LESSER GENERAL PUBLIC LICENSE"] {
        if !licences.contains(part) {
            return Err(format!("`{}` of the tarball lacks `{part}`", licences::FILE).into());
        }
    }
    for file in installed::FILES.iter().filter_map(|file| file.strip_prefix("usr/")) {
        if !sandbox.path(file).exists() {
            return Err(format!("the tarball has no `{file}`").into());
        }
    }
    if !made.programs.target.is_foreign() {
        reports_its_version(&sandbox.path("bin/psflip"), &made.version)?;
    }
    println!("the tarball unpacks, and its {listed} checksums are right");
    Ok(())
}

fn reports_its_version(program: &Path, version: &str) -> Outcome {
    let reported = step::output(Command::new(program).arg("--version"))?;
    if reported.trim() == format!("psflip {version}") {
        return Ok(());
    }
    Err(format!("`{}` reports version `{}`, not psflip {version}", program.display(), reported.trim()).into())
}

/// Lists the RPM package; as root, installs it into an empty root, verifies it, and removes it.
fn rpm_installs(made: &Made, package: &Path) -> Outcome {
    let rpm = |arguments: &[&str], last: &Path| step::output(Command::new("rpm").args(arguments).arg(last));
    let files = rpm(&["--query", "--list", "--package"], package)?;
    for file in installed::FILES {
        if !files.lines().any(|line| line.trim_start_matches('/') == *file) {
            return Err(format!("the RPM package has no `{file}`").into());
        }
    }
    for (what, option) in [("scripts", "--scripts"), ("triggers", "--triggers")] {
        let scripts = rpm(&["--query", option, "--package"], package)?;
        if !scripts.trim().is_empty() {
            return Err(format!("the RPM package has {what}: {scripts}").into());
        }
    }
    let why_not = match made.programs.target.is_foreign() {
        true => Some("it is for another architecture"),
        false => (!nix::unistd::geteuid().is_root()).then_some("rpm's --root is for root"),
    };
    if let Some(why) = why_not {
        println!("RPM: {} files; not installed, since {why}", files.lines().count());
        return Ok(());
    }
    let sandbox = Sandbox::new();
    let root = sandbox.path("root");
    fs::create_dir(&root)?;
    let at = |arguments: &[&str], last: &Path| {
        step::output(Command::new("rpm").arg("--root").arg(&root).args(arguments).arg(last))
    };
    at(&["--install"], package)?;
    let verified = at(&["--verify"], Path::new("psflip"))?;
    if !verified.trim().is_empty() {
        return Err(format!("rpm --verify: {verified}").into());
    }
    reports_its_version(&root.join("usr/bin/psflip"), &made.version)?;
    at(&["--erase"], Path::new("psflip"))?;
    let left = ours(&root)?;
    if !left.is_empty() {
        return Err(format!("rpm --erase has left {left:?}").into());
    }
    println!("RPM: {} files; installed into an empty root, verified, erased", files.lines().count());
    Ok(())
}

/// The files and directories below a root that belong to psflip, by their names or by their places.
fn ours(root: &Path) -> Result<Vec<PathBuf>, Error> {
    let text = step::output(Command::new("find").arg(root).args(["-path", "*psflip*", "-print"]))?;
    Ok(text.lines().map(PathBuf::from).collect())
}

/// Whether the bills of materials name psflip's libraries. Their format is validated if there is time: `fully`.
fn bills_are_valid(made: &Made, fully: bool) -> Outcome {
    for (bill, _) in made.bills.iter().take(2) {
        let content: Value = serde_json::from_str(&fs::read_to_string(bill)?)?;
        let names: Vec<&str> = content["components"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|one| one["name"].as_str())
            .collect();
        // A build script's, a macro's and a test's dependency are not in the program.
        for (name, is_in) in [("libc", true), ("serde_core", true), ("serde_derive", false), ("insta", false)]
        {
            if names.contains(&name) != is_in {
                return Err(format!("`{}`: `{name}` has to be in it: {is_in}", bill.display()).into());
            }
        }
    }
    for (bill, program) in &made.bills {
        names_what_is_linked(&fs::read_to_string(bill)?, &fs::read(program)?)?;
    }
    if !fully {
        return Ok(());
    }
    let folder = repo::target_dir()?.join("cyclonedx");
    let python = python::install(&folder, VALIDATOR, "python3")?;
    let script = "import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
for name in sys.argv[1:]:
    error = JsonStrictValidator(SchemaVersion.V1_5).validate_str(open(name).read())
    assert error is None, f'{name}: {error}'";
    step::output(Command::new(python).args(["-c", script]).args(made.bills.iter().map(|(bill, _)| bill)))?;
    println!("bills of materials: valid CycloneDX 1.5");
    Ok(())
}

/// Whether the bill names every crate whose sources the program's panics name.
fn names_what_is_linked(bill: &str, program: &[u8]) -> Outcome {
    // `/cargo/registry/src/REGISTRY/NAME-VERSION/src/lib.rs`
    let linked = sbom::named(program, "/cargo/registry/src/", 1);
    let (mut known, mut unknown) = (0, Vec::new());
    for (name, version) in linked {
        let is_in = bill.contains(&format!("\"pkg:cargo/{name}@{version}\""));
        if is_in { known += 1 } else { unknown.push(format!("{name} {version}")) }
    }
    if known == 0 || !unknown.is_empty() {
        return Err(format!(
            "a bill of materials lacks crates that are linked in: {unknown:?}; it has {known} of them"
        )
        .into());
    }
    println!("its bill of materials has all {known} crates that its panics name");
    Ok(())
}

/// Runs Debian's own checker, if it is installed.
fn lint(packages: &[PathBuf]) -> Outcome {
    if !repo::is_installed("lintian") {
        println!("lintian is not installed");
        return Ok(());
    }
    let mut lintian = Command::new("lintian");
    let findings = step::output(lintian.args(["--fail-on", "error,warning", "--allow-root"]).args(packages))?;
    println!("lintian: no findings in {} packages{findings}", packages.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_architecture_is_in_the_header() {
        let header =
            |kind: u8| [&b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0"[..], &[kind, 0, 1, 0]].concat();
        assert_eq!(machine(&header(183)), Some("aarch64"));
        assert_eq!(machine(&header(62)), Some("x86_64"));
        assert_eq!(
            (machine(&header(40)), machine(b"#!/bin/sh\n# a script\n"), machine(b"\x7fELF\x02\x01")),
            (None, None, None)
        );
        assert_eq!(machine(&fs::read("/proc/self/exe").unwrap()), Some(std::env::consts::ARCH));
    }
}
