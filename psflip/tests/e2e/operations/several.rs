//! `psflip upgrade --all` and `psflip upgrade PATTERN`. They find every psflip of the host, so these services
//! run in a PID namespace of their own, and so does the client.

use std::process::ExitStatus;
use std::sync::Arc;

use serde_json::Value;
use testkit::{Running, Sandbox, Signal, Stream, fixture, psflip_bin};

use super::ended;
use crate::service::AT_ONCE;

/// Services in a PID namespace: one for each of these names, and its shell as PID 1.
struct Host {
    sandbox: Sandbox,
    shell: Arc<Running>,
}

impl Host {
    /// `None`: not possible here, which was reported.
    fn new(services: &[&str]) -> Option<Self> {
        if !testkit::need_root()
            || ["unshare", "nsenter", "setpriv"].iter().any(|name| testkit::need(name).is_none())
        {
            return None;
        }
        let sandbox = Sandbox::new();
        for service in services {
            configure(&sandbox, service, "[\"/bin/sleep\", \"infinity\"]", "");
        }
        let psflip = psflip_bin().display().to_string();
        let starts: String =
            services.iter().map(|service| format!("{psflip} -c \"$PWD/{service}.toml\" & ")).collect();
        let script = format!("{starts} wait");
        let unshare = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", &script];
        let shell = sandbox.command(unshare).start();
        shell.output().wait_count(services.len(), Stream::Stderr, "healthy, active");
        Some(Self { sandbox, shell })
    }

    /// Runs a client in the namespace, below `wrapper`.
    fn run_below(&self, wrapper: &[&str], args: &[&str]) -> (ExitStatus, String, String) {
        let inside = self.shell.first().children()[0].pid().to_string();
        let enter = ["nsenter", "--target", &inside, "--pid", "--mount"];
        let psflip = psflip_bin().display().to_string();
        let client =
            enter.iter().chain(wrapper).copied().chain([psflip.as_str()]).chain(args.iter().copied());
        ended(&self.sandbox.command(client).start())
    }

    fn run(&self, args: &[&str]) -> (ExitStatus, String, String) {
        self.run_below(&[], args)
    }

    /// A service's configuration, as `psflip list` calls it.
    fn name(&self, service: &str) -> String {
        self.sandbox.path(format!("{service}.toml")).display().to_string()
    }

    /// The generation of each service, by its name.
    fn generations(&self) -> Vec<(String, u64)> {
        let (_, stdout, stderr) = self.run(&["list", "--json"]);
        let all: Vec<Value> = serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
        let one = |one: &Value| {
            let config = one["status"]["config"]["path"].as_str().unwrap();
            let file = config.rsplit('/').next().unwrap().trim_end_matches(".toml").to_owned();
            (file, one["status"]["generation"].as_u64().unwrap())
        };
        all.iter().map(one).collect()
    }

    fn end(&self) {
        self.shell.signal(Signal::SIGKILL); // the whole namespace
        self.shell.wait_exit();
        self.sandbox.assert_no_process_left();
    }
}

fn configure(sandbox: &Sandbox, service: &str, cmd: &str, rest: &str) {
    let rest = if rest.is_empty() { AT_ONCE } else { rest };
    let pidfile = sandbox.path(format!("{service}.pid"));
    let config = format!("cmd = {cmd}\npidfile = {:?}\n{rest}", pidfile.display().to_string());
    sandbox.write(format!("{service}.toml"), config);
}

/// The next upgrade of this service fails.
fn break_it(host: &Host, service: &str) {
    let cmd = format!("[{:?}, \"--code\", \"3\"]", fixture("crash-on-init").display().to_string());
    configure(&host.sandbox, service, &cmd, "[healthcheck.alive]\ntimeout = \"1m\"\n");
}

fn of(generations: &[(&str, u64)]) -> Vec<(String, u64)> {
    generations.iter().map(|(name, generation)| ((*name).to_owned(), *generation)).collect()
}

