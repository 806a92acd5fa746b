//! What `psflip status` finds out about the files of a service. psflip itself looks at none for a client.

use std::fs::{self, OpenOptions};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getpgid, pipe};
use serde_json::{Value, json};
use testkit::{Deadline, Psflip, Running, Sandbox, psflip_bin, wait_until};

use crate::service::{AT_ONCE, configure, kill, psflip, stop};

/// What `psflip status` prints.
#[track_caller]
fn shown(sandbox: &Sandbox, arguments: &[&str]) -> String {
    let status =
        sandbox.command([psflip_bin()]).args(["status", "-c", "psflip.toml"]).args(arguments).start();
    assert!(status.wait_exit().success(), "{}", status.stderr());
    status.output().wait_closed();
    status.stdout()
}

/// The status, with what the client has found out.
#[track_caller]
fn status(sandbox: &Sandbox) -> Value {
    serde_json::from_str(&shown(sandbox, &["--json"])).expect("a status")
}

/// The files of the status, each with whether it has changed.
fn files(sandbox: &Sandbox) -> Vec<(String, Value)> {
    let status = status(sandbox);
    let files = status["files"].as_array().expect("a list").iter();
    files.map(|file| (file["path"].as_str().unwrap().to_owned(), file["changed"].clone())).collect()
}

/// Lets `current` lead to this directory.
fn repoint(sandbox: &Sandbox, to: &str) {
    let new = sandbox.path("current.new");
    std::os::unix::fs::symlink(to, &new).unwrap();
    fs::rename(new, sandbox.path("current")).unwrap();
}

fn release(sandbox: &Sandbox, name: &str) {
    sandbox.write(format!("releases/{name}/run.sh"), "exec sleep 1000\n");
    repoint(sandbox, &format!("releases/{name}"));
}

/// A service in the directory `current`, with files of variables.
fn deployed(sandbox: &Sandbox) -> (Psflip, String) {
    release(sandbox, "1");
    sandbox.write("app.env", "A=1\n");
    sandbox.write("vars/B", "1\n");
    let run = sandbox.path("current/run.sh").display().to_string();
    let config = format!("workdir = \"current\"\nenv_file = \"app.env\"\nenv_dir = \"vars\"\n{AT_ONCE}");
    (sandbox.psflip().cmd(["/bin/sh", &run]).config(config).start().wait_ready(), run)
}

#[test]
fn the_status_reports_whether_the_configuration_has_changed() {
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["signal-logger", "--exit-on=TERM"], AT_ONCE).start().wait_ready();
    let path = sandbox.path("psflip.toml");
    assert_eq!(status(&sandbox)["config"], json!({"path": path, "changed": false}));
    assert_eq!(status(&sandbox)["program"]["changed"], false);
    configure(&sandbox, &["signal-logger"], AT_ONCE);
    assert_eq!(status(&sandbox)["config"], json!({"path": path, "changed": true}));
    assert!(shown(&sandbox, &[]).contains("(changed since it was read;"), "{}", sandbox.report());
    stop(&psflip);
}

#[test]
fn the_status_names_the_files_that_differ_from_what_the_child_was_started_from() {
    let sandbox = Sandbox::new();
    let (psflip, run) = deployed(&sandbox);
    let path = |name: &str| fs::canonicalize(sandbox.dir()).unwrap().join(name).display().to_string();
    let paths = [
        path("releases/1"),
        "/bin/sh".to_owned(),
        run,
        sandbox.path("app.env").display().to_string(),
        sandbox.path("vars").display().to_string(),
        sandbox.path("vars/B").display().to_string(),
    ];
    let is_as = |changed: [bool; 6]| {
        let mut found = files(&sandbox);
        found[1].0 = "/bin/sh".to_owned(); // `/bin` may be a symlink
        let expected: Vec<_> = paths.iter().cloned().zip(changed.map(Value::from)).collect();
        assert_eq!(found, expected, "{}", sandbox.report());
    };
    is_as([false; 6]);
    sandbox.write("app.env", "A=2\n");
    is_as([false, false, false, true, false, false]);
    fs::write(sandbox.path("vars/B"), "2\n").unwrap(); // the directory does not change
    is_as([false, false, false, true, false, true]);
    release(&sandbox, "2");
    is_as([true, false, true, true, false, true]);
    psflip.flip();
    let found = files(&sandbox);
    assert!(found[0].0 == path("releases/2") && found.iter().all(|file| file.1 == false), "{found:?}");
    stop(&psflip);
}

