//! The messages to systemd, or to any other service manager that sets `NOTIFY_SOCKET` (sd_notify(3)).
//!
//! Nothing here waits. If the service manager's queue is full, a datagram is queued and sent in
//! its order as soon as there is room.

use std::collections::VecDeque;
use std::fmt::{Display, Write as _};
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use nix::sys::statfs::{FsType, fstatfs};
use nix::time::{ClockId, clock_gettime};

use crate::sys::errors::is_transient;
use crate::sys::pidfd::PidFd;
use crate::sys::seam::{self, Call};
use crate::text;

/// The longest status, in characters: systemd reads datagrams of up to 4096 bytes, and
/// shows the status in one line.
const LONGEST_STATUS: usize = 800;
/// How many datagrams are queued for a service manager that does not read. The oldest
/// ones are dropped for newer ones.
const MOST_WAITING: usize = 64;
/// How often to retry when the kernel lacks memory.
const MOST_RETRIES: u32 = 10;
/// The file system of pidfds, on which each process has an inode of its own (Linux 6.9).
const PID_FS: FsType = FsType(0x5049_4446);

/// One datagram: assignments, one on each line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ManagerMessage(String);

impl ManagerMessage {
    /// An empty message.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    #[cfg(test)]
    fn as_str(&self) -> &str {
        &self.0
    }

    fn assign(mut self, name: &str, value: impl Display) -> Self {
        if !self.0.is_empty() {
            self.0.push('\n');
        }
        let _ = write!(self.0, "{name}={value}"); // writing to a String can't fail
        self
    }

    /// The service is ready, or ready again. Never together with [`ManagerMessage::reloading`]: which of the
    /// two counts depends on the version of systemd.
    #[must_use]
    pub fn ready(self) -> Self {
        self.assign("READY", 1)
    }

    /// An upgrade begins, now by the monotonic clock. `Type=notify-reload` needs that time, to know that it
    /// is later than the request.
    #[must_use]
    pub fn reloading(self) -> Self {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).map(Duration::from).unwrap_or_default();
        self.assign("RELOADING", 1).assign("MONOTONIC_USEC", now.as_micros())
    }

    /// The service is about to exit, which can't be stopped any more.
    #[must_use]
    pub fn stopping(self) -> Self {
        self.assign("STOPPING", 1)
    }

    /// The service's main process from now on. `process`: adds a number that the kernel never uses again, if
    /// there is one (systemd 257 and later).
    #[must_use]
    pub fn main_pid(self, pid: u32, process: Option<&PidFd>) -> Self {
        let message = self.assign("MAINPID", pid);
        match process.and_then(|process| inode(process.as_fd())) {
            Some(inode) => message.assign("MAINPIDFDID", inode),
            None => message,
        }
    }

    /// The service is alive.
    #[must_use]
    pub fn watchdog(self) -> Self {
        self.assign("WATCHDOG", 1)
    }

    /// The current operation may take this long from now.
    #[must_use]
    pub fn extend_timeout(self, time: Duration) -> Self {
        self.assign("EXTEND_TIMEOUT_USEC", time.as_micros())
    }

    /// The status text of `systemctl status`.
    #[must_use]
    pub fn status(self, status: &str) -> Self {
        self.assign("STATUS", text::head(status, LONGEST_STATUS))
    }

    /// The system call error because of which the service exits.
    #[must_use]
    pub fn errno(self, errno: i32) -> Self {
        self.assign("ERRNO", errno)
    }

    /// Store the attached socket under this name until it is removed, even if its other end is closed.
    #[must_use]
    pub fn store(self, name: &str) -> Self {
        self.assign("FDSTORE", 1).assign("FDPOLL", 0).assign("FDNAME", name)
    }

    /// Remove the stored socket.
    #[must_use]
    pub fn store_no_more(self, name: &str) -> Self {
        self.assign("FDSTOREREMOVE", 1).assign("FDNAME", name)
    }

    /// The service's exit code.
    #[must_use]
    pub fn exit_status(self, code: u8) -> Self {
        self.assign("EXIT_STATUS", code)
    }
}

/// The inode of a pidfd, if it identifies one process for ever.
fn inode(process: BorrowedFd<'_>) -> Option<u64> {
    let is_unique = fstatfs(process).is_ok_and(|of| of.filesystem_type() == PID_FS);
    is_unique.then(|| nix::sys::stat::fstat(process).ok().map(|stat| stat.st_ino)).flatten()
}

