//! Limits so low that something fails, at a first start and at an upgrade: rlimits (setrlimit(2)), and full
//! or read-only file systems or those without free inodes, under the pidfile and under the log (F10, P4).
//! Where exactly it fails depends on the host. It must work, or fail as a whole with a reason.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::sync::Arc;

use testkit::pidfile::named_process;
use testkit::{Deadline, Process, PsflipBuilder, Running, Sandbox, Signal, Stdin, Stream, wait_until};

use super::rig::{Outcome, Rig, names_like, server};
use crate::service::{AT_ONCE, psflip, stop};

const KB: u64 = 1024;
const MB: u64 = 1024 * KB;

/// Limits by their names for prlimit(1), from values at which nothing works to values at which all works.
fn limits() -> Vec<(&'static str, Vec<u64>)> {
    vec![
        ("nofile", (3..=24).collect()),
        ("as", vec![MB, 4 * MB, 8 * MB, 10 * MB, 12 * MB, 14 * MB, 16 * MB, 24 * MB, 64 * MB, 512 * MB]),
        ("data", vec![0, 64 * KB, 256 * KB, 512 * KB, 700 * KB, MB, 2 * MB, 64 * MB]),
        ("stack", vec![4 * KB, 16 * KB, 32 * KB, 64 * KB, 128 * KB, 256 * KB, 8 * MB]),
        ("fsize", vec![0, 1, 4, 100, MB]),
        ("sigpending", vec![0, 1, 2]),
        ("memlock", vec![0]),
    ]
}

/// Runs prlimit(1) on a running process. It sets soft limits only, so that they can be raised again.
fn limit(sandbox: &Sandbox, process: Process, name: &str, value: &str) {
    let (pid, limit) = (process.pid().to_string(), format!("--{name}={value}:"));
    let running = sandbox.command(["prlimit", "--pid", &pid, &limit]).start();
    let status = running.wait_exit();
    // The process that starts a new psflip lives only briefly.
    assert!(status.success() || !process.is_alive(), "prlimit {limit}: {status}: {}", running.stderr());
}

/// The soft limit that every process starts with.
fn usual(name: &str) -> String {
    let sandbox = Sandbox::new();
    let limit = format!("--{name}");
    let running = sandbox.command(["prlimit", &limit, "--output=SOFT", "--noheadings"]).start();
    assert!(running.wait_exit().success(), "{}", running.stderr());
    running.stdout().trim().to_owned()
}

/// A first psflip either becomes a service, upgrades and stops, or logs why not and leaves nothing behind.
/// Returns whether it became a service.
#[track_caller]
fn works_or_is_refused(sandbox: &Sandbox, psflip: PsflipBuilder) -> bool {
    let psflip = psflip.start();
    let path = psflip.pidfile_path().to_owned();
    let status = wait_until(Deadline::default(), "psflip to be ready, or to exit", || match path.exists() {
        true => Some(None),
        false => psflip.program().try_status().map(Some),
    });
    if let Some(status) = status {
        assert!(!status.success(), "{status}, but nothing runs:\n{}", sandbox.report());
        sandbox.assert_no_process_left();
        // If not even the program can be loaded, the kernel kills the process.
        if status.signal().is_none() {
            psflip.output().wait_for(
                Deadline::default(),
                "a log line with the reason why it exited",
                |lines| lines.first().cloned(),
            );
        }
        assert_eq!(names_like(&path), [""; 0], "{}", sandbox.report());
        return false;
    }
    // From here on psflip is a service, and must survive an upgrade that the limit makes fail.
    let old = named_process(&path).unwrap_or_else(|| panic!("it fell: {}", sandbox.report()));
    old.signal(Signal::SIGHUP).unwrap_or_else(|error| panic!("it fell: {error}\n{}", sandbox.report()));
    let promoted = wait_until(Deadline::default(), "the upgrade to finish", || {
        let failed = psflip.log().contains("upgrade failed");
        if old.is_alive() { failed.then_some(false) } else { Some(true) }
    });
    wait_until(Deadline::default(), "only one generation to be left", || {
        (sandbox.processes().len() == 3).then_some(())
    });
    assert_eq!(psflip.active() != old, promoted, "{}", sandbox.report());
    stop(&psflip);
    assert_eq!(names_like(&path), [""; 0], "{}", sandbox.report());
    sandbox.assert_no_process_left();
    true
}

/// Starts a first psflip with each limit of this kind.
#[track_caller]
fn first_starts(names: &[&str]) {
    for (name, values) in limits().into_iter().filter(|(name, _)| names.contains(name)) {
        let mut worked = Vec::new();
        for value in &values {
            let sandbox = Sandbox::new();
            let limit = format!("--{name}={value}");
            let rest = format!("{AT_ONCE}[upgrade]\ntimeout = \"10s\"\n");
            let psflip = psflip(&sandbox, &["never-ready"], &rest).wrapper(["prlimit", &limit]);
            worked.push(works_or_is_refused(&sandbox, psflip));
        }
        assert_eq!(worked.last(), Some(&true), "the highest limit of {name} is enough: {worked:?}");
    }
}

