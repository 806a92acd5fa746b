//! The servers of `examples/servers` under the template unit. Its restrictions let each of them start, be
//! upgraded, be restarted after a crash, and stop. One machine runs all of them at once.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use testkit::client::ClientError;
use testkit::client::fcgi::FcgiClient;
use testkit::client::http::HttpClient;
use testkit::{Deadline, Process, Signal, child_of, psflip_bin, wait_until};

use crate::ports::Reserved;
use crate::rig::Rig;

/// The examples, each with the program that must be installed.
const SERVERS: &[(&str, &str)] = &[
    ("apache", "/usr/sbin/apache2"),
    ("axum", "/bin/sh"), // the build of the tests builds its program
    ("caddy", "/usr/bin/caddy"),
    ("gunicorn", "/usr/bin/gunicorn"),
    ("haproxy", "/usr/sbin/haproxy"),
    ("jetty", "/usr/share/jetty9/start.jar"),
    ("memcached", "/usr/bin/memcached"),
    ("nginx", "/usr/sbin/nginx"),
    ("node", "node"),
    ("php-cgi", "/usr/bin/php-cgi"),
    ("php-fpm", "/usr/sbin/php-fpm8.2"),
    ("php-fpm-shared", "/usr/sbin/php-fpm8.2"),
    ("puma", "/usr/bin/puma"),
    ("puma-cluster", "/usr/bin/puma"),
    ("redis", "/usr/bin/redis-server"),
    ("server-starter", "/usr/bin/perl"),
    ("sqlite", "/usr/bin/python3"),
    ("starlet", "/usr/bin/plackup"),
    ("tomcat", "/usr/share/tomcat10/bin/catalina.sh"),
    ("unicorn", "/usr/bin/unicorn"),
    ("uvicorn", "/usr/bin/uvicorn"),
    ("uvicorn-shared", "/usr/bin/uvicorn"),
    ("uwsgi", "/usr/bin/uwsgi"),
];

/// Examples that the template does not run, with the reason.
const OTHERS: &[(&str, &str)] = &[
    ("java", "needs a compiler"),
    ("postfix", "starts as root, and allows no upgrade"),
    ("rabbitmq", "allows no upgrade"),
];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

/// One example as `psflip@NAME.service`.
struct Server {
    unit: String,
    /// Its working directory, by its path outside.
    home: PathBuf,
    port: Reserved,
    /// Ports for health checks, one for each slot.
    _health: [Reserved; 2],
    pidfile: PathBuf,
}

impl Server {
    /// Installs the example where the template expects it: the configuration in `/etc/psflip`, the rest in
    /// the state directory.
    fn install(rig: &Rig, name: &str) -> Self {
        let root = PathBuf::from(format!("/proc/{}/root", rig.machine.init()));
        let port = Reserved::new();
        let pidfile = format!("/run/psflip/{name}/psflip.pid");
        // systemd makes the service's user the owner.
        let home = root.join("var/lib/private/psflip").join(name);
        fs::create_dir_all(&home).unwrap();
        for entry in fs::read_dir(folder("servers")).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_file() {
                let text = fs::read_to_string(entry.path()).unwrap();
                fs::write(home.join(entry.file_name()), port.in_text(&text)).unwrap();
            }
        }
        if name == "axum" {
            fs::copy(psflip_bin().with_file_name("axum-server"), home.join("axum-server")).unwrap();
        }
        let config = fs::read_to_string(home.join(format!("{name}.toml"))).unwrap();
        let config = config.replace("pidfile = \"psflip.pid\"", &format!("pidfile = \"{pidfile}\""));
        fs::write(root.join(format!("etc/psflip/{name}.toml")), config).unwrap();
        let unit = format!("psflip@{name}.service");
        let health = [Reserved::new(), Reserved::new()];
        let [a, b] = [&health[0], &health[1]].map(Reserved::port);
        let variables = format!("[Service]\nEnvironment=PORT={} PORT_A={a} PORT_B={b}\n", port.port());
        // As docs/systemd.md requires it for Java.
        let success = if ["jetty", "tomcat"].contains(&name) { "SuccessExitStatus=143\n" } else { "" };
        rig.machine.unit(&format!("{unit}.d/port.conf"), variables + success);
        Self { unit, home, port, _health: health, pidfile: root.join(&pidfile[1..]) }
    }

    fn answer(&self) -> Result<(), ClientError> {
        let socket = self.home.join("php.sock");
        if socket.exists() {
            let params =
                [("REQUEST_METHOD", "GET"), ("SCRIPT_FILENAME", "app.php"), ("REDIRECT_STATUS", "200")];
            return FcgiClient::unix(socket).request(&params, b"").map(drop);
        }
        if let Some(name) = ["redis", "memcached"].into_iter().find(|name| self.unit.contains(name)) {
            let connected = UnixStream::connect(self.home.join(name).with_extension("sock"));
            return connected.map(drop).map_err(|error| ClientError::content(error.to_string()));
        }
        HttpClient::tcp(self.port.address()).get("/?echo=there").map(drop)
    }

    /// The active psflip, if the unit is active and it is the unit's main process.
    fn active(&self, rig: &Rig) -> Option<Process> {
        let shown = rig.machine.properties(&self.unit, &["ActiveState", "MainPID"]);
        let pid = fs::read_to_string(&self.pidfile).ok()?;
        let known = shown["ActiveState"] == "active" && shown["MainPID"] == pid.trim_end();
        rig.machine.process(pid.trim_end().parse().ok()?).filter(|_| known)
    }

    #[track_caller]
    fn serves(&self, rig: &Rig, but: Option<Process>) -> Process {
        let active = wait_until(Deadline::default(), format!("{} to be active", self.unit), || {
            self.active(rig).filter(|active| Some(*active) != but)
        });
        if let Err(error) = self.answer() {
            panic!("{}: {error:?}\n{:#?}", self.unit, rig.machine.journal(&self.unit));
        }
        active
    }
}

