//! The health check `docker`, with an engine whose answers come from a file, and with a real one: Debian's
//! `docker.io`, started in the sandbox, with an image that contains this host's shell. It pulls nothing and
//! uses no network.

use std::io::{Read, Write};
use std::os::unix::net::UnixListener;

use testkit::managers::docker::Engine;
use testkit::{PsflipBuilder, Sandbox, Stream, psflip_bin};

use super::notify::is_installed;
use crate::examples;
use crate::service::stop;

/// Whether the test can start an engine, which requires root.
fn can_run() -> bool {
    testkit::need_root() && ["dockerd", "docker", "unshare"].into_iter().all(is_installed)
}

/// Starts an engine and gives it two images: `app`, with a shell, and `my-server`, which serves by itself.
fn start_engine(sandbox: &Sandbox) -> Engine {
    let engine = Engine::start(sandbox);
    let files = ["/bin/sh", "/bin/sleep", "/bin/cat"];
    engine.import("app", &files, &[]);
    let check = "HEALTHCHECK --interval=200ms CMD test -e /up";
    engine.import("my-server", &files, &[check, &format!("CMD [\"sh\", \"-c\", \"{SERVE}\"]")]);
    engine
}

/// A psflip whose child is the docker client that runs `script` in a container.
fn with_container(
    engine: &Engine,
    sandbox: &Sandbox,
    run: &[&str],
    script: &str,
    config: &str,
) -> PsflipBuilder {
    let host = format!("unix://{}", engine.socket().display());
    let name = "web-{{ blue_green() }}";
    let cmd = ["docker", "--host", &host, "run", "--name", name, "--network", "none"];
    let inside = ["app", "sh", "-c", script];
    let cmd = cmd.iter().chain(run).chain(&inside);
    let check = format!(
        "[healthcheck.docker]\ncontainer = \"{name}\"\nsocket = \"{host}\"\ninterval = \"50ms\"\n{config}"
    );
    sandbox.psflip().cmd(cmd).config(check)
}

/// An engine that answers every request with the content of a file in the sandbox.
pub(crate) fn start_scripted_engine(sandbox: &Sandbox) {
    let listener = UnixListener::bind(sandbox.path("d.sock")).unwrap();
    let file = sandbox.path("answer");
    // The thread lives until the test's process exits.
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
        let whole = format!("the child can't become healthy; {wanted}");
        assert!(line.contains(&whole) && line.contains("(exit code 124)"), "{line}");
        assert_eq!((psflip.active(), psflip.child()), before);
    }
    // psflip waits for a container that does not run yet.
    sandbox.write("answer", r#"{"State":{"Status":"created"}}"#);
    let old = psflip.request_flip();
    psflip.wait_for_line(Stream::Stderr, "upgrade started next_generation=2");
    sandbox.write("answer", healthy);
    psflip.wait_successor(old);
    psflip.wait_gone(old); // before the acknowledgement, a stop of the new one would only abort the upgrade
    stop(&psflip);
    sandbox.assert_no_process_left();
}

/// A server that exits cleanly on SIGTERM.
const SERVE: &str = "trap 'exit 0' TERM; echo serving; : > /up; while :; do sleep 0.05; done";
const SOON: &str = "[upgrade]\ntimeout = \"20s\"\n";

#[test]
fn a_container_is_promoted_when_a_real_engine_reports_it_healthy() {
    // Contract: H1, H3, H4, U8
    if !can_run() {
        return;
    }
    let sandbox = Sandbox::new();
    let engine = start_engine(&sandbox);
    let healthy = ["--rm", "--health-cmd", "test -e /up", "--health-interval", "200ms"];

    // Healthy, then upgraded: two containers take turns.
    let psflip = with_container(&engine, &sandbox, &healthy, SERVE, SOON).start().wait_ready();
    assert!(engine.docker(&["ps"]).unwrap().contains("(healthy)"));
    psflip.flip();
    let names = engine.docker(&["ps", "--format", "{{.Names}}"]).unwrap();
    assert!(names.contains("web-green"), "{names}");
    stop(&psflip);

    let fails = |run: &[&str], script: &str, config: &str, wanted: &[&str]| {
        let psflip = with_container(&engine, &sandbox, run, script, config).start();
        assert_eq!(psflip.wait_exit().code(), Some(124), "{}", sandbox.report());
        let line = psflip.wait_for_line(Stream::Stderr, "failed reason=").text;
        for part in wanted {
            assert!(line.contains(part), "`{part}` is not in: {line}");
        }
        let _ = engine.docker(&["rm", "--force", "web-blue"]); // `--rm` may have removed it already
    };
    // Without a health check in the container, the wait stops at once, however long the timeout.
    let hour = "[upgrade]\ntimeout = \"1h\"\n";
    fails(
        &["--rm"],
        SERVE,
        hour,
        &["the child can't become healthy", "the container `web-blue` has no health check"],
    );
    // Unhealthy until the timeout, with the output of the check.
    let sick = [
        "--rm",
        "--health-cmd",
        "echo no database; exit 7",
        "--health-interval",
        "100ms",
        "--health-retries",
        "1",
    ];
    let short = "[upgrade]\ntimeout = \"10s\"\n";
    fails(
        &sick,
        SERVE,
        short,
        &["not healthy within 10s", "is `unhealthy`; its check exited with code 7: no database"],
    );
    // No such container: the client never creates it.
    let elsewhere = ["--rm", "--name", "another"];
    let soon = "[upgrade]\ntimeout = \"1s\"\n";
    fails(&elsewhere, SERVE, soon, &["there is no container `web-blue` (yet): No such container: web-blue"]);
    // Exited: the container stops while the client runs on.
    engine
        .docker(&["run", "--name", "web-blue", "--network", "none", "app", "sh", "-c", "exit 3"])
        .unwrap_err();
    fails(&["--rm", "--name", "other"], SERVE, hour, &["the container `web-blue` has exited with code 3"]);
    // The example works as it stands.
    examples::copy_to(&sandbox);
    let psflip = sandbox.psflip().config_file("health-docker.toml").env("NETWORK", "none");
    let psflip =
        psflip.env("DOCKER_HOST", format!("unix://{}", engine.socket().display())).start().wait_ready();
    psflip.flip();
    assert!(engine.docker(&["ps"]).unwrap().contains("my-server"));
    // Failures of the example: the next image crashes at once, or never becomes healthy.
    let before = (psflip.active(), psflip.child());
    let config = sandbox.read("health-docker.toml");
    sandbox.write("health-docker.toml", config + "\n[upgrade]\ntimeout = \"5s\"\n");
    let files = ["/bin/sh", "/bin/sleep", "/bin/cat"];
    for (script, wanted) in [("exit 7", "exit code 7"), (SERVE, "is `unhealthy`")] {
        let check = "HEALTHCHECK --interval=200ms --retries=1 CMD test -e /never";
        engine.import("my-server", &files, &[check, &format!("CMD [\"sh\", \"-c\", \"{script}\"]")]);
        let client = sandbox.command([psflip_bin()]).args(["upgrade", "-c", "health-docker.toml"]);
        let client = client.env("DOCKER_HOST", format!("unix://{}", engine.socket().display())).start();
        assert_eq!(client.wait_exit().code(), Some(1), "{}", sandbox.report());
        client.output().wait_closed();
        let said = client.stdout() + &client.stderr();
        assert!(said.contains(wanted), "{said}");
        assert_eq!((psflip.active(), psflip.child()), before);
        assert!(engine.docker(&["ps"]).unwrap().contains("(healthy)"));
    }
    stop(&psflip);
    engine.stop();
    sandbox.assert_no_process_left();
}
