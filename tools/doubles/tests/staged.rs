//! `psflip-staged` behaves as psflip without a plan, and follows a plan.

use std::process::{Command, Output};

fn check(folder: Option<&std::path::Path>, config: &std::path::Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_psflip-staged"));
    command.arg("check").arg("-c").arg(config);
    if let Some(folder) = folder {
        command.env("PSFLIP_STAGED", folder);
    }
    command.output().unwrap()
}

#[test]
fn a_call_fails_only_where_the_plan_says() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("psflip.toml");
    std::fs::write(&config, "cmd = [\"true\"]\n").unwrap();
    let plain = check(None, &config);
    assert!(plain.status.success() && !plain.stdout.is_empty(), "{plain:?}");
    assert_eq!(check(Some(folder.path()), &config).stdout, plain.stdout, "no plan");
    std::fs::write(folder.path().join("plan"), "id 1\nrecord\nfail new OpenConfig 1 24\n").unwrap();
    assert_eq!(check(None, &config).stdout, plain.stdout, "it was started without a plan");
    assert!(!folder.path().join("trace").exists());
    let failed = check(Some(folder.path()), &config);
    let told = String::from_utf8_lossy(&failed.stderr);
    assert!(!failed.status.success() && told.contains("too many open files"), "{told}");
    let trace = std::fs::read_to_string(folder.path().join("trace")).unwrap();
    assert!(trace.starts_with("step "), "{trace}");
    assert!(
        trace.ends_with(" new Begins psflip\ncall new OpenConfig 1\nfault new OpenConfig 1 24\n"),
        "{trace}"
    );
}
