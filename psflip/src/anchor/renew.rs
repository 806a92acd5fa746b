//! Replaces the anchor's own program: after a generation of a new program was promoted, the anchor process
//! executes psflip again. Its children, its pid, its socket and its pending signals survive that (execve(2)).
//! A variable passes on the rest.
//!
//! An exec can't be undone, so it needs proof that the new program is a psflip. The file must be the one that
//! the promoted generation runs, and that generation must have reported that it understands the variable.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::message::PROTOCOL;
use super::parent::{Anchor, print_line};
use super::state::{AnchorState, Speaks};
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::process::environment::{ANCHOR_STATE_VARIABLE, set_variable};
use crate::process::invocation::Invocation;
use crate::process::launch::Launch;
use crate::process::reaper::Reaper;
use crate::sys::early::{self, SignalSetup};
use crate::sys::fd;
use crate::sys::seam::{self, Moment};
use crate::sys::signal::{SignalFd, SignalSet};
use crate::sys::socket::Socket;
use crate::sys::wait;

/// The identity of a file, whatever its name.
fn file(path: &Path) -> Option<(u64, u64)> {
    let data = path.metadata().ok()?;
    Some((data.dev(), data.ino()))
}

/// Executes psflip again if its file was replaced. Returns if it was not, or if the exec failed.
pub(super) fn renew(parent: &Anchor, speaks: Option<Speaks>) {
    let Some((active, leaves, former)) = parent.state.calm() else { return };
    let running = file(Path::new("/proc/self/exe"));
    let next = file(Path::new(&format!("/proc/{active}/exe")));
    if next.is_none() || running == next {
        return;
    }
    if let Err(why) = can_go_on(speaks) {
        return stays(&why);
    }
    let Invocation { program, .. } = Invocation::of_this_process();
    let Some(path) = program.candidates.iter().find(|path| file(as_path(path)) == next) else {
        // The file has been replaced again, or a script executes psflip. A script could do
        // anything to an anchor's children.
        let path = program.candidates.first().map(|path| path.to_string_lossy().into_owned());
        return stays(&format!(
            "what is found at `{}` is not the program that the new generation runs",
            path.unwrap_or_default()
        ));
    };
    let mut envp = program.envp;
    let number = parent.socket.as_fd().as_raw_fd();
    let (left, foreign) = (parent.state.has_left(), parent.reaper.foreign().to_vec());
    let outputs = parent.state.outputs().to_vec();
    let kept = Kept { socket: number, active, leaves, left, former, foreign, outputs };
    set_variable(&mut envp, ANCHOR_STATE_VARIABLE, Some(&kept.encode()));
    let setup = SignalSetup { mask: SignalSet::from_bits(u64::MAX), ignored: SignalSet::default() };
    let launch = Launch::with_candidates(vec![path.clone()], program.argv, envp, None, setup);
    seam::step(Moment::Before, format_args!("Renew"));
    let error = match fd::set_close_on_exec(parent.socket.as_fd(), false) {
        Ok(()) => launch.exec().error,
        Err(error) => error,
    };
    let _ = fd::set_close_on_exec(parent.socket.as_fd(), true); // nothing else may inherit it
    stays(&format!("`{}` can't be executed: {error}", path.to_string_lossy()));
}

/// Whether a program with these protocols can be this anchor. The error says why not.
fn can_go_on(speaks: Option<Speaks>) -> Result<(), String> {
    match speaks {
        Some((oldest, newest)) if (oldest..=newest).contains(&PROTOCOL) => Ok(()),
        Some((oldest, newest)) => Err(format!(
            "the new program takes over anchors of protocol {oldest} to {newest}, and this is {PROTOCOL}; restart the service to renew it"
        )),
        None => Err("the new program does not support anchors".to_owned()),
    }
}

fn stays(why: &str) {
    print_line(&format!("psflip was replaced, but this process stays as it is: {why}"));
}

fn as_path(path: &CString) -> &Path {
    use std::os::unix::ffi::OsStrExt;
    Path::new(std::ffi::OsStr::from_bytes(path.to_bytes()))
}

