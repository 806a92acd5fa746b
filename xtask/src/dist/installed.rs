//! Installs psflip's Debian package into an empty root, over an earlier version under which a service runs, then
//! removes and purges it.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use testkit::pidfile::named_process;
use testkit::process::Process;
use testkit::{Deadline, Running, Sandbox, Signal, wait_until};

use super::{Made, Programs, deb};
use crate::{Error, Outcome, step};

/// Files that the package must contain.
pub(super) const FILES: &[&str] = &[
    "usr/bin/psflip",
    "usr/bin/psflip-rehearse",
    "usr/share/man/man1/psflip.1.gz",
    "usr/share/man/man1/psflip-rehearse.1.gz",
    "usr/share/man/man1/psflip-check.1.gz",
    "usr/share/man/man5/psflip.toml.5.gz",
    "usr/share/bash-completion/completions/psflip",
    "usr/share/fish/vendor_completions.d/psflip.fish",
    "usr/share/psflip/psflip.schema.json",
    "usr/share/doc/psflip/examples/smallest.toml",
    "usr/lib/systemd/system/psflip@.service",
    "etc/psflip",
];

/// What only the Debian package contains.
const FILES_OF_DEBIAN: &[&str] = &[
    "usr/share/zsh/vendor-completions/_psflip",
    "usr/share/doc/psflip/copyright",
    "usr/share/doc/psflip/changelog.gz",
];

/// The configuration of the service, which the package does not own.
const CONFIGURATION: &str = "etc/psflip/app.toml";

/// Whether a package that can't be installed here, since it is for another architecture, has all files.
pub(super) fn has_all_files(package: &Path) -> Outcome {
    let list = step::output(Command::new("dpkg-deb").arg("--contents").arg(package))?;
    let files: BTreeSet<&str> =
        list.lines().filter_map(|line| Some(line.split_once(" ./")?.1.trim_end_matches('/'))).collect();
    match FILES.iter().chain(FILES_OF_DEBIAN).find(|file| !files.contains(*file)) {
        Some(missing) => Err(format!("`{}` has no `{missing}`", package.display()).into()),
        None => Ok(()),
    }
}

/// Runs the life of a package; `before` is an earlier one.
pub(super) fn check(made: &Made, before: Option<&Path>) -> Outcome {
    let sandbox = Sandbox::new();
    let root = Root::new(&sandbox)?;
    let earlier = match before {
        Some(package) => package.to_owned(),
        None => earlier(made, &sandbox)?,
    };
    root.dpkg(&["--install"], Some(&earlier))?;
    if !nix::unistd::geteuid().is_root() {
        println!("not run in the root: chroot(2) is for root");
        root.dpkg(&["--install"], Some(&made.package))?;
        return root.is_complete();
    }
    let mut installed = root.files()?;
    root.add_child()?;
    let service = Service::start(&sandbox, &root);
    let first = service.active(None);
    let old = version(first)?;
    if old == made.version {
        return Err(
            format!("--before: both packages have psflip {old}; give one of an earlier version").into()
        );
    }
    let others: BTreeSet<PathBuf> = root.files()?.difference(&installed).cloned().collect();

    let before = service.seen();
    root.dpkg(&["--install"], Some(&made.package))?;
    root.is_complete()?;
    installed.extend(root.files()?.difference(&others).cloned());
    service.is_undisturbed(first, &before, "the installation of the new version")?;
    is_version(first, &old)?;

    root.psflip(&["upgrade", "--wait", "drained", "-c", "/etc/psflip/app.toml"])?;
    let second = service.active(Some(first));
    service.gone(first);
    is_version(second, &made.version)?;
    let anchor = service.running.first();
    wait_until(Deadline::default(), "the anchor to execute the new psflip", || {
        version(anchor).is_ok_and(|version| version == made.version).then_some(())
    });
    let status = root.psflip(&["status", "-c", "/etc/psflip/app.toml"])?;
    if !status.contains(&format!("version {}", made.version)) {
        return Err(format!("the status does not name version {}:\n{status}", made.version).into());
    }
    println!("a service of version {old} ran on while {} was installed, and flipped to it", made.version);

    let before = service.seen();
    root.dpkg(&["--remove", "psflip"], None)?;
    service.is_undisturbed(second, &before, "the removal")?;
    root.dpkg(&["--purge", "psflip"], None)?;
    service.is_undisturbed(second, &before, "the purge")?;
    second.signal(Signal::SIGHUP)?;
    service.logs("upgrade failed");
    if service.active(None) != second {
        return Err("an upgrade without the program took the service".into());
    }
    root.is_clean(&installed)?;
    service.stop(second)?;
    println!("it ran on when the package was removed and purged, and nothing of the package is left");
    Ok(())
}

