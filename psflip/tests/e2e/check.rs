//! `psflip check`: warnings about valid configurations that are probably mistakes.

use std::os::unix::fs::PermissionsExt;

use testkit::{Sandbox, psflip_bin};

use crate::examples;

/// Checks a configuration. Returns the exit code and the warnings.
#[track_caller]
fn check(sandbox: &Sandbox, text: &str, more: &[&str]) -> (i32, String) {
    sandbox.write("app.toml", text);
    let program = sandbox.command([psflip_bin()]).args(["check", "-c", "app.toml"]).args(more).start();
    let code = program.wait_exit().code().unwrap_or_else(|| panic!("{}", sandbox.report()));
    assert!(
        code == 78 || program.stdout().contains("[upgrade]"),
        "the plan is printed:\n{}",
        sandbox.report()
    );
    (code, program.stderr())
}

/// Valid configurations with one probable mistake each: its position, and words of the warning.
const DOUBTFUL: &[(&str, &str, &[&str])] = &[
    (
        "cmd = [\"true\"]\n[healthcheck.notify]\n[upgrade]\noverlap = false",
        "4:11",
        &["clients are refused", "`[[proxy]]` or `[[listen]]`"],
    ),
    (
        "cmd = [\"true\"]\n[upgrade]\noverlap = false\n[shutdown]\norphans = \"leave\"\n[healthcheck.unix]\npath = \"y\"\n[[proxy]]\nlisten = \"unix://x\"\nforward = \"unix://y\"",
        "5:11",
        &["keep running beside the new one"],
    ),
    (
        "cmd = [\"true\"]\n[upgrade]\nbake = \"2m\"\n[healthcheck.notify]\n[[listen]]\naddress = \"unix://x\"",
        "3:8",
        &["only a new child that exits, or reports `STOPPING=1` or `ERRNO=`", "`psflip rollback`"],
    ),
    (
        "cmd = [\"true\", \"{{ blue_green() }}\"]\n[upgrade]\nbake = \"2m\"\n[healthcheck.unix]\npath = \"{{ blue_green() }}\"\n[[proxy]]\nlisten = \"unix://x\"\nforward = \"unix://{{ blue_green() }}\"",
        "3:8",
        &["only a new child that exits, or accepts no connection"],
    ),
    (
        "cmd = [\"true\", \"{{ blue_green() }}\"]\n[upgrade]\nbake = \"2s\"\n[healthcheck.http]\nurl = \"/\"\ninterval = \"1s\"\n[[proxy]]\nlisten = \"unix://x\"\nforward = \"unix://{{ blue_green() }}\"",
        "3:8",
        &["the bake (2s) is over before 3 probes could fail, one every 1s"],
    ),
    (
        "cmd = [\"true\"]\n[recycle]\nafter = \"1m9s\"",
        "3:9",
        &["replaced after 1m9s, and an upgrade may take 1m10s"],
    ),
    (
        "cmd = [\"true\"]\n[recycle]\nafter = \"1d\"\ninterval = \"1s\"",
        "4:12",
        &["looks at the memory only with `recycle.memory`"],
    ),
    ("cmd = [\"true\"]\n[recycle]\njitter = \"1%\"", "3:10", &["no time and no limit"]),
    (
        "cmd = [\"true\"]\n[control]\nsocket = \"open/x.sock\"",
        "3:10",
        &["everybody may write to `open`", "in psflip's place"],
    ),
    ("cmd = [\"true\"]\n[control]\nsocket = \"no/x.sock\"", "3:10", &["`no` is not a directory (yet)"]),
    (
        "cmd = [\"true\"]\n[[listen]]\naddress = \"unix://x\"",
        "2:1",
        &["it has a listener", "[healthcheck.notify]"],
    ),
    (
        "cmd = [\"true\"]\n[[proxy]]\nlisten = \"unix://x\"\nforward = \"unix://{{ blue_green() }}\"\n[env]\nADDR = \"{{ blue_green() }}\"",
        "2:1",
        &[
            "every start and upgrade waits 5s",
            "a proxy forwards to it",
            "`[healthcheck.http]` with `url = \"/up\"`",
            "`[healthcheck.unix]` with the `path`",
        ],
    ),
    (
        "cmd = [\"true\", \"127.0.0.1:{{ ab('1', '2') }}\"]\n[[proxy]]\nlisten = \"unix://x\"\nforward = \"127.0.0.1:{{ ab('1', '2') }}\"\nprotocol = \"fastcgi\"",
        "2:1",
        &["a proxy forwards to it", "`[healthcheck.fcgi]` with the `address` of `forward`"],
    ),
    (
        "cmd = [\"true\", \"{{ blue_green() }}\", \"2{{ blue_green() }}\"]\n[[proxy]]\nlisten = \"unix://x\"\nforward = \"unix://{{ blue_green() }}\"\n[[proxy]]\nlisten = \"unix://y\"\nforward = \"unix://2{{ blue_green() }}\"",
        "2:1",
        &["add a health check: `[healthcheck.unix]` with the `path` of `forward`"],
    ),
    (
        "cmd = [\"true\"]\n[healthcheck.unix]\npath = \"y\"\n[[proxy]]\nlisten = \"unix://x\"\nforward = \"unix://y\"",
        "6:11",
        &["the proxy for `unix://x` forwards to `unix://y` in every generation", "blue_green()"],
    ),
    (
        "cmd = [\"true\", \"{{ blue_green() }}\"]\n[healthcheck.unix]\npath = \"x\"\n[[proxy]]\nlisten = \"unix://x\"\nforward = \"unix://{{ blue_green() }}\"",
        "2:2",
        &["the health check asks `unix://x`", "`url = \"/up\"`"],
    ),
    (
        "cmd = [\"true\"]\n[healthcheck.notify]\n[[proxy]]\nlisten = \"unix://x\"\nforward = \"unix://{{ blue_green() }}\"",
        "5:11",
        &["contains the address `unix://blue`"],
    ),
    (
        "cmd = [\"true\", \"{{ blue_green() }}\"]\n[healthcheck.notify]\n[[proxy]]\nlisten = \"unix://x\"\nforward = \"unix://{{ blue_green() }}\"\ndrain = \"0s\"",
        "6:9",
        &["requests are broken off"],
    ),
    ("cmd = [\"true\", \"--port=8080\"]", "1:7", &["`--port=8080` looks like an address"]),
    (
        "cmd = [\"true\", \"app.sock\"]\n[healthcheck.alive]\ntimeout = \"1s\"",
        "2:1",
        &["`app.sock` looks like", "waits 1s"],
    ),
    ("cmd = [\"true\"]\n[env]\nHTTP_PORT = \"1\"", "2:1", &["`HTTP_PORT` looks like a port"]),
    (
        "cmd = [\"true\"]\n[healthcheck.http]\nurl = \"http://localhost:1/up\"",
        "3:7",
        &["every generation probes `http://localhost:1/up`", "ab("],
    ),
    ("cmd = [\"true\"]\n[healthcheck.tcp]\naddress = \":1\"", "3:11", &["every generation probes `:1`"]),
    (
        "cmd = [\"true\"]\n[healthcheck.fcgi]\naddress = \":1\"\nscript = \"/ping\"",
        "3:11",
        &["every generation probes"],
    ),
    (
        "cmd = [\"true\"]\n[healthcheck.docker]\ncontainer = \"web\"",
        "3:13",
        &["container `web`", "blue_green()"],
    ),
    (
        "cmd = [\"true\"]\n[healthcheck.alive]\ntimeout = \"1m\"",
        "3:11",
        &["`upgrade.timeout` is 1m", "no upgrade can succeed"],
    ),
    (
        "cmd = [\"true\"]\n[upgrade]\ntimeout = \"5s\"",
        "3:11",
        &["healthy after 5s", "no upgrade can succeed"],
    ),
    (
        "cmd = [\"true\"]\n[healthcheck.unix]\npath = \"x\"\nafter = \"1m\"",
        "4:9",
        &["after 1m at the earliest"],
    ),
    (
        "cmd = [\"true\"]\n[healthcheck.unix]\npath = \"x\"\nsuccesses = 601",
        "4:13",
        &["after 1m at the earliest"],
    ),
    (
        "cmd = [\"true\"]\n[healthcheck.unix]\npath = \"x\"\ntimeout = \"60s\"",
        "4:11",
        &["one probe may take 1m"],
    ),
    (
        "cmd = [\"true\"]\n[hooks]\npromote = [\"true\"]\ntimeout = \"1m\"",
        "4:11",
        &["`hooks.promote` may take 1m"],
    ),
    ("cmd = [\"true\"]\n[hooks]\ntimeout = \"1s\"", "3:11", &["no hook"]),
    ("cmd = [\"true\"]\n[shutdown]\ndelay = \"5m\"", "3:9", &["for 5m after an upgrade both children run"]),
    ("cmd = [\"true\"]\n[shutdown]\nsignal = \"kill\"", "3:10", &["can't handle SIGKILL"]),
    (
        "cmd = [\"true\"]\n[signals]\nSIGINT = \"kill\"",
        "3:10",
        &["SIGINT becomes SIGKILL, which a child can't handle"],
    ),
    (
        "cmd = [\"true\"]\n[signals]\nSIGTERM = \"SIGQUIT\"",
        "3:11",
        &["an old child gets SIGTERM at every upgrade", "set `shutdown.signal = \"SIGQUIT\"` too"],
    ),
    (
        "cmd = [\"true\"]\n[shutdown]\nsignal = \"quit\"",
        "3:10",
        &["an upgrade stops the old child by SIGQUIT, but SIGTERM", "`SIGTERM = \"SIGQUIT\"`"],
    ),
    (
        "cmd = [\"true\"]\n[signals]\nSIGINT = \"SIGQUIT\"\n[shutdown]\nsignal = \"SIGQUIT\"",
        "5:10",
        &["an upgrade stops the old child by SIGQUIT, but SIGTERM"],
    ),
    (
        "cmd = [\"true\"]\npidfile = \"open/x.pid\"",
        "2:11",
        &["everybody may write to `open`", "names another process"],
    ),
    (
        "cmd = [\"true\"]\npidfile = \"sticky/x.pid\"",
        "2:11",
        &["everybody may write to `sticky`", "keeps it from starting"],
    ),
    ("cmd = [\"true\"]\npidfile = \"no/x.pid\"", "2:11", &["`no` is not a directory (yet)", "`no/x.pid`"]),
    ("cmd = [\"true\"]\nworkdir = \"no\"", "2:11", &["`no` is not a directory (yet)"]),
    ("cmd = [\"no-such-program\"]", "1:7", &["`no-such-program` is not found in the child's `PATH`"]),
    ("cmd = [\"true\"]\n[env]\nPATH = \"/nowhere\"", "1:7", &["`true` is not found in"]),
    ("cmd = [\"./no\"]", "1:7", &["`./no` does not exist (yet)"]),
    ("cmd = [\"./no\"]\nworkdir = \"plain\"", "1:7", &["`plain/no` does not exist (yet)"]),
    (
        "cmd = [\"true\", \"--pid=x.pid\"]\npidfile = \"x.pid\"",
        "1:7",
        &["`--pid=x.pid` gives psflip's pidfile to the child"],
    ),
    (
        "cmd = [\"open/server\"]",
        "1:7",
        &["every user can change `", "/open`, and so decides what psflip runs"],
    ),
    ("cmd = [\"true\"]\nworkdir = \"open\"", "2:11", &["every user can change `"]),
    ("cmd = [\"server\"]\n[env]\nPATH = \"open:/bin\"", "1:7", &["every user can change `"]),
    (
        "cmd = [\"server\"]\nworkdir = \"plain\"\n[env]\nPATH = \"../open:.\"",
        "1:7",
        &["every user can change `"],
    ),
    ("cmd = [\"./link\"]", "1:7", &["every user can change `", "/open`"]),
    (
        "cmd = [\"true\"]\n[output]\nstderr = \"append:open/app.log\"",
        "3:10",
        &["every user can change `", "/open`, and so decides which file psflip writes to"],
    ),
    (
        "cmd = [\"true\"]\n[log]\nfile = \"link\"",
        "3:8",
        &["`link` is a symbolic link: psflip could not start"],
    ),
    (
        "cmd = [\"true\"]\n[hooks]\npromoted = [\"plain/loose\"]",
        "3:12",
        &["every user can change `", "/plain/loose`"],
    ),
    ("cmd = [\"./app.toml\"]", "1:7", &["`./app.toml` can't be executed", "chmod +x"]),
    (
        "cmd = [\"true\"]\n[healthcheck.command]\ncmd = [\"./no\"]",
        "3:7",
        &["does not exist (yet): it would fail"],
    ),
    ("cmd = [\"true\"]\n[hooks]\nfailed = [\"./no\"]", "3:10", &["does not exist (yet): it would fail"]),
    (
        "cmd = [\"true\"]\n[healthcheck.notify]\n[[listen]]\naddress = \"@x\"\n[[listen]]\naddress = \"unix://no/x\"",
        "6:11",
        &["`no` is not a directory"],
    ),
    ("cmd = [\"true\"]\n[healthcheck.unix]\npath = \"no/x\"", "3:8", &["`no` is not a directory"]),
    (
        "cmd = [\"true\"]\n[healthcheck.fcgi]\naddress = \"@x\"\nscript = \"/no/ping.php\"",
        "4:10",
        &["`/no/ping.php` is no file (yet)"],
    ),
    (
        "cmd = [\"true\"]\n[switch]\nsymlink = { path = \"no/x\", to = \"y\" }",
        "3:20",
        &["`no` is not a directory"],
    ),
    (
        "cmd = [\"true\"]\nworkdir = \"{{ env('NO') if generation() > 1 else '.' }}\"",
        "",
        &["the next generation could not read it"],
    ),
];

