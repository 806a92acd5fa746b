//! Every configuration in `examples/` works as it stands: it is valid, starts, becomes healthy, is upgraded,
//! and stops.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use testkit::client::fcgi::FcgiClient;
use testkit::client::http::HttpClient;
use testkit::client::{ClientError, Target};
use testkit::{AvailabilityProbe, Sandbox, Signal, fixture, psflip_bin};

use crate::service::script;
use crate::traffic::nginx::{self, Nginx};
use crate::traffic::ports::Reserved;

/// The address at which the server of an example answers.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum At {
    /// HTTP on `app.sock`, in every generation.
    Http,
    /// FastCGI on `app.sock`, in every generation.
    FastCgi,
    /// HTTP on the TCP ports `PORT_A` and `PORT_B`, in turn.
    Slots,
}

/// One test for each example, and the list of examples.
macro_rules! examples {
    ($($name:ident: $file:literal, $at:ident, $signal:ident;)*) => {
        pub(crate) const FILES: &[&str] = &[$($file),*];
        $(#[test]
        fn $name() {
            starts_flips_and_stops($file, At::$at, Signal::$signal);
        })*
    };
}

examples! {
    the_smallest_example_runs: "smallest.toml", Http, SIGHUP;
    the_example_of_slots_runs: "slots.toml", Slots, SIGHUP;
    the_example_of_http_on_a_unix_socket_runs: "http-unix.toml", Http, SIGHUP;
    the_example_of_fastcgi_runs: "fastcgi.toml", FastCgi, SIGHUP;
    the_example_of_the_check_alive_runs: "health-alive.toml", Http, SIGHUP;
    the_example_of_the_check_command_runs: "health-command.toml", Http, SIGHUP;
    the_example_of_the_check_tcp_runs: "health-tcp.toml", Http, SIGHUP;
    the_example_of_the_check_unix_runs: "health-unix.toml", Http, SIGHUP;
    the_example_of_the_check_http_runs: "health-http.toml", Http, SIGHUP;
    the_example_of_the_check_fcgi_runs: "health-fcgi.toml", FastCgi, SIGHUP;
    the_example_of_the_check_notify_runs: "health-notify.toml", Http, SIGHUP;
    the_example_of_the_environment_runs: "env.toml", Http, SIGHUP;
    the_example_of_the_shutdown_runs: "shutdown.toml", Http, SIGHUP;
    the_example_of_the_json_log_runs: "log-json.toml", Http, SIGHUP;
    the_example_of_output_runs: "output.toml", Http, SIGHUP;
    the_example_of_another_upgrade_signal_runs: "upgrade-signal.toml", Http, SIGUSR2;
    the_example_of_templates_runs: "templates.toml", Http, SIGHUP;
    the_example_of_inherited_listeners_runs: "listen.toml", Http, SIGHUP;
    the_example_of_fastcgi_on_descriptor_0_runs: "listen-fastcgi.toml", FastCgi, SIGHUP;
    the_example_of_the_symlink_switch_runs: "switch.toml", Http, SIGHUP;
    the_example_of_hooks_runs: "hooks.toml", Http, SIGHUP;
    the_example_of_recycling_runs: "recycle.toml", Http, SIGHUP;
    the_example_of_mapped_signals_runs: "signals.toml", Http, SIGHUP;
}

/// Examples with tests of their own.
const ELSEWHERE: &[&str] = &[
    "health-docker.toml", // health/docker.rs: needs a container engine
    "start-server.sh",    // flags.rs: they have no configuration file
    "spawn-fcgi.sh",
    "listen-datagrams.toml", // in this file: it sends no answers
];

pub(crate) fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples")
}

/// A sandbox with a copy of `examples`, as a user who tries them has it.
fn sandbox_with_examples() -> Sandbox {
    let sandbox = Sandbox::new();
    copy_to(&sandbox);
    sandbox
}

/// Copies `examples` into a sandbox.
pub(crate) fn copy_to(sandbox: &Sandbox) {
    for entry in fs::read_dir(folder()).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            sandbox.write(entry.file_name(), fs::read(entry.path()).unwrap());
        }
    }
}

/// PATH with the fixtures and psflip first.
pub(crate) fn path() -> OsString {
    let usual = std::env::var_os("PATH").unwrap_or_default();
    let programs = [fixture("http-server"), psflip_bin()];
    let folders = programs.iter().filter_map(|program| program.parent().map(Path::to_owned));
    std::env::join_paths(folders.chain(std::env::split_paths(&usual))).unwrap()
}

/// [`path`], with the sandbox's own `bin` before it.
fn path_of(sandbox: &Sandbox) -> OsString {
    let rest = path();
    std::env::join_paths([sandbox.path("bin")].into_iter().chain(std::env::split_paths(&rest))).unwrap()
}

/// Makes this shell script the next version of every server.
fn replace_servers(sandbox: &Sandbox, text: &str) {
    fs::create_dir_all(sandbox.path("bin")).unwrap();
    for name in ["http-server", "fcgi-server"] {
        script(sandbox, &format!("bin/{name}"), text);
    }
}

/// Runs `psflip upgrade`. Returns its exit code and its output.
#[track_caller]
fn run_upgrade(sandbox: &Sandbox, file: &str) -> (Option<i32>, String) {
    let client = sandbox.command([psflip_bin()]).args(["upgrade", "-c", file]).start();
    let status = client.wait_exit();
    client.output().wait_closed();
    (status.code(), client.stdout() + &client.stderr())
}

/// The pid of the server that answers.
pub(crate) fn ask(target: &Target, at: At) -> Result<String, ClientError> {
    match at {
        At::FastCgi => FcgiClient::new(target.clone()).get("/")?.tag("pid"),
        At::Http | At::Slots => HttpClient::new(target.clone()).get("/")?.tag("pid"),
    }
}

