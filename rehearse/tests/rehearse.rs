//! Whole rehearsals: real services, real upgrades, real losses.

mod common;

use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use serde_json::Value;
use testkit::{Deadline, Sandbox, Stream, fixture, need, need_root, psflip_bin, wait_until};

use common::{LOAD, address, careful, interrupt, rehearse, start, with};

/// The same, but psflip kills it without mercy.
fn careless(sandbox: &Sandbox) {
    careful(sandbox);
    let config = sandbox.read("app.toml");
    sandbox.write("app.toml", format!("{config}[shutdown]\nsignal = 'SIGKILL'\n"));
}

#[test]
fn a_careful_server_loses_nothing_and_bad_versions_are_refused() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    let done = rehearse(
        &sandbox,
        &with(&["--flips", "2", "--bad", "crash,missing,broken", "--out", "report", "--json"]),
    );
    done.assert_code(0);
    let report = done.report();
    assert_eq!((&report["lost"], &report["failures"]), (&0.into(), &Value::Array(Vec::new())), "{report:#}");
    assert!(report["requests"].as_u64() > Some(100), "{report:#}");
    let upgrades: Vec<_> = report["upgrades"]
        .as_array()
        .unwrap()
        .iter()
        .map(|upgrade| (upgrade["version"].clone(), upgrade["bad"].clone(), upgrade["result"].clone()))
        .collect();
    let same = ("same".into(), Value::Null, "promoted".into());
    let bad = |name: &str| ("bad".into(), name.into(), "failed".into());
    assert_eq!(upgrades, [same.clone(), bad("crash"), same, bad("missing"), bad("broken")]);
    // One clock: the steps are in their order, and requests completed during each of them.
    let steps = report["upgrades"][0]["steps"].as_array().unwrap();
    let names: Vec<&str> = steps.iter().map(|step| step["step"].as_str().unwrap()).collect();
    let positions: Vec<_> = ["requested", "child", "healthy", "promoted", "gone"]
        .iter()
        .map(|name| names.iter().position(|step| step == name))
        .collect();
    assert!(positions.is_sorted() && positions.iter().all(Option::is_some), "{names:?}");
    assert!(report["upgrades"][0]["requests"].as_u64() > Some(0), "{report:#}");
    assert!(report["upgrades"][0]["psflip"]["descriptors"].as_u64() > Some(3), "{report:#}");
    sandbox.assert_no_process_left();
    // What the service wrote is gone with the sandbox; the report is there.
    assert!(!sandbox.path("app.pid").exists() && !sandbox.path("probe-1.sock").exists());
    assert_eq!(sandbox.read("report/report.json"), done.stdout.trim_end());
    assert!(
        sandbox.read("report/log.txt").contains("service ready pid="),
        "{}",
        sandbox.read("report/log.txt")
    );
    assert!(sandbox.read("report/report.html").contains("<html"));
    assert_valid(&sandbox, "report/report.json");
    // quick-junit reads what a CI system would.
    let junit = quick_junit::Report::deserialize_from_str(&sandbox.read("report/junit.xml")).unwrap();
    assert_eq!((junit.tests, junit.failures), (6, 0), "{junit:#?}");
}

#[test]
fn what_a_careless_server_loses_is_explained() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    careless(&sandbox);
    let slow = "new+keep-alive=http://127.0.0.1/slow?ms=20";
    let done = rehearse(
        &sandbox,
        &["--load", slow, "--flips", "3", "--pause", "100ms", "--out", "report", "--json"],
    );
    done.assert_code(1);
    let report = done.report();
    assert!(report["lost"].as_u64() > Some(0), "{report:#}");
    let losses = report["losses"].as_array().unwrap();
    for lost in losses {
        assert!(lost["upgrade"].is_u64() && lost["after"].is_string(), "{lost:#}");
        assert!(["first-byte", "send", "connect"].contains(&lost["stage"].as_str().unwrap()), "{lost:#}");
    }
    assert_valid(&sandbox, "report/report.json");
    let findings: Vec<_> =
        report["findings"].as_array().unwrap().iter().map(|one| one["why"].as_str().unwrap()).collect();
    assert!(findings.iter().any(|why| why.contains("that it had accepted")), "{findings:?}");
    let junit = quick_junit::Report::deserialize_from_str(&sandbox.read("report/junit.xml")).unwrap();
    assert!(junit.failures > 0, "{junit:#?}");
    // The same losses are allowed if so many may be lost.
    let done = rehearse(&sandbox, &["--load", slow, "--flips", "1", "--pause", "100ms", "--max-lost", "100"]);
    done.assert_code(0);
    assert!(done.stdout.starts_with("passed: "), "{}", done.stdout);
}

