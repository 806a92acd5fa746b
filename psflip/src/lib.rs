//! psflip, a zero-downtime process flipper: the supervisor as a library, for its binary and its tests.
//!
//! Imports point one way: `cli` -> {`runtime`, `anchor`, `watch`, `migrate`} -> {`flip`, `handover`,
//! `health`, `traffic`, `control`, `manager`} -> `process` -> `sys`. `cli` reads `config`, and passes it on
//! as a value ([`config::Plan`]); `flip` imports nothing of these. `docs/architecture.md` describes the
//! modules and the reasons for this structure.

pub mod anchor;
pub mod cli;
pub mod config;
pub mod control;
pub mod end;
pub mod exit;
pub mod flip;
pub mod handover;
pub mod health;
pub mod history;
pub mod log;
pub mod manager;
pub mod migrate;
pub mod process;
pub mod runtime;
mod secrets;
pub mod signal;
pub mod sys;
mod terminal;
mod text;
pub mod traffic;
pub mod watch;
