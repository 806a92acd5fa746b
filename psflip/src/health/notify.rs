//! `notify`: the child itself reports that it is healthy, by `READY=1` on the socket in
//! `NOTIFY_SOCKET` (sd_notify(3)).
//!
//! The socket exists before the child does, and is read as long as psflip runs. It has an abstract
//! name (unix(7)) that the kernel chooses. That needs no directory, works for a child that changes
//! its user or its root directory, and leaves nothing behind when psflip is killed. A child in a
//! network namespace of its own can't reach it.
//!
//! Any process that knows the name can send, so only messages from the child's process tree count. A sender
//! that can't be looked up in /proc was reaped, or is hidden. Only the keeper can know whether it belongs to
//! the tree, so its messages are queued until the keeper has answered.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use crate::sys::datagram::{Datagrams, Sender};
use crate::sys::tree::{self, Membership};
use crate::text;

/// The longest message, in bytes: the limit of systemd (PIPE_BUF).
const LONGEST: usize = 4096;
/// How many messages are read at once, so that a flood can't keep psflip from its other work.
const BATCH: usize = 64;
/// How many messages from outside the tree are looked up in a row before the reader must pause. Any local
/// user may send to an abstract name, and each look-up reads /proc.
const STRANGERS: u32 = 64;
/// How many messages are queued until the keeper has answered. Further ones are refused.
const WAITING: usize = 32;
/// How much of a status is kept, in characters.
const SHOWN: usize = 300;

/// The socket for a child's messages, and their content so far.
#[derive(Debug)]
pub struct Notifications {
    socket: Datagrams,
    ready: bool,
    /// `STOPPING=1` or `ERRNO=` has followed `READY=1`.
    given_up: bool,
    stopping: bool,
    status: Option<String>,
    errno: Option<i32>,
    exit_status: Option<u8>,
    /// How many messages were accepted.
    accepted: u64,
    /// How many messages were refused, and the sender of the last one.
    strangers: u64,
    last_stranger: Option<Sender>,
    /// How many were refused since the last accepted message, or the last pause.
    strangers_in_a_row: u32,
    logged_descriptors: bool,
    /// Messages of senders that only the keeper may know.
    waiting: Vec<Waiting>,
}

/// A message that is queued until the keeper has said whether its sender belongs to the child's process tree.
#[derive(Debug)]
struct Waiting {
    sender: Sender,
    message: NotifyMessage,
    /// The keeper got a query about the sender.
    queried: bool,
}

/// The result of one look at the socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NotifyUpdate {
    /// `READY=1`.
    pub ready: bool,
    /// The longest time that the child requested by `EXTEND_TIMEOUT_USEC=`, from now.
    pub extend: Option<Duration>,
    /// After `READY=1`: `STOPPING=1` or `ERRNO=`.
    pub gives_up: bool,
    /// Messages from outside the tree flood the socket: pause before reading it again.
    pub flooded: bool,
}

