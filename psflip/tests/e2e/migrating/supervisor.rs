//! `psflip migrate start_server ...` and its siblings: what they print runs, upgrades and stops, and the
//! program finds its sockets where it did before.

use testkit::client::Target;
use testkit::{Sandbox, fixture};

use super::migrate;
use crate::examples::{At, ask};
use crate::service::stop;

/// Migrates with these arguments, starts the result, upgrades it once, and stops it. Before and after, the
/// child answers at `app.sock`.
#[track_caller]
fn runs(sandbox: &Sandbox, arguments: &[&str], at: At) {
    let (code, running) = migrate(sandbox, &[&["-o", "made.toml"], arguments].concat());
    assert_eq!(code, 0, "{}", running.stderr());
    let made = std::fs::read_to_string(sandbox.path("made.toml")).unwrap();
    // Not the second that start_server and supervisord wait.
    let made = made.replace("timeout = \"1s\"", "timeout = \"0s\"");
    sandbox.write("psflip.toml", made.replacen("\ncmd =", "\npidfile = \"psflip.pid\"\ncmd =", 1));
    let psflip = sandbox.psflip().config_file("psflip.toml").start().wait_ready();
    let target = Target::Unix(sandbox.path("app.sock"));
    for _ in 0..2 {
        let before = psflip.child();
        assert_eq!(ask(&target, at), Ok(before.to_string()), "{}", sandbox.report());
        psflip.flip();
        assert_ne!(psflip.child(), before, "{}", sandbox.report());
    }
    stop(&psflip);
    assert!(!sandbox.path("app.sock").exists());
    sandbox.assert_no_process_left();
}

#[test]
fn what_start_server_started_runs() {
    // Contract: C3
    let sandbox = Sandbox::new();
    let server = fixture("http-server").display().to_string();
    runs(
        &sandbox,
        &[
            "start_server",
            "--port=u0=9",
            "--path",
            "app.sock",
            "--int=1",
            "--envdir=env",
            "--",
            &server,
            "--inherit",
            "server_starter",
        ],
        At::Http,
    );
}

#[test]
fn what_spawn_fcgi_started_runs() {
    // Contract: C3
    let sandbox = Sandbox::new();
    let server = fixture("fcgi-server").display().to_string();
    let arguments = ["spawn-fcgi", "-ns", "app.sock", "-M600", "--", &server, "--inherit", "stdin"];
    runs(&sandbox, &arguments, At::FastCgi);
}

#[test]
fn what_supervisord_started_runs() {
    let sandbox = Sandbox::new();
    let section = "[fcgi-program:app]\ncommand = sh -c 'exec \"$SERVER\" --inherit stdin'\n\
                   environment = SERVER=\"@SERVER@\"\nsocket = unix://%(here)s/%(program_name)s.sock\n\
                   [program:other]\ncommand = other\n";
    sandbox.write("app.conf", section.replace("@SERVER@", &fixture("fcgi-server").display().to_string()));
    runs(&sandbox, &["supervisord", "app.conf", "app"], At::FastCgi);
}

#[test]
fn the_command_line_of_another_program_is_taken_as_it_is() {
    // Contract: X4
    let sandbox = Sandbox::new();
    let command = |arguments: &[&str]| {
        let (code, running) = migrate(&sandbox, arguments);
        assert_eq!(code, 0, "{}", running.stderr());
        let text = running.stdout();
        text.lines().find(|line| line.starts_with("cmd =")).unwrap_or(&text).to_owned()
    };
    for arguments in [
        &["start_server", "--", "x", "--port", "-h", "--"][..],
        &["start_server", "--port", "80", "--", "x", "--port", "-h", "--"],
        &["spawn-fcgi", "-p80", "--", "x", "--port", "-h", "--"],
    ] {
        assert_eq!(command(arguments), "cmd = [\"x\", \"--port\", \"-h\", \"--\"]", "{arguments:?}");
    }
    let (code, running) = migrate(&sandbox, &["start_server", "--prot=80", "x"]);
    assert_eq!(
        (code, running.stderr().as_str()),
        (
            78,
            "psflip: start_server: argument 1 (`--prot=80`): start_server has no such option\n  = help: did you mean `--port`?\n"
        )
    );
    let (code, running) = migrate(&sandbox, &["start_server", "--daemonize", "--status-file", "x", "y"]);
    assert_eq!(code, 1, "{}", running.stderr());
    assert!(running.stderr().contains("start_server: `--status-file`: left to do: "), "{}", running.stderr());
    // A file of this name is still one.
    sandbox.write("start_server", "cmd: [z]\n");
    assert_eq!(command(&["./start_server"]), "cmd = [\"z\"]");
    assert_eq!(migrate(&sandbox, &["old.yml", "start_server", "x"]).0, 2);
    assert_eq!(migrate(&sandbox, &["start_server"]).0, 2);
}
