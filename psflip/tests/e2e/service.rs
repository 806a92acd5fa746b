//! A service under psflip that gets requests without pause, and helpers for tests of upgrades.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;

use testkit::client::http::HttpClient;
use testkit::process::ProcessState;
use testkit::{
    AvailabilityProbe, Deadline, Line, Process, Psflip, PsflipBuilder, Sandbox, Signal, Stream, cmd_line,
    fixture, psflip_bin, wait_until,
};

/// Healthy as soon as the program runs.
pub(crate) const AT_ONCE: &str = "[healthcheck.alive]\ntimeout = \"0s\"\n";

/// Healthy once the file `healthy` exists in the sandbox.
pub(crate) const UNTIL_FILE: &str =
    "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"healthy\"]\ninterval = \"5ms\"\n";

/// For a child that prints every signal: healthy at once, log level `debug`, and a short timeout for the stop.
pub(crate) const LOGGER: &str =
    "[healthcheck.alive]\ntimeout = \"0s\"\n[log]\nlevel = \"debug\"\n[shutdown]\ntimeout = \"2s\"\n";

/// `argv` with the path of the fixture that its first word names, unless that word is a path.
pub(crate) fn program(argv: &[&str]) -> Vec<String> {
    let mut argv: Vec<String> = argv.iter().map(|&arg| arg.to_owned()).collect();
    if !argv[0].contains('/') {
        argv[0] = fixture(&argv[0]).to_string_lossy().into_owned();
    }
    argv
}

/// Writes the configuration that the next generation reads, with the default pidfile.
pub(crate) fn configure(sandbox: &Sandbox, argv: &[&str], rest: &str) {
    let pidfile = sandbox.path("psflip.pid");
    let text = format!("{}pidfile = \"{}\"\n{rest}", cmd_line(program(argv)), pidfile.display());
    sandbox.write("psflip.toml", text);
}

/// A psflip with this child and the rest of its configuration.
pub(crate) fn psflip(sandbox: &Sandbox, argv: &[&str], rest: &str) -> PsflipBuilder {
    sandbox.psflip().cmd(program(argv)).config(rest)
}

/// Writes an executable shell script to the sandbox. A separate process writes it, since a file can't be
/// executed while a process of this test may have it open for writing (ETXTBSY).
pub(crate) fn script(sandbox: &Sandbox, name: &str, text: &str) -> PathBuf {
    let path = sandbox.path(name);
    let write =
        "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\".new && chmod 755 \"$1\".new && mv -f \"$1\".new \"$1\"";
    let path_text = path.to_string_lossy().into_owned();
    let status = sandbox.command(["sh", "-c", write, "sh", &path_text, text]).start().wait_exit();
    assert!(status.success(), "{name} can't be written: {status}");
    path
}

/// Whether strace is installed and may trace. If not, the caller skips the test.
#[track_caller]
pub(crate) fn can_trace(sandbox: &Sandbox) -> bool {
    let can = sandbox.command(["sh", "-c", "strace -D -o /dev/null true"]).start().wait_exit().success();
    if !can {
        testkit::skip("strace", "strace is not installed, or may not trace");
    }
    can
}

/// The living psflips of the sandbox, without keepers and without forks that are about to execute a program.
pub(crate) fn generations(sandbox: &Sandbox) -> Vec<Process> {
    let stats: Vec<_> = sandbox.processes().iter().filter_map(Process::stat).collect();
    let psflips: Vec<_> =
        stats.iter().filter(|stat| stat.name == "psflip" && stat.state.is_alive()).cloned().collect();
    let is_child = |parent: u32| psflips.iter().any(|stat| stat.process.pid() == parent);
    psflips.iter().filter(|stat| !is_child(stat.parent)).map(|stat| stat.process).collect()
}

/// The new psflip beside the active one, as soon as it exists.
#[track_caller]
pub(crate) fn wait_coming(sandbox: &Sandbox, old: Process) -> Process {
    wait_until(Deadline::default(), "a new psflip", || {
        generations(sandbox).into_iter().find(|process| *process != old)
    })
}