/// Makes an earlier package without another build: the same programs, in which each digit of the version is 0.
fn earlier(made: &Made, sandbox: &Sandbox) -> Result<PathBuf, Error> {
    let zeros: String =
        made.version.chars().map(|digit| if digit.is_ascii_digit() { '0' } else { digit }).collect();
    let renumbered = |program: &Path| -> Result<PathBuf, Error> {
        let content = renumbered(&fs::read(program)?, made.version.as_bytes(), zeros.as_bytes());
        let path = sandbox.path("earlier").join(program.file_name().unwrap_or_default());
        fs::write(&path, content)?;
        fs::set_permissions(&path, PermissionsExt::from_mode(0o755))?;
        Ok(path)
    };
    fs::create_dir(sandbox.path("earlier"))?;
    let programs = Programs {
        psflip: renumbered(&made.programs.psflip)?,
        rehearse: renumbered(&made.programs.rehearse)?,
        licences: made.programs.licences.clone(),
        target: made.programs.target.clone(),
    };
    let reported = step::output(Command::new(&programs.psflip).arg("--version"))?;
    if reported.trim() != format!("psflip {zeros}") {
        let reported = reported.trim();
        return Err(format!("an earlier psflip could not be made: it reports version `{reported}`").into());
    }
    deb::psflip(&programs, &zeros, deb::FAST, &sandbox.path("earlier"))
}

/// The content with each `from` replaced by `to`, which is as long.
fn renumbered(content: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut new = content.to_vec();
    for at in 0..content.len().saturating_sub(from.len() - 1) {
        if content[at..].starts_with(from) {
            new[at..at + to.len()].copy_from_slice(to);
        }
    }
    new
}

/// The version of the program that a process executes, also if its file has been replaced.
fn version(process: Process) -> Result<String, Error> {
    let program = format!("/proc/{}/exe", process.pid());
    let reported = step::output(Command::new(program).arg("--version"))?;
    Ok(reported.trim().trim_start_matches("psflip ").to_owned())
}

fn is_version(process: Process, wanted: &str) -> Outcome {
    let version = version(process)?;
    if version == wanted {
        return Ok(());
    }
    Err(format!("process {} executes psflip {version}, not {wanted}", process.pid()).into())
}

/// A root without anything, not even a shell.
struct Root(PathBuf);

impl Root {
    fn new(sandbox: &Sandbox) -> Result<Self, Error> {
        let root = sandbox.path("root");
        for folder in ["var/lib/dpkg/updates", "var/lib/dpkg/info", "proc", "run", "dev"] {
            fs::create_dir_all(root.join(folder))?;
        }
        fs::write(root.join("var/lib/dpkg/status"), "")?;
        fs::write(root.join("var/lib/dpkg/available"), "")?;
        Ok(Self(root))
    }

    fn dpkg(&self, action: &[&str], package: Option<&Path>) -> Result<String, Error> {
        let mut dpkg = Command::new("dpkg");
        // The host's configuration may exclude documentation.
        dpkg.arg("--root").arg(&self.0).args(["--force-not-root", "--log=/dev/null", "--path-include=/*"]);
        step::output(dpkg.args(action).args(package))
    }

    fn psflip(&self, arguments: &[&str]) -> Result<String, Error> {
        step::output(Command::new("chroot").arg(&self.0).arg("/usr/bin/psflip").args(arguments))
    }

    /// Whether the package has installed what it should, as it should.
    fn is_complete(&self) -> Outcome {
        for name in FILES.iter().chain(FILES_OF_DEBIAN) {
            let metadata = fs::metadata(self.0.join(name))
                .map_err(|error| format!("the package has no `{name}`: {error}"))?;
            let expected = if metadata.is_dir() || name.starts_with("usr/bin/") { 0o755 } else { 0o644 };
            if metadata.permissions().mode() & 0o7777 != expected {
                return Err(format!("`{name}` has the mode {:o}", metadata.permissions().mode()).into());
            }
        }
        let verified = self.dpkg(&["--verify", "psflip"], None)?;
        if !verified.is_empty() {
            return Err(format!("dpkg --verify: {verified}").into());
        }
        println!("installed into an empty root: {} files and folders are where they should be", FILES.len());
        Ok(())
    }

