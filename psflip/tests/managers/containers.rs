//! The recipe of `docs/containers.md`, and the files of `examples/containers`: an image that contains psflip alone,
//! and a container without privileges, with psflip as PID 1, below an init, by Compose, and as a pod would have it.
//!
//! One engine does all of it, in a network namespace of its own. Its image `python:3.13-slim-bookworm` is made of
//! this host's Python.

mod pod;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use testkit::client::http::HttpClient;
use testkit::managers::docker::{Engine, libraries, python};
use testkit::{AvailabilityProbe, Deadline, Process, Running, Sandbox, Signal, psflip_bin, wait_until};

use crate::rig::wait_gone;

/// The image of the example's `Dockerfile`.
const BASE: &str = "python:3.13-slim-bookworm";

/// How long a block of the page may take.
const SCRIPT_TIMEOUT: Duration = Duration::from_secs(90);
/// The published port of all containers, one after the other, in the engine's network namespace.
const PORT: u16 = 8080;

fn page() -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/containers.md")).unwrap()
}

/// The shell blocks of the page's recipe.
fn recipe() -> Vec<String> {
    let page = page();
    let (_, section) = page.split_once("\n## Five minutes\n").unwrap();
    let section = section.split("\n## ").next().unwrap();
    section.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap().to_owned()).collect()
}

/// A copy of `examples/containers`, beside an engine.
struct Site {
    engine: Engine,
    sandbox: Sandbox,
    folder: PathBuf,
}

impl Site {
    /// `None`: a requirement is missing.
    fn new() -> Option<Self> {
        let programs =
            ["dockerd", "docker-init", "docker-compose", "ip", "curl", "strip", "/usr/bin/python3"];
        if !testkit::need_root() || programs.iter().any(|program| testkit::need(program).is_none()) {
            return None;
        }
        let sandbox = Sandbox::new();
        let engine = Engine::start_with_network(&sandbox);
        let folder = sandbox.path("page");
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/containers");
        let copy = ["cp", "--recursive", &examples.display().to_string(), &folder.display().to_string()];
        assert!(sandbox.command(copy).start().wait_exit().success());
        // As a copy under umask 027, and more: the recipe has to open the files for the container's user.
        let closed = ["chmod", "--recursive", "o-rwx", &folder.display().to_string()];
        assert!(sandbox.command(closed).start().wait_exit().success());
        let site = Self { engine, sandbox, folder };
        site.import();
        Some(site)
    }

