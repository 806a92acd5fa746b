//! The messages from generations to the anchor. A message is one packet: a verb and its
//! arguments, separated by spaces. Unknown verbs and further arguments are skipped, so that a
//! later version may add both (contract V1).

/// The newest protocol of this version: of these messages, and of the state that an
/// anchor passes to its next program.
pub(super) const PROTOCOL: u32 = 1;
/// The oldest protocol that this version still supports.
pub(super) const OLDEST_PROTOCOL: u32 = 1;

/// A message. The kernel adds the sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnchorMessage {
    /// A psflip program has started. It could itself be an anchor of the protocols `oldest` to `protocol`.
    /// `leaves`: `shutdown.orphans` is "leave".
    Begins {
        /// The newest protocol.
        protocol: u32,
        /// The oldest protocol.
        oldest: u32,
        /// Leftover processes of its child must not be killed.
        leaves: bool,
    },
    /// The active generation is about to start a successor, which will announce itself.
    Upgrading,
    /// An output process (`crate::output`) has started. It exits by itself, when everything is written.
    Output,
    /// A successor exists, and is about to execute psflip.
    Coming,
    /// The active generation's upgrade failed.
    Failed,
    /// The active generation has acknowledged its successor, which is the active generation now.
    Main {
        /// The successor.
        pid: u32,
    },
}

impl AnchorMessage {
    /// [`AnchorMessage::Begins`] of this version.
    #[must_use]
    pub fn begins(leaves: bool) -> Self {
        Self::Begins { protocol: PROTOCOL, oldest: OLDEST_PROTOCOL, leaves }
    }

    /// The text of the packet.
    #[must_use]
    pub fn encode(self) -> String {
        match self {
            Self::Begins { protocol, oldest, leaves } => {
                format!("begins {protocol} {oldest} {}", u8::from(leaves))
            }
            Self::Upgrading => "upgrading".to_owned(),
            Self::Output => "output".to_owned(),
            Self::Coming => "coming".to_owned(),
            Self::Failed => "failed".to_owned(),
            Self::Main { pid } => format!("main {pid}"),
        }
    }

    /// Decodes a packet. `None`: this version has no such message.
    #[must_use]
    pub fn decode(packet: &[u8]) -> Option<Self> {
        let mut words = std::str::from_utf8(packet).ok()?.split(' ');
        let verb = words.next()?;
        let mut number = || words.next()?.parse::<u32>().ok();
        Some(match verb {
            "begins" => Self::Begins { protocol: number()?, oldest: number()?, leaves: number()? != 0 },
            "upgrading" => Self::Upgrading,
            "output" => Self::Output,
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
    fn messages_round_trip() {
        // Contract: V1
        for message in [
            AnchorMessage::begins(false),
            AnchorMessage::Begins { protocol: 7, oldest: 2, leaves: true },
            AnchorMessage::Upgrading,
            AnchorMessage::Output,
            AnchorMessage::Coming,
            AnchorMessage::Failed,
            AnchorMessage::Main { pid: 4711 },
        ] {
            let text = message.encode();
            assert_eq!(AnchorMessage::decode(text.as_bytes()), Some(message), "{text}");
            let later = format!("{text} and more");
            assert_eq!(AnchorMessage::decode(later.as_bytes()), Some(message), "{later}");
        }
    }

    #[test]
    fn invalid_messages_are_skipped() {
        // Contract: V1
        for packet in
            [b"".as_slice(), b"main", b"main x", b"main -1", b"begins 1", b"Main 3", b"\xff\xfe", b"resign"]
        {
            assert_eq!(AnchorMessage::decode(packet), None, "{}", packet.escape_ascii());
        }
    }
}
