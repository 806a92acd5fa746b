//! The messages between two generations: pure text, versioned, and readable in a trace.
//!
//! A message is one packet of a `SOCK_SEQPACKET` socket pair, at most 4096 bytes of UTF-8: a verb on the first line, then one
//! `key value` pair a line. In a value `\n` stands for a line break and `\\` for a backslash. Unknown verbs and unknown keys are
//! skipped, so a later version may add both (contract V1); a verb is never removed, and a key never changes its meaning.
//!
//! What a version can't express in this way gets a new protocol number: see [`Hello::protocol`] and [`PROTOCOL`].

use std::time::Duration;

pub use super::text::Malformed;
use super::text::{Fields, Text, from_word, word};
use crate::config::Slot;
use crate::history::{Drain, Record, Step};
use crate::sys::early::SignalSetup;
use crate::sys::signal::SignalSet;
use crate::traffic::FileId;

/// The protocol that this version speaks.
pub const PROTOCOL: u32 = 1;
/// The oldest protocol that this version still speaks.
pub const OLDEST_PROTOCOL: u32 = 1;

/// A message that can be written and read.
pub trait Message: Sized {
    /// As the text of a packet.
    fn encode(&self) -> String;

    /// Reads a packet. `Ok(None)`: a verb of a later version, to be skipped.
    ///
    /// # Errors
    /// The packet is no message of this protocol at all: [`Malformed`].
    fn decode(packet: &[u8]) -> Result<Option<Self>, Malformed>;
}

/// From the predecessor to the successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToSuccessor {
    /// The first message; it waits in the socket when the successor starts.
    Hello(Hello),
    /// A socket that clients connect to comes along (`[[listen]]`). These follow the hello, [`Hello::listeners`] of them.
    Listener {
        /// Its address, as the configuration writes it.
        address: String,
        /// Its file: the numbers of the file system and of the file there.
        file: Option<FileId>,
    },
    /// The socket that operators connect to comes along (`[control]`), if [`Hello::control`] says so.
    Control {
        /// Its address, as that of a listener.
        address: String,
        /// Its file, likewise.
        file: Option<FileId>,
    },
    /// What happened at an earlier upgrade; [`Hello::records`] of them, the newest last.
    Record(Box<Record>),
    /// You are promoted. `remembered`: an upgrade was requested that you have to follow.
    Acknowledge {
        /// See contract U7.
        remembered: bool,
        /// Who requested it, in words, if that is known.
        by: Option<String>,
    },
    /// Give up.
    Abort,
    /// An upgrade was requested of me after you were promoted.
    Upgrade {
        /// By whom, in words, if that is known.
        by: Option<String>,
    },
    /// The managers know that you are the main process: from now on you are the one that speaks to them.
    Main,
    /// How far my end is, after you were promoted.
    Draining {
        /// What happens now.
        step: Drain,
        /// How long that may take.
        left: Duration,
    },
}

/// What a successor has to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The newest protocol that the predecessor speaks.
    pub protocol: u32,
    /// The oldest one that it speaks.
    pub oldest: u32,
    /// The predecessor's version, for messages to people.
    pub version: String,
    /// The predecessor's pid.
    pub pid: u32,
    /// The number of the generation that starts.
    pub generation: u64,
    /// Its slot.
    pub slot: Slot,
    /// What psflip's first process was started with; a successor is started with everything blocked.
    pub signals: SignalSetup,
    /// The pidfile that the predecessor holds, if it holds one: nobody else may be on it.
    pub pidfile: Option<String>,
    /// How many [`ToSuccessor::Listener`] follow.
    pub listeners: u32,
    /// [`ToSuccessor::Control`] follows.
    pub control: bool,
    /// How many [`ToSuccessor::Record`] follow.
    pub records: u32,
    /// The upgrade that this is the beginning of.
    pub upgrade: Begun,
    /// `LISTEN_FDS` in the environment was meant for the first psflip, so the sockets are there (sd_listen_fds(3)).
    pub activated: bool,
    /// What tells the predecessor's configuration file from another version of it; see `process/invocation.rs`. A version without this
    /// key leaves it out.
    pub config: Option<String>,
}

/// An upgrade as it begins.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Begun {
    /// Its number.
    pub number: u64,
    /// When, in milliseconds since 1970 (UTC).
    pub at: u64,
    /// The same moment by CLOCK_MONOTONIC, in milliseconds.
    pub clock: u64,
    /// Who asked for it, in words.
    pub by: String,
}

