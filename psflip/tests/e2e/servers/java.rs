//! Java on descriptor 0, by `System.inheritedChannel()`.

use super::load::{Application, clients, flip_under_load};
use super::{Example, are_installed};

pub(super) const EXAMPLE: &str = "java.toml";

#[test]
fn load_java_at_descriptor_0_loses_nothing() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["java", "javac"]) {
        return;
    }
    let example = Example::new(EXAMPLE);
    let compiler = example.sandbox.command(["javac", "App.java"]).start();
    assert!(compiler.wait_exit().success(), "{}", compiler.stderr());
    let psflip = example.psflip().start().wait_ready();
    let probe = clients(example.address(), Application::Http);
    let report = flip_under_load("Java, inherited TCP", &psflip, probe);
    // A virtual machine that has ended in order because of SIGTERM says 143.
    example.stop(&psflip, |status| status.code() == Some(143));
    report.assert_no_failures();
}
