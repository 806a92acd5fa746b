//! Processes that SIGKILL does not terminate. psflip gives up on them after a while, so that no upgrade and
//! no stop waits for them (U5, C8).

use testkit::{Deadline, Process, Psflip, Sandbox, Signal, Stream, wait_until};

use super::{AT_ONCE, is_root};

const NOBODY: u32 = 65534;
const TIMES: &str = "[shutdown]\ntimeout = \"200ms\"\n";

/// Kills the process that is left behind, which only root may do.
struct Root(Process);

impl Drop for Root {
    fn drop(&mut self) {
        let _ = self.0.signal(Signal::SIGKILL);
    }
}

/// A service that is not root. `sleep` in its command becomes a process of root, which psflip may not signal.
fn service(sandbox: &Sandbox, cmd: &str) -> Psflip {
    nix::unistd::chown(sandbox.dir(), Some(NOBODY.into()), Some(NOBODY.into())).unwrap();
    let setpriv = sandbox.path("setpriv").display().to_string();
    let copy = "install -m 4755 -o root \"$(command -v setpriv)\" \"$1\"";
    assert!(sandbox.command(["sh", "-c", copy, "sh", &setpriv]).start().wait_exit().success());
    let root = format!("{setpriv} --reuid 0 --regid 0 --clear-groups sleep infinity");
    let cmd = cmd.replace("sleep", &root);
    let nobody = NOBODY.to_string();
    let wrapper = ["setpriv", "--reuid", &nobody, "--regid", &nobody, "--clear-groups"];
    sandbox
        .psflip()
        .cmd(["sh", "-c", &cmd])
        .config(format!("{TIMES}{AT_ONCE}"))
        .wrapper(wrapper)
        .start()
        .wait_ready()
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
