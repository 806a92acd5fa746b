//! The controlling terminal of this process and its foreground process group (tcsetpgrp(3)).

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use nix::fcntl::OFlag;
use nix::unistd::{Pid, tcgetpgrp, tcsetpgrp};

/// The controlling terminal.
#[derive(Debug)]
pub struct Terminal(File);

impl Terminal {
    /// Opens the terminal (tty(4)). `None`: this process has none.
    #[must_use]
    pub fn open() -> Option<Self> {
        let flags = OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        OpenOptions::new().read(true).custom_flags(flags.bits()).open("/dev/tty").ok().map(Self)
    }

    /// The foreground process group. `None`: the terminal was hung up, or the group is
    /// in another PID namespace.
    #[must_use]
    pub fn foreground(&self) -> Option<u32> {
        let group = tcgetpgrp(&self.0).ok()?.as_raw().cast_unsigned();
        (group > 0).then_some(group)
    }

    /// Makes a group of this session the foreground process group. The caller has SIGTTOU blocked, so this
    /// also works from the background.
    ///
    /// # Errors
    /// EPERM: there is no such group in this session. EIO, ENOTTY: the terminal was hung up.
    pub fn set_foreground(&self, group: u32) -> io::Result<()> {
        tcsetpgrp(&self.0, Pid::from_raw(group.cast_signed())).map_err(io::Error::from)
    }
}
