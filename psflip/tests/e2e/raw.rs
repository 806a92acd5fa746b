//! Arguments and paths on the command line that are not UTF-8: they reach the child and the file system
//! unchanged.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::PathBuf;

use testkit::pidfile::named_process;
use testkit::process::Process;
use testkit::{Deadline, Sandbox, Signal, psflip_bin, wait_until};

/// `caf` and the `é` of Latin-1.
const NAME: &[u8] = b"caf\xe9";

fn raw(bytes: &[u8]) -> &OsStr {
    OsStr::from_bytes(bytes)
}

fn path(sandbox: &Sandbox, suffix: &str) -> PathBuf {
    let mut name = sandbox.path("").into_os_string().into_vec();
    name.extend_from_slice(NAME);
    name.extend_from_slice(suffix.as_bytes());
    OsString::from_vec(name).into()
}

/// Runs psflip until it exits. Returns exit code, standard output and standard error.
fn run(sandbox: &Sandbox, args: &[&OsStr]) -> (Option<i32>, String, String) {
    let program = sandbox.command([psflip_bin()]).args(args).start();
    let status = program.wait_exit();
    program.output().wait_closed();
    (status.code(), program.stdout(), program.stderr())
}

/// The psflip that the pidfile names, if it is not `old`.
#[track_caller]
fn active(sandbox: &Sandbox, old: Option<Process>) -> Process {
    let pidfile = path(sandbox, ".pid");
    wait_until(Deadline::default(), "the pidfile to name a psflip", || {
        named_process(&pidfile).filter(|new| Some(*new) != old)
    })
}

