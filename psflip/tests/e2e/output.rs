//! `[output]`: the child's output in files and at loggers, and `psflip reopen`.

mod reopen;

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::time::{Duration, Instant};

use testkit::{Anchor, Deadline, Process, Psflip, Sandbox, Signal, Stream, psflip_bin, wait_until};

use crate::service::{AT_ONCE, UNTIL_FILE, configure, psflip, stop, wait_coming};

/// A child that writes each line of `in-GENERATION` to both streams. `exit` and `kill` end it; SIGTERM does not.
const ECHO: &[&str] = &[
    "/bin/sh",
    "-c",
    "trap '' TERM\nexec 3<>in-$PSFLIP_GENERATION\necho started\nwhile read -r line <&3; do
        case $line in exit) echo bye; exit 0;; kill) echo bye; kill -KILL $$;; esac
        echo \"out $line\"; echo \"err $line\" >&2\ndone",
];

/// The named pipes of two generations.
fn pipes(sandbox: &Sandbox) {
    let made = sandbox.command(["mkfifo", "in-1", "in-2"]).start().wait_exit();
    assert!(made.success());
}

/// Lets the child of this generation write a line.
#[track_caller]
fn say(sandbox: &Sandbox, generation: u32, line: &str) {
    write_to(sandbox, &format!("in-{generation}"), line);
}

/// Writes a line to a named pipe, once a process reads it.
#[track_caller]
fn write_to(sandbox: &Sandbox, pipe: &str, line: &str) {
    let mut how = File::options();
    how.write(true).custom_flags(libc::O_NONBLOCK);
    let mut pipe = wait_until(Deadline::default(), format!("a reader of {pipe}"), || {
        how.open(sandbox.path(pipe)).ok() // ENXIO: there is none
    });
    writeln!(pipe, "{line}").unwrap();
}

#[track_caller]
fn wait_line(sandbox: &Sandbox, file: &str, line: &str) {
    wait_until(Deadline::default(), format!("{line:?} in {file}"), || {
        let text = fs::read_to_string(sandbox.path(file)).unwrap_or_default();
        text.lines().any(|there| there == line).then_some(())
    });
}

/// The living processes with this name.
fn named(sandbox: &Sandbox, name: &str) -> Vec<Process> {
    let processes = sandbox.processes().into_iter();
    let stats = processes.filter_map(|process| process.stat()).filter(|stat| stat.state.is_alive());
    stats.filter(|stat| stat.name == name).map(|stat| stat.process).collect()
}

fn output_processes(sandbox: &Sandbox) -> Vec<Process> {
    named(sandbox, "psflip: output")
}

/// Kills processes, and waits until they are gone: a logger may still read a line before it dies.
#[track_caller]
fn kill_all(victims: &[Process]) {
    for victim in victims {
        victim.signal(Signal::SIGKILL).unwrap();
    }
    wait_gone(victims);
}

/// Kills the output process of `tee`, which dies with it. Until then it may read a line that nobody writes.
#[track_caller]
fn kill_with_logger(sandbox: &Sandbox) {
    let logger = named(sandbox, "tee");
    assert!(!logger.is_empty(), "{}", sandbox.report());
    kill_all(&output_processes(sandbox));
    wait_gone(&logger);
}

#[track_caller]
fn wait_gone(processes: &[Process]) {
    wait_until(Deadline::default(), "killed processes to be gone", || {
        processes.iter().all(|process| !process.is_alive()).then_some(())
    });
}

#[track_caller]
fn client(sandbox: &Sandbox, args: &[&str]) -> (Option<i32>, String, String) {
    let client = sandbox.command([psflip_bin()]).args(args).start();
    let code = client.wait_exit().code();
    client.output().wait_closed();
    (code, client.stdout(), client.stderr())
}

