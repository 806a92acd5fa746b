//! Web servers in front of `[[proxy]]`, for TLS: they keep their connections to psflip through all upgrades, and lose
//! no request (`docs/proxy.md`, "TLS in front").

use std::path::{Path, PathBuf};

use testkit::client::Target;
use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, Psflip, Sandbox, Signal, wait_until};

use super::{CARELESS, HEALTHY, careless, proxy};
use crate::service::psflip;
use crate::traffic::nginx::{self, Nginx};
use crate::traffic::ports::Reserved;

/// Where a web server in front listens that can listen on a Unix socket.
fn front(sandbox: &Sandbox) -> PathBuf {
    sandbox.path("front.sock")
}

/// Upgrades five times while clients send requests to the web server that `start` starts, and stops that server by
/// `stop`. No request is lost, and connections of the web server outlive generations.
fn loses_nothing<F>(start: impl FnOnce(&Sandbox) -> F, stop: impl FnOnce(F)) {
    let sandbox = Sandbox::new();
    let psflip = careless(&sandbox, "").start().wait_ready();
    let server = start(&sandbox);
    loses_nothing_at(&sandbox, &psflip, &front(&sandbox).into(), || stop(server));
}

/// As [`loses_nothing`], where the web server listens at `front`.
fn loses_nothing_at(sandbox: &Sandbox, psflip: &Psflip, front: &Target, stop: impl FnOnce()) {
    let probe = AvailabilityProbe::start(4, |number| {
        let client = HttpClient::new(front.clone());
        let mut client = if number.is_multiple_of(2) { client.keep_alive() } else { client };
        move || {
            let answer = if number < 2 { client.get("/") } else { client.post("/", &[b'x'; 3000]) };
            answer?.tag("name")
        }
    });
    for generation in 1..=5 {
        probe.wait_tag(&format!("gen{generation}"));
        psflip.flip();
    }
    probe.wait_tag("gen6");
    let report = probe.finish();
    stop();
    psflip.stop();
    report.assert_no_failures();
    let log = psflip.log();
    let passed_on = log.matches("passed_on=").count() - log.matches("passed_on=0").count();
    assert!(passed_on > 0, "no connection outlived a generation\n{report}\n{log}");
    sandbox.assert_no_process_left();
}

/// Waits until the web server in front passes an answer on.
#[track_caller]
fn wait_served(front: impl Into<Target>) {
    let mut client = HttpClient::new(front);
    wait_until(Deadline::default(), "an answer of the web server in front", || {
        client.get("/").ok().filter(|answer| answer.status == 200)
    });
}

/// As [`loses_nothing`], with a program that serves at [`front`] soon after its start.
fn program_loses_nothing(argv: &[&str], file: &str, text: impl FnOnce(&Sandbox) -> String) {
    let start = |sandbox: &Sandbox| {
        sandbox.write(file, text(sandbox));
        let home = sandbox.dir().display().to_string();
        let running = sandbox.command(argv).cwd(sandbox.dir()).env("HOME", home).start();
        wait_served(front(sandbox));
        running
    };
    loses_nothing(start, |running| {
        running.signal(Signal::SIGTERM);
        running.wait_exit();
    });
}

#[test]
fn nginx_in_front_keeps_its_connections_and_loses_no_request() {
    // Contract: T2, T4, T6
    if !nginx::is_installed() {
        return;
    }
    let start = |sandbox: &Sandbox| {
        let folder = sandbox.dir().display();
        Nginx::start(
            sandbox,
            &format!(
                "upstream app {{ server unix:{folder}/web.sock; keepalive 16; }}\n\
                 server {{\n\
                 listen unix:{folder}/front.sock;\n\
                 location / {{\n\
                 proxy_pass http://app;\n\
                 proxy_http_version 1.1;\n\
                 proxy_set_header Connection \"\";\n\
                 proxy_next_upstream off;\n\
                 }}\n\
                 }}\n"
            ),
        )
    };
    loses_nothing(start, |nginx| assert_eq!(nginx.stop(), [""; 0], "nginx complains"));
}

#[test]
fn caddy_in_front_keeps_its_connections_and_loses_no_request() {
    // Contract: T2, T4, T6
    let Some(caddy) = testkit::need("caddy") else { return };
    let argv = [&caddy.display().to_string(), "run", "--config", "Caddyfile", "--adapter", "caddyfile"];
    program_loses_nothing(&argv, "Caddyfile", |sandbox| {
        let folder = sandbox.dir().display();
        format!(
            "{{\n\tadmin off\n}}\nhttp:// {{\n\tbind unix/{folder}/front.sock\n\
             \treverse_proxy unix/{folder}/web.sock\n}}\n"
        )
    });
}

#[test]
fn haproxy_in_front_keeps_its_connections_and_loses_no_request() {
    // Contract: T2, T4, T6
    let Some(haproxy) = testkit::need("haproxy") else { return };
    program_loses_nothing(
        &[&haproxy.display().to_string(), "-db", "-f", "front.cfg"],
        "front.cfg",
        |sandbox| {
            let folder = sandbox.dir().display();
            format!(
                "defaults\n mode http\n retries 0\n timeout connect 5s\n timeout client 1m\n timeout server 1m\n\
             frontend web\n bind unix@{folder}/front.sock\n default_backend app\n\
             backend app\n http-reuse always\n server psflip unix@{folder}/web.sock\n"
            )
        },
    );
}

/// The blocks of YAML in the page on the proxy: traefik's two files.
fn yaml_of_the_page() -> [String; 2] {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/proxy.md");
    let page = std::fs::read_to_string(page).unwrap();
    let blocks = page.split("```yaml\n").skip(1).map(|rest| rest.split_once("```").unwrap().0.to_owned());
    blocks.collect::<Vec<_>>().try_into().expect("two blocks of YAML")
}

/// The text with `to` in place of `from`, which it must contain.
#[track_caller]
fn replace(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "no `{from}` in {text}");
    text.replace(from, to)
}

#[test]
fn traefik_in_front_keeps_its_connections_and_loses_no_request() {
    // Contract: T2, T4, T6
    let Some(traefik) = testkit::need("traefik") else { return };
    let sandbox = Sandbox::new();
    let (front, web) = (Reserved::new(), Reserved::new());
    let at_port = proxy("").replace("unix://web.sock", &format!("tcp://{}", web.address()));
    let psflip = psflip(&sandbox, CARELESS, &format!("{HEALTHY}{at_port}")).start().wait_ready();
    // The page's files, without TLS, which the clients of the test do not speak.
    let [start, routes] = yaml_of_the_page();
    let start = replace(&start, ":443", &front.address().to_string());
    let start = replace(&start, "/etc/traefik/", "") + "global:\n  checkNewVersion: false\n";
    sandbox.write("traefik.yml", start);
    let routes = replace(&web.in_text(&routes), "      tls: {}\n", "");
    let routes = replace(&routes, "example.org`", "testkit`");
    sandbox.write("app.yml", routes.split_once("tls:\n").unwrap().0);
    let argv = [&traefik.display().to_string(), "--configFile=traefik.yml"];
    let traefik = sandbox.command(argv).cwd(sandbox.dir()).start();
    wait_served(front.address());
    loses_nothing_at(&sandbox, &psflip, &front.address().into(), || {
        traefik.signal(Signal::SIGTERM);
        traefik.wait_exit();
    });
}