    /// Adds what the service needs besides psflip: its child, `sleep`, with its libraries, and a configuration.
    fn add_child(&self) -> Outcome {
        let sleep = PathBuf::from("/bin/sleep");
        let libraries = step::output(Command::new("ldd").arg(&sleep))?;
        let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
        for file in libraries.chain([sleep]) {
            let place = self.0.join(file.strip_prefix("/")?);
            fs::create_dir_all(place.parent().unwrap_or(&self.0))?;
            fs::copy(&file, place)?;
        }
        fs::write(
            self.0.join(CONFIGURATION),
            "cmd = [\"/bin/sleep\", \"infinity\"]\npidfile = \"/run/app.pid\"\n[healthcheck.alive]\ntimeout = \"0s\"\n",
        )?;
        self.psflip(&["check", "--strict", "-c", "/etc/psflip/app.toml"]).map(drop)
    }

    /// All files, except what dpkg records.
    fn files(&self) -> Result<BTreeSet<PathBuf>, Error> {
        let mut files = BTreeSet::new();
        for folder in ["etc", "usr", "var", "opt", "srv"] {
            if self.0.join(folder).exists() {
                let below = crate::repo::files_below(&self.0.join(folder))?;
                files.extend(below.into_iter().filter(|file| !file.starts_with(self.0.join("var/lib/dpkg"))));
            }
        }
        Ok(files)
    }

    /// Whether nothing of the package is left; `installed` are its files. The user's configuration must be there.
    fn is_clean(&self, installed: &BTreeSet<PathBuf>) -> Outcome {
        let left: Vec<PathBuf> = self.files()?.intersection(installed).cloned().collect();
        let known = step::output(
            Command::new("dpkg-query").arg("--admindir").arg(self.0.join("var/lib/dpkg")).args(["--show"]),
        )?;
        if !left.is_empty() || !known.is_empty() || self.0.join("usr/share/doc").exists() {
            return Err(format!("after the purge there is still {left:?} {known}").into());
        }
        if !self.0.join(CONFIGURATION).exists() {
            return Err(format!("the purge has removed the user's {CONFIGURATION}").into());
        }
        Ok(())
    }
}

/// A service in the root.
struct Service {
    running: Arc<Running>,
    pidfile: PathBuf,
}

impl Service {
    fn start(sandbox: &Sandbox, root: &Root) -> Self {
        // A mount namespace of its own removes /proc afterwards.
        let script =
            "mount -t proc proc \"$1/proc\" && exec chroot \"$1\" /usr/bin/psflip -c /etc/psflip/app.toml";
        let path = root.0.to_string_lossy().into_owned();
        let running = sandbox.command(["unshare", "--mount", "sh", "-c", script, "sh", &path]).start();
        let service = Self { running, pidfile: root.0.join("run/app.pid") };
        service.logs("healthy, active");
        service
    }

    /// The active psflip, another one than `old`.
    fn active(&self, old: Option<Process>) -> Process {
        wait_until(Deadline::default(), "the pidfile to name a psflip", || {
            named_process(&self.pidfile).filter(|new| Some(*new) != old)
        })
    }

    fn logs(&self, text: &str) {
        wait_until(Deadline::default(), format!("a line with `{text}`"), || {
            self.running.stderr().contains(text).then_some(())
        });
    }

    fn gone(&self, process: Process) {
        wait_until(Deadline::default(), "psflip to exit", || (!process.is_alive()).then_some(()));
    }

    /// What a disturbance would change: the log and the processes.
    fn seen(&self) -> (String, Vec<Process>) {
        (self.running.stderr(), self.running.first().tree())
    }

    fn is_undisturbed(&self, active: Process, before: &(String, Vec<Process>), by: &str) -> Outcome {
        let now = self.seen();
        if self.active(None) == active && now == *before {
            return Ok(());
        }
        Err(format!("{by} has disturbed the service: {:?}, before {:?}\n{}", now.1, before.1, now.0).into())
    }

    fn stop(&self, active: Process) -> Outcome {
        active.signal(Signal::SIGTERM)?;
        self.gone(active);
        self.running.wait_exit();
        if self.pidfile.exists() {
            return Err(format!("it did not stop as it should:\n{}", self.running.stderr()).into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_occurrence_of_a_version_is_replaced() {
        assert_eq!(renumbered(b"psflip 1.2.3\0x1.2.3", b"1.2.3", b"0.0.0"), b"psflip 0.0.0\0x0.0.0");
        assert_eq!(renumbered(b"1.2", b"1.2.3", b"0.0.0"), b"1.2");
    }
}
