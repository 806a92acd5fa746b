//! The configuration of the next generation, and the expected result of an undisturbed upgrade to it.

use std::fmt;
use std::path::Path;

use fastrand::Rng;

use crate::manner::{Manner, ONCE};
use crate::plan::Flavour;

/// A configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// A server on which clients can rely.
    Good(Good),
    /// A configuration that can't be promoted.
    Bad(Bad),
    /// A program that becomes healthy but doesn't serve: clients find no server until it is replaced.
    Idle(Idle),
    /// A good configuration that is written slowly, in place: so many permille of the file exist when the
    /// upgrade is requested.
    Half(Good, u16),
}

/// The parameters of a good configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Good {
    /// Whether the health check requests an answer on the generation's own socket, or only connects to the
    /// public socket.
    by_answer: bool,
    successes: u8,
    /// The health check's `after` in milliseconds: the time during which both children run before the
    /// promotion.
    after: u16,
    /// `shutdown.delay` in milliseconds.
    delay: u16,
    /// `upgrade.bake` in milliseconds, in rounds with bakes.
    bake: u16,
    /// Whether psflip logs at level `debug`.
    debug: bool,
    hook: Hook,
}

/// The hooks of a configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    None,
    /// All hooks, each returning at once.
    Quick,
    /// `hooks.promote` takes 40 ms.
    Slow,
    /// `hooks.promoted` and `hooks.failed` fail, which must not matter.
    FailsLater,
    /// `hooks.promoted` and `hooks.failed` hang, and are killed.
    HangsLater,
}

impl Hook {
    fn text(self) -> &'static str {
        match self {
            Self::None => "",
            Self::Quick => {
                "hooks.promote = [\"true\"]\nhooks.promoted = [\"true\"]\nhooks.failed = [\"true\"]\nhooks.rolled_back = [\"true\"]\n"
            }
            Self::Slow => "hooks.promote = [\"sleep\", \"0.04\"]\n",
            Self::FailsLater => {
                "hooks.promoted = [\"false\"]\nhooks.failed = [\"./no-such-program\"]\nhooks.rolled_back = [\"false\"]\n"
            }
            Self::HangsLater => {
                "hooks.promoted = [\"sh\", \"-c\", \"sleep 900 & wait\"]\nhooks.failed = [\"sleep\", \"900\"]\nhooks.timeout = \"100ms\"\n"
            }
        }
    }
}

/// Why a configuration can't be promoted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    Syntax,
    UnknownKey,
    NoUnit,
    Template,
    NoFile,
    NoCommand,
    NotExecutable,
    NoWorkdir,
    NoPidfileFolder,
    Crash(u8),
    CrashBySignal,
    CrashLate(u8),
    ExitsZero,
    Daemonizes,
    NeverHealthy,
    NeverHealthyAndStubborn,
    NeverHealthyWithWorkers,
    /// For root only: for other users the program fails.
    NeverHealthyAsAnotherUser,
    ProbeHangs,
    HookFails,
    HookHangs,
    /// It serves, and its health check fails as soon as it has the traffic. Only in rounds with bakes.
    SickInBake,
}

/// A program that becomes healthy but doesn't serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Idle {
    SlowStart,
    Stubborn,
    Workers,
    StubbornOrphans,
    WorkersOfAnotherUser,
    AnotherUser,
    SignalLogger,
}

/// The expected result of an undisturbed upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expected {
    /// The new generation is promoted.
    Promoted,
    /// The upgrade fails, and the new psflip exits like this.
    Fails(ExpectedExit),
    /// Both are possible.
    Either,
}

/// How a psflip exits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ExpectedExit {
    /// With this exit code.
    Code(u8),
    /// Terminated by SIGSEGV.
    Segv,
}

impl Next {
    pub(crate) fn roll(dice: &mut Rng) -> Self {
        match dice.u8(..100) {
            0..=44 => Self::Good(Good::roll(dice)),
            45..=79 => Self::Bad(Bad::roll(dice)),
            80..=92 => Self::Idle(Idle::roll(dice)),
            _ => Self::Half(Good::roll(dice), dice.u16(..1000)),
        }
    }

    /// The expected result.
    pub(crate) fn expected(&self) -> Expected {
        match self {
            Self::Good(_) | Self::Idle(_) => Expected::Promoted,
            Self::Bad(bad) => Expected::Fails(bad.ends()),
            Self::Half(..) => Expected::Either,
        }
    }

