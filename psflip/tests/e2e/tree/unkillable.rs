//! Processes that SIGKILL does not terminate. psflip gives up on them after a while, so that no upgrade and
//! no stop waits for them (U5, C8).

use testkit::{Deadline, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream, psflip_bin, wait_until};

use super::{AT_ONCE, is_root};
use crate::service::script;

const NOBODY: u32 = 65534;
const TIMES: &str = "[shutdown]\ntimeout = \"200ms\"\n";

/// Kills the process that is left behind, which only root may do.
struct Root(Process);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.0.signal(Signal::SIGKILL);
    }
}

/// A command that becomes a process of root, which a psflip of another user may not signal.
fn sleep_of_root(sandbox: &Sandbox) -> String {
    nix::unistd::chown(sandbox.dir(), Some(NOBODY.into()), Some(NOBODY.into())).unwrap();
    let setpriv = sandbox.path("setpriv").display().to_string();
    let copy = "install -m 4755 -o root \"$(command -v setpriv)\" \"$1\"";
    assert!(sandbox.command(["sh", "-c", copy, "sh", &setpriv]).start().wait_exit().success());
    format!("{setpriv} --reuid 0 --regid 0 --clear-groups sleep infinity")
}

/// Starts a psflip that is not root.
fn as_nobody(psflip: PsflipBuilder, rest: &str) -> Psflip {
    let nobody = NOBODY.to_string();
    let wrapper = ["setpriv", "--reuid", &nobody, "--regid", &nobody, "--clear-groups"];
    psflip.config(format!("{TIMES}{AT_ONCE}{rest}")).wrapper(wrapper).start().wait_ready()
}

/// A service that is not root. `sleep` in its command becomes a process of root.
fn service(sandbox: &Sandbox, cmd: &str) -> Psflip {
    let cmd = cmd.replace("sleep", &sleep_of_root(sandbox));
    as_nobody(sandbox.psflip().cmd(["sh", "-c", &cmd]), "")
}

/// The process of root, once it runs its program.
#[track_caller]
fn root(sandbox: &Sandbox) -> Root {
    let is_root = |process: &Process| {
        let uids = process.status_field("Uid").unwrap_or_default();
        uids.split_whitespace().all(|uid| uid == "0")
            && process.stat().is_some_and(|stat| stat.name == "sleep")
    };
    Root(wait_until(Deadline::default(), "the process of root's", || {
        sandbox.processes().into_iter().find(is_root)
    }))
}

#[test]
fn an_old_child_that_can_not_be_killed_blocks_no_upgrade() {
    // Contract: U5, U7
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let psflip = service(&sandbox, "exec sleep");
    let (old, left) = (psflip.active(), root(&sandbox));
    let config =
        format!("cmd = [\"/bin/sleep\", \"infinity\"]\npidfile = \"{}\"\n", psflip.pidfile_path().display());
    sandbox.write("psflip.toml", format!("{config}{TIMES}{AT_ONCE}"));
    psflip.request_flip();
    psflip.wait_gone(old);
    let line = psflip.wait_for_line(Stream::Stderr, "leaving them behind");
    assert!(line.text.contains("ERROR") && line.text.contains(&format!("(pid {})", left.0)), "{line}");
    assert!(left.0.is_alive(), "{}", sandbox.report());
    psflip.flip();
    psflip.stop();
    drop(left);
    sandbox.assert_no_process_left();
}

#[test]
fn leftovers_that_can_not_be_killed_block_neither_an_upgrade_nor_a_stop() {
    // Contract: U5, C8, S5
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let psflip = service(&sandbox, "sleep & trap 'exit 7' TERM; while :; do wait; done");
    let (old, left) = (psflip.active(), root(&sandbox));
    psflip.request_flip();
    psflip.wait_gone(old);
    psflip.output().wait_count(1, Stream::Stderr, "leaving them behind");
    assert!(left.0.is_alive(), "{}", sandbox.report());
    drop(left);
    let left = root(&sandbox);
    assert_eq!(psflip.stop().code(), Some(7), "{}", sandbox.report());
    psflip.output().wait_count(2, Stream::Stderr, "leaving them behind");
    drop(left);
    sandbox.assert_no_process_left();
}

#[test]
fn a_new_psflip_that_can_not_be_killed_blocks_no_upgrade() {
    // Contract: F5, U5, U7, U8
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let hangs = script(&sandbox, "hangs", &format!("sleep infinity & exec {}", sleep_of_root(&sandbox)));
    let exe = sandbox.path("replaced");
    let install = |program: &std::path::Path| {
        let _ = std::fs::remove_file(&exe); // missing at first
        std::os::unix::fs::symlink(program, &exe).unwrap();
    };
    install(&psflip_bin());
    let builder = sandbox.psflip().exe(&exe).cmd(["/bin/sleep", "infinity"]);
    let psflip = as_nobody(builder, "[upgrade]\ntimeout = \"1s\"\n");
    let (old, child) = (psflip.active(), psflip.child());
    install(&hangs);
    psflip.request_flip();
    let left = root(&sandbox);
    let line = psflip.wait_for_line(Stream::Stderr, "leaving it behind");
    assert!(line.text.contains("ERROR"), "{line}");
    assert!(line.text.contains(&format!("new_psflip={} killed_below=1", left.0)), "{line}");
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade failed");
    assert!(line.text.contains("did not answer within 6s, so it is killed"), "{line}");
    assert!(left.0.is_alive(), "{}", sandbox.report());
    assert_eq!((psflip.active(), psflip.child()), (old, child), "{}", sandbox.report());
    install(&psflip_bin());
    psflip.flip();
    psflip.stop();
    drop(left);
    sandbox.assert_no_process_left();
}
