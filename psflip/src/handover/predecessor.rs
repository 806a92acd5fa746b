//! The successor's end of the hand-over: its connection to the predecessor.

use std::fmt::Display;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use super::message::{Hello, OLDEST_PROTOCOL, PROTOCOL, ToPredecessor, ToSuccessor, WireMessage};
use crate::history::{Drain, History};
use crate::process::environment::HANDOVER_VARIABLE;
use crate::proxy::Hold;
use crate::sys::errors::is_transient;
use crate::sys::fd;
use crate::sys::pidfd::PidFd;
use crate::sys::seam::Moment;
use crate::sys::socket::{Packet, Socket};
use crate::traffic::given::Given;

/// How long a successor waits for the predecessor's acknowledgement, which normally takes microseconds. Then
/// it gives up in a way that can't collide with a late acknowledgement (see [`PredecessorLink::withdraw`]).
pub const ACKNOWLEDGEMENT: Duration = Duration::from_secs(10);

/// The connection to the predecessor.
#[derive(Debug)]
pub struct PredecessorLink {
    socket: Socket,
    process: PidFd,
}

/// A predecessor that has sent its first message.
#[derive(Debug)]
pub struct Met {
    /// The connection.
    pub link: PredecessorLink,
    /// Its first message.
    pub hello: Hello,
    /// What the predecessor handed over.
    pub inheritance: Inheritance,
}

/// What a predecessor hands over besides its role.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// The sockets that clients connect to.
    pub listeners: Vec<Given>,
    /// The control socket.
    pub control: Option<Given>,
    /// The link on which the predecessor's relay passes connections on.
    pub relay: Option<OwnedFd>,
    /// The link on which this generation's relay passes connections back.
    pub relay_back: Option<OwnedFd>,
    /// The keeper of the predecessor's child.
    pub keeper: Option<PidFd>,
    /// The loggers of the predecessor.
    pub loggers: Vec<Logger>,
    /// As [`Hello::hold`].
    pub hold: Option<Hold>,
    /// The earlier upgrades.
    pub history: History,
    /// The old generations before the predecessor that still drain, the oldest first.
    pub older: Vec<OldLink>,
}

/// An old generation that the predecessor hands over.
#[derive(Debug)]
pub struct OldLink {
    /// Its number.
    pub generation: u64,
    /// Its pid.
    pub pid: u32,
    /// The connection to it. Only the active generation may read from it.
    pub link: PredecessorLink,
    /// It was requested to end at once.
    pub ending: bool,
    /// Its current step, and how long it may take, if known.
    pub progress: Option<(Drain, Duration)>,
}

/// A logger that a predecessor hands over ([`ToSuccessor::Logger`]).
#[derive(Debug)]
pub struct Logger {
    /// Its target.
    pub target: String,
    /// The reading end of its pipe.
    pub reader: OwnedFd,
    /// The writing end of its pipe.
    pub writer: OwnedFd,
    /// Its output process, if that runs.
    pub process: Option<PidFd>,
}

impl Logger {
    /// `None`: a descriptor was lost.
    fn new(target: String, fds: Vec<OwnedFd>) -> Option<Self> {
        let mut fds = fds.into_iter();
        let (reader, writer) = (fds.next()?, fds.next()?);
        Some(Self { target, reader, writer, process: fds.next().map(PidFd::from_owned) })
    }
}

/// An acknowledgement that had been sent when this generation gave up.
#[derive(Debug)]
pub struct Acknowledged {
    /// A request is queued.
    pub upgrade_queued: bool,
    /// Who requested it.
    pub by: Option<String>,
    /// Connections are held.
    pub hold: Option<Hold>,
}

/// What was received from the predecessor.
#[derive(Debug)]
pub enum FromPredecessor {
    /// A message.
    Message(ToSuccessor),
    /// The predecessor's child is gone ([`ToSuccessor::Start`]).
    Start {
        /// Since when clients have been waiting.
        waiting_since: Option<u64>,
        /// To be kept open while this process or its child is there. `None`: it was lost.
        lease: Option<OwnedFd>,
    },
    /// [`ToSuccessor::Logger`].
    Logger(Logger),
    /// [`ToSuccessor::Reopen`].
    Reopen {
        /// The client that gets the results.
        client: OwnedFd,
    },
    /// The predecessor closed the connection.
    Closed,
}

