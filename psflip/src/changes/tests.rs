//! What editors, checkouts and programs do to files, and what of it counts.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::symlink;

use super::*;

struct Work {
    folder: tempfile::TempDir,
    changes: Changes,
}

impl Work {
    /// Some files, and a watch of these paths below them.
    fn of(roots: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        fs::create_dir_all(root.join("src/deep")).unwrap();
        for name in ["src/a.py", "src/b.py", "src/deep/c.py", "main.py", "other.py"] {
            fs::write(root.join(name), "x").unwrap();
        }
        fs::write(root.join("src/.gitignore"), "*.db\n/out/\n").unwrap();
        let roots: Vec<PathBuf> = roots.iter().map(|name| root.join(name)).collect();
        let changes = Changes::watch(&roots, [root.join("src/app.pid")].into_iter()).unwrap();
        Self { folder, changes }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).unwrap();
    }

    /// Whether something happened that could matter, and what has changed.
    #[track_caller]
    fn changed(&mut self) -> (bool, Vec<String>) {
        let woke = self.changes.on_ready().is_some();
        let changed = self.changes.compare().unwrap();
        let name = |path: &PathBuf| path.strip_prefix(self.folder.path()).unwrap().display().to_string();
        (woke, changed.iter().map(name).collect())
    }

    #[track_caller]
    fn assert_changed(&mut self, expected: &[&str]) {
        let (woke, changed) = self.changed();
        assert_eq!(changed, expected);
        assert!(woke, "and it wakes psflip up");
        assert_eq!(self.changed(), (false, Vec::new()), "once");
    }
}

#[test]
fn a_file_that_is_written_or_replaced_has_changed() {
    // Contract: R4
    let mut work = Work::of(&["src"]);
    assert_eq!(work.changed(), (false, Vec::new()));
    work.write("src/a.py", "changed");
    work.assert_changed(&["src/a.py"]);
    // As most editors do.
    work.write("src/.a.py.new", "again");
    fs::rename(work.path("src/.a.py.new"), work.path("src/a.py")).unwrap();
    work.assert_changed(&["src/a.py"]);
    // As vim does.
    work.write("src/4913", "");
    fs::remove_file(work.path("src/4913")).unwrap();
    fs::rename(work.path("src/b.py"), work.path("src/b.py~")).unwrap();
    work.write("src/b.py", "new");
    fs::remove_file(work.path("src/b.py~")).unwrap();
    work.assert_changed(&["src/b.py"]);
    fs::remove_file(work.path("src/deep/c.py")).unwrap();
    work.assert_changed(&["src/deep/c.py"]);
    symlink("a.py", work.path("src/link.py")).unwrap();
    work.assert_changed(&["src/link.py"]);
    fs::hard_link(work.path("src/a.py"), work.path("src/hard.py")).unwrap();
    work.assert_changed(&["src/hard.py"]);
}

#[test]
fn a_file_that_is_still_being_written_does_not_count() {
    // Contract: R4
    let mut work = Work::of(&["src"]);
    let mut file = File::create(work.path("src/new.py")).unwrap();
    file.write_all(b"half").unwrap();
    assert!(work.changes.on_ready().is_none());
    file.write_all(b" and half").unwrap();
    drop(file);
    work.assert_changed(&["src/new.py"]);
    // Closed, and not written to.
    drop(File::options().write(true).open(work.path("src/new.py")).unwrap());
    assert_eq!(work.changed(), (true, Vec::new()));
}

#[test]
fn what_comes_and_goes_is_no_change() {
    // Contract: R4
    let mut work = Work::of(&["src"]);
    work.write("src/temporary", "x");
    fs::create_dir(work.path("src/empty")).unwrap();
    fs::remove_file(work.path("src/temporary")).unwrap();
    assert_eq!(work.changed(), (true, Vec::new()));
    drop(std::os::unix::net::UnixListener::bind(work.path("src/app.sock")).unwrap());
    fs::remove_file(work.path("src/app.sock")).unwrap();
    assert_eq!(work.changed(), (false, Vec::new()), "sockets are no files that a program is made of");
}

#[test]
fn ignored_files_wake_nothing_up() {
    // Contract: R5
    let mut work = Work::of(&["src"]);
    for name in ["x.log", "x.db", "deep/x.db", "x.pyc", ".a.py.swp", "app.pid.last", ".app.pid.7"] {
        work.write(&format!("src/{name}"), "x");
    }
    for name in ["target", "out", ".git", "deep/node_modules", "deep/__pycache__"] {
        fs::create_dir(work.path("src").join(name)).unwrap();
        work.write(&format!("src/{name}/x.py"), "x");
    }
    work.write("other.py", "beside");
    assert_eq!(work.changed(), (false, Vec::new()));
    fs::create_dir(work.path("src/deep/out")).unwrap();
    work.write("src/deep/out/x.py", "x");
    work.assert_changed(&["src/deep/out/x.py"]);
}

