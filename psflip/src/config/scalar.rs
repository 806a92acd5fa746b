//! Parses durations and signals. Pure: an error is a message and a help line, and the reader adds the place.

use std::time::Duration;

use super::error::{nearest, quoted};
use crate::signal::Signal;

/// Why a text is not a valid value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(super) message: String,
    pub(super) help: Option<String>,
}

/// A refusal without help.
pub(super) fn refuse<T>(message: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { message: message.into(), help: None })
}

/// A refusal with help.
pub(super) fn refuse_help<T>(message: impl Into<String>, help: impl Into<String>) -> Result<T, Refused> {
    Err(Refused { message: message.into(), help: Some(help.into()) })
}

/// The units, largest first, in milliseconds.
const UNITS: &[(&str, u64)] = &[("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// The longest duration: high enough for every use, and low enough that no clock arithmetic overflows.
const LONGEST_MS: u64 = 365 * 86_400_000;

const SYNTAX: &str =
    "a duration is whole numbers with units, largest first: `500ms`, `10s`, `1m30s`, `2h`, `1d`";

/// Reads `1m30s`. Zero is `0s`, never a bare `0` (contract X3).
pub(crate) fn duration(text: &str) -> Result<Duration, Refused> {
    let bad = |help: String| refuse_help(format!("{} is not a duration", quoted(text)), help);
    if text.is_empty() {
        return refuse_help("the duration is empty", SYNTAX);
    }
    if text.starts_with('-') {
        return refuse_help(format!("the duration {} is negative", quoted(text)), SYNTAX);
    }
    if text.bytes().all(|byte| byte.is_ascii_digit()) {
        return refuse_help(format!("the duration {} has no unit", quoted(text)), unit_hint(text, ""));
    }
    let mut total: u64 = 0;
    let mut units = UNITS;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let letters = tail.len() - tail.trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let (unit, tail) = tail.split_at(letters);
        let Some(at) = units.iter().position(|(name, _)| *name == unit).filter(|_| digits > 0) else {
            return bad(repaired(text)
                .map_or_else(|| SYNTAX.to_owned(), |better| format!("did you mean `{better}`?")));
        };
        let Some(sum) = number
            .parse::<u64>()
            .ok()
            .and_then(|number| number.checked_mul(units[at].1))
            .and_then(|part| total.checked_add(part))
            .filter(|sum| *sum <= LONGEST_MS)
        else {
            return refuse_help(
                format!("the duration {} is too long", quoted(text)),
                "the longest is `365d`",
            );
        };
        total = sum;
        units = &units[at + 1..];
        rest = tail;
    }
    Ok(Duration::from_millis(total))
}

/// The hint for a number without a unit, with each suggestion in `quote`s. Small numbers are probably
/// seconds, others may be milliseconds as well.
pub(super) fn unit_hint(number: &str, quote: &str) -> String {
    let meant = match number.parse::<u64>() {
        Ok(0) => return format!("zero is written `{quote}0s{quote}`"),
        Ok(100..=31_536_000) => format!("`{quote}{number}ms{quote}` or `{quote}{number}s{quote}`"),
        Ok(number) if number < 100 => format!("`{quote}{number}s{quote}`"),
        _ => match repaired(&format!("{number}s")) {
            Some(better) => format!("`{quote}{better}{quote}`"),
            None => return SYNTAX.to_owned(),
        },
    };
    format!("did you mean {meant}?")
}

/// The correct form of `10 sec`, `5S` or `1.5s`.
fn repaired(text: &str) -> Option<String> {
    let compact: String = text.to_lowercase().chars().filter(|c| !c.is_whitespace()).collect();
    if compact.len() > 30 {
        return None;
    }
    let digits = compact.len() - compact.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
    let (number, unit) = compact.split_at(digits);
    let unit = match unit {
        "milliseconds" | "millisecond" | "millis" | "msec" | "msecs" => "ms",
        "seconds" | "second" | "secs" | "sec" => "s",
        "minutes" | "minute" | "mins" | "min" => "m",
        "hours" | "hour" | "hrs" | "hr" => "h",
        "days" | "day" => "d",
        unit => unit,
    };
    let better = match number.split_once('.') {
        None => format!("{number}{unit}"),
        Some((whole, fraction)) if (1..=3).contains(&fraction.len()) => {
            let (_, scale) = UNITS.iter().find(|(name, _)| *name == unit)?;
            let thousandths: u64 = format!("{fraction:0<3}").parse().ok()?;
            let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
            let ms = whole.checked_mul(*scale)?.checked_add(thousandths.checked_mul(*scale)? / 1000)?;
            spell(Duration::from_millis(ms))
        }
        Some(_) => return None,
    };
    (better != text && duration(&better).is_ok()).then_some(better)
}

/// The duration in the syntax of [`duration`]; parts of a millisecond are dropped.
pub(crate) fn spell(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    if left == 0 {
        return "0s".to_owned();
    }
    let mut text = String::new();
    for (unit, scale) in UNITS {
        if left >= *scale {
            text += &format!("{}{unit}", left / scale);
            left %= scale;
        }
    }
    text
}

/// The units of sizes, largest first, in bytes.
const SIZES: &[(&str, u64)] = &[("T", 1 << 40), ("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10)];

/// The largest size: 1024T, so that no arithmetic overflows.
const LARGEST: u64 = 1 << 50;

const SIZE_SYNTAX: &str =
    "a size is a whole number with a unit, `K`, `M`, `G` or `T` (of 1024): `512M`, `2G`";

/// Reads `512M`, a number of bytes that is not zero.
pub(super) fn size(text: &str) -> Result<u64, Refused> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let Some((_, scale)) = SIZES.iter().find(|(name, _)| *name == unit).filter(|_| digits > 0) else {
        let unit = unit.trim().to_ascii_uppercase();
        let letter = unit.trim_end_matches("IB").trim_end_matches('B');
        let is_unit = digits > 0 && SIZES.iter().any(|(name, _)| *name == letter);
        let help = if is_unit { format!("did you mean `{number}{letter}`?") } else { SIZE_SYNTAX.to_owned() };
        return refuse_help(format!("{} is not a size", quoted(text)), help);
    };
    let bytes = number.parse::<u64>().ok().and_then(|number| number.checked_mul(*scale));
    match bytes.filter(|bytes| *bytes <= LARGEST) {
        Some(0) => refuse_help(
            format!("the size {} is zero", quoted(text)),
            "leave the key out if there is to be no limit",
        ),
        Some(bytes) => Ok(bytes),
        None => refuse_help(format!("the size {} is too large", quoted(text)), "the largest is `1024T`"),
    }
}

/// A size that [`size`] read, in its syntax.
pub(super) fn spell_size(bytes: u64) -> String {
    let unit = SIZES.iter().find(|(_, scale)| bytes.is_multiple_of(*scale));
    let (unit, scale) = unit.unwrap_or(&SIZES[SIZES.len() - 1]);
    format!("{}{unit}", bytes / scale)
}

/// A size for people: rounded, with two digits or more.
pub(crate) fn about(bytes: u64) -> String {
    let unit = SIZES.iter().find(|(_, scale)| bytes >= *scale * 10);
    let (unit, scale) = unit.unwrap_or(&SIZES[SIZES.len() - 1]);
    format!("{}{unit}", bytes.saturating_add(scale / 2) / scale)
}

/// Reads `10%`, up to `most`.
pub(super) fn percent(text: &str, most: u32) -> Result<u32, Refused> {
    let number = text.strip_suffix('%').and_then(|number| number.parse::<u32>().ok());
    match number.filter(|number| *number <= most) {
        Some(number) => Ok(number),
        None => refuse_help(
            format!("{} is not a percentage from 0% to {most}%", quoted(text)),
            "write a whole number and a percent sign, for example `10%`",
        ),
    }
}

/// Reads a signal's name.
fn signal(text: &str) -> Result<Signal, Refused> {
    if let Ok(signal) = text.parse() {
        return Ok(signal);
    }
    if let Ok(number) = text.parse::<i64>() {
        return Err(signal_number(number));
    }
    if text.is_empty() {
        return refuse_help("the signal is empty", "write its name, such as `SIGTERM`");
    }
    let message = format!("{} is not a signal", quoted(text));
    let upper = text.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    match nearest(&full, Signal::names()) {
        Some(name) => refuse_help(message, format!("did you mean `{name}`?")),
        None => refuse_help(
            message,
            "write a name such as `SIGHUP`, `USR2` or `SIGRTMIN+3`; `kill -l` lists them",
        ),
    }
}

/// The error about a signal by number, with its name on this system.
pub(super) fn signal_number(number: i64) -> Refused {
    let name = i32::try_from(number)
        .ok()
        .and_then(Signal::from_number)
        .map(|signal| signal.to_string())
        .filter(|name| name.starts_with("SIG"));
    Refused {
        message: format!("signals are given by name, not by number (`{number}`)"),
        help: Some(match name {
            Some(name) => {
                format!("number {number} is `{name}` on this host; numbers differ between architectures")
            }
            None => "write a name such as `SIGTERM`; `kill -l` lists them".to_owned(),
        }),
    }
}

/// Reads `upgrade.signal`: a signal that psflip can catch and does not need for anything else.
pub(super) fn upgrade_signal(text: &str) -> Result<Signal, Refused> {
    let signal = signal(text)?;
    let name = signal.to_string();
    let reason = match name.as_str() {
        "SIGKILL" | "SIGSTOP" => "no process can catch it",
        "SIGCHLD" => "the kernel sends it whenever a child process exits",
        "SIGPIPE" => "the kernel sends it when psflip writes to a closed pipe",
        "SIGTERM" | "SIGINT" => "it requests a stop of psflip",
        "SIGTSTP" | "SIGTTIN" | "SIGTTOU" => "the terminal sends it to suspend psflip",
        "SIGCONT" => "shells send it to continue what was suspended",
        "SIGSEGV" | "SIGBUS" | "SIGFPE" | "SIGILL" | "SIGSYS" | "SIGTRAP" | "SIGABRT" => {
            "it means that a process crashed"
        }
        _ => return Ok(signal),
    };
    refuse_help(
        format!("{} can't be the upgrade signal: {reason}", quoted(&name)),
        "use for example `SIGHUP` (the default), `SIGUSR1`, `SIGUSR2` or `SIGRTMIN`",
    )
}

/// Reads `shutdown.signal`: a signal that can terminate a process.
pub(super) fn shutdown_signal(text: &str) -> Result<Signal, Refused> {
    let signal = signal(text)?;
    let Some(reason) = why_it_ends_nothing(signal) else { return Ok(signal) };
    refuse_help(
        format!("{} can't be the shutdown signal: {reason}", quoted(&signal.to_string())),
        "use the signal on which your program shuts down gracefully, for example `SIGTERM` (the default), `SIGQUIT` or `SIGINT`",
    )
}

/// Why a signal can't request a child to terminate; `None`: it can.
fn why_it_ends_nothing(signal: Signal) -> Option<&'static str> {
    match signal.to_string().as_str() {
        "SIGSTOP" | "SIGTSTP" | "SIGTTIN" | "SIGTTOU" => {
            Some("it suspends the child instead of terminating it")
        }
        "SIGCONT" => Some("it continues the child instead of terminating it"),
        "SIGCHLD" => Some("it reports that a process exited, and stops none"),
        _ => None,
    }
}

/// Reads a key of `[signals]`: a signal that psflip receives and forwards.
pub(super) fn received_signal(text: &str) -> Result<Signal, Refused> {
    let signal = signal(text)?;
    let name = signal.to_string();
    let reason = match name.as_str() {
        "SIGKILL" | "SIGSTOP" => "no process can catch it, so psflip never gets it",
        "SIGCHLD" => "the kernel sends it whenever a child process exits, and it is never forwarded",
        "SIGCONT" => "shells send it to continue what was suspended, and the child must continue",
        _ => return Ok(signal),
    };
    let message = format!("{} is not allowed in `[signals]`: {reason}", quoted(&name));
    refuse_help(
        message,
        "on the left is what is sent to psflip, on the right what the child gets: `SIGTERM = \"SIGQUIT\"`",
    )
}

/// Reads a value of `[signals]`: a signal for the child.
pub(super) fn sent_signal(text: &str) -> Result<Signal, Refused> {
    match signal(text)? {
        signal if signal == Signal::CHLD => refuse_help(
            "`SIGCHLD` can't be sent to the child: it means that a child process of the receiver has exited",
            "to send nothing, write `false`",
        ),
        signal => Ok(signal),
    }
}

/// As [`sent_signal`], in place of a signal that stops psflip.
pub(super) fn stopping_signal(text: &str) -> Result<Signal, Refused> {
    let signal = signal(text)?;
    let Some(reason) = why_it_ends_nothing(signal) else { return Ok(signal) };
    refuse_help(
        format!("{} can't replace a stop request: {reason}", quoted(&signal.to_string())),
        "write the signal on which your program shuts down gracefully, for example `\"SIGQUIT\"`",
    )
}