/// A real validator takes the report as its schema describes it.
#[track_caller]
fn assert_valid(sandbox: &Sandbox, report: &str) {
    if need("/usr/lib/python3/dist-packages/jsonschema/__init__.py").is_none() {
        return;
    }
    let schema = concat!(env!("CARGO_MANIFEST_DIR"), "/../dist/psflip-rehearse.schema.json");
    let script = "import json, jsonschema, sys
schema, report = (json.load(open(path)) for path in sys.argv[1:])
jsonschema.Draft202012Validator.check_schema(schema)
jsonschema.validate(report, schema, cls=jsonschema.Draft202012Validator)";
    let running = sandbox.command(["/usr/bin/python3", "-c", script, schema, report]).start();
    assert!(running.wait_exit().success(), "{}", running.stderr());
}

#[test]
fn a_proxy_makes_the_careless_server_lose_nothing() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let server = fixture("http-server");
    let config = format!(
        "cmd = ['{}', '--tcp', '127.0.0.1:{{{{ local(\"port\") }}}}']
locals.port = \"{{{{ free_port('20000-29999') }}}}\"
[[proxy]]
listen = 'tcp://{}'
protocol = 'http'
forward = \"127.0.0.1:{{{{ local('port') }}}}\"
[healthcheck.tcp]
address = \"127.0.0.1:{{{{ local('port') }}}}\"
[shutdown]
signal = 'SIGKILL'
",
        server.display(),
        address()
    );
    sandbox.write("app.toml", config);
    // The load is the proxy's address, and every kind of request.
    let done = rehearse(
        &sandbox,
        &["--kinds", "new,keep-alive,post,post-half", "--flips", "3", "--pause", "100ms", "--json"],
    );
    done.assert_code(0);
    let loads = done.report()["loads"]
        .as_array()
        .unwrap()
        .iter()
        .map(|load| load["kind"].as_str().unwrap().to_owned())
        .collect::<Vec<_>>();
    assert_eq!(loads, ["new", "keep-alive", "post", "post-half"]);
}

#[test]
fn a_bad_version_that_is_accepted_fails_the_rehearsal() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    // A check that only looks whether the child runs.
    careful(&sandbox);
    let config = sandbox.read("app.toml");
    let check = config.split_once("[healthcheck.unix]").unwrap().0.to_owned()
        + "[healthcheck.alive]\ntimeout = '10ms'\n";
    sandbox.write("app.toml", check);
    let args = ["--flips", "0", "--bad", "hang", "--timeout", "1s"];
    let done = rehearse(&sandbox, &with(&args));
    done.assert_code(1);
    assert!(done.stdout.contains("the bad version `hang` was accepted"), "{}", done.stdout);
    assert!(done.stdout.contains("no byte moved"), "{}", done.stdout);
}

