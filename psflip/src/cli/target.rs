//! The running service that a client command talks to: finds its control socket, or says why there is none.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use clap::Args;

use super::discover::Found;
use super::{DEFAULT_CONFIG, complain};
use crate::config::{self, Generation, Slot};
use crate::control::client::{Connection, Unreachable};
use crate::control::protocol::ControlRequest;
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::manager::last_exit::{self, LastExit};
use crate::manager::systemd::{unit_of, user_option};
use crate::process::invocation::Invocation;

/// Selects the service.
#[derive(Clone, Debug, Args)]
pub(super) struct ServiceArgs {
    /// The configuration that the service was started with: it says where the control socket is
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_CONFIG, conflicts_with = "socket")]
    config: PathBuf,
    /// The path of the control socket, instead of a configuration
    #[arg(long, value_name = "PATH")]
    socket: Option<PathBuf>,
}

/// The connection ended before any answer.
pub(super) const CLOSED: &str = "psflip closed the connection without an answer: it was just stopping, or was killed; `psflip status` shows what serves now";

/// Why a client command fails: its message and its exit code.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) message: String,
    pub(super) code: u8,
}

impl Trouble {
    /// psflip did not answer.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: exit::FAILURE }
    }

    /// psflip sent an error: it does not understand the request, or not this client.
    pub(super) fn refused(reason: &str) -> Self {
        Self::new(if reason.contains("is no request: unknown variant") {
            "the running psflip is older than this one and does not know this request; `psflip upgrade` replaces it".to_owned()
        } else {
            format!("psflip refused the request: {reason}")
        })
    }

    /// Prints the message.
    pub(super) fn report(&self) -> ExitStatus {
        complain(&self.message);
        ExitStatus::Exited(self.code)
    }
}

impl From<Unreachable> for Trouble {
    fn from(why: Unreachable) -> Self {
        Self::new(why.to_string())
    }
}

/// A control socket and the pidfile it belongs to.
#[derive(Debug)]
pub(super) struct ServiceAddress {
    pub(super) socket: PathBuf,
    /// The pidfile of the same configuration.
    pidfile: Option<PathBuf>,
    /// The configuration that names them.
    config: Option<PathBuf>,
    /// For a service that was found by /proc: its user, and its socket as psflip named it.
    found: Option<(Option<u32>, PathBuf)>,
}

impl ServiceArgs {
    /// Finds the control socket. The configuration may be invalid by now: only its pidfile and `[control]`
    /// are needed. If they can't be read and `$RUNTIME_DIRECTORY` is set, the socket is looked for there.
    pub(super) fn locate(&self) -> Result<ServiceAddress, Trouble> {
        self.by_configuration().or_else(|trouble| {
            let socket = in_runtime_directory().filter(|_| trouble.code == exit::CONFIG).ok_or(trouble)?;
            Ok(ServiceAddress { socket, pidfile: None, config: None, found: None })
        })
    }

