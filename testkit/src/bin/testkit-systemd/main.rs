//! Boots a real systemd in namespaces of its own, and removes it without a trace. See HELP; `testkit::systemd` starts it.
//!
//! Three processes, one after the other: the supervisor stays outside; the second one enters control group and
//! namespaces, starts the third one as PID 1 of the new pid namespace, and ends; the third one makes mounts and becomes systemd.

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
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, pidfd_open, waitid};
use testkit::systemd::cgroup::{self, Cgroup};
use testkit::{MARKER, Process};

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
            // With descriptor 2 closed, the code has to do.
            let _ = writeln!(io::stderr(), "testkit-systemd: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Stays until the test closes our stdin or ends, or the machine does by itself; then removes what is left.
fn supervise(folder: &Path, id: &str, layer: &[&str]) -> Result<()> {
    let own = rustix::process::getpid();
    rustix::process::set_child_subreaper(Some(own))?;
    let group = Cgroup::make()?;
    let outcome = boot(folder, id, &group, layer);
    group.remove()?;
    outcome
}

fn boot(folder: &Path, id: &str, group: &Cgroup, layer: &[&str]) -> Result<()> {
    // The machine's init waits for a byte before it binds its life to ours: until then its parent is another process.
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
    let init =
        Process::current().children().into_iter().next().ok_or("the machine's init has ended at once")?;
    go.write_all(b"!")?;
    let pid = i32::try_from(init.pid()).ok().and_then(Pid::from_raw).ok_or("a pid is positive")?;
    let end = pidfd_open(pid, PidfdFlags::empty())?;
    // The test may be gone already: then the end of stdin is next.
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

/// Goes where the machine is to be, and starts its init there.
fn enter(folder: &str, group: &Path, layer: &[&str]) -> Result<()> {
    setsid()?;
    // Before the namespace is made: the group of this moment becomes its root.
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
    drop(init); // it falls to the supervisor when this process ends
    Ok(())
}
