//! `notify`: which messages count. The test itself is the sender: it is below its
//! parent, and not below its child.

use std::io::Read;
use std::os::fd::{AsFd, AsRawFd};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, sendmsg, socket,
};

use super::super::{Notifications, NotifyUpdate};
use super::*;

const READY: NotifyUpdate = NotifyUpdate { ready: true, extend: None, gives_up: false, flooded: false };

/// Sends as sd_notify(3) does, with descriptors.
fn send_with(notifications: &Notifications, message: &[u8], fds: &[i32]) {
    let from = socket(AddressFamily::Unix, SockType::Datagram, SockFlag::SOCK_CLOEXEC, None).unwrap();
    let name = notifications.address();
    let address = UnixAddr::new_abstract(name.strip_prefix('@').unwrap().as_bytes()).unwrap();
    let rights = [ControlMessage::ScmRights(fds)];
    let rights: &[_] = if fds.is_empty() { &[] } else { &rights };
    let parts = [std::io::IoSlice::new(message)];
    sendmsg(from.as_raw_fd(), &parts, rights, MsgFlags::MSG_DONTWAIT, Some(&address)).unwrap();
}

fn send(notifications: &Notifications, message: &[u8]) {
    send_with(notifications, message, &[]);
}

#[test]
fn messages_from_processes_below_the_keeper_count() {
    // Contract: H1
    let mut notifications = Notifications::open().unwrap();
    let keeper = std::os::unix::process::parent_id();
    assert_eq!(notifications.receive(keeper, None).unwrap(), NotifyUpdate::default());
    send(&notifications, b"STATUS=coming");
    send(&notifications, b"STATUS=up\nREADY=1");
    wait_for_input(notifications.as_fd());
    assert_eq!(notifications.receive(keeper, None).unwrap(), READY);
    assert!(notifications.is_ready());
    assert_eq!(notifications.status(), Some("up"));
    assert_eq!(notifications.receive(keeper, None).unwrap(), NotifyUpdate::default());
}

#[test]
fn messages_from_other_processes_do_not_count() {
    // Contract: H1, H4
    let mut notifications = Notifications::open().unwrap();
    let mut keeper = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
    send(&notifications, b"READY=1\nSTATUS=forged");
    assert_eq!(notifications.receive(keeper.id(), None).unwrap(), NotifyUpdate::default());
    drop(keeper.stdin.take());
    keeper.wait().unwrap();
    assert!(!notifications.is_ready() && notifications.status().is_none());
    let why = notifications.why_not_ready();
    let wanted =
        format!("; a message of other processes, the last of pid {}, did not count", std::process::id());
    assert!(why.ends_with(&wanted), "{why}");
}

#[test]
fn descriptors_sent_with_a_message_are_closed() {
    // Contract: H1, X2
    for keeper in [std::os::unix::process::parent_id(), std::process::id()] {
        let mut notifications = Notifications::open().unwrap();
        let (mut reader, writer) = std::io::pipe().unwrap();
        send_with(&notifications, b"BARRIER=1", &[writer.as_raw_fd()]);
        drop(writer);
        notifications.receive(keeper, None).unwrap();
        assert_eq!(reader.read(&mut [0; 1]).unwrap(), 0, "sd_notify_barrier(3) would wait");
        // Its sender may exit then, before it could be looked up.
        let why = notifications.why_not_ready();
        assert!(!why.contains("other processes"), "{why}");
    }
}

#[test]
fn a_flood_of_messages_is_read_in_batches() {
    // Contract: X2
    let mut notifications = Notifications::open().unwrap();
    let parent = std::os::unix::process::parent_id();
    let mut sent = 0_u32;
    for _ in 0..50 {
        for message in [&b"\xff\0READY"[..], b"", b"=", &[b'x'; 5000], b"EXTEND_TIMEOUT_USEC=5000000"] {
            send(&notifications, message);
            sent += 1;
        }
        // The number of messages that the kernel's queue holds on any system
        // (net.unix.max_dgram_qlen is at least 10).
        let update = notifications.receive(parent, None).unwrap();
        assert_eq!(update, NotifyUpdate { extend: Some(Duration::from_secs(5)), ..NotifyUpdate::default() });
    }
    assert_eq!(sent, 250);
    assert_eq!(notifications.receive(parent, None).unwrap(), NotifyUpdate::default());
    send(&notifications, b"READY=1");
    assert_eq!(notifications.receive(parent, None).unwrap(), READY);
}

#[test]
fn a_too_long_message_is_ignored_as_a_whole() {
    // Contract: X2
    let mut notifications = Notifications::open().unwrap();
    let parent = std::os::unix::process::parent_id();
    send(&notifications, &[b"READY=1\n".as_slice(), &[b'x'; 5000]].concat());
    assert_eq!(notifications.receive(parent, None).unwrap(), NotifyUpdate::default());
    assert!(notifications.why_not_ready().contains("nor anything else"));
}
