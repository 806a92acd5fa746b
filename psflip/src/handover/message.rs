//! The messages between two generations: plain text, versioned, and readable in a trace.
//!
//! A message is one packet of a `SOCK_SEQPACKET` socket pair, at most 4096 bytes of UTF-8: a verb on the
//! first line, then one `key value` pair a line. In a value `\n` stands for a line break and `\\` for a
//! backslash. Receivers skip unknown verbs and unknown keys, so a later version may add both (contract V1). A
//! verb is never removed, and a key never changes its meaning.
//!
//! A change that can't be expressed in this way needs a new protocol number: see [`Hello::protocol`] and
//! [`PROTOCOL`].

use std::time::Duration;

pub use super::text::Malformed;
use super::text::{Fields, Text, from_word, word};
use crate::config::Slot;
use crate::history::{Counts, Drain, Record};
use crate::proxy::Hold;
use crate::signal::Signal;
use crate::sys::early::SignalSetup;
use crate::sys::signal::{Received, SignalSet};
use crate::traffic::FileId;

/// The protocol that this version speaks. 2: a successor can be required to wait until its predecessor's
/// child is gone ([`Hello::exclusive`]). Versions of protocol 1 would start their child beside it, so they
/// must refuse.
pub const PROTOCOL: u32 = 2;
/// The oldest protocol that this version still speaks.
pub const OLDEST_PROTOCOL: u32 = 1;
/// The first protocol in which a child can give way ([`ToPredecessor::Prepared`]).
pub const GIVES_WAY: u32 = 2;

pub use to_predecessor::ToPredecessor;

/// A message that can be encoded and decoded.
pub trait WireMessage: Sized {
    /// Encodes it as the text of a packet.
    fn encode(&self) -> String;

    /// Decodes a packet. `Ok(None)`: a verb of a later version, to be skipped.
    ///
    /// # Errors
    /// [`Malformed`]: the packet is not a message of this protocol.
    fn decode(packet: &[u8]) -> Result<Option<Self>, Malformed>;
}

