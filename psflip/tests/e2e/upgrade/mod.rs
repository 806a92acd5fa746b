//! Successful upgrades, queued requests, and what an upgrade must never do (contract U).

mod drain;
mod replaced;
mod requests;
mod turn;
