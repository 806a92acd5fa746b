//! A private Docker engine (Debian's `docker.io`), with images made of this host's files: it pulls nothing
//! and uses no network.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
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
        // Nothing changes the host's network.
        Self::launch(sandbox, &["unshare", "--mount", "--propagation", "private"], &["--bridge", "none"])
    }

    /// Starts an engine in a network namespace of its own as well, in which containers have their own addresses
    /// and publish ports. [`Engine::network`] leads there.
    ///
    /// # Panics
    /// If it does not answer within the default deadline.
    #[track_caller]
    #[must_use]
    pub fn start_with_network(sandbox: &Sandbox) -> Self {
        let shell = "ip link set lo up && exec \"$@\"";
        let namespaces = ["unshare", "--mount", "--propagation", "private", "--net", "sh", "-c", shell, "sh"];
        Self::launch(sandbox, &namespaces, &[])
    }

    #[track_caller]
    fn launch(sandbox: &Sandbox, wrapper: &[&str], options: &[&str]) -> Self {
        let socket = sandbox.path("d.sock");
        let dir = sandbox.dir().display();
        let host = format!("unix://{}", socket.display());
        let cgroup = format!("psflip-test-{}", sandbox.id());
        let (data, exec, pid) = (format!("{dir}/data"), format!("{dir}/exec"), format!("{dir}/dockerd.pid"));
        let daemon = sandbox
            .command(wrapper.iter().chain(&["dockerd"]))
            .args(["--host", &host, "--data-root", &data, "--exec-root", &exec, "--pidfile", &pid])
            // It takes overlay2 where the file system allows that: vfs needs a second for each image layer.
            .args(["--iptables=false", "--ip6tables=false", "--log-level", "warn"])
            .args(["--cgroup-parent", &format!("/{cgroup}")])
            .args(options)
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

    /// The network namespace of the engine.
    ///
    /// # Panics
    /// If the engine is gone.
    #[track_caller]
    #[must_use]
    pub fn network(&self) -> Network {
        Network(PathBuf::from(format!("/proc/{}/ns/net", self.daemon.pid())))
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
        all.extend(libraries(files));
        // Directories that no archive entry describes would be open to root only.
        let above =
            |file: &String| Path::new(file).ancestors().skip(1).map(PathBuf::from).collect::<Vec<_>>();
        let folders: BTreeSet<PathBuf> = all.iter().flat_map(above).collect();
        let image = self.dir.join(format!("{}.tar", name.replace(':', "-"))).display().to_string();
        let tar =
            Command::new("tar").args(["--no-recursion", "-chPf", &image]).args(&folders).args(&all).status();
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

/// The libraries that these programs and libraries need, by ldd(1).
#[must_use]
pub fn libraries(files: &[&str]) -> Vec<String> {
    let output = Command::new("ldd").args(files).output().map(|output| output.stdout).unwrap_or_default();
    let words = String::from_utf8_lossy(&output).into_owned();
    let is_path = |word: &&str| word.starts_with('/') && !word.ends_with(':');
    words.split_whitespace().filter(is_path).map(str::to_owned).collect()
}

/// A Python interpreter of this host, with the files of these modules and of all modules that they import.
///
/// # Panics
/// If a module can't be imported.
#[track_caller]
#[must_use]
pub fn python(modules: &str) -> Vec<String> {
    let program = "/usr/bin/python3";
    let script = format!(
        "import {modules}, sys\n\
         print(*filter(None, (getattr(module, '__file__', None) for module in sys.modules.values())), sep='\\n')"
    );
    match Command::new(program).args(["-c", &script]).output() {
        Ok(output) if output.status.success() => {
            let files = String::from_utf8_lossy(&output.stdout).into_owned();
            [program].into_iter().chain(files.lines()).map(str::to_owned).collect()
        }
        other => report::fail(&format!("`{program}` can't import {modules}: {other:?}")),
    }
}

/// A network namespace.
#[derive(Clone, Debug)]
pub struct Network(PathBuf);

impl Network {
    /// Moves the calling thread there for the rest of its life.
    ///
    /// # Panics
    /// If this process is not root, or the namespace is gone.
    #[track_caller]
    pub fn enter(&self) {
        let entered = File::open(&self.0)
            .and_then(|namespace| setns(namespace, CloneFlags::CLONE_NEWNET).map_err(Into::into));
        if let Err(error) = entered {
            report::fail(&format!("`{}` can't be entered: {error}", self.0.display()));
        }
    }

    /// Its path below /proc, for `nsenter --net=PATH`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
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