/// From the predecessor to the successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSuccessor {
    /// The first message; it is in the socket before the successor starts.
    Hello(Hello),
    /// A socket that clients connect to is attached (`[[listen]]`). [`Hello::listeners`] of these follow the
    /// hello.
    Listener {
        /// Its address, as the configuration writes it.
        address: String,
        /// Its file, as device and inode numbers.
        file: Option<FileId>,
    },
    /// The control socket is attached (`[control]`), if [`Hello::control`] says so.
    Control {
        /// Its address, as that of a listener.
        address: String,
        /// Its file, as that of a listener.
        file: Option<FileId>,
    },
    /// The link to the predecessor's relay is attached (`[[proxy]]`), if [`Hello::relay`] says so.
    Relay,
    /// The pidfd of the keeper of the predecessor's child is attached, if [`Hello::keeper`] says so.
    Keeper,
    /// A logger of `[output]` that later generations share (contract N3). Attached are the reading and the
    /// writing end of its pipe, and the pidfd of its output process, if that runs. [`Hello::loggers`] of
    /// these follow; a later one replaces the process.
    Logger {
        /// Its target, as the configuration writes it.
        target: String,
    },
    /// The predecessor's child is gone: the successor may start its own. A socket is attached that the
    /// successor and the keeper of its child keep open: when it is closed, both are gone.
    Start {
        /// Since when clients have been waiting, by CLOCK_MONOTONIC in milliseconds; `None`: no client waits.
        waiting_since: Option<u64>,
    },
    /// An earlier upgrade; [`Hello::records`] of these follow, the newest last.
    Record(Box<Record>),
    /// The successor is promoted.
    Acknowledge {
        /// An upgrade is queued, and the successor takes it over (contract U7).
        upgrade_queued: bool,
        /// Who requested it, as text, if known.
        by: Option<String>,
        /// As [`Hello::hold`], now.
        hold: Option<Hold>,
    },
    /// The files of `[output]` are to be opened again (contract N6). A client of the control socket is
    /// attached, to which the results are sent.
    Reopen,
    /// Connections are held, or no longer are (`psflip hold`, `psflip resume`), since the hello.
    Hold {
        /// As [`Hello::hold`].
        hold: Option<Hold>,
    },
    /// The link on which the successor's relay passes connections back after a bake is attached, if
    /// [`Hello::relay_back`] says so.
    RelayBack,
    /// The successor has the traffic on trial (contract B1).
    Traffic,
    /// The bake is over: the successor takes over.
    Keep,
    /// A signal for the child of a service whose successor bakes (contract B5).
    Signal(Received),
    /// The successor has to give up.
    Abort {
        /// Why, for people; `None`: because of a stop request, or unknown.
        reason: Option<String>,
    },
    /// After an abort: a second stop was requested, so the successor does not wait for what is under way.
    Hurry,
    /// The predecessor got an upgrade request after the promotion.
    Upgrade {
        /// Who requested it, as text, if known.
        by: Option<String>,
    },
    /// The service managers know that the successor is the main process; from now on the successor notifies
    /// them.
    Main,
    /// An old generation before the predecessor, which still drains; [`Hello::older`] of these follow, the
    /// oldest first. Attached are the connection to it, from which only the active generation reads, and its
    /// process.
    Older {
        /// Its number.
        generation: u64,
        /// Its pid.
        pid: u32,
        /// It was requested to end at once.
        ending: bool,
        /// Its current step, and how long it may take, if known.
        progress: Option<(Drain, Duration)>,
    },
    /// The progress of an older generation, as of the promotion.
    OlderDraining {
        /// Which one of [`ToSuccessor::Older`].
        generation: u64,
        /// The current step.
        step: Drain,
        /// How long it may take.
        left: Duration,
    },
    /// The predecessor's progress of draining, after the promotion.
    Draining {
        /// The current step.
        step: Drain,
        /// How long it may take.
        left: Duration,
    },
    /// The predecessor's proxy has answered what was under way at the promotion.
    Answered {
        /// Connections that the successor's proxy got from it.
        passed_on: u64,
        /// Requests that were under way at the promotion.
        waited_for: u64,
    },
}

/// The first message to a successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The newest protocol that the predecessor speaks.
    pub protocol: u32,
    /// The oldest protocol that the predecessor speaks.
    pub oldest: u32,
    /// The predecessor's version, for messages to people.
    pub version: String,
    /// The predecessor's pid.
    pub pid: u32,
    /// The number of the generation that starts.
    pub generation: u64,
    /// Its slot.
    pub slot: Slot,
    /// The signal mask and ignored signals with which psflip's first process was started. A successor itself
    /// starts with all signals blocked.
    pub signals: SignalSetup,
    /// The pidfile that the predecessor holds, if any; the successor takes it over by agreement.
    pub pidfile: Option<String>,
    /// How many [`ToSuccessor::Listener`] follow.
    pub listeners: u32,
    /// [`ToSuccessor::Control`] follows.
    pub control: bool,
    /// [`ToSuccessor::Relay`] follows.
    pub relay: bool,
    /// [`ToSuccessor::RelayBack`] follows.
    pub relay_back: bool,
    /// The predecessor knows the messages of a bake.
    pub bakes: bool,
    /// [`ToSuccessor::Keeper`] follows.
    pub keeper: bool,
    /// How many [`ToSuccessor::Logger`] follow.
    pub loggers: u32,
    /// The predecessor's child must not run at the same time as another one (`upgrade.overlap = false`): the
    /// successor waits for its turn, whatever its own configuration says.
    pub exclusive: bool,
    /// Connections are held (`psflip hold`).
    pub hold: Option<Hold>,
    /// How many [`ToSuccessor::Record`] follow.
    pub records: u32,
    /// How many [`ToSuccessor::Older`] follow.
    pub older: u32,
    /// The upgrade that starts this successor.
    pub upgrade: Begun,
    /// `LISTEN_FDS` in the environment was meant for the first psflip, so its sockets are there
    /// (sd_listen_fds(3)).
    pub activated: bool,
    /// A stamp of the predecessor's configuration file, to detect a changed file; see
    /// `process/invocation.rs`. Missing from versions that don't know this key.
    pub config: Option<String>,
}

