//! What the arguments mean, with psflip's view of the configuration.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::{TempDir, TempPath};
use toml::{Table, Value};

use crate::args::Args;
use crate::exit;
use crate::load::{Extra, Kind, Load, Protocol};
use crate::service::psflip::Invocation;
use crate::service::versions::directory_of;

/// Why there is nothing to rehearse: the text for the user, and the exit code.
#[derive(Debug)]
pub(crate) struct Abort {
    pub(crate) text: String,
    pub(crate) exit: u8,
}

impl Abort {
    pub(crate) fn new(exit: u8, text: impl Into<String>) -> Self {
        Self { text: text.into(), exit }
    }

    /// An error of the rehearsal itself.
    pub(crate) fn failed(what: &str, error: &io::Error) -> Self {
        Self::new(exit::FAILED, format!("{what}: {error}"))
    }
}

/// What is rehearsed.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    Psflip {
        invocation: Invocation,
        config: Option<PathBuf>,
        /// Outside of a sandbox, `config` is a copy: versions are written to it. Dropping it removes the file.
        copy: Option<Arc<TempPath>>,
    },
    /// The command that upgrades, and the one that starts the service.
    Other { during: String, service: Option<String> },
}

/// A rehearsal as it will be done.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) subject: Subject,
    /// For people.
    pub(crate) name: String,
    /// A client for each: what it requests, and how.
    pub(crate) clients: Vec<(Load, Kind)>,
    /// Headers and body of all requests.
    pub(crate) extra: Arc<Extra>,
    pub(crate) args: Args,
}

impl Plan {
    /// # Errors
    /// The configuration is invalid, or there is nothing to request.
    pub(crate) fn new(args: &Args) -> Result<Self, Abort> {
        let (subject, name, default_load) = match &args.during {
            Some(during) => {
                let subject = Subject::Other { during: during.clone(), service: args.service.clone() };
                (subject, during.clone(), None)
            }
            None => psflip_subject(args)?,
        };
        let loads = if args.load.is_empty() { Vec::from_iter(default_load) } else { args.load.clone() };
        if loads.is_empty() {
            let text = "what shall be requested? The configuration has no `[[proxy]]` and no health check with a URL, so give one: --load http://127.0.0.1:8000/";
            return Err(Abort::new(exit::USAGE, text));
        }
        let clients = clients(&loads, &args.kinds, args.clients.into());
        let extra = Arc::new(extra(args, &clients)?);
        Ok(Self { subject, name, clients, extra, args: args.clone() })
    }

    /// The copy of the configuration that must not outlive the rehearsal.
    pub(crate) fn copy(&self) -> Option<PathBuf> {
        match &self.subject {
            Subject::Psflip { copy, .. } => copy.as_ref().map(|copy| copy.to_path_buf()),
            Subject::Other { .. } => None,
        }
    }

    /// The number of each client's load: clients that request the same in the same way have the same.
    pub(crate) fn loads(&self) -> Vec<usize> {
        let mut known: Vec<(&str, Kind)> = Vec::new();
        let mut numbers = Vec::new();
        for (load, kind) in &self.clients {
            let one = (load.url.as_str(), *kind);
            let number = known.iter().position(|other| *other == one).unwrap_or_else(|| {
                known.push(one);
                known.len() - 1
            });
            numbers.push(number);
        }
        numbers
    }
}

/// One client in turn for each kind of each load. At least one for each, also if there are more than `count`.
fn clients(loads: &[Load], default: &[Kind], count: usize) -> Vec<(Load, Kind)> {
    let mut each = Vec::new();
    for load in loads {
        let is_fcgi = matches!(load.protocol, Protocol::Fcgi { .. });
        let kinds = match &load.kinds[..] {
            [] if is_fcgi => &[Kind::New, Kind::KeepAlive],
            [] => default,
            kinds => kinds,
        };
        each.extend(kinds.iter().map(|kind| (load.clone(), *kind)));
    }
    let count = count.max(each.len());
    each.into_iter().cycle().take(count).collect()
}

/// The most bytes of `--body`: every client has them in memory.
const MOST_BODY: u64 = 1 << 20;

fn extra(args: &Args, clients: &[(Load, Kind)]) -> Result<Extra, Abort> {
    let mut extra = Extra { headers: args.header.clone(), ..Extra::default() };
    if let Some(name) = extra.doubled() {
        let text = format!("--header: a request has one `{name}`, and two are given: keep one");
        return Err(Abort::new(exit::USAGE, text));
    }
    let Some(path) = &args.body else { return Ok(extra) };
    let usage = |text: String| Abort::new(exit::USAGE, format!("--body {}: {text}", path.display()));
    if !clients.iter().any(|(_, kind)| matches!(kind, Kind::Post | Kind::PostHalf)) {
        return Err(usage("only the kinds post and post-half have a body: --kinds new,post".to_owned()));
    }
    check_regular("--body", path)?;
    let read = || {
        let mut body = Vec::new();
        File::open(path)?.take(MOST_BODY + 1).read_to_end(&mut body)?;
        Ok(body)
    };
    extra.body = read().map_err(|error: io::Error| usage(error.to_string()))?;
    if extra.body.len() as u64 > MOST_BODY {
        let text = "it has more than 1 MiB, and each client holds it in memory: give a smaller one";
        return Err(usage(text.to_owned()));
    }
    Ok(extra)
}

