//! Docker: psflip below a stable parent that is PID 1 of its container, in an image built from the examples'
//! `Dockerfile`.

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use testkit::managers::docker::Engine;
use testkit::managers::require;
use testkit::{Deadline, Process, Sandbox, Signal, fixture, psflip_bin, wait_until};

use crate::rig::{AT_ONCE, BROKEN, STUBBORN, Steady, configure, is_root, probe, wait_gone, wait_pidfile};

/// The server takes its socket as descriptor 0. The fixture's other protocols need pidfd_getfd(2), which
/// containers forbid.
const SERVER: &[&str] = &["http-server", "--inherit", "stdin"];
const SERVING: &str = "[healthcheck.notify]\n[[listen]]\naddress = \"unix://app.sock\"\nas = \"stdin\"\n\
     [hooks]\nfailed = [\"sh\", \"-c\", \": > failed\"]\n";

/// A service in a container. Its `/srv/app` is the directory `srv` of the sandbox.
pub(crate) struct Container {
    pub(crate) engine: Engine,
    pub(crate) sandbox: Sandbox,
    /// Seconds since 1970.
    since: u64,
}

impl Container {
    #[track_caller]
    fn start(steady: Steady, child: &[&str], rest: &str) -> Option<Self> {
        Self::start_with(steady, &[], |sandbox, folder| configure(sandbox, folder, child, rest))
    }

    /// With more options of `docker run`. `files` writes the application's files, `app.toml` among them, to a
    /// directory of the sandbox.
    #[track_caller]
    pub(crate) fn start_with(
        steady: Steady,
        options: &[&str],
        files: impl Fn(&Sandbox, &str),
    ) -> Option<Self> {
        if !is_root() {
            return None; // only root can start an engine
        }
        require("dockerd", "docker.io");
        let sandbox = Sandbox::new();
        let engine = Engine::start(&sandbox);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        // The base image of the Dockerfile is made from this host's programs, since the test may not download
        // anything.
        let programs = ["http-server", "crash-on-init", "dies-later", "forks-workers"].map(fixture);
        let mut imported: Vec<String> =
            programs.iter().map(|program| program.display().to_string()).collect();
        imported.extend(["/bin/sh".to_owned(), psflip_bin().display().to_string()]);
        engine.import("debian:12-slim", &imported.iter().map(String::as_str).collect::<Vec<_>>(), &[]);
        files(&sandbox, "srv/");
        files(&sandbox, "context/");
        sandbox.write("context/Dockerfile", steady.example("docker/Dockerfile", "/srv/app"));
        std::fs::copy(psflip_bin(), sandbox.path("context/psflip")).unwrap();
        let context = sandbox.path("context").display().to_string();
        engine.docker(&["build", "--quiet", "--tag", "app", &context]).unwrap();
        let volume = format!("{}:/srv/app", sandbox.path("srv").display());
        let path = format!("PATH={}", crate::rig::path());
        let run = ["run", "--detach", "--name", "app", "--network", "none", "--restart", "always"];
        let run = [&run, options, &["--volume", &volume, "--env", &path, "app"]].concat();
        engine.docker(&run).unwrap();
        let container = Self { engine, sandbox, since };
        container.wait_pidfile(None);
        Some(container)
    }

    /// `docker exec` of a subcommand of psflip's. Returns what it printed: to standard error only, if it failed.
    #[track_caller]
    pub(crate) fn exec(&self, args: &[&str]) -> Result<String, String> {
        self.engine.docker(&[&["exec", "app", "psflip"], args, &["-c", "app.toml"]].concat())
    }

    #[track_caller]
    pub(crate) fn wait_pidfile(&self, before: Option<&str>) -> String {
        wait_pidfile(&self.sandbox.path("srv/app.pid"), before)
    }

    #[track_caller]
    pub(crate) fn inspect(&self, what: &str) -> String {
        self.engine.docker(&["inspect", "--format", what, "app"]).unwrap().trim().to_owned()
    }