/// From the successor to the predecessor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToPredecessor {
    /// I exist (a pidfd of mine comes along) and will now become the new psflip.
    Spawned {
        /// My pid.
        pid: u32,
    },
    /// I have read the configuration and start my child.
    Starting {
        /// My version, for messages to people.
        version: String,
        /// From now: by then I will have said `Ready` or `Failed`, or I hang.
        deadline: Duration,
        /// After an `Abort`: by then I will be gone, or I hang.
        grace: Duration,
    },
    /// My child may take longer than I said (`EXTEND_TIMEOUT_USEC=` of sd_notify(3)). A predecessor of a version without this message
    /// takes me for hung at the deadline that it knows.
    Extended {
        /// From now, as that of `Starting`.
        deadline: Duration,
    },
    /// My configuration is new to this service, and probably does not mean what it says. A predecessor of a version without this
    /// message skips it.
    Warning {
        /// What, and what to do, in one line.
        text: String,
    },
    /// How far I am, for those who wait for it.
    Progress {
        /// What happens now.
        step: Step,
        /// My child's pid, once there is one.
        child: Option<u32>,
        /// What a probe said that failed.
        probe: Option<String>,
    },
    /// My child is healthy and the pidfile names me: acknowledge.
    Ready,
    /// I give up, and end after this.
    Failed {
        /// What I exit with.
        code: u8,
        /// The exit code of my child, if it ended with one and the reason says so. A version without this key leaves it out.
        child_code: Option<u8>,
        /// Why, for people.
        reason: String,
    },
    /// An upgrade was requested of me that I won't follow.
    Upgrade {
        /// By whom, in words, if that is known.
        by: Option<String>,
    },
    /// I was asked to stop while the pidfile named me, so whoever asked meant the service: stop with your child.
    Stop,
}

impl Message for ToSuccessor {
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
                if hello.records > 0 {
                    text.add("records", &hello.records);
                }
                let Begun { number, at, clock, by } = &hello.upgrade;
                text.add("upgrade", number);
                text.add("began-at", at);
                text.add("began-clock", clock);
                text.add("by", by);
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
            Self::Record(whole) => {
                let text = record(whole);
                if text.fits() {
                    return text.finish();
                }
                // Half a record can't be read. Numbers are short: what is too long is words.
                let words = Record { probe: None, reason: None, by: String::new(), ..(**whole).clone() };
                record(&words).finish()
            }
            Self::Acknowledge { remembered, by } => {
                let mut text = Text::new("acknowledge");
                text.add("remembered", &u8::from(*remembered));
                add_by(&mut text, by.as_ref());
                text.finish()
            }
            Self::Abort => Text::new("abort").finish(),
            Self::Upgrade { by } => upgrade(by.as_ref()),
            Self::Main => Text::new("main").finish(),
            Self::Draining { step, left } => {
                let mut text = Text::new("draining");
                text.add("step", &word(step));
                text.add("left-ms", &left.as_millis());
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
                records: fields.optional_number("records")?.unwrap_or_default(),
                upgrade: Begun {
                    number: fields.optional_number("upgrade")?.unwrap_or_default(),
                    at: fields.optional_number("began-at")?.unwrap_or_default(),
                    clock: fields.optional_number("began-clock")?.unwrap_or_default(),
                    by: fields.optional("by").unwrap_or_default(),
                },
                activated: fields.optional_number::<u8>("activated")? == Some(1),
                config: fields.optional("config"),
            }),
            "listener" => Self::Listener { address: fields.text("address")?, file: fields.file()? },
            "control" => Self::Control { address: fields.text("address")?, file: fields.file()? },
            "record" => {
                let json = fields.text("json")?;
                let record = serde_json::from_str(&json);
                Self::Record(Box::new(record.map_err(|error| Malformed(format!("`json`: {error}")))?))
            }
            "acknowledge" => Self::Acknowledge {
                remembered: fields.number::<u8>("remembered")? != 0,
                by: fields.optional("by"),
            },
            "abort" => Self::Abort,
            "upgrade" => Self::Upgrade { by: fields.optional("by") },
            "main" => Self::Main,
            "draining" => Self::Draining {
                step: from_word(&fields.text("step")?)?,
                left: Duration::from_millis(fields.number("left-ms")?),
            },
            _ => return Ok(None),
        }))
    }
}