#[test]
fn a_first_start_with_few_descriptors_works_or_reports_why() {
    // Contract: F10, C6
    first_starts(&["nofile"]);
}

#[test]
fn a_first_start_with_little_memory_works_or_reports_why() {
    // Contract: F10, C6
    first_starts(&["as", "data", "stack", "memlock"]);
}

#[test]
fn a_first_start_with_file_and_signal_limits_works_or_reports_why() {
    // Contract: F10, C6, P4
    first_starts(&["fsize", "sigpending"]);
}

/// Upgrades with each limit of this kind, while a client sends requests.
#[track_caller]
fn upgrades(names: &[&str]) {
    for (name, values) in limits().into_iter().filter(|(name, _)| names.contains(name)) {
        let usual = usual(name);
        // The child restores its own limit where it may, since its behavior with a low limit is not under
        // test.
        let mut cmd = vec!["prlimit".to_owned(), format!("--{name}={usual}:")];
        cmd.extend(server());
        let mut rig = Rig::start(|_, psflip| psflip.cmd(cmd));
        let mut outcomes = Vec::new();
        for value in &values {
            let outcome = rig.upgrade(
                |rig, old| {
                    limit(&rig.sandbox, old, name, &value.to_string());
                    rig.psflip.request_flip();
                },
                |rig| {
                    // The active generation, old or new, since limits are inherited.
                    for process in rig.psflip.active().tree() {
                        limit(&rig.sandbox, process, name, &usual);
                    }
                },
            );
            outcomes.push(outcome);
        }
        assert_eq!(outcomes.last(), Some(&Outcome::Promoted), "the highest limit of {name}: {outcomes:?}");
        rig.upgrade_well();
        rig.ends();
    }
}

#[test]
fn an_upgrade_with_few_descriptors_succeeds_or_changes_nothing() {
    // Contract: F10, U8
    upgrades(&["nofile"]);
}

#[test]
fn an_upgrade_with_little_memory_succeeds_or_changes_nothing() {
    // Contract: F10, U8
    upgrades(&["as", "data", "stack", "memlock"]);
}

#[test]
fn an_upgrade_with_file_and_signal_limits_succeeds_or_changes_nothing() {
    // Contract: F10, U8, P4
    upgrades(&["fsize", "sigpending"]);
}

#[test]
fn a_first_start_with_few_processes_works_or_reports_why() {
    // Contract: F10, C6
    if !testkit::need_root() {
        return; // no test user without other processes
    }
    let mut worked = Vec::new();
    // psflip, keeper and child, and the short-lived processes that start them.
    for processes in 0..=8_u32 {
        let sandbox = Sandbox::new();
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(sandbox.dir(), open).unwrap();
        // A user that has no other processes.
        let user = 1_100_000 + std::process::id();
        let (uid, gid) = (format!("--reuid={user}"), format!("--regid={user}"));
        let limit = format!("--nproc={processes}");
        let wrapper = ["prlimit", &limit, "setpriv", &uid, &gid, "--clear-groups", "--"];
        let psflip = psflip(&sandbox, &["never-ready"], AT_ONCE).wrapper(wrapper);
        worked.push(works_or_is_refused(&sandbox, psflip));
    }
    assert!(!worked[0] && worked[8], "{worked:?}");
}

/// A small file system of its own, in a mount namespace that one process holds. All others reach it through
/// `/proc`.
struct Small {
    holder: Arc<Running>,
    path: PathBuf,
}

impl Small {
    /// Mounts it, as root or in a user namespace. Returns `None`, after a message, where neither is allowed.
    fn mount(sandbox: &Sandbox) -> Option<Self> {
        fs::create_dir(sandbox.path("small")).unwrap();
        let root = nix::unistd::geteuid().is_root();
        let commands = "mount -t tmpfs -o size=64k,nr_inodes=8 small small && echo mounted || exit 1\n\
                        while read -r line; do eval \"$line\" && echo done; done";
        let unshare = ["unshare", if root { "-m" } else { "-Urm" }, "sh", "-c", commands];
        let holder = sandbox.command(unshare).stdin(Stdin::Pipe).start();
        let mounted = wait_until(Deadline::default(), "a file system to be mounted", || {
            let mounted = holder.stdout().contains("mounted").then_some(true);
            mounted.or_else(|| holder.try_status().map(|_| false))
        });
        if !mounted {
            testkit::skip("mount", &format!("no file system may be mounted: {}", holder.stderr()));
            return None;
        }
        let path = format!("/proc/{}/root{}/small", holder.pid(), sandbox.dir().display());
        Some(Self { holder, path: PathBuf::from(path) })
    }

