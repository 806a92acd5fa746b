//! A stand-in for a service manager's notification socket (sd_notify(3)). It records every datagram in order,
//! with the sender's pid from the kernel and the descriptors that came with it.

use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

use crate::report;
use crate::wait::Deadline;

/// One notification datagram.
#[derive(Clone, Debug)]
pub struct Notice {
    /// The sender's pid.
    pub pid: u32,
    /// Assignments, one per line.
    pub text: String,
    /// The descriptors that came with it.
    pub fds: Vec<Arc<OwnedFd>>,
}

impl Notice {
    /// Whether it contains this line, for example `READY=1`.
    #[must_use]
    pub fn has(&self, line: &str) -> bool {
        self.text.lines().any(|other| other == line)
    }

    /// The value assigned to this name.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))
    }
}

#[derive(Debug, Default)]
struct Inbox {
    notices: Mutex<Vec<Notice>>,
    changed: Condvar,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Vec<Notice>> {
        self.notices.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The receiving end of a notification socket.
#[derive(Debug)]
pub struct NotifyManager {
    socket: Arc<UnixDatagram>,
    inbox: Arc<Inbox>,
    reader: Option<JoinHandle<()>>,
}

impl NotifyManager {
    /// Binds a socket to `path`, for `NOTIFY_SOCKET`, and starts to read it.
    ///
    /// # Panics
    /// If the path can't be bound.
    #[must_use]
    pub fn bind(path: &Path) -> Self {
        let mut manager = Self::bind_deaf(path);
        manager.start_reading();
        manager
    }

    /// [`NotifyManager::bind`], but nothing is read until [`NotifyManager::start_reading`] is called, so the
    /// queue fills up.
    ///
    /// # Panics
    /// If the path can't be bound.
    #[must_use]
    pub fn bind_deaf(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path)
            .unwrap_or_else(|error| report::fail(&format!("can't bind {}: {error}", path.display())));
        setsockopt(&socket, sockopt::PassCred, &true)
            .unwrap_or_else(|error| report::fail(&format!("can't request credentials: {error}")));
        Self { socket: Arc::new(socket), inbox: Arc::default(), reader: None }
    }

    /// Starts to read: what is queued, and what arrives later.
    pub fn start_reading(&mut self) {
        let (socket, inbox) = (Arc::clone(&self.socket), Arc::clone(&self.inbox));
        self.reader = Some(std::thread::spawn(move || {
            while let Ok(Some(notice)) = receive(&socket) {
                inbox.lock().push(notice);
                inbox.changed.notify_all();
            }
        }));
    }

    /// Fills the queue of a socket that nothing reads yet, and returns the number of datagrams.
    ///
    /// # Panics
    /// If no socket can be created.
    #[must_use]
    pub fn fill(&self, path: &Path) -> usize {
        let sender = UnixDatagram::unbound().and_then(|sender| {
            sender.set_nonblocking(true)?;
            Ok(sender)
        });
        let sender = sender.unwrap_or_else(|error| report::fail(&format!("can't fill the queue: {error}")));
        let mut count = 0;
        while sender.send_to(b"X_FILL=1", path).is_ok() {
            count += 1;
        }
        count
    }

    /// All notifications so far, in order.
    #[must_use]
    pub fn notices(&self) -> Vec<Notice> {
        self.inbox.lock().clone()
    }

    /// The number of notifications so far: a mark for [`NotifyManager::wait_after`].
    #[must_use]
    pub fn mark(&self) -> usize {
        self.inbox.lock().len()
    }

    /// Waits for a notification whose text contains `part`, and returns the first, which may already be
    /// there.
    ///
    /// # Panics
    /// If none arrives within the default deadline.
    #[track_caller]
    pub fn wait(&self, part: &str) -> Notice {
        self.wait_after(0, part)
    }

    /// [`NotifyManager::wait`], but only for notifications after `mark`.
    ///
    /// # Panics
    /// See [`NotifyManager::wait`].
    #[track_caller]
    pub fn wait_after(&self, mark: usize, part: &str) -> Notice {
        self.wait_for(&format!("a notice with `{part}`"), |notices| {
            notices.iter().skip(mark).find(|notice| notice.text.contains(part)).cloned()
        })
    }

    /// Waits until `check` returns something for the notifications so far.
    ///
    /// # Panics
    /// If it doesn't within the default deadline; the message lists all notifications.
    #[track_caller]
    pub fn wait_for<T>(&self, what: &str, check: impl Fn(&[Notice]) -> Option<T>) -> T {
        let deadline = Deadline::default();
        let mut notices = self.inbox.lock();
        loop {
            if let Some(found) = check(&notices) {
                return found;
            }
            if deadline.has_expired() {
                let all = describe(&notices);
                drop(notices); // the failure report locks it again
                report::expired(&deadline, &format!("{what}; received:\n{all}"));
            }
            let waited = self.inbox.changed.wait_timeout(notices, deadline.remaining());
            notices = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// All notifications as text, one per line.
    #[must_use]
    pub fn describe(&self) -> String {
        describe(&self.inbox.lock())
    }
}

fn describe(notices: &[Notice]) -> String {
    let line = |Notice { pid, text, fds }: &Notice| format!("{pid}: {text:?}, {} descriptors\n", fds.len());
    notices.iter().map(line).collect()
}

impl Drop for NotifyManager {
    fn drop(&mut self) {
        // Wakes up the reading thread, which then finds the end.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// The next datagram; `None` once the socket is shut down.
fn receive(socket: &UnixDatagram) -> io::Result<Option<Notice>> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64), ScmCredentials(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = [0; 8192];
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(socket.as_fd(), &mut [IoSliceMut::new(&mut buffer)], &mut control, flags)?;
    let (mut pid, mut fds) = (None, Vec::new());
    for message in control.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights.map(Arc::new)),
            RecvAncillaryMessage::ScmCredentials(sender) => pid = Some(sender.pid.as_raw_nonzero().get()),
            _ => {}
        }
    }
    // No sender sends an empty datagram, and the kernel adds credentials to all others.
    let Some(pid) = pid.filter(|_| received.bytes > 0) else { return Ok(None) };
    let text = String::from_utf8_lossy(&buffer[..received.bytes]).into_owned();
    Ok(Some(Notice { pid: pid.cast_unsigned(), text, fds }))
}
