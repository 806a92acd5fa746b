//! Who sent a signal, and what a terminal and the shell's job control have to do with it (contract S2, S3, S6). For every process of
//! psflip's that forwards signals.

use nix::unistd::{Pid, getpgid, getpgrp, getpid, getsid};

use crate::flip::signals::Sender;
use crate::signal::Signal;
use crate::sys::signal::Received;

/// Who sent it.
#[must_use]
pub fn sender(received: &Received) -> Sender {
    if received.is_from_kernel() {
        Sender::Kernel
    } else if received.pid == std::process::id() {
        Sender::Own
    } else {
        Sender::Process
    }
}

/// Who sent it, for the log (contract S6).
#[must_use]
pub fn sender_text(received: &Received) -> String {
    let Received { pid, uid, .. } = received;
    if received.is_from_kernel() { "the kernel".to_owned() } else { format!("pid {pid} (uid {uid})") }
}

/// Whether a terminal that signals our process group reaches this process too.
#[must_use]
pub fn shares_our_group(pid: u32) -> bool {
    getpgid(Some(Pid::from_raw(pid.cast_signed()))).is_ok_and(|group| group == getpgrp())
}

/// Whether this process is the leader of its session.
#[must_use]
pub fn leads_session() -> bool {
    getsid(None).is_ok_and(|session| session == getpid())
}

/// Whether it is one of the signals by which a terminal stops a job.
#[must_use]
pub fn asks_to_stop(signal: Signal) -> bool {
    [Signal::TSTP, Signal::TTIN, Signal::TTOU].contains(&signal)
}

/// Whether there is a terminal, and so a shell that does job control.
#[must_use]
pub fn has_terminal() -> bool {
    use std::os::unix::fs::OpenOptionsExt;
    let flags = nix::fcntl::OFlag::O_NOCTTY | nix::fcntl::OFlag::O_NONBLOCK;
    std::fs::OpenOptions::new().read(true).custom_flags(flags.bits()).open("/dev/tty").is_ok()
}
