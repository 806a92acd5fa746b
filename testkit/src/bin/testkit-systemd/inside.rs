//! PID 1 of the new namespaces, before it becomes systemd. It mounts a `/proc`, `/run`, `/dev`, control
//! groups and a journal of its own, and makes the host's files read-only or private.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use nix::unistd::sethostname;
use psflip_testkit::MARKER;

use crate::Result;

/// Mount flags: no devices, no set-user-ID programs.
const QUIET: MsFlags = MsFlags::MS_NOSUID.union(MsFlags::MS_NODEV);
const SEALED: MsFlags = QUIET.union(MsFlags::MS_NOEXEC);

/// The units of every machine, taken from Debian's folder.
const UNITS: &[&str] = &[
    "systemd-journald.service",
    "systemd-journald.socket",
    "systemd-journald-dev-log.socket",
    "basic.target",
    "sockets.target",
    "timers.target",
    "paths.target",
    "slices.target",
    "shutdown.target",
    "umount.target",
    "final.target",
];
const DEBIAN_UNITS: &str = "/lib/systemd/system";

/// Replaces Debian's sysinit.target, which would mount file systems, wait for devices and load a random seed.
const SYSINIT: &str =
    "[Unit]\nDescription=As much of sysinit.target as a test needs\nDefaultDependencies=no\n";
const START: &str = "[Unit]\nDescription=The journal, and nothing else\nDefaultDependencies=no\n\
                     Wants=systemd-journald.service\nAfter=systemd-journald.service\n";
/// No rate limit: a test that logs a lot must see every line.
const JOURNALD: &str =
    "[Journal]\nStorage=volatile\nRateLimitIntervalSec=0\nForwardToSyslog=no\nReadKMsg=no\n";

/// Sets up the namespaces and executes systemd. Returns only on failure.
pub(crate) fn become_systemd(folder: &Path, layer: Option<&Path>) -> Result<()> {
    follow_the_supervisor()?;
    let step = |what: &str, result: Result<()>| result.map_err(|error| format!("{what}: {error}"));
    step("mounts", mount_all(folder, layer))?;
    step("units", write_units(&folder.join("units")))?;
    let marker = std::env::var_os(MARKER).unwrap_or_default();
    let error = Command::new("/lib/systemd/systemd")
        .args(["--system", "--unit=testkit.target", "--log-target=journal", "--show-status=no"])
        .env_clear()
        .env(MARKER, marker)
        .env("container", "testkit")
        .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LANG", "C.UTF-8")
        .env("SYSTEMD_UNIT_PATH", folder.join("units"))
        .env("SYSTEMD_GENERATOR_PATH", "/nonexistent")
        .env("SYSTEMD_ENVIRONMENT_GENERATOR_PATH", "/nonexistent")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .exec();
    Err(format!("`/lib/systemd/systemd` can't be executed: {error}").into())
}

/// Dies with the supervisor: when it is killed, or if it has already exited.
fn follow_the_supervisor() -> Result<()> {
    io::stdin().read_exact(&mut [0])?;
    set_pdeathsig(Signal::SIGKILL)?;
    let stdin = io::stdin();
    let mut fds = [PollFd::new(stdin.as_fd(), PollFlags::empty())];
    poll(&mut fds, PollTimeout::ZERO)?;
    if fds[0].any() == Some(true) {
        return Err("the supervisor has exited".into());
    }
    Ok(())
}

fn mount_all(folder: &Path, layer: Option<&Path>) -> Result<()> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    fs_mount("proc", "/proc", SEALED, "")?;
    fs_mount("tmpfs", "/run", QUIET, "mode=755")?;
    hide_writes(folder, layer)?;
    make_devices(&folder.join("console"))?;

    // Removes every mount there, in whatever order they were made.
    while umount2("/sys/fs/cgroup", MntFlags::MNT_DETACH).is_ok() {}
    bind("/sys", "/sys")?;
    read_only("/sys")?; // without udev there are no .device units
    fs_mount("cgroup2", "/sys/fs/cgroup", SEALED, "")?;
    bind("/proc/sys", "/proc/sys")?;
    read_only("/proc/sys")?; // otherwise PID 1 would raise limits of the host
    if Path::new("/proc/sysrq-trigger").exists() {
        bind("/dev/null", "/proc/sysrq-trigger")?;
    }
    fs::write("/etc/hostname", "testkit\n")?; // systemd sets the host name from it
    sethostname("testkit")?;
    Ok(())
}