    /// Runs a command in the mount namespace.
    #[track_caller]
    fn run(&self, command: &str) {
        let mark = self.holder.output().mark();
        self.holder.write_stdin(format!("{command}\n"));
        self.holder.output().wait_after(mark, Stream::Stdout, "done");
    }

    /// Uses up all space.
    fn fill(&self) {
        let mut file = File::create(self.path.join("full")).unwrap();
        let page = [0; 4096];
        while file.write_all(&page).is_ok() {}
    }

    /// Frees the space.
    fn empty(&self) {
        fs::remove_file(self.path.join("full")).unwrap();
    }

    fn end(self) {
        self.holder.close_stdin();
        self.holder.wait_exit();
    }
}

#[test]
fn an_upgrade_without_disk_space_for_the_pidfile_changes_nothing() {
    // Contract: F10, P4, U8
    let mut small = None;
    let mut rig = Rig::start(|sandbox, psflip| {
        small = Small::mount(sandbox);
        match &small {
            Some(small) => psflip.pidfile(small.path.join("psflip.pid")),
            None => psflip,
        }
    });
    let Some(small) = small else { return rig.ends() };
    type Cause = (&'static str, fn(&Small), fn(&Small));
    let causes: &[Cause] = &[
        ("No space left on device", Small::fill, Small::empty),
        (
            "No space left on device", // no inodes
            |small| small.run("i=0; while touch small/$i 2>/dev/null; do i=$((i+1)); done"),
            |small| small.run("rm small/[0-9]*"),
        ),
        (
            "Read-only file system",
            // A bind mount on top: a file system with files open for writing can't become read-only itself.
            |small| small.run("mount --bind small small && mount -o remount,bind,ro small"),
            |small| small.run("umount small"),
        ),
    ];
    for (reason, cause, undo) in causes {
        let mark = rig.psflip.output().mark();
        let outcome = rig.upgrade(
            |rig, _| {
                cause(&small);
                rig.psflip.request_flip();
            },
            |_| undo(&small),
        );
        assert_eq!(outcome, Outcome::Failed, "{}", rig.sandbox.report());
        let line = rig.psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
        assert!(line.text.contains(reason) && line.text.contains("psflip.pid"), "{line}");
        rig.upgrade_well();
    }
    rig.ends();
    small.end();
}

/// psflip with its log in this file. It upgrades and stops whether or not the lines can be written.
#[track_caller]
fn lives_with_log(sandbox: &Sandbox, log: File, fsize: Option<&str>, full: impl FnOnce()) {
    let rest = format!("{AT_ONCE}[log]\nlevel = \"debug\"\n");
    let mut builder = psflip(sandbox, &["never-ready"], &rest).stderr(log);
    if let Some(limit) = fsize {
        builder = builder.wrapper(["prlimit", limit]);
    }
    let psflip = builder.start().wait_ready();
    full();
    let child = psflip.child();
    psflip.signal(Signal::SIGWINCH); // makes a log line, and is harmless for a child without a handler
    psflip.flip();
    assert!(!child.is_alive());
    psflip.flip();
    stop(&psflip);
}

#[test]
fn a_log_on_a_full_disk_loses_lines_and_nothing_else() {
    // Contract: F10, U6
    let sandbox = Sandbox::new();
    let Some(small) = Small::mount(&sandbox) else { return };
    let log = OpenOptions::new().append(true).create(true).open(small.path.join("log")).unwrap();
    lives_with_log(&sandbox, log, None, || small.fill());
    small.end();
}

#[test]
fn a_log_beyond_the_file_size_limit_loses_lines_and_nothing_else() {
    // Contract: F10, S1, U6
    let sandbox = Sandbox::new();
    // Room for a pidfile, but not for log lines. Each line raises SIGXFSZ, which the child must not get.
    let log = OpenOptions::new().append(true).create(true).open(sandbox.path("log")).unwrap();
    lives_with_log(&sandbox, log, Some("--fsize=10"), || {});
    assert!(fs::metadata(sandbox.path("log")).unwrap().len() <= 10);
}

#[test]
fn a_stop_works_without_the_directory_of_the_pidfile() {
    // Contract: F10, F11
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("run")).unwrap();
    let psflip = psflip(&sandbox, &["never-ready"], AT_ONCE).pidfile("run/psflip.pid").start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "starting pid=");
    let active = psflip.active();
    fs::remove_dir_all(sandbox.path("run")).unwrap();
    active.signal(Signal::SIGHUP).unwrap();
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade failed");
    assert!(line.text.contains("No such file or directory"), "{line}");
    active.signal(Signal::SIGTERM).unwrap();
    let status = psflip.wait_exit();
    assert!(status.success() || status.signal() == Some(15), "{status}\n{}", sandbox.report());
    sandbox.assert_no_process_left();
}
