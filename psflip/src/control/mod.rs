//! The socket by which operators ask a running psflip: what they say to each other (`protocol.rs`), and psflip's end of it
//! (`server.rs`). docs/control.md describes it for those who write clients of their own.

pub mod client;
pub mod protocol;
pub mod server;
