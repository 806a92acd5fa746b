//! psflip, end to end: the real binary with real children. There is one module for each topic; it has the name
//! of the page in `docs` that describes the topic, if there is one. Every test cites the clauses that it
//! proves (`docs/contract.md`), waits for events only, and leaves nothing behind (`testkit`).

mod anchor;
mod bake;
mod changes;
mod check;
mod child;
mod configuration;
mod control;
mod cost;
mod examples;
mod exclusive;
mod exit_codes;
mod failures;
mod flags;
mod groups;
mod health;
mod hooks;
mod listen;
mod log;
mod migrating;
mod operations;
mod output;
mod pidfile;
mod proxy;
mod quickstart;
mod raw;
mod readme;
mod recycle;
mod servers;
mod service;
mod signals;
mod stop;
mod switch;
mod systemd;
mod terminal;
mod traffic;
mod tree;
mod upgrade;
mod variables;
mod watch;