impl Notifications {
    /// Opens the socket.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Datagrams::open()?,
            ready: false,
            given_up: false,
            stopping: false,
            status: None,
            errno: None,
            exit_status: None,
            accepted: 0,
            strangers: 0,
            last_stranger: None,
            strangers_in_a_row: 0,
            logged_descriptors: false,
            waiting: Vec::new(),
        })
    }

    /// The value of `NOTIFY_SOCKET`: `@` stands for the NUL before an abstract name.
    #[must_use]
    pub fn address(&self) -> String {
        format!("@{}", self.socket.name())
    }

    /// Whether the child has ever sent `READY=1`.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    /// Whether `STOPPING=1` or `ERRNO=` has followed `READY=1`.
    #[must_use]
    pub fn has_given_up(&self) -> bool {
        self.given_up
    }

    /// The last status that the child sent by `STATUS=`, on one line.
    #[must_use]
    pub fn status(&self) -> Option<&str> {
        self.status.as_deref()
    }

    /// Reads a limited number of messages; the descriptor stays readable for the rest. `keeper`: the keeper
    /// of the child's tree. `child`: the child's pid, once it is known.
    ///
    /// # Errors
    /// ENOMEM.
    pub fn receive(&mut self, keeper: u32, child: Option<u32>) -> io::Result<NotifyUpdate> {
        let mut update = NotifyUpdate::default();
        let mut buffer = [0; LONGEST];
        for _ in 0..BATCH {
            let Some(datagram) = self.socket.receive(&mut buffer)? else { break };
            let message = NotifyMessage::parse(&buffer[..datagram.length]);
            let origin = datagram.sender.map_or(Origin::Elsewhere, |sender| origin(sender, keeper, child));
            if origin != Origin::Tree && message.is_only_a_barrier() {
                // Receiving it has closed its descriptor, for which its sender waited. So that one may have
                // exited before it could be looked up, and the message contains nothing that could be false.
                self.strangers_in_a_row += 1; // a flood of them is slowed down as well
                if origin == Origin::Elsewhere {
                    self.last_stranger = datagram.sender.or(self.last_stranger);
                }
                continue;
            }
            if origin == Origin::Elsewhere || self.waiting.len() >= WAITING && origin == Origin::Unknown {
                self.refuse(datagram.sender);
                continue;
            }
            if datagram.truncated {
                tracing::debug!(longest = LONGEST, "a message on NOTIFY_SOCKET is too long and ignored");
                continue;
            }
            if let (Origin::Unknown, Some(sender)) = (origin, datagram.sender) {
                self.waiting.push(Waiting { sender, message, queried: false });
                continue;
            }
            if datagram.had_descriptors
                && !message.barrier
                && !std::mem::replace(&mut self.logged_descriptors, true)
            {
                tracing::debug!(
                    "the child sent descriptors to NOTIFY_SOCKET; psflip stores none and closes them"
                );
            }
            self.take(message, &mut update);
        }
        if self.strangers_in_a_row >= STRANGERS {
            self.strangers_in_a_row = 0;
            update.flooded = true;
        }
        Ok(update)
    }

    /// The last process whose messages were refused.
    #[must_use]
    pub fn last_stranger(&self) -> Option<Sender> {
        self.last_stranger
    }

    fn take(&mut self, message: NotifyMessage, update: &mut NotifyUpdate) {
        self.accepted = self.accepted.saturating_add(1);
        self.strangers_in_a_row = 0;
        update.ready |= message.ready;
        if (self.ready || message.ready) && (message.stopping || message.errno.is_some()) {
            (self.given_up, update.gives_up) = (true, true);
        }
        update.extend = update.extend.max(message.extend);
        self.record(message);
    }

    /// The senders about which the keeper must get a query, each once. Pass the answers to
    /// [`Notifications::answer`].
    pub fn take_queries(&mut self) -> Vec<u32> {
        let new = self.waiting.iter_mut().filter(|waiting| !waiting.queried);
        let mut pids: Vec<u32> = new
            .map(|waiting| {
                waiting.queried = true;
                waiting.sender.pid
            })
            .collect();
        pids.dedup();
        pids
    }

    /// Records the keeper's answer: whether this sender belongs to the child's process tree.
    pub fn answer(&mut self, pid: u32, belongs: bool) -> NotifyUpdate {
        let mut update = NotifyUpdate::default();
        let (answered, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|waiting| waiting.queried && waiting.sender.pid == pid);
        self.waiting = waiting;
        for Waiting { sender, message, .. } in answered {
            if belongs {
                self.take(message, &mut update);
            } else {
                self.refuse(Some(sender));
            }
        }
        update
    }

    fn record(&mut self, message: NotifyMessage) {
        self.ready |= message.ready;
        self.stopping |= message.stopping;
        self.errno = message.errno.or(self.errno);
        self.exit_status = message.exit_status.or(self.exit_status);
        if message.status.is_some() && message.status != self.status {
            tracing::debug!(status = message.status, "child reports its status");
            self.status = message.status;
        }
    }

    fn refuse(&mut self, sender: Option<Sender>) {
        self.strangers = self.strangers.saturating_add(1);
        self.strangers_in_a_row += 1;
        self.last_stranger = sender.or(self.last_stranger);
        if self.strangers == 1 {
            let (pid, uid) = sender.map_or((0, 0), |sender| (sender.pid, sender.uid));
            tracing::warn!(
                pid,
                uid,
                "ignoring messages on NOTIFY_SOCKET from a process that is not below the child, or exited before it could be looked \
                 up; a sender must live until its message is read, as `systemd-notify` and sd_notify_barrier(3) do"
            );
        }
    }

    /// Why there is no `READY=1`.
    #[must_use]
    pub fn why_not_ready(&self) -> String {
        let mut why = "no READY=1 came to $NOTIFY_SOCKET".to_owned();
        if self.accepted == 0 && self.strangers == 0 {
            why += ", nor anything else: the child has to send it when it can serve, by sd_notify(3) or `systemd-notify --ready`";
        }
        if let Some(Sender { pid, .. }) = self.last_stranger {
            why += &format!(
                "; {} of other processes, the last of pid {pid}, did not count",
                if self.strangers == 1 { "a message" } else { "messages" }
            );
        }
        if let Some(words) = self.last_words() {
            why += &format!("; {words}");
        }
        why
    }

    /// The status and errors that the child reported, if any.
    #[must_use]
    pub fn last_words(&self) -> Option<String> {
        let mut words = Vec::new();
        if let Some(status) = &self.status {
            words.push(format!("its status is `{status}`"));
        }
        if let Some(errno) = self.errno {
            words.push(format!("it reported ERRNO={errno} ({})", io::Error::from_raw_os_error(errno)));
        }
        if let Some(code) = self.exit_status {
            words.push(format!("it reported EXIT_STATUS={code}"));
        }
        if self.stopping {
            words.push("it reported STOPPING=1".to_owned());
        }
        (!words.is_empty()).then(|| words.join("; "))
    }
}