/// Why a process that was started as a successor can't run as one.
#[derive(Debug, thiserror::Error)]
pub enum NoHello {
    /// The variable does not name a descriptor with a predecessor behind it.
    #[error(
        "`{HANDOVER_VARIABLE}={value}` is set but there is no predecessor behind it ({cause}); unset it to start anew"
    )]
    NoPredecessor {
        /// The variable's value.
        value: String,
        /// What was found instead.
        cause: String,
    },
    /// The two versions have no protocol in common.
    #[error(
        "the predecessor is psflip {version} and speaks hand-over protocol {theirs_oldest} to {theirs}, this is psflip {} \
         and speaks {OLDEST_PROTOCOL} to {PROTOCOL}: restart the service instead of upgrading it",
        env!("CARGO_PKG_VERSION")
    )]
    Versions {
        /// The predecessor's version.
        version: String,
        /// The oldest protocol that it speaks.
        theirs_oldest: u32,
        /// The newest protocol that it speaks.
        theirs: u32,
    },
}

/// Finds the predecessor of this process by the environment variable that it set, and reads its first
/// message.
///
/// # Errors
/// [`NoHello`], with the link if there is one, so that the predecessor can be notified.
pub fn meet(value: &str) -> Result<Met, (NoHello, Option<PredecessorLink>)> {
    let none = |cause: String| (NoHello::NoPredecessor { value: value.to_owned(), cause }, None);
    let number: i32 = value.parse().map_err(|_| none("not a descriptor number".to_owned()))?;
    if number < 3 {
        return Err(none("not a descriptor of a hand-over".to_owned()));
    }
    let owned = fd::adopt(number).map_err(|error| none(error.to_string()))?;
    fd::set_close_on_exec(owned.as_fd(), true).map_err(|error| none(error.to_string()))?;
    let socket = Socket::from_owned(owned);
    let (bytes, fds) = match receive_patiently(&socket) {
        Ok(Packet::Data(bytes, fds)) => (bytes, fds),
        Ok(Packet::Nothing) => return Err(none("no message waits there".to_owned())),
        Ok(Packet::Closed) => return Err(none("the connection is closed".to_owned())),
        Err(error) => return Err(none(error.to_string())),
    };
    super::step(Moment::Received, &bytes);
    let Some(process) = fds.into_iter().next().map(PidFd::from_owned) else {
        return Err(none("the first message has no descriptor of the predecessor".to_owned()));
    };
    if !process.is_process() {
        return Err(none("the descriptor of the predecessor is not that of a process".to_owned()));
    }
    let link = PredecessorLink { socket, process };
    match ToSuccessor::decode(&bytes) {
        Ok(Some(ToSuccessor::Hello(hello)))
            if hello.oldest <= PROTOCOL && hello.protocol >= OLDEST_PROTOCOL =>
        {
            match link.receive_inheritance(&hello) {
                Ok(inheritance) => Ok(Met { link, hello, inheritance }),
                Err(cause) => Err((NoHello::NoPredecessor { value: value.to_owned(), cause }, Some(link))),
            }
        }
        Ok(Some(ToSuccessor::Hello(hello))) => {
            let Hello { version, oldest, protocol, .. } = hello;
            Err((NoHello::Versions { version, theirs_oldest: oldest, theirs: protocol }, Some(link)))
        }
        Ok(_) => Err((none("the first message is no hello".to_owned()).0, Some(link))),
        Err(error) => Err((none(error.to_string()).0, Some(link))),
    }
}

/// Reads a packet that must be there already. Tries again if the kernel is short of memory for a moment.
fn receive_patiently(socket: &Socket) -> io::Result<Packet> {
    for _ in 0..100 {
        match socket.receive() {
            Err(error) if is_transient(&error) => std::thread::yield_now(),
            other => return other,
        }
    }
    socket.receive()
}

impl PredecessorLink {
    /// Sends a message.
    ///
    /// # Errors
    /// EPIPE: the predecessor is gone.
    pub fn send(&self, message: &ToPredecessor) -> io::Result<()> {
        super::send(&self.socket, message, &[])
    }

