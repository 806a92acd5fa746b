//! The predecessor's end of the hand-over: it starts the successor, and stays in touch with it.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::message::{Hello, Message, ToPredecessor, ToSuccessor};
use crate::anchor;
use crate::history::Step;
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

/// How long a successor gets to end that was told to give up before it said how long it needs.
const GRACE: Duration = Duration::from_secs(5);

/// More messages than any version has to send.
const MOST_MESSAGES: usize = 1000;

/// More extensions than any version asks for, since each begins the deadline anew.
const MOST_EXTENSIONS: u32 = 20;

/// Why a successor failed that a stop request ended.
const STOPPED: &str = "it was aborted by a stop request";

/// The connection to the successor.
#[derive(Debug)]
pub struct Link {
    socket: Socket,
    process: Option<(u32, PidFd)>,
    deadline: Duration,
    grace: Duration,
    failure: Option<String>,
    /// All that is known of why it failed is that it could not be acknowledged.
    unacknowledged: bool,
    said: Said,
}

/// What the successor has said, which decides what it may say next.
#[derive(Debug, Default)]
struct Said {
    messages: usize,
    starting: bool,
    extensions: u32,
    ready: bool,
    failed: bool,
}

/// What the link has to tell.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// The successor's process exists; [`Link::process`] knows it.
    Spawned,
    /// It has read its configuration, and [`Link::deadline`] has changed.
    Starting {
        /// Its version.
        version: String,
    },
    /// Its child may take longer, and [`Link::deadline`] has changed.
    Extended,
    /// Its configuration is new, and probably does not mean what it says.
    Warning {
        /// What, and what to do.
        text: String,
    },
    /// It goes on.
    Progress {
        /// What happens now.
        step: Step,
        /// Its child's pid, once there is one.
        child: Option<u32>,
        /// What a probe said that failed.
        probe: Option<String>,
    },
    /// It wants to be acknowledged.
    Ready,
    /// It gives up; [`Link::failure`] says why.
    Failed,
    /// It got an upgrade request that it won't follow.
    Upgrade {
        /// By whom, in words, if that is known.
        by: Option<String>,
    },
    /// It got a stop request that was meant for the service.
    Stop,
    /// It closed the connection.
    Closed,
    /// It said what no version says, so it is no psflip or a broken one; [`Link::failure`] says what.
    Misbehaved,
}