impl AsFd for Notifications {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Where a message comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// The child's process tree.
    Tree,
    /// Another process.
    Elsewhere,
    /// The sender can't be looked up: it was reaped, or is hidden.
    Unknown,
}

fn origin(sender: Sender, keeper: u32, child: Option<u32>) -> Origin {
    // systemd-notify(1) as root sends with the pid of its parent, which is the keeper if the real parent has
    // exited. A keeper itself sends nothing.
    if sender.pid == keeper || Some(sender.pid) == child {
        return Origin::Tree;
    }
    if sender.pid == 0 {
        return Origin::Elsewhere;
    }
    match tree::membership(sender.pid, keeper) {
        Membership::Below => Origin::Tree,
        Membership::Elsewhere => Origin::Elsewhere,
        Membership::Gone => Origin::Unknown,
    }
}

/// The fields of a message that psflip uses. Other fields are for a service manager (`MAINPID=`,
/// `RELOADING=1`, `WATCHDOG=1`, `FDSTORE=1`, ...), or only need their descriptor to be closed (`BARRIER=1`).
#[derive(Debug, Default, PartialEq, Eq)]
struct NotifyMessage {
    ready: bool,
    stopping: bool,
    status: Option<String>,
    extend: Option<Duration>,
    errno: Option<i32>,
    exit_status: Option<u8>,
    /// The attached descriptor must only be closed.
    barrier: bool,
}

impl NotifyMessage {
    fn is_only_a_barrier(&self) -> bool {
        *self == Self { barrier: true, ..Self::default() }
    }

    fn parse(bytes: &[u8]) -> Self {
        let mut message = Self::default();
        for line in bytes.split(|byte| *byte == b'\n') {
            let Some(equals) = line.iter().position(|byte| *byte == b'=') else { continue };
            let value = &line[equals + 1..];
            match &line[..equals] {
                b"READY" => message.ready |= value == b"1",
                b"BARRIER" => message.barrier |= value == b"1",
                b"STOPPING" => message.stopping |= value == b"1",
                b"STATUS" => message.status = Some(text::head(String::from_utf8_lossy(value).trim(), SHOWN)),
                b"EXTEND_TIMEOUT_USEC" => {
                    message.extend = number(value).map(Duration::from_micros).or(message.extend);
                }
                b"ERRNO" => message.errno = number(value).filter(|errno| *errno > 0).or(message.errno),
                b"EXIT_STATUS" => message.exit_status = number(value).or(message.exit_status),
                _ => {}
            }
        }
        message
    }
}

