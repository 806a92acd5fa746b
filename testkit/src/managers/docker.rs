//! A private Docker engine (Debian's `docker.io`), with images made of this host's files: it pulls nothing
//! and uses no network.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nix::sys::signal::Signal;

use crate::report;
use crate::running::Running;
use crate::sandbox::Sandbox;
use crate::wait::{Deadline, wait_until};

/// A running engine. Only root can start it.
#[derive(Debug)]
pub struct Engine {
    daemon: Arc<Running>,
    socket: PathBuf,
    /// The parent cgroup of its containers.
    cgroup: String,
    dir: PathBuf,
}

impl Engine {
    /// Starts an engine in a mount namespace of its own, so that its mounts vanish with it.
    ///
    /// # Panics
    /// If it does not answer within the default deadline.
    #[track_caller]
    #[must_use]
    pub fn start(sandbox: &Sandbox) -> Self {
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
        let engine = Self { daemon, socket, cgroup, dir: sandbox.dir().to_owned() };
        wait_until(Deadline::default(), "the engine to answer", || engine.docker(&["version"]).ok());
        engine
    }

    /// The path of its socket.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Runs the client; returns its standard output and standard error (`docker logs` uses both).
    ///
    /// # Errors
    /// The client failed: its standard error.
    ///
    /// # Panics
    /// If the client can't be executed.
    #[track_caller]
    pub fn docker(&self, args: &[&str]) -> Result<String, String> {
        let host = format!("unix://{}", self.socket.display());
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        match Command::new("docker").args(["--host", &host]).args(args).output() {
            Ok(output) if output.status.success() => Ok(text([output.stdout, output.stderr].concat())),
            Ok(output) => Err(text(output.stderr)),
            Err(error) => report::fail(&format!("`docker` can't be run: {error}")),
        }
    }

    /// Makes an image of these files and the libraries that they need, each at its own path; `changes` are
    /// lines of a Dockerfile.
    ///
    /// # Panics
    /// If that fails.
    #[track_caller]
    pub fn import(&self, name: &str, files: &[&str], changes: &[&str]) {
        let mut all: BTreeSet<String> = files.iter().map(|&file| file.to_owned()).collect();
        let libraries =
            Command::new("ldd").args(files).output().map(|output| output.stdout).unwrap_or_default();
        let libraries = String::from_utf8_lossy(&libraries).into_owned();
        let paths = libraries.split_whitespace().filter(|word| word.starts_with('/') && !word.ends_with(':'));
        all.extend(paths.map(str::to_owned));
        let image = self.dir.join(format!("{}.tar", name.replace(':', "-"))).display().to_string();
        let tar = Command::new("tar").args(["-chPf", &image]).args(&all).status();
        if !tar.as_ref().is_ok_and(std::process::ExitStatus::success) {
            report::fail(&format!("`{image}` can't be made: {tar:?}"));
        }
        let changes = changes.iter().flat_map(|&change| ["--change", change]);
        let args: Vec<&str> = ["import"].into_iter().chain(changes).chain([image.as_str(), name]).collect();
        if let Err(error) = self.docker(&args) {
            report::fail(&format!("the image `{name}` can't be created: {error}"));
        }
    }

    /// Stops the engine. Its containers must have exited.
    ///
    /// # Panics
    /// If the engine doesn't stop cleanly.
    #[track_caller]
    pub fn stop(&self) {
        self.daemon.signal(Signal::SIGTERM);
        let status = self.daemon.wait_exit();
        if !status.success() {
            report::fail(&format!("the engine exited with {status}: {}", self.daemon.stderr()));
        }
    }
}

impl Drop for Engine {
    /// Docker leaves empty cgroups behind in every hierarchy; a failed test leaves containers, too.
    fn drop(&mut self) {
        if std::thread::panicking() {
            let left = self.docker(&["ps", "--all", "--quiet"]).unwrap_or_default();
            for container in left.split_whitespace() {
                let _ = self.docker(&["rm", "--force", container]); // may already be exiting
            }
        }
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
        for folder in hierarchies.chain([root.to_path_buf()]) {
            let _ = std::fs::remove_dir(folder.join(&self.cgroup)); // not every hierarchy has it
        }
    }
}
