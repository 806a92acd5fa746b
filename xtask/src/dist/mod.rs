//! `cargo xtask dist`: makes the files of a release.

mod check;
mod collection;
mod cross;
mod deb;
mod installed;
mod licences;
mod rpm;
mod sbom;
mod tarball;
mod target;
mod tree;
mod twice;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::args::Args;
use crate::{Error, Outcome, docs, repo, step};

use licences::Licences;
use target::Target;

pub(crate) use cross::TRIPLE as AARCH64;

pub(crate) const USAGE: &str = "\
cargo xtask dist [--check] [--binary FILE] [--before PACKAGE] [--target TRIPLE] [--no-docs] [--twice]

Makes in target/dist:
  psflip, psflip-rehearse                 the static programs
  psflip-fixture, testkit-launch          programs for tests, static as well
  psflip-VERSION-linux-ARCH.tar.gz        programs, man pages, completions, JSON Schema, template unit, examples, licences
  psflip_VERSION_ARCH.deb                 the same for Debian
  psflip-testkit_VERSION_ARCH.deb         the programs for tests
  psflip-VERSION-1.ARCH.rpm               as psflip's .deb, if rpmbuild is installed
  psflip-service-VERSION.tar.gz           the Ansible collection, if Ansible is installed
  PROGRAM.cdx.json                        what is linked into each program (CycloneDX)
  SHA256SUMS                              checksums of all
No package has scripts: installing one starts and stops nothing, and a running service uses the new psflip from its next
upgrade on. All files are the same, byte for byte, for the same commit, compiler, C library and packaging tools. The files of
an earlier run are replaced at the end, when all steps have succeeded.

  --check           then make the packages once more and compare, and read them by the programs of their users; as root, install
                    psflip's into an empty root, install a newer one while a service runs there, upgrade it, remove and purge
  --before PACKAGE  the psflip package of an earlier release, for --check. Default: the new one with another version number
  --binary FILE     pack this static psflip instead of building one
  --target TRIPLE   build for aarch64-unknown-linux-gnu into target/dist-aarch64, without psflip-testkit. Rust's library comes from
                    rustup, the rest from apt-get, unpacked in target/cross; with --check, it upgrades a service on an emulated host
  --no-docs         don't check before that man pages and completions are those of this psflip
  --twice           instead of all that, build the last commit twice, in new directories without a cache, and compare (15 minutes)";

pub(crate) fn run(mut args: Args) -> Outcome {
    let check = args.flag("check");
    let twice = args.flag("twice");
    let docs = !args.flag("no-docs");
    let binary: Option<PathBuf> = args.value("binary")?;
    let before: Option<PathBuf> = args.value("before")?;
    let target: Option<String> = args.value("target")?;
    args.done()?;
    if target.is_some() && (twice || binary.is_some() || before.is_some()) {
        return Err("--target: not with --twice, --binary or --before, which are for this host".into());
    }
    if twice {
        return twice::run();
    }
    if let Some(program) = missing() {
        let hint = "run this on Debian or Ubuntu; the static programs in the files run on any distribution";
        return Err(format!("`{program}` is not installed: {hint}").into());
    }
    if docs {
        docs::make(true)?;
    }
    make(&Plan { binary, target, before, check, all: true })
}

/// What to make.
#[derive(Default)]
pub(crate) struct Plan {
    /// A psflip that is built already.
    pub(crate) binary: Option<PathBuf>,
    /// rustc's name of what the programs run on; `None`: this host.
    pub(crate) target: Option<String>,
    /// An earlier package of psflip.
    pub(crate) before: Option<PathBuf>,
    /// Whether to check the files.
    pub(crate) check: bool,
    /// Whether to take the time for everything: the package of the programs for tests, which needs two more builds,
    /// every package made twice, and the bills of materials validated.
    pub(crate) all: bool,
}

/// The programs of a release.
struct Programs {
    psflip: PathBuf,
    rehearse: PathBuf,
    licences: Licences,
    target: Target,
}

/// The programs of the package psflip-testkit.
struct TestPrograms {
    fixture: PathBuf,
    launch: PathBuf,
    licences: Licences,
    target: Target,
}

/// Builds the programs, packs them, and checks the packages on request. What an earlier run has left in target/dist is
/// replaced at the end, when everything is there.
pub(crate) fn make(plan: &Plan) -> Outcome {
    let version = version()?;
    if let Some(binary) = &plan.binary {
        check::is_static(binary)?;
    }
    let target = Target::of(plan.target.as_deref())?;
    let name = if target.is_foreign() { format!("dist-{}", target.architecture) } else { "dist".to_owned() };
    let directory = repo::target_dir()?.join(&name);
    let new = empty(directory.with_file_name(format!("{name}-new")))?;
    let made = pack(plan, version, &target, &new)?;
    let sums = sums(&new)?;
    if plan.check {
        check::check(&made, plan).map_err(|error| format!("{error}\nthe files are in {}", new.display()))?;
    }
    empty(directory.clone())?;
    fs::rename(&new, &directory)?;
    println!("{sums}in {}", directory.display());
    Ok(())
}