    /// PID 1 of the container, by its pid outside.
    #[track_caller]
    pub(crate) fn steady(&self) -> Process {
        wait_until(Deadline::default(), "the container to run", || {
            self.inspect("{{.State.Pid}}").parse().ok().filter(|pid| *pid > 0).and_then(Process::find)
        })
    }

    /// The exit codes that the engine saw, once there are `count`.
    #[track_caller]
    pub(crate) fn wait_ends(&self, count: usize) -> Vec<String> {
        wait_until(Deadline::default(), "the engine to notice an exit", || {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64().to_string();
            let since = self.since.to_string();
            let events = ["events", "--since", &since, "--until", &now, "--filter", "event=die"];
            let events: Vec<&str> =
                events.iter().copied().chain(["--format", "{{.Actor.Attributes.exitCode}}"]).collect();
            let ends: Vec<String> = self.engine.docker(&events).unwrap().lines().map(str::to_owned).collect();
            (ends.len() >= count).then_some(ends)
        })
    }

    #[track_caller]
    fn flip(&self) {
        let before = self.wait_pidfile(None);
        self.engine.docker(&["kill", "--signal", "HUP", "app"]).unwrap();
        self.wait_pidfile(Some(&before));
    }

    /// Stops the container with the engine's own command, and checks that nothing is left of it.
    #[track_caller]
    pub(crate) fn stop(&self) {
        let family = self.steady().tree();
        self.engine.docker(&["stop", "app"]).unwrap();
        assert!(family.iter().all(|process| !process.is_alive()), "{}", self.sandbox.report());
        assert_eq!(self.inspect("{{.State.Status}}"), "exited");
        self.engine.docker(&["rm", "app"]).unwrap();
        self.engine.stop();
        self.sandbox.assert_no_process_left();
    }
}

impl Drop for Container {
    /// A test that fails prints the container's output.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.engine.docker(&["logs", "--tail", "30", "app"]);
            let _ = writeln!(std::io::stderr(), "--- the container's output: {logs:?}");
        }
    }
}

fn flips(steady: Steady) {
    let Some(container) = Container::start(steady, SERVER, SERVING) else { return };
    let first = container.steady();
    let probe = probe(&container.sandbox.path("srv/app.sock"));
    probe.wait_requests(10);
    for _ in 0..50 {
        container.flip();
        probe.wait_requests(5);
    }
    // `psflip upgrade`, which waits for the outcome.
    let before = container.wait_pidfile(None);
    let upgrade = ["exec", "app", "psflip", "upgrade", "-c", "app.toml"];
    container.engine.docker(&upgrade).unwrap();
    assert_ne!(container.wait_pidfile(None), before, "{}", container.sandbox.report());
    // A failed upgrade changes nothing. If the old generation still drains, the request is queued.
    let before = container.wait_pidfile(None);
    configure(&container.sandbox, "srv/", BROKEN, SERVING);
    container.engine.docker(&["kill", "--signal", "HUP", "app"]).unwrap();
    wait_until(Deadline::default(), "the upgrade to fail", || {
        container.sandbox.path("srv/failed").exists().then_some(())
    });
    configure(&container.sandbox, "srv/", SERVER, SERVING);
    assert_eq!(container.wait_pidfile(None), before, "{}", container.sandbox.report());
    container.flip();
    probe.wait_requests(10);
    probe.finish().assert_no_failures();
    assert_eq!(container.steady(), first);
    assert_eq!(container.inspect("{{.RestartCount}}"), "0");
    let pidfile = container.sandbox.path("srv/app.pid");
    let family = first.tree();
    container.engine.docker(&["stop", "app"]).unwrap();
    wait_gone("the container", &family);
    assert_eq!(container.wait_ends(1), ["0"]);
    assert!(!pidfile.exists(), "{}", container.sandbox.report());
    container.engine.docker(&["start", "app"]).unwrap();
    container.wait_pidfile(None);
    container.stop();
}

