//! Releases that fail, in a container whose PID 1 is the anchor: an operator has `docker exec`, and no service manager
//! (docs/deploying.md).

use std::path::{Path, PathBuf};

use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, Process, Sandbox, wait_until};

use crate::docker::Container;
use crate::rig::Steady;

/// The programs of this host: Node and Python need many files.
const HOST: &[&str] = &["--volume", "/usr:/usr:ro"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The shop of the end-to-end tests behind a proxy: `release.json` says how the next release fails.
fn shop(sandbox: &Sandbox, to: &str, faults: &str) {
    let app = std::fs::read(folder("tests/e2e/servers/proxied/apps/shop.js")).unwrap();
    sandbox.write(format!("{to}shop.js"), app);
    sandbox.write(format!("{to}release.json"), format!("{{ \"name\": \"a\"{faults} }}"));
    let config = "cmd = [\"/usr/bin/node\", \"shop.js\"]\npidfile = \"app.pid\"\n[upgrade]\nbake = \"1h\"\n\
         [env]\nPORT = \"own-{{ blue_green() }}.sock\"\n\
         [healthcheck.http]\nurl = \"/up\"\ninterval = \"20ms\"\n\
         [[proxy]]\nlisten = \"unix://app.sock\"\nforward = \"unix://own-{{ blue_green() }}.sock\"\nprotocol = \"http\"\n";
    sandbox.write(format!("{to}app.toml"), config);
}

/// Clients that read pages.
fn pages(container: &Container) -> AvailabilityProbe {
    let socket = container.sandbox.path("srv/app.sock");
    let probe = AvailabilityProbe::start(2, |number| {
        let client = HttpClient::unix(&socket);
        let mut client = if number == 0 { client.keep_alive() } else { client };
        move || client.get("/")?.tag("release")
    });
    probe.wait_requests(10);
    probe
}

/// Nothing of an upgrade is visible to the engine.
#[track_caller]
fn is_the_same(container: &Container, first: Process) {
    assert_eq!(container.steady(), first);
    assert_eq!(container.inspect("{{.RestartCount}}"), "0");
}

#[test]
fn load_a_container_whose_release_breaks_in_its_bake_serves_the_old_one_again() {
    // Contract: B2, B3, B5, B7, B8, A1
    if testkit::need("node").is_none() {
        return;
    }
    let Some(container) = Container::start_with(Steady::Anchor, HOST, |sandbox, to| shop(sandbox, to, ""))
    else {
        return;
    };
    let (first, pidfile) = (container.steady(), container.wait_pidfile(None));
    let probe = pages(&container);
    shop(&container.sandbox, "srv/", ", \"failsAfter\": 0");
    let said = container.exec(&["upgrade"]).unwrap();
    assert!(said.contains("generation 2 has the traffic and bakes for 1 h"), "{said}");
    let mut client = HttpClient::unix(container.sandbox.path("srv/app.sock"));
    for _ in 0..6 {
        let _ = client.post("/order", b"x"); // the roll-back may have begun
    }
    wait_until(Deadline::default(), "the roll-back", || {
        let status = container.exec(&["status"]).unwrap();
        (status.contains("ROLLED BACK") && status.contains("status 503")).then_some(())
    });
    assert_eq!(container.wait_pidfile(None), pidfile);
    // A release that the health check finds sound, and an operator doesn't.
    shop(&container.sandbox, "srv/", "");
    container.exec(&["upgrade"]).unwrap();
    let said = container.exec(&["rollback"]).unwrap();
    assert!(said.contains("has the traffic again, and generation 2 is gone"), "{said}");
    let refused = container.exec(&["rollback"]).unwrap_err();
    assert!(refused.contains("no generation bakes"), "{refused}");
    assert_eq!(container.wait_pidfile(None), pidfile);
    container.exec(&["upgrade"]).unwrap();
    container.exec(&["keep"]).unwrap();
    container.wait_pidfile(Some(&pidfile));
    is_the_same(&container, first);
    probe.wait_requests(10);
    probe.finish().assert_no_failures();
    // `docker stop` in a bake. Node has no handler for SIGTERM.
    wait_until(Deadline::default(), "the old generation to be gone", || {
        container.exec(&["upgrade"]).is_ok().then_some(())
    });
    let family = first.tree();
    container.engine.docker(&["stop", "app"]).unwrap();
    assert!(family.iter().all(|process| !process.is_alive()), "{}", container.sandbox.report());
    assert_eq!(container.wait_ends(1), ["143"]);
    container.engine.docker(&["start", "app"]).unwrap();
    container.wait_pidfile(None);
    container.stop();
}

/// The SQLite example, with a socket that the test can reach.
fn sqlite(sandbox: &Sandbox, to: &str, app: &str, (from, into): (&str, &str)) {
    let read = |name: &str| std::fs::read_to_string(folder("../examples/servers").join(name)).unwrap();
    let config = read("sqlite.toml").replace("tcp://127.0.0.1:{{ env('PORT', '8080') }}", "unix://web.sock");
    let config = config.replace("\"python3\"", "\"/usr/bin/python3\"").replace("psflip.pid", "app.pid");
    sandbox.write(format!("{to}app.toml"), config.replace("sqlite_app.py", app));
    sandbox.write(format!("{to}{app}"), read("sqlite_app.py").replace(from, into));
}

#[test]
fn load_a_container_of_an_application_that_cant_run_twice_comes_back_from_a_bad_release() {
    // Contract: E1, E2, E3, E5, E7, A1
    if !Path::new("/usr/bin/python3").exists() {
        return;
    }
    let good = ("", "");
    let start = |sandbox: &Sandbox, to: &str| {
        sqlite(sandbox, to, "app1.py", good);
        sandbox.write(format!("{to}app.db"), "");
    };
    let Some(container) = Container::start_with(Steady::Anchor, HOST, start) else { return };
    let first = container.steady();
    let socket = container.sandbox.path("srv/web.sock");
    let probe = AvailabilityProbe::start(3, |number| {
        let client = HttpClient::unix(&socket);
        let mut client = if number == 0 { client.keep_alive() } else { client };
        move || client.post("/", b"x")?.tag("name")
    });
    probe.wait_requests(10);
    // The old child has stopped when this release fails.
    sqlite(&container.sandbox, "srv/", "app2.py", ("db = database()", "sys.exit(3)"));
    let said = container.exec(&["upgrade"]).unwrap_err();
    assert!(said.contains("exit code 3") && said.contains("was started again"), "{said}");
    let status = container.exec(&["status"]).unwrap();
    assert!(status.contains(", and the old child was started again: "), "{status}");
    probe.wait_requests(10);
    // The old child notices nothing of this one.
    sqlite(&container.sandbox, "srv/", "app3.py", ("import os", "import no_such_module"));
    let said = container.exec(&["upgrade"]).unwrap_err();
    assert!(said.contains("No module named"), "{said}");
    sqlite(&container.sandbox, "srv/", "app4.py", good);
    let said = container.exec(&["upgrade"]).unwrap();
    assert!(said.contains("clients waited"), "{said}");
    probe.wait_tag("2");
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.keys().collect::<Vec<_>>(), ["1", "2"], "{report}");
    let count = HttpClient::unix(&socket).get("/").unwrap().tag("count").unwrap();
    assert_eq!(count, report.requests.to_string(), "each request wrote one row\n{report}");
    is_the_same(&container, first);
    container.stop();
}