#[track_caller]
fn starts_flips_and_stops(file: &str, at: At, upgrade: Signal) {
    let sandbox = sandbox_with_examples();
    let (a, b) = (Reserved::new(), Reserved::new());
    let (port_a, port_b) = (a.port().to_string(), b.port().to_string());
    let psflip = psflip_bin().display().to_string();
    let check = sandbox.command([psflip.as_str(), "check", "-c", file]).start();
    assert!(check.wait_exit().success(), "{}", sandbox.report());

    let psflip = sandbox.psflip().config_file(file).upgrade_signal(upgrade);
    let psflip = psflip.env("PATH", path_of(&sandbox)).env("PORT_A", port_a).env("PORT_B", port_b);
    let psflip = psflip.start().wait_ready();
    let target = |address: &Reserved| match at {
        At::Slots => Target::Tcp(address.address()),
        At::Http | At::FastCgi => Target::Unix(sandbox.path("app.sock")),
    };
    let answers = |address: &Reserved| {
        assert_eq!(ask(&target(address), at), Ok(psflip.child_pid().to_string()), "{}", sandbox.report());
    };
    answers(&a);
    if at == At::Slots {
        psflip.flip();
    } else {
        let probe = AvailabilityProbe::start(2, |_| {
            let target = target(&a);
            move || ask(&target, at)
        });
        psflip.flip();
        probe.finish().assert_no_failures();
    }
    answers(&b);
    // A new version that crashes at once changes nothing.
    let before = psflip.active();
    replace_servers(&sandbox, "exit 7");
    let (code, said) = run_upgrade(&sandbox, file);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("exit code 7"), "{said}");
    assert_eq!(psflip.active(), before);
    answers(&b);
    assert!(psflip.stop().success(), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

/// One for each kind of health check.
const ONE_FOR_EACH_CHECK: &[&str] = &[
    "health-alive.toml",
    "health-command.toml",
    "health-fcgi.toml",
    "health-http.toml",
    "health-notify.toml",
    "health-tcp.toml",
    "health-unix.toml",
];

#[test]
fn a_crash_after_the_promotion_is_relayed_and_not_a_failed_upgrade() {
    // Contract: C5, U3
    // No health check detects this: docs/traffic.md says so.
    for file in ONE_FOR_EACH_CHECK {
        let sandbox = sandbox_with_examples();
        let (a, b) = (Reserved::new(), Reserved::new());
        let psflip = sandbox.psflip().config_file(file).env("PATH", path_of(&sandbox));
        let psflip = psflip.env("PORT_A", a.port().to_string()).env("PORT_B", b.port().to_string());
        let psflip = psflip.start().wait_ready();
        let server = if file.contains("fcgi") { "fcgi-server" } else { "http-server" };
        assert!(sandbox.command(["mkfifo", "crash"]).start().wait_exit().success());
        let text =
            format!("(read -r now < crash; kill -KILL $$) & exec '{}' \"$@\"", fixture(server).display());
        replace_servers(&sandbox, &text);
        let (code, said) = run_upgrade(&sandbox, file);
        assert_eq!(code, Some(0), "{file}: {said}");
        let active = psflip.active();
        // The open waits until the script opens the FIFO.
        fs::OpenOptions::new().write(true).open(sandbox.path("crash")).unwrap().write_all(b"now\n").unwrap();
        psflip.wait_gone(active);
        let ended = sandbox.statuses().into_iter().find(|(process, _)| *process == active);
        assert_eq!(ended.and_then(|(_, status)| status.signal()), Some(9), "{file}: {}", sandbox.report());
        assert!(!psflip.pidfile_path().exists(), "{file}");
        sandbox.assert_no_process_left();
    }
}

#[test]
fn the_example_of_datagrams_runs() {
    // Contract: U2
    let sandbox = sandbox_with_examples();
    let psflip =
        sandbox.psflip().config_file("listen-datagrams.toml").env("PATH", path()).start().wait_ready();
    let client = std::os::unix::net::UnixDatagram::unbound().unwrap();
    for generation in 1..=2 {
        client.send_to(b"hello", sandbox.path("log.sock")).unwrap();
        let line = format!("datagram name=gen{generation} hello");
        psflip.output().wait(testkit::Stream::Stdout, &line);
        psflip.flip();
    }
    assert!(psflip.stop().success(), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn every_example_is_run_by_a_test() {
    let there: BTreeSet<_> = fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".toml") || name.ends_with(".sh"))
        .collect();
    let tested: BTreeSet<_> = FILES.iter().chain(ELSEWHERE).map(|&name| name.to_owned()).collect();
    assert_eq!(there, tested, "add the example to the list in {}", file!());
}

#[test]
fn the_nginx_of_the_fastcgi_example_serves_throughout_an_upgrade() {
    // Contract: U2
    if !nginx::is_installed() {
        return;
    }
    let sandbox = sandbox_with_examples();
    let psflip = sandbox.psflip().config_file("fastcgi.toml").env("PATH", path()).start().wait_ready();
    let nginx = Nginx::start_with(&sandbox, "fastcgi.nginx.conf");
    let web = Target::Unix(sandbox.path("web.sock"));
    let probe = AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::new(web.clone()).keep_alive();
        move || client.post("/", b"hello")?.tag("pid")
    });
    for _ in 0..2 {
        probe.wait_tag(&psflip.child_pid().to_string());
        psflip.flip();
    }
    probe.wait_tag(&psflip.child_pid().to_string());
    probe.finish().assert_no_failures();
    nginx.stop();
    assert!(psflip.stop().success(), "{}", sandbox.report());
}
