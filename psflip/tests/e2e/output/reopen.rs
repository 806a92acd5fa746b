//! `psflip reopen`: files that were renamed are opened again.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;
use testkit::{Deadline, Sandbox, need, psflip_bin, wait_until};

use super::{ECHO, client, end, output_processes, pipes, say, wait_line};
use crate::service::{AT_ONCE, UNTIL_FILE, configure, psflip, stop, wait_coming};

/// Requests a reopen, and returns the generations whose files are open again.
#[track_caller]
fn reopened(sandbox: &Sandbox) -> Vec<u64> {
    let (code, stdout, stderr) = client(sandbox, &["reopen", "-c", "psflip.toml", "--json"]);
    assert_eq!(code, Some(0), "{stderr}");
    let events = stdout.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let reopened = events.filter(|event| event["event"] == "reopened");
    let mut generations: Vec<u64> = reopened.map(|event| event["generation"].as_u64().unwrap()).collect();
    generations.sort_unstable();
    generations
}

#[test]
fn a_reopen_reaches_all_generations_that_run() {
    // Contract: N6
    let sandbox = Sandbox::new();
    pipes(&sandbox);
    let config = format!(
        "{UNTIL_FILE}[output]\nstdout = \"append:out.log\"\nstderr = \"append:out.log\"\n[shutdown]\ntimeout = \"1h\"\n"
    );
    sandbox.write("healthy", "");
    let psflip = psflip(&sandbox, ECHO, &config).start().wait_ready();
    let old = psflip.active();
    wait_line(&sandbox, "out.log", "started");
    let rotate = |to: &str| fs::rename(sandbox.path("out.log"), sandbox.path(to)).unwrap();
    rotate("1.log");
    assert_eq!(reopened(&sandbox), [1]);
    say(&sandbox, 1, "one");
    wait_line(&sandbox, "out.log", "err one");
    assert_eq!(sandbox.read("1.log"), "started\n");

    // During an upgrade the old generation answers, and passes it on.
    fs::remove_file(sandbox.path("healthy")).unwrap();
    psflip.request_flip();
    wait_coming(&sandbox, old);
    wait_line(&sandbox, "out.log", "started");
    rotate("2.log");
    assert_eq!(reopened(&sandbox), [1, 2]);
    say(&sandbox, 1, "two");
    say(&sandbox, 2, "three");
    wait_line(&sandbox, "out.log", "err two");
    wait_line(&sandbox, "out.log", "err three");
    assert_eq!(sandbox.read("2.log"), "out one\nerr one\nstarted\n");

    // While the old generation drains, the new one does.
    sandbox.write("healthy", "");
    psflip.wait_successor(old);
    rotate("3.log");
    assert_eq!(reopened(&sandbox), [1, 2]);
    say(&sandbox, 1, "four");
    wait_line(&sandbox, "out.log", "err four");
    say(&sandbox, 1, "exit");
    wait_until(Deadline::default(), "the old psflip to be gone", || (!old.is_alive()).then_some(()));

    // A path that can't be opened is reported, and the file stays open.
    rotate("4.log");
    fs::create_dir(sandbox.path("out.log")).unwrap();
    let (code, stdout, _) = client(&sandbox, &["reopen", "-c", "psflip.toml"]);
    assert_eq!(code, Some(1));
    assert!(stdout.starts_with("generation 2: can't open `out.log`"), "{stdout}");
    say(&sandbox, 2, "five");
    wait_line(&sandbox, "4.log", "err five");
    end(&sandbox, &psflip, 2);
}

#[test]
fn a_reopen_reaches_a_generation_whose_child_has_not_started() {
    // Contract: N6, E1
    let sandbox = Sandbox::new();
    pipes(&sandbox);
    let config = format!("{AT_ONCE}[output]\nstdout = \"append:out.log\"\n");
    let psflip = psflip(&sandbox, ECHO, &config).start().wait_ready();
    let old = psflip.active();
    wait_line(&sandbox, "out.log", "started");
    let waits = "precheck = [\"sh\", \"-c\", \"touch begun; while [ ! -e go ]; do sleep 0.01; done\"]";
    configure(&sandbox, ECHO, &format!("{config}[upgrade]\n{waits}\n"));
    psflip.request_flip();
    wait_until(Deadline::default(), "the precheck", || sandbox.path("begun").exists().then_some(()));
    fs::rename(sandbox.path("out.log"), sandbox.path("1.log")).unwrap();
    assert_eq!(reopened(&sandbox), [1, 2]);
    sandbox.write("go", "");
    psflip.wait_successor(old);
    wait_line(&sandbox, "out.log", "started");
    assert_eq!(sandbox.read("1.log"), "started\n");
    say(&sandbox, 1, "exit");
    end(&sandbox, &psflip, 2);
}

#[test]
fn without_output_to_a_file_a_reopen_does_nothing() {
    // Contract: N6, N8
    let sandbox = Sandbox::new();
    let config = format!("{AT_ONCE}[output]\nstdout = \"null\"\n");
    let psflip = psflip(&sandbox, &["/bin/sleep", "1000"], &config).start().wait_ready();
    assert_eq!(psflip.child().open_fds().unwrap()[&1], "/dev/null");
    assert!(output_processes(&sandbox).is_empty());
    let (code, stdout, stderr) = client(&sandbox, &["reopen", "-c", "psflip.toml"]);
    assert_eq!(code, Some(0), "{stderr}");
    assert_eq!(stdout, "no output goes to a file: nothing to open again\n");
    stop(&psflip);
}

#[test]
fn logrotate_rotates_by_the_example() {
    // Contract: N6
    let Some(logrotate) = need("logrotate") else { return };
    let sandbox = Sandbox::new();
    pipes(&sandbox);
    let config = format!("{AT_ONCE}[output]\nstdout = \"append:app.log\"\n[log]\nfile = \"psflip.log\"\n");
    let psflip = psflip(&sandbox, ECHO, &config).start().wait_ready();
    say(&sandbox, 1, "old");
    wait_line(&sandbox, "app.log", "out old");
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/logrotate.conf");
    let here = sandbox.dir().display().to_string();
    let rules = fs::read_to_string(example).unwrap();
    let rules = rules
        .replace("/var/log/app/", &format!("{here}/"))
        .replace("/etc/app/psflip.toml", "psflip.toml")
        .replace("/run/app/", &format!("{here}/"))
        .replace("psflip reopen", &format!("{} reopen", psflip_bin().display()));
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    mode(sandbox.dir(), 0o755);
    mode(&sandbox.write("logrotate.conf", rules), 0o644);
    let rotate =
        sandbox.command([&logrotate]).args(["--force", "--state", "state", "logrotate.conf"]).start();
    assert!(rotate.wait_exit().success(), "{}", rotate.stderr());
    say(&sandbox, 1, "new");
    wait_line(&sandbox, "app.log", "out new");
    assert!(!sandbox.read("app.log").contains("out old"));
    assert!(sandbox.path("app.log.1.gz").exists() && sandbox.path("psflip.log.1.gz").exists());
    end(&sandbox, &psflip, 1);
}
