//! The file system of the sandbox: everything of the host can be read, and what is written goes to memory.
//!
//! Every directory below `/` gets an overlay (overlayfs, in a user namespace since Linux 5.11). An overlay does
//! not show what is mounted below its directory, so each mount below it gets an overlay of its own, on top.
//! Where that is not possible, the directory is made anew, and its entries are mounted one by one; or, if it has
//! no mounts below it, it is there read-only. Sockets of the host are never there: a rehearsal must not reach the
//! service that runs.
//!
//! In a user namespace, an overlay can't copy directories of other users, whose IDs don't exist there. So the
//! directories that a user's service writes to ([`own_places`]) get overlays of their own.

use std::ffi::CString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_bind_recursive, mount_change,
    mount_remount, unmount,
};

use super::{Result, SandboxError};

/// Where the new root is made. It gets a new proc(5) anyway, so nothing of the host is hidden meanwhile.
const NEW_ROOT: &str = "/proc";
/// In the new root: the layers that take what is written, and the old root until it is left.
const LAYERS: &str = ".psflip-rehearse";
const OLD_ROOT: &str = ".old-root";

/// Where a service of a user writes, besides what is mounted: beside its configuration, in its working
/// directory, its home, and directories for temporary files.
fn own_places(config: &Path, cwd: &Path) -> Vec<PathBuf> {
    let variables =
        ["HOME", "TMPDIR", "XDG_RUNTIME_DIR"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    let beside = config.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned));
    let all = [PathBuf::from("/tmp"), cwd.to_owned()].into_iter().chain(beside).chain(variables);
    all.filter(|path| path.is_absolute() && path != Path::new("/") && path.is_dir()).collect()
}

/// Mounts everything. `config` is the configuration file.
pub(super) fn set_up(config: &Path) -> Result<()> {
    let error = |what: &str| {
        let what = format!("the sandbox's file system can't be made ({what})");
        move |error: rustix::io::Errno| SandboxError::new(what.clone(), error)
    };
    let mut mounted =
        mount_points().map_err(|error| SandboxError::new("/proc/self/mountinfo can't be read", error))?;
    let cwd = std::env::current_dir().map_err(|error| SandboxError::new("no working directory", error))?;
    if !rustix::process::geteuid().is_root() {
        mounted.extend(own_places(config, &cwd));
    }
    // What is mounted here must not appear outside.
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(error("mount --make-rprivate /"))?;
    mount("tmpfs", NEW_ROOT, "tmpfs", MountFlags::empty(), c"mode=0755,size=25%")
        .map_err(error("mount -t tmpfs"))?;
    let mut tree = Tree { mounted, layers: 0 };
    tree.make().map_err(|error| SandboxError::new("the sandbox's file system can't be made", error))?;
    let old = Path::new(NEW_ROOT).join(OLD_ROOT);
    rustix::process::pivot_root(NEW_ROOT, &old).map_err(error("pivot_root"))?;
    rustix::process::chdir("/").map_err(error("chdir"))?;
    let old = Path::new("/").join(OLD_ROOT);
    mount("proc", "/proc", "proc", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None)
        .map_err(error("mount -t proc"))?;
    unmount(&old, UnmountFlags::DETACH).map_err(error("umount of the old root"))?;
    // Nobody needs it any more, and it is empty.
    let _ = fs::remove_dir(&old);
    // There is one thread, and the old root is gone.
    rustix::process::chdir(&cwd)
        .map_err(|error| SandboxError::new(format!("`{}` can't be entered", cwd.display()), error))
}

/// All mount points, as proc_pid_mountinfo(5) has them.
fn mount_points() -> io::Result<Vec<PathBuf>> {
    let text = fs::read("/proc/self/mountinfo")?;
    let lines = text.split(|byte| *byte == b'\n');
    let points = lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    Ok(points.map(|point| PathBuf::from(std::ffi::OsStr::from_bytes(&unescape(point)))).collect())
}

