//! The sockets that psflip itself was given by its manager (socket activation, sd_listen_fds(3)).
//!
//! They stay where they are, at descriptor 3 and on, and open in every exec: so every generation has them by inheritance, and a
//! child whose configuration has no `[[listen]]` finds them as if psflip were not there (contract C3).

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};

use super::listen::Given;
use super::store;
use crate::process::environment::variable;
use crate::sys::fd;

/// The first of them (SD_LISTEN_FDS_START).
const START: i32 = 3;
/// More than any manager passes; a false `LISTEN_FDS` must not become a long loop.
const MOST: i32 = 1024;

/// What psflip was given.
#[derive(Clone, Debug, Default)]
pub struct Activation {
    /// A name for each descriptor, from [`START`] on.
    names: Vec<String>,
    /// Numbers that were announced, but are not open. psflip may use them for something of its own by now.
    missing: Vec<i32>,
}

impl Activation {
    /// Reads it from the environment that psflip was started with. `addressee`: the process that it must be addressed to;
    /// `None`: it was found to be for the first psflip, whose environment this is. `is_inherited`: whether this process was
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

    /// Their names, in their order; without those that psflip itself has stored.
    #[must_use]
    pub fn names(&self) -> Vec<&str> {
        self.names.iter().map(String::as_str).filter(|name| store::parse(name).is_none()).collect()
    }

    /// Takes what an earlier psflip has stored with systemd. Those numbers are psflip's own from now on.
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

    /// Copies of those with this name, close-on-exec; none if there is none.
    ///
    /// # Errors
    /// EBADF: the manager did not pass what it said. EMFILE.
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

    /// Keeps them from the program that this process is about to become: it gets its own copies of what is meant for it.
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
    fn what_is_announced_and_not_open_is_never_taken_from_psflips_own() {
        // Contract: C3
        let environment = envp(&["LISTEN_PID=7", "LISTEN_FDS=1", "LISTEN_FDNAMES=web"]);
        let activation = Activation::of(&environment, Some(7), |_| false);
        assert_eq!(activation.sockets("web").unwrap_err().raw_os_error(), Some(libc::EBADF));
    }

    #[test]
    fn what_is_addressed_to_another_process_is_not_ours() {
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
    fn odd_numbers_give_nothing() {
        // Contract: X2
        for count in ["-1", "0", "x", "99999999999", "2000"] {
            let environment = envp(&["LISTEN_PID=7", &format!("LISTEN_FDS={count}")]);
            assert!(!read(&environment, Some(7)).is_there(), "{count}");
        }
    }
}
