//! What generations tell the anchor: one packet, one line of words. Unknown verbs and further words are skipped, so a later version may
//! add both (contract V1).

/// The protocol of these messages and of what an anchor hands to its next program, as this version speaks it.
pub(super) const PROTOCOL: u32 = 1;
/// The oldest one that this version still speaks.
pub(super) const OLDEST_PROTOCOL: u32 = 1;

/// A message. Who sent it is the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// A psflip's program has begun. `oldest` to `protocol`: the anchors that it could itself be. `leaves`: `shutdown.orphans` is "leave".
    Begins {
        /// The newest protocol.
        protocol: u32,
        /// The oldest one.
        oldest: u32,
        /// What its child leaves behind is not to be ended.
        leaves: bool,
    },
    /// The active generation is about to start a successor, which will introduce itself.
    Upgrading,
    /// A successor exists, and is about to execute psflip.
    Coming,
    /// The active generation's upgrade failed.
    Failed,
    /// The active generation has acknowledged its successor, which is the active one now.
    Main {
        /// The successor.
        pid: u32,
    },
}

impl Message {
    /// [`Message::Begins`] of this version.
    #[must_use]
    pub fn begins(leaves: bool) -> Self {
        Self::Begins { protocol: PROTOCOL, oldest: OLDEST_PROTOCOL, leaves }
    }

    /// As the text of a packet.
    #[must_use]
    pub fn encode(self) -> String {
        match self {
            Self::Begins { protocol, oldest, leaves } => {
                format!("begins {protocol} {oldest} {}", u8::from(leaves))
            }
            Self::Upgrading => "upgrading".to_owned(),
            Self::Coming => "coming".to_owned(),
            Self::Failed => "failed".to_owned(),
            Self::Main { pid } => format!("main {pid}"),
        }
    }

    /// Reads a packet. `None`: it is none of this version's.
    #[must_use]
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(packet).ok()?.split(' ');
        let verb = words.next()?;
        let mut number = || words.next()?.parse::<u32>().ok();
        Some(match verb {
            "begins" => Self::Begins { protocol: number()?, oldest: number()?, leaves: number()? != 0 },
            "upgrading" => Self::Upgrading,
            "coming" => Self::Coming,
            "failed" => Self::Failed,
            "main" => Self::Main { pid: number()? },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_survive_the_wire() {
        // Contract: V1
        for message in [
            Message::begins(false),
            Message::Begins { protocol: 7, oldest: 2, leaves: true },
            Message::Upgrading,
            Message::Coming,
            Message::Failed,
            Message::Main { pid: 4711 },
        ] {
            let text = message.encode();
            assert_eq!(Message::decode(text.as_bytes()), Some(message), "{text}");
            let later = format!("{text} and more");
            assert_eq!(Message::decode(later.as_bytes()), Some(message), "{later}");
        }
    }

    #[test]
    fn what_is_no_message_is_skipped() {
        // Contract: V1
        for packet in
            [b"".as_slice(), b"main", b"main x", b"main -1", b"begins 1", b"Main 3", b"\xff\xfe", b"resign"]
        {
            assert_eq!(Message::decode(packet), None, "{}", packet.escape_ascii());
        }
    }
}
