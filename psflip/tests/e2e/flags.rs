//! A service without a configuration file: flags and a command, across upgrades.

use testkit::client::Target;
use testkit::client::http::HttpClient;
use testkit::pidfile::named_process;
use testkit::process::Process;
use testkit::{
    AvailabilityProbe, Deadline, Running, Sandbox, Signal, Stream, fixture, psflip_bin, wait_until,
};

use crate::examples::{self, At};

/// A psflip that was started without testkit's configuration file.
pub(crate) struct Bare {
    pub(crate) sandbox: Sandbox,
    pub(crate) running: std::sync::Arc<Running>,
}

impl Bare {
    /// Starts `argv`, which writes `app.pid`, and waits for that file.
    #[track_caller]
    pub(crate) fn start(sandbox: Sandbox, argv: &[&str]) -> Self {
        let running = sandbox.command(argv).env("PATH", examples::path()).start();
        let bare = Self { sandbox, running };
        bare.wait_active(None);
        bare
    }

    /// Waits until the pidfile names a living process other than `old`.
    #[track_caller]
    fn wait_active(&self, old: Option<Process>) -> Process {
        wait_until(Deadline::default(), "the pidfile to name a psflip", || {
            named_process(&self.sandbox.path("app.pid")).filter(|new| Some(*new) != old)
        })
    }

    /// Upgrades, and waits until the old psflip is gone.
    #[track_caller]
    pub(crate) fn flip(&self) -> Process {
        let old = self.wait_active(None);
        old.signal(Signal::SIGHUP).unwrap();
        let new = self.wait_active(Some(old));
        wait_until(Deadline::default(), "the old psflip to exit", || (!old.is_alive()).then_some(()));
        new
    }

    /// Stops it, and checks that nothing is left.
    #[track_caller]
    pub(crate) fn stop(self) {
        let last = self.wait_active(None);
        last.signal(Signal::SIGTERM).unwrap();
        wait_until(Deadline::default(), "psflip to exit", || (!last.is_alive()).then_some(()));
        assert!(!self.sandbox.path("app.pid").exists(), "{}", self.sandbox.report());
        self.sandbox.assert_no_process_left();
    }
}

/// Runs psflip until it exits. Returns exit code, standard output and standard error.
fn run(sandbox: &Sandbox, args: &[&str]) -> (Option<i32>, String, String) {
    let program = sandbox.command([psflip_bin()]).args(args).start();
    let status = program.wait_exit();
    (status.code(), program.stdout(), program.stderr())
}

#[test]
fn flags_survive_upgrades_and_no_request_is_lost() {
    // Contract: U1, U2
    let sandbox = Sandbox::new();
    let psflip = psflip_bin().display().to_string();
    let (server, socket) = (fixture("http-server").display().to_string(), sandbox.path("app.sock"));
    let argv = [
        &psflip,
        "run",
        "--listen",
        "unix://app.sock,mode=0600",
        "--pidfile",
        "app.pid",
        "--healthcheck-notify",
        "--env",
    ];
    let argv = [&argv[..], &["NAME={{ ab('one', 'two') }}", "--log-level", "warn", "--", &server]].concat();
    let argv =
        [&argv[..], &["--inherit", "listen_fds", "--name", "{{ generation() }}-{{ ab('a', 'b') }}"]].concat();
    let service = Bare::start(sandbox, &argv);
    let probe = AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::unix(&socket);
        move || client.get("/")?.tag("name")
    });
    for name in ["1-a", "2-b", "3-a"] {
        if name != "1-a" {
            let new = service.flip();
            assert_eq!(new.cmdline().unwrap()[1..], argv[1..], "a successor has the same arguments");
        }
        probe.wait_tag(name);
    }
    probe.finish().assert_no_failures();
    assert_eq!(service.running.stderr(), "", "--log-level has survived too");
    service.stop();
}

#[test]
fn the_command_line_for_users_of_start_server_works() {
    // Contract: U1
    runs("start-server.sh", At::Http);
}

#[test]
fn the_command_line_for_users_of_spawn_fcgi_works() {
    // Contract: U1
    runs("spawn-fcgi.sh", At::FastCgi);
}

