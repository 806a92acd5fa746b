//! A sandbox of Linux namespaces: the service runs with its own paths, ports and pidfile, beside the real one,
//! and nothing that it writes outlives it.
//!
//! Three processes of this program take part, since a process can't enter a new PID namespace itself:
//!
//! 1. The one that the user started ([`run`]). It stays outside, relays `--pass` addresses, and writes the
//!    reports.
//! 2. `enter`: makes the namespaces ([`enter`]).
//! 3. `inside`: PID 1 of the new namespace. Mounts, network, `--pass` ([`set_up`]), then the rehearsal.
//!
//! Each dies with the one before it (PR_SET_PDEATHSIG), and the kernel kills all processes of a PID namespace
//! when its PID 1 exits: `kill -9` of any of them leaves nothing.

mod mounts;
mod network;
mod pass;
mod stage;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use nix::sched::{CloneFlags, unshare};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

pub(crate) use stage::Stage;

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {error}")]
pub(crate) struct SandboxError {
    what: String,
    error: io::Error,
}

impl SandboxError {
    fn new(what: impl Into<String>, error: impl Into<io::Error>) -> Self {
        Self { what: what.into(), error: error.into() }
    }
}

/// Directories that the sandbox has of its own: what the host has there is not to be seen.
const OWN_DIRECTORIES: [&str; 2] = ["/dev", "/proc"];

/// The directory of the sandbox's own that hides this path, if one does.
pub(crate) fn hides(path: &Path) -> Option<&'static str> {
    OWN_DIRECTORIES.into_iter().find(|own| path.starts_with(own))
}

type Result<T, E = SandboxError> = std::result::Result<T, E>;

/// Where the rehearsal writes, whatever it sees of the file system.
#[derive(Debug)]
pub(crate) struct Files {
    /// The report, as JSON.
    pub(crate) report: File,
    pub(crate) log: File,
}

/// Runs this program again inside a sandbox, and waits for it. It has the host's network, or may connect to the
/// addresses `passed` outside.
///
/// # Errors
/// No process could be started.
pub(crate) fn run(files: &Files, has_host_network: bool, passed: &[SocketAddr]) -> io::Result<ExitStatus> {
    let open = [files.report.as_fd(), files.log.as_fd()];
    for file in &open {
        fcntl_setfd(file, FdFlags::empty())?;
    }
    let stage = Stage {
        is_inside: false,
        descriptors: open.iter().map(AsRawFd::as_raw_fd).collect(),
        has_host_network,
        addresses: network::addresses(),
    };
    // The socket over which the sandbox hands out its connections is its standard input: the one descriptor
    // that it can take over safely.
    let stdin = if passed.is_empty() { Stdio::null() } else { pass::relay_outside()?.into() };
    let mut sandbox = again(&stage).stdin(stdin).spawn()?;
    if !passed.is_empty() {
        pass::raise_limit();
    }
    sandbox.wait()
}

/// This program with the same arguments, at another stage.
fn again(stage: &Stage) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.arg(stage.to_arg()).args(std::env::args_os().skip(1).filter(|arg| !Stage::is_one(arg)));
    command
}

/// The second process: makes the namespaces, and runs the third in them. Returns its exit code.
///
/// # Errors
/// The kernel, or its configuration, allows none.
pub(crate) fn enter(stage: &Stage) -> Result<u8> {
    die_with_parent()?;
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let mut flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    if !stage.has_host_network {
        flags |= CloneFlags::CLONE_NEWNET;
    }
    if !user.is_root() {
        flags |= CloneFlags::CLONE_NEWUSER;
    }
    unshare(flags).map_err(|error| SandboxError::new("no namespaces can be made (unshare)", error))?;
    if !user.is_root() {
        // The same IDs inside: a service may behave differently as root.
        for (file, line) in [
            ("setgroups", "deny".to_owned()),
            ("uid_map", format!("{0} {0} 1", user.as_raw())),
            ("gid_map", format!("{0} {0} 1", group.as_raw())),
        ] {
            let written = std::fs::write(format!("/proc/self/{file}"), line);
            written
                .map_err(|error| SandboxError::new(format!("/proc/self/{file} can't be written"), error))?;
        }
        keep_capabilities()
            .map_err(|error| SandboxError::new("no capabilities in the user namespace", error))?;
    }
    let inside = Stage { is_inside: true, ..stage.clone() };
    let status =
        again(&inside).status().map_err(|error| SandboxError::new("no process can be started", error))?;
    Ok(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(crate::exit::FAILED))
}

/// What mounting takes, and what an overlay does on behalf of the process that mounted it.
const NEEDED: [CapabilitySet; 8] = [
    CapabilitySet::SYS_ADMIN,
    CapabilitySet::NET_ADMIN,
    CapabilitySet::SYS_CHROOT,
    CapabilitySet::DAC_OVERRIDE,
    CapabilitySet::DAC_READ_SEARCH,
    CapabilitySet::FOWNER,
    CapabilitySet::CHOWN,
    CapabilitySet::MKNOD,
];

/// Keeps these capabilities across execve(2) of a process that is not root.
fn keep_capabilities() -> rustix::io::Result<()> {
    let sets = capabilities(None)?;
    let inheritable = NEEDED.into_iter().fold(sets.inheritable, |all, one| all | one);
    set_capabilities(None, CapabilitySets { inheritable, ..sets })?;
    NEEDED.into_iter().try_for_each(|one| rustix::thread::configure_capability_in_ambient_set(one, true))
}

fn die_with_parent() -> Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL)).map_err(|error| SandboxError::new("prctl", error))
}

/// The third process, before the rehearsal: mounts, network, and the addresses outside. `config` is the
/// configuration file.
///
/// # Errors
/// The kernel, or its configuration, allows no such mounts.
pub(crate) fn set_up(stage: &Stage, config: &Path, passed: &[SocketAddr]) -> Result<Files> {
    die_with_parent()?;
    let files = stage.files().map_err(|error| SandboxError::new("the report's files", error))?;
    let Ok([report, log]) = <[File; 2]>::try_from(files) else {
        return Err(SandboxError::new("the report's files", io::Error::from(io::ErrorKind::InvalidInput)));
    };
    mounts::set_up(config)?;
    if !stage.has_host_network {
        network::set_up(&stage.addresses)?;
    }
    mounts::protect_proc();
    pass::listen(passed)?;
    // The service gets no capability that its user doesn't have.
    rustix::thread::clear_ambient_capability_set().map_err(|error| SandboxError::new("prctl", error))?;
    Ok(Files { report, log })
}
