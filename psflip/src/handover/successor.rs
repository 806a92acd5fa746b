//! The predecessor's end of the hand-over: it starts the successor, and keeps the connection to it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use super::message::{Hello, ToPredecessor, ToSuccessor, WireMessage};
use crate::anchor::AnchorLink;
use crate::history::UpgradeStep;
use crate::process::environment::{ANCHOR_VARIABLE, HANDOVER_VARIABLE, set_variable, variable};
use crate::process::invocation::Program;
use crate::process::launch::Launch;
use crate::sys::early::SignalSetup;
use crate::sys::fd;
use crate::sys::pidfd::PidFd;
use crate::sys::process::{self, Fork};
use crate::sys::seam::{self, Moment};
use crate::sys::signal::SignalSet;
use crate::sys::socket::{Packet, Socket};

/// How long a successor may take to exit after an abort, if it has not announced a time.
const GRACE: Duration = Duration::from_secs(5);

/// More messages than any version sends.
const MOST_MESSAGES: usize = 1000;

/// More extensions than any version sends. Each one restarts the deadline, so their number must be limited.
const MOST_EXTENSIONS: u32 = 20;

/// The reason of the failure if a stop request aborted the successor.
const STOPPED: &str = "it was aborted by a stop request";

/// The connection to the successor.
#[derive(Debug)]
pub struct SuccessorLink {
    socket: Socket,
    process: Option<(u32, PidFd)>,
    deadline: Duration,
    grace: Duration,
    /// Its bake, once it has requested the traffic.
    bake: Option<Bake>,
    failure: Option<String>,
    /// The only known reason of the failure is that it could not be acknowledged.
    unacknowledged: bool,
    sent: Sent,
    /// Its child must not start before its turn, whatever its configuration says.
    exclusive: bool,
    /// The client that came with the last [`FromSuccessor::Reopen`].
    client: Option<OwnedFd>,
}

/// A bake, as the successor has announced it.
#[derive(Clone, Copy, Debug)]
struct Bake {
    time: Duration,
    /// The successor has reported that its relay accepts.
    began: bool,
    until: Instant,
    /// How long the successor may take for its next step when the bake is over.
    then: Duration,
}

/// What the successor has sent so far, which restricts what it may send next.
#[derive(Debug, Default)]
struct Sent {
    messages: usize,
    starting: bool,
    prepared: bool,
    /// After that it got the message that its child may start.
    granted: bool,
    extensions: u32,
    returned: bool,
    ready: bool,
    failed: bool,
}

/// What was received from the successor.
#[derive(Debug, PartialEq, Eq)]
pub enum FromSuccessor {
    /// The successor's process exists; [`SuccessorLink::process`] knows it.
    Spawned,
    /// It has read its configuration, and [`SuccessorLink::deadline`] has changed.
    Starting {
        /// Its version.
        version: String,
    },
    /// It waits for its turn ([`SuccessorLink::grant_turn`]). [`SuccessorLink::deadline`] has changed and
    /// begins with the turn.
    Prepared,
    /// Its child may take longer, and [`SuccessorLink::deadline`] has changed.
    Extended,
    /// Its configuration is new, and likely causes an outage.
    Warning {
        /// Why, and what to do.
        text: String,
    },
    /// It has made progress.
    Progress {
        /// The current step.
        step: UpgradeStep,
        /// Its child's pid, once there is one.
        child: Option<u32>,
        /// The result of a failed probe.
        probe: Option<String>,
        /// How long the step takes, if that is known.
        left: Option<Duration>,
    },
    /// It requests the traffic, on trial.
    Baking,
    /// It has given the traffic back, and gives up; [`SuccessorLink::failure`] has the reason.
    Returned,
    /// It requests the acknowledgement.
    Ready,
    /// It gives up; [`SuccessorLink::failure`] has the reason.
    Failed,
    /// It got an upgrade request that it can't serve.
    Upgrade {
        /// Who requested it, as text, if known.
        by: Option<String>,
    },
    /// Connections are no longer held.
    Resume,
    /// It got a stop request that was meant for the service.
    Stop,
    /// The files of `[output]` are to be opened again for the client of [`SuccessorLink::take_client`].
    Reopen,
    /// It is the service, and this psflip has to end at once.
    End,
    /// It closed the connection.
    Closed,
    /// It sent what no version sends, so it is faulty or not a psflip; [`SuccessorLink::failure`] has the
    /// details.
    Misbehaved,
}

