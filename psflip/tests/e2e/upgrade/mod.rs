//! The upgrade as it succeeds, what is remembered, and what an upgrade must never do (contract U).

mod drain;
mod replaced;
mod requests;
mod turn;
