//! The hosts of a fleet.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::thread;

use serde_json::Value;
use testkit::systemd::Machine;
use testkit::{Deadline, Running, Sandbox, fixture, wait_until};

use crate::network::{self, HUB, address};

/// How many there are.
pub(crate) const HOSTS: usize = 5;

/// Where clients find the service, on the load balancer and on each host.
pub(crate) const PORT: u16 = 8080;

/// A host: a systemd with its own `/etc`, `/usr`, `/var` and `/run`, and an sshd.
pub(crate) struct Host {
    // The machine is the first field, so it is dropped first.
    pub(crate) machine: Machine,
    sandbox: Sandbox,
    pub(crate) number: usize,
}

impl Host {
    /// Its name in Ansible, in the load balancer and in the answers of its service.
    pub(crate) fn name(&self) -> String {
        name(self.number)
    }

    /// The directory of its units.
    pub(crate) fn units(&self) -> PathBuf {
        self.sandbox.path("machine/units")
    }

    /// A path on the host, as the test sees it.
    pub(crate) fn path(&self, path: &str) -> PathBuf {
        Path::new(&format!("/proc/{}/root", self.machine.init())).join(path.trim_start_matches('/'))
    }

    /// The status of its service.
    #[track_caller]
    pub(crate) fn status(&self) -> Value {
        let ran = self.machine.run(["psflip", "status", "-c", "/etc/psflip/app.toml", "--json"]);
        assert!(ran.status.success(), "{}: {ran:?}", self.name());
        serde_json::from_str(&ran.stdout).expect("a status")
    }

    /// Waits until no upgrade is under way and nothing bakes.
    #[track_caller]
    pub(crate) fn wait_rest(&self) {
        wait_until(Deadline::after(crate::ansible::PLAYBOOK), "no upgrade and no bake", || {
            let status = self.status();
            (status["state"] == "serving" && status["bake_left_ms"].is_null()).then_some(())
        });
    }

    /// The generation that serves, and the release to which `current` leads.
    #[track_caller]
    pub(crate) fn serves(&self) -> (u64, String) {
        let link = std::fs::read_link(self.path("/var/lib/app/current")).expect("a release");
        let release = link.file_name().expect("its name").to_string_lossy().into_owned();
        (self.status()["generation"].as_u64().expect("a number"), release)
    }

    fn boot(number: usize, key: &Path) -> Option<Self> {
        let sandbox = Sandbox::new();
        network::enter_new(&sandbox);
        let machine = Machine::boot(&sandbox)?;
        let host = Self { machine, sandbox, number };
        let server = fixture("http-server").display().to_string();
        // A locked account, as on some images, can't log in.
        host.run(&["usermod", "--password", "*", "root"]);
        host.run(&["install", "-m", "755", &server, "/usr/bin/http-server"]);
        if !host.gets_psflip_by_role() {
            let psflip = key.with_file_name("psflip").display().to_string();
            host.run(&["install", "-m", "755", &psflip, "/usr/bin/psflip"]);
            host.machine.unit("psflip@.service", include_str!("../../../examples/systemd/psflip@.service"));
        }
        host.start_sshd(key);
        Some(host)
    }

    /// One does, which is enough: to copy a psflip with debug assertions over ssh takes seconds.
    pub(crate) fn gets_psflip_by_role(&self) -> bool {
        self.number == 1
    }

    fn run(&self, argv: &[&str]) {
        let ran = self.machine.run(argv);
        assert!(ran.status.success(), "{argv:?}: {ran:?}");
    }

    /// Listens on all addresses, since its interface is not there yet.
    fn start_sshd(&self, key: &Path) {
        let (key, units) = (key.display(), self.units());
        let mut config = format!(
            "Port 22\nHostKey {key}\nAuthorizedKeysFile {key}.pub\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nSubsystem sftp internal-sftp\n"
        );
        // The units of a machine are in a directory of its own.
        let _ = writeln!(config, "SetEnv SYSTEMD_UNIT_PATH={}", units.display());
        let config = self.sandbox.write("sshd_config", config);
        let start = format!("/usr/sbin/sshd -D -e -f {}", config.display());
        self.machine.unit("sshd.service", format!("[Service]\nRuntimeDirectory=sshd\nExecStart={start}\n"));
        self.machine.systemctl(["start", "sshd"]).unwrap();
        self.machine.wait_journal("sshd.service", "Server listening on");
    }
}

/// The name of host 1, 2, ...
pub(crate) fn name(number: usize) -> String {
    format!("h{number}")
}

/// Boots all hosts, and joins them to the bridge. `key`: of the hosts and of the client. `None`: none can be booted.
pub(crate) fn boot(sandbox: &Sandbox, key: &Path) -> Option<Vec<Host>> {
    let hosts: Option<Vec<Host>> = thread::scope(|scope| {
        let booting: Vec<_> =
            (1..=HOSTS).map(|number| scope.spawn(move || Host::boot(number, key))).collect();
        booting.into_iter().map(|thread| thread.join().expect("it boots")).collect()
    });
    for host in hosts.iter().flatten() {
        network::join(sandbox, host.number, host.machine.init());
    }
    hosts
}

/// A haproxy in front of all hosts, which does not repeat requests that fail.
pub(crate) fn start_haproxy(sandbox: &Sandbox) -> std::sync::Arc<Running> {
    let mut config = format!(
        "defaults\n  mode http\n  retries 0\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n\
         frontend web\n  bind {HUB}:{PORT}\n  default_backend hosts\n\
         backend hosts\n  balance roundrobin\n  option httpchk GET /up\n"
    );
    for number in 1..=HOSTS {
        let _ = writeln!(
            config,
            "  server {} {}:{PORT} check inter 200ms fall 3 rise 1",
            name(number),
            address(number)
        );
    }
    let config = sandbox.write("haproxy.cfg", config);
    sandbox.command(["haproxy", "-db", "-f"]).arg(config).start()
}

/// Waits until every host answers by the load balancer. The answers of a service have its name.
pub(crate) fn wait_all_answer() {
    let mut client = testkit::client::http::HttpClient::tcp(balancer());
    let mut seen = std::collections::BTreeSet::new();
    wait_until(Deadline::default(), "every host to answer by haproxy", || {
        seen.extend(client.get("/").ok().and_then(|answer| answer.tag("name").ok()));
        (seen.len() == HOSTS).then_some(())
    });
}

/// The address of the load balancer.
pub(crate) fn balancer() -> std::net::SocketAddr {
    format!("{HUB}:{PORT}").parse().expect("an address")
}
