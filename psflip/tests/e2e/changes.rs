//! `psflip run --watch`: an upgrade when files change.

use serde_json::Value;
use testkit::{Deadline, Sandbox, Stream, psflip_bin, wait_until};

use crate::service::stop;

/// Healthy once there is a file for the generation, which the child makes itself.
const UNTIL_FILE: &str = "[healthcheck.command]\n\
    cmd = [\"/bin/sh\", \"-c\", \"test -e healthy-$PSFLIP_GENERATION\"]\ninterval = \"5ms\"\n";

/// A program that is healthy at once.
const WELL: &str = "echo > healthy-$PSFLIP_GENERATION\nexec /bin/sleep 1000\n";

/// Waits until this generation is active, and nothing else is under way. Returns the number of its upgrade.
#[track_caller]
fn wait_generation(sandbox: &Sandbox, generation: u64) -> u64 {
    let status = wait_until(Deadline::default(), format!("generation {generation}, alone"), || {
        let status = sandbox.command([psflip_bin()]).args(["status", "-c", "psflip.toml", "--json"]).start();
        status.wait_exit();
        status.output().wait_closed();
        let status: Value = serde_json::from_str(&status.stdout()).ok()?;
        let alone = status["upgrade"].is_null() && status["predecessor"].is_null();
        (status["generation"] == generation && alone && status["remembered"] == false).then_some(status)
    });
    let last = status["history"].as_array().and_then(|records| records.last()).expect("a record");
    last["upgrade"].as_u64().expect("a number")
}

#[test]
fn a_change_of_files_upgrades_and_a_broken_version_changes_nothing() {
    // Contract: R4, U7, U8
    let sandbox = Sandbox::new();
    // In one step, however slow this host is.
    let version = |text: &str| {
        let new = sandbox.write("start.new", text);
        std::fs::rename(new, sandbox.path("src/start.sh")).expect("both are there");
    };
    std::fs::create_dir(sandbox.path("src")).expect("it is new");
    version(WELL);
    let builder = sandbox.psflip().cmd(["/bin/sh", "src/start.sh"]).config(UNTIL_FILE);
    let psflip = builder.subcommand("run").arg("--watch").arg("src").start().wait_ready();
    psflip.wait_for_line(Stream::Stderr, "watching for changes directories=2 files=1");
    version(WELL);
    psflip.wait_for_line(Stream::Stderr, "upgrade requested reason=\"watch: src/start.sh\"");
    assert_eq!(wait_generation(&sandbox, 2), 1);

    let before = (psflip.active(), psflip.child());
    version("echo broken >&2; exit 3\n");
    psflip.wait_for_line(Stream::Stderr, "upgrade failed; the old child keeps running");
    assert_eq!((psflip.active(), psflip.child()), before, "{}", sandbox.report());
    assert!(psflip.log().contains("broken\n") && psflip.log().contains("exit code 3"), "{}", psflip.log());
    version(WELL);
    assert_eq!(wait_generation(&sandbox, 3), 3);

    // A change during an upgrade is one more upgrade, although both generations see it.
    version("echo reads this >&2\nexec /bin/sleep 1000\n");
    psflip.wait_for_line(Stream::Stderr, "reads this");
    version(WELL);
    psflip.wait_for_line(Stream::Stderr, "upgrade queued because=\"an upgrade is under way\"");
    psflip.wait_for_line(Stream::Stderr, "upgrade queued because=\"the child is not healthy yet\"");
    sandbox.write("healthy-4", "");
    assert_eq!(wait_generation(&sandbox, 5), 5);
    sandbox.write("more/new.sh", "");
    std::fs::rename(sandbox.path("more"), sandbox.path("src/more")).expect("both are there");
    assert_eq!(wait_generation(&sandbox, 6), 6, "no upgrade in between: {}", psflip.log());
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn a_path_that_does_not_exist_starts_nothing() {
    // Contract: R4, C6
    let sandbox = Sandbox::new();
    sandbox.write("src/a", "");
    let run = |args: &[&str]| {
        let program = sandbox.command([psflip_bin()]).args(args).start();
        let code = program.wait_exit().code();
        program.output().wait_closed();
        (code, program.stderr())
    };
    let (code, said) = run(&["run", "--watch", "src", "srcc", "--", "touch", "started"]);
    assert_eq!(code, Some(125), "{said}");
    assert!(said.contains("srcc`: no such file or directory"), "{said}");
    assert!(!sandbox.path("started").exists());
    let (code, said) = run(&["-c", "app.toml", "--watch", "src"]);
    assert!(code == Some(2) && said.contains("It goes after `run`"), "{said}");
    let (code, said) = run(&["watch", "src"]);
    assert!(code == Some(2) && said.contains("--pidfile"), "{said}");
}
