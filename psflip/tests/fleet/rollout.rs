//! Releases are rolled out over a fleet under load: good ones, bad ones, and with a host that is down.

use std::fs;
use std::path::PathBuf;
use std::time::Instant;

use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, Sandbox, psflip_bin, wait_until};

use crate::ansible::{self, Rollout, recap};
use crate::hosts::{self, HOSTS, Host};
use crate::network;

/// The trial lasts longer than the rest of the roll-out, however busy the host is.
const LONG_BAKE: &str = "bake=5m";

/// A fleet with release 1 on all hosts, and clients of the load balancer.
struct Fleet {
    started: Instant,
    probe: Option<AvailabilityProbe>,
    // The hosts are stopped before the sandbox that holds their key.
    hosts: Vec<Host>,
    sandbox: Sandbox,
}

impl Fleet {
    /// `None`: this host lacks something, which was reported.
    fn new() -> Option<Self> {
        let programs = ["ansible-playbook", "haproxy", "/usr/sbin/sshd", "ssh-keygen", "ip", "strip"];
        if !testkit::need_root() || programs.iter().any(|program| testkit::need(program).is_none()) {
            return None;
        }
        let started = Instant::now();
        let sandbox = Sandbox::new();
        network::enter_new(&sandbox);
        network::make_bridge(&sandbox);
        let key = new_key(&sandbox);
        let strip = sandbox.command(["strip", "-o", "psflip"]).arg(psflip_bin()).start();
        assert!(strip.wait_exit().success(), "{}", sandbox.report());
        let hosts = hosts::boot(&sandbox, &key)?;
        ansible::configure(&sandbox, &hosts, &key);
        ansible::install_collection(&sandbox);
        write_releases(&sandbox);
        write_variables(&sandbox);
        let fleet = Self { started, hosts, sandbox, probe: None };
        fleet.run("1", "bake=10ms psflip_serial=100%", &[]);
        Some(fleet)
    }

    /// Starts clients that send requests without pause; an answer's tag is host and version.
    fn load(&mut self) {
        hosts::start_haproxy(&self.sandbox);
        hosts::wait_all_answer();
        self.probe = Some(AvailabilityProbe::start(3, |_| {
            let mut client = HttpClient::tcp(hosts::balancer());
            move || {
                let answer = client.get("/")?;
                Ok(format!("{} {}", answer.tag("name")?, answer.tag("version")?))
            }
        }));
    }

    fn probe(&self) -> &AvailabilityProbe {
        self.probe.as_ref().expect("clients")
    }

    /// Rolls out, which has to succeed.
    #[track_caller]
    fn run(&self, release: &str, vars: &str, args: &[&str]) -> (u64, String) {
        let (succeeded, output) = Rollout::start(&self.sandbox, release, vars, args).wait();
        assert!(succeeded, "{output}\n{}", self.journals());
        self.shown(release, output)
    }

    /// Rolls out, which has to fail.
    #[track_caller]
    fn fails(&self, release: &str, vars: &str) -> String {
        let (succeeded, output) = Rollout::start(&self.sandbox, release, vars, &[]).wait();
        assert!(!succeeded, "{output}");
        self.shown(release, output).1
    }

    /// What a host's service wrote.
    fn journals(&self) -> String {
        let journals =
            self.hosts.iter().map(|host| format!("{:#?}", host.machine.journal("psflip@app.service")));
        journals.collect()
    }

    /// Prints what the clients have seen so far, and returns it.
    #[expect(clippy::print_stdout, reason = "the transcript, which the runner shows on request")]
    fn shown(&self, release: &str, output: String) -> (u64, String) {
        let (requests, lost) = self.probe.as_ref().map_or((0, 0), |probe| {
            let report = probe.report();
            (report.requests, report.failed)
        });
        let at = self.started.elapsed().as_secs_f64();
        println!("{output}\n### {at:.1} s, release {release}: {requests} requests so far, {lost} lost\n");
        (requests, output)
    }

    /// Asserts what each host serves: the generation, and the release to which `current` leads.
    #[track_caller]
    fn assert_serve(&self, wanted: &[(u64, &str)]) {
        let serves: Vec<(u64, String)> = self.hosts.iter().map(Host::serves).collect();
        let serves: Vec<(u64, &str)> = serves.iter().map(|(number, name)| (*number, name.as_str())).collect();
        assert_eq!(serves, wanted, "{}", self.journals());
    }
}

/// A key for the hosts and for the client.
fn new_key(sandbox: &Sandbox) -> PathBuf {
    let key = sandbox.path("key");
    let keygen = sandbox.command(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).start();
    assert!(keygen.wait_exit().success(), "{}", sandbox.report());
    key
}

