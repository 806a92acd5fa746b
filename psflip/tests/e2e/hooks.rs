//! `[hooks]`: what they see, when they run, and what their failure means.

use std::collections::BTreeMap;
use std::path::PathBuf;

use testkit::{Deadline, Line, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream, wait_until};

use crate::service::{AT_ONCE, Service, configure, freeze, kill, psflip, script, stop, thaw, wait_coming};

/// A child that does nothing.
const CHILD: &[&str] = &["/bin/sleep", "infinity"];

/// `[hooks]` with these hooks. Each is a program with one argument: the hook's name.
fn hooks(hooks: &[(&str, &PathBuf)], rest: &str) -> String {
    let lines: String =
        hooks.iter().map(|(name, path)| format!("{name} = [\"{}\", \"{name}\"]\n", path.display())).collect();
    format!("[hooks]\n{rest}{lines}")
}

/// A script that writes its environment to a file named after its hook.
fn writes_environment(sandbox: &Sandbox) -> PathBuf {
    script(sandbox, "environment", "env > \"$1.new\"; pwd >> \"$1.new\"; mv \"$1.new\" \"$1.env\"")
}

/// A psflip whose child is healthy at once.
fn start(sandbox: &Sandbox, config: &str) -> PsflipBuilder {
    psflip(sandbox, CHILD, &format!("{AT_ONCE}[log]\nlevel = \"debug\"\n{config}"))
}

/// Sets the next generation's configuration.
fn reconfigure(sandbox: &Sandbox, config: &str) {
    configure(sandbox, CHILD, &format!("{AT_ONCE}[log]\nlevel = \"debug\"\n{config}"));
}

