//! A broken predecessor, or something that is no psflip. The test itself plays the old side, and sends what
//! it likes.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketFlags, SocketType,
    recv, sendmsg, socketpair,
};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use testkit::{Deadline, FdSnapshot, Psflip, Running, Sandbox, Signal, Stream, wait_until};

use crate::service::{AT_ONCE, psflip};

/// The descriptor of the successor's end, as the predecessor names it in the environment.
const NUMBER: i32 = 9;
const HELLO: &str =
    "hello\nprotocol 1\noldest 1\nversion 0.1.0\npid 1\ngeneration 2\nslot b\nmask 0\nignored 0";

/// The test in the role of the old psflip.
struct Old {
    socket: OwnedFd,
    /// A process that stands for the old psflip.
    process: Arc<Running>,
    sandbox: Sandbox,
}

impl Old {
    fn new() -> (Self, OwnedFd) {
        let sandbox = Sandbox::new();
        let process = sandbox.command(["sleep", "infinity"]).start();
        let (socket, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None).unwrap();
        (Self { socket, process, sandbox }, theirs)
    }

    fn pidfd(&self) -> OwnedFd {
        let pid = Pid::from_raw(self.process.pid().cast_signed()).unwrap();
        pidfd_open(pid, PidfdFlags::empty()).unwrap()
    }

    fn say(&self, packet: &[u8], fds: &[BorrowedFd<'_>]) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        sendmsg(&self.socket, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).map(drop)
    }

    /// Starts a psflip that finds this end by its environment variable.
    fn start(&self, theirs: OwnedFd) -> Psflip {
        self.start_with(theirs, AT_ONCE)
    }

    /// As [`Old::start`], with this configuration.
    fn start_with(&self, theirs: OwnedFd, rest: &str) -> Psflip {
        let builder = psflip(&self.sandbox, &["never-ready"], rest);
        builder.env("PSFLIP_HANDOVER", NUMBER.to_string()).inherit_fd(theirs, NUMBER).start()
    }

    /// Waits for a message of the new psflip.
    #[track_caller]
    fn receive(&self, verb: &str) {
        let mut buffer = [0_u8; 4096];
        loop {
            let (length, _) = recv(&self.socket, &mut buffer, RecvFlags::empty()).unwrap();
            assert!(length > 0, "closed before `{verb}`\n{}", self.sandbox.report());
            let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
            assert!(!text.starts_with("failed"), "{text}");
            if text.lines().next() == Some(verb) {
                return;
            }
        }
    }

    /// Checks that nothing is left, and stops the stand-in of the old psflip.
    /// Kills the old psflip, for which the new one would wait at a stop, then stops the new one.
    fn stops_before(self, psflip: &Psflip) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait_exit();
        crate::service::stop(psflip);
        self.sandbox.assert_no_process_left();
    }

    fn ends(self) {
        self.process.signal(Signal::SIGKILL);
        self.process.wait_exit();
        self.sandbox.assert_no_process_left();
    }
}

#[test]
fn a_first_message_other_than_hello_starts_nothing() {
    // Contract: V1, X2, C6
    let cut = &HELLO[..60];
    let long = format!("hello\nfuture {}{}", "x".repeat(6000), &HELLO[5..]);
    let no_number = HELLO.replace("protocol 1", "protocol one");
    let tries: &[(&[u8], &str)] = &[
        (b"", "the connection is closed"),
        (b"\xff\xfe", "malformed message: invalid utf-8"),
        (b"ready", "the first message is no hello"),
        (b"acknowledge\nremembered 0", "the first message is no hello"),
        (cut.as_bytes(), "malformed message: no `slot`"),
        (long.as_bytes(), "malformed message: no `protocol`"),
        (no_number.as_bytes(), "`protocol one` is no number in range"),
    ];
    for (packet, reason) in tries {
        let (old, theirs) = Old::new();
        old.say(packet, &[old.pidfd().as_fd()]).unwrap();
        let psflip = old.start(theirs);
        assert_eq!(psflip.wait_exit().code(), Some(125), "{}", old.sandbox.report());
        let log = psflip.log();
        assert!(log.contains(reason) && log.contains("no predecessor behind it"), "no `{reason}` in: {log}");
        assert!(!psflip.output().text(Stream::Stdout).contains("starting"), "nothing was started");
        assert!(!psflip.pidfile_path().exists());
        old.ends();
    }
}

