//! Checks the package: it must be reproducible and complete, install into an empty root, and run there.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use testkit::pidfile::named_process;
use testkit::process::Process;
use testkit::{Deadline, Sandbox, Signal, wait_until};

use super::{Binaries, deb, output};
use crate::{Error, Outcome, repo, step};

/// Files that the package must contain.
const FILES: &[&str] = &[
    "usr/bin/psflip",
    "usr/bin/psflip-rehearse",
    "usr/share/man/man1/psflip.1.gz",
    "usr/share/man/man1/psflip-rehearse.1.gz",
    "usr/share/man/man1/psflip-check.1.gz",
    "usr/share/man/man5/psflip.toml.5.gz",
    "usr/share/bash-completion/completions/psflip",
    "usr/share/zsh/vendor-completions/_psflip",
    "usr/share/fish/vendor_completions.d/psflip.fish",
    "usr/share/psflip/psflip.schema.json",
    "usr/share/doc/psflip/copyright",
    "usr/share/doc/psflip/changelog.gz",
    "usr/share/doc/psflip/examples/smallest.toml",
    "usr/lib/systemd/system/psflip@.service",
    "etc/psflip",
];

/// Runs all checks; `binaries` are those in the package.
pub(super) fn check(binaries: &Binaries, package: &Path) -> Outcome {
    is_static_and_stripped(&binaries.psflip)?;
    is_static_and_stripped(&binaries.rehearse)?;
    let again = package.with_file_name("again");
    fs::create_dir_all(&again)?;
    let second = deb::make(binaries, &again)?;
    if fs::read(package)? != fs::read(&second)? {
        return Err(format!(
            "`{}` and `{}` differ, made of the same files",
            package.display(),
            second.display()
        )
        .into());
    }
    fs::remove_dir_all(&again)?;
    println!("reproducible: made twice, the same bytes");
    // The sandbox's guard, which ends what is left if this is killed.
    step::run(repo::cargo().args(["build", "--quiet", "--package", "psflip-testkit", "--bins"]))?;
    let sandbox = Sandbox::new();
    let root = install(package, &sandbox)?;
    if nix::unistd::geteuid().is_root() {
        runs(&sandbox, &root)?;
    } else {
        println!("not run in the root: chroot(2) is for root");
    }
    lint(package)
}

/// A static binary has neither an interpreter nor a symbol table (elf(5)). The text of an interpreter's path may be in it:
/// glibc's look-up of names has it.
fn is_static_and_stripped(binary: &Path) -> Outcome {
    let content = fs::read(binary)?;
    let has_symbols = content.windows(8).any(|window| window == b".symtab\0");
    if has_interpreter(&content) != Some(false) || has_symbols {
        return Err(format!("`{}` is not static, or not stripped", binary.display()).into());
    }
    println!("static and stripped: {} KiB", content.len() / 1024);
    Ok(())
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

/// Installs the package into an empty root, without even a shell.
fn install(package: &Path, sandbox: &Sandbox) -> Result<PathBuf, Error> {
    let root = sandbox.path("root");
    for folder in ["var/lib/dpkg/updates", "var/lib/dpkg/info", "proc", "run", "dev"] {
        fs::create_dir_all(root.join(folder))?;
    }
    fs::write(root.join("var/lib/dpkg/status"), "")?;
    fs::write(root.join("var/lib/dpkg/available"), "")?;
    let mut dpkg = Command::new("dpkg");
    dpkg.arg("--root").arg(&root).args(["--force-not-root", "--log=/dev/null", "--install"]).arg(package);
    output(&mut dpkg)?;
    for name in FILES {
        let file = root.join(name);
        let metadata =
            fs::metadata(&file).map_err(|error| format!("the package has no `{name}`: {error}"))?;
        let expected = if metadata.is_dir() || name.starts_with("usr/bin/") { 0o755 } else { 0o644 };
        if metadata.permissions().mode() & 0o7777 != expected {
            return Err(format!("`{name}` has the mode {:o}", metadata.permissions().mode()).into());
        }
    }
    let verified = output(Command::new("dpkg").arg("--root").arg(&root).args(["--verify", "psflip"]))?;
    if !verified.is_empty() {
        return Err(format!("dpkg --verify: {verified}").into());
    }
    println!("installed into an empty root: {} files and folders are where they should be", FILES.len());
    Ok(root)
}

/// Starts a service in the root, upgrades it, and stops it. Besides psflip, the root has only its child:
/// `sleep`, with its libraries.
fn runs(sandbox: &Sandbox, root: &Path) -> Outcome {
    let version = output(Command::new("chroot").arg(root).args(["/usr/bin/psflip", "--version"]))?;
    if version.trim() != concat!("psflip ", env!("CARGO_PKG_VERSION")) {
        return Err(format!("it calls itself `{}`", version.trim()).into());
    }
    let sleep = PathBuf::from("/bin/sleep");
    let libraries = output(Command::new("ldd").arg(&sleep))?;
    let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
    for file in libraries.chain([sleep]) {
        let place = root.join(file.strip_prefix("/")?);
        fs::create_dir_all(place.parent().unwrap_or(root))?;
        fs::copy(&file, place)?;
    }
    fs::write(
        root.join("etc/psflip/app.toml"),
        "cmd = [\"/bin/sleep\", \"infinity\"]\npidfile = \"/run/app.pid\"\n[healthcheck.alive]\ntimeout = \"0s\"\n",
    )?;
    output(Command::new("chroot").arg(root).args([
        "/usr/bin/psflip",
        "check",
        "--strict",
        "-c",
        "/etc/psflip/app.toml",
    ]))?;
    // A mount namespace of its own removes /proc afterwards.
    let script =
        "mount -t proc proc \"$1/proc\" && exec chroot \"$1\" /usr/bin/psflip -c /etc/psflip/app.toml";
    let root_text = root.to_string_lossy().into_owned();
    let service = sandbox.command(["unshare", "--mount", "sh", "-c", script, "sh", &root_text]).start();
    let pidfile = root.join("run/app.pid");
    let active = |old: Option<Process>| {
        wait_until(Deadline::default(), "the pidfile to name a psflip", || {
            named_process(&pidfile).filter(|new| Some(*new) != old)
        })
    };
    let gone = |process: Process| {
        wait_until(Deadline::default(), "psflip to exit", || (!process.is_alive()).then_some(()));
    };
    let first = active(None);
    first.signal(Signal::SIGHUP)?;
    let second = active(Some(first));
    gone(first);
    second.signal(Signal::SIGTERM)?;
    gone(second);
    if pidfile.exists() || !service.stderr().contains("healthy, active") {
        return Err(format!("it did not stop as it should:\n{}", service.stderr()).into());
    }
    println!("runs there: started, flipped, stopped");
    Ok(())
}

/// Runs Debian's own checker, if it is installed.
fn lint(package: &Path) -> Outcome {
    if !repo::is_installed("lintian") {
        println!("lintian is not installed");
        return Ok(());
    }
    let said =
        output(Command::new("lintian").args(["--fail-on", "error,warning", "--allow-root"]).arg(package))?;
    println!("lintian: no findings{said}");
    Ok(())
}
