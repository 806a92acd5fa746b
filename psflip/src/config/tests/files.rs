//! Which files are read, and which are rejected without waiting.

use std::fs;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::SystemTime;

use tempfile::TempDir;

use crate::config::{Document, Errors, Generation, Plan, Slot};

fn load_path(path: &Path) -> Result<Plan, Errors> {
    let generation = Generation { number: 1, slot: Slot::A, started: SystemTime::UNIX_EPOCH, env: &|_| None };
    Document::read(path)?.plan(&generation)
}

/// The message about a file, without its directory.
fn refused(directory: &TempDir, name: &str) -> String {
    let error = load_path(&directory.path().join(name)).unwrap_err().to_string();
    error.replace(&format!("{}/", directory.path().display()), "")
}

#[test]
fn a_file_is_read_by_its_path() {
    // Contract: X1
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.toml");
    fs::write(&path, "cmd = ['x']").unwrap();
    assert_eq!(load_path(&path).unwrap().cmd, ["x"]);
    fs::write(&path, "cmd = 'x'").unwrap();
    let message = refused(&directory, "app.toml");
    assert!(message.starts_with("app.toml:1:7: `cmd` must be an array"), "{message}");
}

#[test]
fn non_files_are_refused_at_once() {
    // Contract: X1, X2
    let directory = TempDir::new().unwrap();
    nix::unistd::mkfifo(&directory.path().join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    fs::create_dir(directory.path().join("dir")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("socket")).unwrap();
    let told = |name| refused(&directory, name);
    assert_eq!(told("none"), "none: can't read the configuration: no such file or directory");
    assert_eq!(told("fifo"), "fifo: can't read the configuration: it is a FIFO, not a regular file");
    assert_eq!(told("dir"), "dir: can't read the configuration: it is a directory, not a regular file");
    assert_eq!(told("socket"), "socket: can't read the configuration: it is a socket, not a regular file");
    let error = load_path(Path::new("/dev/zero")).unwrap_err().to_string();
    assert_eq!(error, "/dev/zero: can't read the configuration: it is a device, not a regular file");
}

#[test]
fn a_large_file_is_refused() {
    // Contract: X2
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.toml");
    let comment = |bytes: usize| format!("cmd = ['x']\n#{}", "x".repeat(bytes - 13));
    fs::write(&path, comment(1024 * 1024)).unwrap();
    load_path(&path).unwrap();
    fs::write(&path, comment(1024 * 1024 + 1)).unwrap();
    let message = refused(&directory, "app.toml");
    assert_eq!(message, "app.toml: can't read the configuration: it is larger than 1048576 bytes");
}

#[test]
fn a_pipe_that_psflip_inherited_is_read_to_its_end() {
    // Contract: X1
    let (reader, mut writer) = std::io::pipe().unwrap();
    let path = format!("/proc/self/fd/{}", reader.as_raw_fd());
    let writing = std::thread::spawn(move || {
        for part in ["cmd = ", "['x'", "]\n# ", &"x".repeat(200_000)] {
            writer.write_all(part.as_bytes()).unwrap();
        }
    });
    let plan = load_path(Path::new(&path)).unwrap();
    writing.join().unwrap();
    assert_eq!(plan.cmd, ["x"]);
}

#[test]
fn a_file_that_is_not_utf8_is_refused_with_the_place() {
    // Contract: X1
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("app.toml"), b"cmd = ['x']\nworkdir = '/\xe4\xff'\n").unwrap();
    insta::assert_snapshot!(refused(&directory, "app.toml"), @r"
    app.toml:2:13: byte `0xE4` is not UTF-8
      |
    2 | workdir = '/��'
      |             ^
      = help: save the file with the encoding UTF-8
    ");
}

#[test]
fn cat_reads_a_file_without_its_last_newline() {
    // Contract: X1, X2
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("app.toml");
    let secret = directory.path().join("secret");
    fs::write(&path, format!("cmd = ['x', \"{{{{ cat('{}') }}}}\"]", secret.display())).unwrap();
    for (content, expected) in
        [("one\n", "one"), ("one\r\n", "one"), ("one", "one"), ("one\n\n", "one\n"), ("", "")]
    {
        fs::write(&secret, content).unwrap();
        assert_eq!(load_path(&path).unwrap().cmd[1], expected, "{content:?}");
    }
    for (content, reason) in [
        (b"\xff".to_vec(), "the file is not UTF-8"),
        (vec![b'x'; 65_537], "the file is larger than a value may be"),
        (b"a\0b".to_vec(), "NUL character"),
    ] {
        fs::write(&secret, content).unwrap();
        let message = load_path(&path).unwrap_err().to_string();
        assert!(message.contains(reason), "{message}");
    }
    fs::remove_file(&secret).unwrap();
    nix::unistd::mkfifo(&secret, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let message = load_path(&path).unwrap_err().to_string();
    assert!(message.contains("it is a FIFO, not a regular file"), "{message}");
}
