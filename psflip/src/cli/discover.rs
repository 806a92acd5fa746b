//! Finds the services on this host that this user may ask: the control sockets of all psflips, by /proc
//! (proc_pid_fd(5), proc_net(5)), in whatever directory or container they are.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, open, openat, openat2};
use nix::sys::stat::{Mode, SFlag, fstatat};

use crate::config::{Document, Generation, Slot};

/// A psflip with a control socket.
#[derive(Debug)]
pub(super) struct Found {
    /// The socket as psflip named it.
    pub(super) named: PathBuf,
    /// Its path for this process: through a descriptor of its directory, so that no directory can be replaced
    /// meanwhile.
    pub(super) socket: PathBuf,
    /// The pid of psflip.
    pub(super) pid: u32,
    /// Its user, by all of its uids; `None`: any.
    pub(super) owner: Option<u32>,
    /// Its control group (cgroups(7)), which tells containers and units apart.
    pub(super) cgroup: Option<String>,
    /// Keeps `socket` valid.
    _directory: Option<OwnedFd>,
}

impl Found {
    /// A service that is named by its socket.
    pub(super) fn at(socket: &Path) -> Self {
        let named = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
        Self { named, socket: socket.to_owned(), pid: 0, owner: None, cgroup: None, _directory: None }
    }
}

/// All services, those of this user and of root first, ordered by the path of their socket. Processes of
/// other users are left out where /proc hides their descriptors.
///
/// Any user can start a program called psflip. So a process of another user decides nothing but which of its
/// own sockets is asked: no file that it names is read, except a regular one of a few bytes, and its
/// configuration is not evaluated.
pub(super) fn services() -> Vec<Found> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let mut seen = HashSet::new();
    let mut found: Vec<Found> = pids.filter_map(|pid| service(pid, &mut seen)).collect();
    // Those of other users come last: they must not use up the descriptors.
    let own = nix::unistd::geteuid().as_raw();
    let is_other = |one: &Found| !one.owner.is_some_and(|owner| owner == own || owner == 0);
    found.sort_by_key(|one| (is_other(one), one.named.clone(), one.pid));
    found
}

/// The service of this process, unless it is no psflip, or its socket was seen already.
fn service(pid: u32, seen: &mut HashSet<String>) -> Option<Found> {
    let own = PathBuf::from(format!("/proc/{pid}"));
    let name = fs::read_to_string(own.join("comm")).ok()?;
    if name.trim_end() != "psflip" {
        return None;
    }
    let owner = owner(&uids(&own)?)?;
    let held: HashSet<String> = fs::read_dir(own.join("fd"))
        .ok()?
        .flatten()
        .filter_map(|entry| {
            let target = fs::read_link(entry.path()).ok()?;
            Some(target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        })
        .collect();
    let table = fs::read(own.join("net/unix")).ok()?;
    let mut told = None;
    for (inode, bound) in listening(&table) {
        if !held.contains(&inode) || seen.contains(&inode) {
            continue;
        }
        let mut tell = || told.get_or_insert_with(|| configured_socket(&own, owner)).clone();
        // A path that is too long for a socket's address was bound through a descriptor of its directory.
        let path = match bound.strip_prefix("/proc/self/fd") {
            Ok(_) => tell().filter(|path| path.file_name() == bound.file_name()),
            Err(_) => Some(bound),
        };
        let Some(path) = path else { continue };
        let Some(directory) = directory_of(&own, &path) else { continue };
        let Some(file) = path.file_name().filter(|file| is_socket(&directory, file)) else { continue };
        if has_usual_name(&directory, file, owner) || tell().as_ref() == Some(&path) {
            seen.insert(inode);
            let socket = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd())).join(file);
            let named = if path.is_absolute() { path } else { absolute(&own, &path) };
            let (owner, cgroup) = (Some(owner), cgroup(&own));
            return Some(Found { named, socket, pid, owner, cgroup, _directory: Some(directory) });
        }
    }
    None
}

/// The directory of this path, as that process sees it.
fn directory_of(own: &Path, path: &Path) -> Option<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    if is_same_root(own) {
        // An absolute path replaces what is before it.
        return open(own.join("cwd").join(path).parent()?, flags, Mode::empty()).ok();
    }
    // Symlinks in a container must not lead out of it.
    let (start, below, resolve) = match path.strip_prefix("/") {
        Ok(below) => ("root", below, ResolveFlag::RESOLVE_IN_ROOT),
        Err(_) => ("cwd", path, ResolveFlag::RESOLVE_BENEATH),
    };
    let start = open(&own.join(start), flags, Mode::empty()).ok()?;
    let parent = below.parent().filter(|parent| !parent.as_os_str().is_empty());
    let how = OpenHow::new().flags(flags).resolve(resolve);
    openat2(&start, parent.unwrap_or(Path::new(".")), how).ok()
}

