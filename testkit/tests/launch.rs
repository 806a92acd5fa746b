//! What a program may be started with: signals, descriptors, limits, sessions, a terminal.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;

use psflip_testkit::{Deadline, Sandbox, Session, Signal, Stdin, Stream, process::ProcessState, wait_until};

/// One line of `/proc/self/status` of a program started so.
fn mask(launch: impl FnOnce(psflip_testkit::Launch) -> psflip_testkit::Launch, field: &str) -> u64 {
    let sandbox = Sandbox::new();
    let cat = launch(sandbox.command(["cat", "/proc/self/status"])).start();
    assert!(cat.wait_exit().success());
    let stdout = cat.stdout();
    let value = stdout.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(":\t")).unwrap();
    public(u64::from_str_radix(value, 16).unwrap())
}

/// Without signals 32 and 33, which glibc keeps for itself and whose disposition its posix_spawn(3) changes.
fn public(mask: u64) -> u64 {
    mask & !(0b11 << 31)
}

fn bit(signal: Signal) -> u64 {
    1 << (signal as i32 - 1)
}

#[test]
fn only_the_requested_signals_are_ignored_and_blocked() {
    // Whoever started the test may have ignored some already; that SIGPIPE is, in the test, is Rust's own start-up.
    let own = psflip_testkit::Process::current().status_field("SigIgn").unwrap();
    let before = public(u64::from_str_radix(&own, 16).unwrap()) & !bit(Signal::SIGPIPE);
    assert_eq!(mask(|launch| launch, "SigIgn"), before);
    assert_eq!(mask(|launch| launch, "SigBlk"), 0);
    let two =
        |launch: psflip_testkit::Launch| launch.ignore_signal(Signal::SIGHUP).ignore_signal(Signal::SIGPIPE);
    assert_eq!(mask(two, "SigIgn"), before | bit(Signal::SIGHUP) | bit(Signal::SIGPIPE));
    assert_eq!(mask(|launch| launch.block_signal(Signal::SIGUSR1), "SigBlk"), bit(Signal::SIGUSR1));
    // Through the helper as well: Rust's own start-up ignores SIGPIPE there too.
    assert_eq!(mask(|launch| launch.umask(0o22), "SigIgn"), before);
}

#[test]
fn only_the_requested_descriptors_are_closed_and_inherited() {
    let sandbox = Sandbox::new();
    let (mut far, near) =
        (File::create(sandbox.path("seven")).unwrap(), sandbox.write("three", "from three\n"));
    far.write_all(b"begun\n").unwrap();
    let list = "cat <&3; echo to seven >&7; ls /proc/$$/fd >list; read line; echo \"stdin: $line\"";
    let shell = sandbox
        .command(["sh", "-c", list])
        .stdin(Stdin::Pipe)
        .inherit_fd(File::open(near).unwrap(), 3)
        .inherit_fd(OwnedFd::from(far), 7)
        .close_fd(2)
        .start();
    shell.write_stdin("typed\n");
    assert!(shell.wait_exit().success(), "{}", sandbox.report());
    assert_eq!(shell.stdout(), "from three\nstdin: typed\n");
    assert_eq!(sandbox.read("seven"), "begun\nto seven\n");
    let open: Vec<_> = sandbox.read("list").lines().map(str::to_owned).collect();
    assert!(!open.contains(&"2".to_owned()) || open.len() <= 5, "{open:?}");
    assert!(["0", "1", "3", "7"].iter().all(|number| open.contains(&(*number).to_owned())), "{open:?}");
}

#[test]
fn limits_umask_and_nice_level_are_set() {
    let sandbox = Sandbox::new();
    let shell = sandbox
        .command(["sh", "-c", "ulimit -n; ulimit -Hn; umask; nice"])
        .rlimit("nofile", 64)
        .umask(0o27)
        .nice(5)
        .start();
    assert!(shell.wait_exit().success(), "{}", sandbox.report());
    let outside = sandbox.command(["nice"]).start();
    outside.wait_exit();
    let nice: i32 = outside.stdout().trim().parse().unwrap();
    assert_eq!(shell.stdout(), format!("64\n64\n0027\n{}\n", (nice + 5).min(19)));
}