#[test]
fn command_workdir_and_pidfile_may_be_any_bytes_over_upgrades() {
    // Contract: C1, C4, U1, P1
    let sandbox = Sandbox::new();
    let directory = path(&sandbox, ".d");
    std::fs::create_dir(&directory).unwrap();
    let script = "#!/bin/sh\nprintf '%s:%s' \"$1\" \"$2\" > \"seen-$PSFLIP_GENERATION.part\"\nmv \"seen-$PSFLIP_GENERATION.part\" \"seen-$PSFLIP_GENERATION\"\nexec sleep infinity\n";
    let program = crate::service::script(&sandbox, "script", script);
    std::fs::rename(program, directory.join(raw(NAME))).unwrap();
    let pidfile = path(&sandbox, ".pid");
    let control = sandbox.path("control.sock");
    let binary = psflip_bin();
    let argv: Vec<&OsStr> = vec![
        binary.as_os_str(),
        raw(b"run"),
        raw(b"--healthcheck-alive=0s"),
        raw(b"--control-socket"),
        control.as_os_str(),
        raw(b"--pidfile"),
        pidfile.as_os_str(),
        raw(b"--workdir"),
        directory.as_os_str(),
        raw(b"--"),
        raw(b"./caf\xe9"),
        raw(b"\xff{{ generation() }}\xfe"),
        raw("\u{FDD0}é".as_bytes()),
    ];
    let psflip = sandbox.command(&argv).start();
    let mut old = None;
    for generation in 1..=3 {
        let now = active(&sandbox, old);
        let file = directory.join(format!("seen-{generation}"));
        let seen = wait_until(Deadline::default(), "what the child has seen", || std::fs::read(&file).ok());
        let rendered = [b"\xff", generation.to_string().as_bytes(), b"\xfe:"].concat();
        assert_eq!(seen, [&rendered, "\u{FDD0}é".as_bytes()].concat(), "{}", sandbox.report());
        if let Some(old) = old.replace(now) {
            wait_until(Deadline::default(), "the old psflip to exit", || (!old.is_alive()).then_some(()));
        }
        if generation < 3 {
            now.signal(Signal::SIGHUP).unwrap();
        }
    }
    let (code, status, stderr) =
        run(&sandbox, &[raw(b"status"), raw(b"--json"), raw(b"--socket"), control.as_os_str()]);
    assert_eq!(code, Some(0), "{stderr}");
    for shown in [r"./caf\\xE9", r"\\xFF3\\xFE", r"caf\\xE9.pid"] {
        assert!(status.contains(shown), "{shown} is not in {status}");
    }
    old.unwrap().signal(Signal::SIGTERM).unwrap();
    psflip.wait_exit();
    wait_until(Deadline::default(), "psflip to exit", || (!old.unwrap().is_alive()).then_some(()));
    assert!(!pidfile.exists(), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}

#[test]
fn a_configuration_may_have_any_name() {
    // Contract: U1, U2, X1
    let sandbox = Sandbox::new();
    let config = path(&sandbox, ".toml");
    let (code, _, stderr) = run(&sandbox, &[raw(b"check"), raw(b"-c"), config.as_os_str()]);
    assert!(code == Some(78) && stderr.contains(r"caf\xE9.toml: can't read"), "{code:?} {stderr}");
    let pidfile = sandbox.path("app.pid");
    let text = |argument: &str| {
        format!(
            "cmd = [\"sleep\", \"{argument}\"]\npidfile = \"{}\"\n[healthcheck.alive]\ntimeout = \"0s\"\n",
            pidfile.display()
        )
    };
    std::fs::write(&config, text("infinity")).unwrap();
    let psflip =
        sandbox.command([psflip_bin().as_os_str(), raw(b"run"), raw(b"-c"), config.as_os_str()]).start();
    wait_until(Deadline::default(), "the pidfile to name a psflip", || named_process(&pidfile));
    let on = |subcommand: &str| run(&sandbox, &[raw(subcommand.as_bytes()), raw(b"-c"), config.as_os_str()]);
    let (code, _, stderr) = on("upgrade");
    assert_eq!(code, Some(0), "{stderr}");
    let (code, status, _) = on("status");
    assert!(code == Some(0) && status.contains(r"caf\xE9.toml"), "{status}");
    std::fs::write(&config, "cmd = 1\n").unwrap();
    let (code, _, stderr) = on("check");
    assert!(code == Some(78) && stderr.contains(r"caf\xE9.toml:1:7: "), "{stderr}");
    std::fs::write(&config, text("infinity")).unwrap();
    let (code, _, stderr) = on("stop");
    assert_eq!(code, Some(0), "{stderr}");
    psflip.wait_exit();
    sandbox.assert_no_process_left();
}

#[test]
fn non_utf_8_is_escaped_and_refused_where_text_is_required() {
    // Contract: C6, X1
    let sandbox = Sandbox::new();
    let (code, text, stderr) =
        run(&sandbox, &[raw(b"check"), raw(b"--"), raw(b"/bin/echo"), raw(b"caf\xe9")]);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(text.contains("\n# not UTF-8") && text.contains(r#""caf\\xE9""#), "{text}");
    let (code, _, stderr) = run(&sandbox, &[raw(b"run"), raw(b"--"), raw(b"/no/caf\xe9")]);
    // The log escapes the backslash when it quotes a value.
    assert!(code == Some(127) && stderr.contains(r"can't execute `/no/caf\\xE9`"), "{code:?} {stderr}");
    let (code, _, stderr) = run(&sandbox, &[raw(b"run"), raw(b"--"), raw(b"echo"), raw(b"{{ \xe9 }}")]);
    assert!(code == Some(78) && stderr.contains(r"-- echo {{ \xE9 }}: "), "{code:?} {stderr}");
    assert!(!stderr.contains('\u{FDD0}'), "{stderr}");
    for flag in ["--env", "--shutdown-signal", "--listen", "--control-socket", "--hook-promote"] {
        let args = [raw(b"run"), raw(flag.as_bytes()), raw(b"A=\xff"), raw(b"--"), raw(b"true")];
        let (code, _, stderr) = run(&sandbox, &args);
        assert!(code == Some(2) && stderr.contains("COMMAND and its arguments"), "{flag}: {code:?} {stderr}");
    }
}
