//! The state of a round: a sandbox, the psflip in it, and what is known of its processes.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use testkit::process::{ProcessState, Stat};
use testkit::{Process, Psflip, Sandbox, Signal};

use crate::clients::Client;
use crate::load::Load;
use crate::log::{Log, LogEvent};
use crate::manner::Manner;
use crate::next_config::{Next, Surroundings};
use crate::operators::Operators;
use crate::parent::Above;
use crate::pause::{Interrupt, pause};
use crate::plan::{Binary, Flavour, Part, Role, Round, Side};
use crate::port::Port;
use crate::report::{Halt, Tally, Timeline};

/// The shortest and the longest pause between two looks.
const PAUSES: (Duration, Duration) = (Duration::from_micros(150), Duration::from_millis(6));

/// The paths of the programs under test.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) psflip: PathBuf,
    pub(crate) fixtures: PathBuf,
}

/// The state of a round.
pub(crate) struct World {
    // Declared first, so that the clients are dropped before the service.
    pub(crate) load: Load,
    pub(crate) operators: Operators,
    pub(crate) service: Option<Service>,
    pub(crate) sandbox: Sandbox,
    pub(crate) programs: Programs,
    pub(crate) flavour: Flavour,
    pub(crate) above: Above,
    pub(crate) manner: Manner,
    pub(crate) switches: bool,
    pub(crate) port: Port,
    pub(crate) timeline: Timeline,
    pub(crate) tally: Tally,
    pub(crate) interrupt: Interrupt,
    /// Processes that this round has killed or stopped.
    pub(crate) killed: HashSet<Process>,
    /// Processes that should exit, and how long to wait for it: some ignore a stop.
    pub(crate) doomed: Vec<(Process, Instant)>,
    /// Signals of this step that the receiver will log: the receiver, the position in the log, and the
    /// expected event.
    pub(crate) sent: Vec<(Process, usize, LogEvent)>,
    /// The operators' commands of this step.
    pub(crate) clients: Vec<Client>,
    frozen: Vec<(Instant, Process)>,
    copies: u64,
}

/// A started psflip and its successors.
pub(crate) struct Service {
    pub(crate) psflip: Psflip,
    /// The active psflip, and its child, when everything was last at rest.
    pub(crate) active: Process,
    pub(crate) child: Process,
    /// The descriptors of a psflip at rest, counted by kind.
    pub(crate) descriptors: BTreeMap<String, usize>,
    /// Those of the process above and of its keeper.
    pub(crate) descriptors_above: Vec<BTreeMap<String, usize>>,
    pub(crate) log: Log,
    /// The number of the last upgrade when everything was last at rest.
    pub(crate) upgrade: u64,
    /// The pidfile was removed, so it may be missing until a new one is written.
    pub(crate) pidfile_removed: bool,
}

impl World {
    pub(crate) fn new(
        round: &Round,
        seed: u64,
        programs: &Programs,
        interrupt: &Interrupt,
    ) -> Result<Self, crate::Error> {
        let sandbox = Sandbox::new();
        let port = Port::reserve()?;
        let load = Load::start(round.flavour, &sandbox.path("app.sock"), port.number());
        let operators = Operators::start(&sandbox.path("psflip.pid.sock"), seed);
        for folder in ["bin/real", "slot-a", "slot-b"] {
            fs::create_dir_all(sandbox.path(folder))?;
        }
        let world = Self {
            load,
            operators,
            service: None,
            sandbox,
            programs: programs.clone(),
            flavour: round.flavour,
            above: round.above,
            manner: round.manner,
            switches: round.switches,
            port,
            timeline: Timeline::new(),
            tally: Tally::default(),
            interrupt: interrupt.clone(),
            killed: HashSet::new(),
            doomed: Vec::new(),
            sent: Vec::new(),
            clients: Vec::new(),
            frozen: Vec::new(),
            copies: 0,
        };
        world.prepare_binaries()?;
        Ok(world)
    }

    /// The path by which psflip is started, and executed at every upgrade.
    pub(crate) fn psflip_path(&self) -> PathBuf {
        self.sandbox.path("bin/psflip")
    }