#[test]
fn a_hello_without_the_predecessors_pidfd_starts_nothing() {
    // Contract: V1, C6
    let (null, pipe) = (OwnedFd::from(std::fs::File::open("/dev/null").unwrap()), std::io::pipe().unwrap());
    for (fd, reason) in [
        (None, "the first message has no descriptor of the predecessor"),
        (Some(null.as_fd()), "the descriptor of the predecessor is not that of a process"),
        (Some(pipe.0.as_fd()), "the descriptor of the predecessor is not that of a process"),
    ] {
        let (old, theirs) = Old::new();
        old.say(HELLO.as_bytes(), fd.as_slice()).unwrap();
        let psflip = old.start(theirs);
        assert_eq!(psflip.wait_exit().code(), Some(125), "{}", old.sandbox.report());
        assert!(psflip.log().contains(reason), "no `{reason}` in: {}", psflip.log());
        assert!(!psflip.output().text(Stream::Stdout).contains("starting"), "nothing was started");
        old.ends();
    }
}

#[test]
fn sockets_are_received_among_unknown_messages() {
    // Contract: V1
    let (old, theirs) = Old::new();
    let path = old.sandbox.path("app.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let inode = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
    let null = std::fs::File::open("/dev/null").unwrap();
    let address = format!("unix://{}", path.display());
    let hello = format!("{HELLO}\nlisteners 1\nfuture x");
    old.say(hello.as_bytes(), &[old.pidfd().as_fd(), null.as_fd()]).unwrap();
    old.say(b"sing\nsong loud", &[null.as_fd()]).unwrap();
    let file = std::fs::metadata(&path).unwrap();
    let message =
        format!("listener\nfuture 7\naddress {address}\ndevice {}\ninode {}", file.dev(), file.ino());
    old.say(message.as_bytes(), &[listener.as_fd(), null.as_fd()]).unwrap();
    let psflip = old.start_with(theirs, &format!("[[listen]]\naddress = \"{address}\"\n{AT_ONCE}"));
    old.receive("ready");
    old.say(b"acknowledge\nremembered 0", &[]).unwrap();
    psflip.wait_for_line(Stream::Stderr, "healthy, active");
    let held = psflip.active().open_fds().unwrap();
    assert!(
        held.values().any(|target| *target == inode.to_string_lossy()),
        "no {} in {held:?}",
        inode.display()
    );
    old.stops_before(&psflip);
}

#[test]
fn an_acknowledgement_counts_once() {
    // Contract: V1, U4
    let (old, theirs) = Old::new();
    old.say(HELLO.as_bytes(), &[old.pidfd().as_fd()]).unwrap();
    let psflip = old.start(theirs);
    old.receive("ready");
    assert!(!psflip.log().contains("healthy, active"), "{}", old.sandbox.report());
    let null = std::fs::File::open("/dev/null").unwrap();
    old.say(b"acknowledge\nremembered 0", &[null.as_fd(); 253]).unwrap();
    psflip.wait_for_line(Stream::Stderr, "healthy, active");
    let before = FdSnapshot::of(psflip.active());
    for packet in ["acknowledge\nremembered 1", "abort", HELLO, "sing", "acknowledge"] {
        old.say(packet.as_bytes(), &[null.as_fd(); 9]).unwrap();
    }
    psflip.wait_for_line(Stream::Stderr, "skipping a message of the predecessor");
    before.assert_unchanged();
    assert!(!psflip.log().contains("upgrade"), "{}", old.sandbox.report());
    // The second acknowledgement's `remembered 1` does not count, so no upgrade starts when the old psflip
    // exits.
    old.stops_before(&psflip);
    assert!(!psflip.log().contains("upgrade"), "{}", psflip.log());
}

#[test]
fn a_predecessor_that_sends_endlessly_does_not_block_signals() {
    // Contract: V1, X2, S5
    let (old, theirs) = Old::new();
    old.say(HELLO.as_bytes(), &[old.pidfd().as_fd()]).unwrap();
    let psflip = old.start(theirs);
    old.receive("ready");
    let said = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        // Sends until the other side has closed. Sends block while the queue is full.
        let flood = scope.spawn(|| {
            while old.say(b"sing\nsong loud", &[]).is_ok() {
                said.fetch_add(1, Ordering::Relaxed);
            }
        });
        wait_until(Deadline::default(), "more messages to be sent than a queue holds", || {
            (said.load(Ordering::Relaxed) > 5000).then_some(())
        });
        psflip.program().signal(Signal::SIGTERM);
        // A stop request before the acknowledgement makes it give up.
        assert_eq!(psflip.wait_exit().code(), Some(125), "{}", old.sandbox.report());
        flood.join().unwrap();
    });
    assert!(!psflip.pidfile_path().exists());
    old.ends();
}