/// The state that is passed to the next program.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    socket: RawFd,
    active: u32,
    leaves: bool,
    /// Whether `leaves` was true for any generation so far.
    left: bool,
    former: Vec<u32>,
    foreign: Vec<u32>,
    outputs: Vec<u32>,
}

impl Kept {
    fn encode(&self) -> String {
        let mut text = format!(
            "protocol={PROTOCOL} socket={} active={} leaves={} left={}",
            self.socket,
            self.active,
            u8::from(self.leaves),
            u8::from(self.left)
        );
        for (key, pids) in [("former", &self.former), ("foreign", &self.foreign), ("output", &self.outputs)] {
            for pid in pids {
                let _ = write!(text, " {key}={pid}"); // writing to a String can't fail
            }
        }
        text
    }

    /// Decodes [`Kept::encode`], and skips what a later version adds.
    fn decode(text: &str) -> Option<Self> {
        let all = |key: &str| -> Vec<u32> {
            let values = text.split(' ').filter_map(|part| part.strip_prefix(key)?.strip_prefix('='));
            values.filter_map(|value| value.parse().ok()).collect()
        };
        let one = |key: &str| all(key).first().copied();
        Some(Self {
            socket: i32::try_from(one("socket")?).ok()?,
            active: one("active")?,
            leaves: one("leaves")? != 0,
            left: one("left").is_some_and(|left| left != 0),
            former: all("former"),
            foreign: all("foreign"),
            outputs: all("output"),
        })
    }
}

/// Continues as the anchor if this process is an anchor that has executed this program.
/// Returns its exit status.
#[must_use]
pub fn resumed() -> Option<ExitStatus> {
    let text = std::env::var(ANCHOR_STATE_VARIABLE).ok()?;
    seam::step(Moment::Begins, format_args!("anchor"));
    Some(resume(&text).unwrap_or_else(|error| {
        print_line(&format!(
            "can't go on from `{ANCHOR_STATE_VARIABLE}={text}`: {error}; unset it to start anew"
        ));
        ExitStatus::Exited(exit::FAILURE)
    }))
}

fn resume(text: &str) -> std::io::Result<ExitStatus> {
    let kept = Kept::decode(text)
        .filter(|kept| kept.socket > 2 && wait::is_child(kept.active))
        .ok_or_else(|| std::io::Error::other("this process is no anchor"))?;
    let socket = fd::adopt(kept.socket)?;
    fd::set_close_on_exec(socket.as_fd(), true)?;
    early::stop_ignoring_sigchld()?;
    let signals = SignalFd::open(SignalSet::from_bits(u64::MAX))?;
    let reaper = Reaper::knowing(kept.foreign)?;
    let state = AnchorState::resumed(kept.active, kept.leaves, kept.left, kept.former, kept.outputs);
    Ok(Anchor::new(Socket::from_owned(socket), signals, reaper, state).stay())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incompatible_program_is_not_executed() {
        // Contract: A5, V1
        assert_eq!(can_go_on(Some((PROTOCOL, PROTOCOL))), Ok(()));
        assert_eq!(can_go_on(Some((0, PROTOCOL + 5))), Ok(()));
        for later in [None, Some((PROTOCOL + 1, PROTOCOL + 2)), Some((0, 0))] {
            assert!(can_go_on(later).is_err(), "{later:?}");
        }
    }

    #[test]
    fn saved_anchor_state_round_trips() {
        // Contract: V1
        let (former, foreign) = (vec![12, 13], vec![]);
        let outputs = vec![14];
        let kept = Kept { socket: 5, active: 17, leaves: true, left: true, former, foreign, outputs };
        let text = kept.encode();
        assert_eq!(Kept::decode(&text), Some(kept));
        assert!(Kept::decode(&format!("{text} later=9 foreign=3")).is_some_and(|kept| kept.foreign == [3]));
        for wrong in ["", "socket=5", "socket=-1 active=2 leaves=0", "socket=5 active=x leaves=0"] {
            assert_eq!(Kept::decode(wrong), None, "{wrong}");
        }
    }
}
