//! A service in a machine: an HTTP server on a Unix socket under psflip, in a unit `app.service`, and clients
//! that send requests without pause.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use testkit::client::http::HttpClient;
use testkit::pidfile::Content;
use testkit::systemd::{Entry, Machine, inner_pid_of};
use testkit::{AvailabilityProbe, Deadline, Process, Sandbox, cmd_line, fixture, psflip_bin, wait_until};

/// The unit's name.
pub(crate) const APP: &str = "app.service";

/// The reload is a signal. psflip needs nothing else from systemd.
pub(crate) const SIMPLE: &str = "Type=simple\nExecReload=/bin/kill -HUP $MAINPID\n";

/// The reload is a signal, but psflip notifies systemd, as docs/systemd.md recommends it, except for the
/// reload.
pub(crate) const NOTIFY: &str = "Type=notify\nNotifyAccess=main\nExecReload=/bin/kill -HUP $MAINPID\n";

/// Both ways in which systemd can follow an upgrade.
pub(crate) const KINDS: [&str; 2] = [SIMPLE, NOTIFY];

/// The server in every generation, unless the test configures another child.
pub(crate) const SERVER: &[&str] = &["http-server", "--unix", "app.sock", "--linger", "50ms"];
pub(crate) const SERVING: &str = "[healthcheck.unix]\npath = \"app.sock\"\n";

/// Healthy as soon as the program runs.
pub(crate) const AT_ONCE: &str = "[healthcheck.alive]\ntimeout = \"0s\"\n";

/// The properties of the service that the tests look at.
const PROPERTIES: &[&str] = &["ActiveState", "SubState", "Result", "MainPID", "NRestarts"];

/// A sandbox, a machine in it, and the files that the unit needs. Nothing is started yet.
pub(crate) struct Rig {
    // The machine is the first field, so it is dropped first.
    pub(crate) machine: Machine,
    pub(crate) sandbox: Sandbox,
    /// The unit's name.
    pub(crate) unit: &'static str,
    /// The service's directory, which also holds its sockets, by its path inside.
    home: PathBuf,
    /// The prefix that makes a path inside the machine one outside.
    root: PathBuf,
    /// psflip's configuration, by its path outside.
    config: PathBuf,
}

impl Rig {
    /// `None`, after a message, where no machine can be booted.
    pub(crate) fn new() -> Option<Self> {
        let sandbox = Sandbox::new();
        let machine = Machine::boot_release(&sandbox, crate::RELEASE)?;
        std::fs::create_dir(sandbox.path("bin")).unwrap();
        std::os::unix::fs::symlink(psflip_bin(), sandbox.path("bin/psflip")).unwrap();
        let (home, config) = (sandbox.dir().to_owned(), sandbox.path("psflip.toml"));
        let rig = Self { machine, sandbox, unit: APP, home, root: "/".into(), config };
        rig.configure_well();
        Some(rig)
    }

    /// As a package installs it: psflip and the fixtures are in `/usr/bin`. The service `unit` has the
    /// configuration `config` and the working directory `home`.
    pub(crate) fn installed(unit: &'static str, home: &str, config: &str) -> Option<Self> {
        let sandbox = Sandbox::new();
        let machine = Machine::boot_release(&sandbox, crate::RELEASE)?;
        let programs =
            [psflip_bin(), fixture("http-server"), fixture("never-ready"), fixture("crash-on-init")];
        let copied = machine.run(["cp", "-t", "/usr/bin"].map(Into::into).into_iter().chain(programs));
        assert!(copied.status.success(), "{copied:?}");
        let root = PathBuf::from(format!("/proc/{}/root", machine.init()));
        let config = root.join(config.trim_start_matches('/'));
        std::fs::create_dir_all(config.parent().unwrap()).unwrap();
        let rig = Self { machine, sandbox, unit, home: home.into(), root, config };
        rig.configure_well();
        Some(rig)
    }

