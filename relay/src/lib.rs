//! The relay: the process that carries connections from a `[[proxy]]`'s listening sockets to the child of its
//! generation.
//!
//! Each generation that has a `[[proxy]]` has one relay. psflip starts it, sends it orders over a socket pair
//! ([`message`]), and stops it. psflip itself never touches a client's connection.
//!
//! What a relay does at an upgrade is decided by psflip: the old relay accepts connections until the new
//! generation is promoted, the new one from then on. The old relay passes the clients' idle keep-alive
//! connections on to the new one ([`successor`]), and reports when all requests under way are answered.
//!
//! One thread: a relay carries bytes, and its cost is in the kernel.

mod accept;
mod addresses;
mod connect;
mod counts;
mod descriptors;
mod exited;
mod fcgi;
mod http;
mod link;
pub mod message;
mod pause;
mod pool;
mod predecessor;
mod proxied;
mod proxy_protocol;
mod relay;
mod serve;
mod socket;
mod successor;
mod tally;
mod tcp;

pub use link::Link;
pub use relay::run;
