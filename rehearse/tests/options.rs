//! Requests with headers and bodies, the host's network, and rehearsals that wait.

mod common;

use std::path::Path;

use testkit::{Deadline, Sandbox, Stream, fixture, need, need_root, wait_until};

use common::{LOAD, address, careful, interrupt, rehearse, start, with};

/// Answers 401 without the right header, and 400 to a POST with another body than `body.json`.
const PICKY: &str = "from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
BODY = open('body.json', 'rb').read()
class App(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.answer(200)
    def do_POST(self):
        body = self.rfile.read(int(self.headers['Content-Length']))
        is_right = body == BODY and self.headers.get_all('Content-Type') == ['application/json']
        self.answer(200 if is_right else 400)
    def answer(self, status):
        self.send_response(status if self.headers['Authorization'] == 'Bearer 7' else 401)
        self.send_header('Content-Length', '0')
        self.end_headers()
    def log_message(self, *args):
        pass
ThreadingHTTPServer(('127.0.0.1', 80), App).serve_forever()
";

#[test]
fn headers_and_a_body_reach_the_service() {
    if !need_root() || need("python3").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write("app.py", PICKY);
    sandbox.write("body.json", "{\"name\": \"rehearsed\"}");
    let service = ["--service", "exec python3 app.py", "--during", "true", "--flips", "1"];
    let rest = ["--kinds", "new,keep-alive,post,post-half", "--body", "body.json"];
    let args = with(&[&service[..], &rest, &["--header", "Content-Type: application/json"]].concat());
    let right = rehearse(&sandbox, &[&args[..], &["--header", "authorization: Bearer 7", "--json"]].concat());
    right.assert_code(0);
    assert!(right.report()["requests"].as_u64() > Some(20), "{}", right.stdout);
    let wrong = ["--header", "authorization: Bearer 8", "--accept", "401"];
    rehearse(&sandbox, &[&args[..], &wrong].concat()).assert_code(0);
    let useless = rehearse(&sandbox, &with(&["--body", "body.json"]));
    useless.assert_code(78); // there is no configuration
    careful(&sandbox);
    std::fs::write(sandbox.path("large"), vec![b'x'; (1 << 20) + 1]).unwrap();
    for (args, text) in [
        (&["--body", "body.json"][..], "only the kinds post and post-half have a body"),
        (&["--kinds", "post", "--body", "large"], "it has more than 1 MiB"),
        (&["--kinds", "post", "--body", "/dev/stdin"], "--body /dev/stdin: it is no regular file"),
        (&["--next", "."], "--next .: it is no regular file"),
        (&["--header", "Connection: close"], "the load sets `Connection` itself"),
        (&["--header", "none"], "write 'Name: value'"),
        (&["--header", "Host: a", "--header", "host: b"], "a request has one `Host`"),
        (&["--net", "host", "--during", "true"], "--during without --service runs on this host"),
    ] {
        let refused = rehearse(&sandbox, &with(args));
        refused.assert_code(2);
        assert!(refused.stderr.contains(text), "{}", refused.stderr);
    }
    sandbox.assert_no_process_left();
}

#[test]
fn with_the_network_of_the_host_only_files_and_processes_are_separate() {
    if !need_root() || need("curl").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    careful(&sandbox);
    // Tests share the host's ports.
    let config = sandbox.read("app.toml").replace(&format!("tcp://{}", address()), "unix://app.sock");
    sandbox.write("app.toml", config);
    let server = fixture("http-server");
    let argv = [server.to_str().unwrap(), "--tcp", "127.0.0.1:0", "--name", "outside"];
    let outside = sandbox.command(argv).start();
    let line = outside.output().wait(Stream::Stdout, "listening 127.0.0.1:").text;
    let url = format!("http://{}/", line.rsplit_once(' ').unwrap().1);
    let load = format!("http+unix://{}:/", sandbox.path("app.sock").display());
    // The upgrade waits for it, and fails if it fails.
    let precheck = format!("touch written && curl --silent --noproxy '*' {url} | grep name=outside");
    let config = format!("{}[upgrade]\nprecheck = ['sh', '-c', \"{precheck}\"]\n", sandbox.read("app.toml"));
    sandbox.write("app.toml", config);
    let args = ["--net=host", "--load", &load, "--pause=100ms", "--flips=1"];
    rehearse(&sandbox, &args).assert_code(0);
    for file in ["written", "app.pid", "app.sock"] {
        assert!(!sandbox.path(file).exists(), "{file}");
    }
    outside.signal(testkit::Signal::SIGTERM);
    outside.wait_exit();
    sandbox.assert_no_process_left();
}

#[test]
fn control_c_interrupts_the_command_of_during() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let server = fixture("http-server");
    let service = format!("exec {} --tcp {}", server.display(), address());
    let during = ["--during", "echo begun; sleep 1000; echo never", "--out", "report"];
    let running = start(&sandbox, &with(&[&["--service", &service], &during[..]].concat()));
    let log = || std::fs::read_to_string(sandbox.path("report/log.txt")).unwrap_or_default();
    wait_until(Deadline::default(), "the command of --during to have begun", || {
        log().contains("during  begun").then_some(())
    });
    interrupt(&sandbox, &running);
    assert_eq!(running.wait_exit().code(), Some(1), "{}{}", running.stdout(), running.stderr());
    let summary = running.stdout();
    assert!(summary.contains("upgrade 1 (same) failed: the command "), "{summary}");
    assert!(summary.contains(" after Ctrl-C"), "{summary}");
    assert!(summary.contains("interrupted by Ctrl-C after 1 of 10 upgrades"), "{summary}");
    sandbox.assert_no_process_left();
}