    /// Creates the files that [`World::install`] moves to psflip's path.
    fn prepare_binaries(&self) -> io::Result<()> {
        let bin = self.sandbox.path("bin");
        for name in ["copy-0", "copy-1", "plain"] {
            fs::copy(&self.programs.psflip, bin.join(name))?;
        }
        fs::set_permissions(bin.join("plain"), fs::Permissions::from_mode(0o644))?;
        let wrapper = format!("exec {} \"$@\"", bin.join("real/psflip").display());
        for (name, line) in
            [("wrapper", wrapper.as_str()), ("script", "exit 3"), ("crash", "ulimit -c 0; kill -SEGV $$")]
        {
            fs::write(bin.join(name), format!("#!/bin/sh\n{line}\n"))?;
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755))?;
        }
        Ok(())
    }

    /// Replaces the file at psflip's path by rename. A psflip that the wrapper has executed knows itself by
    /// the wrapped path, so that path gets a matching file.
    pub(crate) fn install(&mut self, binary: Binary) -> Result<(), Halt> {
        self.copies += 1;
        let copy = format!("copy-{}", self.copies % 2);
        let (outer, inner) = match binary {
            Binary::Copy => (Some(copy.as_str()), Some(copy.as_str())),
            Binary::Wrapper => (Some("wrapper"), Some(copy.as_str())),
            Binary::NotExecutable => (Some("plain"), Some("plain")),
            Binary::Script => (Some("script"), Some("script")),
            Binary::Crash => (Some("crash"), Some("crash")),
            Binary::Missing => (None, None),
        };
        self.place(inner, "real/psflip")
            .and_then(|()| self.place(outer, "psflip"))
            .map_err(|error| Halt::Violation(format!("the harness can't install {binary:?}: {error}")))
    }

    fn place(&self, source: Option<&str>, target: &str) -> io::Result<()> {
        let bin = self.sandbox.path("bin");
        let (target, link) = (bin.join(target), bin.join("psflip.new"));
        let Some(source) = source else {
            let _ = fs::remove_file(target); // it may not exist
            return Ok(());
        };
        fs::hard_link(bin.join(source), &link)?;
        fs::rename(&link, target)?;
        let _ = fs::remove_file(link); // rename(2) does nothing if both are links to the same file
        Ok(())
    }

    /// The path of the configuration.
    pub(crate) fn config_path(&self) -> PathBuf {
        self.sandbox.path("psflip.toml")
    }

    pub(crate) fn text_of(&self, next: &Next) -> Option<String> {
        next.text(&Surroundings {
            flavour: self.flavour,
            port: self.port.number(),
            fixtures: &self.programs.fixtures,
            switches: self.switches,
            manner: self.manner,
        })
    }

    /// Writes the configuration of the next generation. Returns the complete text if only a part of it was
    /// written.
    pub(crate) fn configure(&mut self, next: &Next) -> Result<Option<String>, Halt> {
        let path = self.config_path();
        let wrong = |error: io::Error| {
            Halt::Violation(format!("the harness can't write `{}`: {error}", path.display()))
        };
        let Some(text) = self.text_of(next) else {
            let _ = fs::remove_file(&path); // it may not exist
            return Ok(None);
        };
        if let Next::Half(_, permille) = next {
            let half = (text.len() - 3) * usize::from(*permille) / 1000;
            fs::write(&path, &text[..half]).map_err(wrong)?;
            return Ok(Some(text));
        }
        self.sandbox.write("psflip.toml", text);
        Ok(None)
    }

    /// The started process, if it stays above the generations. It may have exited.
    pub(crate) fn above_process(&self) -> Option<Process> {
        let service = self.service.as_ref().filter(|_| self.above != Above::Nobody)?;
        Some(service.psflip.program().first())
    }

    /// The keeper of `psflip watch`.
    pub(crate) fn above_keeper(&self) -> Option<Process> {
        let watch = self.above_process().filter(|_| self.above == Above::Watch)?;
        children_of(watch).into_iter().find(|stat| stat.name == "psflip: keeper").map(|stat| stat.process)
    }

    /// The living psflips, oldest first: the processes of this name whose parent is this process or the
    /// process above. The first one was started there, and a successor is reparented to the service manager
    /// (contract U10).
    pub(crate) fn psflips(&self) -> Vec<Stat> {
        let above = self.above_process();
        let mut parents = vec![Process::current()];
        parents.extend(above);
        parents.extend(self.above_keeper());
        let stats = parents.into_iter().flat_map(children_of);
        let mut found: Vec<Stat> =
            stats.filter(|stat| stat.name == "psflip" && Some(stat.process) != above).collect();
        found.sort_by_key(|stat| (stat.process.starttime(), stat.process.pid()));
        found
    }

    /// The process with this role now; `old` is the old generation's psflip.
    pub(crate) fn find(&self, old: Process, role: Role) -> Option<Process> {
        let psflips = self.psflips();
        let psflip = match role.0 {
            Side::Old => psflips.iter().find(|stat| stat.process == old)?.process,
            Side::New => psflips.iter().rev().find(|stat| stat.process != old)?.process,
        };
        let keeper = || {
            let below = children_of(psflip);
            below.into_iter().find(|stat| stat.name == "psflip: keeper")
        };
        let child = || children_of(keeper()?.process).into_iter().next();
        match role.1 {
            Part::Psflip => Some(psflip),
            Part::Keeper => keeper().map(|stat| stat.process),
            Part::Child | Part::Group => child().map(|stat| stat.process),
            Part::Other(number) => {
                let known =
                    [Some(psflip), keeper().map(|stat| stat.process), child().map(|stat| stat.process)];
                let others: Vec<_> =
                    psflip.tree().into_iter().filter(|process| !known.contains(&Some(*process))).collect();
                (!others.is_empty()).then(|| others[usize::from(number) % others.len()])
            }
        }
    }

    /// Stops a process (SIGSTOP), and continues it later.
    pub(crate) fn freeze(&mut self, process: Process, time: Duration) {
        if process.signal(Signal::SIGSTOP).is_ok() {
            self.frozen.push((Instant::now() + time, process));
        }
    }

    /// Continues the processes whose time is over, or all.
    pub(crate) fn thaw(&mut self, everything: bool) {
        let now = Instant::now();
        let due: Vec<_> = self.frozen.extract_if(.., |(due, _)| everything || *due <= now).collect();
        for (_, process) in due {
            if process.signal(Signal::SIGCONT).is_ok() {
                self.timeline.note(format!("  SIGCONT to {process}"));
            }
        }
    }

    /// The longest time for which a process is still stopped.
    pub(crate) fn frozen_for(&self) -> Duration {
        let now = Instant::now();
        self.frozen.iter().map(|(due, _)| due.saturating_duration_since(now)).max().unwrap_or_default()
    }

    /// Polls until `look` returns something or the time is over.
    pub(crate) fn wait<T>(
        &mut self,
        limit: Duration,
        mut look: impl FnMut(&mut Self) -> Result<Option<T>, Halt>,
    ) -> Result<Option<T>, Halt> {
        let begun = Instant::now();
        let mut time = PAUSES.0;
        loop {
            let last = begun.elapsed() >= limit;
            if self.interrupt.came() {
                return Err(Halt::Interrupted);
            }
            self.thaw(false);
            let found = look(self)?;
            if found.is_some() || last {
                return Ok(found);
            }
            pause(time.min(limit.saturating_sub(begun.elapsed())));
            time = (time * 2).min(PAUSES.1);
        }
    }

    /// Waits for this time.
    pub(crate) fn let_pass(&mut self, time: Duration) -> Result<(), Halt> {
        self.wait(time, |_| Ok(None::<()>)).map(drop)
    }

    /// The service that was started last.
    pub(crate) fn service(&mut self) -> Result<&mut Service, Halt> {
        self.service.as_mut().ok_or_else(|| Halt::Violation("the harness: nothing was started".to_owned()))
    }

    /// Reads what psflip has written since.
    pub(crate) fn read_log(&mut self) {
        if let Some(Service { psflip, log, .. }) = &mut self.service {
            log.read(psflip.output());
        }
    }
}