/// Whether it is a socket, and no symlink to one.
fn is_socket(directory: &OwnedFd, file: &OsStr) -> bool {
    let found = fstatat(directory, file, AtFlags::AT_SYMLINK_NOFOLLOW);
    found.is_ok_and(|found| SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK)
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

/// Whether this is the default name of a control socket: `psflip.sock`, or `PIDFILE.sock`. psflip may hold
/// sockets of `[[listen]]` as well, and no connection must be made to those.
fn has_usual_name(directory: &OwnedFd, file: &OsStr, owner: u32) -> bool {
    if file == "psflip.sock" {
        return true;
    }
    let pidfile = file.as_bytes().strip_suffix(b".sock");
    pidfile.is_some_and(|pidfile| is_pidfile(directory, OsStr::from_bytes(pidfile), owner))
}

/// Whether the file holds a number. A path of another user may lead anywhere: only a small regular file of
/// this owner is opened for reading, since opening a FIFO blocks, and opening a device may have an effect.
/// Files of /proc, reading which may block as well, have no size.
fn is_pidfile(directory: &OwnedFd, file: &OsStr, owner: u32) -> bool {
    /// More than the longest pid with a line feed.
    const MOST: u64 = 20;
    let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let Ok(file) = openat(directory, file, flags, Mode::empty()) else { return false };
    let fits = |there: &Metadata| {
        there.is_file() && (1..=MOST).contains(&there.len()) && [0, owner].contains(&there.uid())
    };
    let mut text = String::new();
    let read = reopened(&file, fits).and_then(|file| file.take(MOST).read_to_string(&mut text).ok());
    read.is_some() && text.trim().parse::<u32>().is_ok()
}

/// Opens for reading what was opened by O_PATH, if it is fit.
fn reopened(file: &OwnedFd, is_fit: impl Fn(&Metadata) -> bool) -> Option<File> {
    let path = PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()));
    is_fit(&fs::metadata(&path).ok()?).then_some(())?;
    File::options().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(&path).ok()
}

/// What the command line, or the configuration, of a psflip of this user says of its control socket.
fn configured_socket(own: &Path, owner: u32) -> Option<PathBuf> {
    let own_uid = nix::unistd::geteuid().as_raw();
    if owner != own_uid || !is_same_root(own) {
        return None;
    }
    let text = fs::read(own.join("cmdline")).unwrap_or_default();
    let argv: Vec<OsString> =
        text.split(|byte| *byte == 0).map(|argument| OsStr::from_bytes(argument).to_owned()).collect();
    if let Some(socket) = value_of(&argv, &["--control-socket"]) {
        return Some(socket.into());
    }
    if let Some(pidfile) = value_of(&argv, &["--pidfile"]) {
        return Some(PathBuf::from(pidfile).with_added_extension("sock"));
    }
    let file = value_of(&argv, &["-c", "--config"]).unwrap_or_else(|| super::DEFAULT_CONFIG.into());
    let environment = fs::read(own.join("environ")).ok()?;
    let env = |name: &str| {
        let mut entries = environment.split(|byte| *byte == 0);
        entries.find_map(|entry| {
            let value = entry.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(OsStr::from_bytes(value).to_owned())
        })
    };
    let first = Generation { number: 1, slot: Slot::A, started: SystemTime::now(), env: &env };
    // Templates can read files, so every user who can write the configuration must be trusted.
    let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
    let opened = open(&own.join("cwd").join(file), flags, Mode::empty()).ok()?;
    let file = PathBuf::from(format!("/proc/self/fd/{}", opened.as_raw_fd()));
    let there = fs::metadata(&file).ok()?;
    if !there.is_file() || ![0, own_uid].contains(&there.uid()) || there.mode() & 0o022 != 0 {
        return None;
    }
    let document = Document::read(&file).ok()?;
    let (plan, _) = document.plan_even_if_broken(&first).ok()?;
    plan.control.path(plan.pidfile.as_deref())
}

/// The user of a process with these uids. Only a setuid program has several: its effective uid is its
/// owner's, but another user started it and chose its name and its descriptors. So it is nobody's service.
fn owner(uids: &[u32]) -> Option<u32> {
    let (first, rest) = uids.split_first()?;
    rest.iter().all(|uid| uid == first).then_some(*first)
}

/// The user of the process with this pid, if all of its uids are the same.
pub(super) fn owner_of(pid: u32) -> Option<u32> {
    owner(&uids(Path::new(&format!("/proc/{pid}")))?)
}

/// The real, effective, saved and file system uid of a process (proc_pid_status(5)).
fn uids(own: &Path) -> Option<Vec<u32>> {
    let text = fs::read_to_string(own.join("status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("Uid:"))?;
    line.split_whitespace().map(|uid| uid.parse().ok()).collect()
}

/// The control group of a process: `0::/system.slice/app.service`.
fn cgroup(own: &Path) -> Option<String> {
    let text = fs::read_to_string(own.join("cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
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
    fn a_setuid_program_is_the_service_of_nobody() {
        // Contract: O6
        assert_eq!(owner(&[7, 7, 7, 7]), Some(7));
        assert_eq!(owner(&[7, 0, 0, 0]), None);
        assert_eq!(owner(&[0, 0, 7, 0]), None);
        assert_eq!(owner(&[]), None);
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
