//! The pidfile: when it exists, which process it names, and which psflip may take it (contract P1 to P4).

mod of_others;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;

use testkit::client::control::status;
use testkit::{Deadline, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream, cmd_line, wait_until};

use crate::service::AT_ONCE;

/// A child that prints `starting`, and that SIGTERM terminates by its default action, however early it comes.
const CHILD: [&str; 3] = ["sh", "-c", "echo starting; exec sleep 1000"];

fn service(sandbox: &Sandbox) -> PsflipBuilder {
    sandbox.psflip().cmd(CHILD).config(AT_ONCE)
}

/// Stops the service. psflip exits like its child.
#[track_caller]
fn stop(psflip: &Psflip) {
    let status = psflip.stop();
    assert_eq!(status.signal(), Some(15), "{status}\n{}", psflip.log());
}

/// A psflip that can't take the pidfile: it exits with 125, leaves nothing behind, and logs the reason in
/// these words.
#[track_caller]
fn assert_refused(sandbox: &Sandbox, psflip: &Psflip, words: &[&str]) {
    let status = psflip.wait_exit();
    assert_eq!(status.code(), Some(125), "{status}\n{}", sandbox.report());
    for word in words {
        psflip.wait_for_line(Stream::Stderr, word);
    }
}

/// The names in a directory, hidden files included.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn the_pidfile_names_a_living_psflip_throughout_thirty_upgrades() {
    // Contract: P1, P2
    let sandbox = Sandbox::new();
    let psflip = service(&sandbox).start().wait_ready();
    assert_eq!(sandbox.read("psflip.pid"), format!("{}\n", psflip.first_pid()));
    assert_eq!(fs::metadata(psflip.pidfile_path()).unwrap().mode() & 0o777, 0o644);
    let mut expected = vec![psflip.first_pid()];
    for _ in 0..30 {
        expected.push(psflip.flip().new.pid());
    }
    stop(&psflip);
    let history = psflip.history();
    history.assert_never_missing();
    history.assert_always_alive();
    history.assert_atomic();
    // On a busy host the watcher may miss one between two others. It never sees other pids, or another order.
    let seen = history.pids();
    let positions = seen.iter().map(|pid| expected.iter().position(|one| one == pid));
    let positions: Option<Vec<_>> = positions.collect();
    assert!(positions.is_some_and(|positions| positions.is_sorted()), "{expected:?}\n{}", sandbox.report());
    assert_eq!(names(sandbox.dir()), ["psflip.toml"], "it and its temporary files are removed");
}

#[test]
fn the_pidfile_is_not_written_before_the_first_child_is_healthy() {
    // Contract: P1
    let sandbox = Sandbox::new();
    let config = "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"go\"]\ninterval = \"10ms\"\n";
    let psflip = sandbox.psflip().cmd(CHILD).config(config).start();
    psflip.wait_for_line(Stream::Stdout, "starting");
    assert!(!psflip.pidfile_path().exists());
    let before = psflip.history().entries();
    sandbox.write("go", "");
    psflip.wait_pidfile();
    assert_eq!(before.len(), 1, "{before:?}");
    stop(&psflip);
}

#[test]
fn a_second_psflip_is_refused_and_names_the_running_one() {
    // Contract: P3
    let sandbox = Sandbox::new();
    let first = service(&sandbox).start().wait_ready();
    for _ in 0..2 {
        let second = service(&sandbox).start();
        assert_refused(&sandbox, &second, &[&format!("(pid {})", first.active_pid())]);
        assert!(!second.program().stdout().contains("starting"), "no child was started");
        assert_eq!(first.wait_pidfile(), first.active());
        first.flip(); // the successor holds it, too
    }
    first.history().assert_never_missing();
    stop(&first);
}

#[test]
fn a_pidfile_left_by_a_crash_does_not_block_a_start() {
    // Contract: P3
    let sandbox = Sandbox::new();
    let crashed = service(&sandbox).start().wait_ready();
    crashed.signal(Signal::SIGKILL);
    crashed.wait_exit();
    assert_eq!(sandbox.read("psflip.pid"), format!("{}\n", crashed.first_pid()), "stale");
    let next = service(&sandbox).start();
    wait_until(Deadline::default(), "the new pid", || {
        (sandbox.read("psflip.pid") == format!("{}\n", next.first_pid())).then_some(())
    });
    next.flip();
    stop(&next);
    sandbox.assert_no_process_left();
}

