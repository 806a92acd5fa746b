//! aarch64: the programs are built on another architecture, and checked on an emulated host.
//!
//! It is a whole host with a kernel of its own (qemu-system-aarch64). qemu-aarch64, which emulates the processes alone, is
//! not enough: version 7.2 refuses PR_SET_CHILD_SUBREAPER of prctl(2), without which psflip does not start.

mod initramfs;
mod packages;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use testkit::{Deadline, Sandbox};

use super::Programs;
use super::target::Target;
use crate::{Error, Outcome, repo, step};
use initramfs::Initramfs;
use packages::Packages;

/// rustc's name of the target.
pub(crate) const TRIPLE: &str = "aarch64-unknown-linux-gnu";

/// The linker, and the C library in which it links: Rust has neither.
const TOOLCHAIN: [&str; 2] = ["gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"];
/// The emulator, a kernel, and the other programs of the emulated host.
const EMULATOR: [&str; 3] = ["qemu-system-arm", "linux-image-cloud-arm64:arm64", "busybox-static:arm64"];

/// How long the checks may take on the emulated host, its start included; they take half a minute.
const PATIENCE: Duration = Duration::from_secs(600);

/// The target, with all that is needed to build for it.
pub(super) fn target() -> Result<Target, Error> {
    add_library()?;
    let packages = Packages::unpacked("toolchain", &TOOLCHAIN)?;
    let libc = packages.version(TOOLCHAIN[1])?;
    Ok(Target {
        triple: TRIPLE.to_owned(),
        architecture: "aarch64".to_owned(),
        debian: "arm64".to_owned(),
        libc,
        linker: Some(linker(&packages)?),
    })
}

/// Makes sure that the compiler has Rust's library for the target.
fn add_library() -> Outcome {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let folder = step::output(Command::new(rustc).args(["--print", "target-libdir", "--target", TRIPLE]))?;
    if Path::new(folder.trim()).exists() {
        return Ok(());
    }
    if !repo::is_installed("rustup") {
        return Err(format!(
            "Rust's library for {TRIPLE} is not in {}. rustup would add it, but is not installed; Debian has it in \
             libstd-rust-web-dev:arm64, for the compiler in rustc-web of the same version",
            folder.trim()
        )
        .into());
    }
    step::run(Command::new("rustup").args(["target", "add", TRIPLE]))
}

/// A script that runs the linker with its libraries. rustc knows by the end of its name that it is a gcc.
fn linker(packages: &Packages) -> Result<PathBuf, Error> {
    let program = packages.program("aarch64-linux-gnu-gcc");
    let script = repo::target_dir()?.join("cross/aarch64-linux-gnu-gcc");
    let text = format!(
        "#!/bin/sh\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        packages.libraries(),
        program.display()
    );
    fs::write(&script, text)?;
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
    Ok(script)
}

/// Starts an emulated host on which `check.sh` runs the programs, and waits for its result.
pub(super) fn check(programs: &Programs) -> Outcome {
    let packages = Packages::unpacked("emulator", &EMULATOR)?;
    let sandbox = Sandbox::new();
    let files = Initramfs::default()
        .folder("bin")
        .program("init", include_bytes!("init.sh"))
        .program("bin/check", include_bytes!("check.sh"))
        .program("bin/app", include_bytes!("app.sh"))
        .program("bin/busybox", &fs::read(packages.file("bin/busybox")?)?)
        .program("bin/psflip", &fs::read(&programs.psflip)?)
        .program("bin/psflip-rehearse", &fs::read(&programs.rehearse)?);
    let files = sandbox.write("initramfs", files.finish());
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let (program, data) = (packages.program("qemu-system-aarch64"), packages.root().join("usr/share/qemu"));
    let (program, data) = (text(program), text(data));
    let (kernel, files) = (text(packages.file("boot/vmlinuz-")?), text(files));
    let machine = ["-M", "virt", "-cpu", "max", "-smp", "2", "-m", "512", "-nographic", "-nic", "none"];
    let running = sandbox
        .command([program])
        .args(machine)
        .args(["-no-reboot", "-L", &data, "-kernel", &kernel, "-initrd", &files])
        // A kernel that panics reboots, so ends the emulation.
        .args(["-append", "console=ttyAMA0 quiet panic=-1"])
        .env("LD_LIBRARY_PATH", packages.libraries())
        .start();
    running.wait_exit_by(Deadline::after(PATIENCE));
    let console = running.stdout();
    if !console.lines().any(|line| line.trim() == "all checks have passed") {
        return Err(format!("on an emulated host:\n{console}{}", running.stderr()).into());
    }
    let kernel = console.lines().find(|line| line.starts_with("Linux ")).unwrap_or_default();
    println!("a service was upgraded on an emulated host, with and without an anchor: {kernel}");
    Ok(())
}
