//! The new psflip does not start, or its child does not (F1 to F4).

use std::os::unix::fs::PermissionsExt;

use testkit::Stream;

use crate::service::{Service, script};

#[test]
fn an_invalid_configuration_fails_the_upgrade() {
    // Contract: F1, U8
    let service = Service::start();
    service.sandbox.write("psflip.toml", "cmd = [\"x\"]\ntimout = 3\n[oops\n");
    let line = service.fails();
    assert!(line.text.contains("exit code 78") && line.text.contains("psflip.toml:"), "{line}");
    std::fs::remove_file(service.sandbox.path("psflip.toml")).unwrap();
    let line = service.fails();
    assert!(line.text.contains("exit code 78"), "{line}");
    service.succeeds_and_ends();
}

/// Replaces psflip's executable by something else. The upgrade must fail for this reason.
fn replaced_by(service: &Service, replace: impl FnOnce(&std::path::Path), reason: &str) {
    let exe = service.sandbox.path("bin/psflip");
    std::fs::remove_file(&exe).unwrap();
    replace(&exe);
    let line = service.fails();
    assert!(line.text.contains(reason), "no `{reason}` in: {line}");
    if exe.is_dir() {
        std::fs::remove_dir(&exe).unwrap();
    } else {
        let _ = std::fs::remove_file(&exe); // missing where it was only removed
    }
    std::os::unix::fs::symlink(testkit::psflip_bin(), &exe).unwrap();
}

#[test]
fn a_psflip_that_is_missing_or_not_executable_fails_the_upgrade() {
    // Contract: F2, U8
    let service = Service::start();
    replaced_by(&service, |_| {}, "No such file");
    replaced_by(&service, |exe| std::fs::write(exe, "text").unwrap(), "Permission denied");
    replaced_by(&service, |exe| std::fs::create_dir(exe).unwrap(), "Permission denied");
    service.succeeds_and_ends();
}

#[test]
fn a_psflip_that_exits_at_once_fails_the_upgrade() {
    // Contract: F2, U8
    let service = Service::start();
    let link =
        |target: &'static str| move |exe: &std::path::Path| std::os::unix::fs::symlink(target, exe).unwrap();
    replaced_by(&service, link("/bin/true"), "exited without a reason");
    replaced_by(&service, link("/bin/false"), "exited without a reason");
    for (name, text) in [("exits", "exit 1"), ("dies", "kill -SEGV $$"), ("garbles", "echo x >&3; exit 0")] {
        let path = script(&service.sandbox, name, text);
        replaced_by(
            &service,
            |exe| std::os::unix::fs::symlink(path, exe).unwrap(),
            "exited without a reason",
        );
    }
    service.succeeds_and_ends();
}

#[test]
fn a_psflip_that_sends_nothing_is_killed_at_the_deadline() {
    // Contract: F2, F5, U8
    let service = Service::start();
    // A new psflip may be silent for the old one's `upgrade.timeout`, and 5 s more for a busy host.
    let text = service.sandbox.read("psflip.toml");
    service.sandbox.write("psflip.toml", format!("{text}[upgrade]\ntimeout = \"2s\"\n"));
    service.psflip.flip();
    let path = script(&service.sandbox, "silent", "exec sleep infinity");
    replaced_by(&service, |exe| std::os::unix::fs::symlink(path, exe).unwrap(), "did not answer within 7s");
    service.succeeds_and_ends();
}

#[test]
fn a_child_that_cannot_be_started_fails_the_upgrade() {
    // Contract: F3, U8
    let service = Service::start();
    let asks = service.sandbox.write("asks", "#!/no/such\n");
    std::fs::set_permissions(asks, PermissionsExt::from_mode(0o755)).unwrap();
    let tries: &[(&[&str], &str, &str, &str)] = &[
        (&["/no/such"], "", "`/no/such`: No such file or directory (os error 2) (", "exit code 127"),
        (
            &["./asks"],
            "",
            "`./asks`: No such file or directory (os error 2); the file exists, but",
            "exit code 127",
        ),
        (&["/etc/passwd"], "", "; it is not executable", "exit code 126"),
        (&["/etc"], "", "; it is a directory", "exit code 126"),
        (&["never-ready"], "workdir = \"/no/such\"\n", "`/no/such`", "exit code 125"),
    ];
    for (argv, rest, reason, code) in tries {
        service.configure(argv, rest);
        let line = service.fails();
        assert!(line.text.contains(reason) && line.text.contains(code), "no `{reason}`, {code} in: {line}");
    }
    service.succeeds_and_ends();
}

#[test]
fn a_child_that_exits_during_initialization_fails_the_upgrade() {
    // Contract: F3, U8
    let service = Service::start();
    let tries: &[(&[&str], &str)] = &[
        (&["crash-on-init", "--code", "0"], "before it was healthy: exit code 0 (exit code 1)"),
        (&["crash-on-init", "--code", "3"], "before it was healthy: exit code 3\""),
        (&["crash-on-init", "--signal", "ABRT"], "before it was healthy: SIGABRT (exit code 134)"),
        (
            &["crash-on-init", "--after", "30ms", "--signal", "KILL"],
            "before it was healthy: SIGKILL (exit code 137)",
        ),
        (&["forks-workers", "--orphans", "2", "--uid", "nobody"], "before it was healthy: exit code"),
    ];
    for (argv, reason) in tries {
        service.configure(argv, "");
        let line = service.fails();
        assert!(line.text.contains(reason), "no `{reason}` in: {line}");
    }
    service.succeeds_and_ends();
}

#[test]
fn a_child_that_is_never_healthy_is_stopped_without_delay() {
    // Contract: F4, H4, U8
    let service = Service::start();
    let rest = "[upgrade]\ntimeout = \"1s\"\n[shutdown]\ndelay = \"1h\"\ntimeout = \"200ms\"\n\
                [healthcheck.unix]\npath = \"nowhere.sock\"\n";
    service.configure(&["never-ready"], rest);
    let line = service.fails();
    for part in ["was not healthy within 1s", "nowhere.sock", "exit code 124"] {
        assert!(line.text.contains(part), "no `{part}` in: {line}");
    }
    service.psflip.wait_for_line(Stream::Stdout, "got SIGTERM from=");
    let mark = service.psflip.output().mark();
    service.configure(&["ignore-sigterm"], rest);
    let line = service.fails();
    assert!(line.text.contains("exit code 124"), "{line}");
    service.psflip.output().wait_after(mark, Stream::Stderr, "the child did not exit in time; killing it");
    service.succeeds_and_ends();
}