#[test]
fn a_stale_pidfile_with_a_foreign_or_unused_pid_does_not_block() {
    // Contract: P3
    let own = format!("{}\n", std::process::id());
    for stale in [own.as_str(), "1\n", "", " 1 \n", "99999999999999999999\n"] {
        let sandbox = Sandbox::new();
        sandbox.write("psflip.pid", stale);
        let psflip = service(&sandbox).start();
        wait_until(Deadline::default(), "the new pid", || {
            (sandbox.read("psflip.pid") == format!("{}\n", psflip.first_pid())).then_some(())
        });
        stop(&psflip);
        assert!(!psflip.pidfile_path().exists(), "{stale:?}");
    }
}

#[test]
fn exactly_one_of_two_concurrent_first_starts_survives() {
    // Contract: P3
    for round in 0..40 {
        let sandbox = Sandbox::new();
        if round % 2 == 1 {
            sandbox.write("psflip.pid", "1\n"); // stale
        }
        // Written once, so that neither reads a file that the other's start is still writing.
        sandbox.write("two.toml", format!("{}pidfile = \"psflip.pid\"\n{AT_ONCE}", cmd_line(CHILD)));
        let two = [0, 1].map(|_| sandbox.psflip().config_file("two.toml").start());
        let loser = wait_until(Deadline::default(), "one of the two to exit", || {
            two.iter().position(|psflip| psflip.program().try_status().is_some())
        });
        let (loser, winner) = (&two[loser], &two[1 - loser]);
        assert_refused(&sandbox, loser, &[&format!("(pid {})", winner.first_pid())]);
        winner.wait_pidfile();
        assert_eq!(winner.active_pid(), winner.first_pid(), "{}", sandbox.report());
        assert_eq!(winner.program().try_status(), None);
        stop(winner);
        assert_eq!(names(sandbox.dir()), ["two.toml"]);
        sandbox.assert_no_process_left();
    }
}

#[test]
fn a_new_path_in_the_configuration_takes_effect_with_the_next_generation() {
    // Contract: P1, P2
    let sandbox = Sandbox::new();
    let psflip = service(&sandbox).start().wait_ready();
    let (old, first) = (psflip.pidfile_path().to_owned(), psflip.active());
    fs::create_dir(sandbox.path("run")).unwrap();
    let cmd = cmd_line(CHILD);
    sandbox.write("psflip.toml", format!("{cmd}pidfile = \"run/new.pid\"\n{AT_ONCE}"));
    psflip.request_flip();
    psflip.wait_gone(first);
    assert!(!old.exists(), "the old generation removes its own\n{}", sandbox.report());
    let new: u32 = sandbox.read("run/new.pid").trim().parse().unwrap();
    let new = Process::find(new).unwrap();
    assert!(new.is_alive() && new != first);
    new.signal(Signal::SIGTERM).unwrap();
    psflip.wait_gone(new);
    assert!(names(&sandbox.path("run")).is_empty());
}

#[test]
fn a_new_pidfile_held_by_another_psflip_fails_the_upgrade() {
    // Contract: P3, U8
    let sandbox = Sandbox::new();
    let psflip = service(&sandbox).start().wait_ready();
    let other = service(&sandbox).pidfile("other.pid").start().wait_ready();
    // Both read the same file, and the other one wrote it last.
    let active = psflip.request_flip();
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade failed").text;
    assert!(line.contains(&format!("(pid {})", other.active_pid())), "{line}");
    assert_eq!(psflip.active(), active);
    stop(&psflip);
    stop(&other);
}

#[test]
fn symlinks_directories_and_special_files_are_refused_and_kept() {
    // Contract: P4
    let sandbox = Sandbox::new();
    sandbox.write("victim", "precious");
    symlink("victim", sandbox.path("link")).unwrap();
    symlink("nowhere", sandbox.path("dangling")).unwrap();
    fs::create_dir(sandbox.path("folder")).unwrap();
    assert!(sandbox.command(["mkfifo", "fifo"]).start().wait_exit().success());
    for (name, kind) in [
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("folder", "a directory"),
        ("fifo", "a special file"),
        ("missing/x.pid", "No such file"),
    ] {
        let config = format!("{}pidfile = \"{name}\"\n", cmd_line(CHILD));
        sandbox.write(format!("{name}.toml").replace('/', "-"), config);
        let psflip =
            sandbox.psflip().config_file(format!("{name}.toml").replace('/', "-")).no_pidfile().start();
        assert_refused(&sandbox, &psflip, &[kind, name.split('/').next().unwrap()]);
        assert!(!psflip.program().stdout().contains("starting"), "no child was started");
    }
    assert_eq!(sandbox.read("victim"), "precious");
    assert!(!sandbox.path("nowhere").exists());
    assert!(!names(sandbox.dir()).iter().any(|name| name.starts_with('.')), "{:?}", names(sandbox.dir()));
}