    /// The text of the file; `None` if there is to be no file.
    pub(crate) fn text(&self, surroundings: &Surroundings<'_>) -> Option<String> {
        match self {
            Self::Good(good) | Self::Half(good, _) => Some(good.text(surroundings)),
            Self::Bad(bad) => bad.text(surroundings),
            Self::Idle(idle) => Some(idle.text(surroundings)),
        }
    }
}

/// The paths and addresses that a configuration contains.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Surroundings<'a> {
    pub(crate) flavour: Flavour,
    /// The TCP port of [`Flavour::ReusePort`].
    pub(crate) port: u16,
    /// The folder of the fixtures.
    pub(crate) fixtures: &'a Path,
    /// Whether every configuration has a `[switch]`.
    pub(crate) switches: bool,
    pub(crate) manner: Manner,
}

/// The symlink of every configuration: its target names the slot of the generation that has repointed it.
const SWITCH: &str = "switch.symlink = { path = \"current\", to = \"{{ ab('slot-a', 'slot-b') }}\" }\n";

impl Surroundings<'_> {
    /// `cmd` comes last in every file, so that a part of a file is never a valid configuration.
    fn file(&self, keys: &str, argv: &[&str]) -> String {
        let program = if argv[0].contains('/') || argv[0] == "sh" {
            argv[0].to_owned()
        } else {
            self.fixtures.join(argv[0]).to_string_lossy().into_owned()
        };
        let argv: Vec<String> = std::iter::once(program.as_str())
            .chain(argv[1..].iter().copied())
            .map(|arg| format!("{arg:?}"))
            .collect();
        let (wrapped, manner) = match self.manner {
            // Without the wrapper, psflip itself finds that the program can't be executed.
            Manner::Alone if !argv[0].starts_with('.') => {
                (format!("\"sh\", \"-c\", {ONCE:?}, \"once\", "), "upgrade.overlap = false\n")
            }
            Manner::Alone => (String::new(), "upgrade.overlap = false\n"),
            Manner::Drains => (String::new(), "upgrade.draining = 7\n"),
            Manner::Bakes | Manner::Overlaps => (String::new(), ""),
        };
        let pidfile = if keys.contains("pidfile =") { "" } else { "pidfile = \"psflip.pid\"\n" };
        let switch = if self.switches { SWITCH } else { "" };
        // psflip can give back only what goes through it.
        let moves =
            ["listen =", "proxy =", "switch."].iter().any(|key| keys.contains(key) || switch.contains(key));
        let bake = match self.manner {
            Manner::Bakes if moves && !keys.contains("upgrade.bake") => "upgrade.bake = \"60ms\"\n",
            _ => "",
        };
        format!("{pidfile}{switch}{manner}{bake}{keys}cmd = [{wrapped}{}]\n", argv.join(", "))
    }
}

/// The server's own socket behind a `[[proxy]]`.
const OWN: &str = "own-{{ generation() }}.sock";

impl Good {
    pub(crate) fn roll(dice: &mut Rng) -> Self {
        Self {
            by_answer: dice.bool(),
            successes: dice.u8(1..=3),
            after: *dice.choice(&[0, 0, 20, 60, 200]).unwrap_or(&0),
            delay: *dice.choice(&[0, 0, 0, 30, 120]).unwrap_or(&0),
            bake: *dice.choice(&[20, 80, 80, 300]).unwrap_or(&80),
            debug: dice.u8(..4) > 0,
            hook: *dice
                .choice(&[
                    Hook::None,
                    Hook::None,
                    Hook::Quick,
                    Hook::Slow,
                    Hook::FailsLater,
                    Hook::HangsLater,
                ])
                .unwrap_or(&Hook::None),
        }
    }

    /// The configuration at the start of a round, and of the good upgrade between two steps.
    pub(crate) const PLAIN: Self =
        Self { by_answer: false, successes: 1, after: 0, delay: 0, bake: 60, debug: true, hook: Hook::None };

    fn text(self, surroundings: &Surroundings<'_>) -> String {
        self.text_with(surroundings, None)
    }