/// Waits until no process of the sandbox does anything: each sleeps, and none has run between two looks at
/// all of them. So at some moment all slept, and none was about to wake another. Only a timer or a process
/// outside can change that. Returns how often each has run so far.
#[track_caller]
pub(crate) fn wait_rest(sandbox: &Sandbox) -> Vec<(Process, u64)> {
    let look = || -> Option<Vec<_>> {
        let look_at = |process: Process| {
            let status = |name| process.status_field(name);
            let counts = ["voluntary_ctxt_switches", "nonvoluntary_ctxt_switches"].map(status);
            let runs = counts.into_iter().map(|count| count?.parse::<u64>().ok()).sum::<Option<u64>>()?;
            (process.state() == ProcessState::Sleeping).then_some((process, runs))
        };
        sandbox.processes().into_iter().map(look_at).collect()
    };
    wait_until(Deadline::default(), "every process of the sandbox to sleep", || {
        let before = look()?;
        look().filter(|now| *now == before)
    })
}

/// Waits until a process of psflip waits for its next event without a time limit. It does so 0.1 s after its last
/// work, when it has given back the memory for that.
#[track_caller]
pub(crate) fn wait_idle(process: Process) {
    wait_until(Deadline::default(), format!("process {process} to be idle"), || {
        // The number of the system call and its arguments, in hexadecimal: proc_pid_syscall(5).
        let text = std::fs::read_to_string(format!("/proc/{process}/syscall")).ok()?;
        let mut words = text.split_ascii_whitespace();
        let call: i64 = words.next()?.parse().ok()?; // not while it runs
        let arguments: Vec<_> =
            words.map_while(|word| u64::from_str_radix(word.strip_prefix("0x")?, 16).ok()).collect();
        let no_limit = u64::from(u32::MAX);
        let waits = match call {
            libc::SYS_epoll_pwait => arguments.get(3)? & no_limit == no_limit,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_epoll_wait => arguments.get(3)? & no_limit == no_limit,
            #[cfg(target_arch = "x86_64")]
            libc::SYS_poll => arguments.get(2)? & no_limit == no_limit,
            libc::SYS_ppoll => *arguments.get(2)? == 0,
            _ => false,
        };
        waits.then_some(())
    });
}

/// Stops a process and waits until it is stopped.
#[track_caller]
pub(crate) fn freeze(process: Process) {
    process.signal(Signal::SIGSTOP).unwrap_or_else(|error| panic!("can't stop {process}: {error}"));
    wait_until(Deadline::default(), format!("process {process} to be stopped"), || {
        (process.state() == ProcessState::Stopped).then_some(())
    });
}

/// Continues a process.
#[track_caller]
pub(crate) fn thaw(process: Process) {
    process.signal(Signal::SIGCONT).unwrap_or_else(|error| panic!("can't continue {process}: {error}"));
}

/// Kills a process, if it still exists.
pub(crate) fn kill(process: Process) {
    let _ = process.signal(Signal::SIGKILL);
}

/// An HTTP server on `app.sock` under a psflip that the test may replace (`bin/psflip` is a symlink to it),
/// and clients that send requests without pause.
pub(crate) struct Service {
    pub(crate) probe: AvailabilityProbe,
    pub(crate) psflip: Psflip,
    pub(crate) sandbox: Sandbox,
}

/// Each server has a socket of its own for the health check. At `app.sock` the predecessor would pass the
/// check, and the new server might be promoted before it listens.
const SERVER: &[&str] =
    &["http-server", "--unix", "app.sock", "--probe", "{{ blue_green() }}.up", "--linger", "50ms"];
const SERVING: &str =
    "[healthcheck.unix]\npath = \"{{ blue_green() }}.up\"\ninterval = \"10ms\"\n[log]\nlevel = \"debug\"\n";

impl Service {
    /// Starts it and waits for the first answered requests.
    #[track_caller]
    pub(crate) fn start() -> Self {
        Self::start_as(|builder, _| builder)
    }

    /// Like [`Service::start`]. `prepare` changes how psflip is started.
    #[track_caller]
    pub(crate) fn start_as(prepare: impl FnOnce(PsflipBuilder, &Sandbox) -> PsflipBuilder) -> Self {
        let sandbox = Sandbox::new();
        std::fs::create_dir(sandbox.path("bin")).unwrap();
        std::os::unix::fs::symlink(psflip_bin(), sandbox.path("bin/psflip")).unwrap();
        let exe = sandbox.path("bin/psflip");
        let psflip = prepare(psflip(&sandbox, SERVER, SERVING).exe(exe), &sandbox).start().wait_ready();
        let socket = sandbox.path("app.sock");
        let probe = AvailabilityProbe::start(2, |_| {
            let mut client = HttpClient::unix(&socket);
            move || client.get("/")?.tag("pid")
        });
        probe.wait_requests(10);
        Self { probe, psflip, sandbox }
    }

