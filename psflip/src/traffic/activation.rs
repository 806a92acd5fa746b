//! Socket activation (sd_listen_fds(3)): the sockets that the service manager passed to psflip itself.
//!
//! They keep their numbers, from descriptor 3 on, and stay open in every exec, so every
//! generation inherits them. A child whose configuration has no `[[listen]]` finds them as if
//! psflip were not there (contract C3).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use super::given::Given;
use super::store;
use crate::process::environment::variable;
use crate::sys::fd;

/// The number of the first one (SD_LISTEN_FDS_START).
const START: i32 = 3;
/// More than any service manager passes. A wrong `LISTEN_FDS` must not cause a long loop.
const MOST: i32 = 1024;

/// The sockets that psflip was given.
#[derive(Clone, Debug, Default)]
pub struct Activation {
    /// A name for each descriptor, from [`START`] on.
    names: Vec<String>,
    /// Numbers that were announced, but are not open. psflip may use them for its own files by now.
    missing: Vec<i32>,
}

impl Activation {
    /// Reads them from the environment that psflip was started with.
    ///
    /// `addressee`: the pid that `LISTEN_PID` must name. `None`: it is known that they are for
    /// the first psflip, whose environment this is. `is_inherited`: whether this process was
    /// started with a descriptor of this number.
    #[must_use]
    pub fn of(envp: &[CString], addressee: Option<u32>, is_inherited: impl Fn(i32) -> bool) -> Self {
        let text = |name| variable(envp, name).and_then(std::ffi::OsStr::to_str);
        let number = |name| text(name).and_then(|text| text.parse::<i32>().ok());
        if let Some(pid) = addressee
            && number("LISTEN_PID").map(i32::cast_unsigned) != Some(pid)
        {
            return Self::default();
        }
        let count = number("LISTEN_FDS").filter(|count| (1..=MOST).contains(count)).unwrap_or_default();
        let mut given = text("LISTEN_FDNAMES").unwrap_or_default().split(':').filter(|name| !name.is_empty());
        let names = (0..count).map(|_| given.next().unwrap_or("unknown").to_owned()).collect();
        Self { names, missing: (START..START + count).filter(|number| !is_inherited(*number)).collect() }
    }

    /// Whether psflip was given any.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.names().is_empty()
    }

    /// Their names in their order, without the sockets that psflip itself has stored.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).filter(|name| store::parse(name).is_none()).collect()
    }

    /// Takes the sockets that an earlier psflip has stored with systemd. psflip may use
    /// their numbers from now on.
    pub fn take_stored(&mut self) -> Vec<Given> {
        let mut stored = Vec::new();
        for (number, name) in self.numbers().zip(&self.names) {
            let Some((address, file)) = store::parse(name).filter(|_| !self.missing.contains(&number)) else {
                continue;
            };
            if let Ok(socket) = fd::adopt(number)
                && fd::set_close_on_exec(socket.as_fd(), true).is_ok()
            {
                self.missing.push(number);
                stored.push(Given { address, socket, file });
            }
        }
        stored
    }

    /// The numbers that they have in every psflip.
    #[must_use]
    pub fn numbers(&self) -> std::ops::Range<i32> {
        START..START + self.names.len() as i32
    }

    /// Copies of the sockets with this name, close-on-exec. Empty if there is none.
    ///
    /// # Errors
    /// EBADF: the service manager did not pass what it announced. EMFILE.
    pub fn sockets(&self, name: &str) -> io::Result<Vec<OwnedFd>> {
        let numbers = self.numbers().zip(&self.names).filter(|(_, given)| *given == name);
        let copy = |number| {
            if self.missing.contains(&number) {
                return Err(io::Error::from_raw_os_error(libc::EBADF));
            }
            fd::duplicate(number)
        };
        numbers.map(|(number, _)| copy(number)).collect()
    }

    /// Keeps them from the program that this process is about to execute, which gets its own
    /// copies of those it should have.
    pub fn hide(&self) {
        for number in self.numbers() {
            fd::close_on_exec_if_open(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envp(list: &[&str]) -> Vec<CString> {
        list.iter().map(|text| CString::new(*text).unwrap()).collect()
    }

    fn read(envp: &[CString], addressee: Option<u32>) -> Activation {
        Activation::of(envp, addressee, |_| true)
    }

    #[test]
    fn an_announced_descriptor_that_is_closed_is_an_error() {
        // Contract: C3
        let environment = envp(&["LISTEN_PID=7", "LISTEN_FDS=1", "LISTEN_FDNAMES=web"]);
        let activation = Activation::of(&environment, Some(7), |_| false);
        assert_eq!(activation.sockets("web").unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn sockets_for_another_listen_pid_are_ignored() {
        // Contract: C3
        let environment = envp(&["LISTEN_PID=7", "LISTEN_FDS=2", "LISTEN_FDNAMES=web:admin"]);
        assert!(!read(&environment, Some(8)).is_there());
        assert_eq!(read(&environment, Some(7)).names(), ["web", "admin"]);
        assert_eq!(read(&environment, None).numbers(), 3..5);
        assert!(!read(&envp(&["LISTEN_FDS=2"]), Some(7)).is_there());
    }

    #[test]
    fn descriptors_without_a_name_are_unknown() {
        let environment = envp(&["LISTEN_PID=7", "LISTEN_FDS=2", "LISTEN_FDNAMES=web"]);
        assert_eq!(read(&environment, Some(7)).names(), ["web", "unknown"]);
    }

    #[test]
    fn invalid_listen_fds_are_ignored() {
        // Contract: X2
        for count in ["-1", "0", "x", "99999999999", "2000"] {
            let environment = envp(&["LISTEN_PID=7", &format!("LISTEN_FDS={count}")]);
            assert!(!read(&environment, Some(7)).is_there(), "{count}");
        }
    }
}
