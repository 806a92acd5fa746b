//! `psflip migrate`: its messages and its output. The configurations that it makes of upstream's examples
//! run, upgrade and stop.

mod supervisor;

use std::path::Path;

use testkit::client::http::HttpClient;
use testkit::{PsflipBuilder, Running, Sandbox, Signal, Stdin, Stream, fixture, psflip_bin};

use crate::health::docker::start_scripted_engine;
use crate::service::{script, stop};
use crate::traffic::ports::Reserved;

/// Runs `psflip migrate` until it exits.
fn migrate(sandbox: &Sandbox, arguments: &[&str]) -> (i32, std::sync::Arc<Running>) {
    let psflip = psflip_bin().display().to_string();
    let argv = [psflip.as_str(), "migrate"].into_iter().chain(arguments.iter().copied());
    let running = sandbox.command(argv).start();
    let code = running.wait_exit().code().unwrap_or(-1);
    (code, running)
}

/// One of upstream's examples, rewritten for these tests.
fn example(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrate");
    std::fs::read_to_string(folder.join(name)).unwrap()
}

/// Migrates an example to `psflip.toml` in the sandbox, after these changes to the original. Returns a psflip
/// with it.
#[track_caller]
fn migrated(sandbox: &Sandbox, name: &str, changes: &[(&str, &str)], left: bool) -> PsflipBuilder {
    let mut text = example(name);
    for (from, to) in changes {
        assert!(text.contains(from), "`{from}` is not in {name}");
        text = text.replacen(from, to, 1);
    }
    sandbox.write(name, text);
    let (code, running) = migrate(sandbox, &[name, "-o", "psflip.toml"]);
    assert_eq!(code, i32::from(left), "{}", running.stderr());
    assert!(running.stderr().contains("`psflip check` accepts"), "{}", running.stderr());
    sandbox.psflip().config_file("psflip.toml")
}

/// Starts it, upgrades it once, and stops it.
#[track_caller]
fn flips(sandbox: &Sandbox, builder: PsflipBuilder, upgrade: Signal) {
    let psflip = builder.upgrade_signal(upgrade).start().wait_ready();
    let before = psflip.child();
    psflip.flip();
    assert_ne!(psflip.child(), before, "{}", sandbox.report());
    stop(&psflip);
    sandbox.assert_no_process_left();
}

/// A health check that doesn't wait five seconds, for examples that have none.
const QUICK: (&str, &str) = ("cmd:", "healthcheck: { alive: { timeout: 50ms } }\ncmd:");
/// The pidfile that the tests look for.
const PIDFILE: (&str, &str) = ("cmd:", "pidfile: psflip.pid\ncmd:");

#[test]
fn the_basic_example_runs() {
    let sandbox = Sandbox::new();
    flips(&sandbox, migrated(&sandbox, "basic.yml", &[QUICK], false), Signal::SIGHUP);
}

#[test]
fn the_example_of_templates_runs() {
    let sandbox = Sandbox::new();
    flips(&sandbox, migrated(&sandbox, "templates.yml", &[QUICK, PIDFILE], false), Signal::SIGHUP);
}

#[test]
fn the_example_of_the_first_parameters_runs() {
    let sandbox = Sandbox::new();
    flips(&sandbox, migrated(&sandbox, "params.yml", &[QUICK], false), Signal::SIGHUP);
}

#[test]
fn the_example_of_the_first_signals_runs() {
    let sandbox = Sandbox::new();
    flips(&sandbox, migrated(&sandbox, "signals.yml", &[QUICK], true), Signal::SIGUSR1);
}

#[test]
fn the_example_of_upgrades_runs() {
    let sandbox = Sandbox::new();
    flips(&sandbox, migrated(&sandbox, "upgrade.yml", &[QUICK, PIDFILE], true), Signal::SIGUSR1);
}

#[test]
fn the_example_of_the_check_alive_runs() {
    let sandbox = Sandbox::new();
    flips(&sandbox, migrated(&sandbox, "healthcheck_alive.yml", &[PIDFILE], false), Signal::SIGHUP);
}

#[test]
fn the_example_of_the_check_command_runs() {
    let sandbox = Sandbox::new();
    flips(&sandbox, migrated(&sandbox, "healthcheck_command.yml", &[PIDFILE], false), Signal::SIGHUP);
}

