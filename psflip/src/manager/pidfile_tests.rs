//! Tests of the pidfile.

use super::*;
use std::os::unix::fs::{MetadataExt as _, symlink};

fn content(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn names(directory: &Path) -> Vec<String> {
    fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn a_pidfile_has_the_pid_and_a_newline_and_is_removed_by_its_owner() {
    // Contract: P1, P2
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    let pidfile = Pidfile::take(&path, TakenFrom::NoProcess).unwrap();
    assert_eq!(content(&path), format!("{}\n", std::process::id()));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o644);
    assert!(pidfile.names_us());
    pidfile.remove().unwrap();
    assert!(names(directory.path()).is_empty());
}

#[test]
fn a_held_pidfile_is_refused_and_a_stale_one_is_replaced() {
    // Contract: P3
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    let first = Pidfile::take(&path, TakenFrom::NoProcess).unwrap();
    let wanted = format!("psflip (pid {}) is running", std::process::id());
    for error in [
        check(&path, TakenFrom::NoProcess, None).unwrap_err(),
        Pidfile::take(&path, TakenFrom::NoProcess).unwrap_err(),
    ] {
        assert!(error.to_string().contains(&wanted), "{error}");
    }
    drop(first); // as after a crash: the file stays, its lock doesn't
    // It is stale even if the pid in it belongs to a running process (init).
    fs::write(&path, "1\n").unwrap();
    check(&path, TakenFrom::NoProcess, None).unwrap();
    let second = Pidfile::take(&path, TakenFrom::NoProcess).unwrap();
    assert_eq!(content(&path), format!("{}\n", std::process::id()));
    drop(second);
    assert_eq!(names(directory.path()), ["x.pid"]);
}

#[test]
fn a_replaced_pidfile_is_not_removed_by_its_old_owner() {
    // Contract: P1, P2
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    let old = Pidfile::take(&path, TakenFrom::NoProcess).unwrap();
    let new = Pidfile::take(&path, TakenFrom::OtherGeneration).unwrap();
    assert!(!old.names_us() && new.names_us());
    old.remove().unwrap();
    assert!(new.names_us());
}

#[test]
fn a_pidfile_is_given_back_and_reclaimed() {
    // Contract: F6, U8
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    let mut old = Pidfile::take(&path, TakenFrom::NoProcess).unwrap();
    let new = Pidfile::take(&path, TakenFrom::OtherGeneration).unwrap();
    new.give_back(4711).unwrap();
    assert_eq!(content(&path), "4711\n");
    old.reclaim().unwrap();
    assert_eq!(content(&path), format!("{}\n", std::process::id()));
    assert!(check(&path, TakenFrom::NoProcess, None).is_err(), "it is locked again");
}

#[test]
fn anything_but_a_regular_file_is_refused_and_kept() {
    // Contract: P4
    let directory = tempfile::tempdir().unwrap();
    let victim = directory.path().join("victim");
    fs::write(&victim, "precious").unwrap();
    let link = directory.path().join("link.pid");
    symlink(&victim, &link).unwrap();
    let inner = directory.path().join("dir.pid");
    fs::create_dir(&inner).unwrap();
    let fifo = directory.path().join("fifo.pid");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for (path, kind) in [(&link, "a symbolic link"), (&inner, "a directory"), (&fifo, "a special file")] {
        for error in [
            check(path, TakenFrom::NoProcess, None).unwrap_err(),
            Pidfile::take(path, TakenFrom::NoProcess).unwrap_err(),
        ] {
            assert!(error.to_string().contains(kind), "{error}");
        }
    }
    assert_eq!(content(&victim), "precious");
    assert_eq!(names(directory.path()).len(), 4, "nothing was left behind");
}

#[test]
fn a_file_without_a_pid_is_refused_and_kept() {
    // Contract: P4
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    let many = "1".repeat(65);
    let foreign =
        ["pidfile = \"x.pid\"\n", "rubbish", "-1\n", "12\n13\n", "0x10\n", "#!/bin/sh\n", "1.5", &many];
    for foreign in foreign {
        fs::write(&path, foreign).unwrap();
        for error in [
            check(&path, TakenFrom::NoProcess, None).unwrap_err(),
            check(&path, TakenFrom::OtherGeneration, None).unwrap_err(),
            Pidfile::take(&path, TakenFrom::NoProcess).unwrap_err(),
            Pidfile::take(&path, TakenFrom::OtherGeneration).unwrap_err(),
        ] {
            assert!(error.to_string().contains("no process ID"), "{error}");
        }
        assert_eq!(content(&path), foreign);
        assert_eq!(names(directory.path()), ["x.pid"]);
    }
    for stale in ["", "1", "1\n", " 4711 \n", "4294967296\n", "\0\0\0\0"] {
        fs::write(&path, stale).unwrap();
        check(&path, TakenFrom::NoProcess, None).unwrap();
        Pidfile::take(&path, TakenFrom::NoProcess).unwrap().remove().unwrap();
        assert!(names(directory.path()).is_empty(), "{stale:?}");
    }
}

#[test]
fn a_file_that_changed_its_content_is_neither_removed_nor_replaced() {
    // Contract: P2, P4
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    for (is_same_file, by_now) in [(true, "data"), (true, "1\n"), (false, "data"), (false, "1\n")] {
        let mut pidfile = Pidfile::take(&path, TakenFrom::NoProcess).unwrap();
        if !is_same_file {
            fs::remove_file(&path).unwrap();
        }
        fs::write(&path, by_now).unwrap();
        assert!(!pidfile.names_us());
        if by_now == "data" {
            assert!(pidfile.reclaim().unwrap_err().to_string().contains("no process ID"));
        }
        pidfile.remove().unwrap();
        assert_eq!(content(&path), by_now);
        fs::remove_file(&path).unwrap();
    }
}

#[test]
fn a_foreign_file_with_the_temporary_name_is_refused_and_kept() {
    // Contract: P4
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    let other = directory.path().join(format!(".x.pid.{}", std::process::id()));
    fs::write(&other, "data").unwrap();
    assert!(Pidfile::take(&path, TakenFrom::NoProcess).unwrap_err().to_string().contains("no process ID"));
    assert_eq!(content(&other), "data");
    fs::write(&other, "1\n").unwrap();
    Pidfile::take(&path, TakenFrom::NoProcess).unwrap();
    assert_eq!(names(directory.path()), ["x.pid"]);
}

#[test]
fn a_missing_or_foreign_pidfile_is_written_again() {
    // Contract: P1
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    let own = format!("{}\n", std::process::id());
    let mut pidfile = Pidfile::take(&path, TakenFrom::NoProcess).unwrap();
    assert_eq!(pidfile.mend().unwrap(), None);
    fs::remove_file(&path).unwrap();
    assert_eq!(pidfile.mend().unwrap(), Some(Mended::Gone));
    fs::write(&path, "1\n").unwrap(); // into the same file
    assert_eq!(pidfile.mend().unwrap(), Some(Mended::Names(Some(1))));
    fs::remove_file(&path).unwrap();
    fs::write(&path, "").unwrap();
    assert_eq!(pidfile.mend().unwrap(), Some(Mended::Names(None)));
    assert_eq!((content(&path), pidfile.mend().unwrap()), (own, None));
    // But not if it belongs to another psflip by now, or is not a pidfile.
    fs::remove_file(&path).unwrap();
    let other = Pidfile::take(&path, TakenFrom::NoProcess).unwrap();
    fs::write(&path, "1\n").unwrap();
    assert!(pidfile.mend().unwrap_err().to_string().contains("is running with this pidfile"));
    drop(other);
    fs::write(&path, "data").unwrap();
    assert!(pidfile.mend().unwrap_err().to_string().contains("no process ID"));
    assert_eq!(content(&path), "data");
}

#[test]
fn a_lock_by_a_mere_reader_does_not_prevent_a_start() {
    // Contract: P3
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    fs::write(&path, "1\n").unwrap();
    let reader = fs::File::open(&path).unwrap();
    reader.lock_shared().unwrap();
    check(&path, TakenFrom::NoProcess, None).unwrap();
    let pidfile = Pidfile::take(&path, TakenFrom::NoProcess).unwrap();
    assert!(pidfile.names_us());
    assert_eq!(names(directory.path()), ["x.pid"]);
}

#[test]
fn a_directory_that_is_missing_is_named() {
    // Contract: P4
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("no/x.pid");
    let error = check(&path, TakenFrom::NoProcess, None).unwrap_err().to_string();
    assert!(error.contains("/no`: ") && error.contains("No such file"), "{error}");
}

/// Makes each call of `work` fail once with each of these errors, each time after `prepare`. `judge` checks
/// the result. Returns the number of failures.
fn each_fault<T>(prepare: impl Fn(), work: impl Fn() -> T, mut judge: impl FnMut(Call, T)) -> usize {
    prepare();
    let (_, calls) = seam::testing::with(None, &work);
    let errors = [Errno::EACCES, Errno::EMFILE, Errno::ENOSPC, Errno::ENOMEM, Errno::EROFS, Errno::EIO];
    for (number, call) in calls.iter().enumerate() {
        for errno in errors {
            prepare();
            let (result, _) = seam::testing::with(Some((number, errno)), &work);
            judge(*call, result);
        }
    }
    calls.len() * errors.len()
}

#[test]
fn a_failed_creation_leaves_a_complete_pidfile_or_none() {
    // Contract: F10, P4
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    let remove = || drop(fs::remove_file(&path)); // the first time it doesn't exist
    let take = || Pidfile::take(&path, TakenFrom::NoProcess);
    let mut refused = 0;
    let tried = each_fault(remove, take, |call, taken| match taken {
        Ok(pidfile) => assert!(pidfile.names_us() && names(directory.path()).len() == 1, "{call:?}"),
        Err(error) => {
            refused += 1;
            assert!(error.to_string().contains("x.pid`: can't "), "{call:?}: {error}");
            assert!(names(directory.path()).is_empty(), "{call:?} left {:?}", names(directory.path()));
        }
    });
    assert!(refused > 0 && tried >= 36, "{refused} of {tried}");
}

#[test]
fn a_failed_replacement_leaves_the_old_or_the_new_owner() {
    // Contract: F10, P1, P4
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    let old = std::cell::RefCell::new(Pidfile::take(&path, TakenFrom::NoProcess).unwrap());
    let hand_over = || Pidfile::take(&path, TakenFrom::OtherGeneration);
    let reclaim = || old.borrow_mut().reclaim().unwrap();
    each_fault(reclaim, hand_over, |call, taken| {
        let named = taken.as_ref().map_or(old.borrow().names_us(), Pidfile::names_us);
        assert!(named && names(directory.path()) == ["x.pid"], "{call:?}: {:?}", names(directory.path()));
    });
    let give_back = || {
        let new = Pidfile::take(&path, TakenFrom::OtherGeneration)?;
        new.give_back(4711)
    };
    each_fault(reclaim, give_back, |call, returned| {
        let there = content(&path);
        let whole = there == "4711\n" || there == format!("{}\n", std::process::id());
        assert!(whole && (returned.is_err() || there == "4711\n"), "{call:?}: {there}");
        assert_eq!(names(directory.path()), ["x.pid"], "{call:?}");
    });
}

#[test]
fn only_one_of_many_concurrent_starts_gets_the_pidfile() {
    // Contract: P3
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.pid");
    for stale in [false, true] {
        if stale {
            fs::write(&path, "1\n").unwrap();
        }
        // This is one process and temporary names contain its pid, so the attempts must
        // not overlap. The locks must.
        let taken: Vec<_> = (0..5).filter_map(|_| Pidfile::take(&path, TakenFrom::NoProcess).ok()).collect();
        assert_eq!(taken.len(), 1);
        drop(taken);
        fs::remove_file(&path).unwrap();
    }
}