/// Refuses what is no file: it is read once more in the sandbox, where a pipe of the shell is closed. Whoever reads
/// the file reports that there is none.
fn check_regular(option: &str, path: &Path) -> Result<(), Abort> {
    if path.metadata().map_or(true, |metadata| metadata.is_file()) {
        return Ok(());
    }
    let text = format!(
        "{option} {}: it is no regular file, and is read more than once: write it to a file first, and name that",
        path.display()
    );
    Err(Abort::new(exit::USAGE, text))
}

fn psflip_subject(args: &Args) -> Result<(Subject, String, Option<Load>), Abort> {
    args.next.as_deref().map_or(Ok(()), |path| check_regular("--next", path))?;
    let program = find_psflip(args.psflip.as_deref())?;
    let changes = !args.bad.is_empty() || args.next.is_some();
    let copy = (args.no_sandbox && changes && args.run.is_empty()).then(|| copy(&args.config)).transpose()?;
    let path = copy.as_ref().map_or(args.config.clone(), |copy| copy.to_path_buf());
    let config = args.run.is_empty().then(|| path.clone());
    let mut source = vec![OsString::from("-c"), path.into_os_string()];
    if config.is_none() {
        source.clone_from(&args.run);
        if changes {
            let text = "--bad and --next change the configuration file, so they need one: `psflip check FLAGS -- COMMAND` prints it";
            return Err(Abort::new(exit::USAGE, text));
        }
    }
    let table = check(&program, &source)?;
    let name = match &config {
        Some(_) => args.config.display().to_string(),
        None => args.run.iter().map(|arg| arg.to_string_lossy()).collect::<Vec<_>>().join(" "),
    };
    let (control, runtime_directory) = control(&table)?;
    let control =
        std::path::absolute(&control).map_err(|error| Abort::failed("the working directory", &error))?;
    let args = [OsString::from("run")].into_iter().chain(source).collect();
    let invocation = Invocation { program, args, control, runtime_directory };
    let default_load = default_load(&table);
    Ok((Subject::Psflip { invocation, config, copy: copy.map(Arc::new) }, name, default_load))
}

/// A copy beside the configuration, so that relative paths mean the same.
fn copy(config: &Path) -> Result<TempPath, Abort> {
    let make = || {
        let directory = directory_of(config);
        let file = tempfile::Builder::new().prefix(".rehearse-").suffix(".toml").tempfile_in(directory)?;
        std::fs::copy(config, file.path())?;
        Ok(file.into_temp_path())
    };
    make().map_err(|error: io::Error| Abort::failed(&format!("a copy of `{}`", config.display()), &error))
}

/// The psflip that was named, the one beside this program, or the one in PATH.
fn find_psflip(named: Option<&Path>) -> Result<PathBuf, Abort> {
    if let Some(path) = named {
        let path = std::path::absolute(path).map_err(|error| Abort::failed("--psflip", &error))?;
        let missing = || Abort::new(exit::USAGE, format!("--psflip: `{}` does not exist", path.display()));
        return path.exists().then(|| path.clone()).ok_or_else(missing);
    }
    let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name("psflip"));
    let in_path = std::env::var_os("PATH").into_iter().flat_map(|path| {
        std::env::split_paths(&path).map(|directory| directory.join("psflip")).collect::<Vec<_>>()
    });
    let found = beside.into_iter().chain(in_path).find(|path| path.is_file());
    found.ok_or_else(|| {
        Abort::new(exit::FAILED, "no psflip beside this program or in PATH; name one by --psflip")
    })
}

/// The configuration as psflip reads it, with all defaults.
fn check(program: &Path, source: &[OsString]) -> Result<Table, Abort> {
    let output = Command::new(program).arg("check").args(source).output();
    let output = output.map_err(|error| Abort::failed(&format!("`{}`", program.display()), &error))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).trim_end().to_owned();
        let exit =
            if output.status.code() == Some(i32::from(exit::USAGE)) { exit::USAGE } else { exit::CONFIG };
        return Err(Abort::new(exit, text));
    }
    let text = String::from_utf8_lossy(&output.stdout);
    text.parse().map_err(|error| Abort::new(exit::FAILED, format!("`psflip check` printed no TOML: {error}")))
}

