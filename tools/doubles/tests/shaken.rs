//! `psflip-shaken` behaves as psflip, with delays.

use std::path::Path;
use std::process::Command;

/// Checks that the program does what psflip does; returns whether it yielded its core meanwhile.
fn waits(program: &str, folder: &Path) -> bool {
    let trace = folder.join("trace");
    let strace = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=sched_yield", "-o"])
        .args([&trace, Path::new(program), Path::new("-c"), &folder.join("psflip.toml")])
        .output()
        .unwrap();
    assert_eq!((strace.status.code(), &*strace.stdout), (Some(7), &b"here\n"[..]), "{program}: {strace:?}");
    std::fs::read_to_string(&trace).unwrap().contains("sched_yield(")
}

#[test]
fn psflip_shaken_behaves_like_psflip_but_slower() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("psflip.toml"), "cmd = [\"sh\", \"-c\", \"echo here; exit 7\"]\n")
        .unwrap();
    assert!(!waits(env!("CARGO_BIN_EXE_psflip-staged"), folder.path()));
    // One start makes a few hundred calls and may by chance not wait at all; ten starts will.
    assert!((0..10).any(|_| waits(env!("CARGO_BIN_EXE_psflip-shaken"), folder.path())));
}
