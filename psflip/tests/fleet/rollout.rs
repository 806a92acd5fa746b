//! Releases are rolled out over a fleet under load: good ones, bad ones, and with a host that is down.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::Instant;

use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, Sandbox, Signal, psflip_bin, wait_until};

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
        let programs =
            ["ansible", "ansible-playbook", "haproxy", "/usr/sbin/sshd", "ssh-keygen", "ip", "strip"];
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
        sandbox.write("templates/app.toml.j2", include_str!("files/app.toml.j2"));
        ansible::write_group_vars(&sandbox);
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
        let (succeeded, output) = self.start(release, vars, args).wait();
        assert!(succeeded, "{output}\n{}", self.journals());
        self.shown(release, output)
    }

    /// Rolls out, which has to fail.
    #[track_caller]
    fn fails(&self, release: &str, vars: &str) -> String {
        self.failed(release, &self.start(release, vars, &[]))
    }

    /// Waits for the end of a roll-out that has to fail.
    #[track_caller]
    fn failed(&self, release: &str, rollout: &Rollout) -> String {
        let (succeeded, output) = rollout.wait();
        assert!(!succeeded, "{output}");
        self.shown(release, output).1
    }

    /// Starts to roll a release out.
    fn start(&self, release: &str, vars: &str, args: &[&str]) -> Rollout {
        build(&self.sandbox, release);
        Rollout::start(&self.sandbox, release, vars, args)
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

/// Writes a release into `build`, as a build does. They differ in how their server behaves.
fn build(sandbox: &Sandbox, release: &str) {
    let server = match release {
        "bad" => "echo 'fatal: no database' >&2\nexit 3\n".to_owned(),
        _ => format!(
            "exec /usr/bin/http-server --tcp 127.0.0.1:$PORT --name $NAME --version-tag {release} \
             --delay 20ms --unhealthy-while-file /run/psflip/app/sick-{release}\n"
        ),
    };
    sandbox.write("build/server.sh", server);
}

#[test]
fn releases_are_rolled_out_over_five_hosts_behind_haproxy() {
    // Contract: U1, U8, B3, B5
    let Some(mut fleet) = Fleet::new() else { return };
    fleet.assert_serve(&[(1, "1"); HOSTS]);
    fleet.load();
    check_mode_changes_nothing(&fleet);
    a_good_release_is_on_all_hosts(&fleet);
    bad_ones_stop_at_the_first_host(&fleet);
    one_that_is_bad_in_its_bake_is_rolled_back(&fleet);
    one_that_is_bad_when_several_bake_is_rolled_back_on_all(&fleet);
    an_interrupted_run_is_continued_by_the_next_one(&fleet);
    an_unknown_outcome_is_reported(&fleet);
    strict_is_refused_by_the_playbook(&fleet);
    a_host_is_lost(&fleet);
    let report = fleet.probe.take().expect("clients").finish();
    report.assert_no_failures();
    for host in 1..=HOSTS {
        assert!(report.by_tag.contains_key(&format!("{} 2", hosts::name(host))), "{report}");
    }
}

/// It shows the difference of the configuration.
fn check_mode_changes_nothing(fleet: &Fleet) {
    let vars = "bake=2s greeting=hello";
    let (_, output) = fleet.run("2", vars, &["--check", "--diff", "--limit", "h1"]);
    assert_has(&output, &["+GREETING = \"hello\"", "-bake = \"10ms\""]);
    assert!(recap(&output, "h1", "changed") > 0, "{output}");
    fleet.assert_serve(&[(1, "1"); HOSTS]);
    assert!(!fleet.hosts[0].path("/var/lib/app/releases/2").exists());
}

/// A second run changes nothing.
fn a_good_release_is_on_all_hosts(fleet: &Fleet) {
    let vars = "bake=2s greeting=hello psflip_serial=100%";
    fleet.run("2", vars, &[]);
    fleet.assert_serve(&[(2, "2"); HOSTS]);
    let (_, output) = fleet.run("2", vars, &[]);
    for host in &fleet.hosts {
        assert_eq!(recap(&output, &host.name(), "changed"), 0, "{output}");
    }
    fleet.assert_serve(&[(2, "2"); HOSTS]);
}

/// The first host has the old files again.
fn bad_ones_stop_at_the_first_host(fleet: &Fleet) {
    let exits = ["the child exited before it was healthy: exit code 3", "fatal: no database"];
    let refused = ["`soon` is not a duration"];
    for (release, vars, parts) in [("bad", LONG_BAKE, &exits[..]), ("3", "bake=soon", &refused)] {
        let output = fleet.fails(release, vars);
        assert_has(&output, parts);
        assert_eq!(recap(&output, "h1", "failed"), 1, "{output}");
        fleet.assert_serve(&[(2, "2"); HOSTS]);
        let config =
            fs::read_to_string(fleet.hosts[0].path("/etc/psflip/app.toml")).expect("a configuration");
        assert!(config.contains("bake = \"2s\""), "{config}");
        assert!(!fleet.hosts[1].path("/var/lib/app/releases").join(release).exists(), "{output}");
    }
}

/// Host 2 goes back by itself, and host 1 is rolled back.
fn one_that_is_bad_in_its_bake_is_rolled_back(fleet: &Fleet) {
    let rollout = fleet.start("3", LONG_BAKE, &[]);
    wait_until(Deadline::after(ansible::PLAYBOOK), "an answer of release 3 on host 2", || {
        fleet.probe().report().by_tag.contains_key("h2 3").then_some(())
    });
    fs::write(fleet.hosts[1].path("/run/psflip/app/sick-3"), "").expect("the directory of the service");
    let output = fleet.failed("3", &rollout);
    // How soon that is noticed depends on how busy this host is: before the next host, or at the end.
    assert_has(&output, &[": h2 has lost the new version", "the health check failed in the bake"]);
    fleet.assert_serve(&[(2, "2"); HOSTS]);
    let last = |host: &Host| host.status()["history"].as_array().and_then(|all| all.last().cloned());
    for host in &fleet.hosts[..2] {
        assert_eq!(last(host).expect("a record")["result"], "rolled_back", "{output}");
    }
}

/// Host 4 loses it in the last bake, while hosts 2 to 5 bake. Host 1, whose bake is over, keeps it.
fn one_that_is_bad_when_several_bake_is_rolled_back_on_all(fleet: &Fleet) {
    let vars = format!("{LONG_BAKE} bake_of_h1=10ms psflip_serial=40%");
    let rollout = fleet.start("6", &vars, &[]);
    wait_until(Deadline::after(ansible::PLAYBOOK), "an answer of release 6 on host 5", || {
        fleet.probe().report().by_tag.contains_key("h5 6").then_some(())
    });
    fs::write(fleet.hosts[3].path("/run/psflip/app/sick-6"), "").expect("the directory of the service");
    let output = fleet.failed("6", &rollout);
    assert_has(
        &output,
        &[
            ": h4 has lost the new version",
            "hosts with the old version again: h2, h3, h4, h5;",
            "because their bake was over: h1;",
            "their upgrade goes on: none;",
        ],
    );
    fleet.assert_serve(&[(3, "6"), (2, "2"), (2, "2"), (2, "2"), (2, "2")]);
}

/// The playbook is killed while host 2 gets the release, and interrupted while host 3 does. The same command then
/// upgrades the rest, and no host twice.
fn an_interrupted_run_is_continued_by_the_next_one(fleet: &Fleet) {
    for (host, signal) in [(1, Signal::SIGKILL), (2, Signal::SIGINT)] {
        let rollout = fleet.start("7", "bake=2s", &[]);
        let gets = fleet.hosts[host].path("/var/lib/app/releases/7");
        wait_until(Deadline::after(ansible::PLAYBOOK), "the release", || gets.exists().then_some(()));
        fleet.shown("7", rollout.interrupt(signal));
        fleet.hosts.iter().for_each(Host::wait_rest);
        assert_eq!(fleet.hosts[host + 1].serves(), (2, "2".to_owned()));
    }
    let (_, output) = fleet.run("7", "bake=2s", &[]);
    for (host, is_new) in [("h1", false), ("h2", false), ("h4", true), ("h5", true)] {
        assert_eq!(recap(&output, host, "changed") > 0, is_new, "{output}");
    }
    fleet.assert_serve(&[(4, "7"), (3, "7"), (3, "7"), (3, "7"), (3, "7")]);
}

/// The client of an upgrade is gone before the outcome is known: by its time-out, and by a signal. The upgrade goes on,
/// and the next one waits for it.
fn an_unknown_outcome_is_reported(fleet: &Fleet) {
    let (before, _) = fleet.hosts[0].serves();
    let interrupted = fleet.hosts[0].path("/usr/bin/interrupted");
    fs::write(&interrupted, include_str!("files/interrupted.py")).expect("the host's /usr");
    fs::set_permissions(&interrupted, fs::Permissions::from_mode(0o755)).unwrap();
    for (args, code) in [("timeout=1ms", 124), ("executable=/usr/bin/interrupted", 130)] {
        let (succeeded, output) = ansible::upgrade(&fleet.sandbox, "h1", &format!("force=true {args}"));
        assert!(!succeeded, "{output}");
        let code = format!("\"exit_code\": {code}");
        assert_has(
            &output,
            &["the outcome of the upgrade is not known, and it goes on", &code, "\"changed\": true"],
        );
        fleet.shown("7", output);
    }
    let (succeeded, output) = ansible::upgrade(&fleet.sandbox, "h1", "force=true strict=true");
    assert!(succeeded, "{output}");
    let replaced = format!("\"generation_before\": {}", before + 2);
    assert_has(&output, &["\"exit_code\": 0", &replaced]);
    assert_eq!(fleet.hosts[0].serves().0, before + 3, "{output}");
    fleet.shown("7", output);
}

/// A roll-out could not be rolled back then.
fn strict_is_refused_by_the_playbook(fleet: &Fleet) {
    let output = fleet.fails("8", "bake=2s psflip_service_strict=true");
    assert_has(&output, &["`psflip_service_strict` waits until a bake is over"]);
    assert!(fleet.hosts.iter().all(|host| !host.path("/var/lib/app/releases/8").exists()), "{output}");
}

/// Host 2 becomes unreachable while it gets the release, and host 1 is rolled back. The next run finds it before
/// anything changes.
fn a_host_is_lost(fleet: &Fleet) {
    let others = || fleet.hosts.iter().filter(|host| host.number != 2).map(Host::serves).collect::<Vec<_>>();
    let before = others();
    let rollout = fleet.start("4", LONG_BAKE, &[]);
    let gets = fleet.hosts[1].path("/var/lib/app/releases/4");
    wait_until(Deadline::after(ansible::PLAYBOOK), "release 4 on host 2", || gets.exists().then_some(()));
    fleet.hosts[1].machine.systemctl(["stop", "sshd"]).unwrap();
    let output = fleet.failed("4", &rollout);
    assert_has(
        &output,
        &["unreachable", "hosts with the old version again: h1;", "their upgrade goes on: h2;"],
    );
    assert_eq!(others(), before, "{output}");

    let output = fleet.fails("5", LONG_BAKE);
    assert_has(&output, &["h2 is down", "Nothing was changed"]);
    assert!(fleet.hosts.iter().all(|host| !host.path("/var/lib/app/releases/5").exists()), "{output}");
}

#[track_caller]
fn assert_has(output: &str, parts: &[&str]) {
    for part in parts {
        assert!(output.contains(part), "`{part}` is missing in {output}");
    }
}