/// A directory in which no look-up of a name returns, as on a network's file system whose server is gone: nobody answers
/// the kernel's requests to mount what is there (Documentation/filesystems/autofs.rst).
struct Hung {
    _requests: OwnedFd,
    automounter: Arc<Running>,
    at: PathBuf,
}

impl Hung {
    /// Mounts it, for this thread and what it starts.
    fn mount(sandbox: &Sandbox, at: &Path) -> Self {
        unshare(CloneFlags::CLONE_NEWNS).expect("root may create a mount namespace");
        let nothing: Option<&str> = None;
        mount(nothing, "/", nothing, MsFlags::MS_REC | MsFlags::MS_PRIVATE, nothing)
            .expect("a private mount");
        // The group of the automounter is the only one for which look-ups return.
        let automounter = sandbox.command(["sleep", "1000"]).start();
        let pid = nix::unistd::Pid::from_raw(automounter.first().pid().cast_signed());
        wait_until(Deadline::default(), "a process group", || (getpgid(Some(pid)) == Ok(pid)).then_some(()));
        let (requests, to_automounter) = pipe().expect("a pipe");
        fs::create_dir(at).unwrap();
        let options = format!("fd={},pgrp={pid},minproto=5,maxproto=5,indirect", to_automounter.as_raw_fd());
        mount(Some("hung"), at, Some("autofs"), MsFlags::empty(), Some(&*options)).expect("autofs");
        Self { _requests: requests, automounter, at: at.to_owned() }
    }

    fn end(self) {
        umount2(&self.at, MntFlags::MNT_DETACH).expect("it is mounted");
        kill(self.automounter.first());
        self.automounter.wait_exit();
    }

    fn is_known_here() -> bool {
        testkit::need_root() && fs::read_to_string("/proc/filesystems").unwrap().contains("\tautofs\n")
    }
}

#[test]
fn a_file_system_that_hangs_stops_neither_psflip_nor_its_status() {
    if !Hung::is_known_here() {
        return;
    }
    let sandbox = Sandbox::new();
    let hung = Hung::mount(&sandbox, &sandbox.path("hung"));
    let (psflip, _) = deployed(&sandbox);
    let watching = super::ask(&psflip, "watch");
    repoint(&sandbox, "hung/2");
    let status = status(&sandbox);
    assert_eq!(status["config"]["changed"], false, "{status}");
    assert_eq!(status["files"][0]["changed"], Value::Null, "{status}");
    let text = shown(&sandbox, &[]);
    assert!(text.contains("releases/1 (not known whether it has changed)"), "{text}");
    // A probe looks at no files.
    assert!(shown(&sandbox, &["--check"]).contains("generation 1"), "{}", sandbox.report());
    // psflip itself has answered all of them, and upgrades.
    repoint(&sandbox, "releases/1");
    psflip.flip();
    drop(watching);
    stop(&psflip);
    hung.end();
}

#[test]
fn files_that_only_psflip_sees_are_compared_as_it_sees_them() {
    if !testkit::need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let own: PathBuf = sandbox.path("own");
    fs::create_dir(&own).unwrap();
    let script = format!("mount -t tmpfs none {0} && echo A=1 > {0}/app.env && exec \"$@\"", own.display());
    let config = format!("env_file = \"own/app.env\"\n{AT_ONCE}");
    let psflip = psflip(&sandbox, &["signal-logger", "--exit-on=TERM"], &config);
    let psflip = psflip.wrapper(["unshare", "--mount", "sh", "-c", &script, "sh"]).start().wait_ready();
    let of_env = || files(&sandbox).pop().expect("a file");
    assert_eq!(of_env(), (own.join("app.env").display().to_string(), json!(false)), "{}", sandbox.report());
    let inside = format!("/proc/{}/root/{}/app.env", psflip.active_pid(), own.display());
    OpenOptions::new().write(true).truncate(true).open(inside).expect("psflip's file");
    assert_eq!(of_env().1, true);
    stop(&psflip);
}
