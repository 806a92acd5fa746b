//! Configuration errors and first steps on the command line (contract X1 to X3, C6, F1).

use std::process::ExitStatus;

use testkit::{Deadline, Sandbox, Stream, fixture, psflip_bin, wait_until};

/// Runs psflip with these arguments. Returns its exit status, standard output and standard error.
fn run(sandbox: &Sandbox, args: &[&str]) -> (ExitStatus, String, String) {
    let program = sandbox.command([psflip_bin()]).args(args).start();
    let status = program.wait_exit();
    (status, program.stdout(), program.stderr())
}

/// Invalid configurations, each with the position of the first error and words of its message and its help.
const BROKEN: &[(&str, &str, &[&str])] = &[
    ("", "", &["`cmd` is missing", "cmd = [\"./server\""]),
    ("cmd = \"touch started\"", "1:7", &["array of strings", "[\"touch\", \"started\"]"]),
    ("cmd = []", "1:7", &["`cmd`", "empty"]),
    ("cmd = [\"touch\", 1]", "1:17", &["string", "\"1\""]),
    ("cmd = [\"touch\", \"started\"", "1:2", &["array", "]"]),
    ("cmd = [\"touch\", \"started]", "1:", &["not closed"]),
    ("CMD\npidfil = \"x\"", "", &["pidfile"]),
    ("CMD\ncmd = [\"true\"]", "2:1", &["`cmd`", "twice"]),
    ("CMD\n[upgrade]\ntimout = \"5s\"", "3:1", &["unknown key `timout`", "did you mean `timeout`?"]),
    ("CMD\n[upgrad]\ntimeout = \"5s\"", "2:2", &["unknown", "`upgrade`"]),
    (
        "CMD\n[healthcheck.htpp]\nurl = \"http://localhost/\"",
        "2:14",
        &["`htpp`", "did you mean `[healthcheck.http]`?"],
    ),
    ("CMD\n[healthcheck.docker]\ncontainer = \"a/b\"", "3:13", &["`a/b` is no name of a container"]),
    ("CMD\n[[proxy]]\nlisten = \"systemd:web\"", "2:1", &["`forward` is missing", "free_port"]),
    ("CMD\n[upgrade]\ntimeout = 5", "3:11", &["`5` has no unit", "did you mean `\"5s\"`?"]),
    ("CMD\n[upgrade]\ntimeout = \"5\"", "3:11", &["`5` has no unit", "did you mean `5s`?"]),
    ("CMD\n[shutdown]\ntimeout = 0", "3:11", &["`0` has no unit", "zero is written `\"0s\"`"]),
    ("CMD\n[upgrade]\ntimeout = \"0s\"", "3:1", &["zero"]),
    ("CMD\n[upgrade]\ntimeout = \"5 bananas\"", "3:1", &["bananas"]),
    ("CMD\n[upgrade]\nsignal = \"SIGHOP\"", "3:10", &["`SIGHOP`", "did you mean `SIGHUP`?"]),
    ("CMD\n[upgrade]\nsignal = \"KILL\"", "3:10", &["SIGKILL", "SIGUSR2"]),
    ("CMD\n[shutdown]\norphans = \"keep\"", "3:11", &["`keep`", "kill", "leave"]),
    ("CMD\n[env]\nPORT = 80", "3:8", &["string", "\"80\""]),
    ("CMD\n[env]\nPSFLIP_SLOT = \"a\"", "3:1", &["PSFLIP_SLOT"]),
    ("CMD\nquiet = \"yes\"", "2:9", &["`quiet`", "true"]),
    ("CMD\nworkdir = \"\"", "2:11", &["`workdir`", "empty"]),
    ("CMD\n[log]\nlevel = \"chatty\"", "3:9", &["`chatty`", "info"]),
    ("CMD\n[healthcheck.tcp]\naddress = \"localhost\"", "3:11", &["`localhost`", "port"]),
    (
        "CMD\n[healthcheck.tcp]\naddress = \"example.com:80\"",
        "3:11",
        &["`example.com`", "write the IP address"],
    ),
    ("CMD\n[healthcheck.http]\nurl = \"https://localhost/\"", "3:", &["https", "curl"]),
    ("CMD\n[healthcheck.tcp]\naddress = \":80\"\n[healthcheck.alive]", "4:", &["two health checks", "tcp"]),
    ("CMD\nworkdir = \"{{ evn('X') }}\"", "2:1", &["`evn`", "did you mean `env('NAME')`?"]),
    ("CMD\nworkdir = \"{{ env('NO_SUCH_VARIABLE') }}\"", "2:1", &["NO_SUCH_VARIABLE"]),
    ("CMD\nworkdir = \"{{ ab('x') }}\"", "2:1", &["ab('first', 'second')"]),
    ("CMD\nworkdir = \"{{ local('prt') }}\"\n[locals]\nport = \"1\"", "2:1", &["prt", "port"]),
    ("CMD\nworkdir = \"{{ 'x\"", "2:1", &["template"]),
    ("CMD\nworkdir = \"{{ cat('no-such-file') }}\"", "2:1", &["no-such-file"]),
    ("CMD\nworkdir = \"{{ 'x' * 1000000000000 }}\"", "2:1", &["too much work"]),
];