impl Message for ToPredecessor {
    fn encode(&self) -> String {
        match self {
            Self::Spawned { pid } => {
                let mut text = Text::new("spawned");
                text.add("pid", &pid);
                text.finish()
            }
            Self::Starting { version, deadline, grace } => {
                let mut text = Text::new("starting");
                text.add("version", &version);
                text.add("deadline-ms", &deadline.as_millis());
                text.add("grace-ms", &grace.as_millis());
                text.finish()
            }
            Self::Extended { deadline } => {
                let mut text = Text::new("extended");
                text.add("deadline-ms", &deadline.as_millis());
                text.finish()
            }
            Self::Warning { text: warning } => {
                let mut text = Text::new("warning");
                text.add("text", warning);
                text.finish()
            }
            Self::Progress { step, child, probe } => {
                let mut text = Text::new("progress");
                text.add("step", &word(step));
                if let Some(child) = child {
                    text.add("child", child);
                }
                if let Some(probe) = probe {
                    text.add("probe", probe);
                }
                text.finish()
            }
            Self::Ready => Text::new("ready").finish(),
            Self::Failed { code, child_code, reason } => {
                let mut text = Text::new("failed");
                text.add("code", &code);
                if let Some(child_code) = child_code {
                    text.add("child-code", child_code);
                }
                text.add("reason", &reason);
                text.finish()
            }
            Self::Upgrade { by } => upgrade(by.as_ref()),
            Self::Stop => Text::new("stop").finish(),
        }
    }