    fn by_configuration(&self) -> Result<ServiceAddress, Trouble> {
        if let Some(socket) = &self.socket {
            return Ok(ServiceAddress { socket: socket.clone(), pidfile: None, config: None, found: None });
        }
        let file = self.config.display();
        let origin = Invocation::of_this_process();
        let env = |name: &str| origin.raw_variable(name);
        let first = Generation { number: 1, slot: Slot::A, started: SystemTime::now(), env: &env };
        let broken = |errors: &config::Errors| Trouble {
            message: format!("can't find the control socket; give its path with `--socket PATH`\n{errors}"),
            code: exit::CONFIG,
        };
        let missing =
            self.config == Path::new(DEFAULT_CONFIG) && matches!(self.config.try_exists(), Ok(false));
        if missing {
            return Err(Trouble {
                message: format!(
                    "there is no `{DEFAULT_CONFIG}` in this directory; name a psflip by `-c FILE` or `--socket PATH`"
                ),
                code: exit::CONFIG,
            });
        }
        let document = config::Document::read(&self.config).map_err(|errors| broken(&errors))?;
        let (plan, errors) = match document.plan_even_if_broken(&first) {
            Ok(found) => found,
            Err(errors) => {
                let places = document.places_even_if_no_toml(&first);
                let is_there = |plan: &&config::Plan| socket_of(plan).is_some_and(|socket| socket.exists());
                let Some(plan) = places.iter().find(is_there).or(places.first()) else {
                    return Err(broken(&errors));
                };
                (plan.clone(), Some(errors))
            }
        };
        match (socket_of(&plan), errors) {
            (Some(socket), errors) => {
                if let Some(errors) = errors {
                    let errors = errors.to_string();
                    complain(&format!(
                        "warning: the configuration is invalid, so an upgrade would fail: {}",
                        errors.lines().next().unwrap_or_default()
                    ));
                }
                Ok(ServiceAddress {
                    socket,
                    pidfile: plan.pidfile,
                    config: Some(self.config.clone()),
                    found: None,
                })
            }
            (None, Some(errors)) => Err(broken(&errors)),
            (None, None) => Err(Trouble::new(format!(
                "the psflip of `{file}` has no control socket: give it a `pidfile`, or `socket` in `[control]`, and start it again; \
                 in a systemd unit with `RuntimeDirectory=` it has `psflip.sock` there, to be named by `--socket`"
            ))),
        }
    }
}

/// A control socket in the directory that systemd created for this service (systemd.exec(5)).
fn in_runtime_directory() -> Option<PathBuf> {
    let directories = std::env::var("RUNTIME_DIRECTORY").ok()?;
    let directory = Path::new(directories.split(':').next()?);
    ["psflip.sock", "psflip.pid.sock"]
        .map(|name| directory.join(name))
        .into_iter()
        .find(|socket| socket.exists())
}

/// The path of the control socket of a service with this configuration.
fn socket_of(plan: &config::Plan) -> Option<PathBuf> {
    plan.control.path(plan.pidfile.as_deref())
}

impl ServiceAddress {
    /// That of a service that was found by /proc. `found` has to outlive it.
    pub(super) fn of(found: &Found) -> Self {
        let Found { named, socket, owner, .. } = found;
        Self { socket: socket.clone(), pidfile: None, config: None, found: Some((*owner, named.clone())) }
    }

    /// The socket as psflip named it, if the service was found by /proc.
    pub(super) fn shown_if_found(&self) -> Option<&Path> {
        self.found.as_ref().map(|(_, named)| named.as_path())
    }

    /// Connects and sends a request.
    pub(super) fn request(&self, request: ControlRequest) -> Result<Connection, Trouble> {
        self.request_within(request, None, exit::FAILURE)
    }

    /// Connects and sends a request. `limit`: how long psflip may take to accept it, at most 10 s. `late`:
    /// the exit code if it takes longer.
    pub(super) fn request_within(
        &self,
        request: ControlRequest,
        limit: Option<Duration>,
        late: u8,
    ) -> Result<Connection, Trouble> {
        if let Some((owner, _)) = &self.found {
            // The path of the socket leads through a descriptor of this process, so it says nothing.
            return Connection::open(&self.socket, request, *owner, limit).map_err(|why| Trouble {
                code: if why.is_silent() { late } else { exit::FAILURE },
                message: why.reason(),
            });
        }
        Connection::open(&self.socket, request, None, limit).map_err(|why| {
            // A psflip that runs all the same was started without a socket, or its version has none.
            match self.running().filter(|_| why.is_absent()) {
                _ if why.is_silent() => Trouble { message: why.to_string(), code: late },
                None if why.is_absent() => Trouble::new(format!("{why}{}", self.looked_for())),
                None => why.into(),
                Some(pid) => Trouble::new(format!(
                    "psflip runs (pid {pid}), but not with the control socket `{}`: its version is older, or its configuration \
                     said otherwise when it was started; `kill -HUP {pid}` upgrades it",
                    self.socket.display()
                )),
            }
        })
    }