/// Releases by name: they differ in how their server behaves.
fn write_releases(sandbox: &Sandbox) {
    let server = |version: &str| {
        format!(
            "exec /usr/bin/http-server --tcp 127.0.0.1:$PORT --name $NAME --version-tag {version} \
             --delay 20ms --unhealthy-while-file /run/psflip/app/sick-{version}\n"
        )
    };
    for version in ["1", "2", "3"] {
        sandbox.write(format!("releases/{version}/server.sh"), server(version));
    }
    sandbox.write("releases/bad/server.sh", "echo 'fatal: no database' >&2\nexit 3\n");
}

/// What a user has in group_vars. Nothing is enabled: the units of a machine are not in `/etc`.
fn write_variables(sandbox: &Sandbox) {
    sandbox.write("app.toml.j2", include_str!("files/app.toml.j2"));
    let here = sandbox.dir().display();
    sandbox.write(
        "vars.yml",
        format!(
            "psflip_service_name: app\npsflip_service_root: /var/lib/app\npsflip_service_enabled: false\n\
             psflip_service_binary: {here}/psflip\npsflip_service_template: {here}/app.toml.j2\n"
        ),
    );
}

#[test]
fn releases_are_rolled_out_over_five_hosts_behind_haproxy() {
    // Contract: U1, U8, B3, B5
    let Some(mut fleet) = Fleet::new() else { return };
    fleet.assert_serve(&[(1, "1"); HOSTS]);
    fleet.load();

    // Check mode shows the difference of the configuration, and changes nothing.
    let vars = "bake=2s greeting=hello";
    let (_, output) = fleet.run("2", vars, &["--check", "--diff", "--limit", "h1"]);
    assert!(output.contains("+GREETING = \"hello\"") && output.contains("-bake = \"10ms\""), "{output}");
    assert!(recap(&output, "h1", "changed") > 0, "{output}");
    fleet.assert_serve(&[(1, "1"); HOSTS]);
    assert!(!fleet.hosts[0].path("/var/lib/app/releases/2").exists());

    // A good release over all, one host first. A second run changes nothing.
    fleet.run("2", "bake=2s greeting=hello psflip_serial=40%", &[]);
    fleet.assert_serve(&[(2, "2"); HOSTS]);
    let (_, output) = fleet.run("2", "bake=2s greeting=hello psflip_serial=100%", &[]);
    for host in &fleet.hosts {
        assert_eq!(recap(&output, &host.name(), "changed"), 0, "{output}");
    }
    fleet.assert_serve(&[(2, "2"); HOSTS]);

    // A bad one stops at the first host, which has the old files again.
    let output = fleet.fails("bad", LONG_BAKE);
    for part in ["the child exited before it was healthy: exit code 3", "fatal: no database"] {
        assert!(output.contains(part), "`{part}` is missing in {output}");
    }
    assert_eq!(recap(&output, "h1", "failed"), 1, "{output}");
    fleet.assert_serve(&[(2, "2"); HOSTS]);
    assert!(!fleet.hosts[1].path("/var/lib/app/releases/bad").exists(), "{output}");

    // One that is healthy for a moment: host 2 goes back by itself, and host 1 is rolled back.
    let rollout = Rollout::start(&fleet.sandbox, "3", LONG_BAKE, &[]);
    wait_until(Deadline::after(ansible::PLAYBOOK), "an answer of release 3 on host 2", || {
        fleet.probe().report().by_tag.contains_key("h2 3").then_some(())
    });
    fs::write(fleet.hosts[1].path("/run/psflip/app/sick-3"), "").expect("the directory of the service");
    let (succeeded, output) = rollout.wait();
    assert!(!succeeded, "{output}");
    let (_, output) = fleet.shown("3", output);
    // How soon that is noticed depends on how busy this host is: before the next host, or at the end.
    for part in [": h2 has lost the new version", "the health check failed in the bake"] {
        assert!(output.contains(part), "`{part}` is missing in {output}");
    }
    fleet.assert_serve(&[(2, "2"); HOSTS]);
    let last = |host: &Host| host.status()["history"].as_array().and_then(|all| all.last().cloned());
    for host in &fleet.hosts[..2] {
        assert_eq!(last(host).expect("a record")["result"], "rolled_back", "{output}");
    }

    let report = fleet.probe.take().expect("clients").finish();
    report.assert_no_failures();
    for host in 1..=HOSTS {
        assert!(report.by_tag.contains_key(&format!("{} 2", hosts::name(host))), "{report}");
    }

    // A host that is down is found before anything changes.
    fleet.hosts[3].machine.systemctl(["stop", "sshd"]).unwrap();
    network::unplug(&fleet.sandbox, 4);
    let output = fleet.fails("3", LONG_BAKE);
    assert!(output.contains("h4 is down") && output.contains("Nothing was changed"), "{output}");
    fleet.assert_serve(&[(2, "2"); HOSTS]);
}