fn ends(steady: Steady) {
    let child = ["dies-later", "--on-file", "end", "--code", "23"];
    let Some(container) = Container::start(steady, &child, AT_ONCE) else { return };
    // A crash: the engine sees the child's own exit code, and restarts the container.
    container.flip();
    let first = container.steady();
    let soon = format!("{AT_ONCE}[shutdown]\ntimeout = \"100ms\"\n"); // they ignore the stop signal
    configure(&container.sandbox, "srv/", STUBBORN, &soon);
    container.sandbox.write("srv/end", "");
    wait_gone("the container's first process", &[first]);
    assert_eq!(container.wait_ends(1), ["23"]);
    let mut count = 1;
    for victim in ["psflip", "its keeper first", "PID 1"] {
        // The pidfile may still be that of a generation before the restart, whose pid another process has by
        // now.
        let (tree, child) = wait_until(Deadline::default(), "all of the container's processes", || {
            let tree = container.steady().tree();
            let of_user = |process: &&Process, first: &str| {
                process.status_field("Uid").is_some_and(|uids| uids.starts_with(first))
            };
            let all = tree.iter().filter(|process| of_user(process, "655")).count();
            let child = tree.iter().find(|process| of_user(process, "65533")).copied();
            child.filter(|_| all == 5).map(|child| (tree, child))
        });
        let keeper = child.parent().unwrap();
        let psflip = keeper.parent().unwrap();
        let victims = match victim {
            "psflip" => vec![psflip],
            "its keeper first" => vec![keeper, psflip],
            _ => vec![tree[0]],
        };
        for victim in victims {
            let _ = victim.signal(Signal::SIGKILL); // it may have exited with the other one
        }
        wait_gone(&format!("everything after the kill of {victim}"), &tree);
        count += 1;
        assert_eq!(container.wait_ends(count)[count - 1], "137", "{victim}\n{}", container.sandbox.report());
    }
    container.steady();
    container.stop();
}

#[test]
fn load_a_container_of_watch_has_fifty_upgrades_a_failed_one_and_a_stop() {
    // Contract: U8, U10, S1, C5, C9
    flips(Steady::Watch);
}

#[test]
fn load_a_container_of_an_anchor_has_fifty_upgrades_a_failure_and_a_stop() {
    // Contract: U8, U10, S1, C5, C9
    flips(Steady::Anchor);
}

#[test]
fn the_engine_gets_the_exit_status_from_an_anchor_and_no_process_stays() {
    // Contract: C5, C7, C9
    ends(Steady::Anchor);
}

#[test]
fn the_engine_gets_the_exit_status_from_watch_and_no_process_stays() {
    // Contract: C5, C7, C9
    ends(Steady::Watch);
}

#[test]
fn several_old_generations_drain_in_a_container_and_stop_with_it() {
    // Contract: A3, D3, F11
    let rest = format!("{SERVING}[upgrade]\ndraining = 3\n[shutdown]\ndelay = \"1h\"\n");
    let Some(container) = Container::start(Steady::Anchor, SERVER, &rest) else { return };
    let first = container.steady();
    let drains = |old: &serde_json::Value| old["generation"].as_u64();
    let draining = || -> Option<Vec<u64>> {
        let status: serde_json::Value =
            serde_json::from_str(&container.exec(&["status", "--json"]).ok()?).ok()?;
        status["older"].as_array()?.iter().chain([&status["predecessor"]]).map(drains).collect()
    };
    for expected in [&[1][..], &[1, 2], &[1, 2, 3], &[2, 3, 4]] {
        container.flip();
        wait_until(Deadline::default(), format!("generations {expected:?} to drain"), || {
            (draining()? == expected).then_some(())
        });
    }
    assert_eq!(container.steady(), first);
    container.stop();
}
