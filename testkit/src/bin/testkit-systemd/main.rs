//! Boots a real systemd in namespaces of its own, and removes it without a trace. See HELP;
//! `psflip_testkit::systemd` starts it.
//!
//! Three processes, one after the other: the supervisor stays outside. The second one enters the control
//! group and the namespaces, starts the third one as PID 1 of the new PID namespace, and exits. The third one
//! mounts the file systems and executes systemd.

mod inside;

use std::error::Error;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::setsid;
use psflip_testkit::systemd::cgroup::{self, Cgroup};
use psflip_testkit::{MARKER, Process};
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};

const HELP: &str = "\
testkit-systemd --supervise FOLDER ID [LAYER]
  boots `systemd --system` as PID 1 of new mount, uts, ipc, pid and cgroup namespaces, with the units of
  FOLDER/units and nothing else, and with TESTKIT_SANDBOX=ID in its environment; prints its pid as seen
  from outside and its control group; ends it at the end of stdin. The files of the host are visible at their paths; what
  is written to /etc, /usr and /var stays in the machine, but for FOLDER. The files of LAYER/usr lie over those of /usr.
testkit-systemd --enter FOLDER GROUP [LAYER], testkit-systemd --init FOLDER [LAYER]
  the same, further inside
Needs root, cgroup2, overlayfs, and Debian's package systemd.
";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match args.as_slice() {
        ["--supervise", folder, id, layer @ ..] if layer.len() < 2 => supervise(Path::new(folder), id, layer),
        ["--enter", folder, group, layer @ ..] => enter(folder, Path::new(group), layer),
        ["--init", folder, layer @ ..] => {
            inside::become_systemd(Path::new(folder), layer.first().map(Path::new))
        }
        _ => io::stdout().write_all(HELP.as_bytes()).map_err(Into::into),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // If descriptor 2 is closed, the exit code is the only report.
            let _ = writeln!(io::stderr(), "testkit-systemd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs until the test closes our stdin or exits, or the machine shuts down; then removes what is left.
fn supervise(folder: &Path, id: &str, layer: &[&str]) -> Result<()> {
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own))?;
    let group = Cgroup::make()?;
    let outcome = boot(folder, id, &group, layer);
    group.remove()?;
    outcome
}

fn boot(folder: &Path, id: &str, group: &Cgroup, layer: &[&str]) -> Result<()> {
    // The machine's init waits for a byte before it sets its parent-death signal to follow us: until then
    // another process is its parent.
    let (go_reader, mut go) = io::pipe()?;
    let log = File::create(folder.join("boot.log"))?;
    let status = Command::new("/proc/self/exe")
        .args(["--enter".as_ref(), folder.as_os_str(), group.path().as_os_str()])
        .args(layer)
        .env_clear()
        .env(MARKER, id)
        .stdin(go_reader)
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()?;
    if !status.success() {
        return Err(fs::read_to_string(folder.join("boot.log"))?.into());
    }
    let init = Process::current().children().into_iter().next().ok_or("the machine's init exited at once")?;
    go.write_all(b"!")?;
    let pid = i32::try_from(init.pid()).ok().and_then(Pid::from_raw).ok_or("a pid is positive")?;
    let end = pidfd_open(pid, PidfdFlags::empty())?;
    // If the test is gone already, stdin is at its end too.
    let _ = writeln!(io::stdout(), "{} {}", init.pid(), group.path().display());

    let stdin = io::stdin();
    let mut fds =
        [PollFd::new(stdin.as_fd(), PollFlags::POLLIN), PollFd::new(end.as_fd(), PollFlags::POLLIN)];
    loop {
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) if fds[1].any() == Some(true) => break,
            Ok(_) if io::stdin().read(&mut [0; 64])? == 0 => break,
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    group.remove()?;
    waitid(WaitId::Pid(pid), WaitIdOptions::EXITED)?;
    Ok(())
}

/// Enters the machine's control group and namespaces, and starts its init there.
fn enter(folder: &str, group: &Path, layer: &[&str]) -> Result<()> {
    setsid()?;
    // The control group of this process becomes the namespace's root, so join it before unshare(2).
    cgroup::join(group)?;
    unshare(
        CloneFlags::CLONE_NEWNS
            | CloneFlags::CLONE_NEWUTS
            | CloneFlags::CLONE_NEWIPC
            | CloneFlags::CLONE_NEWPID
            | CloneFlags::CLONE_NEWCGROUP,
    )?;
    let init = Command::new("/proc/self/exe")
        .args(["--init", folder])
        .args(layer)
        .stdin(Stdio::inherit())
        .spawn()?;
    drop(init); // this process exits next, which reparents init to the supervisor
    Ok(())
}
