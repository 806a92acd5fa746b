//! Requests without pause from eight clients, during hundreds of upgrades. Is each one answered, and answered
//! correctly? `TRAFFIC_FLIPS=1000` makes the runs longer; `docs/traffic.md` explains the results.

pub(crate) mod clients;
mod inherited;
pub(crate) mod nginx;
pub(crate) mod ports;

use std::time::{Duration, Instant};

use testkit::client::Stage;
use testkit::pidfile::named_process;
use testkit::probe::Report;
use testkit::{AvailabilityProbe, Deadline, Psflip, PsflipBuilder, Sandbox, fixture, wait_until};

use clients::{fastcgi, http};
use nginx::Nginx;

/// Clients that send requests at the same time.
const CLIENTS: usize = 8;

/// Healthy when its own process listens at the public path.
const LISTENS: &str = "[healthcheck.unix]\npath = \"app.sock\"\ninterval = \"10ms\"\n";

fn flips() -> u32 {
    std::env::var("TRAFFIC_FLIPS").ok().and_then(|text| text.parse().ok()).unwrap_or(200)
}

/// A psflip with the fixture `program` as its child.
fn psflip(sandbox: &Sandbox, program: &str, args: &[&str], config: &str) -> PsflipBuilder {
    let program = fixture(program).display().to_string();
    sandbox.psflip().cmd([program.as_str()].iter().chain(args)).config(config)
}

fn fcgi_server(sandbox: &Sandbox) -> PsflipBuilder {
    psflip(sandbox, "fcgi-server", &["--socket", "app.sock", "--keep-idle", "200ms"], LISTENS)
}

/// An nginx on `web.sock` in front of `app.sock`. `location` is added to its proxy settings.
fn nginx_in_front(sandbox: &Sandbox, upstream: &str, location: &str) -> Nginx {
    let folder = sandbox.dir().display();
    Nginx::start(
        sandbox,
        &format!(
            "upstream app {{ server unix:{folder}/app.sock; {upstream} }}\n\
             server {{\n\
             listen unix:{folder}/web.sock;\n\
             location / {{\n\
             fastcgi_pass app;\n\
             fastcgi_param QUERY_STRING $query_string;\n\
             fastcgi_param REQUEST_METHOD $request_method;\n\
             fastcgi_param CONTENT_LENGTH $content_length;\n\
             fastcgi_param SCRIPT_NAME $fastcgi_script_name;\n\
             {location}\n\
             }}\n\
             }}\n"
        ),
    )
}

/// Runs `flips` upgrades under the load of `probe`, each as soon as the last generation has taken over and
/// answers. If the old generation still drains, the request is queued (U7). Returns the clients' report.
#[expect(clippy::print_stdout, reason = "these tests measure as well; `--no-capture` shows it")]
fn flip_under_load(what: &str, psflip: &Psflip, probe: AvailabilityProbe, flips: u32) -> Report {
    probe.wait_tag("gen1");
    let begun = Instant::now();
    let mut longest = Duration::ZERO;
    for generation in 2..=flips + 1 {
        let asked = Instant::now();
        let old = psflip.request_flip();
        // Not `wait_successor`: on a busy host, the kernel can take a second to close an inotify descriptor.
        probe.wait_tag(&format!("gen{generation}"));
        wait_until(Deadline::default(), "the pidfile to name the successor", || {
            named_process(psflip.pidfile_path()).filter(|named| *named != old)
        });
        longest = longest.max(asked.elapsed());
    }
    let took = begun.elapsed().as_secs_f64();
    probe.wait_requests(100);
    let report = probe.finish();
    println!(
        "{what}: {} requests, {flips} flips, {} failed; {:.1} flips/s, {:.0} requests/s, longest from request to take-over {:.0} ms, \
         slowest request {:.1} ms",
        report.requests,
        report.failed,
        f64::from(flips) / took,
        report.requests as f64 / report.duration.as_secs_f64(),
        longest.as_secs_f64() * 1e3,
        report.slowest.as_secs_f64() * 1e3,
    );
    for (cause, count) in report.causes() {
        println!("  {count} times {cause}");
    }
    assert_eq!(report.by_tag.len() as u64, u64::from(flips) + 1, "each request is one flip\n{report}");
    report
}

/// Stops the service. No generation has left a request unfinished or dropped a connection.
#[track_caller]
fn stop(sandbox: &Sandbox, psflip: &Psflip) {
    assert!(psflip.stop().success(), "{}", sandbox.report());
    let output = psflip.program().stdout();
    for trouble in ["unfinished", "connection dropped", "accept failed"] {
        assert!(!output.contains(trouble), "a server logs `{trouble}`\n{}", sandbox.report());
    }
}

