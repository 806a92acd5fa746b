//! The messages that psflip sends to `NOTIFY_SOCKET`. The service manager must always know the service's main
//! process: [`Systemd`] tracks it by systemd's rules.

mod failures;
mod killed;
mod stops;
mod unreachable;
mod upgrades;
mod watchdog;

use testkit::notify::Notice;
use testkit::{NotifyManager, Process, Psflip, PsflipBuilder, Sandbox};

use crate::service::{AT_ONCE, configure, psflip, stop};

/// The state that systemd derives from the datagrams, with `NotifyAccess=main`.
#[derive(Debug)]
struct Systemd {
    main: u32,
    ready: bool,
    reloading: bool,
    stopping: bool,
    status: String,
}

impl Systemd {
    /// Applies all notifications, beginning with the first process.
    #[track_caller]
    fn follow(first: u32, notices: &[Notice]) -> Self {
        let all = || {
            notices.iter().map(|notice| format!("{}: {:?}\n", notice.pid, notice.text)).collect::<String>()
        };
        let mut seen =
            Self { main: first, ready: false, reloading: false, stopping: false, status: String::new() };
        for notice in notices {
            assert_eq!(notice.pid, seen.main, "only the main process is believed:\n{}", all());
            assert!(
                !seen.stopping || !notice.has("READY=1"),
                "no other state follows `STOPPING=1`:\n{}",
                all()
            );
            let says = |line| usize::from(notice.has(line));
            let states = says("READY=1") + says("RELOADING=1") + says("STOPPING=1");
            assert!(states <= 1, "versions of systemd differ in what counts of several:\n{}", all());
            assert!(notice.text.len() < 4096);
            if notice.has("RELOADING=1") {
                assert!(seen.ready && !seen.reloading, "{}", all());
                assert!(notice.value("MONOTONIC_USEC").is_some(), "{}", all());
                seen.reloading = true;
            }
            if notice.has("READY=1") {
                (seen.ready, seen.reloading) = (true, false);
            }
            seen.stopping |= notice.has("STOPPING=1");
            if let Some(pid) = notice.value("MAINPID") {
                seen.main = pid.parse().unwrap();
            }
            if let Some(status) = notice.value("STATUS") {
                seen.status = status.to_owned();
            }
        }
        seen
    }
}

/// The kinds of all notifications, each with its sender's number in the order of appearance: `1 READY`.
fn kinds(notices: &[Notice]) -> Vec<String> {
    let mut pids: Vec<u32> = Vec::new();
    let mut kinds = Vec::new();
    for notice in notices {
        if !pids.contains(&notice.pid) {
            pids.push(notice.pid);
        }
        let place = pids.iter().position(|pid| *pid == notice.pid).unwrap() + 1;
        let name = |line: &str| line.split('=').next().unwrap_or_default().to_owned();
        let states = [
            "MAINPID",
            "READY",
            "RELOADING",
            "STOPPING",
            "WATCHDOG",
            "FDSTORE",
            "FDSTOREREMOVE",
            "EXIT_STATUS",
        ];
        let found: Vec<String> =
            notice.text.lines().map(name).filter(|name| states.contains(&name.as_str())).collect();
        let what = if found.is_empty() { "-".to_owned() } else { found.join("+") };
        kinds.push(format!("{place} {what}"));
    }
    kinds
}

/// A service manager in the sandbox, and a psflip that it has started.
struct Managed {
    manager: NotifyManager,
    psflip: Psflip,
    sandbox: Sandbox,
}

/// The builder of a psflip with a service manager at `notify`.
fn told(sandbox: &Sandbox, argv: &[&str], rest: &str) -> PsflipBuilder {
    psflip(sandbox, argv, rest).env("NOTIFY_SOCKET", sandbox.path("notify"))
}

impl Managed {
    /// A service that has notified the manager that it is ready.
    #[track_caller]
    fn start(argv: &[&str], rest: &str) -> Self {
        Self::start_as(argv, rest, |builder| builder)
    }

    #[track_caller]
    fn start_as(argv: &[&str], rest: &str, prepare: impl FnOnce(PsflipBuilder) -> PsflipBuilder) -> Self {
        let sandbox = Sandbox::new();
        let manager = NotifyManager::bind(&sandbox.path("notify"));
        let psflip = prepare(told(&sandbox, argv, rest)).start().wait_ready();
        manager.wait("READY=1");
        Self { manager, psflip, sandbox }
    }

    /// The state that systemd would have now.
    #[track_caller]
    fn believed(&self) -> Systemd {
        Systemd::follow(self.psflip.first_pid(), &self.manager.notices())
    }

    /// Waits until the notifications so far have led systemd to that state.
    #[track_caller]
    fn wait_believed(&self, what: &str, check: impl Fn(&Systemd) -> bool) -> Systemd {
        self.manager.wait_for(what, |notices| {
            Some(Systemd::follow(self.psflip.first_pid(), notices)).filter(|seen| check(seen))
        })
    }

    /// An upgrade that succeeds. The new generation has sent its notification, and the old one is gone.
    #[track_caller]
    fn flip(&self) -> Process {
        self.psflip.flip();
        let new = self.psflip.active();
        self.wait_believed("the new generation to be alone", |seen| {
            seen.main == new.pid()
                && !seen.reloading
                && !seen.status.contains("drains")
                && seen.status.contains("healthy since")
        });
        new
    }

    /// Sets the next generation's child.
    fn configure(&self, argv: &[&str], rest: &str) {
        configure(&self.sandbox, argv, rest);
    }

    /// Stops the service by a stop request.
    #[track_caller]
    fn ends(&self) -> Systemd {
        stop(&self.psflip);
        self.sandbox.assert_no_process_left();
        let seen = self.wait_believed("the service to be stopping", |seen| seen.stopping);
        assert!(seen.status.contains("the child has exited"), "{seen:?}");
        seen
    }
}
