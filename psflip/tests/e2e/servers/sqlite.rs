//! An application with an exclusive lock on its database, deployed again and again under load, with versions
//! that work and versions that don't (`upgrade.overlap = false`).

use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Sandbox, psflip_bin};

use super::{Example, are_installed};

pub(super) const EXAMPLE: &str = "sqlite.toml";

/// Runs a subcommand of psflip's. Returns whether it succeeded, and what it printed.
#[track_caller]
fn run(sandbox: &Sandbox, subcommand: &str) -> (bool, String) {
    let client = sandbox.command([psflip_bin()]).args([subcommand, "-c", EXAMPLE]).start();
    let status = client.wait_exit();
    client.output().wait_closed();
    (status.success(), client.stdout() + &client.stderr())
}

#[test]
fn load_sqlite_with_an_exclusive_lock_loses_no_request_and_writes_each_once() {
    // Contract: E1, E2, E3, E5, E7
    if !are_installed(&["python3"]) {
        return;
    }
    let example = Example::new(EXAMPLE);
    let sandbox = &example.sandbox;
    sandbox.write("app.db", "");
    let psflip = example.psflip().start().wait_ready();
    let address = example.address();
    let probe = AvailabilityProbe::start(4, |number| {
        let client = HttpClient::new(address);
        let mut client = if number.is_multiple_of(2) { client.keep_alive() } else { client };
        move || client.post("/", b"x")?.tag("name")
    });
    let (good, config) = (sandbox.read("sqlite_app.py"), sandbox.read(EXAMPLE));
    let mut serves = 1;
    for generation in 2..=9 {
        probe.wait_tag(&serves.to_string());
        probe.wait_requests(20);
        let (bad, reason, waited) = match generation {
            3 => (good.replace("db = database()", "sys.exit(3)"), "exit code 3", true),
            5 => (good.replace("import os", "import no_such_module"), "No module named", false),
            7 => (good.replace("do_GET", "do_NOTHING"), "status 501", true),
            _ => (good.clone(), "", true),
        };
        // As releases are deployed: each version is a file of its own, and stays where it is.
        let file = format!("version_{generation}.py");
        sandbox.write(&file, bad);
        let timeout = if generation == 7 { "timeout = \"2s\"" } else { "timeout = \"20s\"" };
        let text = config.replace("sqlite_app.py", &file);
        sandbox.write(EXAMPLE, text.replacen("timeout = \"20s\"", timeout, 1));
        let (succeeded, said) = run(sandbox, "upgrade");
        assert_eq!(succeeded, reason.is_empty(), "{said}\n{}", sandbox.report());
        assert!(said.contains(reason), "no `{reason}` in {said}");
        assert_eq!(said.contains("clients waited"), waited, "{said}");
        let (_, status) = run(sandbox, "status");
        let again = status.contains(", and the old child was started again: ");
        assert_eq!(again, waited && !succeeded, "{status}");
        if succeeded {
            serves += 1;
        }
    }
    probe.wait_tag(&serves.to_string());
    let report = probe.finish();
    report.assert_no_failures();
    let count = HttpClient::new(address).get("/").unwrap().tag("count").unwrap();
    assert_eq!(count, report.requests.to_string(), "each request wrote one row\n{report}");
    assert!(psflip.stop().success());
    sandbox.assert_no_process_left();
}