/// Ends the child, and waits until nothing is left.
#[track_caller]
fn end(sandbox: &Sandbox, psflip: &Psflip, generation: u32) {
    say(sandbox, generation, "exit");
    psflip.program().wait_exit();
    sandbox.assert_no_process_left();
}

#[test]
fn the_last_lines_arrive_however_the_child_ends() {
    // Contract: N1
    const LINES: usize = 20_000; // more than fits into a pipe
    for target in ["append:all.log", "pipe:cat > all.log"] {
        for (way, psflip_dies) in [("exit 3", false), ("kill -SEGV $$", false), ("read forever", true)] {
            let sandbox = Sandbox::new();
            let made = sandbox.command(["mkfifo", "go", "forever"]).start().wait_exit();
            assert!(made.success());
            let child = format!(
                "read line < go; seq {LINES}; echo done >&2; {}",
                way.replace("forever", "line < forever")
            );
            let config = format!("{AT_ONCE}[output]\nstdout = \"{target}\"\n");
            let builder = psflip(&sandbox, &["/bin/sh", "-c", &child], &config).anchor(Anchor::Always);
            let psflip = builder.start().wait_ready();
            write_to(&sandbox, "go", "go");
            psflip.wait_for_line(Stream::Stderr, "done");
            if psflip_dies {
                let keeper = psflip.child().parent().unwrap();
                psflip.active().signal(Signal::SIGKILL).unwrap();
                wait_until(Deadline::default(), "the keeper to exit", || (!keeper.is_alive()).then_some(()));
            }
            psflip.program().wait_exit();
            // Neither psflip nor the anchor exits before everything is written.
            let text = sandbox.read("all.log");
            assert_eq!(text.lines().count(), LINES, "{target}, {way}");
            assert!(text.ends_with("19999\n20000\n"));
            sandbox.assert_no_process_left();
        }
    }
}

#[test]
fn neither_an_output_process_nor_a_logger_is_missed_when_it_is_killed() {
    // Contract: N2
    let sandbox = Sandbox::new();
    pipes(&sandbox);
    let config = format!("{AT_ONCE}[output]\nstdout = \"append:out.log\"\nstderr = \"pipe:cat > err.log\"\n");
    let psflip = psflip(&sandbox, ECHO, &config.replace("> err", ">> err")).start().wait_ready();
    let child = psflip.child();
    for (round, name) in ["psflip: output", "cat"].into_iter().enumerate() {
        say(&sandbox, 1, &format!("before {round}"));
        wait_line(&sandbox, "out.log", &format!("out before {round}"));
        wait_line(&sandbox, "err.log", &format!("err before {round}"));
        let victims = named(&sandbox, name);
        assert!(!victims.is_empty(), "{name}: {}", sandbox.report());
        let loggers = named(&sandbox, "cat");
        kill_all(&victims);
        wait_gone(&loggers); // they die with their output process
        say(&sandbox, 1, &format!("after {round}"));
        wait_line(&sandbox, "out.log", &format!("out after {round}"));
        wait_line(&sandbox, "err.log", &format!("err after {round}"));
        assert_eq!(psflip.child(), child, "it got no SIGPIPE");
    }
    let log = psflip.log();
    assert!(log.contains("the process that reads the child's output was killed"), "{log}");
    assert!(log.contains("the logger has exited (exit code 137); starting it again"), "{log}");
    end(&sandbox, &psflip, 1);
    assert!(sandbox.read("out.log").ends_with("bye\n"));
}