/// Runs systemctl for all units. Fails with the journal of the unit that failed.
#[track_caller]
fn systemctl(rig: &Rig, command: &str, servers: &[Server]) {
    let units = servers.iter().map(|server| server.unit.as_str());
    if let Err(error) = rig.machine.systemctl([command].into_iter().chain(units)) {
        let failed = servers.iter().filter(|server| error.contains(&server.unit));
        let said: Vec<_> = failed.map(|server| rig.machine.journal(&server.unit)).collect();
        panic!("systemctl {command}: {error}\n{said:#?}");
    }
}

#[test]
fn the_template_runs_every_server_of_the_examples() {
    // Contract: U4, U10, C5, C7
    let Some(rig) = Rig::installed("psflip@app.service", "/run/psflip/app", "/etc/psflip/app.toml") else {
        return;
    };
    rig.machine.unit("psflip@.service", fs::read_to_string(folder("systemd/psflip@.service")).unwrap());
    let is_there = |program: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
    };
    let servers = SERVERS.iter().filter(|(_, program)| is_there(program));
    let servers: Vec<Server> = servers.map(|(name, _)| Server::install(&rig, name)).collect();
    systemctl(&rig, "start", &servers);
    let first: Vec<_> = servers.iter().map(|server| server.serves(&rig, None)).collect();
    // Two upgrades: both slots.
    systemctl(&rig, "reload", &servers);
    let second: Vec<_> =
        servers.iter().zip(first).map(|(server, old)| server.serves(&rig, Some(old))).collect();
    systemctl(&rig, "reload", &servers);
    let third: Vec<_> =
        servers.iter().zip(second).map(|(server, old)| server.serves(&rig, Some(old))).collect();
    // The child crashes, and systemd restarts the service.
    for psflip in &third {
        let child = child_of(*psflip).expect("it serves");
        child.signal(Signal::SIGKILL).unwrap();
    }
    for (server, old) in servers.iter().zip(third) {
        server.serves(&rig, Some(old));
    }
    systemctl(&rig, "stop", &servers);
    for server in &servers {
        let shown = rig.machine.properties(&server.unit, &["ActiveState", "Result"]);
        assert_eq!(
            (shown["ActiveState"].as_str(), shown["Result"].as_str()),
            ("inactive", "success"),
            "{shown:?}"
        );
        assert!(rig.machine.processes(&server.unit).is_empty(), "{}", server.unit);
    }
}

#[test]
fn every_server_example_is_listed_here() {
    let known: Vec<_> = SERVERS.iter().chain(OTHERS).map(|(name, _)| format!("{name}.toml")).collect();
    for entry in fs::read_dir(folder("servers")).unwrap().map(Result::unwrap) {
        let name = entry.file_name().into_string().unwrap();
        assert!(!name.ends_with(".toml") || known.contains(&name), "add {name} to the list in {}", file!());
    }
}

#[test]
fn a_repeatedly_crashing_service_is_restarted_until_it_works() {
    // Contract: C5, C6
    let Some(rig) = Rig::installed("psflip@app.service", "/run/psflip/app", "/etc/psflip/app.toml") else {
        return;
    };
    rig.machine.unit("psflip@.service", fs::read_to_string(folder("systemd/psflip@.service")).unwrap());
    // Faster than in the template, so that systemd's limit of five starts in ten seconds would be reached.
    rig.machine.unit("psflip@app.service.d/fast.conf", "[Service]\nRestartSec=1ms\n");
    rig.configure(&["/usr/bin/crash-on-init", "--code", "3"], crate::rig::SERVING);
    assert!(rig.machine.systemctl(["start", "psflip@app.service"]).is_err());
    wait_until(Deadline::default(), "ten restarts", || {
        let count = rig.machine.property("psflip@app.service", "NRestarts");
        (count.parse::<u32>().ok()? >= 10).then_some(())
    });
    rig.configure_well();
    wait_until(Deadline::default(), "the pidfile", || rig.pidfile().exists().then_some(()));
    rig.wait_main();
    rig.stop_well();
}