/// Redirects writes to these folders of the host into memory; the test's own folder stays writable. The
/// folders of `layer` are laid over those of the host.
fn hide_writes(folder: &Path, layer: Option<&Path>) -> Result<()> {
    fs::create_dir_all("/run/testkit/shared")?;
    bind(folder, "/run/testkit/shared")?;
    if let Some(layer) = layer {
        // A path without the characters that separate mount options.
        fs::create_dir("/run/testkit/layer")?;
        bind(layer, "/run/testkit/layer")?;
    }
    for name in ["etc", "usr", "var"] {
        let (upper, work) = (format!("/run/testkit/{name}"), format!("/run/testkit/{name}.work"));
        fs::create_dir(&upper)?;
        fs::create_dir(&work)?;
        let above = match layer {
            Some(_) if name == "usr" => "/run/testkit/layer/usr:",
            _ => "",
        };
        let options = format!("lowerdir={above}/{name},upperdir={upper},workdir={work}");
        fs_mount("overlay", &format!("/{name}"), MsFlags::empty(), &options)?;
    }
    mount(Some("/run/testkit/shared"), folder, None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    if Path::new("/var/log/journal").exists() {
        fs_mount("tmpfs", "/var/log/journal", QUIET, "")?; // hides lines of other machines
    }
    fs::create_dir_all("/etc/systemd/journald.conf.d")?;
    fs::write("/etc/systemd/journald.conf.d/testkit.conf", JOURNALD)?;
    Ok(())
}

/// A private, minimal `/dev`.
fn make_devices(console: &Path) -> Result<()> {
    File::create(console)?;
    fs::create_dir("/run/dev")?;
    fs_mount("tmpfs", "/run/dev", MsFlags::MS_NOSUID, "mode=755")?;
    for name in ["null", "zero", "full", "random", "urandom", "tty"] {
        File::create(format!("/run/dev/{name}"))?;
        bind(format!("/dev/{name}"), format!("/run/dev/{name}"))?;
    }
    fs::create_dir("/run/dev/pts")?;
    fs_mount("devpts", "/run/dev/pts", MsFlags::MS_NOSUID, "newinstance,ptmxmode=0666,mode=620")?;
    fs::create_dir("/run/dev/shm")?;
    fs_mount("tmpfs", "/run/dev/shm", QUIET, "mode=1777")?;
    for (target, name) in [
        ("pts/ptmx", "ptmx"),
        ("/proc/self/fd", "fd"),
        ("fd/0", "stdin"),
        ("fd/1", "stdout"),
        ("fd/2", "stderr"),
    ] {
        symlink(target, format!("/run/dev/{name}"))?;
    }
    File::create("/run/dev/console")?;
    bind(console, "/run/dev/console")?;
    File::create("/run/dev/kmsg")?;
    bind("/dev/null", "/run/dev/kmsg")?; // the kernel log belongs to the host
    mount(Some("/run/dev"), "/dev", None::<&str>, MsFlags::MS_MOVE, None::<&str>)?;
    fs::remove_dir("/run/dev")?;
    Ok(())
}

fn write_units(units: &Path) -> Result<()> {
    fs::create_dir_all(units)?;
    for name in UNITS {
        let path = units.join(name);
        if !path.exists() {
            symlink(Path::new(DEBIAN_UNITS).join(name), path)?;
        }
    }
    fs::write(units.join("sysinit.target"), SYSINIT)?;
    fs::write(units.join("testkit.target"), START)?;
    Ok(())
}

fn fs_mount(kind: &str, target: &str, flags: MsFlags, options: &str) -> Result<()> {
    let options = Some(options).filter(|options| !options.is_empty());
    mount(Some(kind), target, Some(kind), flags, options)
        .map_err(|error| format!("{kind} can't be mounted on `{target}`: {error}").into())
}

fn bind(source: impl AsRef<Path>, target: impl AsRef<Path>) -> Result<()> {
    let (source, target) = (source.as_ref(), target.as_ref());
    mount(Some(source), target, None::<&str>, MsFlags::MS_BIND, None::<&str>).map_err(|error| {
        format!("`{}` can't be bound to `{}`: {error}", source.display(), target.display()).into()
    })
}

fn read_only(target: &str) -> Result<()> {
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | SEALED;
    mount(None::<&str>, target, None::<&str>, flags, None::<&str>)
        .map_err(|error| format!("`{target}` can't be made read-only: {error}").into())
}