    /// `sick`: the health check, if not the usual one. Nothing but this check ends its bake.
    fn text_with(self, surroundings: &Surroundings<'_>, sick: Option<&str>) -> String {
        let Self { by_answer, successes, after, delay, bake, debug, hook } = self;
        let bake = match surroundings.manner {
            Manner::Bakes if sick.is_some() => "upgrade.bake = \"1h\"\n".to_owned(),
            Manner::Bakes => format!("upgrade.bake = \"{bake}ms\"\n"),
            Manner::Overlaps | Manner::Alone | Manner::Drains => String::new(),
        };
        // So that several drain at the same time.
        let delay = if surroundings.manner == Manner::Drains { 5 * delay } else { delay };
        let (level, probe) = (if debug { "debug" } else { "info" }, "probe-{{ generation() }}.sock");
        let port = format!("127.0.0.1:{}", surroundings.port);
        let mut argv = match surroundings.flavour {
            Flavour::Http => vec!["http-server", "--unix", "app.sock"],
            Flavour::FastCgi => vec!["fcgi-server", "--socket", "app.sock"],
            Flavour::ReusePort => vec!["http-server", "--reuseport", "--tcp", &port],
            Flavour::Inherited => vec!["http-server", "--inherit", "listen_fds"],
            Flavour::Proxied => vec!["http-server", "--unix", OWN],
        };
        // `reuseport`, because the harness reserves the port with a socket of its own.
        let listen = match surroundings.flavour {
            Flavour::Inherited => format!("listen = [{{ address = \"tcp://{port}\", reuseport = true }}]\n"),
            Flavour::Proxied => format!(
                "proxy = [{{ listen = \"unix://app.sock\", forward = \"unix://{OWN}\", protocol = \"http\", drain = \"3s\" }}]\n"
            ),
            Flavour::Http | Flavour::FastCgi | Flavour::ReusePort => String::new(),
        };
        argv.extend(["--probe", probe]);
        argv.extend(match surroundings.flavour {
            Flavour::Proxied => ["--linger", "0s", "--drain", "0s"],
            Flavour::Http | Flavour::FastCgi | Flavour::ReusePort | Flavour::Inherited => {
                ["--linger", "50ms", "--drain", "3s"]
            }
        });
        let (kind, target) = match surroundings.flavour {
            Flavour::FastCgi if by_answer => {
                ("fcgi", format!("address = \"unix://{probe}\", script = \"/up\""))
            }
            _ if by_answer => ("http", format!("url = \"unix://{probe}:/up\"")),
            Flavour::ReusePort | Flavour::Inherited | Flavour::Proxied => {
                ("unix", format!("path = \"{probe}\""))
            }
            Flavour::Http | Flavour::FastCgi => ("unix", "path = \"app.sock\"".to_owned()),
        };
        let check = format!(
            "healthcheck.{kind} = {{ {target}, interval = \"10ms\", successes = {successes}, after = \"{after}ms\" }}\n"
        );
        let check = sick.map_or(check, str::to_owned);
        let server = surroundings.fixtures.join(argv[0]).to_string_lossy().into_owned();
        if sick.is_some() {
            argv[0] = &server;
            argv.splice(..0, ["sh", "-c", "rm -f sick-$PSFLIP_GENERATION; exec \"$@\"", "sick"]);
        }
        surroundings.file(
            &format!(
                "{listen}{check}{hook}{bake}upgrade.timeout = \"30s\"\nshutdown.delay = \"{delay}ms\"\nlog.level = \"{level}\"\n",
                hook = hook.text()
            ),
            &argv,
        )
    }
}

impl Bad {
    pub(crate) fn roll(dice: &mut Rng) -> Self {
        match dice.u8(..21) {
            0 => Self::Syntax,
            1 => Self::UnknownKey,
            2 => Self::NoUnit,
            3 => Self::Template,
            4 => Self::NoFile,
            5 => Self::NoCommand,
            6 => Self::NotExecutable,
            7 => Self::NoWorkdir,
            8 => Self::NoPidfileFolder,
            9 => Self::Crash(dice.u8(1..)),
            10 => Self::CrashBySignal,
            11 => Self::CrashLate(dice.u8(1..)),
            12 => Self::ExitsZero,
            13 => Self::Daemonizes,
            14 => Self::NeverHealthy,
            15 => Self::NeverHealthyAndStubborn,
            16 => Self::NeverHealthyWithWorkers,
            17 => Self::NeverHealthyAsAnotherUser,
            18 => Self::HookFails,
            19 => Self::HookHangs,
            _ => Self::ProbeHangs,
        }
    }