/// The environment that a hook has written, once the file exists.
#[track_caller]
fn environment(sandbox: &Sandbox, hook: &str) -> BTreeMap<String, String> {
    let path = sandbox.path(format!("{hook}.env"));
    let text = wait_until(Deadline::default(), format!("the hook `{hook}` to have run"), || {
        std::fs::read_to_string(&path).ok()
    });
    std::fs::remove_file(path).unwrap();
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// Requests an upgrade that fails. Returns the log line with the reason. The same psflip, keeper and child
/// are left, and no others.
#[track_caller]
fn fails(sandbox: &Sandbox, psflip: &Psflip, cause: impl FnOnce(Process, usize)) -> Line {
    let (old, child) = (psflip.active(), psflip.child());
    let mark = psflip.output().mark();
    psflip.request_flip();
    cause(old, mark);
    let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
    wait_until(Deadline::default(), "only one psflip, keeper and child to be left", || {
        (sandbox.processes().len() == 3).then_some(())
    });
    assert_eq!((psflip.active(), psflip.child()), (old, child), "{}", sandbox.report());
    line
}

#[test]
fn hooks_get_the_childs_environment_and_the_pids_concerned() {
    // Contract: U4, C3
    let sandbox = Sandbox::new();
    let look = writes_environment(&sandbox);
    let all = hooks(&[("promote", &look), ("promoted", &look), ("failed", &look)], "");
    let all = format!(
        "{all}[env]\nCOLOUR = \"{{{{ blue_green() }}}}\"\nHOME = false\n[[listen]]\naddress = \"unix://{}\"\n",
        sandbox.path("app.sock").display()
    );
    let psflip = start(&sandbox, &all).env("NOTIFY_SOCKET", "/nowhere").start().wait_ready();
    for (generation, slot, colour) in [("1", "a", "blue"), ("2", "b", "green"), ("3", "a", "blue")] {
        let (pid, child) = (psflip.active_pid().to_string(), psflip.child_pid().to_string());
        for hook in ["promote", "promoted"] {
            let seen = environment(&sandbox, hook);
            let value = |name: &str| seen.get(name).map(String::as_str);
            assert_eq!(value("PSFLIP_HOOK"), Some(hook));
            assert_eq!(value("PSFLIP_PID"), Some(&*pid));
            assert_eq!(value("PSFLIP_CHILD_PID"), Some(&*child));
            assert_eq!(value("PSFLIP_REASON"), None);
            assert_eq!((value("PSFLIP_GENERATION"), value("PSFLIP_SLOT")), (Some(generation), Some(slot)));
            assert_eq!((value("COLOUR"), value("HOME")), (Some(colour), None));
            let not_theirs = |name: &&String| {
                name.starts_with("LISTEN_") || *name == "NOTIFY_SOCKET" || *name == "PSFLIP_HANDOVER"
            };
            assert_eq!(seen.keys().find(not_theirs), None);
        }
        if generation != "3" {
            psflip.flip();
        }
    }
    // A failed upgrade runs the hook of the generation that keeps serving.
    let (pid, child) = (psflip.active_pid().to_string(), psflip.child_pid().to_string());
    sandbox.write("psflip.toml", "cmd = 7\n");
    fails(&sandbox, &psflip, |_, _| {});
    let seen = environment(&sandbox, "failed");
    assert_eq!((&*seen["PSFLIP_HOOK"], &seen["PSFLIP_PID"]), ("failed", &pid));
    assert_eq!((&seen["PSFLIP_CHILD_PID"], &*seen["PSFLIP_GENERATION"]), (&child, "3"));
    assert!(seen["PSFLIP_REASON"].contains("the configuration is invalid"), "{seen:?}");
    reconfigure(&sandbox, &all);
    psflip.flip();
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_promotion_runs_hook_symlink_pidfile_and_acknowledgement_in_order() {
    // Contract: U4, P1
    let sandbox = Sandbox::new();
    // At each step the hook waits for the test, and records what it finds.
    let look = "readlink link > seen.link; cat psflip.pid > seen.pid; echo $PSFLIP_PID > at; read -r _ < go";
    let promote = script(&sandbox, "promote", look);
    let promoted =
        script(&sandbox, "promoted", "readlink link > after.link; cat psflip.pid > after.pid; echo > after");
    let config = format!(
        "[switch.symlink]\npath = \"link\"\nto = \"target-{{{{ generation() }}}}\"\n{}",
        hooks(&[("promote", &promote), ("promoted", &promoted)], "")
    );
    for generation in 1..=2 {
        sandbox.write(format!("target-{generation}"), "");
    }
    assert!(sandbox.command(["mkfifo", "go"]).start().wait_exit().success());
    let go = || std::fs::write(sandbox.path("go"), "\n").unwrap();
    let wait = |name: &str| {
        let path = sandbox.path(name);
        wait_until(Deadline::default(), format!("`{name}`"), || path.exists().then_some(()));
    };
    let psflip = start(&sandbox, &config).start();
    // The first generation: neither symlink nor pidfile exist while its hook runs.
    wait("at");
    assert!(!sandbox.path("link").exists() && !psflip.pidfile_path().exists());
    std::fs::remove_file(sandbox.path("at")).unwrap();
    go();
    let old = psflip.wait_pidfile();
    wait("after");
    assert_eq!(sandbox.read("after.link"), "target-1\n");
    std::fs::remove_file(sandbox.path("after")).unwrap();
    // The second generation: symlink and pidfile are still the old one's while its hook runs.
    psflip.request_flip();
    wait("at");
    assert_eq!(
        (sandbox.read("seen.link"), sandbox.read("seen.pid")),
        ("target-1\n".into(), format!("{old}\n"))
    );
    assert_eq!(psflip.active(), old);
    // The old psflip can't acknowledge. Hook, symlink and pidfile follow all the same, `promoted` doesn't.
    freeze(old);
    go();
    let new = psflip.wait_successor(old);
    assert_eq!(std::fs::read_link(sandbox.path("link")).unwrap().to_str(), Some("target-2"));
    assert!(!sandbox.path("after").exists(), "it isn't promoted yet");
    wait_until(Deadline::default(), "no hook to run while the old one is being acknowledged", || {
        (new.tree().len() == 3).then_some(())
    });
    assert!(!sandbox.path("after").exists(), "it isn't promoted yet");
    thaw(old);
    wait("after");
    assert_eq!(
        (sandbox.read("after.link"), sandbox.read("after.pid")),
        ("target-2\n".into(), format!("{new}\n"))
    );
    psflip.wait_gone(old);
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_promote_hook_that_fails_fails_the_upgrade() {
    // Contract: U4, U8, H4
    let service = Service::start();
    let health = "[healthcheck.unix]\npath = \"new.sock\"\n";
    let server = ["http-server", "--unix", "new.sock"];
    let fails = script(&service.sandbox, "fails", "echo out; echo why it fails >&2; exit 7");
    service.configure(&server, &format!("{health}{}", hooks(&[("promote", &fails)], "")));
    let line = service.fails();
    assert!(
        line.text.contains("`hooks.promote` failed") && line.text.contains("exited with code 7"),
        "{line}"
    );
    assert!(line.text.contains("why it fails"), "{line}");
    for (argv, reason) in [
        ("[\"/no/such/hook\"]", "command not found"),
        ("[\"/etc/passwd\"]", "can't be executed"),
        ("[\"sh\", \"-c\", \"kill -SEGV $$\"]", "was killed by SIGSEGV"),
    ] {
        service.configure(&server, &format!("{health}[hooks]\npromote = {argv}\n"));
        let line = service.fails();
        assert!(line.text.contains("`hooks.promote` failed") && line.text.contains(reason), "{line}");
    }
    service.succeeds_and_ends();
}

#[test]
fn a_promote_hook_that_hangs_is_killed_with_all_its_processes() {
    // Contract: U4, U8, C8
    let service = Service::start();
    let health = "[healthcheck.unix]\npath = \"new.sock\"\n";
    let hangs = "echo it hangs; trap '' TERM; setsid sleep infinity & (trap '' TERM; sleep infinity) & sleep infinity";
    let hangs = script(&service.sandbox, "hangs", hangs);
    // Time enough for its output.
    let hook = hooks(&[("promote", &hangs)], "timeout = \"2s\"\n");
    service.configure(&["http-server", "--unix", "new.sock"], &format!("{health}{hook}"));
    // `wait_alone` checks that nothing is left.
    let line = service.fails();
    assert!(line.text.contains("gave no answer within 2s: it hangs"), "{line}");
    service.succeeds_and_ends();
}

#[test]
fn a_failed_promote_hook_fails_the_first_start() {
    // Contract: U4, C6
    let sandbox = Sandbox::new();
    let fails = script(&sandbox, "fails", "exit 3");
    let psflip = start(&sandbox, &hooks(&[("promote", &fails)], "")).start();
    assert_eq!(psflip.wait_exit().code(), Some(125), "{}", sandbox.report());
    psflip.wait_for_line(Stream::Stderr, "`hooks.promote` failed");
    assert!(!psflip.pidfile_path().exists());
    sandbox.assert_no_process_left();
}

#[test]
fn failed_hooks_after_the_promotion_change_nothing() {
    // Contract: U4, U8
    let sandbox = Sandbox::new();
    let hangs = script(&sandbox, "hangs", "sleep infinity & sleep infinity");
    let fails_at_once = script(&sandbox, "fails", "echo nobody cares; exit 9");
    let missing = sandbox.path("no/such/hook");
    for hook in [&fails_at_once, &hangs, &missing] {
        let config = hooks(&[("promoted", hook), ("failed", hook)], "timeout = \"100ms\"\n");
        let psflip = start(&sandbox, &config).start().wait_ready();
        psflip.wait_for_line(Stream::Stderr, "nothing depends on it");
        psflip.flip();
        psflip.output().wait_count(2, Stream::Stderr, "nothing depends on it");
        sandbox.write("psflip.toml", "cmd = 7\n");
        let mark = psflip.output().mark();
        fails(&sandbox, &psflip, |_, _| {});
        psflip.output().wait_after(mark, Stream::Stderr, "nothing depends on it");
        reconfigure(&sandbox, &config);
        psflip.flip();
        stop(&psflip);
        sandbox.assert_no_process_left();
    }
}

#[test]
fn a_stop_during_a_promote_hook_terminates_it() {
    // Contract: F11, S5
    let sandbox = Sandbox::new();
    let hangs = script(&sandbox, "hangs", "echo > hook; setsid sleep infinity & sleep infinity");
    let config = hooks(&[("promote", &hangs)], "timeout = \"1h\"\n");
    let hook = || {
        let path = sandbox.path("hook");
        wait_until(Deadline::default(), "the hook", || path.exists().then_some(()));
        std::fs::remove_file(path).unwrap();
    };
    // At the first start.
    let psflip = start(&sandbox, &config).start();
    hook();
    psflip.program().signal(Signal::SIGTERM);
    let status = psflip.wait_exit();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(15), "{}", sandbox.report());
    sandbox.assert_no_process_left();
    // During an upgrade.
    let psflip = start(&sandbox, "").start().wait_ready();
    reconfigure(&sandbox, &config);
    psflip.request_flip();
    hook();
    stop(&psflip);
    assert!(!psflip.pidfile_path().exists());
    sandbox.assert_no_process_left();
}

#[test]
fn a_hook_dies_with_its_killed_psflip() {
    // Contract: F6, C7, U8
    let sandbox = Sandbox::new();
    let hangs = script(&sandbox, "hangs", "setsid sleep infinity & echo > hook; sleep infinity");
    let psflip = start(&sandbox, "").start().wait_ready();
    reconfigure(&sandbox, &hooks(&[("promote", &hangs)], "timeout = \"1h\"\n"));
    fails(&sandbox, &psflip, |old, _| {
        let path = sandbox.path("hook");
        wait_until(Deadline::default(), "the hook", || path.exists().then_some(()));
        kill(wait_coming(&sandbox, old));
    });
    reconfigure(&sandbox, "");
    psflip.flip();
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_child_that_dies_during_its_promote_hook_fails_the_upgrade() {
    // Contract: F3, U8
    let sandbox = Sandbox::new();
    let kills = script(&sandbox, "kills", "kill -KILL $PSFLIP_CHILD_PID; sleep infinity");
    let psflip = start(&sandbox, "").start().wait_ready();
    reconfigure(&sandbox, &hooks(&[("promote", &kills)], "timeout = \"1h\"\n"));
    let line = fails(&sandbox, &psflip, |_, _| {});
    assert!(line.text.contains("SIGKILL"), "{line}");
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_new_generation_whose_predecessor_dies_during_the_hook_goes_on() {
    // Contract: F8
    let sandbox = Sandbox::new();
    let waits = script(&sandbox, "waits", "echo > hook; read -r _ < go");
    assert!(sandbox.command(["mkfifo", "go"]).start().wait_exit().success());
    let psflip = start(&sandbox, "").start().wait_ready();
    let old = psflip.active();
    reconfigure(&sandbox, &hooks(&[("promote", &waits)], ""));
    psflip.request_flip();
    let path = sandbox.path("hook");
    wait_until(Deadline::default(), "the hook", || path.exists().then_some(()));
    let new = wait_coming(&sandbox, old);
    kill(old);
    psflip.wait_gone(old);
    std::fs::write(sandbox.path("go"), "\n").unwrap();
    assert_eq!(psflip.wait_pidfile(), new);
    reconfigure(&sandbox, "");
    psflip.flip();
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_promoted_hook_still_running_at_the_next_upgrade_is_terminated() {
    // Contract: U4, C8
    let sandbox = Sandbox::new();
    let slow = script(&sandbox, "slow", "echo $$ > \"slow.$PSFLIP_GENERATION\"; exec sleep infinity");
    let config = hooks(&[("promoted", &slow)], "timeout = \"1h\"\n");
    let psflip = start(&sandbox, &config).start().wait_ready();
    let hook = |generation: usize| {
        let path = sandbox.path(format!("slow.{generation}"));
        wait_until(Deadline::default(), "the hook", || {
            Process::find(std::fs::read_to_string(&path).ok()?.trim().parse().ok()?)
        })
    };
    for generation in 1..=3 {
        let running = hook(generation);
        assert!(running.is_alive());
        psflip.flip();
        psflip.wait_gone(running);
    }
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_suspended_hook_is_killed_too() {
    // Contract: F12, C8
    let sandbox = Sandbox::new();
    let frozen = script(&sandbox, "frozen", "sleep infinity & kill -STOP $$");
    let psflip = start(&sandbox, "").start().wait_ready();
    reconfigure(&sandbox, &hooks(&[("promote", &frozen)], "timeout = \"200ms\"\n"));
    let line = fails(&sandbox, &psflip, |_, _| {});
    assert!(line.text.contains("gave no answer within 200ms"), "{line}");
    stop(&psflip);
    sandbox.assert_no_process_left();
}