/// Where psflip's control socket is, and RUNTIME_DIRECTORY if that makes it.
fn control(table: &Table) -> Result<(PathBuf, Option<Arc<TempDir>>), Abort> {
    let socket = table.get("control").and_then(|control| control.get("socket"));
    match (socket, table.get("pidfile").and_then(Value::as_str)) {
        (Some(Value::String(path)), _) => Ok((path.into(), None)),
        (Some(_), _) => Err(Abort::new(
            exit::USAGE,
            "the rehearsal needs the control socket, and `control.socket` is false",
        )),
        (None, Some(pidfile)) => Ok((format!("{pidfile}.sock").into(), None)),
        (None, None) => {
            let directory = tempfile::Builder::new().prefix("psflip-rehearse-").tempdir();
            let directory =
                directory.map_err(|error| Abort::failed("a directory for the control socket", &error))?;
            Ok((directory.path().join("psflip.sock"), Some(Arc::new(directory))))
        }
    }
}

/// What can be requested: where the first proxy listens, or else what the health check requests.
fn default_load(table: &Table) -> Option<Load> {
    let get = |value: &Value, key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let proxy = table.get("proxy").and_then(Value::as_array).and_then(|all| all.first()).and_then(|proxy| {
        let scheme = match get(proxy, "protocol")?.as_str() {
            "http" => "http",
            "fastcgi" => "fcgi",
            _ => return None,
        };
        let listen = get(proxy, "listen")?;
        let url = match listen.strip_prefix("unix://") {
            Some(path) => format!("{scheme}+unix://{path}:/"),
            None => format!("{scheme}://{}/", reachable(listen.strip_prefix("tcp://")?)),
        };
        Some(url)
    });
    let check = || {
        let check = table.get("healthcheck")?;
        if let Some(http) = check.get("http") {
            let url = get(http, "url")?;
            return Some(
                url.strip_prefix("unix://").map_or(url.clone(), |rest| format!("http+unix://{rest}")),
            );
        }
        let fcgi = check.get("fcgi")?;
        let (address, script) = (get(fcgi, "address")?, get(fcgi, "script").unwrap_or_default());
        let script = if script.starts_with('/') { script } else { format!("/{script}") };
        Some(match address.strip_prefix("unix://").unwrap_or(&address) {
            path if path.starts_with('/') => format!("fcgi+unix://{path}:{script}"),
            tcp => format!("fcgi://{}{script}", tcp.trim_start_matches("tcp://")),
        })
    };
    proxy.or_else(check)?.parse().ok()
}

/// An address to connect to, for one to listen at.
fn reachable(listen: &str) -> String {
    for any in ["0.0.0.0:", "[::]:"] {
        if let Some(port) = listen.strip_prefix(any) {
            return format!("127.0.0.1:{port}");
        }
    }
    listen.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(config: &str) -> Option<String> {
        default_load(&config.parse().unwrap()).map(|load| load.url)
    }

    #[test]
    fn the_default_load_is_what_clients_request() {
        let proxy = "[[proxy]]\nlisten = 'tcp://[::]:8080'\nprotocol = 'http'\n";
        assert_eq!(load(proxy).as_deref(), Some("http://127.0.0.1:8080/"));
        let fastcgi = "[[proxy]]\nlisten = 'unix:///run/a.sock'\nprotocol = 'fastcgi'\n";
        assert_eq!(load(fastcgi).as_deref(), Some("fcgi+unix:///run/a.sock:/"));
        let check = "[healthcheck.http]\nurl = 'http://127.0.0.1:8000/up'\n";
        assert_eq!(load(check).as_deref(), Some("http://127.0.0.1:8000/up"));
        let check = "[healthcheck.http]\nurl = 'unix:///run/a.sock:/up'\n";
        assert_eq!(load(check).as_deref(), Some("http+unix:///run/a.sock:/up"));
        let check = "[healthcheck.fcgi]\naddress = 'unix:///run/a.sock'\nscript = '/ping'\n";
        assert_eq!(load(check).as_deref(), Some("fcgi+unix:///run/a.sock:/ping"));
        assert_eq!(load("[healthcheck.alive]\nafter = '5s'\n"), None);
    }

    #[test]
    fn the_control_socket_is_found() {
        let at = |config: &str| {
            control(&config.parse().unwrap()).map(|(path, _)| path).map_err(|abort| abort.exit)
        };
        assert_eq!(at("pidfile = '/run/a.pid'\n"), Ok("/run/a.pid.sock".into()));
        assert_eq!(at("[control]\nsocket = '/run/c'\n"), Ok("/run/c".into()));
        assert_eq!(at("[control]\nsocket = false\n"), Err(exit::USAGE));
    }

    #[test]
    fn clients_take_turns() {
        let loads: Vec<Load> =
            vec!["http://127.0.0.1:1/".parse().unwrap(), "stream=http://127.0.0.1:1/s".parse().unwrap()];
        let kinds: Vec<_> =
            clients(&loads, &[Kind::New, Kind::KeepAlive], 4).into_iter().map(|(_, kind)| kind).collect();
        assert_eq!(kinds, [Kind::New, Kind::KeepAlive, Kind::Stream, Kind::New]);
        assert_eq!(clients(&loads, &[Kind::New, Kind::KeepAlive], 1).len(), 3);
    }
}