    /// Sends a message with a descriptor.
    ///
    /// # Errors
    /// As [`PredecessorLink::send`].
    pub fn send_with(&self, message: &ToPredecessor, fd: BorrowedFd<'_>) -> io::Result<()> {
        super::send(&self.socket, message, &[fd])
    }

    /// Receives a message; `None` if there is none at the moment. Skips messages of later versions.
    ///
    /// # Errors
    /// Those of recvmsg(2).
    pub fn receive(&self) -> io::Result<Option<FromPredecessor>> {
        loop {
            match self.socket.receive()? {
                Packet::Data(bytes, fds) => {
                    super::step(Moment::Received, &bytes);
                    match ToSuccessor::decode(&bytes) {
                        Ok(Some(ToSuccessor::Start { waiting_since })) => {
                            let lease = fds.into_iter().next();
                            return Ok(Some(FromPredecessor::Start { waiting_since, lease }));
                        }
                        Ok(Some(ToSuccessor::Logger { target })) => {
                            if let Some(logger) = Logger::new(target, fds) {
                                return Ok(Some(FromPredecessor::Logger(logger)));
                            }
                        }
                        Ok(Some(ToSuccessor::Reopen)) => {
                            if let Some(client) = fds.into_iter().next() {
                                return Ok(Some(FromPredecessor::Reopen { client }));
                            }
                        }
                        Ok(Some(message)) => return Ok(Some(FromPredecessor::Message(message))),
                        Ok(None) => {
                            tracing::debug!(text = ?String::from_utf8_lossy(&bytes), "skipping a message of a later version");
                        }
                        Err(error) => tracing::warn!(%error, "skipping a message of the predecessor"),
                    }
                }
                Packet::Nothing => return Ok(None),
                Packet::Closed => return Ok(Some(FromPredecessor::Closed)),
            }
        }
    }

    /// Reads the messages that follow the hello; they were sent before this process was started. Skips
    /// messages of later versions among them.
    fn receive_inheritance(&self, hello: &Hello) -> Result<Inheritance, String> {
        let mut all = Inheritance { hold: hello.hold, ..Inheritance::default() };
        let flags = [hello.control, hello.relay, hello.relay_back, hello.keeper].map(u32::from);
        let promised = [
            hello.listeners,
            flags[0],
            flags[1],
            flags[2],
            hello.records,
            flags[3],
            hello.older,
            hello.loggers,
        ];
        let mut received = [0; 8];
        while received.iter().zip(promised).any(|(received, promised)| *received < promised) {
            let lost = |why: &dyn Display| {
                let kinds = [
                    "listener",
                    "control socket",
                    "relay link",
                    "link back",
                    "record",
                    "keeper",
                    "old generation",
                    "logger",
                ];
                let missing =
                    (0..kinds.len()).find(|kind| received[*kind] < promised[*kind]).unwrap_or_default();
                let (kind, which, of) = (kinds[missing], received[missing] + 1, promised[missing]);
                format!("{kind} {which} of {of} did not come: {why}")
            };
            match receive_patiently(&self.socket).map_err(|error| lost(&error))? {
                Packet::Data(bytes, fds) => {
                    let mut fds = fds.into_iter();
                    match (ToSuccessor::decode(&bytes), fds.next(), fds.next()) {
                        (Ok(Some(ToSuccessor::Logger { target })), Some(reader), Some(writer)) => {
                            received[7] += 1;
                            let process = fds.next().map(PidFd::from_owned);
                            all.loggers.push(Logger { target, reader, writer, process });
                        }
                        (Ok(Some(ToSuccessor::Listener { address, file })), Some(socket), _) => {
                            received[0] += 1;
                            all.listeners.push(Given { address, socket, file });
                        }
                        (Ok(Some(ToSuccessor::Control { address, file })), Some(socket), _) => {
                            received[1] += 1;
                            all.control = Some(Given { address, socket, file });
                        }
                        (Ok(Some(ToSuccessor::Relay)), Some(link), _) => {
                            received[2] += 1;
                            all.relay = Some(link);
                        }
                        (Ok(Some(ToSuccessor::RelayBack)), Some(link), _) => {
                            received[3] += 1;
                            all.relay_back = Some(link);
                        }
                        (Ok(Some(ToSuccessor::Record(record))), _, _) => {
                            received[4] += 1;
                            all.history.add(*record);
                        }
                        (Ok(Some(ToSuccessor::Keeper)), Some(keeper), _) => {
                            received[5] += 1;
                            all.keeper = Some(PidFd::from_owned(keeper));
                        }
                        (
                            Ok(Some(ToSuccessor::Older { generation, pid, ending, progress })),
                            Some(socket),
                            Some(process),
                        ) => {
                            received[6] += 1;
                            let (socket, process) = (Socket::from_owned(socket), PidFd::from_owned(process));
                            let link = PredecessorLink { socket, process };
                            all.older.push(OldLink { generation, pid, link, ending, progress });
                        }
                        (Ok(None), _, _) => {}
                        (Err(error), _, _) => return Err(lost(&error)),
                        (Ok(Some(_)), _, _) => return Err(lost(&"there is another message, or no socket")),
                    }
                }
                Packet::Nothing => return Err(lost(&"nothing was sent")),
                Packet::Closed => return Err(lost(&"the connection is closed")),
            }
        }
        Ok(all)
    }

