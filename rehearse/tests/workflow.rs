//! The shell steps of examples/ci/rehearse.yml, as a runner would run them, in a repository with a pull request.

use std::path::Path;

use testkit::{Sandbox, need, need_root, psflip_bin};

const WORKFLOW: &str = include_str!("../../examples/ci/rehearse.yml");

/// The texts of all `run:` keys, in their order.
fn shell_steps() -> Vec<String> {
    let mut steps = Vec::new();
    let mut lines = WORKFLOW.lines().peekable();
    while let Some(line) = lines.next() {
        let Some((indent, text)) = line.split_once("run: ") else { continue };
        if !indent.trim().is_empty() {
            continue; // a comment, or another key
        }
        if text != "|" {
            steps.push(text.to_owned());
            continue;
        }
        let inside = format!("{indent}  ");
        let mut block = String::new();
        while let Some(line) = lines.next_if(|line| line.starts_with(&inside)) {
            block.push_str(&line[inside.len()..]);
            block.push('\n');
        }
        steps.push(block);
    }
    steps
}

/// A service on the port of `LOAD`, behind psflip's proxy. `answer` is what it says.
fn app(answer: &str) -> String {
    format!(
        "import os\nfrom http.server import BaseHTTPRequestHandler, ThreadingHTTPServer\n
class App(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        self.rfile.read(int(self.headers.get('Content-Length') or 0))
        {answer}
        self.send_header('Content-Length', '2')
        self.end_headers()
        self.wfile.write(b'ok')
    do_POST = do_GET
    def log_message(self, *args):
        pass

ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), App).serve_forever()\n"
    )
}

/// That of http:// URLs: each rehearsal has a network of its own.
const PORT: u16 = 80;

const CONFIG: &str = "cmd = ['python3', 'app.py']
pidfile = 'app.pid'
env.PORT = \"{{ local('port') }}\"
locals.port = \"{{ free_port('20000-29999') }}\"
[[proxy]]
listen = 'tcp://127.0.0.1:{PORT}'
protocol = 'http'
forward = \"127.0.0.1:{{ local('port') }}\"
[healthcheck.tcp]
address = \"127.0.0.1:{{ local('port') }}\"
";

/// Runs a script as GitHub does: `bash -e -o pipefail`. Returns whether it succeeded, and its output.
fn run(sandbox: &Sandbox, directory: &Path, script: &str) -> (bool, String) {
    let path = std::env::var("PATH").unwrap_or_default();
    let programs = psflip_bin().parent().unwrap().to_owned();
    // A runner has sudo; here the test is root already.
    let bin = sandbox.write("bin/sudo", "#!/bin/sh\nexec env \"$@\"\n");
    std::fs::set_permissions(&bin, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}:{path}", bin.parent().unwrap().display(), programs.display());
    let running = sandbox
        .command(["env", "-C", directory.to_str().unwrap(), "bash", "-e", "-o", "pipefail", "-c", script])
        .env("PATH", path)
        .env("RUNNER_TEMP", sandbox.path("temp"))
        .env("GITHUB_BASE_REF", "main")
        .env("LOAD", "http://127.0.0.1/")
        .env("GIT_CONFIG_COUNT", "2")
        .env("GIT_CONFIG_KEY_0", "user.name")
        .env("GIT_CONFIG_VALUE_0", "test")
        .env("GIT_CONFIG_KEY_1", "user.email")
        .env("GIT_CONFIG_VALUE_1", "test@example.invalid")
        .start();
    let is_good = running.wait_exit().success();
    (is_good, format!("{}{}", running.stdout(), running.stderr()))
}

/// A clone whose branch `change` says `answer`; `origin/main` is what is deployed.
fn repository(sandbox: &Sandbox, answer: &str) -> std::path::PathBuf {
    std::fs::create_dir_all(sandbox.path("temp")).unwrap();
    sandbox.write("origin/psflip.toml", CONFIG.replace("{PORT}", &PORT.to_string()));
    sandbox.write("origin/app.py", app("self.send_response(200)"));
    let git = |directory: &str, script: &str| {
        let (is_good, output) = run(sandbox, &sandbox.path(directory), script);
        assert!(is_good, "{script}: {output}");
    };
    git("origin", "git init -q -b main . && git add . && git commit -qm deployed");
    git(".", "git clone -q origin clone && cd clone && git checkout -qb change");
    sandbox.write("clone/app.py", app(answer));
    git("clone", "git commit -qam change --allow-empty");
    sandbox.path("clone")
}

#[test]
fn a_good_pull_request_passes_every_step() {
    if !need_root() || need("git").is_none() || need("python3").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    let clone = repository(&sandbox, "self.send_response(201)");
    let steps = shell_steps();
    assert_eq!(steps.len(), 4, "{steps:#?}");
    for step in steps {
        let (is_good, output) = run(&sandbox, &clone, &step);
        assert!(is_good, "{step}\n{output}");
    }
    let report: serde_json::Value = serde_json::from_str(&sandbox.read("temp/report/report.json")).unwrap();
    let versions: Vec<_> =
        report["upgrades"].as_array().unwrap().iter().map(|one| one["version"].as_str().unwrap()).collect();
    assert_eq!(versions[..4], ["next", "bad", "same", "bad"], "{versions:?}");
    assert!(
        sandbox.path("temp/report/report.html").exists() && sandbox.path("temp/report/junit.xml").exists()
    );
}

#[test]
fn a_pull_request_that_breaks_the_service_fails() {
    if !need_root() || need("git").is_none() || need("python3").is_none() {
        return;
    }
    let sandbox = Sandbox::new();
    // It accepts connections, so its check passes; and it answers nothing well.
    let clone = repository(&sandbox, "self.send_response(500)");
    let mut steps = shell_steps();
    let rehearse = steps.pop().unwrap();
    for step in steps {
        assert!(run(&sandbox, &clone, &step).0, "{step}");
    }
    let (is_good, output) = run(&sandbox, &clone, &rehearse);
    assert!(!is_good, "{output}");
    assert!(output.contains("the application answered with an error"), "{output}");
}