#[test]
fn on_this_host_control_c_leaves_none_of_the_commands() {
    let sandbox = Sandbox::new();
    let server = fixture("http-server");
    let outside = sandbox.command([server.to_str().unwrap(), "--tcp", "127.0.0.1:0"]).start();
    let line = outside.output().wait(Stream::Stdout, "listening 127.0.0.1:").text;
    let url = format!("http://{}/", line.rsplit_once(' ').unwrap().1);
    // What ignores SIGINT outlives its shell.
    let during = "(trap '' INT; echo begun; exec sleep 1000) & wait";
    let beside = "(exec sleep 1000) & wait";
    let args = ["--load", &url, "--during", during, "--beside", beside];
    // During the upgrade, and before the first one: nothing is upgraded then.
    let upgrade = (["--pause=100ms", "--out=upgrade"], "upgrade", "during  begun", 1);
    let load = (["--pause=10m", "--out=load"], "load", "every client has an answer", 130);
    for (more, out, line, code) in [upgrade, load] {
        let log = || std::fs::read_to_string(sandbox.path(out).join("log.txt")).unwrap_or_default();
        let running = start(&sandbox, &[&args[..], &more].concat());
        wait_until(Deadline::default(), line, || log().contains(line).then_some(()));
        interrupt(&sandbox, &running);
        let ended = running.wait_exit().code();
        let said = format!("{}{}\n{}", running.stdout(), running.stderr(), log());
        assert_eq!((ended, log().contains("upgrade 1/10")), (Some(code), code == 1), "{said}");
    }
    outside.signal(testkit::Signal::SIGTERM);
    outside.wait_exit();
    sandbox.assert_no_process_left();
}

/// Sends two signals, as CI systems do: at the second one, the rehearsal exits at once.
#[track_caller]
fn interrupt_twice(running: &testkit::Running) {
    running.signal(testkit::Signal::SIGINT);
    running.signal(testkit::Signal::SIGTERM);
    assert_eq!(running.wait_exit().code(), Some(130), "{}{}", running.stdout(), running.stderr());
}

#[test]
fn on_this_host_a_second_signal_leaves_nothing_of_the_service() {
    let sandbox = Sandbox::new();
    careful(&sandbox);
    let config = sandbox.read("app.toml").replace(&format!("tcp://{}", address()), "unix://app.sock");
    sandbox.write("app.toml", config);
    let load = format!("http+unix://{}:/", sandbox.path("app.sock").display());
    let beside = "(exec sleep 1000) & wait";
    let args = ["--no-sandbox", "--load", &load, "--pause=100ms", "--flips=100000", "--bad=crash"];
    let running = start(&sandbox, &[&args[..], &["--beside", beside]].concat());
    running.output().wait(Stream::Stderr, "3/");
    interrupt_twice(&running);
    sandbox.assert_no_process_left();
    let files = std::fs::read_dir(sandbox.dir()).unwrap();
    let names: Vec<_> = files.map(|file| file.unwrap().file_name().into_string().unwrap()).collect();
    assert!(!names.iter().any(|name| name.starts_with(".rehearse")), "{names:?}");
}