    /// Stops reading. Returns the acknowledgement if it was sent before: whether a request is queued, and who
    /// requested it. If there is none, the predecessor's later attempt to send it fails, so the predecessor
    /// knows.
    ///
    /// # Errors
    /// Those of recvmsg(2); then it is unknown whether there was an acknowledgement.
    pub fn withdraw(&self) -> io::Result<Option<Acknowledged>> {
        self.socket.refuse_more()?;
        let mut acknowledged: Option<Acknowledged> = None;
        loop {
            let message = match self.receive()? {
                Some(FromPredecessor::Message(message)) => message,
                Some(FromPredecessor::Logger(_) | FromPredecessor::Reopen { .. }) => continue,
                Some(FromPredecessor::Start { .. } | FromPredecessor::Closed) | None => break,
            };
            match message {
                ToSuccessor::Acknowledge { upgrade_queued, by, hold } => {
                    acknowledged = Some(Acknowledged { upgrade_queued, by, hold });
                }
                // It was sent after the acknowledgement, and is read here or not at all.
                ToSuccessor::Upgrade { by } => {
                    acknowledged = acknowledged.map(|Acknowledged { by: first, hold, .. }| Acknowledged {
                        upgrade_queued: true,
                        by: first.or(by),
                        hold,
                    });
                }
                ToSuccessor::Abort { .. }
                | ToSuccessor::Hurry
                | ToSuccessor::RelayBack
                | ToSuccessor::Traffic
                | ToSuccessor::Keep
                | ToSuccessor::Signal { .. }
                | ToSuccessor::Main
                | ToSuccessor::Reopen
                | ToSuccessor::Hello(_)
                | ToSuccessor::Listener { .. }
                | ToSuccessor::Control { .. }
                | ToSuccessor::Relay
                | ToSuccessor::Keeper
                | ToSuccessor::Logger { .. }
                | ToSuccessor::Start { .. }
                | ToSuccessor::Hold { .. }
                | ToSuccessor::Record(_)
                | ToSuccessor::Older { .. }
                | ToSuccessor::OlderDraining { .. }
                | ToSuccessor::Draining { .. }
                | ToSuccessor::Answered { .. } => {}
            }
        }
        Ok(acknowledged)
    }

    /// The predecessor's process: its descriptor is readable once the process has exited.
    #[must_use]
    pub fn process(&self) -> &PidFd {
        &self.process
    }
}

impl AsFd for PredecessorLink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What operators read if two versions can't work together, or if there is no predecessor.
    #[test]
    fn the_refusals() {
        // Contract: V1
        let refusals = [
            NoHello::NoPredecessor { value: "9".to_owned(), cause: "no message waits there".to_owned() },
            NoHello::Versions { version: "9.9.9".to_owned(), theirs_oldest: 3, theirs: 4 },
            NoHello::Versions { version: "0.0.1".to_owned(), theirs_oldest: 0, theirs: 0 },
        ];
        let text: Vec<String> = refusals.iter().map(ToString::to_string).collect();
        let text = text.join("\n\n").replace(env!("CARGO_PKG_VERSION"), "OWN-VERSION");
        insta::assert_snapshot!("refusals", text);
    }
}