    fn decode(packet: &[u8]) -> Result<Option<Self>, Malformed> {
        let (verb, fields) = Fields::split(packet)?;
        Ok(Some(match verb {
            "spawned" => Self::Spawned { pid: fields.number("pid")? },
            "starting" => Self::Starting {
                version: fields.text("version")?,
                deadline: Duration::from_millis(fields.number("deadline-ms")?),
                grace: Duration::from_millis(fields.number("grace-ms")?),
            },
            "extended" => Self::Extended { deadline: Duration::from_millis(fields.number("deadline-ms")?) },
            "warning" => Self::Warning { text: fields.text("text")? },
            "progress" => Self::Progress {
                step: from_word(&fields.text("step")?)?,
                child: fields.optional_number("child")?,
                probe: fields.optional("probe"),
            },
            "ready" => Self::Ready,
            "failed" => Self::Failed {
                code: fields.number("code")?,
                child_code: fields.optional_number("child-code")?,
                reason: fields.text("reason")?,
            },
            "upgrade" => Self::Upgrade { by: fields.optional("by") },
            "stop" => Self::Stop,
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

/// A version without this key leaves it out, so that it is not known who asked.
fn add_by(text: &mut Text, by: Option<&String>) {
    if let Some(by) = by {
        text.add("by", by);
    }
}

fn record(record: &Record) -> Text {
    let mut text = Text::new("record");
    text.add("json", &serde_json::to_string(record).unwrap_or_default()); // it can't fail: all its keys are strings
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Outcome;
    use crate::sys::socket::LONGEST;
    use proptest::prelude::*;

    fn hello() -> Hello {
        Hello {
            protocol: 1,
            oldest: 1,
            version: "0.1.0".to_owned(),
            pid: 4711,
            generation: 7,
            slot: Slot::A,
            signals: SignalSetup { mask: SignalSet::from_bits(0), ignored: SignalSet::from_bits(1) },
            pidfile: Some("/run/app.pid".to_owned()),
            listeners: 1,
            control: true,
            records: 1,
            upgrade: Begun {
                number: 8,
                at: 1_795_000_000_000,
                clock: 86_400_000,
                by: "SIGHUP from pid 12 (uid 0)".to_owned(),
            },
            activated: true,
            config: Some("26 4711 80 1795000000 0".to_owned()),
        }
    }

    fn record() -> Record {
        let mut record =
            Record { upgrade: 7, from: Some(6), to: 7, began_at: 1_795_000_000_000, ..Record::default() };
        record.step(Step::Started, 0);
        record.step(Step::Child, 12);
        record.probe_failed("connection refused");
        record.end(Outcome::Promoted, None, 500);
        record.drain(Drain::Asked, 501);
        record
    }

    /// The wire as it is: a change here is a change of protocol.
    #[test]
    fn the_wire() {
        // Contract: V1
        let by = || Some("SIGHUP from pid 12 (uid 0)".to_owned());
        let to_successor = [
            ToSuccessor::Hello(hello()),
            ToSuccessor::Listener {
                address: "unix:///run/app.sock".to_owned(),
                file: Some(FileId { device: 26, inode: 4711 }),
            },
            ToSuccessor::Listener { address: "tcp://0.0.0.0:80".to_owned(), file: None },
            ToSuccessor::Control {
                address: "unix:///run/app.pid.sock".to_owned(),
                file: Some(FileId { device: 26, inode: 4712 }),
            },
            ToSuccessor::Record(Box::new(record())),
            ToSuccessor::Acknowledge { remembered: true, by: by() },
            ToSuccessor::Acknowledge { remembered: false, by: None },
            ToSuccessor::Abort,
            ToSuccessor::Upgrade { by: by() },
            ToSuccessor::Main,
            ToSuccessor::Draining { step: Drain::Asked, left: Duration::from_secs(10) },
        ];
        let to_predecessor = [
            ToPredecessor::Spawned { pid: 4712 },
            ToPredecessor::Starting {
                version: "0.2.0".to_owned(),
                deadline: Duration::from_secs(80),
                grace: Duration::from_millis(25_500),
            },
            ToPredecessor::Extended { deadline: Duration::from_secs(120) },
            ToPredecessor::Warning { text: "nobody asks the child".to_owned() },
            ToPredecessor::Progress { step: Step::Child, child: Some(4713), probe: None },
            ToPredecessor::Progress {
                step: Step::Probe,
                child: Some(4713),
                probe: Some("connection refused".to_owned()),
            },
            ToPredecessor::Ready,
            ToPredecessor::Failed { code: 78, child_code: None, reason: "two\nlines and a \\".to_owned() },
            ToPredecessor::Failed {
                code: 1,
                child_code: Some(0),
                reason: "the child ended: exit code 0".to_owned(),
            },
            ToPredecessor::Upgrade { by: by() },
            ToPredecessor::Stop,
        ];
        let mut wire = String::new();
        for message in &to_successor {
            wire += &format!("old -> new\n{}\n\n", message.encode());
            assert_eq!(ToSuccessor::decode(message.encode().as_bytes()), Ok(Some(message.clone())));
        }
        for message in &to_predecessor {
            wire += &format!("new -> old\n{}\n\n", message.encode());
            assert_eq!(ToPredecessor::decode(message.encode().as_bytes()), Ok(Some(message.clone())));
        }
        insta::assert_snapshot!("wire", wire);
    }

    #[test]
    fn what_a_later_version_adds_is_skipped() {
        // Contract: V1
        assert_eq!(ToSuccessor::decode(b"sing\nsong loud"), Ok(None));
        assert_eq!(ToPredecessor::decode(b"dance"), Ok(None));
        assert_eq!(
            ToSuccessor::decode(b"acknowledge\nfuture 7\nremembered 0"),
            Ok(Some(ToSuccessor::Acknowledge { remembered: false, by: None }))
        );
        // An earlier one says nothing of who asked.
        assert_eq!(ToSuccessor::decode(b"upgrade"), Ok(Some(ToSuccessor::Upgrade { by: None })));
        assert_eq!(ToPredecessor::decode(b"upgrade"), Ok(Some(ToPredecessor::Upgrade { by: None })));
        // Nor what its reason says of the child.
        assert_eq!(
            ToPredecessor::decode(b"failed\ncode 3\nreason no"),
            Ok(Some(ToPredecessor::Failed { code: 3, child_code: None, reason: "no".to_owned() }))
        );
    }

    #[test]
    fn what_is_missing_or_broken_is_named() {
        let error = |packet: &[u8]| ToSuccessor::decode(packet).unwrap_err().to_string();
        assert_eq!(error(b"acknowledge"), "malformed message: no `remembered`");
        assert_eq!(
            error(b"acknowledge\nremembered yes"),
            "malformed message: `remembered yes` is no number in range"
        );
        assert!(error(b"\xff").starts_with("malformed message: invalid utf-8"));
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut() {
        let message = ToPredecessor::Failed { code: 1, child_code: None, reason: "\\ä".repeat(3000) };
        let wire = message.encode();
        assert!(wire.len() <= LONGEST, "{}", wire.len());
        let Ok(Some(ToPredecessor::Failed { reason, .. })) = ToPredecessor::decode(wire.as_bytes()) else {
            panic!()
        };
        assert!(reason.starts_with("\\ä\\ä") && reason.ends_with("..."), "{reason}");
    }

    #[test]
    fn a_record_that_is_too_long_loses_its_words() {
        let mut long = record();
        long.end(Outcome::Failed, Some(&"\"\\".repeat(2000)), 600);
        long.probe_failed(&"\u{1b}".repeat(2000));
        let wire = ToSuccessor::Record(Box::new(long.clone())).encode();
        assert!(wire.len() <= LONGEST, "{}", wire.len());
        let Ok(Some(ToSuccessor::Record(read))) = ToSuccessor::decode(wire.as_bytes()) else {
            panic!("{wire}")
        };
        assert_eq!(*read, Record { probe: None, reason: None, ..long });
    }

    proptest! {
        #[test]
        fn every_reason_survives(reason in ".{0,900}") {
            let message = ToPredecessor::Failed { code: 3, child_code: Some(3), reason };
            prop_assert_eq!(ToPredecessor::decode(message.encode().as_bytes()), Ok(Some(message)));
        }

        #[test]
        fn no_packet_is_too_odd(packet in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = ToSuccessor::decode(&packet);
            let _ = ToPredecessor::decode(&packet);
        }
    }
}