/// A message of the inheritance, with its descriptors.
#[derive(Debug)]
pub struct Handed<'s> {
    /// The message.
    pub message: ToSuccessor,
    /// What is attached to it.
    pub descriptors: Vec<BorrowedFd<'s>>,
}

impl SuccessorLink {
    /// Starts a successor by a double fork, so that its parent is the service manager, or the nearest
    /// subreaper, from the beginning (contract U10). Also returns the pid of the intermediate process, which
    /// exits at once. The caller must not be a subreaper until it has reaped that process.
    ///
    /// `inheritance` and `older`: the messages that follow `hello`, the latter about old generations.
    /// `anchor`: what the successor inherits of the anchor, if there is one. `deadline`: how long it may take
    /// to read its configuration. `watch` registers this end of the connection with the event loop. It may
    /// fail, so it is called before the fork: a successor that exists could not be undone.
    ///
    /// # Errors
    /// Those of socketpair(2), sendmsg(2), pidfd_open(2), fork(2) and `watch`: EMFILE, EAGAIN, ENOMEM, ...
    pub fn start<'s, 'o>(
        program: &Program,
        hello: Hello,
        inheritance: impl Iterator<Item = Handed<'s>>,
        older: impl Iterator<Item = Handed<'o>>,
        deadline: Duration,
        anchor: Option<&AnchorLink>,
        watch: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<(Self, u32)> {
        let (ours, theirs) = Socket::pair()?;
        watch(ours.as_fd())?;
        let (old, exclusive) = (hello.pid, hello.exclusive);
        let this_process = PidFd::open(std::process::id())?;
        super::send(&ours, &ToSuccessor::Hello(hello), &[this_process.as_fd()])?;
        for Handed { message, descriptors } in inheritance {
            super::send(&ours, &message, &descriptors)?;
        }
        for Handed { message, descriptors } in older {
            super::send(&ours, &message, &descriptors)?;
        }
        match process::fork()? {
            Fork::Child => {
                drop(ours);
                seam::step(Moment::Begins, format_args!("intermediate"));
                let outcome = process::fork();
                match outcome {
                    Ok(Fork::Parent(_)) => {
                        seam::step(Moment::Ends, format_args!("intermediate"));
                        process::exit_now(0)
                    }
                    Ok(Fork::Child) => become_successor(program, &theirs, old, anchor),
                    Err(error) => fail(&theirs, &format!("can't fork: {error}")),
                }
            }
            Fork::Parent(intermediate) => Ok((
                Self {
                    socket: ours,
                    process: None,
                    deadline,
                    grace: GRACE,
                    bake: None,
                    failure: None,
                    unacknowledged: false,
                    sent: Sent::default(),
                    exclusive,
                    client: None,
                },
                intermediate,
            )),
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// EPIPE: the successor no longer reads.
    pub fn send(&self, message: &ToSuccessor) -> io::Result<()> {
        super::send(&self.socket, message, &[])
    }

    /// Sends a message with descriptors.
    ///
    /// # Errors
    /// As [`SuccessorLink::send`].
    pub fn send_with(&self, message: &ToSuccessor, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        super::send(&self.socket, message, fds)
    }

    /// The client that came with [`FromSuccessor::Reopen`]. `None`: its descriptor was lost.
    pub fn take_client(&mut self) -> Option<OwnedFd> {
        self.client.take()
    }

    /// Receives a message; `None` if there is none at the moment. Skips messages of later versions.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn receive(&mut self) -> io::Result<Option<FromSuccessor>> {
        loop {
            let (bytes, fds) = match self.socket.receive()? {
                Packet::Data(bytes, fds) => (bytes, fds),
                Packet::Nothing => return Ok(None),
                Packet::Closed => return Ok(Some(FromSuccessor::Closed)),
            };
            self.sent.messages += 1;
            if self.sent.messages > MOST_MESSAGES {
                return Ok(Some(self.misbehaved(&format!("more than {MOST_MESSAGES} messages"))));
            }
            match ToPredecessor::decode(&bytes) {
                Ok(Some(message)) => return Ok(Some(self.on_message(message, fds))),
                Ok(None) => {
                    tracing::debug!(text = ?String::from_utf8_lossy(&bytes), "skipping a message of a later version");
                }
                Err(error) => return Ok(Some(self.misbehaved(&format!("a {error}")))),
            }
        }
    }

    fn on_message(&mut self, message: ToPredecessor, fds: Vec<OwnedFd>) -> FromSuccessor {
        match message {
            // The first one comes from `become_successor`. A later one could name another process, which
            // psflip would kill.
            ToPredecessor::Spawned { .. } if self.process.is_some() => self.misbehaved("`spawned` twice"),
            ToPredecessor::Spawned { pid } => match fds.into_iter().next() {
                Some(fd) => {
                    self.process = Some((pid, PidFd::from_owned(fd)));
                    FromSuccessor::Spawned
                }
                None => self.misbehaved("`spawned` without a process"),
            },
            // Each one would restart the deadline.
            ToPredecessor::Starting { .. } if self.sent.starting => self.misbehaved("`starting` twice"),
            ToPredecessor::Starting { version, deadline, grace } => {
                self.sent.starting = true;
                (self.deadline, self.grace) = (deadline, grace);
                FromSuccessor::Starting { version }
            }
            ToPredecessor::Prepared { .. } if !self.sent.starting => {
                self.misbehaved("`prepared` before `starting`")
            }
            ToPredecessor::Prepared { .. } if self.sent.prepared => self.misbehaved("`prepared` twice"),
            ToPredecessor::Prepared { deadline } => {
                self.sent.prepared = true;
                self.deadline = deadline;
                FromSuccessor::Prepared
            }
            ToPredecessor::Extended { .. } | ToPredecessor::Ready if self.is_before_its_turn() => {
                self.misbehaved("a message about its child before its turn")
            }
            ToPredecessor::Extended { .. } if !self.sent.starting => {
                self.misbehaved("`extended` before `starting`")
            }
            ToPredecessor::Extended { .. } if self.sent.extensions == MOST_EXTENSIONS => {
                self.misbehaved(&format!("`extended` more than {MOST_EXTENSIONS} times"))
            }
            ToPredecessor::Extended { deadline } => {
                self.sent.extensions += 1;
                self.deadline = deadline;
                FromSuccessor::Extended
            }
            ToPredecessor::Baking { .. } if !self.sent.starting => {
                self.misbehaved("`baking` before `starting`")
            }
            ToPredecessor::Baking { .. } if self.sent.failed || self.sent.ready => {
                self.misbehaved("`baking` after `failed` or `ready`")
            }
            // Each one would restart the deadline.
            ToPredecessor::Baking { .. } if self.bake.is_some() => self.misbehaved("`baking` twice"),
            ToPredecessor::Baking { bake, deadline, grace } => {
                let until = Instant::now() + bake;
                self.bake = Some(Bake { time: bake, began: false, until, then: deadline });
                self.grace = grace;
                FromSuccessor::Baking
            }
            ToPredecessor::Returned { .. } if self.bake.is_none() => {
                self.misbehaved("`returned` before `baking`")
            }
            ToPredecessor::Returned { .. } if self.sent.returned => self.misbehaved("`returned` twice"),
            ToPredecessor::Returned { reason } => {
                self.sent.returned = true;
                self.failure.get_or_insert(reason);
                FromSuccessor::Returned
            }
            ToPredecessor::Ready if self.sent.returned => self.misbehaved("`ready` after `returned`"),
            ToPredecessor::Ready if !self.sent.starting => self.misbehaved("`ready` before `starting`"),
            ToPredecessor::Ready if self.sent.failed => self.misbehaved("`ready` after `failed`"),
            ToPredecessor::Ready if self.sent.ready => self.misbehaved("`ready` twice"),
            ToPredecessor::Ready => {
                self.sent.ready = true;
                FromSuccessor::Ready
            }
            ToPredecessor::Failed { code, child_code, reason } => {
                self.sent.failed = true;
                self.failure.get_or_insert_with(|| with_code(reason, code, child_code));
                FromSuccessor::Failed
            }
            ToPredecessor::Upgrade { by } => FromSuccessor::Upgrade { by },
            ToPredecessor::Resume => FromSuccessor::Resume,
            ToPredecessor::Stop => {
                if self.unacknowledged {
                    self.failure = Some(STOPPED.to_owned());
                }
                FromSuccessor::Stop
            }
            ToPredecessor::Reopen => {
                self.sent.messages -= 1; // an old generation may drain for a long time
                self.client = fds.into_iter().next();
                FromSuccessor::Reopen
            }
            ToPredecessor::End => FromSuccessor::End,
            ToPredecessor::Warning { text } => FromSuccessor::Warning { text },
            ToPredecessor::Progress { step, child, probe, left } => {
                if step == UpgradeStep::Baking
                    && let Some(bake) = self.bake.as_mut().filter(|bake| !bake.began)
                {
                    (bake.began, bake.until) = (true, Instant::now() + bake.time);
                }
                FromSuccessor::Progress { step, child, probe, left }
            }
        }
    }

    /// Whether its child must not have started yet.
    fn is_before_its_turn(&self) -> bool {
        (self.exclusive || self.sent.prepared) && !self.sent.granted
    }

    /// Lets it start its child. It and the keeper of its child keep `lease` open.
    ///
    /// # Errors
    /// EPIPE: the successor no longer reads.
    pub fn grant_turn(&mut self, waiting_since: Option<u64>, lease: &Socket) -> io::Result<()> {
        super::send(&self.socket, &ToSuccessor::Start { waiting_since }, &[lease.as_fd()])?;
        self.sent.granted = true;
        Ok(())
    }

    fn misbehaved(&mut self, how: &str) -> FromSuccessor {
        self.set_failure(format!(
            "the new psflip broke the hand-over's protocol (it sent {how}), so it is killed"
        ));
        FromSuccessor::Misbehaved
    }

    /// Closes the connection to a successor that failed. If it is still alive, it must not take the closed
    /// connection for the predecessor's death and go on alone, so it gets an abort first.
    pub fn abandon(self) {
        let _ = self.send(&ToSuccessor::Abort { reason: None }); // usually it is dead
    }

    /// The successor's pid and process, once it exists.
    #[must_use]
    pub fn process(&self) -> Option<(u32, &PidFd)> {
        self.process.as_ref().map(|(pid, process)| (*pid, process))
    }

    /// How long it may take for its next step.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.bake.map_or(self.deadline, |bake| bake.time + bake.then)
    }

    /// How long it may take for its next step while it bakes. Until it has reported that its relay accepts,
    /// that report is the next step: nobody accepts meanwhile.
    #[must_use]
    pub fn deadline_in_bake(&self) -> Duration {
        match self.bake {
            Some(bake) if bake.began => bake.until.saturating_duration_since(Instant::now()) + bake.then,
            Some(_) | None => self.deadline_after_bake(),
        }
    }

    /// How long it may take for its next step after its bake.
    #[must_use]
    pub fn deadline_after_bake(&self) -> Duration {
        self.bake.map_or(self.deadline, |bake| bake.then)
    }

    /// When its bake is over.
    #[must_use]
    pub fn bakes_until(&self) -> Option<Instant> {
        self.bake.map(|bake| bake.until)
    }

    /// How long its bake takes.
    #[must_use]
    pub fn bake(&self) -> Option<Duration> {
        self.bake.map(|bake| bake.time)
    }

    /// How long it may take to exit after an abort.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Whether it has reported that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.sent.ready
    }