/// The living children of a process, oldest first.
pub(crate) fn children_of(process: Process) -> Vec<Stat> {
    // The kernel's list: `Process::children` reads the state of every process of the host.
    let threads = fs::read_dir(format!("/proc/{}/task", process.pid())).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    let mut found = Vec::new();
    for list in lists {
        let pids = list.split_whitespace().filter_map(|pid| pid.parse().ok());
        found.extend(pids.filter_map(Stat::read).filter(|stat| stat.state.is_alive()));
    }
    found.sort_by_key(|stat| (stat.process.starttime(), stat.process.pid()));
    found
}

/// The open descriptors of a process, counted by kind: `socket:[17]` counts as `socket`.
pub(crate) fn descriptors(process: Process) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for target in process.open_fds().unwrap_or_default().into_values() {
        let kind = match target.split_once(":[") {
            Some((kind @ ("socket" | "pipe"), _)) => kind.to_owned(),
            // The pidfile, even after it was removed.
            _ if target.contains("psflip.pid") => "pidfile".to_owned(),
            _ => target,
        };
        *counts.entry(kind).or_insert(0) += 1;
    }
    counts
}

/// Whether a process sleeps and has no signal pending.
pub(crate) fn is_idle(process: Process) -> bool {
    let no_signal =
        |field| process.status_field(field).is_some_and(|mask| mask.bytes().all(|byte| byte == b'0'));
    process.state() == ProcessState::Sleeping && no_signal("ShdPnd") && no_signal("SigPnd")
}

/// The text of a file, without surrounding blanks; empty if the file doesn't exist.
pub(crate) fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
