//! The health check `docker`: with an engine that answers from a file, and with a real one, Debian's `docker.io`, started in the
//! sandbox, and an image of this machine's own shell. Nothing is pulled, no network is touched.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use testkit::{Deadline, PsflipBuilder, Running, Sandbox, Signal, Stream, wait_until};

use super::notify::is_installed;
use crate::examples;
use crate::service::stop;

/// A container engine of the test's own.
struct Engine {
    daemon: Arc<Running>,
    socket: PathBuf,
    /// The cgroup above those of its containers.
    cgroup: String,
}

/// Whether an engine can be started here; says so when it can't.
#[expect(clippy::print_stderr, reason = "a test that skips something says so")]
fn can_run() -> bool {
    use std::os::unix::fs::MetadataExt;
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
    if !is_root {
        eprintln!("skipped: only root can start a container engine");
    }
    is_root && ["dockerd", "docker", "unshare"].into_iter().all(is_installed)
}

impl Engine {
    /// Starts one and gives it an image `app`. In a mount namespace of its own, so that its mounts end with it.
    fn start(sandbox: &Sandbox) -> Self {
        let socket = sandbox.path("d.sock");
        let dir = sandbox.dir().display();
        let host = format!("unix://{}", socket.display());
        let cgroup = format!("psflip-test-{}", sandbox.id());
        let (data, exec, pid) = (format!("{dir}/data"), format!("{dir}/exec"), format!("{dir}/dockerd.pid"));
        let daemon = sandbox
            .command(["unshare", "--mount", "--propagation", "private", "dockerd"])
            .args(["--host", &host, "--data-root", &data, "--exec-root", &exec, "--pidfile", &pid])
            .args(["--bridge", "none", "--iptables=false", "--ip6tables=false", "--storage-driver", "vfs"])
            .args(["--log-level", "warn", "--cgroup-parent", &format!("/{cgroup}")])
            .start();
        let engine = Self { daemon, socket, cgroup };
        wait_until(Deadline::default(), "the engine to answer", || engine.docker(&["version"]).ok());
        let mut files: BTreeSet<String> = ["/bin/sh", "/bin/sleep", "/bin/cat"].map(str::to_owned).into();
        let libraries = Command::new("ldd").args(&files).output().unwrap();
        let libraries = String::from_utf8(libraries.stdout).unwrap();
        files.extend(
            libraries
                .split_whitespace()
                .filter(|word| word.starts_with('/') && !word.ends_with(':'))
                .map(str::to_owned),
        );
        let image = sandbox.path("image.tar");
        let tar = Command::new("tar").args(["-chPf", image.to_str().unwrap()]).args(&files).status().unwrap();
        assert!(tar.success());
        engine.docker(&["import", image.to_str().unwrap(), "app"]).unwrap();
        let check = "HEALTHCHECK --interval=200ms CMD test -e /up";
        let server = format!("CMD [\"sh\", \"-c\", \"{SERVE}\"]");
        let import = ["import", "--change", check, "--change", &server, image.to_str().unwrap(), "my-server"];
        engine.docker(&import).unwrap();
        engine
    }

    /// Runs the client.
    fn docker(&self, args: &[&str]) -> Result<String, String> {
        let host = format!("unix://{}", self.socket.display());
        let output = Command::new("docker").args(["--host", &host]).args(args).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        if output.status.success() { Ok(text(output.stdout)) } else { Err(text(output.stderr)) }
    }

    /// A psflip whose child is the client that runs `script` in a container.
    fn psflip(&self, sandbox: &Sandbox, run: &[&str], script: &str, config: &str) -> PsflipBuilder {
        let host = format!("unix://{}", self.socket.display());
        let name = "web-{{ blue_green() }}";
        let cmd = ["docker", "--host", &host, "run", "--name", name, "--network", "none"];
        let inside = ["app", "sh", "-c", script];
        let cmd = cmd.iter().chain(run).chain(&inside);
        let check = format!(
            "[healthcheck.docker]\ncontainer = \"{name}\"\nsocket = \"{host}\"\ninterval = \"50ms\"\n{config}"
        );
        sandbox.psflip().cmd(cmd).config(check)
    }

    /// Ends it. Its containers have ended.
    fn stop(self) {
        self.daemon.signal(Signal::SIGTERM);
        assert!(self.daemon.wait_exit().success(), "{}", self.daemon.stderr());
    }
}

impl Drop for Engine {
    /// An engine leaves its cgroups behind, empty, in every hierarchy there is.
    fn drop(&mut self) {
        let root = std::path::Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        for folder in hierarchies.chain([root.to_path_buf()]) {
            let _ = std::fs::remove_dir(folder.join(&self.cgroup)); // not in all of them
        }
    }
}