fn pack(plan: &Plan, version: String, target: &Target, directory: &Path) -> Result<Made, Error> {
    let keep = |program: PathBuf, name: &str| -> Result<PathBuf, Error> {
        let kept = directory.join(name);
        fs::copy(program, &kept)?;
        Ok(kept)
    };
    let programs = Programs {
        psflip: keep(plan.binary.clone().map_or_else(|| target.build("psflip", "psflip"), Ok)?, "psflip")?,
        rehearse: keep(target.build("psflip-rehearse", "psflip-rehearse")?, "psflip-rehearse")?,
        licences: licences_of(["psflip", "psflip-rehearse"], target)?,
        target: target.clone(),
    };
    let tarball = tarball::make(&programs, &version, directory)?;
    let package = deb::psflip(&programs, &version, deb::SMALL, directory)?;
    let mut packages = vec![package.clone()];
    let mut described =
        vec![("psflip", programs.psflip.clone()), ("psflip-rehearse", programs.rehearse.clone())];
    // Its manual pages are made by the programs themselves.
    if plan.all && !target.is_foreign() {
        let programs = TestPrograms {
            fixture: keep(target.build("psflip-fixtures", "psflip-fixture")?, "psflip-fixture")?,
            launch: keep(target.build("psflip-testkit", "testkit-launch")?, "testkit-launch")?,
            licences: licences_of(["psflip-fixtures", "psflip-testkit"], target)?,
            target: target.clone(),
        };
        packages.push(deb::testkit(&programs, &version, directory)?);
        described.extend([("psflip-fixtures", programs.fixture), ("psflip-testkit", programs.launch)]);
    }
    let rpm = if repo::is_installed("rpmbuild") {
        Some(rpm::make(&programs, &version, directory)?)
    } else {
        println!("no RPM package: rpmbuild is not installed");
        None
    };
    let collection = if target.is_foreign() {
        None // it is for any architecture
    } else if repo::is_installed(collection::PROGRAM) {
        Some(collection::make(&version, directory)?)
    } else {
        println!("no Ansible collection: {} is not installed", collection::PROGRAM);
        None
    };
    let mut bills = Vec::new();
    for (package, program) in described {
        bills.push((sbom::make(package, &program, &version, directory, target)?, program));
    }
    Ok(Made { programs, version, tarball, package, packages, rpm, collection, bills })
}

/// The licences of what is linked into the programs of these crates.
fn licences_of(packages: [&str; 2], target: &Target) -> Result<Licences, Error> {
    let mut crates = BTreeSet::new();
    for package in packages {
        crates.extend(sbom::linked(package, target)?.crates);
    }
    licences::of(&crates, &target.libc)
}

/// A program that packs, without settings of this user that would change the packages.
fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    let settings = [
        "TAR_OPTIONS",
        "GZIP",
        "XZ_OPT",
        "XZ_DEFAULTS",
        "DPKG_DEB_COMPRESSOR_TYPE",
        "DPKG_DEB_COMPRESSOR_LEVEL",
    ];
    for name in settings {
        command.env_remove(name);
    }
    // Several threads compress a large file in parts.
    command.envs([("LC_ALL", "C"), ("TZ", "UTC"), ("DPKG_DEB_THREADS_MAX", "1")]);
    command
}

/// The files of a release.
struct Made {
    programs: Programs,
    version: String,
    tarball: PathBuf,
    /// psflip's Debian package.
    package: PathBuf,
    /// All Debian packages.
    packages: Vec<PathBuf>,
    rpm: Option<PathBuf>,
    collection: Option<PathBuf>,
    /// Each bill of materials with its program; those of psflip and psflip-rehearse come first.
    bills: Vec<(PathBuf, PathBuf)>,
}

/// The program that is missing to make a package on this host, if any.
pub(crate) fn missing() -> Option<&'static str> {
    ["dpkg", "dpkg-deb", "gzip", "sha256sum", "tar"].into_iter().find(|program| !repo::is_installed(program))
}

/// A new directory: files of an earlier version must not end up in this release.
fn empty(directory: PathBuf) -> Result<PathBuf, Error> {
    match fs::remove_dir_all(&directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(format!("can't remove `{}`: {error}", directory.display()).into());
        }
        _ => fs::create_dir_all(&directory)?,
    }
    Ok(directory)
}

/// Writes and returns the checksums of all files in the directory.
fn sums(directory: &Path) -> Result<String, Error> {
    let mut names: Vec<PathBuf> = fs::read_dir(directory)?
        .map(|entry| Ok(entry?.file_name().into()))
        .collect::<std::io::Result<_>>()?;
    names.sort();
    let text = step::output(Command::new("sha256sum").args(&names).current_dir(directory))?;
    fs::write(directory.join("SHA256SUMS"), &text)?;
    Ok(text)
}

/// The version, which must be the same in Cargo.toml and the changelog. The maintainer in both files of
/// dist/debian has no real address: the field is required (Debian policy 3.3), and names below `.invalid`
/// belong to no one (RFC 2606).
fn version() -> Result<String, Error> {
    let cargo = env!("CARGO_PKG_VERSION");
    let changelog = fs::read_to_string(repo::root().join("dist/debian/changelog"))?;
    if changelog.starts_with(&format!("psflip ({}) ", packaged(cargo))) {
        return Ok(cargo.to_owned());
    }
    Err(format!("dist/debian/changelog doesn't begin with version {cargo}: add what has changed").into())
}

/// A version as Debian's and RPM's tools sort it: a pre-release is older than its release.
pub(crate) fn packaged(version: &str) -> String {
    version.replace('-', "~")
}

/// The changelog's date, in seconds since 1970: the timestamp of everything in the packages.
fn date() -> Result<String, Error> {
    let changelog = fs::read_to_string(repo::root().join("dist/debian/changelog"))?;
    let line = changelog.lines().find(|line| line.starts_with(" -- ")).unwrap_or_default();
    let date = line.rsplit_once(">  ").map(|(_, date)| date).ok_or("dist/debian/changelog has no date")?;
    Ok(step::output(Command::new("date").args(["--utc", "+%s", "--date", date]))?.trim().to_owned())
}