#[test]
fn an_upstream_configuration_is_refused_with_advice_to_migrate() {
    // Contract: X1
    let sandbox = Sandbox::new();
    sandbox.write("app.yml", "cmd: [touch, started]\n");
    for args in [&["-c", "app.yml"][..], &["check", "-c", "app.yml"]] {
        let (status, _, stderr) = run(&sandbox, args);
        assert_eq!(status.code(), Some(78), "{stderr}");
        assert!(stderr.contains("`psflip migrate app.yml -o psflip.toml`"), "{stderr}");
    }
}

#[test]
fn an_invalid_file_is_refused_with_position_and_advice_before_a_start() {
    // Contract: X1, X3, C6
    let sandbox = Sandbox::new();
    for (text, position, words) in BROKEN {
        let text = text.replace("CMD", "cmd = [\"touch\", \"started\"]");
        let text = format!("{text}\n");
        sandbox.write("app.toml", &text);
        for args in [&["-c", "app.toml"][..], &["run", "--config", "app.toml"], &["check", "-c", "app.toml"]]
        {
            let (status, stdout, stderr) = run(&sandbox, args);
            assert_eq!(status.code(), Some(78), "{text}\n{stderr}");
            assert_eq!(stdout, "", "{text}");
            let place = if position.is_empty() { "app.toml:" } else { &format!("app.toml:{position}") };
            assert!(
                stderr.lines().nth(1).unwrap().starts_with(place),
                "{place} for\n{text}\nis reported as\n{stderr}"
            );
            for word in *words {
                assert!(stderr.contains(word), "`{word}` is missing for\n{text}\nin\n{stderr}");
            }
            assert!(stderr.starts_with("psflip: the configuration is invalid"), "{stderr}");
        }
    }
    assert!(!sandbox.path("started").exists());
}

#[test]
fn all_errors_of_a_file_are_reported_at_once() {
    // Contract: X1
    let sandbox = Sandbox::new();
    sandbox.write("app.toml", "cmd = \"x\"\ntimout = 1\n[upgrade]\nsignal = \"HOP\"\ntimeout = 5\n");
    let (status, _, stderr) = run(&sandbox, &["check", "-c", "app.toml"]);
    assert_eq!(status.code(), Some(78));
    for place in ["app.toml:1:7: ", "app.toml:2:1: ", "app.toml:4:10: ", "app.toml:5:11: "] {
        assert!(stderr.contains(place), "{place}\n{stderr}");
    }
    assert!(
        stderr.contains("\n2 | timout = 1\n  | ^^^^^^\n"),
        "the text itself is shown and marked\n{stderr}"
    );
}

#[test]
fn an_invalid_first_configuration_leaves_no_pidfile() {
    // Contract: X1, P1
    let sandbox = Sandbox::new();
    let psflip = sandbox.psflip().cmd(["touch", "started"]).config("quite = true\n").start();
    assert_eq!(psflip.wait_exit().code(), Some(78));
    assert!(psflip.log().contains("did you mean `quiet`?"), "{}", psflip.log());
    assert!(psflip.history().pids().is_empty() && !sandbox.path("started").exists());
    sandbox.assert_no_process_left();
}

#[test]
fn non_files_are_refused_by_name_without_waiting() {
    // Contract: X1, X2
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("folder")).unwrap();
    assert!(sandbox.command(["mkfifo", "fifo"]).start().wait_exit().success());
    assert!(sandbox.command(["truncate", "-s", "3G", "huge"]).start().wait_exit().success());
    sandbox.write("binary", [b'c', 0xff, 0xfe, 0, b'\n']);
    for (name, word) in [
        ("missing", "no such file"),
        ("folder", "directory"),
        ("fifo", "not a regular file"),
        ("huge", "larger than 1048576 bytes"),
        ("binary", "UTF-8"),
        ("/dev/zero", "/dev/zero"),
        ("", ""),
    ] {
        let (status, _, stderr) = run(&sandbox, &["-c", name]);
        let expected = if name.is_empty() { [2, 78] } else { [78, 78] };
        assert!(expected.contains(&status.code().unwrap()), "{name}: {status} {stderr}");
        assert!(stderr.contains(name) && stderr.contains(word), "{name}, {word}: {stderr}");
    }
}

#[test]
fn check_prints_a_valid_configuration_and_starts_nothing() {
    // Contract: X1, X2
    let sandbox = Sandbox::new();
    let text = "cmd = [\"touch\", \"{{ ab('one', 'two') }}\"]\npidfile = \"x.pid\"\n[healthcheck.unix]\npath = \"x.sock\"\n";
    sandbox.write("app.toml", text);
    let (status, effective, stderr) = run(&sandbox, &["check", "-c", "app.toml"]);
    assert!(status.success() && stderr.is_empty(), "{status} {stderr}");
    for line in
        ["cmd = [\"touch\", \"one\"]", "pidfile = \"x.pid\"", "signal = \"SIGHUP\"", "orphans = \"kill\""]
    {
        assert!(effective.lines().any(|printed| printed == line), "{line}\n{effective}");
    }
    sandbox.write("again.toml", &effective);
    let (status, again, stderr) = run(&sandbox, &["check", "-c", "again.toml"]);
    assert!(status.success(), "{stderr}");
    assert_eq!(again.split_once('\n').unwrap().1, effective.split_once('\n').unwrap().1);
    assert!(!sandbox.path("one").exists() && !sandbox.path("x.pid").exists());
}