    /// Sets the next generation's child and configuration.
    pub(crate) fn configure(&self, argv: &[&str], rest: &str) {
        configure(&self.sandbox, argv, &format!("{rest}[log]\nlevel = \"debug\"\n"));
    }

    /// Sets the next generation's configuration to the first one's.
    pub(crate) fn configure_well(&self) {
        configure(&self.sandbox, SERVER, SERVING);
    }

    /// Runs an upgrade that fails, and checks contract U8. Returns the log line with the reason.
    #[track_caller]
    pub(crate) fn fails(&self) -> Line {
        self.fails_by(|_, _| {})
    }

    /// Like [`Service::fails`]. `cause` is called with the old psflip and the mark of the output after the
    /// request.
    #[track_caller]
    pub(crate) fn fails_by(&self, cause: impl FnOnce(Process, usize)) -> Line {
        let (old, child) = (self.psflip.active(), self.psflip.child());
        let mark = self.psflip.output().mark();
        self.psflip.request_flip();
        cause(old, mark);
        let line = self.psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
        assert!(line.text.contains("the old child keeps running"), "{line}\n{}", self.sandbox.report());
        self.wait_alone(old, child);
        line
    }

    /// Waits until only one generation is left, and asserts that it is this one and that the pidfile names
    /// it.
    #[track_caller]
    pub(crate) fn wait_alone(&self, psflip: Process, child: Process) {
        wait_until(Deadline::default(), "only one psflip, keeper and child to be left", || {
            (self.sandbox.processes().len() == 3).then_some(())
        });
        let report = || self.sandbox.report();
        assert!(psflip.is_alive() && child.is_alive(), "psflip {psflip}, child {child}\n{}", report());
        assert_eq!(self.psflip.active(), psflip, "{}", report());
        assert_eq!(self.psflip.child(), child, "{}", report());
    }

    /// The next upgrade works at once, and no request was lost since the start.
    #[track_caller]
    pub(crate) fn succeeds(&self) {
        self.configure_well();
        self.psflip.flip();
        self.probe.wait_requests(10);
    }

    /// Like [`Service::succeeds`], then stops the service: nothing is left, and no request was lost.
    #[track_caller]
    pub(crate) fn succeeds_and_ends(self) {
        self.succeeds();
        self.ends();
    }

    /// Stops the service: no request was lost, and nothing is left.
    #[track_caller]
    pub(crate) fn ends(self) {
        let Self { probe, psflip, sandbox } = self;
        probe.wait_requests(10);
        probe.finish().assert_no_failures();
        let status = psflip.stop();
        assert!(status.success(), "{status}\n{}", sandbox.report());
        assert!(!psflip.pidfile_path().exists(), "{}", sandbox.report());
        sandbox.assert_no_process_left();
    }
}

/// Stops the service. A child that is healthy at once may get the signal before it handles it.
#[track_caller]
pub(crate) fn stop(psflip: &Psflip) {
    let status = psflip.stop();
    assert!(status.success() || status.signal() == Some(15), "exited with {status}:\n{}", psflip.log());
}

/// A service after an upgrade, with an old generation that drains. Holds the first and the second psflip.
pub(crate) struct Draining {
    pub(crate) psflip: Psflip,
    pub(crate) old: Process,
    pub(crate) new: Process,
    pub(crate) old_child: Process,
}

/// Upgrades from this child to a `signal-logger`, both healthy at once. `rest` and `rest_of_new` are the rest
/// of their configurations.
#[track_caller]
pub(crate) fn flip_to_logger(sandbox: &Sandbox, argv: &[&str], rest: &str, rest_of_new: &str) -> Draining {
    let psflip = psflip(sandbox, argv, &format!("{AT_ONCE}{rest}")).start().wait_ready();
    psflip.wait_for_line(Stream::Stdout, "name=gen1");
    let (old, old_child) = (psflip.active(), psflip.child());
    configure(sandbox, &["signal-logger"], &format!("{AT_ONCE}{rest_of_new}"));
    psflip.request_flip();
    let new = psflip.wait_successor(old);
    psflip.wait_for_line(Stream::Stdout, "name=gen2");
    psflip.wait_for_line(Stream::Stderr, "new generation took over");
    Draining { psflip, old, new, old_child }
}

/// How psflip names this test process as the sender of a signal.
pub(crate) fn own_name() -> String {
    let uid = nix::unistd::getuid();
    let user = if uid.is_root() { "root".to_owned() } else { format!("uid {uid}") };
    format!("pid {} ({user})", std::process::id())
}
