//! psflip's exit status (C5, C6): the child's own, or a code for what went wrong.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

use testkit::{Sandbox, Session, Signal, Stream, fixture, psflip_bin};

use crate::service::AT_ONCE;

/// Not healthy within the time of the test.
const NEVER: &str = "[healthcheck.command]\ncmd = [\"false\"]\n";

/// Runs `exit-with` under psflip until it exits. No pidfile, since each watch on one uses up a limited
/// resource (inotify(7)).
#[track_caller]
fn end_of(sandbox: &Sandbox, config: &str, args: &[&str]) -> ExitStatus {
    let cmd = [fixture("exit-with").display().to_string()];
    let cmd = cmd.iter().map(String::as_str).chain(args.iter().copied());
    sandbox.psflip().cmd(cmd).config(config).no_pidfile().start().wait_exit()
}

/// Runs psflip until it fails. Returns the exit code and its log.
#[track_caller]
fn failure_of(sandbox: &Sandbox, config: &str) -> (Option<i32>, String) {
    let psflip = sandbox.psflip().config(config).no_pidfile().start();
    let status = psflip.wait_exit();
    (status.code(), psflip.log())
}

#[test]
fn every_exit_code_of_the_child_is_relayed() {
    // Contract: C5
    for sixteen in 0..16 {
        // A sandbox keeps a record of every process that it started, and slows down with many.
        let sandbox = Sandbox::new();
        for code in sixteen * 16..(sixteen + 1) * 16 {
            let status = end_of(&sandbox, AT_ONCE, &["--code", &code.to_string()]);
            assert_eq!(status.code(), Some(code), "{}", sandbox.report());
        }
    }
}

#[test]
fn every_death_by_a_signal_is_relayed_as_death_by_the_same_signal() {
    // Contract: C5
    let sandbox = Sandbox::new();
    let deadly = (1..=31).filter(|number| ![17, 18, 19, 20, 21, 22, 23, 28].contains(number));
    for number in deadly.chain(34..=64) {
        let name = match number {
            34.. => format!("RTMIN+{}", number - 34),
            _ => Signal::try_from(number).unwrap().as_str().to_owned(),
        };
        let status = end_of(&sandbox, AT_ONCE, &["--signal", &name]);
        assert_eq!(status.signal(), Some(number), "{name} became {status}\n{}", sandbox.report());
    }
}

#[test]
fn a_core_dump_of_the_child_causes_none_of_psflip() {
    // Contract: C5
    let sandbox = Sandbox::new();
    for name in ["SEGV", "ABRT", "QUIT"] {
        let argv = [fixture("exit-with").display().to_string()];
        let argv = argv.iter().map(String::as_str).chain(["--core", "--signal", name]);
        // Each in its own directory, since core files have the same name.
        fs::create_dir_all(sandbox.path(name)).unwrap();
        let bare = sandbox.command(argv.clone()).cwd(name).rlimit("core", 1 << 30).start().wait_exit();
        let psflip = sandbox.psflip().cmd(argv).config(AT_ONCE).cwd(name).rlimit("core", 1 << 30).start();
        let status = psflip.wait_exit();
        assert_eq!(status.signal(), bare.signal(), "{}", sandbox.report());
        assert!(!status.core_dumped(), "psflip dumped core after {name}\n{}", sandbox.report());
    }
}

#[test]
fn a_shell_sees_the_same_with_and_without_psflip() {
    // Contract: C5
    let sandbox = Sandbox::new();
    let exit_with = fixture("exit-with").display().to_string();
    for (option, value) in
        [("--code", "0"), ("--code", "7"), ("--code", "255"), ("--signal", "TERM"), ("--signal", "SEGV")]
    {
        let config = format!("cmd = [{exit_with:?}, {option:?}, {value:?}]\n{AT_ONCE}");
        sandbox.write("psflip.toml", config);
        let shell = |argv: &[&str]| {
            let script = ["sh", "-c", "\"$@\" >/dev/null 2>&1; echo status=$?", "sh"];
            let shell = sandbox.command(script).args(argv).start();
            assert!(shell.wait_exit().success());
            shell.stdout()
        };
        let bare = shell(&[&exit_with, option, value]);
        let with_psflip = shell(&[psflip_bin().to_str().unwrap()]);
        assert_eq!(with_psflip, bare, "`{option} {value}`\n{}", sandbox.report());
    }
}