#[test]
fn on_this_host_a_second_signal_leaves_only_the_service_that_during_has_upgraded() {
    let sandbox = Sandbox::new();
    let server = fixture("http-server");
    let outside = sandbox.command([server.to_str().unwrap(), "--tcp", "127.0.0.1:0"]).start();
    let line = outside.output().wait(Stream::Stdout, "listening 127.0.0.1:").text;
    let url = format!("http://{}/", line.rsplit_once(' ').unwrap().1);
    // The first upgrade starts what is to stay; the second one never ends.
    let during = "if [ -e pid ]; then echo begun; (exec sleep 1000) & wait; \
                  else (exec sleep 1000) & echo $! >pid; fi";
    let beside = "(exec sleep 1000) & wait";
    let args = ["--load", &url, "--during", during, "--beside", beside, "--pause=100ms", "--out=report"];
    let running = start(&sandbox, &args);
    let log = || std::fs::read_to_string(sandbox.path("report/log.txt")).unwrap_or_default();
    wait_until(Deadline::default(), "the second upgrade", || log().contains("during  begun").then_some(()));
    interrupt_twice(&running);
    let stays = sandbox.read("pid");
    assert!(sandbox.command(["kill", "-KILL", stays.trim()]).start().wait_exit().success());
    outside.signal(testkit::Signal::SIGTERM);
    outside.wait_exit();
    sandbox.assert_no_process_left();
}

#[test]
fn a_service_that_starts_slowly_is_reported_in_a_pipe_and_can_be_interrupted() {
    if !need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let check = "[healthcheck.unix]\npath = 'never.sock'\n";
    sandbox.write("app.toml", format!("cmd = ['sh', '-c', 'echo warming up; exec sleep 1000']\n{check}"));
    let running = start(&sandbox, &with(&[]));
    running.output().wait(Stream::Stderr, "still starting the service after ");
    // The first of these lines may come before the service has printed any.
    let line = running.output().wait(Stream::Stderr, " s; its last line: ").text;
    assert!(line.starts_with("still starting the service after "), "{line}");
    interrupt(&sandbox, &running);
    assert_eq!(running.wait_exit().code(), Some(130), "{}{}", running.stdout(), running.stderr());
    assert!(
        running.stderr().contains("interrupted by Ctrl-C before the first upgrade"),
        "{}",
        running.stderr()
    );
    sandbox.assert_no_process_left();
}

#[test]
fn a_directory_that_the_sandbox_has_of_its_own_is_refused_with_advice_that_fits() {
    let sandbox = Sandbox::new();
    careful(&sandbox);
    let directory = tempfile::tempdir_in("/dev/shm").unwrap();
    let text = sandbox.read("app.toml");
    let config = directory.path().join("app.toml");
    std::fs::write(&config, text).unwrap();
    let program = env!("CARGO_BIN_EXE_psflip-rehearse");
    let psflip = testkit::psflip_bin();
    let refused_with = |cwd: &Path, config: &Path, more: &[&str]| {
        let argv = [program, "--psflip", psflip.to_str().unwrap(), "-c", config.to_str().unwrap()];
        let running = sandbox.command(argv.iter().chain(LOAD).chain(more)).cwd(cwd).start();
        assert_eq!(running.wait_exit().code(), Some(2));
        running.stderr()
    };
    let refused = |cwd: &Path, config: &Path| refused_with(cwd, config, &[]);
    let advice = "the sandbox has a /dev of its own, where it does not exist: rehearse in another directory";
    let stderr = refused(sandbox.dir(), &config);
    let expected = format!("the configuration `{}` is below /dev, and {advice}", config.display());
    assert!(stderr.contains(&expected), "{stderr}");
    let stderr = refused(directory.path(), &sandbox.path("app.toml"));
    let expected =
        format!("the working directory `{}` is below /dev, and {advice}", directory.path().display());
    assert!(stderr.contains(&expected) && !stderr.contains("unshare"), "{stderr}");
    // Files are meant both as they are named, and where links lead.
    std::os::unix::fs::symlink(&config, sandbox.path("link")).unwrap();
    for (option, file) in [("--body", config.to_str().unwrap()), ("--next", "link")] {
        let more = ["--kinds", "post", option, file];
        let stderr = refused_with(sandbox.dir(), &sandbox.path("app.toml"), &more);
        let expected = format!("the file of {option} `{}` is below /dev, and", config.display());
        assert!(
            stderr.contains(&expected) && stderr.contains("name a file in another directory"),
            "{stderr}"
        );
    }
}