#[test]
fn load_nginx_with_a_connection_per_request_loses_none_in_200_upgrades() {
    // Contract: U2, U5, U7
    if !nginx::is_installed() {
        return;
    }
    let sandbox = Sandbox::new();
    let psflip = fcgi_server(&sandbox).start().wait_ready();
    let nginx = nginx_in_front(&sandbox, "", "");
    let web = sandbox.path("web.sock");
    let probe = AvailabilityProbe::start(CLIENTS, |number| http(web.as_path(), number, true));
    let report = flip_under_load("nginx, fastcgi_pass unix:", &psflip, probe, flips());
    assert_eq!(nginx.stop(), [""; 0], "nginx complains\n{report}");
    stop(&sandbox, &psflip);
    report.assert_no_failures();
}

#[test]
fn load_nginx_with_keep_alive_to_fastcgi_loses_none_in_200_upgrades() {
    // Contract: U2, U5, U7
    if !nginx::is_installed() {
        return;
    }
    let sandbox = Sandbox::new();
    let psflip = fcgi_server(&sandbox).start().wait_ready();
    let keep = "fastcgi_keep_conn on; fastcgi_next_upstream error timeout non_idempotent;";
    let nginx = nginx_in_front(&sandbox, "keepalive 8;", keep);
    let web = sandbox.path("web.sock");
    let probe = AvailabilityProbe::start(CLIENTS, |number| http(web.as_path(), number, true));
    let report = flip_under_load("nginx, fastcgi_keep_conn on, keepalive 8", &psflip, probe, flips());
    nginx.stop(); // it may log a closed keep-alive connection, and then repeats the request
    stop(&sandbox, &psflip);
    report.assert_no_failures();
}

#[test]
fn load_fastcgi_without_a_web_server_loses_none_in_200_upgrades() {
    // Contract: U2, U5, U7
    let sandbox = Sandbox::new();
    let psflip = fcgi_server(&sandbox).start().wait_ready();
    let socket = sandbox.path("app.sock");
    let probe = AvailabilityProbe::start(CLIENTS, |number| fastcgi(&socket, number));
    let report = flip_under_load("FastCGI on a Unix socket", &psflip, probe, flips());
    stop(&sandbox, &psflip);
    report.assert_no_failures();
}

#[test]
fn load_http_on_a_renamed_unix_socket_loses_none_in_200_upgrades() {
    // Contract: U2, U5, U7
    let sandbox = Sandbox::new();
    let args = ["--unix", "app.sock", "--keep-idle", "200ms"];
    let psflip = psflip(&sandbox, "http-server", &args, LISTENS).start().wait_ready();
    let socket = sandbox.path("app.sock");
    let probe = AvailabilityProbe::start(CLIENTS, |number| http(socket.as_path(), number, false));
    let report = flip_under_load("HTTP on a Unix socket", &psflip, probe, flips());
    stop(&sandbox, &psflip);
    report.assert_no_failures();
}

/// A measurement. With `SO_REUSEPORT` the kernel itself loses connections, unless `net.ipv4.tcp_migrate_req`
/// is 1; that is not psflip's fault. The test asserts that every answer is right, and that requests fail only
/// by their connection.
#[test]
fn load_http_on_tcp_with_so_reuseport_answers_all_but_reset_connections() {
    // Contract: U2, U5, U7
    let sandbox = Sandbox::new();
    let port = ports::Reserved::new();
    let address = port.address();
    let tcp = address.to_string();
    let args =
        ["--reuseport", "--tcp", &tcp, "--probe", "probe-{{ blue_green() }}.sock", "--keep-idle", "200ms"];
    let health = "[healthcheck.unix]\npath = \"probe-{{ blue_green() }}.sock\"\ninterval = \"10ms\"\n";
    let psflip = psflip(&sandbox, "http-server", &args, health).start().wait_ready();
    let probe = AvailabilityProbe::start(CLIENTS, |number| http(address, number, false));
    let report = flip_under_load("HTTP on TCP with SO_REUSEPORT", &psflip, probe, flips());
    stop(&sandbox, &psflip);
    let wrong: Vec<_> =
        report.failures.iter().filter(|failure| failure.error.stage >= Stage::Protocol).collect();
    assert!(wrong.is_empty(), "wrong answers: {wrong:?}\n{}", sandbox.report());
}