#[test]
fn the_exit_of_a_later_generations_child_is_relayed() {
    // Contract: C5
    let sandbox = Sandbox::new();
    let child = |ending: &str| {
        let program = fixture("dies-later").display().to_string();
        format!("cmd = [{program:?}, \"--on-file\", \"die\", {ending}]\npidfile = \"psflip.pid\"\n{AT_ONCE}")
    };
    sandbox.write("psflip.toml", child("\"--code\", \"3\""));
    for (ending, code, signal) in
        [("\"--code\", \"42\"", Some(42), None), ("\"--signal\", \"USR1\"", None, Some(10))]
    {
        let psflip = sandbox.psflip().config_file("psflip.toml").start().wait_ready();
        psflip.output().wait(Stream::Stdout, "ready");
        sandbox.write("psflip.toml", child(ending));
        let flip = psflip.flip();
        psflip.output().wait_count(2, Stream::Stdout, "ready");
        sandbox.write("die", "");
        let status = psflip.wait_end_of(flip.new);
        assert_eq!((status.code(), status.signal()), (code, signal), "{}", sandbox.report());
        assert_eq!(psflip.wait_exit().code(), Some(0), "a superseded generation exits with 0");
        fs::remove_file(sandbox.path("die")).unwrap();
        sandbox.write("psflip.toml", child("\"--code\", \"3\""));
    }
}

#[test]
fn a_child_that_dies_of_a_stop_request_is_relayed() {
    // Contract: C5
    let sandbox = Sandbox::new();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let psflip = sandbox.psflip().cmd(["sleep", "infinity"]).config(AT_ONCE).start().wait_ready();
        psflip.signal(signal);
        let status = psflip.wait_exit();
        assert_eq!(status.signal(), Some(signal as i32), "{}", sandbox.report());
    }
}

#[test]
fn psflips_own_failures_have_codes_of_their_own() {
    // Contract: C6
    let sandbox = Sandbox::new();
    sandbox.write("no-program", "just text\n");
    fs::set_permissions(sandbox.path("no-program"), fs::Permissions::from_mode(0o644)).unwrap();
    let never_ready = fixture("never-ready").display().to_string();
    let not_healthy = format!("cmd = [{never_ready:?}]\nupgrade.timeout = \"300ms\"\n{NEVER}");
    // Not even root can write there. That fails only after the child has become healthy.
    let unwritable = format!("cmd = [\"sleep\", \"infinity\"]\npidfile = \"/proc/psflip.pid\"\n{AT_ONCE}");
    for (config, code, said) in [
        ("cmd = [\"true\"]\ntimout = 3\n", 78, "timout"),
        ("cmd = [\"no-such-program-anywhere\"]\n", 127, "`no-such-program-anywhere`"),
        ("cmd = [\"./missing/program\"]\n", 127, "`./missing/program`"),
        ("cmd = [\"./no-program\"]\n", 126, "`./no-program`"),
        ("cmd = [\"/\"]\n", 126, "`/`"),
        ("cmd = [\"true\"]\nworkdir = \"gone/away\"\n", 125, "`gone/away`"),
        ("cmd = [\"true\"]\npidfile = \"gone/psflip.pid\"\n", 125, "gone/psflip.pid"),
        (&unwritable, 125, "`/proc/psflip.pid`"),
        (&not_healthy, 124, "not healthy"),
    ] {
        let (got, log) = failure_of(&sandbox, config);
        assert_eq!(got, Some(code), "for\n{config}\nit logged: {log}");
        assert!(log.contains(said), "`{said}` is missing for\n{config}\nit logged: {log}");
    }
}

#[test]
fn a_first_child_that_exits_before_it_is_healthy_is_a_failure() {
    // Contract: C6
    let sandbox = Sandbox::new();
    for (ending, code, signal) in [
        (["--code", "0"], Some(1), None),
        (["--code", "3"], Some(3), None),
        (["--code", "255"], Some(255), None),
        (["--signal", "USR2"], None, Some(12)),
    ] {
        for health in ["", NEVER] {
            let status = end_of(&sandbox, health, &ending);
            assert_eq!((status.code(), status.signal()), (code, signal), "{}", sandbox.report());
        }
    }
}

/// Runs the same command 200 times. All runs must exit alike: events at the same time must be handled in a
/// fixed order.
#[track_caller]
fn always_ends_with(code: i32, config: &str) {
    let sandbox = Sandbox::new();
    sandbox.write("psflip.toml", config);
    let script = "for run in $(seq 200); do \"$0\" >/dev/null 2>>log; echo status=$?; done";
    let runs = sandbox.command(["sh", "-c", script]).arg(psflip_bin()).session(Session::Inherit).start();
    assert!(runs.wait_exit().success());
    let expected = format!("status={code}\n").repeat(200);
    assert_eq!(runs.stdout(), expected, "{}", sandbox.read("log"));
}

#[test]
fn a_healthy_child_that_exits_at_once_is_always_relayed() {
    // Contract: C5
    always_ends_with(0, &format!("cmd = [\"true\"]\n{AT_ONCE}"));
    always_ends_with(1, &format!("cmd = [\"false\"]\n{AT_ONCE}"));
}

#[test]
fn an_unhealthy_child_that_exits_at_once_is_always_a_failure() {
    // Contract: C6
    always_ends_with(1, "cmd = [\"true\"]\n");
    always_ends_with(3, "cmd = [\"sh\", \"-c\", \"exit 3\"]\n");
}

#[test]
fn a_missing_command_is_always_not_found() {
    // Contract: C6
    always_ends_with(127, &format!("cmd = [\"./missing\"]\n{AT_ONCE}"));
}