/// The start of an upgrade.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Its number.
    pub number: u64,
    /// When it started, in milliseconds since 1970 (UTC).
    pub at: u64,
    /// The same time by CLOCK_MONOTONIC, in milliseconds.
    pub clock: u64,
    /// Who requested it, as text.
    pub by: String,
    /// The upgrades before it, by their results. Missing from versions that don't know these keys.
    pub counts: Option<Counts>,
}

impl WireMessage for ToSuccessor {
    fn encode(&self) -> String {
        match self {
            Self::Hello(hello) => {
                let mut text = Text::new("hello");
                text.add("protocol", &hello.protocol);
                text.add("oldest", &hello.oldest);
                text.add("version", &hello.version);
                text.add("pid", &hello.pid);
                text.add("generation", &hello.generation);
                text.add("slot", &hello.slot.as_str());
                text.add("mask", &hello.signals.mask.bits());
                text.add("ignored", &hello.signals.ignored.bits());
                if let Some(pidfile) = &hello.pidfile {
                    text.add("pidfile", &pidfile);
                }
                if hello.listeners > 0 {
                    text.add("listeners", &hello.listeners);
                }
                if hello.control {
                    text.add("control", &1);
                }
                if hello.relay {
                    text.add("relay", &1);
                }
                if hello.relay_back {
                    text.add("relay-back", &1);
                }
                if hello.bakes {
                    text.add("bakes", &1);
                }
                if hello.keeper {
                    text.add("keeper", &1);
                }
                if hello.loggers > 0 {
                    text.add("loggers", &hello.loggers);
                }
                if hello.exclusive {
                    text.add("exclusive", &1);
                }
                text.add_hold(hello.hold);
                if hello.records > 0 {
                    text.add("records", &hello.records);
                }
                if hello.older > 0 {
                    text.add("older", &hello.older);
                }
                let Begun { number, at, clock, by, counts } = &hello.upgrade;
                text.add("upgrade", number);
                text.add("began-at", at);
                text.add("began-clock", clock);
                text.add("by", by);
                if let Some(counts) = counts {
                    text.add("promoted", &counts.promoted);
                    text.add("failed", &counts.failed);
                    text.add("rolled-back", &counts.rolled_back);
                }
                if hello.activated {
                    text.add("activated", &1);
                }
                if let Some(config) = &hello.config {
                    text.add("config", config);
                }
                text.finish()
            }
            Self::Listener { address, file } => socket("listener", address, *file),
            Self::Control { address, file } => socket("control", address, *file),
            Self::Relay => Text::new("relay").finish(),
            Self::RelayBack => Text::new("relay-back").finish(),
            Self::Traffic => Text::new("traffic").finish(),
            Self::Keep => Text::new("keep").finish(),
            Self::Signal(Received { signal, code, pid, uid, value }) => {
                let mut text = Text::new("signal");
                text.add("number", &signal.number());
                text.add("code", code);
                text.add("pid", pid);
                text.add("uid", uid);
                text.add("value", value);
                text.finish()
            }
            Self::Keeper => Text::new("keeper").finish(),
            Self::Logger { target } => {
                let mut text = Text::new("logger");
                text.add("target", target);
                text.finish()
            }
            Self::Start { waiting_since } => {
                let mut text = Text::new("start");
                if let Some(since) = waiting_since {
                    text.add("waiting-since", since);
                }
                text.finish()
            }
            Self::Record(whole) => {
                let text = record(whole);
                if text.fits() {
                    return text.finish();
                }
                // A truncated record can't be parsed. Numbers are short, so leave out the texts.
                let short = Record { probe: None, reason: None, by: String::new(), ..(**whole).clone() };
                let words = Record { hook_failure: None, ..short };
                record(&words).finish()
            }
            Self::Acknowledge { upgrade_queued, by, hold } => {
                let mut text = Text::new("acknowledge");
                text.add("remembered", &u8::from(*upgrade_queued));
                text.add_hold(*hold);
                add_by(&mut text, by.as_ref());
                text.finish()
            }
            Self::Hold { hold } => {
                let mut text = Text::new("hold");
                text.add_hold(*hold);
                text.finish()
            }
            Self::Abort { reason } => {
                let mut text = Text::new("abort");
                if let Some(reason) = reason {
                    text.add("reason", reason);
                }
                text.finish()
            }
            Self::Hurry => Text::new("hurry").finish(),
            Self::Upgrade { by } => upgrade(by.as_ref()),
            Self::Main => Text::new("main").finish(),
            Self::Reopen => Text::new("reopen").finish(),
            Self::Older { generation, pid, ending, progress } => {
                let mut text = Text::new("older");
                text.add("generation", generation);
                text.add("pid", pid);
                if *ending {
                    text.add("ending", &1);
                }
                if let Some((step, left)) = progress {
                    text.add("step", &word(step));
                    text.add("left-ms", &left.as_millis());
                }
                text.finish()
            }
            Self::OlderDraining { generation, step, left } => {
                let mut text = Text::new("older-draining");
                text.add("generation", generation);
                text.add("step", &word(step));
                text.add("left-ms", &left.as_millis());
                text.finish()
            }
            Self::Draining { step, left } => {
                let mut text = Text::new("draining");
                text.add("step", &word(step));
                text.add("left-ms", &left.as_millis());
                text.finish()
            }
            Self::Answered { passed_on, waited_for } => {
                let mut text = Text::new("answered");
                text.add("passed-on", passed_on);
                text.add("waited-for", waited_for);
                text.finish()
            }
        }
    }

