//! The quick start of README.md, pasted into a shell.

use std::fs;
use std::path::Path;

use testkit::{Sandbox, psflip_bin};

use crate::traffic::ports::Reserved;

/// The lines of the shell blocks.
pub(crate) fn shell_blocks(text: &str) -> String {
    let blocks = text.split("```sh\n").skip(1).map(|rest| rest.split("```\n").next().unwrap());
    blocks.collect::<Vec<_>>().join("\n")
}

#[test]
fn the_quick_start_works_when_pasted() {
    // Contract: C1, U5, U8, F3, O1
    if !crate::health::notify::is_installed("python3") || !crate::health::notify::is_installed("curl") {
        return;
    }
    let readme = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")).unwrap();
    let (_, section) = readme.split_once("\n## Quick start\n").unwrap();
    let script = shell_blocks(section.split("\n## ").next().unwrap());
    assert!(script.contains("psflip upgrade --socket app.pid.sock ||"), "{script}");
    let sandbox = Sandbox::new();
    let port = Reserved::new();
    let script = script.replace("8080", &port.port().to_string());
    let path = std::env::var("PATH").unwrap();
    let path = format!("{}:{path}", psflip_bin().parent().unwrap().display());
    let shell = sandbox.command(["sh", "-e", "-c", &script]).cwd(sandbox.dir()).env("PATH", path).start();
    assert!(shell.wait_exit().success(), "{}", sandbox.report());
    shell.output().wait_closed();
    let stdout = shell.stdout();
    let has =
        |part: &str| assert!(stdout.contains(part), "`{part}` is missing:\n{stdout}\n{}", sandbox.report());
    has("version 1\n");
    has("generation 2 is active");
    has("refused\nversion 2\n");
    has("serving   generation 2");
    has("stopped: ");
    assert_eq!(stdout.matches("version 2\n").count(), 2, "{stdout}");
    assert!(shell.stderr().contains("No module named 'no_such_module'"), "{}", shell.stderr());
    sandbox.assert_no_process_left();
}
