//! Finds the services on this host that this user may ask: the control sockets of all psflips, by /proc
//! (proc_pid_fd(5), proc_net(5)), in whatever directory or container they are.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::config::{Document, Generation, Slot};

/// A psflip with a control socket.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Found {
    /// The socket as psflip named it.
    pub(super) named: PathBuf,
    /// Its path for this process: through /proc, if psflip's root directory is another one.
    pub(super) socket: PathBuf,
    /// The pid of psflip.
    pub(super) pid: u32,
}

/// All services, ordered by the path of their socket. Processes of other users are left out where /proc hides
/// their descriptors.
pub(super) fn services() -> Vec<Found> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut seen = HashSet::new();
    let mut found: Vec<Found> = pids.filter_map(|pid| service(pid, &mut seen)).collect();
    found.sort();
    found
}

/// The service of this process, unless it is no psflip, or its socket was seen already.
fn service(pid: u32, seen: &mut HashSet<String>) -> Option<Found> {
    let own = PathBuf::from(format!("/proc/{pid}"));
    let name = fs::read_to_string(own.join("comm")).ok()?;
    if name.trim_end() != "psflip" {
        return None;
    }
    let held: HashSet<String> = fs::read_dir(own.join("fd"))
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = fs::read(own.join("net/unix")).ok()?;
    let told = || Told::of(&own);
    let mut told_once = None;
    for (inode, path) in listening(&table) {
        if !held.contains(&inode) || seen.contains(&inode) {
            continue;
        }
        // `root` and `cwd` lead into other containers as well.
        let socket = match path.strip_prefix("/") {
            Ok(rest) if is_same_root(&own) => Path::new("/").join(rest),
            Ok(rest) => own.join("root").join(rest),
            Err(_) => own.join("cwd").join(&path),
        };
        let is_control = has_usual_name(&path, &socket) || told_once.get_or_insert_with(told).names(&path);
        if is_control && fs::symlink_metadata(&socket).is_ok() {
            seen.insert(inode);
            let named = if path.is_absolute() { path } else { absolute(&own, &path) };
            return Some(Found { named, socket, pid });
        }
    }
    None
}

/// Inode and path of each listening Unix socket that has a path: `Num RefCount Protocol Flags Type St Inode
/// Path`.
fn listening(table: &[u8]) -> impl Iterator<Item = (String, PathBuf)> {
    /// `__SO_ACCEPTCON`: listen(2) was called.
    const ACCEPTS: &str = "00010000";
    table.split(|byte| *byte == b'\n').filter_map(|line| {
        let mut rest = line;
        let mut fields = [""; 7];
        for field in &mut fields {
            rest = rest.trim_ascii_start();
            let end = rest.iter().position(|byte| *byte == b' ')?;
            *field = std::str::from_utf8(&rest[..end]).ok()?;
            rest = &rest[end..];
        }
        let path = rest.get(1..).filter(|path| !path.is_empty() && !path.starts_with(b"@"))?;
        (fields[3] == ACCEPTS).then(|| (fields[6].to_owned(), PathBuf::from(OsStr::from_bytes(path))))
    })
}

/// Whether this is the default name of a control socket: `PIDFILE.sock`, or `psflip.sock`. psflip may hold
/// sockets of `[[listen]]` as well, and no connection must be made to those.
fn has_usual_name(path: &Path, socket: &Path) -> bool {
    if path.file_name() == Some(OsStr::new("psflip.sock")) {
        return true;
    }
    let pidfile = socket.to_str().and_then(|socket| socket.strip_suffix(".sock"));
    let pid = pidfile.and_then(|pidfile| fs::read_to_string(pidfile).ok());
    pid.is_some_and(|pid| pid.len() < 20 && pid.trim().parse::<u32>().is_ok())
}

/// What the command line and the configuration of a psflip say of its control socket.
struct Told(Option<PathBuf>);