impl Link {
    /// Starts a successor: by a double fork, so that its parent is the manager, or the nearest subreaper, from the beginning
    /// (contract U10). Returns also the pid of the process in between, which ends at once; the caller isn't a subreaper until
    /// it has reaped that one.
    ///
    /// `inheritance`: what `hello` says will follow it, each with its socket if it is one. `anchor`: what the successor inherits of
    /// the anchor, if there is one. `deadline`: how long the
    /// successor may take to read its configuration. `watch` sees to it that this end of the connection is heard. It may fail,
    /// so it comes before the fork: a successor that exists could not be taken back any more.
    ///
    /// # Errors
    /// What socketpair(2), sendmsg(2), pidfd_open(2), fork(2) and `watch` say: EMFILE, EAGAIN, ENOMEM, ...
    pub fn start<'s>(
        program: &Program,
        hello: Hello,
        inheritance: impl Iterator<Item = (ToSuccessor, Option<BorrowedFd<'s>>)>,
        deadline: Duration,
        anchor: Option<&anchor::Link>,
        watch: impl FnOnce(BorrowedFd<'_>) -> io::Result<()>,
    ) -> io::Result<(Self, u32)> {
        let (ours, theirs) = Socket::pair()?;
        watch(ours.as_fd())?;
        let old = hello.pid;
        let this_process = PidFd::open(std::process::id())?;
        super::send(&ours, &ToSuccessor::Hello(hello), &[this_process.as_fd()])?;
        for (message, socket) in inheritance {
            super::send(&ours, &message, socket.as_slice())?;
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
                    failure: None,
                    unacknowledged: false,
                    said: Said::default(),
                },
                intermediate,
            )),
        }
    }

    /// Sends a message.
    ///
    /// # Errors
    /// EPIPE: the successor no longer listens.
    pub fn send(&self, message: &ToSuccessor) -> io::Result<()> {
        super::send(&self.socket, message, &[])
    }

    /// What there is to tell; `None`: nothing at the moment. Messages of later versions are skipped.
    ///
    /// # Errors
    /// What recvmsg(2) says.
    pub fn next_news(&mut self) -> io::Result<Option<News>> {
        loop {
            let (bytes, fds) = match self.socket.receive()? {
                Packet::Data(bytes, fds) => (bytes, fds),
                Packet::Nothing => return Ok(None),
                Packet::Closed => return Ok(Some(News::Closed)),
            };
            self.said.messages += 1;
            if self.said.messages > MOST_MESSAGES {
                return Ok(Some(self.misbehaved(&format!("more than {MOST_MESSAGES} messages"))));
            }
            match ToPredecessor::decode(&bytes) {
                Ok(Some(message)) => return Ok(Some(self.hear(message, fds))),
                Ok(None) => {
                    tracing::debug!(message = ?String::from_utf8_lossy(&bytes), "skipping a message of a later version");
                }
                Err(error) => return Ok(Some(self.misbehaved(&format!("a {error}")))),
            }
        }
    }

    fn hear(&mut self, message: ToPredecessor, fds: Vec<OwnedFd>) -> News {
        match message {
            // The first one comes from `become_successor`. Whoever could change it later could have somebody else killed.
            ToPredecessor::Spawned { .. } if self.process.is_some() => self.misbehaved("`spawned` twice"),
            ToPredecessor::Spawned { pid } => match fds.into_iter().next() {
                Some(fd) => {
                    self.process = Some((pid, PidFd::from_owned(fd)));
                    News::Spawned
                }
                None => self.misbehaved("`spawned` without a process"),
            },
            // Each would begin the deadline anew.
            ToPredecessor::Starting { .. } if self.said.starting => self.misbehaved("`starting` twice"),
            ToPredecessor::Starting { version, deadline, grace } => {
                self.said.starting = true;
                (self.deadline, self.grace) = (deadline, grace);
                News::Starting { version }
            }
            ToPredecessor::Extended { .. } if !self.said.starting => {
                self.misbehaved("`extended` before `starting`")
            }
            ToPredecessor::Extended { .. } if self.said.extensions == MOST_EXTENSIONS => {
                self.misbehaved(&format!("`extended` more than {MOST_EXTENSIONS} times"))
            }
            ToPredecessor::Extended { deadline } => {
                self.said.extensions += 1;
                self.deadline = deadline;
                News::Extended
            }
            ToPredecessor::Ready if !self.said.starting => self.misbehaved("`ready` before `starting`"),
            ToPredecessor::Ready if self.said.failed => self.misbehaved("`ready` after `failed`"),
            ToPredecessor::Ready if self.said.ready => self.misbehaved("`ready` twice"),
            ToPredecessor::Ready => {
                self.said.ready = true;
                News::Ready
            }
            ToPredecessor::Failed { code, child_code, reason } => {
                self.said.failed = true;
                self.failure.get_or_insert_with(|| with_code(reason, code, child_code));
                News::Failed
            }
            ToPredecessor::Upgrade { by } => News::Upgrade { by },
            ToPredecessor::Stop => {
                if self.unacknowledged {
                    self.failure = Some(STOPPED.to_owned());
                }
                News::Stop
            }
            ToPredecessor::Warning { text } => News::Warning { text },
            ToPredecessor::Progress { step, child, probe } => News::Progress { step, child, probe },
        }
    }

    fn misbehaved(&mut self, how: &str) -> News {
        self.set_failure(format!(
            "the new psflip broke the hand-over's protocol (it sent {how}), so it is killed"
        ));
        News::Misbehaved
    }

    /// Lets go of a successor that failed. One that is not dead after all must not take the closed connection for the
    /// predecessor's end, and go on alone: it is told to give up.
    pub fn let_go(self) {
        let _ = self.send(&ToSuccessor::Abort); // usually it is dead
    }

    /// The successor's pid and process, once it exists.
    #[must_use]
    pub fn process(&self) -> Option<(u32, &PidFd)> {
        self.process.as_ref().map(|(pid, process)| (*pid, process))
    }

    /// How long it has for its next step.
    #[must_use]
    pub fn deadline(&self) -> Duration {
        self.deadline
    }

    /// How long it has to end when it is told to give up.
    #[must_use]
    pub fn grace(&self) -> Duration {
        self.grace
    }

    /// Whether it has said that it is ready.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.said.ready
    }

    /// Why it failed, as far as it or this side has said so.
    #[must_use]
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_deref()
    }

    /// Tells it to give up, for this reason, if it was not told before: it must not be acknowledged after that.
    pub fn give_up(&mut self, reason: String) {
        if self.failure.is_none() {
            self.failure = Some(reason);
            let _ = self.send(&ToSuccessor::Abort); // it may be dead
        }
    }

    /// Tells it to give up, since it could not be acknowledged. It may still say that a stop request was why.
    pub fn give_up_unacknowledged(&mut self, reason: String) {
        self.unacknowledged = self.failure.is_none();
        self.give_up(reason);
    }

    /// It was told to give up because of a stop request.
    pub fn set_stopped(&mut self) {
        self.set_failure(STOPPED.to_owned());
    }

    /// This side knows why it failed; the first reason counts.
    pub fn set_failure(&mut self, reason: String) {
        self.failure.get_or_insert(reason);
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The life of the new process until it is the new psflip.
fn become_successor(program: &Program, predecessor: &Socket, old: u32, anchor: Option<&anchor::Link>) -> ! {
    seam::step(Moment::Begins, format_args!("successor"));
    let pid = std::process::id();
    let mut envp = program.envp.clone();
    let introduced = PidFd::open(pid).and_then(|own| {
        // First of all: without a predecessor, the anchor has to know whom to wait for.
        if let Some(anchor) = anchor {
            set_variable(&mut envp, ANCHOR_VARIABLE, Some(&anchor.introduce()?));
        }
        match super::send(predecessor, &ToPredecessor::Spawned { pid }, &[own.as_fd()]) {
            // It was killed a moment ago, and this generation goes on alone (contract F8). One that only let go has said `abort`.
            Err(error) if super::is_gone(&error) => {}
            told => told?,
        }
        fd::set_close_on_exec(predecessor.as_fd(), false)
    });
    if let Err(error) = introduced {
        fail(predecessor, &format!("can't introduce the new process: {error}"));
    }
    set_variable(&mut envp, HANDOVER_VARIABLE, Some(&predecessor.as_fd().as_raw_fd().to_string()));
    // The signs of life that a manager wants of old, new is to show (sd_watchdog_enabled(3)).
    if variable(&envp, "WATCHDOG_PID").is_some_and(|text| *text == *old.to_string()) {
        set_variable(&mut envp, "WATCHDOG_PID", Some(&pid.to_string()));
    }
    // Everything stays blocked, so no signal can end it before it is ready for signals (contract S7). What is ignored is
    // as this process has it; the successor learns from the hello what the first psflip was started with.
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
    let _ = super::send(predecessor, &message, &[]); // without the predecessor nobody is left to tell
    process::exit_now(crate::exit::FAILURE)
}

/// The reason with psflip's exit code, unless that is the one that the reason says of the child.
fn with_code(reason: String, code: u8, child_code: Option<u8>) -> String {
    if child_code == Some(code) { reason } else { format!("{reason} (exit code {code})") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        let (socket, _) = Socket::pair().unwrap();
        Link {
            socket,
            process: None,
            deadline: Duration::ZERO,
            grace: GRACE,
            failure: None,
            unacknowledged: false,
            said: Said::default(),
        }
    }

    #[test]
    fn a_stop_is_why_a_successor_could_not_be_acknowledged() {
        // Contract: F11
        for (before, wanted) in [(None, STOPPED), (Some("it was late"), "it was late")] {
            let mut link = link();
            link.failure = before.map(str::to_owned);
            link.give_up_unacknowledged("broken pipe".to_owned());
            assert_eq!(link.failure(), Some(before.unwrap_or("broken pipe")));
            assert_eq!(link.hear(ToPredecessor::Stop, vec![]), News::Stop);
            assert_eq!(link.failure(), Some(wanted));
        }
    }

    #[test]
    fn an_exit_code_is_told_once() {
        // Contract: V1
        let told = |reason: &str, code, child_code| {
            let mut link = link();
            let failed = ToPredecessor::Failed { code, child_code, reason: reason.to_owned() };
            assert_eq!(link.hear(failed, vec![]), News::Failed);
            link.failure().unwrap().to_owned()
        };
        let (three, zero) = ("the child ended: exit code 3; last probe: no", "the child ended: exit code 0");
        assert_eq!(told(three, 3, Some(3)), three);
        assert_eq!(told(zero, 1, Some(0)), format!("{zero} (exit code 1)"));
        assert_eq!(told("broken", 78, None), "broken (exit code 78)");
        // The words are not looked at: this is a version that does not say what they tell.
        assert_eq!(told(three, 3, None), format!("{three} (exit code 3)"));
    }
}