/// The interval of keep-alive messages that the service manager expects: half of its timeout
/// (sd_watchdog_enabled(3)). `None`: it expects none, or from another process.
#[must_use]
pub fn watchdog_interval(variable: impl Fn(&str) -> Option<String>, pid: u32) -> Option<Duration> {
    let time: u64 = variable("WATCHDOG_USEC")?.parse().ok()?;
    let is_ours = variable("WATCHDOG_PID").is_none_or(|text| text.parse() == Ok(pid));
    (is_ours && time > 0).then(|| Duration::from_micros((time / 2).max(1)))
}

/// Whether the service manager stores descriptors. systemd 254 and later set `FDSTORE`; for
/// earlier versions the unit must set it.
#[must_use]
pub fn keeps_descriptors(variable: impl Fn(&str) -> Option<String>) -> bool {
    variable("FDSTORE").and_then(|most| most.parse::<u32>().ok()).is_some_and(|most| most > 0)
}

/// A datagram that waits for room in the service manager's queue.
#[derive(Debug)]
struct Waiting {
    message: ManagerMessage,
    fd: Option<OwnedFd>,
}

/// The connection to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: OwnedFd,
    address: UnixAddr,
    /// The address as it was given.
    name: String,
    waiting: VecDeque<Waiting>,
    /// How often in a row the kernel lacked memory for the first queued datagram.
    failures: u32,
    /// The failure to notify has been logged.
    complained: bool,
}

impl Notifier {
    /// For an address as in `NOTIFY_SOCKET`: a path, or `@` and an abstract name. The
    /// socket need not exist yet.
    ///
    /// # Errors
    /// EINVAL: not such an address. ENAMETOOLONG: too long for an address. EMFILE, ENFILE, ENOMEM.
    pub fn new(name: &str) -> io::Result<Self> {
        let address = match name.strip_prefix('@') {
            Some(name) => UnixAddr::new_abstract(name.as_bytes())?,
            None if name.starts_with('/') => UnixAddr::new(name)?,
            None => return Err(Errno::EINVAL.into()),
        };
        let name = name.to_owned();
        Ok(Self { socket: open()?, address, name, waiting: VecDeque::new(), failures: 0, complained: false })
    }

    /// Sends a message, with a descriptor, or queues it if others are queued or there is no room. A failure
    /// to notify the service manager is logged once. Returns false if the message was queued.
    pub fn send(&mut self, message: ManagerMessage, fd: Option<BorrowedFd<'_>>) -> bool {
        if !self.waits() {
            match self.try_send(&message, fd) {
                Ok(()) => return true,
                Err(errno) if is_worth_a_retry(errno) => self.connect(),
                Err(errno) => {
                    self.complain(errno);
                    return true;
                }
            }
        }
        if self.waiting.len() == MOST_WAITING {
            self.waiting.pop_front();
        }
        // If the descriptor can't be copied, the message is queued without it.
        let fd = fd.and_then(|fd| crate::sys::fd::duplicate(fd.as_raw_fd()).ok());
        self.waiting.push_back(Waiting { message, fd });
        false
    }

