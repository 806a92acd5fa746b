//! The counters of one proxy.

use std::cell::Cell;

/// The counters of one proxy.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connections: Cell<u64>,
    pub(crate) open: Cell<u64>,
    pub(crate) requests: Cell<u64>,
    pub(crate) under_way: Cell<u64>,
    /// Of those under way: requests that wait for the end of a hold.
    pub(crate) held: Cell<u64>,
    /// Open connections by HTTP/2: until the client knows that one ends, it may begin a request.
    pub(crate) http2: Cell<u64>,
    pub(crate) errors: Cell<u64>,
    pub(crate) passed_on: Cell<u64>,
    /// Requests on a connection to the child that an earlier one left open.
    pub(crate) reused: Cell<u64>,
    /// Connections to the child without a request.
    pub(crate) idle: Cell<u64>,
    /// Predecessors' relays that may still pass connections on.
    pub(crate) predecessors: Cell<u64>,
}

/// Adds to a counter.
pub(crate) fn add(counter: &Cell<u64>, number: u64) {
    counter.set(counter.get().saturating_add(number));
}