    fn decode(packet: &[u8]) -> Result<Option<Self>, Malformed> {
        let (verb, fields) = Fields::split(packet)?;
        Ok(Some(match verb {
            "hello" => Self::Hello(Hello {
                protocol: fields.number("protocol")?,
                oldest: fields.number("oldest")?,
                version: fields.text("version")?,
                pid: fields.number("pid")?,
                generation: fields.number("generation")?,
                slot: match fields.text("slot")?.as_str() {
                    "a" => Slot::A,
                    "b" => Slot::B,
                    other => return Err(Malformed(format!("slot `{other}`"))),
                },
                signals: SignalSetup {
                    mask: SignalSet::from_bits(fields.number("mask")?),
                    ignored: SignalSet::from_bits(fields.number("ignored")?),
                },
                pidfile: fields.optional("pidfile"),
                listeners: fields.optional_number("listeners")?.unwrap_or_default(),
                control: fields.optional_number::<u8>("control")? == Some(1),
                relay: fields.optional_number::<u8>("relay")? == Some(1),
                relay_back: fields.optional_number::<u8>("relay-back")? == Some(1),
                bakes: fields.optional_number::<u8>("bakes")? == Some(1),
                keeper: fields.optional_number::<u8>("keeper")? == Some(1),
                loggers: fields.optional_number("loggers")?.unwrap_or_default(),
                exclusive: fields.optional_number::<u8>("exclusive")? == Some(1),
                hold: fields.hold()?,
                records: fields.optional_number("records")?.unwrap_or_default(),
                older: fields.optional_number("older")?.unwrap_or_default(),
                upgrade: Begun {
                    number: fields.optional_number("upgrade")?.unwrap_or_default(),
                    at: fields.optional_number("began-at")?.unwrap_or_default(),
                    clock: fields.optional_number("began-clock")?.unwrap_or_default(),
                    by: fields.optional("by").unwrap_or_default(),
                    counts: fields.counts()?,
                },
                activated: fields.optional_number::<u8>("activated")? == Some(1),
                config: fields.optional("config"),
            }),
            "listener" => Self::Listener { address: fields.text("address")?, file: fields.file()? },
            "control" => Self::Control { address: fields.text("address")?, file: fields.file()? },
            "relay" => Self::Relay,
            "relay-back" => Self::RelayBack,
            "traffic" => Self::Traffic,
            "keep" => Self::Keep,
            "signal" => {
                let number: i32 = fields.number("number")?;
                let signal = Signal::all().find(|signal| signal.number() == number);
                Self::Signal(Received {
                    signal: signal.ok_or_else(|| Malformed(format!("signal {number}")))?,
                    code: fields.number("code")?,
                    pid: fields.number("pid")?,
                    uid: fields.number("uid")?,
                    value: fields.number("value")?,
                })
            }
            "keeper" => Self::Keeper,
            "logger" => Self::Logger { target: fields.text("target")? },
            "start" => Self::Start { waiting_since: fields.optional_number("waiting-since")? },
            "record" => {
                let json = fields.text("json")?;
                let record = serde_json::from_str(&json);
                Self::Record(Box::new(record.map_err(|error| Malformed(format!("`json`: {error}")))?))
            }
            "acknowledge" => Self::Acknowledge {
                upgrade_queued: fields.number::<u8>("remembered")? != 0,
                by: fields.optional("by"),
                hold: fields.hold()?,
            },
            "hold" => Self::Hold { hold: fields.hold()? },
            "abort" => Self::Abort { reason: fields.optional("reason") },
            "hurry" => Self::Hurry,
            "upgrade" => Self::Upgrade { by: fields.optional("by") },
            "main" => Self::Main,
            "reopen" => Self::Reopen,
            "older" => Self::Older {
                generation: fields.number("generation")?,
                pid: fields.number("pid")?,
                ending: fields.optional_number::<u8>("ending")? == Some(1),
                progress: match (fields.optional("step"), fields.optional_number("left-ms")?) {
                    (Some(step), Some(left)) => Some((from_word(&step)?, Duration::from_millis(left))),
                    _ => None,
                },
            },
            "older-draining" => Self::OlderDraining {
                generation: fields.number("generation")?,
                step: from_word(&fields.text("step")?)?,
                left: Duration::from_millis(fields.number("left-ms")?),
            },
            "draining" => Self::Draining {
                step: from_word(&fields.text("step")?)?,
                left: Duration::from_millis(fields.number("left-ms")?),
            },
            "answered" => Self::Answered {
                passed_on: fields.number("passed-on")?,
                waited_for: fields.number("waited-for")?,
            },
            _ => return Ok(None),
        }))
    }
}

fn socket(verb: &str, address: &str, file: Option<FileId>) -> String {
    let mut text = Text::new(verb);
    text.add("address", &address);
    if let Some(FileId { device, inode }) = file {
        text.add("device", &device);
        text.add("inode", &inode);
    }
    text.finish()
}

fn upgrade(by: Option<&String>) -> String {
    let mut text = Text::new("upgrade");
    add_by(&mut text, by);
    text.finish()
}

/// Versions that don't know this key leave it out; then the requester is unknown.
fn add_by(text: &mut Text, by: Option<&String>) {
    if let Some(by) = by {
        text.add("by", by);
    }
}

fn record(record: &Record) -> Text {
    let mut text = Text::new("record");
    // It can't fail: all keys are strings.
    text.add("json", &serde_json::to_string(record).unwrap_or_default());
    text
}

mod to_predecessor;

#[cfg(test)]
mod tests;