    /// Whether messages are queued. Then [`Notifier::as_fd`] must be watched for room.
    #[must_use]
    pub fn waits(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Sends queued messages, as far as there is room.
    pub fn go_on(&mut self) {
        while let Some(Waiting { message, fd }) = self.waiting.pop_front() {
            match self.try_send(&message, fd.as_ref().map(AsFd::as_fd)) {
                Ok(()) => self.failures = 0,
                Err(errno) if is_worth_a_retry(errno) && self.failures < MOST_RETRIES => {
                    // The kernel reports room in the queue, but not free memory.
                    self.failures += u32::from(errno != Errno::EAGAIN);
                    self.waiting.push_front(Waiting { message, fd });
                    return;
                }
                Err(errno) => self.complain(errno),
            }
        }
    }

    fn try_send(
        &self,
        ManagerMessage(text): &ManagerMessage,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(), Errno> {
        let raw: Vec<RawFd> = fd.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let rights: &[_] = if raw.is_empty() { &[] } else { &rights };
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        loop {
            let sent = seam::before(Call::Sendmsg).and_then(|()| {
                let part = [IoSlice::new(text.as_bytes())];
                sendmsg(self.socket.as_raw_fd(), &part, rights, flags, Some(&self.address))
            });
            match sent {
                Err(Errno::EINTR) => {}
                other => return other.map(drop),
            }
        }
    }

    /// Only a connected socket becomes writable when the receiver has room.
    fn connect(&self) {
        if let Err(error) = connect(self.socket.as_raw_fd(), &self.address) {
            tracing::debug!(%error, "can't wait for the service manager");
        }
    }

    fn complain(&mut self, errno: Errno) {
        if std::mem::replace(&mut self.complained, true) {
            return;
        }
        let error = io::Error::from(errno);
        tracing::warn!(socket = self.name, %error, "can't notify the service manager (NOTIFY_SOCKET); the service is not affected");
    }
}

/// Sends a message to the service manager at this address, if there is one: for a psflip that fails to start.
pub fn send(name: Option<String>, message: ManagerMessage) {
    if let Some(mut notifier) = name.and_then(|name| Notifier::new(&name).ok()) {
        notifier.send(message, None);
    }
}

impl AsFd for Notifier {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Whether a retry may succeed. That includes EAGAIN: messages wait until the service manager reads.
fn is_worth_a_retry(errno: Errno) -> bool {
    errno == Errno::EAGAIN || is_transient(&errno.into())
}

fn open() -> Result<OwnedFd, Errno> {
    seam::before(Call::Socket)?;
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    socket(AddressFamily::Unix, SockType::Datagram, flags, None)
}

/// What journalctl(1) needs to show a unit of a user's systemd, by the text of proc_pid_cgroup(5).
pub(crate) fn user_option(groups: &str) -> &'static str {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    if path.contains("/user@") { "--user " } else { "" }
}

/// The systemd service in a text of proc_pid_cgroup(5).
pub(crate) fn unit_of(groups: &str) -> Option<String> {
    let path = groups.lines().find_map(|line| line.strip_prefix("0::"))?;
    let unit = path.rsplit('/').find(|part| part.ends_with(".service") && !part.starts_with("user@"))?;
    Some(unit.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::datagram::Datagrams;

    fn received(datagrams: &Datagrams) -> Option<String> {
        let mut buffer = [0; 4096];
        let datagram = datagrams.receive(&mut buffer).unwrap()?;
        Some(String::from_utf8(buffer[..datagram.length].to_vec()).unwrap())
    }

    #[test]
    fn a_message_has_one_assignment_per_line() {
        let message =
            ManagerMessage::new().main_pid(7, None).ready().watchdog().status("generation 2\nis there");
        assert_eq!(message.as_str(), "MAINPID=7\nREADY=1\nWATCHDOG=1\nSTATUS=generation 2\\nis there");
        let message =
            ManagerMessage::new().extend_timeout(Duration::from_millis(1500)).errno(2).exit_status(127);
        assert_eq!(message.as_str(), "EXTEND_TIMEOUT_USEC=1500000\nERRNO=2\nEXIT_STATUS=127");
        assert!(ManagerMessage::new().status(&"ü".repeat(5000)).as_str().len() < 4096);
    }

    #[test]
    fn a_reload_message_has_its_start_time() {
        let now = || Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_micros();
        let before = now();
        let message = ManagerMessage::new().reloading();
        let time: u128 =
            message.as_str().strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().parse().unwrap();
        assert!((before..=now()).contains(&time), "{time}");
    }

    #[test]
    fn a_process_is_identified_by_its_pidfd_inode_where_it_is_unique() {
        let process = PidFd::open(std::process::id()).unwrap();
        let message = ManagerMessage::new().main_pid(7, Some(&process));
        let text = message.as_str();
        let of = fstatfs(process.as_fd()).unwrap();
        assert_eq!(text.contains("\nMAINPIDFDID="), of.filesystem_type() == PID_FS, "{text}");
        assert_eq!(inode(std::fs::File::open("/proc/self/stat").unwrap().as_fd()), None);
    }

    #[test]
    fn watchdog_pings_are_due_at_half_the_time_from_the_named_pid_only() {
        let interval = |usec: &str, pid: Option<&str>| {
            let variable = |name: &str| match name {
                "WATCHDOG_USEC" => Some(usec.to_owned()),
                "WATCHDOG_PID" => pid.map(str::to_owned),
                _ => None,
            };
            watchdog_interval(variable, 7)
        };
        assert_eq!(interval("3000000", Some("7")), Some(Duration::from_millis(1500)));
        assert_eq!(interval("3000000", None), Some(Duration::from_millis(1500)));
        assert_eq!(interval("1", None), Some(Duration::from_micros(1)));
        for (usec, pid) in
            [("3000000", Some("8")), ("3000000", Some("x")), ("0", None), ("x", None), ("-1", None)]
        {
            assert_eq!(interval(usec, pid), None, "{usec} {pid:?}");
        }
        assert_eq!(watchdog_interval(|_| None, 7), None);
    }

    #[test]
    fn an_address_is_a_path_or_an_abstract_name() {
        // Contract: X2
        let long = format!("/{}", "x".repeat(200));
        for (name, errno) in [
            ("", libc::EINVAL),
            ("relative/path", libc::EINVAL),
            ("vsock:2:1234", libc::EINVAL),
            (&long, libc::ENAMETOOLONG),
        ] {
            assert_eq!(Notifier::new(name).unwrap_err().raw_os_error(), Some(errno), "{name}");
        }
        assert!(Notifier::new("/run/systemd/notify").is_ok());
    }

    #[test]
    fn messages_for_a_full_socket_are_sent_later_in_order() {
        let datagrams = Datagrams::open().unwrap();
        let mut notifier = Notifier::new(&format!("@{}", datagrams.name())).unwrap();
        let message = |number: usize| ManagerMessage::new().status(&number.to_string());
        let mut sent = 0;
        while notifier.send(message(sent), None) {
            sent += 1;
        }
        assert!(notifier.waits());
        assert!(!notifier.send(message(sent + 1), None), "not before the one that waits");
        notifier.go_on();
        assert!(notifier.waits(), "there is no room yet");
        for number in 0..sent {
            assert_eq!(received(&datagrams), Some(format!("STATUS={number}")));
        }
        let mut fds = [nix::poll::PollFd::new(notifier.as_fd(), nix::poll::PollFlags::POLLOUT)];
        assert_eq!(nix::poll::poll(&mut fds, 30_000_u16), Ok(1), "the kernel tells of the room");
        notifier.go_on();
        assert!(!notifier.waits());
        assert_eq!(received(&datagrams), Some(format!("STATUS={sent}")));
        assert_eq!(received(&datagrams), Some(format!("STATUS={}", sent + 1)));
        assert_eq!(received(&datagrams), None);
    }

    #[test]
    fn sending_is_retried_a_bounded_number_of_times_without_memory() {
        // Contract: F10
        for errno in [Errno::ENOBUFS, Errno::ENOMEM] {
            let datagrams = Datagrams::open().unwrap();
            let mut notifier = Notifier::new(&format!("@{}", datagrams.name())).unwrap();
            let mut fails = |work: &mut dyn FnMut(&mut Notifier)| {
                seam::testing::with(Some((0, errno)), || work(&mut notifier)).1.len()
            };
            fails(&mut |notifier| assert!(!notifier.send(ManagerMessage::new().ready(), None)));
            for _ in 0..MOST_RETRIES {
                fails(&mut |notifier| {
                    notifier.go_on();
                    assert!(notifier.waits());
                });
            }
            assert_eq!(received(&datagrams), None);
            notifier.go_on();
            assert_eq!(received(&datagrams).as_deref(), Some("READY=1"));
            seam::testing::with(Some((0, errno)), || notifier.send(ManagerMessage::new().ready(), None));
            for _ in 0..=MOST_RETRIES {
                assert!(notifier.waits());
                seam::testing::with(Some((0, errno)), || notifier.go_on());
            }
            assert!(!notifier.waits() && notifier.complained);
        }
    }

    #[test]
    fn a_service_manager_that_never_reads_costs_bounded_memory() {
        // Contract: X2
        let datagrams = Datagrams::open().unwrap();
        let mut notifier = Notifier::new(&format!("@{}", datagrams.name())).unwrap();
        let mut number = 0;
        while notifier.send(ManagerMessage::new().status("fill"), None) {}
        for _ in 0..2 * MOST_WAITING {
            number += 1;
            notifier.send(ManagerMessage::new().status(&number.to_string()), None);
        }
        assert_eq!(notifier.waiting.len(), MOST_WAITING);
        assert_eq!(
            notifier.waiting.back().unwrap().message,
            ManagerMessage::new().status(&number.to_string())
        );
    }

    #[test]
    fn a_missing_service_manager_is_not_waited_for() {
        // Contract: F10
        let mut notifier = Notifier::new("/nowhere/notify").unwrap();
        assert!(notifier.send(ManagerMessage::new().ready(), None));
        assert!(!notifier.waits() && notifier.complained);
        let (sent, calls) = seam::testing::with(Some((0, Errno::EINTR)), || {
            notifier.send(ManagerMessage::new().ready(), None)
        });
        assert!(sent);
        assert_eq!(calls, [Call::Sendmsg, Call::Sendmsg], "an interruption is no failure");
    }

    #[test]
    fn the_unit_is_found_in_the_control_group() {
        let unit = |text| unit_of(text).unwrap_or_default();
        assert_eq!(unit("0::/system.slice/app.service\n"), "app.service");
        assert_eq!(unit("0::/system.slice/system-psflip.slice/psflip@a.service/x\n"), "psflip@a.service");
        assert_eq!(unit("0::/user.slice/user-0.slice/user@0.service/init.scope\n"), "");
        assert_eq!(unit("1:name=systemd:/a.service\n"), "");
        assert_eq!(user_option("0::/system.slice/app.service\n"), "");
        assert_eq!(
            user_option("0::/user.slice/user-7.slice/user@7.service/app.slice/app.service\n"),
            "--user "
        );
    }
}