/// The tokens of what a psflip waits for with epoll(7), in order.
fn watched(psflip: Process) -> Vec<String> {
    let there = fs::read_dir(format!("/proc/{}/fdinfo", psflip.pid())).unwrap();
    let texts = there.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
    let mut tokens: Vec<String> = texts
        .flat_map(|text| {
            let lines = text.lines().filter(|line| line.starts_with("tfd:"));
            let tokens = lines.filter_map(|line| line.split("data:").nth(1)?.split_whitespace().next());
            tokens.map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    assert!(!tokens.is_empty());
    tokens.sort_unstable();
    tokens
}

#[test]
fn a_logger_that_can_not_run_is_reported_as_such() {
    // Contract: N2
    let sandbox = Sandbox::new();
    let config = format!("{AT_ONCE}[output]\nstdout = \"pipe:false\"\n");
    let psflip = psflip(&sandbox, &["/bin/sleep", "1000"], &config).start().wait_ready();
    let line = psflip.wait_for_line(Stream::Stderr, "the child blocks as soon as its pipe is full");
    assert!(line.text.contains("ERROR") && line.text.contains("times=3"), "{line}");
    stop(&psflip);
}

#[test]
fn nobody_waits_for_output_that_is_left_alone() {
    // Contract: N1
    let sandbox = Sandbox::new();
    let config = format!("{AT_ONCE}[output]\nstdout = \"append:out.log\"\n[shutdown]\norphans = \"leave\"\n");
    let child = "(trap '' HUP TERM; exec sleep 1000) & exec sleep 2000";
    let psflip =
        psflip(&sandbox, &["/bin/sh", "-c", child], &config).anchor(Anchor::Always).start().wait_ready();
    let writer = output_processes(&sandbox);
    let begun = Instant::now();
    psflip.active().signal(Signal::SIGTERM).unwrap();
    psflip.program().wait_exit();
    assert!(begun.elapsed() < Duration::from_secs(5), "psflip or its anchor has waited");
    let left = named(&sandbox, "sleep");
    assert_eq!((left.len(), output_processes(&sandbox)), (1, writer.clone()));
    kill_all(&left);
    wait_gone(&writer);
    sandbox.assert_no_process_left();
}

#[test]
fn all_generations_share_one_logger() {
    // Contract: N3, N1, F9
    let sandbox = Sandbox::new();
    pipes(&sandbox);
    // It would fail if it ran twice.
    let target = "pipe:flock -n lock cat >> shared.log";
    let config = format!(
        "{AT_ONCE}[output]\nstdout = \"{target}\"\nstderr = \"{target}\"\n[shutdown]\ntimeout = \"1h\"\n"
    );
    let psflip = psflip(&sandbox, ECHO, &config).start().wait_ready();
    say(&sandbox, 1, "one");
    wait_line(&sandbox, "shared.log", "err one");
    let logger = named(&sandbox, "cat");
    assert_eq!((logger.len(), output_processes(&sandbox).len()), (1, 1), "both streams share it");
    let old = psflip.active();
    psflip.request_flip();
    let new = psflip.wait_successor(old);
    say(&sandbox, 1, "two");
    say(&sandbox, 2, "three");
    wait_line(&sandbox, "shared.log", "out two");
    wait_line(&sandbox, "shared.log", "out three");
    assert_eq!(named(&sandbox, "cat"), logger);
    // While the old child drains, the new psflip starts it again, which is not its parent.
    kill_all(&output_processes(&sandbox));
    wait_gone(&logger);
    say(&sandbox, 1, "four");
    say(&sandbox, 2, "five");
    wait_line(&sandbox, "shared.log", "out four");
    wait_line(&sandbox, "shared.log", "out five");
    assert_eq!(output_processes(&sandbox)[0].parent(), Some(new));
    say(&sandbox, 1, "exit");
    wait_until(Deadline::default(), "the old psflip to be gone", || (!old.is_alive()).then_some(()));
    say(&sandbox, 2, "six");
    wait_line(&sandbox, "shared.log", "err six");
    assert_eq!(named(&sandbox, "cat").len(), 1);
    end(&sandbox, &psflip, 2);
    assert!(
        sandbox.read("shared.log").ends_with("out six\nerr six\nbye\n"),
        "{}",
        sandbox.read("shared.log")
    );
}

#[test]
fn the_newest_generation_starts_a_shared_logger_again_until_it_exits() {
    // Contract: N2, N3
    let sandbox = Sandbox::new();
    pipes(&sandbox);
    let config =
        format!("{AT_ONCE}[output]\nstdout = \"pipe:tee -a shared.log\"\n[shutdown]\ntimeout = \"1h\"\n");
    let psflip = psflip(&sandbox, ECHO, &config).start().wait_ready();
    let old = psflip.active();
    psflip.request_flip();
    let new = psflip.wait_successor(old);
    psflip.wait_for_line(Stream::Stderr, "new generation took over");
    old.signal(Signal::SIGSTOP).unwrap(); // it has the same descriptor of the process, and keeps it open
    kill_with_logger(&sandbox);
    say(&sandbox, 2, "one");
    wait_line(&sandbox, "shared.log", "out one");
    let tokens = watched(new);
    let mut once = tokens.clone();
    once.dedup();
    assert_eq!(tokens, once, "the exit is reported for ever");
    old.signal(Signal::SIGCONT).unwrap();
    let child = psflip.child();
    new.signal(Signal::SIGTERM).unwrap();
    say(&sandbox, 2, "exit");
    wait_until(Deadline::default(), "the new child to be gone", || (!child.is_alive()).then_some(()));
    psflip.wait_for_line(Stream::Stderr, "waiting for the old");
    kill_with_logger(&sandbox);
    say(&sandbox, 1, "alone");
    wait_line(&sandbox, "shared.log", "out alone");
    say(&sandbox, 1, "exit");
    psflip.program().wait_exit();
    sandbox.assert_no_process_left();
    assert!(sandbox.read("shared.log").ends_with("bye\n"));
}

#[test]
fn a_logger_outlives_the_psflip_that_started_it() {
    // Contract: N3, F8, U8
    let sandbox = Sandbox::new();
    pipes(&sandbox);
    let target = "pipe:flock -n lock cat >> shared.log";
    let config = format!("{UNTIL_FILE}[output]\nstdout = \"{target}\"\n");
    sandbox.write("healthy", "");
    let psflip = psflip(&sandbox, ECHO, &config).start().wait_ready();
    let old = psflip.active();
    fs::remove_file(sandbox.path("healthy")).unwrap();
    psflip.request_flip();
    let new = wait_coming(&sandbox, old);
    wait_until(Deadline::default(), "the new child to write", || {
        (sandbox.read("shared.log").matches("started").count() == 2).then_some(())
    });
    // The old psflip answers for the logger until then.
    let before = output_processes(&sandbox);
    before[0].signal(Signal::SIGKILL).unwrap();
    wait_until(Deadline::default(), "another output process", || {
        let now = output_processes(&sandbox);
        (now.len() == 1 && now != before && now[0].parent() == Some(old)).then_some(())
    });
    old.signal(Signal::SIGKILL).unwrap();
    sandbox.write("healthy", "");
    psflip.wait_successor(old);
    assert_eq!(psflip.active(), new);
    say(&sandbox, 2, "alone");
    wait_line(&sandbox, "shared.log", "out alone");
    assert_eq!(named(&sandbox, "cat").len(), 1);
    end(&sandbox, &psflip, 2);
}

#[test]
fn two_generations_append_to_one_file_without_torn_lines() {
    // Contract: N4, N6
    let sandbox = Sandbox::new();
    let line = format!("{{}} {}", "x".repeat(1000));
    let child = format!("while :; do echo \"{}\"; done", line.replace("{}", "g$PSFLIP_GENERATION"));
    let config = "[healthcheck.command]\ninterval = \"10ms\"\n\
        cmd = [\"sh\", \"-c\", \"[ $(grep -c ^g$PSFLIP_GENERATION all.log) -gt 300 ]\"]\n\
        [output]\nstdout = \"append:all.log\"\nmode = \"0640\"\n";
    let psflip = psflip(&sandbox, &["/bin/sh", "-c", &child], config).start().wait_ready();
    psflip.flip();
    stop(&psflip);
    let text = sandbox.read("all.log");
    let wanted = [line.replace("{}", "g1"), line.replace("{}", "g2")];
    let lines: Vec<&str> = text.lines().collect();
    // A child that is killed within a write may leave half a line.
    let torn = lines.iter().filter(|line| !wanted.iter().any(|wanted| wanted == *line));
    assert!(torn.clone().count() == 0, "{:?}", torn.collect::<Vec<_>>());
    let changes = lines.windows(2).filter(|pair| pair[0] != pair[1]).count();
    assert!(changes > 1, "they wrote at the same time");
    let mode = fs::metadata(sandbox.path("all.log")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    sandbox.assert_no_process_left();
}

#[test]
fn output_that_leads_nowhere_fails_the_generation_before_its_child_starts() {
    // Contract: N5, U8
    let sandbox = Sandbox::new();
    let start = |target: &str| {
        let flags = ["run", "--stderr", target, "--", "/bin/sleep", "1000"];
        client(&sandbox, &flags)
    };
    let (code, _, log) = start("append:no/such.log");
    assert_eq!(code, Some(125), "{log}");
    assert!(log.contains("`output.stderr`: can't open `no/such.log`: No such file or directory"), "{log}");
    let (code, _, log) = start("pipe:no-such-logger -x");
    assert_eq!(code, Some(125), "{log}");
    assert!(log.contains("`output.stderr`: can't execute `no-such-logger`: not found in PATH"), "{log}");
    let (code, _, log) = start("append:/dev/null");
    assert!(code == Some(125) && log.contains("it is not a regular file"), "{log}");

    let psflip = psflip(&sandbox, &["/bin/sleep", "1000"], AT_ONCE).start().wait_ready();
    let before = (psflip.active(), psflip.child());
    let sleeps = format!("{AT_ONCE}[output]\nstdout = \"append:no/such.log\"\n[upgrade]\noverlap = false\n");
    configure(&sandbox, &["/bin/sleep", "1000"], &sleeps);
    let (code, _, said) = client(&sandbox, &["upgrade", "-c", "psflip.toml"]);
    assert!(code == Some(1) && said.contains("can't open `no/such.log`"), "{said}");
    assert_eq!((psflip.active(), psflip.child()), before);

    // Without `[output]`, the reason of a failure has the child's last lines only if psflip's own standard
    // error is a file.
    let fails = format!("{AT_ONCE}[output]\nstderr = \"append:err.log\"\n").replace("0s", "1h");
    configure(&sandbox, &["/bin/sh", "-c", "echo no database >&2; exit 3"], &fails);
    let (code, _, said) = client(&sandbox, &["upgrade", "-c", "psflip.toml"]);
    assert!(code == Some(1), "{said}");
    assert_eq!(sandbox.read("err.log"), "no database\n");
    stop(&psflip);
}

#[test]
fn a_full_disk_costs_output_and_not_the_service() {
    // Contract: N5
    let sandbox = Sandbox::new();
    pipes(&sandbox);
    let config = format!("{AT_ONCE}[output]\nstdout = \"append:out.log\"\n");
    // A limit of a file's size has the same effect on each file.
    let builder = psflip(&sandbox, ECHO, &config).wrapper(["prlimit", "--fsize=1000"]);
    let psflip = builder.start().wait_ready();
    let child = psflip.child();
    let long = "x".repeat(300);
    for _ in 0..5 {
        say(&sandbox, 1, &long);
    }
    psflip.wait_for_line(Stream::Stderr, "can't write the child's output, which is lost until");
    fs::rename(sandbox.path("out.log"), sandbox.path("out.log.1")).unwrap();
    let (code, stdout, stderr) = client(&sandbox, &["reopen", "-c", "psflip.toml"]);
    assert_eq!((code, stdout.as_str()), (Some(0), "`out.log` is open again (generation 1)\n"), "{stderr}");
    say(&sandbox, 1, "again");
    wait_line(&sandbox, "out.log", "out again");
    psflip.wait_for_line(Stream::Stderr, "the child's output is written again");
    assert_eq!(psflip.child(), child);
    assert_eq!(sandbox.read("out.log.1").len(), 1000);
    end(&sandbox, &psflip, 1);
}

#[test]
fn psflips_own_log_goes_to_a_file_that_may_be_renamed() {
    // Contract: N7, N9
    let sandbox = Sandbox::new();
    let config = format!("{AT_ONCE}[log]\nfile = \"psflip.log\"\n");
    let psflip = psflip(&sandbox, &["/bin/sleep", "1000"], &config).start().wait_ready();
    let has = |file: &str, part: &str| {
        wait_until(Deadline::default(), format!("{part:?} in {file}"), || {
            fs::read_to_string(sandbox.path(file)).unwrap_or_default().contains(part).then_some(())
        });
    };
    has("psflip.log", "generation=1");
    fs::rename(sandbox.path("psflip.log"), sandbox.path("psflip.log.1")).unwrap();
    psflip.flip();
    has("psflip.log", "upgrade started");
    has("psflip.log", "the old generation is gone");
    assert_eq!(psflip.log(), "", "standard error has nothing of it");
    // A line that can't be written there goes to standard error.
    fs::remove_file(sandbox.path("psflip.log")).unwrap();
    fs::create_dir(sandbox.path("psflip.log")).unwrap();
    stop(&psflip);
    assert!(psflip.log().contains("stop") || psflip.log().contains("SIGTERM"), "{}", psflip.log());
    let (code, _, log) = client(&sandbox, &["run", "--log-file", "psflip.log", "--", "/bin/sleep", "1"]);
    assert!(code == Some(125) && log.contains("`log.file`: can't open `psflip.log`"), "{code:?} {log}");
    std::os::unix::fs::symlink("elsewhere", sandbox.path("link")).unwrap();
    let (code, _, log) = client(&sandbox, &["run", "--log-file", "link", "--", "/bin/sleep", "1"]);
    assert!(code == Some(125) && log.contains("`link`: it is a symbolic link"), "{code:?} {log}");
    assert!(!sandbox.path("elsewhere").exists());
}

#[test]
fn check_shows_where_the_output_goes_and_what_would_fail() {
    // Contract: N5, X1
    let sandbox = Sandbox::new();
    let flags = [
        "check",
        "--stdout",
        "append:no/a.log",
        "--stderr",
        "pipe:no-such-logger x",
        "--output-mode",
        "0640",
    ];
    let (code, plan, warnings) = client(&sandbox, &[&flags[..], &["--log-file", ".", "--", "true"]].concat());
    assert_eq!(code, Some(0), "{warnings}");
    let shown =
        "[output]\nstdout = \"append:no/a.log\"\nstderr = \"pipe:no-such-logger x\"\nmode = \"0640\"\n";
    assert!(plan.contains(shown) && plan.contains("\nfile = \".\"\n"), "{plan}");
    assert!(
        warnings.contains("`no` is not a directory (yet): `no/a.log` could not be made there"),
        "{warnings}"
    );
    assert!(warnings.contains("`no-such-logger` is not found in the child's `PATH`: psflip could not start"));
    assert!(warnings.contains("`.` is not a regular file"), "{warnings}");
    let (code, _, error) = client(&sandbox, &["check", "--output-mode", "0640", "--", "true"]);
    assert!(
        code == Some(78) && error.contains("`output.mode` has no effect without `append:FILE`"),
        "{error}"
    );
    let pidfile = ["check", "--pidfile", "a.log", "--stdout", "append:./a.log", "--", "true"];
    let (code, _, error) = client(&sandbox, &pidfile);
    assert!(code == Some(78) && error.contains("is also the pidfile"), "{error}");
}
