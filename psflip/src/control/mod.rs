//! The control socket, by which operators control a running psflip: the messages (`protocol.rs`), the
//! server in psflip (`server.rs`) and the client (`client.rs`). docs/control.md describes the
//! protocol for authors of other clients.

pub mod client;
pub mod protocol;
pub mod server;