/// Configurations without a warning.
const GOOD: &[&str] = &[
    "cmd = [\"true\", \"--verbose\"]\npidfile = \"x.pid\"\n[hooks]\npromoted = [\"true\"]\ntimeout = \"10m\"",
    "cmd = [\"true\"]\n[healthcheck.http]\nurl = \"http://localhost:{{ ab('1', '2') }}/\"",
    "cmd = [\"true\", \"--listen\", \"x.sock\"]\n[healthcheck.unix]\npath = \"x.sock\"",
    "cmd = [\"true\"]\n[healthcheck.fcgi]\naddress = \"@x\"\nscript = \"/ping\"",
    "cmd = [\"true\"]\n[healthcheck.notify]\n[[listen]]\naddress = \"tcp://127.0.0.1:0\"",
    "cmd = [\"true\"]\n[signals]\nSIGTERM = \"SIGQUIT\"\n[shutdown]\nsignal = \"SIGQUIT\"",
    "cmd = [\"true\"]\n[signals]\nSIGTERM = \"SIGTERM\"\n[shutdown]\nsignal = \"SIGINT\"",
    "cmd = [\"true\"]\n[shutdown]\nsignal = \"TERM\"",
];

#[test]
fn each_questionable_setting_is_reported_with_position_and_advice() {
    let sandbox = Sandbox::new();
    for (name, mode) in [("open", 0o777), ("sticky", 0o1777), ("plain", 0o755)] {
        std::fs::create_dir(sandbox.path(name)).unwrap();
        std::fs::set_permissions(sandbox.path(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    for (name, mode) in [("open/server", 0o755), ("plain/server", 0o755), ("plain/loose", 0o777)] {
        sandbox.write(name, "#!/bin/sh\n");
        std::fs::set_permissions(sandbox.path(name), PermissionsExt::from_mode(mode)).unwrap();
    }
    std::os::unix::fs::symlink("open/server", sandbox.path("link")).unwrap();
    for (text, place, words) in DOUBTFUL {
        let (code, said) = check(&sandbox, text, &[]);
        assert_eq!(code, 0, "{text}\n{said}");
        let place =
            if place.is_empty() { "app.toml: warning: " } else { &format!("app.toml:{place}: warning: ") };
        assert!(said.starts_with(place), "{place} for\n{text}\nis reported as\n{said}");
        assert_eq!(said.matches(": warning: ").count(), 1, "one warning is expected for\n{text}\n{said}");
        assert!(said.contains(" = help: "), "{said}");
        for word in *words {
            assert!(said.contains(word), "`{word}` is missing for\n{text}\nin\n{said}");
        }
        assert_eq!(check(&sandbox, text, &["--strict"]).0, 1, "{text}");
    }
}

#[test]
fn sound_settings_cause_no_warning() {
    let sandbox = Sandbox::new();
    for text in GOOD {
        assert_eq!(check(&sandbox, text, &["--strict"]), (0, String::new()), "{text}");
    }
    assert_eq!(check(&sandbox, "cmd = []", &["--strict"]).0, 78, "an error is no warning");
}

#[test]
fn files_of_other_users_cause_a_warning_and_debians_own_do_not() {
    let sandbox = Sandbox::new();
    let said = |cmd: &str| check(&sandbox, &format!("cmd = [\"{cmd}\"]"), &[]).1;
    assert_eq!(said("/usr/bin/true"), "");
    sandbox.write("server", "#!/bin/sh\n");
    std::fs::set_permissions(sandbox.path("server"), PermissionsExt::from_mode(0o755)).unwrap();
    assert_eq!(said("./server"), "");
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(sandbox.path("server"), Some(65534), None).unwrap();
        let said = said("./server");
        assert!(
            said.contains("app.toml:1:7: warning: the user `nobody` can change `")
                && said.contains("/server`"),
            "{said}"
        );
    }
}

#[test]
fn a_warning_about_a_flag_names_the_flag() {
    let sandbox = Sandbox::new();
    let args = ["check", "--strict", "--pidfile", "no/x.pid", "--", "true"];
    let program = sandbox.command([psflip_bin()]).args(args).start();
    assert_eq!(program.wait_exit().code(), Some(1));
    assert!(
        program.stderr().starts_with("--pidfile no/x.pid: warning: `no` is not a directory"),
        "{}",
        program.stderr()
    );
}

#[test]
fn the_examples_cause_no_warning() {
    let sandbox = Sandbox::new();
    examples::copy_to(&sandbox);
    for name in examples::FILES {
        let program =
            sandbox.command([psflip_bin()]).args(["check", "-c", name]).env("PATH", examples::path()).start();
        assert!(program.wait_exit().success(), "{}", sandbox.report());
        // These two examples show the default, which is no health check.
        let expected = usize::from(["smallest.toml", "health-alive.toml"].contains(name));
        assert_eq!(program.stderr().matches(": warning: ").count(), expected, "{name}: {}", program.stderr());
    }
}

#[test]
fn every_example_of_a_server_says_what_it_gets_at_a_stop() {
    // Contract: S8
    let sandbox = Sandbox::new();
    for entry in std::fs::read_dir(examples::folder().join("servers")).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let program = sandbox.command([psflip_bin()]).arg("check").arg("-c").arg(&path).start();
        program.wait_exit();
        let said = program.stderr();
        assert!(!said.contains("an upgrade stops the old child by"), "{}: {said}", path.display());
    }
}
