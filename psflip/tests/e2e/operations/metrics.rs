//! `psflip metrics`, as Prometheus and its tools read it.

use std::net::TcpStream;
use std::path::Path;

use serde_json::Value;
use testkit::client::http::HttpClient;
use testkit::{Deadline, Sandbox, Signal, Stream, need, psflip_bin, wait_until};

use super::{run, start_at_once};
use crate::service::{AT_ONCE, configure, stop};
use crate::traffic::ports::Reserved;

/// Upgrades to a version that crashes.
#[track_caller]
fn fail(sandbox: &Sandbox) {
    configure(sandbox, &["crash-on-init", "--code", "3"], "[healthcheck.alive]\ntimeout = \"1m\"\n");
    assert_eq!(run(sandbox, &["upgrade"]).0.code(), Some(1));
}

#[test]
fn real_parsers_accept_the_metrics() {
    // Contract: O5, O8
    // Debian's, which has Debian's modules.
    let (Some(python), Some(promtool)) = (need("/usr/bin/python3"), need("promtool")) else { return };
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    psflip.flip();
    psflip.flip();
    fail(&sandbox);
    let (status, text, stderr) = run(&sandbox, &["metrics"]);
    assert!(status.success(), "{stderr}");
    sandbox.write("metrics.txt", &text);
    sandbox.write(
        "parse.py",
        "import json, sys\n\
         from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse\n\
         names = {s.name: s.value for f in parse(open('metrics.txt').read()) for s in f.samples\n\
         \x20        if s.labels.get('result') in (None, 'failed')}\n\
         json.dump(names, sys.stdout)\n",
    );
    let parser = sandbox.command([python]).arg("parse.py").start();
    assert!(parser.wait_exit().success(), "{}\n{text}", parser.stderr());
    parser.output().wait_closed();
    let values: Value = serde_json::from_str(&parser.stdout()).unwrap();
    for (name, value) in [
        ("psflip_up", 1.0),
        ("psflip_child_up", 1.0),
        ("psflip_generation", 3.0),
        ("psflip_upgrades_total", 1.0),
        ("psflip_last_upgrade_result", 1.0),
        ("psflip_draining", 0.0),
    ] {
        assert_eq!(values[name], value, "{name} in\n{text}");
    }
    for (result, count) in [("promoted", 2), ("failed", 1), ("rolled_back", 0)] {
        let counted = format!("result=\"{result}\"}} {count}\n");
        let line = text.lines().find(|line| {
            line.starts_with("psflip_upgrades_total{") && line.contains(&format!("result=\"{result}\""))
        });
        assert!(line.is_some_and(|line| format!("{line}\n").ends_with(&counted)), "{result}\n{text}");
    }
    // node_exporter's textfile collector reads the older format, whose names of counters have their suffix.
    let check =
        sandbox.command(["sh", "-c", "exec \"$0\" check metrics < metrics.txt"]).arg(promtool).start();
    check.wait_exit();
    check.output().wait_closed();
    let said = check.stdout() + &check.stderr();
    assert!(!said.contains("error while linting") && !said.contains("parsing error"), "{said}\n{text}");
    stop(&psflip);

    let (status, text, _) = run(&sandbox, &["metrics"]);
    assert!(status.success(), "a service that is down is a value, not an error");
    let service = sandbox.path("psflip.pid.sock").display().to_string();
    assert!(text.contains(&format!("psflip_up{{service=\"{service}\"}} 0\n")), "{text}");
}

#[test]
fn the_alert_rules_pass_their_tests() {
    let Some(promtool) = need("promtool") else { return };
    let sandbox = Sandbox::new();
    for name in ["psflip.rules.yml", "psflip.test.yml"] {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/monitoring").join(name);
        sandbox.write(name, std::fs::read(source).unwrap());
    }
    let tests = sandbox.command([promtool]).args(["test", "rules", "psflip.test.yml"]).start();
    assert!(tests.wait_exit().success(), "{}{}", tests.stdout(), tests.stderr());
}

#[test]
fn prometheus_scrapes_the_metrics_and_alerts_after_a_failed_upgrade() {
    // Contract: O5
    let Some(prometheus) = need("prometheus") else { return };
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    let exporter = sandbox.command([psflip_bin()]).args(["metrics", "--listen", "127.0.0.1:0"]).start();
    let line = exporter.output().wait(Stream::Stderr, "psflip: metrics at http://").text;
    let address = line.rsplit("http://").next().unwrap().trim_end_matches("/metrics").to_owned();
    let rules = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/monitoring/psflip.rules.yml");
    sandbox.write("psflip.rules.yml", std::fs::read(rules).unwrap());
    sandbox.write(
        "prometheus.yml",
        format!(
            "global: {{scrape_interval: 200ms, scrape_timeout: 200ms, evaluation_interval: 200ms}}\n\
             rule_files: [psflip.rules.yml]\n\
             scrape_configs:\n- job_name: psflip\n  static_configs: [{{targets: ['{address}']}}]\n"
        ),
    );
    let port = Reserved::new();
    let server = sandbox
        .command([prometheus])
        .arg("--config.file=prometheus.yml")
        .arg("--storage.tsdb.path=data")
        .arg(format!("--web.listen-address=127.0.0.1:{}", port.port()))
        .start();
    let query = |query: &str| -> Option<Value> {
        let answer = HttpClient::tcp(port.address()).get(&format!("/api/v1/query?query={query}")).ok()?;
        let answer: Value = serde_json::from_str(&answer.text()).ok()?;
        Some(answer["data"]["result"].clone()).filter(|result| !result.as_array().is_none_or(Vec::is_empty))
    };
    let generation =
        wait_until(Deadline::default(), "Prometheus to have scraped psflip", || query("psflip_generation"));
    assert_eq!(generation[0]["value"][1], "1", "{generation}");
    assert!(query("ALERTS").is_none());
    let failures = "psflip_upgrades_total{result=\"failed\"}".replace('"', "%22");
    assert_eq!(query(&failures).unwrap()[0]["value"][1], "0", "the series exists before the first failure");
    fail(&sandbox);
    let alerts = wait_until(Deadline::default(), "an alert", || query("ALERTS"));
    assert_eq!(alerts[0]["metric"]["alertname"], "PsflipUpgradeFailed", "{alerts}");
    assert_eq!(alerts[0]["metric"]["service"], sandbox.path("psflip.pid.sock").to_str().unwrap());
    assert_eq!(query(&failures).unwrap()[0]["value"][1], "1");
    // Three in an hour are another alert, which a good upgrade doesn't end.
    for _ in 0..2 {
        fail(&sandbox);
    }
    configure(&sandbox, &["http-server", "--unix", "app.sock"], AT_ONCE);
    assert!(run(&sandbox, &["upgrade"]).0.success());
    let repeated = "ALERTS{alertname=\"PsflipUpgradesFailOften\"}".replace('"', "%22");
    let repeated = wait_until(Deadline::default(), "the alert about many failures", || query(&repeated));
    assert_eq!(repeated[0]["metric"]["service"], alerts[0]["metric"]["service"]);
    // Clients that never finish their requests keep nobody waiting.
    let idle: Vec<_> = (0..70).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let answer = HttpClient::tcp(address.parse().unwrap()).get("/metrics").unwrap();
    assert_eq!(answer.status, 200);
    drop(idle);

    let mut client = HttpClient::tcp(address.parse().unwrap());
    assert_eq!(client.get("/").unwrap().status, 404);
    for program in [&server, &exporter] {
        program.signal(Signal::SIGTERM);
        program.wait_exit();
    }
    stop(&psflip);
    sandbox.assert_no_process_left();
}
