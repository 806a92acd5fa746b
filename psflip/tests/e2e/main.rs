//! psflip, end to end: the real binary with real children. There is one module for each topic. Every test
//! cites the clauses that it proves (`docs/contract.md`), waits for events only, and leaves nothing behind
//! (`testkit`).

mod anchor;
mod check;
mod child;
mod config;
mod control;
mod cost;
mod examples;
mod exit_codes;
mod failures;
mod flags;
mod groups;
mod health;
mod hooks;
mod listen;
mod log;
mod manager;
mod migrate;
mod operator;
mod pidfile;
mod pidfile_of_others;
mod quick_starts;
mod raw;
mod readme;
mod servers;
mod service;
mod signals;
mod stop;
mod switch;
mod terminal;
mod traffic;
mod tree;
mod upgrade;
mod watch;
