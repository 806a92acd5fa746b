//! Successful upgrades, queued requests, and what an upgrade must never do (contract U).

mod drain;
mod per_generation;
mod replaced;
mod requests;
