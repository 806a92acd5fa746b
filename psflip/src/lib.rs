//! psflip, a zero-downtime process flipper: the supervisor as a library, for its binary and its tests.
//!
//! Imports point one way: `cli` -> {`runtime`, `anchor`, `watch`, `migrate`} -> {`flip`, `handover`,
//! `health`, `traffic`, `proxy`, `output`, `control`, `manager`, `changes`} -> `process` -> `sys`. `cli`
//! reads `config`, and passes it on as a value ([`config::Plan`]). `flip` imports nothing of these, so every
//! room may import it. `docs/architecture.md` describes the modules, the reasons for this structure, and its
//! exceptions.
//!
//! The crate has one function for its binary, [`main`], and [`testing`] for tests and tools. In all other
//! modules, `pub` means: for the other modules of this crate. So `unreachable_pub` has nothing to say here;
//! what no module uses is reported as dead code all the same.
#![expect(unreachable_pub, reason = "the modules are private, and `pub` in them means: for this crate")]

mod anchor;
mod changes;
mod cli;
mod config;
mod control;
mod exit;
mod exit_status;
mod flip;
mod handover;
mod health;
mod history;
mod log;
mod manager;
mod migrate;
mod output;
mod process;
mod proxy;
mod runtime;
mod secrets;
mod signal;
mod sys;
mod terminal;
pub mod testing;
mod text;
mod traffic;
mod watch;

pub use cli::main;
