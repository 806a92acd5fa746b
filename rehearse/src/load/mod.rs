//! The load: clients that send requests without pause while the service is upgraded.
//!
//! One thread serves all clients by epoll(7), so that thousands of requests a second cost one core. Every
//! client is a state machine ([`client`]) around a protocol ([`http`], [`fcgi`], [`websocket`]).

mod client;
mod engine;
mod fcgi;
mod http;
mod record;
mod target;
#[cfg(test)]
mod tests;
mod websocket;

pub(crate) use engine::{Engine, Pace, Settings};
pub(crate) use record::{Connection, Loss, MOST_SAMPLES, Record, Sample, Seen, Stage};
pub(crate) use target::{Kind, Load, Protocol};