fn number<T: std::str::FromStr>(value: &[u8]) -> Option<T> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_a_message_is_read() {
        // Contract: H1
        let text = b"MAINPID=4\nSTATUS= half \x1b[1m way\nERRNO=2\nEXIT_STATUS=7\nSTOPPING=1\nWATCHDOG=1\nREADY=1\nEXTEND_TIMEOUT_USEC=1500000\nBARRIER=1";
        let wanted = NotifyMessage {
            ready: true,
            stopping: true,
            status: Some("half \\u{1b}[1m way".into()),
            extend: Some(Duration::from_millis(1500)),
            errno: Some(2),
            exit_status: Some(7),
            barrier: true,
        };
        assert_eq!(NotifyMessage::parse(text), wanted);
    }

    #[test]
    fn invalid_messages_are_ignored() {
        // Contract: X2
        for text in [
            b"".as_slice(),
            b"READY",
            b"READY=0",
            b"READY=11",
            b"ready=1",
            b" READY=1",
            b"XREADY=1",
            b"=1\n=\n\n",
            b"\0READY=1",
            b"ERRNO=-1\nERRNO=x\nEXIT_STATUS=256\nEXTEND_TIMEOUT_USEC=-1\nEXTEND_TIMEOUT_USEC=",
        ] {
            assert_eq!(NotifyMessage::parse(text), NotifyMessage::default(), "{}", text.escape_ascii());
        }
        let long = [b"STATUS=".as_slice(), &[0xff; 4000]].concat();
        assert_eq!(NotifyMessage::parse(&long).status.unwrap().chars().count(), SHOWN + 1);
    }

    #[test]
    fn the_longest_extension_does_not_overflow() {
        // Contract: X2
        let message = NotifyMessage::parse(b"EXTEND_TIMEOUT_USEC=18446744073709551615");
        assert_eq!(message.extend, Some(Duration::from_micros(u64::MAX)));
        assert_eq!(NotifyMessage::parse(b"EXTEND_TIMEOUT_USEC=18446744073709551616").extend, None);
    }

    #[test]
    fn only_floods_from_foreign_senders_pause_reading() {
        // Contract: H5
        let mut notifications = Notifications::open().unwrap();
        let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
        sender.set_nonblocking(true).unwrap();
        let name =
            <std::os::unix::net::SocketAddr as std::os::linux::net::SocketAddrExt>::from_abstract_name(
                notifications.socket.name(),
            )
            .unwrap();
        // This process is not below a keeper with pid 1, so its messages are refused. They are
        // accepted if it is the child itself.
        let mut receive_after = |message: &[u8], count: u32, child: Option<u32>| {
            let mut floods = 0;
            for _ in 0..count {
                sender.send_to_addr(message, &name).unwrap();
                floods += u32::from(notifications.receive(u32::MAX, child).unwrap().flooded);
            }
            floods
        };
        let status = b"STATUS=x".as_slice();
        assert_eq!(receive_after(status, 2 * STRANGERS, None), 2);
        assert_eq!(receive_after(status, STRANGERS - 1, None), 0);
        assert_eq!(receive_after(status, 2 * STRANGERS, Some(std::process::id())), 0);
        assert_eq!(receive_after(status, STRANGERS - 1, None), 0);
        assert_eq!(receive_after(status, 1, None), 1);
        // Who floods by nothing but barriers is named as well.
        notifications.last_stranger = None;
        let mut receive_after = |count: u32| {
            (0..count).any(|_| {
                sender.send_to_addr(b"BARRIER=1", &name).unwrap();
                notifications.receive(u32::MAX, None).unwrap().flooded
            })
        };
        assert!(receive_after(STRANGERS));
        assert_eq!(notifications.last_stranger().map(|sender| sender.pid), Some(std::process::id()));
    }

    #[test]
    fn only_what_follows_ready_gives_it_up() {
        // Contract: H6
        let given_up = |messages: &[&str]| {
            let mut notifications = Notifications::open().unwrap();
            let mut update = NotifyUpdate::default();
            for message in messages {
                notifications.take(NotifyMessage::parse(message.as_bytes()), &mut update);
            }
            update.gives_up
        };
        for end in ["STOPPING=1", "STATUS=broken\nERRNO=5"] {
            assert!(given_up(&["READY=1", end]), "{end}");
            assert!(given_up(&[&format!("{end}\nREADY=1")]), "{end}, in one message");
            assert!(!given_up(&[end, "READY=1"]), "{end}, before");
        }
        assert!(!given_up(&["READY=1", "STATUS=fine\nERRNO=0\nWATCHDOG=1\nRELOADING=1", "READY=1"]));
    }

    #[test]
    fn the_reason_has_advice_and_the_known_facts() {
        // Contract: H4
        let mut notifications = Notifications::open().unwrap();
        assert!(
            notifications
                .why_not_ready()
                .contains("nor anything else: the child has to send it when it can serve")
        );
        notifications.accepted = 1;
        notifications.record(NotifyMessage::parse(b"STATUS=loading\nERRNO=111\nEXIT_STATUS=9\nSTOPPING=1"));
        notifications.refuse(Some(Sender { pid: 77, uid: 0 }));
        assert_eq!(
            notifications.why_not_ready(),
            "no READY=1 came to $NOTIFY_SOCKET; a message of other processes, the last of pid 77, did not count; its status is \
             `loading`; it reported ERRNO=111 (Connection refused (os error 111)); it reported EXIT_STATUS=9; it reported STOPPING=1"
        );
    }
}