#[test]
fn without_a_name_psflip_toml_of_this_directory_is_read() {
    // Contract: X1
    let sandbox = Sandbox::new();
    for args in [&[][..], &["run"], &["check"]] {
        let (status, _, stderr) = run(&sandbox, args);
        assert_eq!(status.code(), Some(78), "{stderr}");
        assert!(stderr.starts_with("psflip: there is no `psflip.toml` in this directory"), "{stderr}");
        assert!(stderr.contains("`-c FILE`") && stderr.contains("--help"), "{stderr}");
    }
    sandbox
        .write("psflip.toml", "cmd = [\"sh\", \"-c\", \"exit 9\"]\n[healthcheck.alive]\ntimeout = \"0s\"\n");
    assert_eq!(run(&sandbox, &[]).0.code(), Some(9));
    assert_eq!(run(&sandbox, &["run"]).0.code(), Some(9));
    assert!(run(&sandbox, &["check"]).0.success());
}

#[test]
fn help_and_version_are_readable() {
    // Contract: C6
    let sandbox = Sandbox::new();
    let (status, version, stderr) = run(&sandbox, &["--version"]);
    assert!(status.success() && stderr.is_empty());
    assert_eq!(version, format!("psflip {}\n", env!("CARGO_PKG_VERSION")));
    for args in [&["--help"][..], &["-h"], &["help"]] {
        let (status, help, stderr) = run(&sandbox, args);
        assert!(status.success() && stderr.is_empty(), "{args:?} {stderr}");
        for part in ["psflip.toml", "kill -HUP", "cmd     = [", "78", "124", "125", "126", "127", "check"] {
            assert!(help.contains(part), "{part}\n{help}");
        }
        assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    }
    assert!(run(&sandbox, &["check", "--help"]).1.contains("start nothing"));
}

#[test]
fn wrong_usage_exits_with_2_and_a_hint_and_starts_nothing() {
    // Contract: C6, X1
    let sandbox = Sandbox::new();
    sandbox.write("psflip.toml", "cmd = [\"touch\", \"started\"]\n");
    for (args, hint) in [
        (&["chek"][..], "'check'"),
        (&["--confg", "x"], "'--config'"),
        (&["psflip.toml"], "`-c psflip.toml`"),
        (&["check", "psflip.toml"], "`-c psflip.toml`"),
        (&["./server", "--port", "80"], "`psflip run -- ./server ...`"),
        (&["-c", "psflip.toml", "check"], "`psflip check -c app.toml`"),
        (&["-c"], "--config <FILE>"),
        (&["-x"], "--help"),
    ] {
        let (status, stdout, stderr) = run(&sandbox, args);
        assert_eq!(status.code(), Some(2), "{args:?}\n{stderr}");
        assert!(stdout.is_empty() && stderr.contains(hint), "{args:?}: `{hint}` is not in\n{stderr}");
    }
    assert!(!sandbox.path("started").exists());
}

#[test]
fn an_invalid_configuration_at_an_upgrade_changes_nothing() {
    // Contract: F1, U8, X1
    let sandbox = Sandbox::new();
    let config = "[healthcheck.alive]\ntimeout = \"0s\"\n";
    let psflip = sandbox.psflip().cmd([fixture("signal-logger")]).config(config).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "ready");
    let (active, child, good) = (psflip.active(), psflip.child(), sandbox.read("psflip.toml"));
    let broken = [format!("{good}timout = \"1s\"\n"), "cmd = [".to_owned(), String::new()];
    for (number, text) in broken.iter().enumerate() {
        sandbox.write("psflip.toml", text);
        psflip.request_flip();
        let failed = psflip.output().wait_count(number + 1, Stream::Stderr, "upgrade failed");
        let line = &failed[number].text;
        assert!(line.contains("the old child keeps running") && line.contains("exit code 78"), "{line}");
        assert!(line.contains("psflip.toml:"), "the line has the position: {line}");
        assert_eq!((psflip.active(), psflip.child()), (active, child), "{}", sandbox.report());
    }
    std::fs::remove_file(sandbox.path("psflip.toml")).unwrap();
    psflip.request_flip();
    psflip.output().wait_count(broken.len() + 1, Stream::Stderr, "upgrade failed");
    assert_eq!(psflip.program().stdout().lines().count(), 1, "the child got no signal\n{}", sandbox.report());
    wait_until(Deadline::default(), "only the old generation", || {
        (sandbox.processes().len() == 3).then_some(())
    });
    sandbox.write("psflip.toml", good);
    psflip.flip();
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    assert!(psflip.stop().success());
}
