//! Java on descriptor 0, by `System.inheritedChannel()`: the example's own program, Tomcat, and Jetty.

use std::process::ExitStatus;

use testkit::AvailabilityProbe;
use testkit::client::ClientError;
use testkit::client::http::HttpClient;

use super::load::{Application, assert_only_what_was_open_failed, clients, clients_of_pids, flip_under_load};
use super::{Example, are_installed};

pub(super) const EXAMPLE: &str = "java.toml";
pub(super) const JETTY: &str = "jetty.toml";
pub(super) const TOMCAT: &str = "tomcat.toml";
/// Debian's paths.
pub(super) const JETTY_PROGRAM: &str = "/usr/share/jetty9/start.jar";
pub(super) const TOMCAT_PROGRAM: &str = "/usr/share/tomcat10/bin/catalina.sh";

/// A virtual machine that shuts down cleanly on SIGTERM exits with 143.
fn by_143(status: ExitStatus) -> bool {
    status.code() == Some(143)
}

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
    example.stop(&psflip, by_143);
    report.assert_no_failures();
}

#[test]
fn load_tomcat_at_descriptor_0_loses_only_open_connections() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["java", TOMCAT_PROGRAM]) {
        return;
    }
    let example = Example::new(TOMCAT);
    let psflip = example.psflip().start().wait_ready();
    let probe = clients_of_pids(example.address());
    let report = flip_under_load("Tomcat, inherited TCP", &psflip, probe);
    example.stop(&psflip, by_143);
    assert_only_what_was_open_failed(&report);
}

#[test]
fn load_jetty_at_descriptor_0_loses_only_open_connections() {
    // Contract: U2, U3, U5, H1
    if !are_installed(&["java", JETTY_PROGRAM]) {
        return;
    }
    let example = Example::new(JETTY);
    let psflip = example.psflip().start().wait_ready();
    let address = example.address();
    let probe = AvailabilityProbe::start(8, |number| {
        let client = HttpClient::tcp(address);
        let mut client = if number % 2 == 0 { client.keep_alive() } else { client };
        move || {
            let response = client.get("/")?;
            if response.status != 200 {
                return Err(ClientError::content(format!("status {}", response.status)));
            }
            let generation = response.header("generation").map(str::to_owned);
            generation.ok_or_else(|| ClientError::content(format!("{response:?}")))
        }
    });
    let report = flip_under_load("Jetty, inherited TCP", &psflip, probe);
    example.stop(&psflip, by_143);
    assert_only_what_was_open_failed(&report);
}