/// An engine that answers every question with what stands in a file of the sandbox.
fn start_scripted_engine(sandbox: &Sandbox) {
    let listener = UnixListener::bind(sandbox.path("d.sock")).unwrap();
    let file = sandbox.path("answer");
    // It ends with the test's process.
    std::thread::spawn(move || {
        for mut connection in listener.incoming().flatten() {
            let _ = connection.read(&mut [0; 1024]); // psflip sends its request at once
            let body = std::fs::read_to_string(&file).unwrap_or_default();
            let _ = write!(connection, "HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
    });
}

#[test]
fn an_upgrade_to_a_container_that_can_never_be_healthy_fails_at_once() {
    // Contract: H3, H4, U8, C6
    let sandbox = Sandbox::new();
    start_scripted_engine(&sandbox);
    let healthy = r#"{"State":{"Status":"running","Health":{"Status":"healthy"}}}"#;
    sandbox.write("answer", healthy);
    let config = format!(
        "[upgrade]\ntimeout = \"1h\"\n[healthcheck.docker]\ncontainer = \"web\"\nsocket = \"{}\"\ninterval = \"10ms\"\n",
        sandbox.path("d.sock").display()
    );
    let psflip = sandbox.psflip().cmd(["sleep", "1000"]).config(config).start().wait_ready();
    let before = (psflip.active(), psflip.child());
    for (answer, wanted) in [
        (r#"{"State":{"Status":"exited","ExitCode":3}}"#, "the container `web` has exited with code 3"),
        (r#"{"State":{"Status":"running"}}"#, "the container `web` has no health check"),
    ] {
        sandbox.write("answer", answer);
        let mark = psflip.output().mark();
        psflip.request_flip();
        let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed").text;
        let whole = format!("the child was not waited for any longer; {wanted}");
        assert!(line.contains(&whole) && line.contains("(exit code 124)"), "{line}");
        assert_eq!((psflip.active(), psflip.child()), before);
    }
    // What is not there yet is waited for.
    sandbox.write("answer", r#"{"State":{"Status":"created"}}"#);
    let old = psflip.request_flip();
    psflip.wait_for_line(Stream::Stderr, "upgrade started next_generation=2");
    sandbox.write("answer", healthy);
    psflip.wait_successor(old);
    psflip.wait_gone(old); // until it is acknowledged, a stop of the new one would only abort the upgrade
    stop(&psflip);
    sandbox.assert_no_process_left();
}

/// A server that ends as it should.
const SERVE: &str = "trap 'exit 0' TERM; echo serving; : > /up; while :; do sleep 0.05; done";
const SOON: &str = "[upgrade]\ntimeout = \"20s\"\n";

#[test]
fn a_container_is_promoted_when_a_real_engine_says_that_it_is_healthy() {
    // Contract: H1, H3, H4, U8
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let engine = Engine::start(&sandbox);
    let healthy = ["--rm", "--health-cmd", "test -e /up", "--health-interval", "200ms"];

    // Healthy, and flipped: two containers take turns.
    let psflip = engine.psflip(&sandbox, &healthy, SERVE, SOON).start().wait_ready();
    assert!(engine.docker(&["ps"]).unwrap().contains("(healthy)"));
    psflip.flip();
    let names = engine.docker(&["ps", "--format", "{{.Names}}"]).unwrap();
    assert!(names.contains("web-green"), "{names}");
    stop(&psflip);

    let fails = |run: &[&str], script: &str, config: &str, wanted: &[&str]| {
        let psflip = engine.psflip(&sandbox, run, script, config).start();
        assert_eq!(psflip.wait_exit().code(), Some(124), "{}", sandbox.report());
        let line = psflip.wait_for_line(Stream::Stderr, "failed reason=").text;
        for part in wanted {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
        let _ = engine.docker(&["rm", "--force", "web-blue"]); // `--rm` may have been quicker
    };
    // No health check: that ends the wait, however long it could be.
    let hour = "[upgrade]\ntimeout = \"1h\"\n";
    fails(
        &["--rm"],
        SERVE,
        hour,
        &["not waited for any longer", "the container `web-blue` has no health check"],
    );
    // Unhealthy until the time is up, with what the check said.
    let sick = [
        "--rm",
        "--health-cmd",
        "echo no database; exit 7",
        "--health-interval",
        "100ms",
        "--health-retries",
        "1",
    ];
    let short = "[upgrade]\ntimeout = \"5s\"\n";
    fails(
        &sick,
        SERVE,
        short,
        &["not healthy within 5s", "is `unhealthy`; its check exited with code 7: no database"],
    );
    // No such container: the client never makes one.
    let elsewhere = ["--rm", "--name", "another"];
    let soon = "[upgrade]\ntimeout = \"1s\"\n";
    fails(&elsewhere, SERVE, soon, &["there is no container `web-blue` (yet): No such container: web-blue"]);
    // Exited: the client goes on when its container has ended.
    engine
        .docker(&["run", "--name", "web-blue", "--network", "none", "app", "sh", "-c", "exit 3"])
        .unwrap_err();
    fails(&["--rm", "--name", "other"], SERVE, hour, &["the container `web-blue` has exited with code 3"]);
    // The example does what it shows.
    examples::copy_to(&sandbox);
    let psflip = sandbox.psflip().config_file("health-docker.toml").env("NETWORK", "none");
    let psflip =
        psflip.env("DOCKER_HOST", format!("unix://{}", engine.socket.display())).start().wait_ready();
    psflip.flip();
    assert!(engine.docker(&["ps"]).unwrap().contains("my-server"));
    stop(&psflip);
    engine.stop();
    sandbox.assert_no_process_left();
}
