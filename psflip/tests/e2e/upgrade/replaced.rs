//! How the new psflip is started: the current executable, arguments, environment, directory (U1, U2, U10).

use std::ffi::OsString;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::PathBuf;

use testkit::{Process, Sandbox, psflip_bin};

use crate::service::{AT_ONCE, Service, generations, psflip, stop, wait_coming};

/// A copy of psflip in the sandbox, made by a separate process (see [`crate::service::script`]).
fn copy(sandbox: &Sandbox, name: &str) -> PathBuf {
    let path = sandbox.path(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let status = sandbox.command(["cp".into(), psflip_bin().into_os_string(), path.clone().into()]).start();
    assert!(status.wait_exit().success());
    path
}

#[test]
fn a_binary_that_was_replaced_by_rename_takes_effect() {
    // Contract: U1
    let sandbox = Sandbox::new();
    let exe = copy(&sandbox, "psflip-v1");
    let psflip = psflip(&sandbox, &["never-ready"], AT_ONCE).exe(&exe).start().wait_ready();
    let next = copy(&sandbox, "psflip-v2");
    let inode = next.metadata().unwrap().ino();
    std::fs::rename(&next, &exe).unwrap();
    let flip = psflip.flip();
    let running = format!("/proc/{}/exe", flip.new);
    assert_eq!(std::fs::metadata(&running).unwrap().ino(), inode, "{}", sandbox.report());
    assert_eq!(flip.new.exe().unwrap(), exe);
    stop(&psflip);
}

#[test]
fn a_repointed_symlink_to_the_binary_takes_effect() {
    // Contract: U1
    let sandbox = Sandbox::new();
    let second = copy(&sandbox, "releases/2/psflip");
    let first = sandbox.path("releases/1/psflip");
    std::fs::create_dir_all(first.parent().unwrap()).unwrap();
    std::fs::hard_link(&second, &first).unwrap();
    symlink("releases/1", sandbox.path("current")).unwrap();
    let exe = sandbox.path("current/psflip");
    let psflip = psflip(&sandbox, &["never-ready"], AT_ONCE).exe(exe).start().wait_ready();
    assert_eq!(psflip.active().exe().unwrap(), first);
    symlink("releases/2", sandbox.path("next")).unwrap();
    std::fs::rename(sandbox.path("next"), sandbox.path("current")).unwrap();
    assert_eq!(psflip.flip().new.exe().unwrap(), second, "{}", sandbox.report());
    stop(&psflip);
}

#[test]
fn a_name_is_looked_up_in_path_again() {
    // Contract: U1
    let sandbox = Sandbox::new();
    let second = copy(&sandbox, "second/psflip");
    let first = sandbox.path("first/psflip");
    std::fs::create_dir(sandbox.path("first")).unwrap();
    let path = format!("{}:{}", sandbox.path("first").display(), sandbox.path("second").display());
    let builder = psflip(&sandbox, &["never-ready"], AT_ONCE).exe("psflip");
    let psflip = builder.env("PATH", path).start().wait_ready();
    assert_eq!(psflip.active().exe().unwrap(), second);
    std::fs::hard_link(&second, &first).unwrap();
    assert_eq!(psflip.flip().new.exe().unwrap(), first, "{}", sandbox.report());
    std::fs::remove_file(&first).unwrap();
    assert_eq!(psflip.flip().new.exe().unwrap(), second, "{}", sandbox.report());
    stop(&psflip);
}

/// How a psflip was started, without what its predecessor added.
fn start_of(psflip: Process) -> (Vec<String>, Vec<(OsString, OsString)>, PathBuf) {
    let mut environ = psflip.environ().unwrap();
    environ.retain(|(name, _)| name != "PSFLIP_HANDOVER");
    (psflip.cmdline().unwrap(), environ, psflip.cwd().unwrap())
}

#[test]
fn the_third_generation_is_started_like_the_first() {
    // Contract: U1, U2
    let sandbox = Sandbox::new();
    let started =
        psflip(&sandbox, &["never-ready"], AT_ONCE).env("ODD NAME", "a=b\nc").env("EMPTY", "").start();
    let psflip = started.wait_ready();
    let first = start_of(psflip.active());
    psflip.flip();
    let third = psflip.flip().new;
    assert_eq!(start_of(third), first);
    assert_eq!(psflip.child().env("PSFLIP_GENERATION").unwrap(), "3");
    stop(&psflip);
}

#[test]
fn the_old_child_serves_until_the_new_one_is_healthy() {
    // Contract: U2, U3, U10
    let service = Service::start();
    let (old, child) = (service.psflip.active(), service.psflip.child());
    let socket = service.sandbox.path("new.sock");
    let argv = ["dies-later", "--on-file", "never"];
    service.configure(&argv, "[healthcheck.unix]\npath = \"new.sock\"\n");
    service.psflip.request_flip();
    let new = wait_coming(&service.sandbox, old);
    assert_eq!(new.parent(), Some(Process::current()), "the service manager's child, not the old psflip's");
    service.psflip.output().wait(testkit::Stream::Stdout, "name=gen2");
    service.probe.wait_requests(100);
    assert_eq!(service.psflip.active(), old, "not healthy, not promoted");
    assert!(child.is_alive());
    assert_eq!(generations(&service.sandbox).len(), 2);
    let listener = std::os::unix::net::UnixListener::bind(socket).unwrap();
    assert_eq!(service.psflip.wait_successor(old), new);
    service.psflip.wait_gone(old);
    assert_eq!(new.parent(), Some(Process::current()));
    assert!(service.psflip.wait_exit().success(), "superseded: 0");
    drop(listener);
    assert!(service.psflip.stop().success());
}