    /// Contract C6: the exit code.
    pub(crate) fn ends(self) -> ExpectedExit {
        ExpectedExit::Code(match self {
            Self::Syntax | Self::UnknownKey | Self::NoUnit | Self::Template | Self::NoFile => 78,
            Self::NoCommand => 127,
            Self::NotExecutable => 126,
            Self::NoWorkdir | Self::NoPidfileFolder | Self::HookFails | Self::HookHangs => 125,
            Self::Crash(code) | Self::CrashLate(code) => code,
            Self::CrashBySignal => return ExpectedExit::Segv,
            Self::ExitsZero => 1,
            Self::Daemonizes => 7,
            Self::NeverHealthy
            | Self::NeverHealthyAndStubborn
            | Self::NeverHealthyWithWorkers
            | Self::NeverHealthyAsAnotherUser
            | Self::ProbeHangs
            | Self::SickInBake => 124,
        })
    }

    fn text(self, surroundings: &Surroundings<'_>) -> Option<String> {
        const NEVER: &str = "healthcheck.unix.path = \"never.sock\"\nhealthcheck.unix.interval = \"20ms\"\nupgrade.timeout = \"250ms\"\nshutdown.timeout = \"200ms\"\nlog.level = \"debug\"\n";
        const PATIENT: &str = "healthcheck.unix.path = \"never.sock\"\nupgrade.timeout = \"30s\"\nshutdown.timeout = \"300ms\"\nlog.level = \"debug\"\n";
        const AT_ONCE: &str = "healthcheck.alive.timeout = \"0s\"\nupgrade.timeout = \"30s\"\nshutdown.timeout = \"300ms\"\nlog.level = \"debug\"\n";
        let idle = ["never-ready"];
        Some(match self {
            Self::Syntax => "pidfile = \"psflip.pid\"\ncmd = [\"true\"\n[shutdown\n".to_owned(),
            Self::UnknownKey => surroundings.file("shutdown.timout = \"1s\"\n", &idle),
            Self::NoUnit => surroundings.file("shutdown.timeout = 5\n", &idle),
            Self::Template => surroundings.file("env.A = \"{{ local('nowhere') }}\"\n", &idle),
            Self::NoFile => return None,
            Self::NoCommand => surroundings.file(PATIENT, &["./no-such-program"]),
            Self::NotExecutable => surroundings.file(PATIENT, &["./psflip.toml"]),
            Self::NoWorkdir => surroundings.file(&format!("{PATIENT}workdir = \"no-such-folder\"\n"), &idle),
            Self::NoPidfileFolder => {
                surroundings.file(&format!("{PATIENT}pidfile = \"no-such-folder/psflip.pid\"\n"), &idle)
            }
            Self::Crash(code) => surroundings.file(PATIENT, &["crash-on-init", "--code", &code.to_string()]),
            Self::CrashBySignal => surroundings.file(PATIENT, &["crash-on-init", "--signal", "SEGV"]),
            Self::CrashLate(code) => {
                surroundings.file(PATIENT, &["crash-on-init", "--code", &code.to_string(), "--after", "40ms"])
            }
            Self::ExitsZero => surroundings.file(PATIENT, &["crash-on-init", "--code", "0"]),
            Self::Daemonizes => surroundings.file(PATIENT, &["sh", "-c", "setsid sleep 900 & exit 7"]),
            Self::HookFails => {
                let hook = "hooks.promote = [\"sh\", \"-c\", \"sleep 900 & echo no >&2; exit 3\"]\n";
                surroundings.file(&format!("{AT_ONCE}{hook}"), &idle)
            }
            Self::HookHangs => {
                let hook = "hooks.promote = [\"sh\", \"-c\", \"trap '' TERM; sleep 900 & wait; exit 1\"]\nhooks.timeout = \"120ms\"\n";
                surroundings.file(&format!("{AT_ONCE}{hook}"), &idle)
            }
            Self::NeverHealthy => surroundings.file(NEVER, &idle),
            Self::NeverHealthyAndStubborn => surroundings.file(NEVER, &["ignore-sigterm"]),
            Self::NeverHealthyWithWorkers => surroundings.file(
                NEVER,
                &["forks-workers", "--workers", "2", "--orphans", "1", "--setsid", "--ignore-term"],
            ),
            Self::NeverHealthyAsAnotherUser if is_root() => surroundings.file(
                NEVER,
                &[
                    "forks-workers",
                    "--workers",
                    "1",
                    "--uid",
                    "65534",
                    "--main-uid",
                    "65534",
                    "--ignore-term",
                ],
            ),
            Self::NeverHealthyAsAnotherUser => surroundings.file(NEVER, &["forks-workers"]),
            // The first probe of each child succeeds.
            Self::SickInBake => {
                let check = "test -e sick-{{ generation() }} && exit 1; test -S probe-{{ generation() }}.sock && : > sick-{{ generation() }}";
                let check = format!(
                    "healthcheck.command = {{ cmd = [\"sh\", \"-c\", {check:?}], interval = \"10ms\", failures = 2 }}\n"
                );
                Good::PLAIN.text_with(surroundings, Some(&check))
            }
            Self::ProbeHangs => {
                let probe = surroundings.fixtures.join("probe-hang");
                let check = format!(
                    "healthcheck.command.cmd = [{:?}]\nhealthcheck.command.timeout = \"60ms\"\nhealthcheck.command.interval = \"10ms\"\n",
                    probe.to_string_lossy()
                );
                surroundings.file(
                    &format!("{check}upgrade.timeout = \"250ms\"\nshutdown.timeout = \"200ms\"\nlog.level = \"debug\"\n"),
                    &idle,
                )
            }
        })
    }
}

