//! Tests of teams that don't write Rust: the pytest plugin, bats and node:test.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use testkit::{Deadline, Running, Sandbox, fixture, need, need_root, psflip_bin, skip, wait_until};

/// The Python of Debian's packages, whichever else is in PATH.
const PYTHON: &str = "/usr/bin/python3";
const MODULES: &str = "import aiohttp, ensurepip, gunicorn, pytest";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// The folders with psflip, psflip-rehearse and psflip-fixture, as in PATH.
fn programs() -> Vec<PathBuf> {
    let all = [env!("CARGO_BIN_EXE_psflip-rehearse").into(), psflip_bin(), fixture("psflip-fixture")];
    all.iter().map(|program| program.parent().unwrap().to_owned()).collect()
}

/// Runs a command until it exits, successfully or not.
#[track_caller]
fn run(sandbox: &Sandbox, cwd: &Path, argv: &[&str]) -> Arc<Running> {
    let path = env::split_paths(&env::var_os("PATH").unwrap()).collect::<Vec<_>>();
    let running = sandbox
        .command(argv)
        .cwd(cwd)
        .env("PATH", env::join_paths(programs().into_iter().chain(path)).unwrap())
        .env("PSFLIP_PROGRAMS", env::join_paths(programs()).unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .start();
    running.wait_exit_by(Deadline::after(Duration::from_secs(150)));
    running
}

#[track_caller]
fn succeed(sandbox: &Sandbox, cwd: &Path, argv: &[&str]) -> String {
    let running = run(sandbox, cwd, argv);
    let text = format!("{}{}", running.stdout(), running.stderr());
    assert!(running.try_status().unwrap().success(), "{argv:?}: {text}");
    text
}

/// An environment with the wheel, made from the sdist.
fn install(sandbox: &Sandbox) -> PathBuf {
    let environment = sandbox.path("environment");
    succeed(
        sandbox,
        sandbox.dir(),
        &[PYTHON, "-m", "venv", "--system-site-packages", environment.to_str().unwrap()],
    );
    let python = environment.join("bin/python");
    let python = python.to_str().unwrap();
    let build = format!("import backend; backend.build_sdist('{}')", sandbox.dir().display());
    succeed(sandbox, &repository().join("testkit/python"), &[python, "-c", &build]);
    let source = only_file(sandbox.dir(), ".tar.gz");
    let pip = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"];
    let offline = ["--no-index", "--no-deps", "--no-cache-dir"];
    let wheel =
        [&pip[..], &["wheel"], &offline, &["--wheel-dir", "wheels", source.to_str().unwrap()]].concat();
    let without = run(sandbox, sandbox.dir(), &[&["env", "PSFLIP_PROGRAMS=/nowhere"], &wheel[..]].concat());
    let said = "psflip is not in /nowhere. This package contains no programs: install psflip first";
    assert!(without.stderr().contains(said), "{}", without.stderr());
    succeed(sandbox, sandbox.dir(), &wheel);
    let wheel = only_file(&sandbox.path("wheels"), ".whl");
    assert!(wheel.to_str().unwrap().contains("-py3-none-linux_"), "{wheel:?}");
    succeed(sandbox, sandbox.dir(), &[&pip[..], &["install"], &offline, &[wheel.to_str().unwrap()]].concat());
    python.into()
}

/// The one file in the folder whose name ends so.
#[track_caller]
fn only_file(folder: &Path, end: &str) -> PathBuf {
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files: Vec<PathBuf> = files.filter(|path| path.to_str().unwrap().ends_with(end)).collect();
    let [file] = &files[..] else { panic!("{files:?}") };
    file.clone()
}

/// The plugin in a clean environment: careful apps pass, careless ones fail with the explanation, and nothing is
/// left, not even of a test process that was killed.
#[test]
fn load_pytest_plugin_explains_losses_and_leaves_nothing() {
    let is_there =
        || Command::new(PYTHON).args(["-c", MODULES]).output().is_ok_and(|output| output.status.success());
    if need(PYTHON).is_none() {
        return;
    }
    if !is_there() {
        skip("python3-pytest", &format!("`{PYTHON} -c '{MODULES}'` fails"));
        return;
    }
    let sandbox = Sandbox::new();
    let python = install(&sandbox);
    let samples = repository().join("testkit/python/samples");
    let temporary = format!("--basetemp={}", sandbox.path("tests").display());
    let pytest = |file| {
        [python.to_str().unwrap(), "-m", "pytest", "-q", "-p", "no:cacheprovider", &temporary, file]
            .map(str::to_owned)
    };
    let run_file = |file| {
        let argv = pytest(file);
        run(&sandbox, &samples, &argv.iter().map(String::as_str).collect::<Vec<_>>())
    };

    let careful = run_file("test_upgrades.py");
    assert!(careful.stdout().contains("3 passed"), "{}{}", careful.stdout(), careful.stderr());
    sandbox.assert_no_process_left();

    let careless = run_file("careless.py").stdout();
    for part in [
        "3 failed",
        "requests were lost over 2 upgrades",
        "lost: the server closes idle keep-alive connections as it stops",
        "do: use `[[proxy]]`",
        "x keep-alive: closed by the server (waiting for the answer on a reused keep-alive connection, in flip 1, after",
        "the upgrade failed: the child exited before it was healthy: exit code 1",
        "the service did not start: it has exited",
        "a bug",
    ] {
        assert!(careless.contains(part), "`{part}` is missing:\n{careless}");
    }
    sandbox.assert_no_process_left();

    let killed = run_file("killed.py");
    assert_eq!(killed.try_status().unwrap().code(), None, "{}", killed.stdout());
    let is_over = || sandbox.processes().is_empty().then_some(());
    wait_until(Deadline::default(), "the guards to have stopped everything", is_over);
}

/// The examples for shells and Node, which rehearse by the plain program.
#[test]
fn load_examples_for_bats_and_node_pass() {
    if !need_root() || ["bats", "node"].iter().any(|program| need(program).is_none()) {
        return;
    }
    let sandbox = Sandbox::new();
    for name in ["upgrade.bats", "upgrade.test.mjs", "server.mjs"] {
        sandbox.write(name, std::fs::read(repository().join("examples/testing").join(name)).unwrap());
    }
    let bats = succeed(&sandbox, sandbox.dir(), &["bats", "upgrade.bats"]);
    assert!(bats.contains("ok 1 ") && bats.contains("ok 2 "), "{bats}");
    let node = succeed(&sandbox, sandbox.dir(), &["node", "--test", "upgrade.test.mjs"]);
    assert!(node.contains("pass 1") && node.contains("fail 0"), "{node}");
    sandbox.assert_no_process_left();
}