/// Space, tab, line break and backslash are octal there: `\040`.
fn unescape(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, tail @ ..] = rest {
        let code = (*first == b'\\').then(|| std::str::from_utf8(tail.get(..3)?).ok()).flatten();
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &tail[3..];
            }
            None => {
                out.push(*first);
                rest = tail;
            }
        }
    }
    out
}

struct Tree {
    /// What gets a mount of its own.
    mounted: Vec<PathBuf>,
    /// The number of overlays so far.
    layers: usize,
}

impl Tree {
    fn make(&mut self) -> io::Result<()> {
        for directory in [LAYERS, OLD_ROOT, "proc"] {
            fs::create_dir(Path::new(NEW_ROOT).join(directory))?;
        }
        self.entries(Path::new("/"))
    }

    fn entries(&mut self, directory: &Path) -> io::Result<()> {
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path != Path::new("/proc") {
                self.entry(&path)?;
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path) -> io::Result<()> {
        let Ok(metadata) = path.symlink_metadata() else { return Ok(()) }; // not ours to see
        let target = in_new_root(path);
        if metadata.is_symlink() {
            return symlink(fs::read_link(path)?, target);
        }
        if !metadata.is_dir() {
            return self.file(path, &metadata, &target);
        }
        if !target.is_dir() {
            fs::create_dir(&target)?;
            copy_owner(&metadata, &target)?;
        }
        match path.to_str() {
            Some("/dev") => return devices(path, &target),
            Some("/sys") => return self.read_only(path, &target),
            _ => {}
        }
        let is_overlay = self.overlay(path, &metadata, &target).is_ok();
        if !self.mounted.iter().any(|point| point != path && point.starts_with(path)) {
            return if is_overlay { Ok(()) } else { self.read_only(path, &target) };
        }
        if !is_overlay {
            return self.entries(path);
        }
        // The mounts below, and what is on the way to them.
        let mut next: Vec<PathBuf> =
            self.mounted.iter().filter_map(|point| child_towards(path, point)).collect();
        next.sort_unstable();
        next.dedup();
        next.into_iter().filter(|child| child.is_dir()).try_for_each(|child| self.entry(&child))
    }

    /// A file in a directory that is made anew.
    fn file(&self, path: &Path, metadata: &fs::Metadata, target: &Path) -> io::Result<()> {
        let kind = metadata.file_type();
        if kind.is_socket() || kind.is_fifo() {
            return Ok(());
        }
        fs::write(target, "")?;
        self.read_only(path, target)
    }

    fn read_only(&self, path: &Path, target: &Path) -> io::Result<()> {
        // A user namespace may bind a mount only with all that is below it.
        mount_bind_recursive(path, target).or_else(|_| mount_bind(path, target))?;
        make_read_only(target);
        let below = self.mounted.iter().filter(|point| *point != path && point.starts_with(path));
        below.for_each(|point| make_read_only(&in_new_root(point)));
        Ok(())
    }

    fn overlay(&mut self, lower: &Path, metadata: &fs::Metadata, target: &Path) -> io::Result<()> {
        self.layers += 1;
        let layer = Path::new(NEW_ROOT).join(LAYERS).join(self.layers.to_string());
        let (upper, work) = (layer.join("upper"), layer.join("work"));
        fs::create_dir_all(&upper)?;
        fs::create_dir(&work)?;
        copy_owner(metadata, &upper)?;
        let lower = lower.as_os_str().as_bytes();
        // These separate options and layers; the caller has another way.
        if lower.iter().any(|byte| b",:\\".contains(byte)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let options =
            [b"lowerdir=", lower, b",upperdir=", upper.as_os_str().as_bytes(), b",workdir="].concat();
        let options = [&options[..], work.as_os_str().as_bytes()].concat();
        let mounted = |more: &[u8]| {
            let options = CString::new([&options[..], more].concat())?;
            mount("overlay", target, "overlay", MountFlags::empty(), &*options).map_err(io::Error::from)
        };
        // In a user namespace, an overlay may keep its own attributes only as user.* (Linux 5.11; tmpfs 6.6).
        mounted(b"").or_else(|_| mounted(b",userxattr"))
    }
}

fn in_new_root(path: &Path) -> PathBuf {
    Path::new(NEW_ROOT).join(path.strip_prefix("/").unwrap_or(path))
}

fn copy_owner(metadata: &fs::Metadata, target: &Path) -> io::Result<()> {
    // Not permitted in a user namespace: the directory then belongs to the user of the rehearsal.
    let _ = std::os::unix::fs::chown(target, Some(metadata.uid()), Some(metadata.gid()));
    fs::set_permissions(target, fs::Permissions::from_mode(metadata.mode() & 0o7777))
}

/// The entry of `directory` that `point` is, or is below of.
fn child_towards(directory: &Path, point: &Path) -> Option<PathBuf> {
    let rest = point.strip_prefix(directory).ok()?;
    rest.components().next().map(|first| directory.join(first))
}

/// Entries of /dev that the sandbox makes itself, or that nobody needs: consoles, and what belongs to the host.
const NOT_FROM_HOST: &[&str] =
    &["shm", "pts", "ptmx", "mqueue", "hugepages", "log", "console", "fd", "stdin", "stdout", "stderr"];

/// A /dev of its own, with the host's character devices (GPUs, for example), terminals and shared memory.
fn devices(path: &Path, target: &Path) -> io::Result<()> {
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("tmpfs", target, "tmpfs", flags, c"mode=0755,size=64k")?;
    for entry in fs::read_dir(path)? {
        let from = entry?.path();
        let name = from.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let is_console =
            name.starts_with("vcs") || name.strip_prefix("tty").is_some_and(|rest| !rest.is_empty());
        let Ok(metadata) = from.symlink_metadata() else { continue };
        if NOT_FROM_HOST.contains(&name.as_str()) || is_console {
            continue;
        }
        let to = target.join(&name);
        // A device that can't be there is one that the service will miss by itself.
        let _ = if metadata.is_symlink() {
            fs::read_link(&from).and_then(|link| symlink(link, &to))
        } else if metadata.is_dir() {
            fs::create_dir(&to).and_then(|()| Ok(mount_bind_recursive(&from, &to)?))
        } else if metadata.file_type().is_char_device() {
            fs::write(&to, "").and_then(|()| Ok(mount_bind(&from, &to)?))
        } else {
            Ok(())
        };
    }
    for (name, link) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
        ("ptmx", "pts/ptmx"),
    ] {
        symlink(link, target.join(name))?;
    }
    for (name, kind, options) in
        [("shm", "tmpfs", c"mode=1777"), ("pts", "devpts", c"newinstance,ptmxmode=0666,mode=620")]
    {
        fs::create_dir(target.join(name))?;
        mount(kind, target.join(name), kind, MountFlags::NOSUID, options)?;
    }
    Ok(())
}

/// Keeps the service from changing the host's kernel, as container engines do. A user who is not root can't
/// anyway.
pub(super) fn protect_proc() {
    for path in ["/proc/sys", "/proc/sysrq-trigger"] {
        if mount_bind(path, path).is_ok() {
            make_read_only(Path::new(path));
        }
    }
}

fn make_read_only(target: &Path) {
    // Flags that were set outside can't be cleared in a user namespace, so they are named as well.
    let flags = MountFlags::BIND | MountFlags::RDONLY;
    let all = flags | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RELATIME;
    let some = flags | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::RELATIME;
    let _ = mount_remount(target, flags, "")
        .or_else(|_| mount_remount(target, some, ""))
        .or_else(|_| mount_remount(target, all, ""));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_points_with_special_characters_are_unescaped() {
        assert_eq!(unescape(br"/mnt/a\040b\134c"), br"/mnt/a b\c");
        assert_eq!(unescape(br"/plain\9"), br"/plain\9");
    }
}
