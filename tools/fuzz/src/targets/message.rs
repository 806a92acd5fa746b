//! `message`: any packet as a hand-over message of either side.

use std::fmt::Debug;
use std::path::Path;

use psflip::testing::handover::{ToPredecessor, ToSuccessor, WireMessage};
use psflip::testing::sys::socket::LONGEST;

use super::{Run, ensure};
use crate::Error;

pub(super) const WORDS: &[&str] = &[
    "hello",
    "acknowledge",
    "abort",
    "hurry",
    "upgrade",
    "spawned",
    "starting",
    "ready",
    "failed",
    "control",
    "record",
    "json {\"upgrade\":1}",
    "draining",
    "progress",
    "step child",
    "stop",
    "main",
    "sing",
    "protocol",
    "oldest",
    "version",
    "pid",
    "generation",
    "slot",
    "mask",
    "ignored",
    "pidfile",
    "remembered",
    "deadline-ms",
    "grace-ms",
    "code",
    "child-code",
    "reason",
    "future",
    " 1",
    " 0",
    " a",
    " b",
    " 255",
    "\n",
    "\\n",
    "\\\\",
    "\nprotocol 2",
    "\noldest 2",
    "\nkeeper 1",
    "\nexclusive 1",
    "start",
    "waiting-since",
    "prepared",
    "\nremembered 1",
    "\nslot c",
];

pub(super) fn start(_: &Path) -> Result<Run, Error> {
    Ok(Box::new(|bytes| {
        reads_back::<ToSuccessor>(bytes)?;
        reads_back::<ToPredecessor>(bytes)
    }))
}

/// A parsed message can be encoded, fits into a packet, and parses to the same message unless it had to be
/// cut.
fn reads_back<M: WireMessage + Debug + PartialEq>(bytes: &[u8]) -> Result<(), String> {
    let message = match M::decode(bytes) {
        Ok(Some(message)) => message,
        Ok(None) => return Ok(()),
        Err(error) => return ensure(!error.to_string().is_empty(), || "an error without a text".to_owned()),
    };
    let packet = message.encode();
    ensure(packet.len() <= LONGEST, || format!("a packet of {} bytes", packet.len()))?;
    // No receiver accepts a longer packet, so its message may be cut. Encoding a record adds the keys that
    // were left out, which makes it longer.
    let cut = bytes.len() > LONGEST - 64;
    let again = M::decode(packet.as_bytes());
    ensure(cut || again.as_ref() == Ok(&Some(message)), || format!("it reads back as {again:?}"))
}
