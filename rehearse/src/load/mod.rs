//! The load: clients that send requests without pause while the service is upgraded.
//!
//! One thread serves all clients by epoll(7), so that thousands of requests a second cost one core. Every
//! client is a state machine ([`client`]) around a protocol ([`http`], [`fcgi`], [`websocket`]).

mod client;
mod engine;
mod extra;
mod fcgi;
mod histogram;
mod http;
mod record;
mod tally;
mod target;
#[cfg(test)]
mod tests;
mod timeline;
mod websocket;

pub(crate) use engine::{Engine, Pace, Settings};
pub(crate) use extra::{Extra, Header};
pub(crate) use histogram::Histogram;
pub(crate) use record::{Connection, Loss, Record, Seen, Stage};
pub(crate) use tally::{AFTERMATH, Group};
pub(crate) use target::{Kind, Load, Protocol};
pub(crate) use timeline::Bucket;
