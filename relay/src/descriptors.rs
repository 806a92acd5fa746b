//! How many clients this process has descriptors for.

use std::cell::Cell;
use std::rc::Rc;

use rustix::process::{Resource, getrlimit};

/// What the process needs beside connections: the runtime, links, memory files, pipes of splice(2).
const OWN: u64 = 64;

/// A client's connection, and one to the child.
const PER_CLIENT: u64 = 2;

/// The descriptors of this process.
#[derive(Debug)]
pub(crate) struct Descriptors {
    /// The most clients that can be served at a time.
    clients: u64,
    used: Cell<u64>,
}

/// A client's part of them.
#[derive(Debug)]
pub(crate) struct Reserved(Rc<Descriptors>);

impl Descriptors {
    /// As the process's limit says, with `others` that no client reserves: listening sockets, and idle
    /// connections to the child.
    pub(crate) fn new(others: usize) -> Self {
        let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
        let clients = limit.saturating_sub(OWN + others as u64) / PER_CLIENT;
        Self { clients: clients.max(1), used: Cell::new(0) }
    }

    /// Whether one more client can be accepted so that each one can have its connection to the child.
    pub(crate) fn has_room(&self) -> bool {
        self.used.get() < self.clients
    }

    /// Reserves what a client needs, even beyond the limit: connections that a predecessor passes on exist
    /// already.
    pub(crate) fn reserve(self: &Rc<Self>) -> Reserved {
        self.used.set(self.used.get() + 1);
        Reserved(Rc::clone(self))
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        self.0.used.set(self.0.used.get() - 1);
    }
}