#[test]
fn all_services_are_upgraded_one_after_the_other_until_one_fails() {
    // Contract: O6
    let Some(host) = Host::new(&["a", "b", "c"]) else { return };
    let (a, b, c) = (host.name("a"), host.name("b"), host.name("c"));
    let (status, stdout, stderr) = host.run(&["upgrade", "--all", "--wait", "drained"]);
    assert!(status.success(), "{stdout}{stderr}");
    let lines: Vec<&str> = stdout.lines().collect();
    for (line, part) in lines.iter().zip([
        format!("[1/3] {a}: starting the upgrade"),
        format!("[1/3] {a}: generation 2 is active (psflip "),
        format!("[1/3] {a}: the old generation is gone"),
        format!("[2/3] {b}: starting the upgrade"),
        format!("[2/3] {b}: generation 2 is active (psflip "),
        format!("[2/3] {b}: the old generation is gone"),
        format!("[3/3] {c}: starting the upgrade"),
        format!("[3/3] {c}: generation 2 is active (psflip "),
        format!("[3/3] {c}: the old generation is gone"),
        "3 of 3 services upgraded".to_owned(),
    ]) {
        assert!(line.starts_with(&part), "{line}\n{stdout}");
    }
    assert_eq!((lines.len(), stderr.as_str()), (10, ""), "{stdout}");
    assert_eq!(host.generations(), of(&[("a", 2), ("b", 2), ("c", 2)]));

    break_it(&host, "b");
    let (status, stdout, stderr) = host.run(&["upgrade", "--all", "--quiet"]);
    assert_eq!((status.code(), stdout.as_str()), (Some(1), ""), "{stderr}");
    let head = format!("[2/3] {b}: upgrade 2 to generation 3 failed; the old child (pid ");
    let tail = format!("1 of 3 services upgraded\nstopped at    {b}\nnot upgraded  {c}\n");
    assert!(stderr.starts_with(&head) && stderr.ends_with(&tail), "{stderr}");
    assert!(
        stderr.contains(&format!("psflip status --socket {}", host.sandbox.path("b.pid.sock").display())),
        "{stderr}"
    );
    assert_eq!(host.generations(), of(&[("a", 3), ("b", 2), ("c", 2)]));

    let (status, stdout, stderr) = host.run(&["upgrade", "--all", "--json"]);
    assert_eq!((status.code(), stderr.as_str()), (Some(1), ""), "{stdout}");
    let events: Vec<Value> = stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let (last, events) = events.split_last().unwrap();
    let reason = &events.iter().find(|event| event["event"] == "failed").unwrap()["reason"];
    let wanted = serde_json::json!({
        "event": "summary", "exit_code": 1, "reason": reason, "upgraded": [a], "stopped_at": b, "not_upgraded": [c],
    });
    assert_eq!(last, &wanted);
    assert!(events.iter().all(|event| event["service"] == a || event["service"] == b), "{stdout}");
    host.end();
}

#[test]
fn patterns_choose_services_by_the_names_in_the_list() {
    // Contract: O6
    let Some(host) = Host::new(&["a-web", "a-worker", "b-web"]) else { return };
    let (status, stdout, stderr) = host.run(&["upgrade", "a-*.toml", "--dry-run"]);
    let names = format!("{}\n{}\n", host.name("a-web"), host.name("a-worker"));
    assert_eq!((status.code(), stdout, stderr.as_str()), (Some(0), names, ""));
    let (status, _, stderr) = host.run(&["upgrade", "a-*.toml", "--keep"]);
    assert!(status.code() == Some(2) && stderr.contains("not for wildcards"), "{stderr}");
    let (status, stdout, stderr) = host.run(&["upgrade", "a-*.toml"]);
    assert!(status.success() && stdout.ends_with("2 of 2 services upgraded\n"), "{stdout}{stderr}");
    let (status, stdout, stderr) = host.run(&["upgrade", &host.name("b-web"), &host.name("a-web")]);
    assert!(status.success() && stdout.ends_with("2 of 2 services upgraded\n"), "{stdout}{stderr}");
    let after = of(&[("a-web", 3), ("a-worker", 2), ("b-web", 2)]);
    assert_eq!(host.generations(), after);
    for (args, message) in [
        (
            &["upgrade", "b-web.toml", "x*"][..],
            "no service of this user matches `x*`; `psflip list` shows what runs",
        ),
        (&["upgrade", "web.toml"], "matches `web.toml` (a configuration is named by `-c web.toml`)"),
        (
            &["upgrade", "--all", "--user", "daemon"],
            "there is no service of this user; `psflip list` shows what runs; 3 that belong to other users (`--user`) are left out",
        ),
        (&["upgrade", "--all", "--user", "no-such-user"], "there is no user `no-such-user`"),
    ] {
        let (status, stdout, stderr) = host.run(args);
        assert_eq!((status.code(), stdout.as_str()), (Some(125), ""), "{stderr}");
        assert!(stderr.contains(message), "{message}\n{stderr}");
    }
    // Another user finds none of root's, and root needs to name that user.
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    let (status, stdout, stderr) = host.run_below(&nobody, &["upgrade", "--all"]);
    assert_eq!((status.code(), stdout.as_str()), (Some(125), ""), "{stderr}");
    assert!(stderr.contains("there is no service of this user"), "{stderr}");
    assert_eq!(host.generations(), after, "nothing was upgraded");
    host.end();
}

#[test]
fn several_services_are_left_alone_while_one_of_them_does_not_answer() {
    // Contract: O6
    let Some(host) = Host::new(&["a", "b"]) else { return };
    let before = host.generations();
    let (_, stdout, _) = host.run(&["list", "--json"]);
    let all: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let pid = all[1]["pid"].to_string();
    host.run_signal(&pid, "STOP");
    let (status, stdout, stderr) = host.run(&["upgrade", "--all"]);
    assert_eq!((status.code(), stdout.as_str()), (Some(125), ""), "{stderr}");
    let socket = host.sandbox.path("b.pid.sock").display().to_string();
    let message = format!("the psflip of {socket} (pid {pid}) does not answer, so nothing was upgraded");
    assert!(stderr.contains(&message), "{stderr}");
    host.run_signal(&pid, "CONT");
    assert_eq!(host.generations(), before);
    host.end();
}

