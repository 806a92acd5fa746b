//! Ansible, as a user has it: the collection is built, and installed from its tarball into a directory of its own.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use testkit::{Deadline, Launch, Running, Sandbox, Signal};

use crate::hosts::{self, Host};
use crate::network;

/// A playbook takes some seconds, and ten times that on a very busy host.
pub(crate) const PLAYBOOK: Duration = Duration::from_secs(240);

/// Where the collection is.
pub(crate) fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dist/ansible_collections/psflip/service")
}

/// Builds the collection's tarball, and installs it into the directory `collections`.
#[track_caller]
pub(crate) fn install_collection(sandbox: &Sandbox) {
    let galaxy = |args: &[&str]| {
        let galaxy = command(sandbox, "ansible-galaxy").arg("collection").args(args).start();
        assert!(galaxy.wait_exit_by(Deadline::after(PLAYBOOK)).success(), "{}", sandbox.report());
    };
    galaxy(&["build", &source().display().to_string(), "--output-path", "."]);
    let tarball = format!("psflip-service-{}.tar.gz", env!("CARGO_PKG_VERSION"));
    galaxy(&["install", &tarball, "--offline", "-p", "collections"]);
}

/// A program of Ansible, with the collection that was installed.
pub(crate) fn command(sandbox: &Sandbox, program: &str) -> Launch {
    let collections = sandbox.path("collections");
    let launch =
        sandbox.command([program]).env("LC_ALL", "C.UTF-8").env("ANSIBLE_COLLECTIONS_PATH", collections);
    launch.env("ANSIBLE_HOME", sandbox.path("ansible")).env("ANSIBLE_LOCAL_TEMP", sandbox.path("ansible/tmp"))
}

/// Writes inventory and settings. `key`: the private key.
pub(crate) fn configure(sandbox: &Sandbox, hosts: &[Host], key: &Path) {
    let mut inventory = "[psflip]\n".to_owned();
    let mut known = String::new();
    let public = std::fs::read_to_string(key.with_extension("pub")).expect("a public key");
    for host in hosts {
        let (name, address) = (host.name(), network::address(host.number));
        let units = host.units();
        let _ = writeln!(
            inventory,
            "{name} ansible_host={address} psflip_service_unit_directory={} psflip_service_install={}",
            units.display(),
            if host.gets_psflip_by_role() { "binary" } else { "none" }
        );
        let _ = writeln!(known, "{address} {public}");
    }
    sandbox.write("hosts", inventory);
    let known = sandbox.write("known_hosts", known);
    let ssh = format!(
        "-F none -i {} -o UserKnownHostsFile={} -o ControlMaster=auto -o ControlPersist=60s -o ConnectTimeout=10",
        key.display(),
        known.display()
    );
    let settings = format!(
        "[defaults]\ninventory = hosts\nforks = {}\ngathering = explicit\ninterpreter_python = /usr/bin/python3\n\
         remote_tmp = /var/ansible\nremote_user = root\nretry_files_enabled = false\n\
         [ssh_connection]\npipelining = true\nssh_args = {ssh}\ncontrol_path_dir = {}\n",
        hosts::HOSTS,
        sandbox.path("ssh").display()
    );
    sandbox.write("ansible.cfg", settings);
}

/// Writes the variables of docs/fleet.md, and those that this test needs besides. Nothing is enabled: the units of a
/// machine are not in `/etc`.
pub(crate) fn write_group_vars(sandbox: &Sandbox) {
    let (_, recipe) = include_str!("../../../docs/fleet.md").split_once("```yaml\n").expect("a recipe");
    let (recipe, _) = recipe.split_once("```").expect("its end");
    let own = "psflip_service_root: /var/lib/app\npsflip_service_enabled: false\n\
               psflip_service_binary: \"{{ inventory_dir }}/psflip\"\n";
    sandbox.write("group_vars/psflip.yml", format!("{recipe}{own}"));
}

/// A run of the playbook that rolls a release out.
pub(crate) struct Rollout {
    playbook: Arc<Running>,
}

impl Rollout {
    /// Starts it with the release in `build`, and with these variables and arguments.
    pub(crate) fn start(sandbox: &Sandbox, release: &str, vars: &str, args: &[&str]) -> Self {
        let vars = format!("psflip_service_release={release} {vars}");
        let playbook = command(sandbox, "ansible-playbook").arg("psflip.service.rolling");
        Self { playbook: playbook.args(["-e", &vars]).args(args).start() }
    }

    /// Sends the playbook's process a signal, and waits until what it has started is over.
    #[track_caller]
    pub(crate) fn interrupt(&self, signal: Signal) -> String {
        self.playbook.signal(signal);
        let (succeeded, output) = self.wait();
        assert!(!succeeded, "{output}");
        output
    }

    /// Waits for its end. Returns whether it succeeded, and what it printed.
    #[track_caller]
    pub(crate) fn wait(&self) -> (bool, String) {
        let status = self.playbook.wait_exit_by(Deadline::after(PLAYBOOK));
        self.playbook.output().wait_closed();
        let text = format!("{}{}", self.playbook.stdout(), self.playbook.stderr());
        (status.success(), text)
    }
}

/// Runs the module that upgrades on a host. Returns whether it succeeded, and what it printed.
#[track_caller]
pub(crate) fn upgrade(sandbox: &Sandbox, host: &str, args: &str) -> (bool, String) {
    let args = format!("config=/etc/psflip/app.toml {args}");
    let module = command(sandbox, "ansible").args([host, "-m", "psflip.service.psflip_upgrade", "-a", &args]);
    Rollout { playbook: module.start() }.wait()
}

/// The number of changed tasks of a host, from the recap.
#[track_caller]
pub(crate) fn recap(output: &str, host: &str, key: &str) -> u64 {
    let recap = output.split_once("PLAY RECAP").unwrap_or_else(|| panic!("no recap: {output}")).1;
    let line = recap.lines().find(|line| line.split_whitespace().next() == Some(host));
    let line = line.unwrap_or_else(|| panic!("no {host} in {recap}"));
    let word = line.split_whitespace().find_map(|word| word.strip_prefix(&format!("{key}=")));
    word.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {key} in {line}"))
}