#[test]
fn a_program_has_a_group_of_its_own_or_a_session_or_those_of_the_test() {
    let sandbox = Sandbox::new();
    let own = psflip_testkit::Process::current().stat().unwrap();
    let start = |session| {
        let shell = sandbox.command(["sh", "-c", "echo ready; exec sleep 1000"]).session(session).start();
        shell.output().wait(Stream::Stdout, "ready");
        let stat = shell.first().stat().unwrap();
        (shell.pid(), stat.group, stat.session)
    };
    let (pid, group, session) = start(Session::OwnGroup);
    assert_eq!((group, session), (pid, own.session));
    let (pid, group, session) = start(Session::New);
    assert_eq!((group, session), (pid, pid));
    let (_, group, session) = start(Session::Inherit);
    assert_eq!((group, session), (own.group, own.session));
}

#[test]
fn on_a_terminal_a_program_is_in_the_foreground_and_gets_control_keys() {
    let sandbox = Sandbox::new();
    // A login shell's job would be stopped by Ctrl-Z; a session leader without a parent in its session can't be (its group is
    // orphaned), so an inner group is put into the foreground by an interactive shell.
    let shell = sandbox.command(["bash", "--norc", "--noprofile", "-i"]).pty().start();
    shell.write_stdin("stty size; sleep 1000; echo over\n");
    let sleeper = wait_until(Deadline::default(), "sleep in the foreground", || {
        let children = shell.first().children();
        children.into_iter().find(|child| {
            let stat = child.stat();
            child.cmdline().is_ok_and(|line| line.first().is_some_and(|arg| arg == "sleep"))
                && stat.is_some_and(|stat| stat.foreground == stat.group as i32)
        })
    });
    shell.output().wait(Stream::Pty, "24 80");
    shell.write_stdin("\x1a");
    wait_until(Deadline::default(), "Ctrl-Z to stop it", || {
        (sleeper.state() == ProcessState::Stopped).then_some(())
    });
    shell.resize(30, 100);
    shell.write_stdin("stty size; fg\n");
    shell.output().wait(Stream::Pty, "30 100");
    wait_until(Deadline::default(), "fg to continue it", || {
        (sleeper.state() == ProcessState::Sleeping).then_some(())
    });
    shell.write_stdin("\x03");
    wait_until(Deadline::default(), "Ctrl-C to end it", || (!sleeper.is_alive()).then_some(()));
    shell.write_stdin("exit 7\n");
    assert_eq!(shell.wait_exit().code(), Some(7));
}

#[test]
fn a_prompt_without_a_line_end_can_be_waited_for() {
    let sandbox = Sandbox::new();
    let shell = sandbox
        .command(["sh", "-c", "printf 'name? '; read name; echo hello $name"])
        .stdin(Stdin::Pipe)
        .start();
    shell.output().wait(Stream::Stdout, "name? ");
    shell.write_stdin("Ann\n");
    assert_eq!(shell.output().wait(Stream::Stdout, "hello").text, "name? hello Ann");
    assert!(shell.wait_exit().success());
}

#[test]
fn the_helper_refuses_unknown_arguments() {
    let sandbox = Sandbox::new();
    let program = sandbox.command(["true"]).rlimit("bananas", 7).start();
    assert_eq!(program.wait_exit().code(), Some(125));
    assert!(program.stderr().contains("`--rlimit bananas=7`: unknown limit"), "{}", program.stderr());
    let missing = sandbox.command(["/no/such/program"]).umask(0o22).start();
    assert_eq!(missing.wait_exit().code(), Some(127));
}

#[test]
fn a_guard_cleans_up_after_a_killed_test_process() {
    let sandbox = Sandbox::new();
    let helper = env!("CARGO_BIN_EXE_testkit-launch");
    let prefix = format!("guarded-{}-", sandbox.id()); // the same test may run twice at once
    let folder = sandbox.path("tkfolder");
    std::fs::create_dir(&folder).unwrap();
    let guard = sandbox.command([helper, "--guard", prefix.as_str()]).stdin(Stdin::Pipe).start();
    let orphan = sandbox.command(["sleep", "1000"]).env(psflip_testkit::MARKER, format!("{prefix}7")).start();
    let bystander = sandbox.command(["sleep", "1000"]).start();
    guard.write_stdin(format!("{}\n", folder.display()));
    assert!(orphan.first().is_alive() && folder.exists());
    guard.close_stdin(); // as when the test process is gone
    assert!(!orphan.wait_exit().success());
    assert!(guard.wait_exit().success());
    assert!(!folder.exists() && bystander.first().is_alive());
}