    /// A file of the service, by its path outside.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let path = self.home.join(name);
        self.root.join(path.strip_prefix("/").unwrap_or(&path))
    }

    /// The command line for psflip with this subcommand.
    pub(crate) fn psflip(&self, subcommand: &str) -> String {
        let (exe, file) = (self.sandbox.path("bin/psflip"), self.sandbox.path("psflip.toml"));
        format!("{} {subcommand} -c {}", exe.display(), file.display())
    }

    pub(crate) fn pidfile(&self) -> PathBuf {
        self.path("psflip.pid")
    }

    /// Sets the next generation's child and configuration.
    pub(crate) fn configure(&self, argv: &[&str], rest: &str) {
        let mut argv: Vec<String> = argv.iter().map(|&arg| arg.to_owned()).collect();
        if self.root == Path::new("/") && !argv[0].contains('/') {
            argv[0] = fixture(&argv[0]).display().to_string();
        }
        let (home, pidfile) = (&self.home, self.home.join("psflip.pid"));
        let mut text = cmd_line(argv);
        let _ = write!(text, "workdir = \"{}\"\npidfile = \"{}\"\n{rest}", home.display(), pidfile.display());
        self.write_config(&text);
    }

    /// Sets the next generation's configuration to this text.
    pub(crate) fn write_config(&self, text: &str) {
        let new = self.config.with_extension("new");
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &self.config));
        written.unwrap_or_else(|error| panic!("`{}` can't be written: {error}", self.config.display()));
    }

    /// Sets the next generation's child back to the server.
    pub(crate) fn configure_well(&self) {
        self.configure(SERVER, SERVING);
    }

    /// Writes the unit: this section `[Service]`, and the common parts.
    pub(crate) fn install(&self, service: &str) {
        let mut text = format!("[Service]\nTimeoutStopSec=30\nTimeoutStartSec=30\n{service}");
        if !service.contains("ExecStart=") {
            // In such a unit psflip would keep an anchor by default, and need no `PIDFile=`.
            let run = if service.contains("Type=notify") { "run" } else { "run --no-anchor" };
            let _ = writeln!(text, "ExecStart={}", self.psflip(run));
        }
        if !service.contains("PIDFile=") && !service.contains("Type=notify") {
            let _ = writeln!(text, "PIDFile={}", self.pidfile().display());
        }
        self.machine.unit(APP, text);
    }

    /// Starts the unit, and waits until the pidfile names a healthy psflip and the unit is active. Returns
    /// the active psflip.
    #[track_caller]
    pub(crate) fn start(&self) -> Process {
        self.machine.systemctl(["start", self.unit]).unwrap();
        wait_until(Deadline::default(), "the first pidfile", || self.pidfile().exists().then_some(()));
        self.wait_main()
    }

    /// The pid in the pidfile, which is the one inside.
    #[track_caller]
    pub(crate) fn active_pid(&self) -> u32 {
        match Content::read(&self.pidfile()) {
            Content::Pid(pid) => pid,
            other => panic!("the pidfile is {other:?}"),
        }
    }

    /// Waits until the unit is active and its main process is the one that the pidfile names.
    #[track_caller]
    pub(crate) fn wait_main(&self) -> Process {
        wait_until(Deadline::default(), "systemd to know the active psflip", || {
            let shown = self.show();
            let pid = self.active_pid();
            let known = shown["MainPID"] == pid.to_string() && shown["ActiveState"] == "active";
            self.machine.process(pid).filter(|_| known)
        })
    }

    /// The properties of the service.
    #[track_caller]
    pub(crate) fn show(&self) -> BTreeMap<String, String> {
        self.machine.properties(self.unit, PROPERTIES)
    }

    /// Asserts this state of the service, as `ActiveState/SubState/Result/NRestarts`.
    #[track_caller]
    pub(crate) fn assert_state(&self, wanted: &str) {
        let shown = self.show();
        let state = ["ActiveState", "SubState", "Result", "NRestarts"].map(|name| shown[name].as_str());
        assert_eq!(state.join("/"), wanted);
    }

    /// The journal of the service.
    #[track_caller]
    pub(crate) fn journal(&self) -> Vec<Entry> {
        self.machine.journal(self.unit)
    }

    /// The lines of the journal that contain a text.
    #[track_caller]
    pub(crate) fn said(&self, text: &str) -> Vec<Entry> {
        self.journal().into_iter().filter(|entry| entry.message.contains(text)).collect()
    }

    /// Waits until a process is gone.
    #[track_caller]
    pub(crate) fn wait_gone(&self, process: Process) {
        wait_until(Deadline::default(), format!("process {process} to exit"), || {
            (!process.is_alive()).then_some(())
        });
    }

    /// Starts clients that send requests without pause. The tag of an answer is the server's pid inside.
    pub(crate) fn ask(&self) -> AvailabilityProbe {
        let socket = self.path("app.sock");
        let probe = AvailabilityProbe::start(2, |_| {
            let mut client = HttpClient::unix(&socket);
            move || client.get("/")?.tag("pid")
        });
        probe.wait_requests(10);
        probe
    }

    /// Runs `systemctl reload` for an upgrade that succeeds. Waits until systemd knows the new psflip and the
    /// old one is gone.
    #[track_caller]
    pub(crate) fn flip(&self) -> Process {
        let old = self.wait_main();
        self.machine.systemctl(["reload", self.unit]).unwrap();
        self.wait_flipped(old)
    }

    /// Runs `systemctl reload` for an upgrade that fails because of `why`, and checks that the unit is
    /// unchanged.
    #[track_caller]
    pub(crate) fn fails_to_reload(&self, why: &str) {
        let (old, before) = (self.wait_main(), self.machine.processes(self.unit));
        let reload = self.machine.systemctl(["reload", self.unit]);
        let failed = "upgrade failed; the old child keeps running";
        let line = wait_until(Deadline::default(), format!("`{failed}` because `{why}`"), || {
            self.said(failed).into_iter().find(|entry| entry.message.contains(why))
        });
        assert_eq!(line.pid, inner_pid_of(old), "{line:?}");
        let is_told = self.machine.property(self.unit, "ExecReload").contains(" upgrade ");
        assert_eq!(reload.is_err(), is_told, "{reload:?}");
        wait_until(Deadline::default(), "the new generation to exit", || {
            (self.machine.processes(self.unit) == before).then_some(())
        });
        assert_eq!(self.wait_main(), old);
        self.assert_state("active/running/success/0");
    }

    /// Waits until `old` is gone, and systemd knows its successor.
    #[track_caller]
    pub(crate) fn wait_flipped(&self, old: Process) -> Process {
        self.wait_gone(old);
        let new = self.wait_main();
        assert_ne!(Some(self.active_pid()), inner_pid_of(old));
        new
    }

    /// Runs `systemctl stop`, and asserts that everything has stopped cleanly.
    #[track_caller]
    pub(crate) fn stop_well(&self) {
        let before = self.machine.processes(self.unit);
        self.machine.systemctl(["stop", self.unit]).unwrap();
        let shown = self.show();
        assert_eq!(
            (shown["ActiveState"].as_str(), shown["Result"].as_str()),
            ("inactive", "success"),
            "{shown:?}"
        );
        assert!(before.iter().all(|process| !process.is_alive()), "{before:?}");
        assert!(!self.pidfile().exists());
    }

    /// Fifty upgrades under load: no request is lost, no restart is counted, and every generation is in the
    /// journal.
    #[track_caller]
    pub(crate) fn flips_fifty_times(&self) {
        let probe = self.ask();
        for _ in 0..50 {
            self.flip();
            probe.wait_requests(5);
        }
        self.assert_state("active/running/success/0");
        let report = probe.finish();
        report.assert_no_failures();
        assert_eq!(report.by_tag.len(), 51, "{report}");
        self.assert_journal_has_generations(51);
    }

    /// Asserts that every generation up to this one has written to the unit's journal, and so has its child.
    #[track_caller]
    pub(crate) fn assert_journal_has_generations(&self, last: usize) {
        let journal = self.journal();
        for generation in 1..=last {
            let is_its = |entry: &&Entry| {
                entry.field("PSFLIP_GENERATION").is_some_and(|number| number == generation.to_string())
            };
            let own: Vec<_> = journal.iter().filter(is_its).collect();
            let has = |text: &str| own.iter().any(|entry| entry.message.contains(text));
            let whole = has("healthy, active") && (generation == last || has("the child has exited"));
            assert!(whole, "not all lines of generation {generation}: {journal:#?}");
            for entry in own {
                assert_eq!(entry.pid.map(|pid| pid.to_string()), entry.field("PSFLIP_PID"), "{entry:?}");
                let units = [entry.field("_SYSTEMD_UNIT"), entry.field("_SYSTEMD_USER_UNIT")];
                assert!(units.iter().flatten().any(|unit| unit == self.unit), "{entry:?}");
            }
            let child = format!("name=gen{generation}");
            assert!(
                journal.iter().any(|entry| entry.message.ends_with(&child)),
                "no `{child}`: {journal:#?}"
            );
        }
    }
}