impl Host {
    /// Sends a signal to a process, by its pid in the namespace.
    fn run_signal(&self, pid: &str, signal: &str) {
        let inside = self.shell.first().children()[0].pid().to_string();
        let script = format!("kill -{signal} {pid}");
        let kill = ["nsenter", "--target", &inside, "--pid", "--mount", "sh", "-c", &script];
        assert!(ended(&self.sandbox.command(kill).start()).0.success());
    }
}

/// Processes with the name of psflip and sockets that user 65534 has bound: one has become root altogether, and one
/// is a setuid program.
const INHERITED: &str = "
import os, socket, sys
folder, real = sys.argv[1], int(sys.argv[2])
os.chdir(folder)
os.symlink(os.path.realpath(sys.executable), 'psflip')
os.setresuid(65534, 65534, 0)
inherited = socket.socket(socket.AF_UNIX)
inherited.bind('psflip.sock')
inherited.listen()
inherited.set_inheritable(True)
os.setresuid(0, 0, 0)
os.setresuid(real, 0, 0)
os.execv('psflip', [sys.executable, '-c', 'import signal; print(\"ready\", flush=True); signal.pause()'])
";

#[test]
fn a_socket_that_another_user_gave_to_a_program_of_root_is_not_roots_service() {
    // Contract: O6
    let Some(host) = Host::new(&["a"]) else { return };
    if testkit::need("python3").is_none() {
        return host.end();
    }
    let inside = host.shell.first().children()[0].pid().to_string();
    let others = ["0", "65534"].map(|real| {
        let folder = host.sandbox.path(format!("of-{real}"));
        std::fs::create_dir(&folder).unwrap();
        std::os::unix::fs::chown(&folder, Some(65534), None).unwrap();
        let folder = folder.display().to_string();
        let args = ["python3", "-c", INHERITED, &folder, real];
        let enter = ["nsenter", "--target", &inside, "--pid", "--mount"];
        let other = host.sandbox.command(enter.iter().chain(&args).copied()).start();
        other.output().wait_count(1, Stream::Stdout, "ready");
        other
    });
    let (status, stdout, stderr) = host.run(&["upgrade", "--all"]);
    assert!(status.success(), "{stdout}{stderr}");
    let last = "1 of 1 services upgraded; 1 that belong to other users (`--user`) are left out\n";
    assert!(stdout.ends_with(last), "{stdout}{stderr}");
    host.shell.signal(Signal::SIGKILL); // the whole namespace
    host.shell.wait_exit();
    for other in &others {
        other.wait_exit();
    }
    host.sandbox.assert_no_process_left();
}

#[test]
fn the_row_ends_at_a_psflip_that_does_not_answer_the_request() {
    // Contract: O6
    let Some(host) = Host::new(&["a", "b"]) else { return };
    let (_, stdout, _) = host.run(&["list", "--json"]);
    let all: Vec<Value> = serde_json::from_str(&stdout).unwrap();
    let (a, b) = (host.name("a"), host.name("b"));
    let pid = all[1]["pid"].to_string();
    // It is suspended while the first one is upgraded.
    let hook = format!("[hooks]\npromoted = [\"/bin/kill\", \"-STOP\", \"{pid}\"]\n");
    configure(&host.sandbox, "a", "[\"/bin/sleep\", \"infinity\"]", &format!("{AT_ONCE}{hook}"));
    let (status, stdout, stderr) = host.run(&["upgrade", "--all", "--strict"]);
    assert_eq!(status.code(), Some(125), "{stdout}{stderr}");
    assert!(stdout.contains(&format!("[1/2] {a}: the old generation is gone")), "{stdout}{stderr}");
    assert!(stdout.ends_with(&format!("[2/2] {b}: starting the upgrade\n")), "{stdout}{stderr}");
    let message = format!("[2/2] {b}: psflip has not answered on ");
    assert!(stderr.contains(&message) && stderr.contains("within 10s"), "{stderr}");
    assert!(stderr.ends_with(&format!("1 of 2 services upgraded\nstopped at    {b}\n")), "{stderr}");
    host.run_signal(&pid, "CONT");
    host.end();
}

#[test]
fn options_for_one_service_conflict_with_several() {
    let sandbox = Sandbox::new();
    for args in [
        &["upgrade", "--all", "-c", "app.toml"][..],
        &["upgrade", "--all", "--no-wait"],
        &["upgrade", "x*", "--socket", "app.sock"],
        &["upgrade", "x*", "--all"],
        &["upgrade", "--all", "--keep"],
        &["upgrade", "--dry-run"],
        &["upgrade", "--user", "root"],
    ] {
        let (status, _, stderr) = super::run(&sandbox, args);
        assert_eq!(status.code(), Some(2), "{args:?} {stderr}");
    }
}
