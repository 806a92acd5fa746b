//! Successful upgrades, queued requests, and what an upgrade must never do (contract U).

mod drain;
mod end_draining;
mod per_generation;
mod replaced;
mod requests;
mod several;
mod several_killed;