/// A script `start.sh` in this directory that prints its container's name and its arguments, and an engine
/// that reports every container as healthy.
fn containers(sandbox: &Sandbox, folder: &str) {
    std::fs::create_dir_all(sandbox.path(folder)).unwrap();
    script(sandbox, &format!("{folder}/start.sh"), "echo \"container $CONTAINER_NAME $*\"; exec sleep 1000");
    start_scripted_engine(sandbox);
    sandbox.write("answer", r#"{"State":{"Status":"running","Health":{"Status":"healthy"}}}"#);
}

/// Upgrades an example with containers, which have these two names in turn.
#[track_caller]
fn containers_take_turns(sandbox: &Sandbox, builder: PsflipBuilder, names: [&str; 2]) {
    let psflip = builder.start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, &format!("container {}", names[0]));
    psflip.flip();
    psflip.wait_for_line(Stream::Stdout, &format!("container {}", names[1]));
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn the_example_of_the_check_docker_runs() {
    let sandbox = Sandbox::new();
    containers(&sandbox, "examples/docker");
    let engine = format!("interval: 20ms\n    socket: unix://{}", sandbox.path("d.sock").display());
    let builder = migrated(&sandbox, "healthcheck_docker.yml", &[("interval: 2s", engine.as_str())], false);
    containers_take_turns(&sandbox, builder, ["example-blue", "example-green"]);
}

#[test]
fn the_examples_of_the_proxy_run() {
    for (name, names) in [
        ("proxy_first.yml", ["proxy-blue", "proxy-green"]),
        ("proxy.yml", ["proxy-blue 8081", "proxy-green 8082"]),
    ] {
        let sandbox = Sandbox::new();
        containers(&sandbox, "examples/proxy");
        let engine = format!("  docker:\n    socket: unix://{}\n", sandbox.path("d.sock").display());
        let changes = [("  docker:\n", engine.as_str()), ("8080", "0")];
        containers_take_turns(&sandbox, migrated(&sandbox, name, &changes, false), names);
    }
}

#[test]
fn upstreams_test_backend_configuration_runs_and_listens_itself() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("tests")).unwrap();
    let server = fixture("http-server");
    script(
        &sandbox,
        "tests/mock_backend",
        &format!("exec {} --tcp 127.0.0.1:$PORT --name $CRASH_RATE", server.display()),
    );
    let (a, b) = (Reserved::new(), Reserved::new());
    let ports = format!("AB \"{}\" \"{}\"", a.port(), b.port());
    let changes = [
        ("AB \"8080\" \"8081\"", ports.as_str()),
        ("timeout: 2s", "timeout: 300ms"),
        ("':8000'", "127.0.0.1:0"),
    ];
    let psflip = migrated(&sandbox, "test_backend.yaml", &changes, false).start().wait_ready();
    let answers =
        |port: &Reserved| HttpClient::tcp(port.address()).get("/").and_then(|answer| answer.tag("pid"));
    assert_eq!(answers(&a), Ok(psflip.child_pid().to_string()), "{}", sandbox.report());
    psflip.flip();
    assert_eq!(answers(&b), Ok(psflip.child_pid().to_string()), "{}", sandbox.report());
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn every_example_is_run_by_a_test() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrate");
    let own = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/migrating.rs"))
        .unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(own.contains(&format!("\"{name}\"")), "no test here runs {name}");
    }
}

#[test]
fn the_result_is_written_to_the_given_file_and_overwrites_none() {
    let sandbox = Sandbox::new();
    sandbox.write("old.yml", "cmd: [x]\n");
    let (code, running) = migrate(&sandbox, &["old.yml"]);
    assert_eq!(
        (code, running.stderr().as_str()),
        (0, "psflip: everything is translated; `psflip check` accepts the result\n")
    );
    assert!(running.stdout().ends_with("\ncmd = [\"x\"]\n"), "{}", running.stdout());

    sandbox.write("new.toml", "precious");
    let (code, running) = migrate(&sandbox, &["old.yml", "-o", "new.toml"]);
    assert_eq!(
        (code, running.stderr().as_str()),
        (125, "psflip: `new.toml` exists; use `--force` to overwrite it\n")
    );
    assert_eq!(std::fs::read_to_string(sandbox.path("new.toml")).unwrap(), "precious");
    let (code, running) = migrate(&sandbox, &["old.yml", "-o", "new.toml", "--force"]);
    assert_eq!(code, 0, "{}", running.stderr());
    assert!(std::fs::read_to_string(sandbox.path("new.toml")).unwrap().ends_with("\ncmd = [\"x\"]\n"));
    let (code, running) = migrate(&sandbox, &["old.yml", "-o", "no/such/folder"]);
    assert_eq!(
        (code, running.stderr().as_str()),
        (125, "psflip: can't write `no/such/folder`: no such file or directory\n")
    );
    assert_eq!(migrate(&sandbox, &["old.yml", "--force"]).0, 2);
}

#[test]
fn standard_input_is_read_and_its_format_detected() {
    let sandbox = Sandbox::new();
    let psflip = psflip_bin().display().to_string();
    let running = sandbox.command([psflip.as_str(), "migrate", "-"]).stdin(Stdin::Pipe).start();
    running.write_stdin("{\"cmd\": [\"x\", \"{{ BlueGreen }}\"]}");
    running.close_stdin();
    assert!(running.wait_exit().success(), "{}", running.stderr());
    assert!(running.stdout().contains("cmd = [\"x\", \"{{ blue_green() }}\"]"), "{}", running.stdout());
}

#[test]
fn incomplete_and_unreadable_input_have_distinct_exit_codes() {
    // Contract: X4
    let sandbox = Sandbox::new();
    sandbox.write("left.yml", "cmd: [x]\nworkdir: '{{ range . }}'\n");
    let (code, running) = migrate(&sandbox, &["left.yml"]);
    assert_eq!(code, 1);
    assert_eq!(
        running.stderr(),
        "left.yml:2:11: left to do: this template can't be translated: there are no loops in psflip's templates\n\
         psflip: 1 left to do; `psflip check` accepts the rest of the result\n"
    );
    assert!(running.stdout().contains("# workdir = \"{{ range . }}\""), "{}", running.stdout());

    sandbox.write("none.yml", "env: [A=1]\n");
    let (code, running) = migrate(&sandbox, &["none.yml"]);
    assert_eq!(code, 1);
    assert!(
        running.stderr().contains("`psflip check` refuses the result as it is:\n"),
        "{}",
        running.stderr()
    );

    sandbox.write("broken.yml", "cmd: [x\n");
    let (code, running) = migrate(&sandbox, &["broken.yml"]);
    assert_eq!(code, 78);
    assert!(running.stderr().starts_with("psflip: broken.yml:"), "{}", running.stderr());
    let (code, running) = migrate(&sandbox, &["missing.yml"]);
    assert_eq!(
        (code, running.stderr().as_str()),
        (125, "psflip: can't read `missing.yml`: no such file or directory\n")
    );
    // As TOML it is invalid.
    assert_eq!(migrate(&sandbox, &["left.yml", "--format", "toml"]).0, 78);
}