impl Idle {
    fn roll(dice: &mut Rng) -> Self {
        match dice.u8(..7) {
            0 => Self::SlowStart,
            1 => Self::Stubborn,
            2 => Self::Workers,
            3 => Self::StubbornOrphans,
            4 => Self::WorkersOfAnotherUser,
            5 => Self::AnotherUser,
            _ => Self::SignalLogger,
        }
    }

    fn text(self, surroundings: &Surroundings<'_>) -> String {
        const AT_ONCE: &str = "healthcheck.alive.timeout = \"0s\"\nupgrade.timeout = \"30s\"\nshutdown.timeout = \"250ms\"\nlog.level = \"debug\"\n";
        const LISTENS: &str = "healthcheck.unix.path = \"slow.sock\"\nhealthcheck.unix.interval = \"10ms\"\nupgrade.timeout = \"30s\"\nshutdown.timeout = \"2s\"\nlog.level = \"debug\"\n";
        match self {
            Self::SlowStart => {
                surroundings.file(LISTENS, &["slow-start", "--for", "60ms", "--listen", "slow.sock"])
            }
            Self::Stubborn => surroundings.file(AT_ONCE, &["ignore-sigterm"]),
            Self::Workers => surroundings.file(AT_ONCE, &["forks-workers", "--workers", "3"]),
            Self::StubbornOrphans => surroundings.file(
                AT_ONCE,
                &["forks-workers", "--workers", "1", "--orphans", "2", "--setsid", "--ignore-term"],
            ),
            // Only root may change to another user; otherwise the program would exit early, so it isn't used.
            Self::WorkersOfAnotherUser if is_root() => surroundings
                .file(AT_ONCE, &["forks-workers", "--workers", "2", "--orphans", "1", "--uid", "65534"]),
            Self::AnotherUser if is_root() => surroundings
                .file(AT_ONCE, &["forks-workers", "--workers", "2", "--uid", "65534", "--main-uid", "65534"]),
            Self::WorkersOfAnotherUser | Self::AnotherUser => surroundings.file(AT_ONCE, &["forks-workers"]),
            Self::SignalLogger => surroundings.file(AT_ONCE, &["signal-logger"]),
        }
    }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

impl fmt::Display for Next {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good(good) => write!(f, "{good}"),
            Self::Bad(bad) => write!(f, "bad configuration {bad:?}"),
            Self::Idle(idle) => write!(f, "idle child {idle:?}"),
            Self::Half(good, permille) => write!(f, "half-written ({permille} of 1000) {good}"),
        }
    }
}

impl fmt::Display for Good {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by_answer, successes, after, delay, bake, debug, hook } = self;
        let check = if *by_answer { "answer" } else { "connect" };
        let level = if *debug { "debug" } else { "info" };
        write!(
            f,
            "good server ({check} x {successes} after {after} ms, delay {delay} ms, bake {bake} ms, {level}, hooks {hook:?})"
        )
    }
}
