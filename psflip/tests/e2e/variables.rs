//! `env_file` and `env_dir`: the child's variables from files.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use testkit::{Sandbox, fixture, psflip_bin};

use crate::service::AT_ONCE;

const CHILD: [&str; 2] = ["/bin/sleep", "infinity"];

/// The values of these variables in the process; a missing one is `-`.
#[track_caller]
fn values(process: testkit::Process, names: &[&str]) -> String {
    let value = |name: &&str| match process.env(name) {
        Some(value) => value.into_string().expect("UTF-8"),
        None => "-".to_owned(),
    };
    names.iter().map(value).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_child_gets_variables_from_files_which_each_generation_reads_again() {
    // Contract: C1, U2, U8
    let sandbox = Sandbox::new();
    sandbox.write("first.env", "# first\nA=file\nB=file\nC='two words'\nD=file\nE=file\n");
    sandbox.write("second.env", "B=second\n");
    sandbox.write("vars/D", "dir\n");
    sandbox.write("vars/E", "");
    let config = format!(
        "env_file = [\"first.env\", \"second.env\", \"?missing.env\"]\nenv_dir = \"vars\"\n[env]\nA = \"table\"\n{AT_ONCE}"
    );
    let builder = sandbox.psflip().cmd(CHILD).config(config).env("E", "inherited").env("F", "inherited");
    let psflip = builder.start().wait_ready();
    let names = ["A", "B", "C", "D", "E", "F", "PSFLIP_GENERATION"];
    assert_eq!(values(psflip.child(), &names), "table second two words dir - inherited 1");

    sandbox.write("second.env", "B=changed\n");
    sandbox.write("missing.env", "D=no\nG=appeared\n");
    psflip.flip();
    assert_eq!(values(psflip.child(), &["B", "D", "G", "PSFLIP_GENERATION"]), "changed dir appeared 2");

    // A mistake in a file fails the upgrade, and the clients, which don't read it, still find psflip.
    let before = (psflip.active(), psflip.child());
    sandbox.write("second.env", "B=1\nexport TOKEN=hunter2\n");
    let upgrade = sandbox.command([psflip_bin()]).args(["upgrade", "-c", "psflip.toml"]).start();
    assert_eq!(upgrade.wait_exit().code(), Some(1), "{}", sandbox.report());
    let said = upgrade.stdout() + &upgrade.stderr() + &psflip.log();
    assert!(said.contains("`second.env`, line 2: `export TOKEN` is not the name of a variable"), "{said}");
    assert!(!said.contains("hunter2"), "no message shows a value: {said}");
    assert_eq!((psflip.active(), psflip.child()), before);
    let status = sandbox.command([psflip_bin()]).args(["status", "-c", "psflip.toml"]).start();
    assert!(status.wait_exit().success(), "{}", sandbox.report());
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn check_shows_the_names_of_variables_and_never_their_values() {
    // Contract: X1
    let sandbox = Sandbox::new();
    sandbox.write("app.env", "PORT=8080\nDB_PASSWORD=hunter2\n");
    let mode = |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    mode(sandbox.dir(), 0o755);
    let check = |args: &[&str]| {
        let check = sandbox.command([psflip_bin()]).arg("check").args(args).start();
        let code = check.wait_exit().code();
        check.output().wait_closed();
        (code, check.stdout(), check.stderr())
    };
    let flags = ["--env-file", "app.env", "--env-file", "?none.env", "--env-dir", "?none", "--", "true"];
    let (code, plan, warnings) = check(&flags);
    assert_eq!(code, Some(0), "{warnings}");
    assert!(
        plan.contains("env_file = [\"app.env\", \"?none.env\"]\n# app.env sets: PORT, DB_PASSWORD\n"),
        "{plan}"
    );
    assert!(plan.contains("# ?none.env sets: nothing\nenv_dir = [\"?none\"]\n"), "{plan}");
    assert!(warnings.contains("every user can read `app.env`, which sets `DB_PASSWORD`"), "{warnings}");
    assert!(!(plan + &warnings).contains("hunter2"));
    for (directory, file) in [(0o700, 0o644), (0o755, 0o600)] {
        mode(sandbox.dir(), directory);
        mode(&sandbox.path("app.env"), file);
        assert!(!check(&flags).2.contains("every user can read"), "its owner alone can read it");
    }

    let (code, _, error) = check(&["--env-file", "none.env", "--", "true"]);
    assert_eq!(code, Some(78));
    assert!(error.contains("can't read the variables in `none.env`: no such file"), "{error}");
    assert!(error.contains("write a question mark before its path"), "{error}");
    let (code, _, error) = check(&["--env-dir", "app.env", "--", "true"]);
    assert!(code == Some(78) && error.contains("use `env_file`"), "{error}");
}

#[test]
fn the_program_is_looked_up_in_a_path_from_a_file() {
    // Contract: C1
    let sandbox = Sandbox::new();
    let directory = fixture("never-ready").parent().expect("it has one").display().to_string();
    sandbox.write("app.env", format!("PATH={directory}\n"));
    let config = format!("env_file = \"app.env\"\n{AT_ONCE}");
    let psflip = sandbox.psflip().cmd(["never-ready"]).config(config).start().wait_ready();
    psflip.flip();
    assert_eq!(values(psflip.child(), &["PATH"]), directory);
    psflip.stop();
}
