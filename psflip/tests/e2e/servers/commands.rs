//! The commands `psflip run --proxy ...` in the examples' first comments: each starts its server, whose next
//! generation takes over and answers.

use std::fs;
use std::os::unix::fs::symlink;

use testkit::process::ProcessState;
use testkit::{Deadline, Signal, Stream, psflip_bin, wait_until};

use super::{Example, are_installed, path, php};

/// Files that a command names and that are not in `examples/servers`: its name, and the file of
/// `proxied/apps` that takes its place.
const OTHERS: &[(&str, &str)] =
    &[("httpd.conf", "httpd.conf"), ("server.js", "plain.js"), ("Server.java", "Plain.java")];

/// The programs of the examples that a user has to write; they can't be run here.
const OF_THE_USER: &[&str] = &["./server"];

/// The command of an example, without its line breaks.
fn command(text: &str) -> Option<String> {
    let mut lines = text.lines().skip_while(|line| !line.starts_with("#   psflip run --proxy"));
    let mut whole = String::new();
    while let Some(line) = lines.next().and_then(|line| line.strip_prefix("# ")) {
        let part = line.trim();
        whole += part.trim_end_matches('\\');
        if !part.ends_with('\\') {
            return Some(whole);
        }
    }
    None
}

/// Runs the command of an example. False: it has none that can be run here.
#[track_caller]
fn serves(file: &'static str) -> bool {
    let example = Example::new(file);
    let Some(command) = command(&example.sandbox.read(file)) else { return false };
    let program = command.split_once(" -- ").unwrap().1.split_whitespace().next().unwrap();
    if OF_THE_USER.contains(&program)
        || !are_installed(&[program])
        || program == "java" && !are_installed(&["javac"])
    {
        return true;
    }
    for (name, app) in OTHERS {
        let app = format!("{}/tests/e2e/servers/proxied/apps/{app}", env!("CARGO_MANIFEST_DIR"));
        example.sandbox.write(name, fs::read(app).unwrap());
    }
    let bin = example.sandbox.path("bin");
    fs::create_dir(&bin).unwrap();
    symlink(psflip_bin(), bin.join("psflip")).unwrap();
    let folders = [bin].into_iter().chain(std::env::split_paths(&path()).collect::<Vec<_>>());
    let psflip = example.sandbox.command(["sh", "-c", &format!("exec {command}")]).cwd(example.sandbox.dir());
    let psflip = psflip.env("PATH", std::env::join_paths(folders).unwrap()).start();
    psflip.output().wait(Stream::Stderr, "healthy, active");
    example.answers();
    psflip.signal(Signal::SIGHUP);
    psflip.output().wait(Stream::Stderr, "new generation took over");
    psflip.output().wait(Stream::Stderr, "the old generation is gone");
    example.answers();
    psflip.signal(Signal::SIGTERM);
    psflip.wait_exit();
    wait_until(Deadline::default(), format!("all processes of {file} to exit"), || {
        let processes = example.sandbox.processes();
        processes.iter().all(|process| process.state() == ProcessState::Gone).then_some(())
    });
    true
}

/// One test for each example, so that they run in parallel.
macro_rules! commands {
    ($($name:ident: $file:expr;)*) => {
        const FILES: &[&str] = &[$($file),*];
        $(/// Contract: T3, T6
        #[test]
        fn $name() {
            assert!(serves($file), "{} has no command", $file);
        })*
    };
}

commands! {
    the_command_of_apache_serves: super::web::APACHE;
    the_command_of_axum_serves: super::rust::EXAMPLE;
    the_command_of_caddy_serves: super::web::CADDY;
    the_command_of_gunicorn_serves: super::python::GUNICORN;
    the_command_of_java_serves: super::java::EXAMPLE;
    the_command_of_node_serves: super::node::EXAMPLE;
    the_command_of_php_cgi_serves: php::CGI;
    the_command_of_php_fpm_serves: php::FPM;
    the_command_of_puma_serves: super::ruby::PUMA;
    the_command_of_puma_in_cluster_mode_serves: super::ruby::PUMA_CLUSTER;
    the_command_of_starlet_serves: super::perl::STARLET;
    the_command_of_unicorn_serves: super::ruby::UNICORN;
    the_command_of_uvicorn_serves: super::python::UVICORN;
    the_command_of_uwsgi_serves: super::python::UWSGI;
}

#[test]
fn every_command_of_an_example_is_run() {
    let folder = super::folder();
    for file in super::RUN {
        let has_one = command(&fs::read_to_string(folder.join(file)).unwrap()).is_some();
        assert_eq!(has_one, FILES.contains(file), "{file}: list it in {}", file!());
    }
}