#[test]
fn two_rehearsals_and_the_service_itself_run_side_by_side() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    // The service itself has the pidfile, but another address: tests share this host.
    let config = sandbox.read("app.toml");
    sandbox.write("real.toml", config.replace(&format!("tcp://{}", address()), "unix://real.sock"));
    let real = sandbox.command([psflip_bin().to_str().unwrap(), "-c", "real.toml"]).start();
    let pid = wait_until(Deadline::default(), "the pidfile of the service itself", || {
        std::fs::read_to_string(sandbox.path("app.pid")).ok()
    });
    let both: Vec<_> = (0..2).map(|_| start(&sandbox, &with(&["--flips", "2"]))).collect();
    for rehearsal in both {
        assert_eq!(rehearsal.wait_exit().code(), Some(0), "{}{}", rehearsal.stdout(), rehearsal.stderr());
    }
    assert_eq!(sandbox.read("app.pid"), pid, "no rehearsal has touched it");
    real.signal(testkit::Signal::SIGTERM);
    real.wait_exit();
    sandbox.assert_no_process_left();
}

#[test]
fn the_real_service_is_never_upgraded_not_even_where_mounts_are_beside_its_files() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    // As /run of a systemd host, which has /run/user and /run/lock.
    let script = "mkdir sub && mount -t tmpfs none sub || exit 9
        \"$1\" -c app.toml & real=$!
        until [ -s app.pid ] && \"$1\" status --socket app.pid.sock >/dev/null 2>&1; do :; done
        \"$2\" --psflip \"$1\" -c app.toml --load http://127.0.0.1/ --pause 100ms --flips 2 --bad broken; code=$?
        \"$1\" status --json --socket app.pid.sock > status.json
        kill $real; wait $real; exit $code";
    let config = sandbox.read("app.toml").replace(&format!("tcp://{}", address()), "unix://app.sock");
    sandbox.write("app.toml", config);
    let load = format!("http+unix://{}:/", sandbox.path("app.sock").display());
    let script = script.replace("http://127.0.0.1/", &load);
    let psflip = psflip_bin();
    let programs = [psflip.to_str().unwrap(), env!("CARGO_BIN_EXE_psflip-rehearse")];
    let shell = ["unshare", "--mount", "sh", "-c", &script, "sh"];
    let running = sandbox.command(shell.iter().chain(&programs)).start();
    assert_eq!(running.wait_exit().code(), Some(0), "{}{}", running.stdout(), running.stderr());
    let status: Value = serde_json::from_str(&sandbox.read("status.json")).unwrap();
    assert_eq!(status["history"].as_array().unwrap().len(), 1, "only its first start: {status:#}");
    sandbox.assert_no_process_left();
}

#[test]
fn without_a_sandbox_a_running_service_is_left_alone() {
    let sandbox = Sandbox::new();
    careful(&sandbox);
    let config = sandbox.read("app.toml").replace(&format!("tcp://{}", address()), "unix://app.sock");
    sandbox.write("app.toml", config);
    let psflip = psflip_bin();
    let real = sandbox.command([psflip.to_str().unwrap(), "-c", "app.toml"]).start();
    let pid = wait_until(Deadline::default(), "the pidfile of the service itself", || {
        std::fs::read_to_string(sandbox.path("app.pid")).ok()
    });
    let load = format!("http+unix://{}:/", sandbox.path("app.sock").display());
    let done = rehearse(&sandbox, &["--no-sandbox", "--load", &load, "--flips", "1"]);
    done.assert_code(125);
    assert!(done.stderr.contains("the service did not start"), "{}", done.stderr);
    assert_eq!(sandbox.read("app.pid"), pid);
    real.signal(testkit::Signal::SIGTERM);
    real.wait_exit();
    sandbox.assert_no_process_left();
}