    /// The reason of its failure, if it or this side has given one.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Aborts it for this reason, unless there is a reason already. It must not be acknowledged after that.
    pub fn give_up(&mut self, reason: String) {
        if self.failure.is_none() {
            self.failure = Some(reason);
            let _ = self.send(&ToSuccessor::Abort { reason: None }); // it may be dead
        }
    }

    /// Aborts it because it could not be acknowledged. It may still report that a stop request was the cause.
    pub fn give_up_unacknowledged(&mut self, reason: String) {
        self.unacknowledged = self.failure.is_none();
        self.give_up(reason);
    }

    /// A stop request is the reason of the abort.
    pub fn set_stopped(&mut self) {
        self.set_failure(STOPPED.to_owned());
    }

    /// Sets the reason of the failure, unless there is one already.
    pub fn set_failure(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }
}

impl AsFd for SuccessorLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Runs in the new process until it executes psflip.
fn become_successor(program: &Program, predecessor: &Socket, old: u32, anchor: Option<&AnchorLink>) -> ! {
    seam::step(Moment::Begins, format_args!("successor"));
    let pid = std::process::id();
    let mut envp = program.envp.clone();
    let introduced = PidFd::open(pid).and_then(|own| {
        // This comes first: if the predecessor dies, the anchor must know which process to wait for.
        if let Some(anchor) = anchor {
            set_variable(&mut envp, ANCHOR_VARIABLE, Some(&anchor.introduce()?));
        }
        match super::send(predecessor, &ToPredecessor::Spawned { pid }, &[own.as_fd()]) {
            // The predecessor was killed a moment ago, and this generation goes on alone (contract F8). A
            // predecessor that is alive sends `abort` before it closes the connection.
            Err(error) if super::is_gone(&error) => {}
            sent => sent?,
        }
        fd::set_close_on_exec(predecessor.as_fd(), false)
    });
    if let Err(error) = introduced {
        fail(predecessor, &format!("can't introduce the new process: {error}"));
    }
    set_variable(&mut envp, HANDOVER_VARIABLE, Some(&predecessor.as_fd().as_raw_fd().to_string()));
    // The service manager expects watchdog messages from the old psflip; now the successor has to send them
    // (sd_watchdog_enabled(3)).
    if variable(&envp, "WATCHDOG_PID").is_some_and(|text| *text == *old.to_string()) {
        set_variable(&mut envp, "WATCHDOG_PID", Some(&pid.to_string()));
    }
    // All signals stay blocked, so none can terminate the process before it handles them (contract S7).
    // Ignored signals stay as in this process. The hello has the set-up that the first psflip was started
    // with.
    let signals =
        SignalSetup { mask: SignalSet::from_bits(u64::MAX), ..crate::sys::early::inherited_signals() };
    let launch =
        Launch::with_candidates(program.candidates.clone(), program.argv.clone(), envp, None, signals);
    let refusal = launch.exec();
    let path = program.candidates.last().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
    fail(predecessor, &format!("can't execute psflip again as `{path}`: {}", refusal.error))
}

fn fail(predecessor: &Socket, reason: &str) -> ! {
    let message =
        ToPredecessor::Failed { code: crate::exit::FAILURE, child_code: None, reason: reason.to_owned() };
    let _ = super::send(predecessor, &message, &[]); // without the predecessor there is no receiver
    process::exit_now(crate::exit::FAILURE)
}

/// The reason with psflip's exit code, unless the reason already names this code as that of the child.
fn with_code(reason: String, code: u8, child_code: Option<u8>) -> String {
    if child_code == Some(code) { reason } else { format!("{reason} (exit code {code})") }
}

#[cfg(test)]
#[path = "successor_tests.rs"]
mod tests;
