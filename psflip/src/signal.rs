//! Signals by number and name, real-time ones included (nix's `Signal` has no real-time signals).

use std::fmt;
use std::str::FromStr;

/// A signal number that exists on Linux: 1 to 64, see signal(7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signal(u8);

/// The standard signals with their numbers on this host's architecture.
const NAMES: &[(&str, i32)] = &[
    ("HUP", libc::SIGHUP),
    ("INT", libc::SIGINT),
    ("QUIT", libc::SIGQUIT),
    ("ILL", libc::SIGILL),
    ("TRAP", libc::SIGTRAP),
    ("ABRT", libc::SIGABRT),
    ("BUS", libc::SIGBUS),
    ("FPE", libc::SIGFPE),
    ("KILL", libc::SIGKILL),
    ("USR1", libc::SIGUSR1),
    ("SEGV", libc::SIGSEGV),
    ("USR2", libc::SIGUSR2),
    ("PIPE", libc::SIGPIPE),
    ("ALRM", libc::SIGALRM),
    ("TERM", libc::SIGTERM),
    ("STKFLT", 16),
    ("CHLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("STOP", libc::SIGSTOP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
    ("VTALRM", libc::SIGVTALRM),
    ("PROF", libc::SIGPROF),
    ("WINCH", libc::SIGWINCH),
    ("IO", libc::SIGIO),
    ("PWR", libc::SIGPWR),
    ("SYS", libc::SIGSYS),
];

/// Aliases of standard signals that kill(1) and signal(7) know.
const ALIASES: &[(&str, i32)] = &[("IOT", libc::SIGABRT), ("CLD", libc::SIGCHLD), ("POLL", libc::SIGIO)];

/// The first and last real-time signal that programs may use; glibc keeps 32 and 33 for itself.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl Signal {
    /// SIGHUP.
    pub const HUP: Self = Self::known(libc::SIGHUP);
    /// SIGINT.
    pub const INT: Self = Self::known(libc::SIGINT);
    /// SIGQUIT.
    pub const QUIT: Self = Self::known(libc::SIGQUIT);
    /// SIGTERM.
    pub const TERM: Self = Self::known(libc::SIGTERM);
    /// SIGKILL.
    pub const KILL: Self = Self::known(libc::SIGKILL);
    /// SIGSTOP.
    pub const STOP: Self = Self::known(libc::SIGSTOP);
    /// SIGTSTP.
    pub const TSTP: Self = Self::known(libc::SIGTSTP);
    /// SIGTTIN.
    pub const TTIN: Self = Self::known(libc::SIGTTIN);
    /// SIGTTOU.
    pub const TTOU: Self = Self::known(libc::SIGTTOU);
    /// SIGCONT.
    pub const CONT: Self = Self::known(libc::SIGCONT);
    /// SIGCHLD.
    pub const CHLD: Self = Self::known(libc::SIGCHLD);
    /// SIGPIPE.
    pub const PIPE: Self = Self::known(libc::SIGPIPE);
    /// SIGWINCH.
    pub const WINCH: Self = Self::known(libc::SIGWINCH);
    /// SIGXFSZ.
    pub const XFSZ: Self = Self::known(libc::SIGXFSZ);

    const fn known(number: i32) -> Self {
        Self(number as u8)
    }

    /// The signal with this number; `None` unless it is 1 to 64.
    #[must_use]
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=RTMAX).contains(&number).then_some(Self(number as u8))
    }

    /// The signal's number, for system calls.
    #[must_use]
    pub fn number(self) -> i32 {
        i32::from(self.0)
    }

    /// Every signal, 1 to 64.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=RTMAX).filter_map(Self::from_number)
    }

    /// The standard names with `SIG`, for suggestions; [`FromStr`] knows more.
    pub fn names() -> impl Iterator<Item = String> {
        NAMES.iter().map(|(name, _)| format!("SIG{name}"))
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.number();
        if let Some((name, _)) = NAMES.iter().find(|(_, known)| *known == number) {
            return write!(f, "SIG{name}");
        }
        match number {
            RTMIN => f.write_str("SIGRTMIN"),
            RTMAX => f.write_str("SIGRTMAX"),
            _ if number > RTMIN => write!(f, "SIGRTMIN+{}", number - RTMIN),
            _ => write!(f, "signal {number}"),
        }
    }
}

/// The text is not the name of a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a signal name")]
pub struct UnknownSignal;

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// Parses `SIGTERM`, `TERM`, `term`, `RTMIN+3`, `SIGRTMAX-1`. Numbers are refused, since they differ
    /// between architectures.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().chain(ALIASES).find(|(known, _)| *known == name) {
            return Ok(Self::known(*number));
        }
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            RTMIN + offset(rest, '+')?
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            RTMAX - offset(rest, '-')?
        } else {
            return Err(UnknownSignal);
        };
        if (RTMIN..=RTMAX).contains(&number) { Ok(Self::known(number)) } else { Err(UnknownSignal) }
    }
}

/// The `3` of `+3`; 0 for an empty text.
fn offset(text: &str, sign: char) -> Result<i32, UnknownSignal> {
    let Some(digits) = text.strip_prefix(sign) else {
        return if text.is_empty() { Ok(0) } else { Err(UnknownSignal) };
    };
    if digits.is_empty() || digits.len() > 2 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UnknownSignal);
    }
    digits.parse().map_err(|_| UnknownSignal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_round_trips() {
        for signal in Signal::all().filter(|signal| !(32..34).contains(&signal.number())) {
            assert_eq!(signal.to_string().parse(), Ok(signal), "{signal}");
        }
    }

    #[test]
    fn names_are_read_in_any_case_with_and_without_sig() {
        for text in ["TERM", "term", "SIGTERM", "SigTerm"] {
            assert_eq!(text.parse(), Ok(Signal::TERM), "{text}");
        }
        assert_eq!("rtmin+3".parse::<Signal>().unwrap().number(), 37);
        assert_eq!("SIGRTMAX-1".parse::<Signal>().unwrap().number(), 63);
    }

    #[test]
    fn unknown_signals_are_refused() {
        for text in ["", "SIG", "15", "TERMX", "RTMIN+31", "RTMIN+-1", "RTMAX+1", "RTMIN+", "RTMAX-99"] {
            assert_eq!(text.parse::<Signal>(), Err(UnknownSignal), "{text}");
        }
    }
}
