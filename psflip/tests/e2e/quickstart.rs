//! The pages of `docs/quickstart/`, pasted into a shell. That of systemd is pasted in
//! `psflip/tests/systemd/quick_start.rs`.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use testkit::managers::docker::{Engine, python};
use testkit::{Deadline, Launch, Sandbox, psflip_bin};

use crate::readme::shell_blocks;
use crate::servers::{are_installed, path};
use crate::traffic::ports::Reserved;

/// How long a page may take. cargo compiles for a minute where it has not done so before.
const PAGE_TIMEOUT: Duration = Duration::from_secs(170);

/// The shell blocks of a page, with this port in place of the page's own.
fn script(page: &str, port: &Reserved) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/quickstart");
    let script = shell_blocks(&fs::read_to_string(folder.join(page)).unwrap());
    let is_its = |own: &&str| script.contains(&format!("localhost:{own}"));
    let own = ["3000", "8000", "8080"].into_iter().find(is_its).unwrap();
    script.replace(own, &port.port().to_string())
}

/// Pastes a page, in the folder `page` of the sandbox. Version 1 answers first, then version 2, which also answers after the refused upgrade.
#[track_caller]
fn paste(sandbox: &Sandbox, page: &str, with: impl FnOnce(Launch) -> Launch) {
    let port = Reserved::new();
    let folder = psflip_bin().parent().unwrap().to_owned();
    let path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&path()))).unwrap();
    let here = sandbox.path("page");
    fs::create_dir_all(&here).unwrap();
    let shell = sandbox.command(["sh", "-e", "-c", &script(page, &port)]).cwd(&here);
    let shell = with(shell.env("PATH", path)).start();
    let status = shell.wait_exit_by(Deadline::after(PAGE_TIMEOUT));
    let log = || fs::read_to_string(here.join("psflip.log")).unwrap_or_default();
    assert!(status.success(), "{status}\n{}\n{}", sandbox.report(), log());
    shell.output().wait_closed();
    let stdout = shell.stdout();
    let answers: Vec<&str> = stdout.lines().filter(|line| line.starts_with("version ")).collect();
    let [first, second, third] = answers[..] else { panic!("{answers:?}\n{stdout}\n{}", log()) };
    assert!(first == "version 1" && second.starts_with("version 2") && third == second, "{answers:?}");
    for part in ["generation 2 is active", &format!("refused\n{third}\n"), "serving   generation 2"] {
        assert!(stdout.contains(part), "`{part}` is missing:\n{stdout}\n{}", log());
    }
}

/// Pastes a page where these programs are installed, and asserts that no process is left.
#[track_caller]
fn works(page: &str, programs: &[&str]) {
    if are_installed(programs) {
        let sandbox = Sandbox::new();
        paste(&sandbox, page, |shell| shell);
        sandbox.assert_no_process_left();
    }
}

#[test]
fn quick_start_of_php_fpm() {
    // Contract: U4, U5, U8, F4, H1, O1
    works("php-fpm.md", &["php-fpm8.2", "nginx", "curl"]);
}

#[test]
fn quick_start_of_gunicorn() {
    // Contract: U5, U8, F3, H1, O1
    works("gunicorn.md", &["gunicorn", "curl"]);
}

#[test]
fn quick_start_of_uvicorn() {
    // Contract: U5, U8, F3, H1, O1
    works("uvicorn.md", &["uvicorn", "curl"]);
}

#[test]
fn quick_start_of_node() {
    // Contract: U5, U8, F3, H1, O1
    works("node.md", &["node", "curl"]);
}

#[test]
fn quick_start_of_puma() {
    // Contract: U5, U8, F3, H1, O1
    works("puma.md", &["puma", "curl"]);
}

#[test]
fn quick_start_of_java() {
    // Contract: U5, U8, F3, H1, O1
    works("java.md", &["java", "javac", "curl"]);
}

/// The libraries are those of `examples/servers/axum`, which cargo has fetched to build this workspace. What it makes of
/// them stays in the target directory for the next run.
#[test]
fn quick_start_of_axum() {
    // Contract: U5, U8, F3, H1, O1
    if !are_installed(&["cargo", "curl"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    fs::create_dir(sandbox.path("page")).unwrap();
    fs::copy(root.join("Cargo.lock"), sandbox.path("page/Cargo.lock")).unwrap();
    let built = psflip_bin().parent().unwrap().with_file_name("quick-start");
    fs::create_dir_all(&built).unwrap();
    symlink(&built, sandbox.path("page/target")).unwrap();
    let home = PathBuf::from(std::env::var_os("HOME").unwrap());
    let place = |name: &str, usual: &str| std::env::var_os(name).unwrap_or_else(|| home.join(usual).into());
    paste(&sandbox, "axum.md", |shell| {
        shell
            .env("CARGO_HOME", place("CARGO_HOME", ".cargo"))
            .env("RUSTUP_HOME", place("RUSTUP_HOME", ".rustup"))
            .env("CARGO_NET_OFFLINE", "true")
            .env("CARGO_PROFILE_DEV_DEBUG", "0")
            .env("CARGO_INCREMENTAL", "0")
    });
    sandbox.assert_no_process_left();
    // The application is another package in each sandbox.
    for folder in ["debug/deps", "debug/.fingerprint"] {
        for entry in fs::read_dir(built.join(folder)).unwrap().map(Result::unwrap) {
            if entry.file_name().to_string_lossy().starts_with("app-") {
                let path = entry.path();
                if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.unwrap();
            }
        }
    }
}

/// The image that the page begins with has as much of this host's Python as the application imports: nothing may be
/// fetched, and each line of the Dockerfile copies all of it.
#[test]
fn quick_start_of_docker() {
    // Contract: U5, U8, F3, H1, O1
    if !testkit::need_root() || !are_installed(&["dockerd", "docker", "curl", "/usr/bin/python3"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let engine = Engine::start(&sandbox);
    let psflip = psflip_bin().display().to_string();
    let python = python("http.server, os, signal, socket, threading");
    let files: Vec<&str> = python.iter().chain([&psflip]).map(String::as_str).collect();
    engine.import("python:3-slim", &files, &[]);
    paste(&sandbox, "docker.md", |shell| {
        let host = format!("unix://{}", engine.socket().display());
        shell.env("DOCKER_HOST", host).env("DOCKER_BUILDKIT", "0")
    });
    engine.stop();
    sandbox.assert_no_process_left();
}