#[test]
fn directories_come_and_go_with_all_their_files() {
    // Contract: R4
    let mut work = Work::of(&["src"]);
    fs::create_dir_all(work.path("src/new/er")).unwrap();
    work.write("src/new/er/d.py", "x");
    work.assert_changed(&["src/new/er/d.py"]);
    work.write("src/new/er/d.py", "watched by now");
    work.assert_changed(&["src/new/er/d.py"]);
    fs::rename(work.path("src/new"), work.path("away")).unwrap();
    work.assert_changed(&["src/new/er/d.py"]);
    work.write("away/er/d.py", "not watched any more");
    assert_eq!(work.changed(), (false, Vec::new()));
    fs::remove_dir_all(work.path("src")).unwrap();
    let (woke, changed) = work.changed();
    assert!(woke && changed.contains(&"src/a.py".to_owned()), "{changed:?}");
    fs::create_dir(work.path("src")).unwrap();
    work.write("src/a.py", "back");
    work.assert_changed(&["src/a.py"]);
}

#[test]
fn a_checkout_of_thousands_of_files_is_one_change() {
    // Contract: R4
    let mut work = Work::of(&["src"]);
    for number in 0..2000 {
        work.write(&format!("src/deep/{number:04}.py"), "x");
    }
    assert_eq!(work.changes.on_ready(), Some(SETTLE));
    let changed = work.changes.compare().unwrap();
    assert_eq!(changed.len(), 2000);
    let words = work.changes.in_words(&changed);
    assert!(words.ends_with("src/deep/0000.py and 1999 more"), "{words}");
    assert_eq!(work.changes.in_words(&["/x/a".into()]), "/x/a");
}

#[test]
fn files_in_a_new_directory_prolong_the_wait() {
    // Contract: R4
    let mut work = Work::of(&["src"]);
    fs::create_dir_all(work.path("src/x/y")).unwrap();
    assert!(work.changes.on_ready().is_some());
    for name in ["src/x/a.py", "src/x/y/b.py"] {
        work.write(name, "x");
        assert!(work.changes.on_ready().is_some(), "{name}");
    }
    fs::create_dir(work.path("src/x/y/z")).unwrap();
    assert!(work.changes.on_ready().is_some());
    work.write("src/x/y/z/c.py", "x");
    work.assert_changed(&["src/x/a.py", "src/x/y/b.py", "src/x/y/z/c.py"]);
}

#[test]
fn a_named_file_counts_alone_and_a_named_symlink_with_its_target() {
    // Contract: R4
    let mut work = Work::of(&["main.py"]);
    work.write("other.py", "beside");
    assert_eq!(work.changed(), (false, Vec::new()));
    work.write("main.py.new", "x");
    fs::rename(work.path("main.py.new"), work.path("main.py")).unwrap();
    work.assert_changed(&["main.py"]);

    let mut work = Work::of(&["src"]);
    symlink("../main.py", work.path("src/main")).unwrap();
    symlink("src", work.path("current")).unwrap();
    let roots = [work.path("src/main"), work.path("current")];
    work.changes = Changes::watch(&roots, std::iter::empty()).unwrap();
    work.write("main.py", "the target");
    work.assert_changed(&["src/main"]);
    fs::create_dir(work.path("next")).unwrap();
    work.write("next/a.py", "x");
    assert_eq!(work.changed(), (false, Vec::new()));
    symlink("next", work.path("current.new")).unwrap();
    fs::rename(work.path("current.new"), work.path("current")).unwrap();
    let (woke, changed) = work.changed();
    assert!(woke && changed.contains(&"current/a.py".to_owned()), "{changed:?}");
}

#[test]
fn limits_and_missing_paths_are_named() {
    // Contract: R4
    let missing = Changes::watch(&["/no/such".into()], std::iter::empty()).unwrap_err();
    assert_eq!(missing, "can't watch `/no/such`: no such file or directory");
    let work = Work::of(&["src"]);
    for number in 0..MOST_DIRECTORIES {
        fs::create_dir(work.path(&format!("src/{number}"))).unwrap();
    }
    let many = Changes::watch(&[work.path("src")], std::iter::empty()).unwrap_err();
    assert!(many.contains("there are more than 100 directories") && many.contains(".gitignore"), "{many}");
    let flat = Work::of(&["src"]);
    for number in 0..=MOST_FILES {
        flat.write(&format!("src/{number}"), "");
    }
    let many = Changes::watch(&[flat.path("src")], std::iter::empty()).unwrap_err();
    assert!(many.contains("or 5000 files"), "{many}");
    assert!(limit(Errno::ENOSPC).contains("max_user_watches"));
    assert!(limit(Errno::EMFILE).contains("max_user_instances"));
}

#[test]
fn files_that_change_all_the_time_count_after_a_while() {
    // Contract: R4
    let mut work = Work::of(&["src"]);
    work.changes.since = Instant::now().checked_sub(LONGEST_SETTLE);
    work.write("src/a.py", "again");
    assert_eq!(work.changes.on_ready(), Some(Duration::ZERO));
}