impl Told {
    fn of(own: &Path) -> Self {
        Self(Self::by_flag(own).or_else(|| Self::by_configuration(own)))
    }

    fn names(&self, path: &Path) -> bool {
        self.0.as_deref() == Some(path)
    }

    fn by_flag(own: &Path) -> Option<PathBuf> {
        value_of(&argv(own), &["--control-socket"]).map(PathBuf::from)
    }

    fn by_configuration(own: &Path) -> Option<PathBuf> {
        let file = value_of(&argv(own), &["-c", "--config"]).unwrap_or_else(|| super::DEFAULT_CONFIG.into());
        let file = match Path::new(&file).strip_prefix("/") {
            Ok(rest) => own.join("root").join(rest),
            Err(_) => own.join("cwd").join(&file),
        };
        let environment = fs::read(own.join("environ")).ok()?;
        let env = |name: &str| {
            let mut entries = environment.split(|byte| *byte == 0);
            entries.find_map(|entry| {
                let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
                Some(OsStr::from_bytes(value).to_owned())
            })
        };
        let first = Generation { number: 1, slot: Slot::A, started: SystemTime::now(), env: &env };
        let (plan, _) = Document::read(&file).ok()?.plan_even_if_broken(&first).ok()?;
        plan.control.path(plan.pidfile.as_deref())
    }
}

fn argv(own: &Path) -> Vec<OsString> {
    let text = fs::read(own.join("cmdline")).unwrap_or_default();
    text.split(|byte| *byte == 0).map(|argument| OsStr::from_bytes(argument).to_owned()).collect()
}

/// The value of the first of these flags on the command line, before the child's command.
fn value_of(argv: &[OsString], flags: &[&str]) -> Option<OsString> {
    let own: Vec<&OsString> = argv.iter().take_while(|argument| *argument != "--").collect();
    own.iter().enumerate().find_map(|(index, argument)| {
        if flags.iter().any(|flag| *argument == flag) {
            return own.get(index + 1).map(|value| (*value).clone());
        }
        flags.iter().find_map(|flag| {
            let value = argument.as_bytes().strip_prefix(flag.as_bytes())?.strip_prefix(b"=")?;
            Some(OsStr::from_bytes(value).to_owned())
        })
    })
}

fn absolute(own: &Path, path: &Path) -> PathBuf {
    fs::read_link(own.join("cwd")).map_or_else(|_| path.to_owned(), |directory| directory.join(path))
}

/// Whether this process sees the same files as this one.
fn is_same_root(own: &Path) -> bool {
    let mounts = |own: &Path| fs::read_link(own.join("ns/mnt")).ok();
    let root = |own: &Path| fs::read_link(own.join("root")).ok();
    let this = Path::new("/proc/self");
    mounts(own) == mounts(this) && root(own) == root(this)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_listening_sockets_with_a_path_are_found() {
        let table = b"Num       RefCount Protocol Flags    Type St Inode Path\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 11 /run/a b.sock\n\
            0000000000000000: 00000003 00000000 00000000 0001 03 12 /run/a b.sock\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 13 @/abstract\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 14\n\
            0000000000000000: 00000002 00000000 00010000 0001 01 15 app.pid.sock\n";
        let found: Vec<_> = listening(table).collect();
        let wanted = [("11", "/run/a b.sock"), ("15", "app.pid.sock")];
        assert_eq!(found, wanted.map(|(inode, path)| (inode.to_owned(), PathBuf::from(path))));
    }

    #[test]
    fn flags_are_found_before_the_childs_command_only() {
        let argv = |text: &str| text.split(' ').map(OsString::from).collect::<Vec<_>>();
        let value = |text: &str| value_of(&argv(text), &["-c", "--config"]);
        assert_eq!(value("psflip run -c a.toml"), Some("a.toml".into()));
        assert_eq!(value("psflip --config=a.toml"), Some("a.toml".into()));
        assert_eq!(value("psflip run -- sh -c x"), None);
        assert_eq!(value("psflip -c"), None);
    }
}