/// Nothing of the rehearsal itself reaches the service, and the service reaches no device or kernel setting of
/// the host.
#[test]
fn the_sandbox_keeps_the_service_from_the_host() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    let look = "ls -l /proc/self/fd; hostname rehearsed; touch /dev/rehearsed /etc/rehearsed /run/rehearsed;
        [ -w /proc/sys/vm/swappiness ] && echo x > /proc/sys/vm/swappiness && echo WRITABLE;
        touch /sys/fs/cgroup/rehearsed 2>/dev/null && echo WRITABLE; test -c /dev/null && test -w /dev/shm && echo fine; exec sleep 1000";
    let before = hostname();
    let done = rehearse(&sandbox, &with(&["--flips", "1", "--beside", look, "--out", "report"]));
    done.assert_code(0);
    let log = sandbox.read("report/log.txt");
    let beside: Vec<&str> = log.lines().filter(|line| line.contains(" beside ")).collect();
    let is_leak = |line: &&&str| line.contains("log.txt") || line.contains("(deleted)");
    assert_eq!(beside.iter().find(is_leak), None, "{beside:#?}");
    assert!(beside.iter().any(|line| line.contains(" 1 -> pipe")), "{beside:#?}");
    assert!(beside.iter().any(|line| line.ends_with("fine")), "{beside:#?}");
    assert!(!beside.iter().any(|line| line.ends_with("WRITABLE")), "{beside:#?}");
    for file in ["/dev/rehearsed", "/etc/rehearsed", "/run/rehearsed", "/sys/fs/cgroup/rehearsed"] {
        assert!(!Path::new(file).exists(), "{file}");
    }
    assert_eq!(hostname(), before);
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap()
}

#[test]
fn a_killed_rehearsal_leaves_nothing() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    let running = start(&sandbox, &with(&["--flips", "100000"]));
    running.output().wait(Stream::Stderr, "2/100000");
    running.signal(testkit::Signal::SIGKILL);
    running.wait_exit();
    sandbox.assert_no_process_left();
    assert!(!sandbox.path("app.pid").exists());
}

#[test]
fn a_user_without_privileges_gets_a_sandbox_too() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    let nobody = Some(65534);
    std::os::unix::fs::chown(sandbox.dir(), nobody, nobody).unwrap();
    std::os::unix::fs::chown(sandbox.path("app.toml"), nobody, nobody).unwrap();
    let psflip = psflip_bin();
    let program = env!("CARGO_BIN_EXE_psflip-rehearse");
    let user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", program, "--psflip"];
    let args = [psflip.to_str().unwrap(), "-c", "app.toml", "--flips=2", "--bad=crash"];
    let running = sandbox.command(user.iter().chain(&args).chain(LOAD)).start();
    let (code, stderr) = (running.wait_exit().code(), running.stderr());
    // The kernel's configuration decides; then the user hears what to do.
    if code == Some(77) {
        assert!(
            stderr.contains("no sandbox is possible here") && stderr.contains("--no-sandbox"),
            "{stderr}"
        );
        return;
    }
    assert_eq!(code, Some(0), "{}{stderr}", running.stdout());
    assert!(!sandbox.path("app.pid").exists());
    sandbox.assert_no_process_left();
}

#[test]
fn control_c_ends_a_rehearsal_with_its_report() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    let running = start(&sandbox, &with(&["--flips", "100000", "--out", "report"]));
    running.output().wait(Stream::Stderr, "2/100000");
    interrupt(&sandbox, &running);
    assert_eq!(running.wait_exit().code(), Some(1), "{}{}", running.stdout(), running.stderr());
    let summary = running.stdout();
    assert!(summary.contains("interrupted by Ctrl-C after "), "{summary}");
    assert!(summary.starts_with("FAILED: 0 of "), "{summary}");
    assert!(sandbox.read("report/report.json").contains("interrupted by Ctrl-C"));
    sandbox.assert_no_process_left();
}

#[test]
fn without_a_sandbox_bad_versions_never_touch_the_configuration() {
    let sandbox = Sandbox::new();
    careful(&sandbox);
    // Tests share this host.
    let config = sandbox.read("app.toml").replace(&format!("tcp://{}", address()), "unix://app.sock");
    let path = sandbox.write("app.toml", &config);
    let before = std::fs::metadata(&path).unwrap();
    let load = format!("http+unix://{}:/", sandbox.path("app.sock").display());
    let args = ["--no-sandbox", "--load", &load, "--pause=100ms", "--flips", "1", "--bad", "crash,broken"];
    let done = rehearse(&sandbox, &args);
    done.assert_code(0);
    let after = std::fs::metadata(&path).unwrap();
    let identity = |file: &std::fs::Metadata| (file.ino(), file.modified().unwrap());
    assert_eq!(identity(&before), identity(&after));
    let files: Vec<_> =
        std::fs::read_dir(sandbox.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!files.iter().any(|name| name.to_string_lossy().contains("rehearse")), "{files:?}");
    sandbox.assert_no_process_left();
}

