//! Every complete configuration in `docs/` is valid, and works with a good version and with bad ones.
//! (`readme.rs` tests README.md's.) The servers are the fixtures under the names of the real ones. The other
//! modules run the examples of the real servers.

use std::fs;
use std::path::Path;

use testkit::client::Target;
use testkit::client::fcgi::FcgiClient;
use testkit::client::http::HttpClient;
use testkit::{Psflip, PsflipBuilder, Sandbox, psflip_bin};

use crate::examples;
use crate::service::script;
use crate::traffic::ports::Reserved;

/// The program of every configuration: a fixture that listens where the real server would.
const GOOD: &str = r#"case ${0##*/} in
catalina.sh) exec http-server --inherit stdin --tcp "127.0.0.1:${CATALINA_OPTS#*=}" ;;
java) eval "port=\$PORT_$PSFLIP_SLOT"; exec http-server --inherit stdin --tcp "127.0.0.1:$port" ;;
nginx) trap 'kill $!; wait; exit' TERM
    bash -c 'LISTEN_PID=$$ exec -a "nginx: worker process" http-server --inherit listen_fds' & wait ;;
node) exec http-server --inherit listen_fds --probe "$HEALTH" ;;
php-cgi) if [ "$1" = -q ]; then exit 0; else exec fcgi-server --inherit stdin; fi ;;
php-fpm*) exec fcgi-server --socket "$PHP_SOCKET" ;;
plackup) exec http-server --inherit server_starter ;;
*) if [ "$1" = --socket ]; then exec http-server --unix "$2"; else exec http-server --inherit listen_fds; fi ;;
esac"#;

/// The next version crashes at its start. (The health check of php-cgi runs it.)
const CRASHES: &str = "exit 7";

/// The main process stays, but nothing serves, and the application's code fails.
const NEVER_SERVES: &str = "if [ \"$1\" = -q ]; then exit 7; else exec sleep 1000; fi";

/// The complete configurations of a page: fenced, or indented by four spaces.
fn configurations(page: &str) -> Vec<String> {
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(page);
    let (mut blocks, mut fence) = (vec![String::new()], "");
    for line in fs::read_to_string(page).unwrap().lines() {
        let inside = match line.strip_prefix("```") {
            Some(kind) => {
                fence = if fence.is_empty() { if kind == "toml" { "toml" } else { "other" } } else { "" };
                None
            }
            None if fence == "toml" => Some(line),
            None if fence.is_empty() && line.is_empty() => Some(line),
            None if fence.is_empty() => line.strip_prefix("    ").filter(|line| !line.starts_with("$ ")),
            None => None,
        };
        match inside {
            Some(line) => *blocks.last_mut().unwrap() += &format!("{line}\n"),
            None => blocks.push(String::new()),
        }
    }
    let is_complete = |block: &String| {
        let mut lines = block.lines();
        lines.any(|line| line.strip_prefix("cmd").is_some_and(|rest| rest.trim_start().starts_with('=')))
    };
    blocks.retain(is_complete);
    blocks
}

/// The quoted text after `mark`.
fn quoted_after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark)?.1.split('"').nth(1)
}

/// A configuration in a sandbox of its own. Its paths exist, and its ports are free ones.
struct Block {
    sandbox: Sandbox,
    config: String,
    program: String,
    port: Reserved,
    health: [Reserved; 2],
}

impl Block {
    fn new(text: &str) -> Self {
        let sandbox = Sandbox::new();
        for folder in ["bin", "run/app", "run/psflip/NAME", "srv/app/current"] {
            fs::create_dir_all(sandbox.path(folder)).unwrap();
        }
        let (port, health) = (Reserved::new(), [Reserved::new(), Reserved::new()]);
        let command = quoted_after(text, "cmd").unwrap();
        let program = command.rsplit('/').next().unwrap().to_owned();
        let folder = sandbox.dir().display();
        let [a, b] = [&health[0], &health[1]].map(|health| health.port().to_string());
        let config = text
            .replacen(&format!("\"{command}\""), &format!("\"{folder}/bin/{program}\""), 1)
            .replace("/run/", &format!("{folder}/run/"))
            .replace("\"/srv/", &format!("\"{folder}/srv/"))
            .replace("8091", &a)
            .replace("8092", &b)
            .replace("SIGQUIT", "SIGTERM") // a signal that the fixtures know
            .replace("0.0.0.0:", "127.0.0.1:");
        let config = port.in_text(&config);
        let group = "group = \"www-data\"\n";
        let config =
            if config.contains("pidfile") { config } else { format!("pidfile = \"app.pid\"\n{config}") };
        Self { sandbox, config: config.replace(group, ""), program, port, health }
    }

