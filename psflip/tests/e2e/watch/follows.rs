//! Which process watch follows, what it forwards, and how it exits.

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;

use testkit::process::ProcessState;
use testkit::{
    Deadline, Process, Running, Sandbox, Signal, Stream, fixture, psflip_bin, queue_signal, wait_until,
};

use super::{wait_follows, wait_named, watch, watch_script, watched_psflip};
use crate::service::{AT_ONCE, generations, program, script, wait_idle, wait_rest};

/// A shell function that runs the command `$1` as a daemon: in a session of its own, and with a parent that
/// has exited.
const DAEMON: &str = "daemon() { setsid sh -c \"$1\" </dev/null & }";

#[test]
fn the_exit_of_a_command_without_a_pidfile_is_relayed() {
    // Contract: C5, C6
    let sandbox = Sandbox::new();
    for (script, code, signal) in [
        ("exit 0", Some(0), None),
        ("exit 7", Some(7), None),
        ("kill -TERM $$", None, Some(15)),
        ("kill -KILL $$", None, Some(9)),
    ] {
        let status = watch_script(&sandbox, &[], script).wait_exit();
        assert_eq!((status.code(), status.signal()), (code, signal), "{script}\n{}", sandbox.report());
    }
    sandbox.write("text", "no program");
    for (command, code, wanted) in [
        ("/nowhere/x", 127, "can't execute `/nowhere/x`: No such file"),
        ("no-such", 127, "can't execute `no-such`: not found in PATH"),
        ("./text", 126, "Permission denied (os error 13); it is not executable"),
    ] {
        let watch = watch(&sandbox, &[], &[command]);
        assert_eq!(watch.wait_exit().code(), Some(code), "{}", sandbox.report());
        assert!(watch.stderr().contains(wanted), "{}", watch.stderr());
    }
    std::fs::create_dir(sandbox.path("folder")).unwrap();
    let program =
        sandbox.command([psflip_bin().to_str().unwrap(), "watch", "--pidfile", "folder", "--", "true"]);
    let started = program.start();
    assert_eq!(started.wait_exit().code(), Some(125));
    assert!(started.stderr().contains("pidfile `folder` is a directory"), "{}", started.stderr());
    for wrong in [&["--patience", "5"][..], &["--no-such-option"]] {
        assert_eq!(watch(&sandbox, wrong, &["true"]).wait_exit().code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn the_exit_of_a_daemon_whose_command_has_exited_is_relayed() {
    // Contract: C5, W1, W3
    let sandbox = Sandbox::new();
    for (end, code, signal) in
        [("exit 9", Some(9), None), ("exit 0", Some(0), None), ("kill -USR1 $$", None, Some(10))]
    {
        let daemon = format!("echo $$ > x.pid; test -e quick || read line < fifo; {end}");
        // The daemon may be alive when watch checks it, or may have exited long before. Its pid is in the
        // file.
        for quick in [false, true] {
            let _ = std::fs::remove_file(sandbox.path("quick"));
            if quick {
                sandbox.write("quick", "");
            }
            let command = format!("rm -f fifo x.pid; mkfifo fifo; {DAEMON}; daemon '{daemon}'; exit 0");
            let watch = watch_script(&sandbox, &[], &command);
            if !quick {
                wait_follows(&watch, wait_named(&sandbox.path("x.pid")).pid());
                go(&sandbox, "fifo");
            }
            let status = watch.wait_exit();
            assert_eq!(
                (status.code(), status.signal()),
                (code, signal),
                "{end} {quick}\n{}",
                sandbox.report()
            );
        }
    }
    sandbox.assert_no_process_left();
}

#[test]
fn an_upgraded_psflip_is_followed_and_its_last_exit_is_relayed() {
    // Contract: C5, S1, U10, W1, W3
    let sandbox = Sandbox::new();
    let child = program(&["dies-later", "--on-file", "end", "--code", "23"]);
    let argv: Vec<&str> = child.iter().map(String::as_str).collect();
    let psflip = watched_psflip(&sandbox, &argv, AT_ONCE);
    let watch = psflip.program();
    for _ in 0..3 {
        let old = psflip.active();
        watch.signal(Signal::SIGHUP);
        let new = psflip.wait_successor(old);
        psflip.wait_gone(old);
        wait_follows(watch, new.pid());
        let keeper = watch.first().children()[0];
        assert_eq!(new.parent(), Some(keeper), "{}", sandbox.report());
    }
    psflip.wait_for_line(Stream::Stdout, "name=gen4");
    sandbox.assert_zombie_free();
    sandbox.write("end", "");
    assert_eq!(watch.wait_exit().code(), Some(23), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn a_stop_works_at_every_moment_of_an_upgrade() {
    // Contract: F11, S5, W2
    for round in 0..12 {
        let sandbox = Sandbox::new();
        let psflip = watched_psflip(&sandbox, &["signal-logger"], AT_ONCE);
        psflip.wait_for_line(Stream::Stdout, "ready pid");
        let watch = psflip.program();
        let marker = [
            "upgrade requested",
            "upgrade started",
            "ready pid",
            "follows the pidfile",
            "new generation took over",
        ][round % 5];
        let mark = psflip.output().mark();
        watch.signal(Signal::SIGHUP);
        let stream = if marker == "ready pid" { Stream::Stdout } else { Stream::Stderr };
        psflip.output().wait_after(mark, stream, marker);
        watch.signal(Signal::SIGTERM);
        let status = watch.wait_exit();
        // A child that was only just executed may get the signal before it handles it.
        assert!(status.success() || status.signal() == Some(15), "{marker}: {status}\n{}", sandbox.report());
        sandbox.assert_no_process_left();
        assert!(!sandbox.path("psflip.pid").exists(), "{marker}\n{}", sandbox.report());
    }
}

#[test]
fn signals_reach_the_named_process_from_the_start_with_payload() {
    // Contract: S1, S7, W2
    let sandbox = Sandbox::new();
    let logger = fixture("signal-logger").display().to_string();
    let watch = watch(&sandbox, &[], &[&logger, "--exit-on", "USR2"]);
    let from_the_start = watch.first();
    // watch may not even have executed its program yet. The test waits for that.
    wait_until(Deadline::default(), "psflip to be executed", || {
        from_the_start.exe().is_ok_and(|exe| exe == psflip_bin().canonicalize().unwrap()).then_some(())
    });
    watch.output().wait(Stream::Stdout, "ready pid");
    for value in 0..100 {
        queue_signal(from_the_start, "RTMIN+3", value);
    }
    let lines = watch.output().wait_count(100, Stream::Stdout, "got SIGRTMIN+3 ");
    for (value, line) in lines.iter().enumerate() {
        assert!(line.text.starts_with(&format!("got SIGRTMIN+3 value={value} from=")), "{line}");
    }
    watch.signal(Signal::SIGHUP);
    watch.output().wait(Stream::Stdout, "got SIGHUP");
    watch.signal(Signal::SIGCHLD);
    watch.signal(Signal::SIGUSR2);
    assert_eq!(watch.wait_exit().code(), Some(0));
    assert!(!watch.stdout().contains("got SIGCHLD"), "{}", watch.stdout());
}

#[test]
fn signals_wait_until_a_daemon_has_written_its_pidfile() {
    // Contract: S1, W2
    let sandbox = Sandbox::new();
    let logger = fixture("signal-logger").display().to_string();
    let daemon = format!("read line < fifo; echo $$ > x.pid; exec {logger} --exit-on USR2");
    let watch = watch_script(&sandbox, &[], &format!("mkfifo fifo; {DAEMON}; daemon '{daemon}'; echo left"));
    watch.output().wait(Stream::Stdout, "left");
    // Once the daemon is the keeper's child, its own parent has exited.
    wait_until(Deadline::default(), "the daemon to be the keeper's", || {
        let keeper = watch.first().children().first().copied()?;
        let children = keeper.children();
        (children.len() == 1 && children[0].stat()?.session == children[0].pid()).then_some(())
    });
    watch.signal(Signal::SIGWINCH); // harmless before it is handled
    go(&sandbox, "fifo");
    watch.output().wait(Stream::Stdout, "ready pid");
    wait_follows(&watch, wait_named(&sandbox.path("x.pid")).pid());
    watch.signal(Signal::SIGUSR2);
    assert_eq!(watch.wait_exit().code(), Some(0), "{}", sandbox.report());
}

#[test]
fn a_stop_without_a_named_process_terminates_all_processes() {
    // Contract: C8, S5
    let sandbox = Sandbox::new();
    let watch = watch_script(&sandbox, &[], "setsid sleep 1000 & echo left");
    watch.output().wait(Stream::Stdout, "left");
    wait_until(Deadline::default(), "the shell to be reaped", || {
        let children = watch.first().children().first()?.children();
        (children.len() == 1 && children[0].cmdline().ok()?.first()? == "sleep").then_some(())
    });
    wait_rest(&sandbox); // watch knows that the shell has exited
    watch.signal(Signal::SIGTERM);
    assert_eq!(watch.wait_exit().signal(), Some(15), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn stale_and_foreign_pids_are_ignored() {
    // Contract: C5, S1, W1
    let sandbox = Sandbox::new();
    sandbox.expect_leftovers();
    let stranger = sandbox.command(["sleep", "1000"]).start();
    let logger = fixture("signal-logger").display().to_string();
    // The pidfile names a living process since before the start; later the same process again, written anew.
    sandbox.write("x.pid", format!("{}\n", stranger.pid()));
    let watch = watch(&sandbox, &[], &[&logger, "--exit-on", "USR2"]);
    watch.output().wait(Stream::Stdout, "ready pid");
    watch.signal(Signal::SIGUSR1);
    watch.output().wait(Stream::Stdout, "got SIGUSR1");
    sandbox.write("x.pid", format!("{}\n", stranger.pid()));
    watch.output().wait(Stream::Stderr, "the pidfile names a process that is none of the command's");
    for nonsense in ["", "4294967296", "-1", "x", "999999999"] {
        sandbox.write("x.pid", nonsense);
    }
    watch.signal(Signal::SIGHUP);
    watch.output().wait(Stream::Stdout, "got SIGHUP");
    watch.signal(Signal::SIGUSR2);
    assert_eq!(watch.wait_exit().code(), Some(0), "{}", sandbox.report());
    assert!(stranger.first().is_alive());
    assert!(!watch.stderr().contains("follows the pidfile"), "{}", watch.stderr());
}

#[test]
fn a_pid_of_an_exited_process_is_stale_even_if_it_is_reused() {
    // Contract: C5
    let sandbox = Sandbox::new();
    // The worker belongs to the command, but its pid was written before.
    let command = "sleep 1000 & echo $! > worker; read line < fifo; exit 5";
    nix::unistd::mkfifo(&sandbox.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let first = watch_script(&sandbox, &[], &format!("echo $$ > x.pid; {command}"));
    let named = wait_named(&sandbox.path("x.pid"));
    wait_follows(&first, named.pid());
    go(&sandbox, "fifo");
    // The file still names a process that is gone, and a worker is left. No new process comes, so watch stops
    // after its wait.
    assert_eq!(first.wait_exit().code(), Some(5), "{}", sandbox.report());
    assert!(
        first.output().text(Stream::Stderr).contains("stopped; stopping what is left"),
        "{}",
        first.stderr()
    );
    sandbox.assert_no_process_left();
}

/// An old process and a new one that it started, which is the service now. [`go`] with `new` makes the new
/// one run `at_its_end` and exit with 3. With `old`, the old one continues with `then`, in which `name`
/// writes the pidfile.
fn watch_old_and_new(sandbox: &Sandbox, at_its_end: &str, then: &str) -> (Arc<Running>, Process) {
    for fifo in ["start", "new", "old", "end"] {
        nix::unistd::mkfifo(&sandbox.path(fifo), nix::sys::stat::Mode::S_IRWXU).unwrap();
    }
    let new = format!("echo $$ > x.new; mv x.new x.pid; read line < new\n{at_its_end}\nexit 3");
    let new = script(sandbox, "new.sh", &new).display().to_string();
    let name = "name() { echo $$ > x.old; mv x.old x.pid; }";
    let old = format!("{name}; name; read line < start; setsid {new} & wait; read line < old; {then}");
    let watch = watch_script(sandbox, &["--patience", "1h"], &old);
    let old = wait_named(&sandbox.path("x.pid"));
    wait_follows(&watch, old.pid());
    go(sandbox, "start");
    let new = wait_until(Deadline::default(), "the new process to be named", || {
        let named = wait_named(&sandbox.path("x.pid"));
        (named != old).then_some(named)
    });
    wait_follows(&watch, new.pid());
    (watch, old)
}

/// Continues a script that reads this fifo. Each fifo is read only once: a second reader could meet the first
/// one's writer, and read end of file.
fn go(sandbox: &Sandbox, fifo: &str) {
    std::fs::write(sandbox.path(fifo), "go\n").unwrap();
}

#[test]
fn a_predecessor_that_takes_its_pidfile_back_is_followed_again() {
    // Contract: F6, U8, W1
    // A psflip whose successor is killed just before its acknowledgement does this. So does nginx, whose new
    // process removes the pidfile.
    for at_its_end in [":", "rm x.pid"] {
        let sandbox = Sandbox::new();
        let (watch, old) = watch_old_and_new(&sandbox, at_its_end, "name; read line < end; exit 4");
        go(&sandbox, "new");
        watch.output().wait(Stream::Stderr, "waiting for another process to take its place");
        let mark = watch.output().mark();
        go(&sandbox, "old");
        watch.output().wait_after(mark, Stream::Stderr, &format!("follows the pidfile service={old}"));
        go(&sandbox, "end");
        assert_eq!(watch.wait_exit().code(), Some(4), "{at_its_end}\n{}", sandbox.report());
        sandbox.assert_no_process_left();
    }
}

#[test]
fn a_predecessor_that_exits_without_its_pidfile_stops_the_wait() {
    // Contract: C5, W1, W3
    let sandbox = Sandbox::new();
    // A worker is left, so watch does not stop because all processes are gone.
    let (watch, _) = watch_old_and_new(&sandbox, "rm x.pid; setsid sleep 1000 &", "exit 4");
    go(&sandbox, "new");
    watch.output().wait(Stream::Stderr, "waiting for another process to take its place");
    go(&sandbox, "old");
    // Only the old process knows the new one's exit status, since it reaped it.
    assert_eq!(watch.wait_exit().code(), Some(4), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn the_exit_code_of_a_program_that_runs_the_service_counts() {
    // Contract: C5
    let sandbox = Sandbox::new();
    let command = "sh -c 'echo $$ > x.pid; read line < fifo; exit 3'; echo the service: $?; exit 44";
    let watch = watch_script(&sandbox, &[], &format!("mkfifo fifo; {command}"));
    wait_follows(&watch, wait_named(&sandbox.path("x.pid")).pid());
    go(&sandbox, "fifo");
    assert_eq!(watch.wait_exit().code(), Some(44), "{}", sandbox.report());
    assert!(watch.stdout().contains("the service: 3"), "{}", watch.stdout());
}

#[test]
fn leftovers_are_terminated_and_then_killed() {
    // Contract: C8, C9, W3
    let sandbox = Sandbox::new();
    let workers = fixture("forks-workers").display().to_string();
    let args = ["--workers", "2", "--orphans", "2", "--setsid", "--ignore-term"];
    let command: Vec<&str> = [workers.as_str()].iter().chain(&args).copied().collect();
    // Long enough for five processes to print what they got, on a busy host, too.
    let watch = watch(&sandbox, &["--grace", "3s"], &command);
    watch.output().wait(Stream::Stdout, "ready pid");
    sandbox.write("x.pid", watch.stdout().split("ready pid=").nth(1).unwrap().split(' ').next().unwrap());
    watch.output().wait(Stream::Stderr, "follows the pidfile");
    watch.signal(Signal::SIGTERM);
    assert_eq!(watch.wait_exit().code(), Some(0), "{}", sandbox.report());
    assert!(watch.stderr().contains("killing what did not exit within 3s"), "{}", watch.stderr());
    assert_eq!(
        watch.stdout().matches("got SIGTERM").count(),
        5,
        "each got the signal first\n{}",
        sandbox.report()
    );
    sandbox.assert_no_process_left();
}

#[test]
fn ctrl_z_stops_watch_along_with_the_service() {
    // Contract: S2, S3
    let sandbox = Sandbox::new();
    let shell = "\"$@\"; while echo \"shell: last=$?\"; read -r line; do eval \"$line\"; done";
    let argv = ["bash", "--norc", "--noprofile", "-i", "-c", shell, "bash"];
    let (psflip, logger) =
        (psflip_bin().display().to_string(), fixture("signal-logger").display().to_string());
    let watch = [&psflip, "watch", "--pidfile", "x.pid", "--", &logger, "--stop-on-tstp"];
    let shell = sandbox.command(argv.iter().chain(&watch)).pty().start();
    let line = shell.output().wait(Stream::Pty, "ready pid=").text;
    let pid = line.split("pid=").nth(1).unwrap().split(' ').next().unwrap();
    sandbox.write("x.pid", pid);
    shell.output().wait(Stream::Pty, "follows the pidfile");
    let logger = Process::find(pid.parse().unwrap()).unwrap();
    shell.write_stdin("\x1a");
    shell.output().wait(Stream::Pty, "Stopped");
    assert_eq!(logger.state(), ProcessState::Stopped);
    shell.write_stdin("fg\n");
    shell.output().wait(Stream::Pty, "got SIGCONT");
    let mark = shell.output().mark();
    shell.write_stdin("\x03");
    shell.output().wait_after(mark, Stream::Pty, "got SIGINT");
    let mark = shell.output().mark();
    logger.signal(Signal::SIGUSR1).unwrap();
    shell.output().wait_after(mark, Stream::Pty, "got SIGUSR1");
    let got = shell.output().text(Stream::Pty);
    for (signal, times) in [("SIGTSTP", 1), ("SIGCONT", 1), ("SIGINT", 1)] {
        assert_eq!(got.matches(&format!("got {signal} ")).count(), times, "{signal}\n{}", sandbox.report());
    }
    logger.signal(Signal::SIGTERM).unwrap();
    shell.output().wait(Stream::Pty, "shell: last=0");
    shell.write_stdin("exit 7\n");
    assert_eq!(shell.wait_exit().code(), Some(7));
}

#[test]
fn an_idle_watch_never_wakes_up_and_has_one_thread() {
    // Contract: U9
    let sandbox = Sandbox::new();
    let psflip = watched_psflip(&sandbox, &["signal-logger"], AT_ONCE);
    psflip.wait_for_line(Stream::Stdout, "ready pid");
    let watch = psflip.program().first();
    wait_follows(psflip.program(), psflip.active_pid());
    let processes = [watch, watch.children()[0]];
    let child = psflip.child();
    sandbox.processes().into_iter().filter(|process| *process != child).for_each(wait_idle);
    let before = wait_rest(&sandbox);
    let pause = sandbox.command(["sleep", "2"]).start();
    assert!(pause.wait_exit().success());
    assert_eq!(wait_rest(&sandbox), before, "{}", sandbox.report());
    for process in processes {
        assert_eq!(process.status_field("Threads").as_deref(), Some("1"));
    }
    assert_eq!(generations(&sandbox).len(), 2, "watch, and one generation");
    psflip.program().signal(Signal::SIGTERM);
    assert!(psflip.program().wait_exit().success(), "{}", sandbox.report());
}