#[test]
fn another_configuration_is_the_other_side_of_each_upgrade() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    sandbox.write("next.toml", sandbox.read("app.toml") + "[env]\nFIXTURE_NAME = 'next'\n");
    let done = rehearse(&sandbox, &with(&["--flips", "3", "--next", "next.toml", "--out", "report"]));
    done.assert_code(0);
    let log = sandbox.read("report/log.txt");
    let names: Vec<_> = log
        .lines()
        .filter(|line| line.contains(" ready pid="))
        .map(|line| line.rsplit_once("name=").unwrap().1)
        .collect();
    assert_eq!(names, ["gen1", "next", "gen3", "next"], "{log}");
}

#[test]
fn any_other_tool_can_be_rehearsed() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    let psflip = psflip_bin();
    let service = format!("exec {} -c app.toml", psflip.display());
    let during = format!("exec {} upgrade -c app.toml", psflip.display());
    let args = ["--service", &service, "--during", &during, "--flips", "2", "--json"];
    let done = rehearse(&sandbox, &with(&args));
    done.assert_code(0);
    let report = done.report();
    assert_eq!(
        (&report["subject"], report["upgrades"].as_array().unwrap().len()),
        (&during.as_str().into(), 2)
    );
    // A command that fails is a failed upgrade.
    let done = rehearse(&sandbox, &with(&["--service", &service, "--during", "exit 3", "--flips", "1"]));
    done.assert_code(1);
    assert!(done.stdout.contains("the command exited with code 3"), "{}", done.stdout);
}

#[test]
fn an_address_outside_can_be_reached_if_it_is_passed() {
    if !(need_root() && need("curl").is_some()) {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    let outside = sandbox
        .command([fixture("http-server").to_str().unwrap(), "--tcp", "127.0.0.1:0", "--name", "outside"])
        .start();
    let line = outside.output().wait(Stream::Stdout, "listening 127.0.0.1:").text;
    let address = line.rsplit_once(' ').unwrap().1;
    let ask = format!("curl -s http://{address}/ > answer; cat answer >&2; exec sleep 1000");
    let args = ["--flips", "1", "--beside", &ask, "--out", "report"];
    rehearse(&sandbox, &with(&args)).assert_code(0);
    assert!(!sandbox.read("report/log.txt").contains("name=outside"), "it was reached without --pass");
    let args = [&args[..], &["--pass", address]].concat();
    rehearse(&sandbox, &with(&args)).assert_code(0);
    assert!(sandbox.read("report/log.txt").contains("name=outside"), "{}", sandbox.read("report/log.txt"));
}

#[test]
fn errors_say_what_to_do() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    let fails = |args: &[&str], code: i32, text: &str| {
        let done = rehearse(&sandbox, args);
        assert_eq!(done.code, Some(code), "{args:?}: {}", done.stderr);
        assert!(done.stderr.contains(text), "{args:?}: {}", done.stderr);
    };
    fails(&["--flips", "1"], 2, "what shall be requested?");
    fails(&["--load", "https://127.0.0.1/"], 2, "no TLS");
    let missing = ["--load", "http://127.0.0.1/status/404"];
    fails(
        &missing,
        125,
        "status 404. Every load must be answered before the first upgrade, within 10 s. Another path?",
    );
    sandbox.write("app.toml", "cmd = ['sh', '-c', 'echo so sorry; exit 3']\n");
    fails(LOAD, 125, "so sorry");
    sandbox.write("app.toml", "cmd = 7\n");
    fails(LOAD, 78, "app.toml:1");
    assert!(Path::new(&sandbox.path("app.toml")).exists());
}