    /// Writes the next version of the server, and of the program that its health check runs. `None` keeps the
    /// configuration's timeout.
    fn write(&self, text: &str, timeout: Option<&str>) {
        script(&self.sandbox, &format!("bin/{}", self.program), text);
        let config = match timeout {
            None => self.config.clone(),
            Some(time) if self.config.contains("[upgrade]") => {
                self.config.replace("\"3m\"", &format!("\"{time}\""))
            }
            Some(time) => format!("{}\n[upgrade]\ntimeout = \"{time}\"\n", self.config),
        };
        self.sandbox.write("app.toml", config);
    }

    fn psflip(&self) -> PsflipBuilder {
        let usual = examples::path();
        let folders = [self.sandbox.path("bin")].into_iter().chain(std::env::split_paths(&usual));
        let psflip = self.sandbox.psflip().config_file("app.toml");
        let [a, b] = [0, 1].map(|slot: usize| self.health[slot].port().to_string());
        psflip.env("PATH", std::env::join_paths(folders).unwrap()).env("PORT_a", a).env("PORT_b", b)
    }

    /// The service answers at its clients' address.
    #[track_caller]
    fn answers(&self) {
        let listener = quoted_after(&self.config, "[[listen]]\naddress");
        let place = listener.or_else(|| quoted_after(&self.config, "symlink = {"));
        let target = match place.map(|place| place.trim_start_matches("unix://")) {
            Some(place) if place.starts_with("tcp:") => Target::Tcp(self.port.address()),
            Some(path) => Target::Unix(path.into()),
            None => Target::Unix(self.sandbox.path("app.sock")),
        };
        let answer = if self.program.starts_with("php") {
            FcgiClient::new(target).get("/").map(drop)
        } else {
            HttpClient::new(target).get("/").map(drop)
        };
        assert!(answer.is_ok(), "{answer:?}\n{}\n{}", self.config, self.sandbox.report());
    }

    /// Runs `psflip upgrade`. Returns its exit code and its output.
    #[track_caller]
    fn upgrade(&self) -> (Option<i32>, String) {
        let client = self.sandbox.command([psflip_bin()]).args(["upgrade", "-c", "app.toml"]).start();
        let status = client.wait_exit();
        client.output().wait_closed();
        (status.code(), client.stdout() + &client.stderr())
    }

    #[track_caller]
    fn refuses(&self, psflip: &Psflip, reasons: &[&str]) {
        let before = (psflip.active(), psflip.child());
        let (code, said) = self.upgrade();
        assert_eq!(code, Some(1), "{said}\n{}\n{}", self.config, self.sandbox.report());
        assert!(reasons.iter().any(|reason| said.contains(reason)), "{said}\n{}", self.config);
        assert_eq!((psflip.active(), psflip.child()), before, "{}", self.config);
        self.answers();
    }
}

/// Runs all configurations of a page. There must be `count` of them.
#[track_caller]
fn run(page: &str, count: usize) {
    let blocks = configurations(page);
    assert_eq!(blocks.len(), count, "configurations on {page}: {blocks:#?}");
    for text in blocks {
        let block = Block::new(&text);
        block.sandbox.write("as-it-is.toml", &text);
        let check = block.sandbox.command([psflip_bin()]).args(["check", "-c", "as-it-is.toml"]).start();
        assert!(check.wait_exit().success(), "{text}\n{}", check.stderr());
        block.write(GOOD, None);
        let psflip = block.psflip().start().wait_ready();
        block.answers();
        block.write(CRASHES, None);
        block.refuses(&psflip, &["exit code 7"]);
        block.write(NEVER_SERVES, Some("500ms"));
        block.refuses(&psflip, &["last probe: ", "no READY=1"]);
        block.write(GOOD, None);
        let (code, said) = block.upgrade();
        assert_eq!(code, Some(0), "{said}\n{text}\n{}", block.sandbox.report());
        block.answers();
        psflip.stop();
        block.sandbox.assert_no_process_left();
    }
}

#[test]
fn the_configuration_of_the_page_on_systemd_refuses_a_bad_version() {
    // Contract: F3, F4, U6, U8
    run("docs/systemd.md", 1);
}

#[test]
fn the_configurations_of_the_page_on_traffic_refuse_a_bad_version() {
    // Contract: F3, F4, U6, U8
    run("docs/traffic.md", 12);
}

#[test]
fn the_template_of_the_page_on_many_hosts_is_valid_without_ansibles_marks() {
    // Contract: X1
    let sandbox = Sandbox::new();
    let [template] = &configurations("docs/fleet.md")[..] else { panic!("one template") };
    sandbox.write("app.toml", template.replace("{% raw %}", "").replace("{% endraw %}", ""));
    let check = sandbox.command([psflip_bin()]).args(["check", "-c", "app.toml"]).start();
    assert!(check.wait_exit().success(), "{template}\n{}", check.stderr());
}

#[test]
fn no_other_page_has_a_complete_configuration() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        let known =
            ["fleet.md", "systemd.md", "traffic.md"].contains(&name.as_str()) || !name.ends_with(".md");
        assert!(
            known || configurations(&format!("docs/{name}")).is_empty(),
            "run those of {name} in {}",
            file!()
        );
    }
}