    /// The base image, and psflip without its debug information, which is most of it.
    fn import(&self) {
        fs::create_dir(self.sandbox.path("bin")).unwrap();
        let psflip = self.sandbox.path("bin/psflip").display().to_string();
        let strip = ["strip", "-o", &psflip, &psflip_bin().display().to_string()];
        assert!(self.sandbox.command(strip).start().wait_exit().success());
        let mut files = python("http.server, os, signal, encodings.idna, threading");
        // The psflip of the tests is no static program.
        files.extend(libraries(&[&psflip]));
        files.extend(["/bin/sh", "/bin/cat", "/usr/bin/install"].map(str::to_owned));
        self.engine.import(BASE, &files.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
    }

    /// Starts a shell with these commands, as an operator types them.
    fn shell(&self, script: &str) -> Arc<Running> {
        let script = format!("umask 027\n{script}");
        let path = std::env::var("PATH").unwrap();
        let path = format!("{}:{path}", self.sandbox.path("bin").display());
        let network = format!("--net={}", self.engine.network().path().display());
        let shell = self.sandbox.command(["nsenter", &network, "sh", "-e", "-c", &script]).cwd(&self.folder);
        let host = format!("unix://{}", self.engine.socket().display());
        shell.env("PATH", path).env("DOCKER_HOST", host).env("DOCKER_BUILDKIT", "0").start()
    }

    /// Runs commands, and returns their standard output.
    #[track_caller]
    fn run(&self, script: &str) -> String {
        let shell = self.shell(script);
        let status = shell.wait_exit_by(Deadline::after(SCRIPT_TIMEOUT));
        assert!(status.success(), "{status}\n{}", self.sandbox.report());
        shell.output().wait_closed();
        shell.stdout()
    }

    /// Deploys a release: its text, and the symlink.
    fn release(&self, name: &str, app: &str) {
        let current = self.folder.join("releases/current");
        fs::create_dir_all(self.folder.join("releases").join(name)).unwrap();
        fs::write(self.folder.join("releases").join(name).join("app.py"), app).unwrap();
        let _ = fs::remove_file(&current); // there may be none
        symlink(name, current).unwrap();
    }

    /// The example's application with another version.
    fn app(&self, version: &str) -> String {
        let text = fs::read_to_string(self.folder.join("releases/1/app.py")).unwrap();
        text.replace("VERSION = \"1\"", &format!("VERSION = \"{version}\""))
    }

    #[track_caller]
    fn inspect(&self, container: &str, what: &str) -> String {
        self.engine.docker(&["inspect", "--format", what, container]).unwrap().trim().to_owned()
    }

    /// A subcommand of psflip by `docker exec`, with its standard error if it failed.
    fn exec(&self, container: &str, args: &[&str]) -> Result<String, String> {
        self.engine.docker(&[&["exec", container, "psflip"], args].concat())
    }

    #[track_caller]
    fn status(&self, container: &str) -> serde_json::Value {
        serde_json::from_str(&self.exec(container, &["status", "--json"]).unwrap()).unwrap()
    }

    /// For polling, where one `docker exec` may fail.
    fn try_status(&self, container: &str) -> Option<serde_json::Value> {
        serde_json::from_str(&self.exec(container, &["status", "--json"]).ok()?).ok()
    }

    /// PID 1 of a container, by its pid outside.
    #[track_caller]
    fn first(&self, container: &str) -> Process {
        Process::find(self.inspect(container, "{{.State.Pid}}").parse().unwrap()).unwrap()
    }

    #[track_caller]
    fn wait(&self, container: &str, what: &str, wanted: &str) {
        wait_until(Deadline::default(), format!("{what} of {container} to be {wanted}"), || {
            let found = self.engine.docker(&["inspect", "--format", what, container]).ok()?;
            (found.trim() == wanted).then_some(())
        });
    }

    /// Clients of [`PORT`]: on a connection for each request, and on one for all.
    fn clients(&self) -> AvailabilityProbe {
        let probe = AvailabilityProbe::start(3, |number| {
            let network = self.engine.network();
            let client = HttpClient::tcp(SocketAddr::from(([127, 0, 0, 1], PORT)));
            let mut client = if number == 0 { client.keep_alive() } else { client };
            let mut is_there = false;
            move || {
                if !std::mem::replace(&mut is_there, true) {
                    network.enter();
                }
                client.get("/")?.tag("version")
            }
        });
        probe.wait_requests(10);
        probe
    }

    /// Requests an upgrade by a signal, as an operator without `docker exec` does, and waits for the new generation.
    #[track_caller]
    fn hang_up(&self, container: &str) {
        let before = self.status(container)["generation"].as_u64().unwrap();
        self.engine.docker(&["kill", "--signal", "HUP", container]).unwrap();
        wait_until(Deadline::default(), "the upgrade by SIGHUP", || {
            let status = self.try_status(container)?;
            (status["generation"].as_u64() > Some(before)).then_some(())
        });
    }

    /// Kills psflip itself: PID 1 dies with it, and the engine starts the container again.
    #[track_caller]
    fn killed_and_restarted(&self, container: &str) {
        let family = self.first(container).tree();
        let is_psflip = |process: &&Process| process.cmdline().is_ok_and(|line| line == ["psflip", "run"]);
        family.iter().find(is_psflip).unwrap().signal(Signal::SIGKILL).unwrap();
        wait_gone("the container", &family);
        self.wait(container, "{{.RestartCount}} {{.State.Status}}", "1 running");
        wait_until(Deadline::default(), "the container to serve again", || {
            self.exec(container, &["status", "--check"]).ok()
        });
    }

    /// Stops a container, and returns its exit code.
    #[track_caller]
    fn stop(&self, container: &str) -> String {
        let family = self.first(container).tree();
        self.engine.docker(&["stop", container]).unwrap();
        assert!(family.iter().all(|process| !process.is_alive()), "{}", self.sandbox.report());
        self.inspect(container, "{{.State.Status}} {{.State.ExitCode}}")
    }
}

/// The process of a container has no privileges.
#[track_caller]
fn assert_hardened(first: Process) {
    let expected = [
        ("Uid", "65532"),
        ("CapEff", "0000000000000000"),
        ("CapBnd", "0000000000000000"),
        ("NoNewPrivs", "1"),
        ("Seccomp", "2"),
    ];
    for (field, value) in expected {
        let found = first.status_field(field).unwrap();
        assert!(found.starts_with(value), "{field}: {found}");
    }
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", first.pid())).unwrap();
    let root = mounts.lines().find(|line| line.split(' ').nth(1) == Some("/")).unwrap();
    assert!(root.split(' ').nth(3).unwrap().starts_with("ro,"), "{root}");
}

/// The page shows the Dockerfile, without its comments.
#[track_caller]
fn assert_shown(site: &Site) {
    let text = fs::read_to_string(site.folder.join("Dockerfile")).unwrap();
    let lines: String =
        text.lines().filter(|line| !line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    assert!(page().contains(&format!("```dockerfile\n{lines}```")), "{lines}");
}

/// Builds the page's images. Only a static psflip can run in an image that contains psflip alone, and the psflip of the
/// tests needs libraries, so the page's line that runs it has to fail.
#[track_caller]
fn build_images(site: &Site, script: &str) {
    let (runs, builds): (Vec<&str>, Vec<&str>) =
        script.lines().partition(|line| line.starts_with("docker run --rm psflip --version "));
    site.run(&builds.join("\n"));
    assert_eq!(runs.len(), 1, "{script}");
    let run = site.shell(runs[0]);
    assert!(!run.wait_exit_by(Deadline::after(SCRIPT_TIMEOUT)).success(), "{}", site.sandbox.report());
}

/// The image `psflip` has one file: the program.
#[track_caller]
fn assert_holds_psflip_alone(site: &Site) {
    let bytes = fs::metadata(site.sandbox.path("bin/psflip")).unwrap().len();
    let image = site.inspect("psflip", "{{len .RootFS.Layers}} layer, {{.Size}} bytes");
    assert_eq!(image, format!("1 layer, {bytes} bytes"));
}

#[test]
fn load_containers_are_upgraded_as_the_page_says() {
    // Contract: U8, F3, S1, C5, C7, A1
    let Some(site) = Site::new() else { return };
    let [build, start, upgrade, stop] = &recipe()[..] else { panic!("{:?}", recipe()) };
    assert_shown(&site);
    build_images(&site, build);
    assert_holds_psflip_alone(&site);
    // A health check per second: the test sees more of them, and waits less.
    let start = &start.replace("docker run ", "docker run --health-interval 1s ");
    assert!(site.run(start).ends_with("version=1\n"));
    as_pid_1(&site, upgrade);
    site.run(stop);
    below_an_init(&site, start);
    by_compose(&site);
    pod::as_in_a_pod(&site);
    site.engine.stop();
    site.sandbox.assert_no_process_left();
}

/// The page's container.
fn as_pid_1(site: &Site, upgrade: &str) {
    let first = site.first("app");
    assert_hardened(first);
    let probe = site.clients();
    let stdout = site.run(upgrade);
    let answers: Vec<&str> = stdout.lines().filter(|line| line.starts_with("version=")).collect();
    assert_eq!(answers, ["version=2", "version=2"], "{stdout}");
    for part in ["generation 2 is active", "refused\nversion=2\n", "recent upgrades"] {
        assert!(stdout.contains(part), "`{part}` is missing:\n{stdout}");
    }
    wait_until(Deadline::default(), "the upgrade by SIGHUP", || {
        (site.try_status("app")?["generation"] == 3).then_some(())
    });
    let status = site.exec("app", &["status"]).unwrap();
    assert!(
        status.contains("requested by SIGHUP from a process outside of this PID namespace (root)"),
        "{status}"
    );
    for number in 4..8 {
        site.release(&number.to_string(), &site.app(&number.to_string()));
        if number % 2 == 0 {
            site.exec("app", &["upgrade", "--quiet"]).unwrap();
        } else {
            site.hang_up("app");
        }
        probe.wait_tag(&number.to_string());
    }
    site.wait("app", "{{.State.Health.Status}}", "healthy");
    // Releases that can't be started: a missing one, and one that never becomes healthy.
    for (release, reason) in [("gone", "No such file or directory"), ("bad", "exit code 3")] {
        site.release(release, "import os\nos._exit(3)\n");
        if release == "gone" {
            fs::remove_dir_all(site.folder.join("releases/gone")).unwrap();
        }
        let said = site.exec("app", &["upgrade"]).unwrap_err();
        assert!(said.contains(reason) && said.contains("keeps running"), "{said}");
    }
    // Root has no privileges here, either.
    let said = site.engine.docker(&["exec", "--user", "0", "app", "psflip", "upgrade"]).unwrap_err();
    assert!(
        said.contains("root lacks the capability CAP_DAC_OVERRIDE here, so run this as the user"),
        "{said}"
    );
    probe.wait_requests(10);
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.keys().collect::<Vec<_>>(), ["1", "2", "4", "5", "6", "7"], "{report}");
    assert_eq!(site.first("app"), first);
    let health = "{{.State.Health.Status}} {{.State.Health.FailingStreak}} {{.RestartCount}}";
    assert_eq!(site.inspect("app", health), "healthy 0 0");
    answers_what_is_under_way(site);
    site.engine.docker(&["start", "app"]).unwrap();
    site.wait("app", "{{.State.Running}}", "true");
    site.killed_and_restarted("app");
}

/// `docker stop` waits for a request whose answer takes longer.
fn answers_what_is_under_way(site: &Site) {
    let app = site.app("slow").replace(
        "        body =",
        "        while self.path == \"/slow\" and not os.path.exists(\"/srv/app/go\"):\n            Event().wait(0.01)\n        body =",
    );
    site.release("slow", &format!("from threading import Event\n{app}"));
    // Until the old generation is gone, it may answer the next request.
    site.exec("app", &["upgrade", "--wait", "drained"]).unwrap();
    let network = site.engine.network();
    let client = std::thread::spawn(move || {
        network.enter();
        HttpClient::tcp(SocketAddr::from(([127, 0, 0, 1], PORT))).get("/slow")
    });
    wait_until(Deadline::default(), "the slow request to be under way", || {
        (site.try_status("app")?["proxies"][0]["under_way"] == 1).then_some(())
    });
    let stop = site.shell("docker stop app");
    wait_until(Deadline::default(), "the health check to see the stop: exit code 1, and `stopping:`", || {
        let check = site.shell("docker exec app psflip status --check");
        let status = check.wait_exit();
        check.output().wait_closed();
        (status.code() == Some(1) && check.stdout().starts_with("stopping:")).then_some(())
    });
    fs::write(site.folder.join("releases/go"), "").unwrap();
    let answer = client.join().unwrap().unwrap();
    assert_eq!(answer.tag("version").unwrap(), "slow");
    assert!(stop.wait_exit().success(), "{}", site.sandbox.report());
    assert_eq!(site.inspect("app", "{{.State.Status}} {{.State.ExitCode}}"), "exited 0");
    site.release("1", &site.app("1"));
}

/// `docker run --init`: psflip is not PID 1, and its anchor stays as the init's child.
fn below_an_init(site: &Site, start: &str) {
    let start = start.replace("--name app", "--name init --init");
    assert!(start.contains("--init"), "{start}");
    assert!(site.run(&start).ends_with("version=1\n"));
    let first = site.first("init");
    assert!(first.cmdline().unwrap()[0].ends_with("docker-init"), "{:?}", first.cmdline());
    let probe = site.clients();
    site.release("2", &site.app("2"));
    site.hang_up("init");
    probe.wait_tag("2");
    site.release("3", "import no_such_module\n");
    let said = site.exec("init", &["upgrade"]).unwrap_err();
    assert!(said.contains("exit code 1") && said.contains("keeps running"), "{said}");
    site.release("4", &site.app("4"));
    site.exec("init", &["upgrade"]).unwrap();
    probe.wait_tag("4");
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.keys().collect::<Vec<_>>(), ["1", "2", "4"], "{report}");
    assert_eq!(site.first("init"), first);
    site.killed_and_restarted("init");
    assert_eq!(site.stop("init"), "exited 0");
    site.engine.docker(&["rm", "init"]).unwrap();
}

/// Debian has `docker-compose`, which reads the same file as `docker compose`.
fn by_compose(site: &Site) {
    site.release("1", &site.app("1"));
    site.run("docker-compose --project-name site up --detach --build");
    let id = site.run("docker-compose --project-name site ps --quiet app");
    let container = id.trim();
    assert_hardened(site.first(container));
    wait_until(Deadline::default(), "the container to serve", || {
        site.exec(container, &["status", "--check"]).ok()
    });
    let probe = site.clients();
    site.release("2", &site.app("2"));
    site.run("docker-compose --project-name site exec -T app psflip upgrade --wait drained");
    probe.wait_tag("2");
    probe.finish().assert_no_failures();
    assert_eq!(site.inspect(container, "{{.HostConfig.RestartPolicy.Name}}"), "always");
    site.run("docker-compose --project-name site stop");
    assert_eq!(site.inspect(container, "{{.State.ExitCode}}"), "0");
    site.run("docker-compose --project-name site down");
}