#[test]
fn a_directory_that_can_not_be_written_is_refused_by_name() {
    // Contract: P4
    let sandbox = Sandbox::new();
    let folder = sandbox.path("run");
    fs::create_dir(&folder).unwrap();
    let psflip = service(&sandbox).pidfile("run/x.pid");
    let psflip = if nix::unistd::geteuid().is_root() {
        // Permissions don't restrict root, but a read-only mount does.
        in_mounts(psflip, "mount --bind run run && mount -o remount,bind,ro run").start()
    } else {
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o555)).unwrap();
        psflip.start()
    };
    assert_refused(&sandbox, &psflip, &["/run`", "create"]);
    assert!(!psflip.program().stdout().contains("starting"), "no child was started");
    assert!(names(&folder).is_empty());
}

/// psflip in a mount namespace of its own, after `set_up`. The content of `run` is printed then and
/// afterwards.
fn in_mounts(psflip: PsflipBuilder, set_up: &str) -> PsflipBuilder {
    let script = format!("{set_up}; \"$@\"; code=$?; echo left: $(ls -A run); exit $code");
    psflip.wrapper(["unshare", "-m", "sh", "-c", &script, "sh"])
}

#[test]
fn a_full_disk_is_reported_and_no_partial_pidfile_is_left() {
    // Contract: P4
    if !testkit::need_root() {
        return;
    }
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("run")).unwrap();
    let full = "mount -t tmpfs -o size=64k tmpfs run && dd if=/dev/zero of=run/full bs=4k status=none 2>run/full.err";
    let psflip = in_mounts(service(&sandbox).pidfile("run/x.pid"), full).start();
    assert_refused(&sandbox, &psflip, &["No space left on device", "/run/"]);
    let line = psflip.wait_for_line(Stream::Stdout, "left:").text;
    assert_eq!(line, "left: full full.err", "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn a_pidfile_error_at_the_promotion_keeps_the_old_generation() {
    // Contract: P4, U8
    let sandbox = Sandbox::new();
    let psflip = service(&sandbox).pidfile("run/x.pid");
    fs::create_dir(sandbox.path("run")).unwrap();
    let psflip = psflip.start().wait_ready();
    let child = psflip.child();
    fs::rename(sandbox.path("run"), sandbox.path("moved")).unwrap();
    psflip.program().signal(Signal::SIGHUP);
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade failed").text;
    assert!(line.contains("No such file") && line.contains("/run`"), "{line}");
    fs::rename(sandbox.path("moved"), sandbox.path("run")).unwrap();
    assert_eq!((psflip.active_pid(), psflip.child()), (psflip.first_pid(), child));
    psflip.flip();
    stop(&psflip);
}

#[test]
fn a_file_size_limit_of_zero_is_reported_without_a_partial_pidfile() {
    // Contract: P4
    let sandbox = Sandbox::new();
    let psflip = service(&sandbox).rlimit("fsize", 0).start();
    assert_refused(&sandbox, &psflip, &["File too large", "psflip.pid"]);
    assert_eq!(names(sandbox.dir()), ["psflip.toml"]);
}

#[test]
fn a_relative_pidfile_is_relative_to_the_start_directory() {
    // Contract: P1, P2, U1
    let sandbox = Sandbox::new();
    fs::create_dir_all(sandbox.path("start/run")).unwrap();
    fs::create_dir_all(sandbox.path("elsewhere/run")).unwrap();
    let config =
        format!("pidfile = \"run/x.pid\"\nworkdir = \"{}\"\n{AT_ONCE}", sandbox.path("elsewhere").display());
    let psflip = sandbox.psflip().cmd(CHILD).config(config).cwd("start").start().wait_ready();
    assert_eq!(psflip.pidfile_path(), sandbox.path("start/run/x.pid"));
    psflip.flip();
    assert_eq!(psflip.child().cwd().unwrap(), sandbox.path("elsewhere").canonicalize().unwrap());
    stop(&psflip);
    assert!(names(&sandbox.path("start/run")).is_empty() && names(&sandbox.path("elsewhere/run")).is_empty());
}

#[test]
fn a_pidfile_that_names_another_process_is_not_removed() {
    // Contract: P2
    let sandbox = Sandbox::new();
    let psflip = service(&sandbox).start().wait_ready();
    let active = psflip.active();
    // After the promotion psflip checks the pidfile, and would write it again. It answers a status request
    // only after that check.
    assert_eq!(status(&psflip.control_path())["pid"], active.pid());
    sandbox.write("psflip.pid", "1\n");
    active.signal(Signal::SIGTERM).unwrap();
    psflip.wait_exit();
    assert_eq!(sandbox.read("psflip.pid"), "1\n");
}
