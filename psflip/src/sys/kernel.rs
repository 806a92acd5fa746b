//! Whether this kernel has the system calls that psflip needs.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use super::pidfd::PidFd;
use super::wait;

/// The oldest kernel with all of them: waitid(2) with P_PIDFD is the newest.
const OLDEST: &str = "5.4";

/// Why psflip can't run here, for people. `None`: it can. Other failures (no descriptor left) are not the
/// kernel's fault, and are reported where they occur.
#[must_use]
pub fn shortcoming() -> Option<String> {
    match PidFd::open(std::process::id()) {
        Err(error) => is_missing(&error).then(|| sentence("pidfd_open", &error)),
        Ok(own) => {
            own.check().err().filter(is_missing).map(|error| sentence("pidfd_send_signal", &error)).or_else(
                || match wait::waitid(libc::P_PIDFD, own.as_fd().as_raw_fd() as libc::id_t, libc::WEXITED) {
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                        Some(sentence("waitid with P_PIDFD", &error))
                    }
                    _ => None, // ECHILD: this process is no child of its own
                },
            )
        }
    }
}

/// EPERM: in many containers a filter (seccomp(2)) that does not know the call returns this.
fn is_missing(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM))
}

fn sentence(call: &str, error: &io::Error) -> String {
    format!(
        "the kernel ({}) does not provide {call}: {error}; psflip needs Linux {OLDEST} or later, and in a container a seccomp \
         profile that allows this call",
        release()
    )
}

/// uname(2).
fn release() -> String {
    let mut name = MaybeUninit::<libc::utsname>::zeroed();
    // SAFETY: the pointer is to a utsname that lives through the call, which fails for no other.
    unsafe { libc::uname(name.as_mut_ptr()) };
    // SAFETY: zeroed is a valid utsname, and the kernel writes C strings.
    let name = unsafe { name.assume_init() };
    // Its bytes are i8 on x86_64, u8 on aarch64.
    let bytes: Vec<u8> =
        name.release.iter().flat_map(|byte| byte.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::seam::testing;
    use nix::errno::Errno;

    #[test]
    fn a_call_that_the_kernel_lacks_is_named() {
        // Contract: C6
        assert_eq!(shortcoming(), None);
        for (number, call) in [(0, "pidfd_open"), (1, "pidfd_send_signal")] {
            let (found, _) = testing::with(Some((number, Errno::ENOSYS)), shortcoming);
            let found = found.unwrap();
            assert!(
                found.contains(&format!("does not provide {call}: ")) && found.contains("Linux 5.4"),
                "{found}"
            );
        }
        let (found, _) = testing::with(Some((2, Errno::EINVAL)), shortcoming);
        assert!(found.unwrap().contains("waitid with P_PIDFD"));
        let (found, _) = testing::with(Some((0, Errno::EMFILE)), shortcoming);
        assert_eq!(found, None, "a full table of descriptors is no old kernel");
    }
}