/// Starts an example without a configuration file, upgrades it under load, and stops it.
#[track_caller]
fn runs(script: &str, at: At) {
    let sandbox = Sandbox::new();
    examples::copy_to(&sandbox);
    let service = Bare::start(sandbox, &["sh", script]);
    let target = Target::Unix(service.sandbox.path("app.sock"));
    let probe = AvailabilityProbe::start(2, |_| {
        let target = target.clone();
        move || examples::ask(&target, at)
    });
    probe.wait_requests(10);
    service.flip();
    probe.wait_requests(10);
    let report = probe.finish();
    report.assert_no_failures();
    assert_eq!(report.by_tag.len(), 2, "{report}");
    service.stop();
}

#[test]
fn check_prints_the_configuration_that_flags_make() {
    // Contract: X1
    let sandbox = Sandbox::new();
    let args = [
        "check",
        "--workdir",
        ".",
        "--env",
        "A=b=c",
        "--env-remove",
        "D",
        "--healthcheck-fcgi",
        "@x",
        "--healthcheck-script",
        "/s",
        "--healthcheck-status",
        "200",
        "--healthcheck-after",
        "1s",
        "--healthcheck-interval",
        "2s",
        "--healthcheck-timeout",
        "3s",
        "--healthcheck-successes",
        "4",
        "--healthcheck-settle",
        "500ms",
        "--upgrade-signal",
        "usr1",
        "--upgrade-timeout",
        "5s",
        "--upgrade-precheck",
        "p q",
        "--no-overlap",
        "--shutdown-delay",
        "6s",
        "--shutdown-signal",
        "quit",
        "--shutdown-timeout",
        "7s",
        "--shutdown-orphans",
        "leave",
        "--switch",
        "l=t",
        "--hook-promote",
        "a b",
        "--hook-promoted",
        "c",
        "--hook-failed",
        "d",
        "--hook-rolled-back",
        "e",
        "--hook-timeout",
        "8s",
        "--log-format",
        "json",
        "--log-level",
        "debug",
        "--quiet",
        "--listen",
        "tcp://[::1]:0,name=n,as=stdin,as=einhorn,backlog=9,reuseport,v6only=true,nodelay,nonblock=false",
        "--listen",
        "udp://0.0.0.0:0,as=server_starter,fd=9,key=53",
        "--",
        "x",
        "-y",
        "--",
        "z",
    ];
    let (code, text, stderr) = run(&sandbox, &args);
    assert_eq!(code, Some(0), "{stderr}");
    let expected = "cmd = [\"x\", \"-y\", \"--\", \"z\"]
workdir = \".\"
quiet = true

[env]
A = \"b=c\"
D = false

[upgrade]
signal = \"SIGUSR1\"
timeout = \"5s\"
overlap = false
precheck = [\"sh\", \"-c\", \"p q\"]

[shutdown]
delay = \"6s\"
signal = \"SIGQUIT\"
timeout = \"7s\"
orphans = \"leave\"

[healthcheck.fcgi]
address = \"@x\"
script = \"/s\"
query = \"\"
status = \"200\"
after = \"1s\"
interval = \"2s\"
timeout = \"3s\"
successes = 4
failures = 3
settle = \"500ms\"

[[listen]]
address = \"tcp://[::1]:0\"
name = \"n\"
as = [\"stdin\", \"einhorn\"]
backlog = 9
reuseport = true
v6only = true
nodelay = true
nonblock = false

[[listen]]
address = \"udp://0.0.0.0:0\"
name = \"unknown\"
as = [\"server_starter\"]
fd = 9
key = \"53\"
reuseport = false

[switch]
symlink = { path = \"l\", to = \"t\" }

[hooks]
promote = [\"sh\", \"-c\", \"a b\"]
promoted = [\"sh\", \"-c\", \"c\"]
failed = [\"sh\", \"-c\", \"d\"]
rolled_back = [\"sh\", \"-c\", \"e\"]
timeout = \"8s\"

[log]
format = \"json\"
level = \"debug\"
";
    assert!(text.starts_with("# the command line: valid"), "{text}");
    let effective: String =
        text.lines().skip_while(|line| line.starts_with('#')).map(|line| format!("{line}\n")).collect();
    assert_eq!(effective, expected);
    for check in ["http http://[::1]/", "tcp :1", "unix a", "command true", "docker a", "notify", "alive 1s"]
    {
        let (kind, value) = check.split_once(' ').unwrap_or((check, ""));
        let flag = format!("--healthcheck-{kind}");
        let mut args = vec!["check", &flag, value, "--", "x"];
        args.retain(|arg| !arg.is_empty());
        let (code, text, stderr) = run(&sandbox, &args);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(text.contains(&format!("\n[healthcheck.{kind}]\n")), "{flag}: {text}");
    }
    // It excludes `--no-overlap`.
    let args = ["check", "--listen", "@x", "--upgrade-bake", "5m", "--healthcheck-notify", "--", "x"];
    let (code, text, stderr) = run(&sandbox, &args);
    assert_eq!(code, Some(0), "{stderr}");
    assert!(text.contains("\nbake = \"5m\"\n"), "{text}");
}

#[test]
fn an_upgrade_without_overlap_needs_no_file() {
    // Contract: E2, U1
    let sandbox = Sandbox::new();
    let (psflip, server) = (psflip_bin().display().to_string(), fixture("http-server").display().to_string());
    let twice = "exec 9>once.lock; flock -n 9 || { echo twice >> twice; exit 9; }; exec \"$@\"";
    let argv = [
        &[&psflip, "run", "--proxy", "http+unix://web.sock,forward=unix://app.sock", "--pidfile", "app.pid"]
            [..],
        &["--no-overlap", "--upgrade-precheck", "echo x >> checked", "--healthcheck-unix", "app.sock"],
        &["--healthcheck-interval", "10ms", "--", "sh", "-c", twice, "sh", &server, "--unix", "app.sock"],
    ]
    .concat();
    let socket = sandbox.path("web.sock");
    let service = Bare::start(sandbox, &argv);
    let probe = AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::unix(&socket);
        move || client.get("/")?.tag("name")
    });
    for name in ["gen1", "gen2", "gen3"] {
        if name != "gen1" {
            service.flip();
        }
        probe.wait_tag(name);
    }
    probe.finish().assert_no_failures();
    assert_eq!(service.sandbox.read("checked"), "x\nx\n");
    assert!(!service.sandbox.path("twice").exists());
    service.stop();
}

#[test]
fn an_invalid_flag_value_is_reported_with_its_flag_before_a_start() {
    // Contract: X1, X3, C6
    let sandbox = Sandbox::new();
    for (flags, words) in [
        (
            &["--shutdown-timeout", "5"][..],
            &["--shutdown-timeout 5: the duration `5` has no unit", "did you mean `5s`?"][..],
        ),
        (&["--upgrade-signal", "kill"], &["--upgrade-signal kill: `SIGKILL` can't be"]),
        (
            &["--listen", "tcp://:0,nam=x"],
            &["--listen tcp://:0,nam=x: `:0` does not say", "did you mean `name`?"],
        ),
        (&["--listen", "@x,as=stdin", "--listen", "@y,as=stdin"], &["--listen @y,as=stdin: two listeners"]),
        (
            &["--listen", "@x", "--upgrade-bake", "5m", "--no-overlap"],
            &["--upgrade-bake 5m: `upgrade.bake` and `overlap = false` exclude each other"],
        ),
        (
            &["--upgrade-draining", "2", "--no-overlap"],
            &["--upgrade-draining 2: `upgrade.draining` and `overlap = false` exclude each other"],
        ),
        (
            &["--upgrade-draining", "9"],
            &["--upgrade-draining 9: `draining` must be a whole number from 1 to 7"],
        ),
        (&["--env", "=secret"], &["--env: `` is no name"]),
        (&["--env", "A={{ evn('x') }}"], &["--env A: there is no template function `evn`"]),
        (
            &["--healthcheck-http", "http://:1/", "--healthcheck-header", "X Y=secret"],
            &["--healthcheck-header X Y: `X Y` is no name of a header"],
        ),
        (&["--healthcheck-timeout", "5s"], &["--healthcheck-timeout 5s: ", "name the kind of check"]),
        (
            &["--healthcheck-notify", "--healthcheck-after", "5s"],
            &["--healthcheck-after 5s: unknown key `after` in `[healthcheck.notify]`"],
        ),
        (
            &["--healthcheck-alive", "1s", "--log-level", "x", "--workdir", ""],
            &["--log-level x: ", "--workdir: `workdir` is empty"],
        ),
    ] {
        for subcommand in ["run", "check"] {
            let args = [&[subcommand][..], flags, &["--", "touch", "started"]].concat();
            let (code, stdout, stderr) = run(&sandbox, &args);
            assert_eq!((code, stdout.as_str()), (Some(78), ""), "{args:?}\n{stderr}");
            assert!(stderr.starts_with("psflip: the configuration is invalid"), "{stderr}");
            for word in words {
                assert!(stderr.contains(word), "`{word}` is missing in\n{stderr}");
            }
            assert!(!stderr.contains("secret"), "{stderr}");
        }
    }
    let (code, _, stderr) = run(&sandbox, &["run", "--", "touch", "{{ started"]);
    assert!(code == Some(78) && stderr.contains("-- touch {{ started: malformed template"), "{stderr}");
    assert!(!sandbox.path("started").exists());
}

#[test]
fn conflicting_flags_are_wrong_usage_with_a_hint() {
    // Contract: C6, X1
    let sandbox = Sandbox::new();
    sandbox.write("psflip.toml", "cmd = [\"touch\", \"started\"]\n");
    for (args, hint) in [
        (&["--", "./server"][..], "`psflip run -- ./server ...`"),
        (&["--", "server", "-v"], "`psflip run -- server ...`"),
        (&["run", "./server"], "`psflip run -- ./server ...`"),
        (&["--pidfile", "x", "--", "./server"], "`psflip run --pidfile ... -- ./server`"),
        (&["-c", "psflip.toml", "--", "./server"], "Configure by a file or by the command line"),
        (&["run", "-c", "psflip.toml", "--", "./server"], "Configure by a file or by the command line"),
        (&["run", "-c", "psflip.toml", "--quiet"], "Configure by a file or by the command line"),
        (&["server", "9"], "`psflip run -- server ...`"),
        (&["run", "sleep", "9"], "`psflip run -- sleep ...`"),
        (&["upgrde"], "a similar subcommand exists: 'upgrade'"),
        (&["run", "--pidfile", "x"], "-- <COMMAND>..."),
        (&["run", "--healthcheck-tcp", ":1", "--healthcheck-notify", "--", "x"], "'--healthcheck-notify'"),
        (&["run", "--healthcheck-fcgi", ":1", "--", "x"], "--healthcheck-script <FILE>"),
        (&["run", "--env", "A", "--", "x"], "write NAME=VALUE"),
        (&["run", "--healthcheck-header", "A=b", "--", "x"], "--healthcheck-http <URL>"),
        (&["run", "--switch", "A", "--", "x"], "write LINK=TARGET"),
        (&["run", "--healthcheck-successes", "two", "--", "x"], "'two'"),
        (&["run", "--quiet", "--quiet", "--", "x"], "--quiet"),
    ] {
        let (code, stdout, stderr) = run(&sandbox, args);
        assert_eq!((code, stdout.as_str()), (Some(2), ""), "{args:?}\n{stderr}");
        assert!(stderr.contains(hint), "{args:?}: `{hint}` is not in\n{stderr}");
        let clap_only = "Options go after the subcommand";
        assert!(!stderr.contains(clap_only), "{args:?}\n{stderr}");
    }
    assert!(!sandbox.path("started").exists());
    let (code, help, _) = run(&sandbox, &["run", "--help"]);
    assert_eq!(code, Some(0));
    assert!(help.lines().all(|line| line.chars().count() <= 100), "{help}");
    for line in ["  start_server --port", "  spawn-fcgi -n", "      --listen <ADDR[,KEY=VALUE...]>"] {
        assert!(help.lines().any(|shown| shown.starts_with(line)), "{line}\n{help}");
    }
}

#[test]
fn the_files_of_a_directory_are_not_read_when_there_is_a_command() {
    // Contract: C5
    let sandbox = Sandbox::new();
    sandbox.write("psflip.toml", "this is broken");
    let program =
        sandbox.command([psflip_bin()]).args(["run", "--", "sh", "-c", "echo said; exit 7"]).start();
    assert_eq!(program.wait_exit().code(), Some(7));
    program.output().wait(Stream::Stdout, "said");
}