    /// psflip has not answered in this time.
    pub(super) fn silent(&self, timeout: Duration) -> Trouble {
        Trouble::new(format!(
            "psflip has not answered on `{}` within {timeout:?}: it is stopped (`kill -CONT` continues it) or very busy; or, if the \
             configuration names a new control socket, an upgrade to it still runs: the new generation answers once it is promoted",
            self.shown_if_found().unwrap_or(&self.socket).display()
        ))
    }

    /// How the service last went down, if no psflip runs.
    pub(super) fn last_exit(&self) -> Option<LastExit> {
        // The default socket of a pidfile `PATH` is `PATH.sock`.
        let socket = || self.socket.to_str()?.strip_suffix(".sock").map(Path::new);
        let places = [self.pidfile.as_deref().or_else(socket), Some(self.socket.as_path())];
        let mut paths = places.into_iter().filter_map(|path| last_exit::path(path, None));
        paths.find_map(|path| last_exit::read(&path)).filter(|_| self.running().is_none())
    }

    /// What else the client looked at, and what to do, for an operator who knows that psflip runs.
    fn looked_for(&self) -> String {
        let config =
            self.config.as_deref().map_or_else(String::new, |path| format!(" of `{}`", path.display()));
        let Some(pidfile) = &self.pidfile else {
            return "; if psflip runs, it has another socket: that of its configuration is found by `-c FILE`, and is the \
                    pidfile's path with `.sock` appended unless `[control]` names another"
                .to_owned();
        };
        let there = match std::fs::read_to_string(pidfile) {
            Ok(pid) => {
                let pid = crate::text::head(pid.trim(), 20);
                format!("the pidfile `{}` names `{pid}`, which is no running psflip", pidfile.display())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                format!("there is no pidfile `{}`", pidfile.display())
            }
            Err(error) => format!("the pidfile `{}` can't be read: {error}", pidfile.display()),
        };
        format!(
            ", and {there}: the psflip{config} isn't running, or was started with another `pidfile`{}; `--socket PATH` names its socket",
            if pidfile.is_relative() { " or in another directory" } else { "" }
        )
    }

    /// The psflip that the pidfile names, if it is running.
    fn running(&self) -> Option<u32> {
        let pid: u32 = std::fs::read_to_string(self.pidfile.as_ref()?).ok()?.trim().parse().ok()?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        is_running_psflip(&stat).then_some(pid)
    }
}

/// Whether `/proc/PID/stat`, `PID (NAME) STATE ...`, is that of a running psflip; see proc(5). A killed
/// process keeps its name until its parent has reaped it.
fn is_running_psflip(stat: &str) -> bool {
    let named = stat.split_once(" (").and_then(|(_, rest)| rest.rsplit_once(") "));
    named.is_some_and(|(name, rest)| name == "psflip" && !rest.starts_with(['Z', 'X']))
}

/// Where to read the log of this psflip, as far as /proc shows it.
pub(super) fn where_to_look(pid: u32) -> Option<String> {
    let target = std::fs::read_link(format!("/proc/{pid}/fd/2")).ok()?;
    let target = target.to_string_lossy();
    let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    if target.starts_with("/dev/null") {
        return None;
    }
    if target.starts_with("/dev/") {
        return Some(format!("psflip's log: the terminal {target}"));
    }
    if target.starts_with('/') {
        return Some(format!("psflip's log: {target}"));
    }
    unit_of(&groups).map(|unit| format!("psflip's log: journalctl {}-u {unit} -n 50", user_option(&groups)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_killed_psflip_counts_as_not_running() {
        for (stat, runs) in [
            ("12 (psflip) S 1 12 12", true),
            ("12 (psflip) T 1 12 12", true),
            ("12 (psflip) Z 1 12 12", false),
            ("12 (psflip-fuzz) S 1 12 12", false),
            ("12 (a) psflip) S 1 12 12", false),
            ("", false),
        ] {
            assert_eq!(is_running_psflip(stat), runs, "{stat}");
        }
    }
}
