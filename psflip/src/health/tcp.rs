//! `tcp`: the child is healthy when a TCP connection is accepted (by the kernel, into
//! the listener's backlog).

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use super::connect::Connection;
use super::{Attempt, Begun, ChildInfo, Interest, Probe, Progress, Why};

pub(super) struct Tcp {
    addresses: Vec<SocketAddr>,
}

impl Tcp {
    pub(super) fn new(addresses: &[SocketAddr]) -> Self {
        Self { addresses: addresses.to_vec() }
    }
}

impl Probe for Tcp {
    fn begin(&self, _: &ChildInfo) -> Result<Begun, Why> {
        let mut connection = Connection::tcp(&self.addresses)?;
        Ok(if connection.advance()? {
            Begun::Healthy
        } else {
            Begun::Pending(Box::new(Connecting(connection)))
        })
    }
}

struct Connecting(Connection);

impl Attempt for Connecting {
    fn watch(&self) -> (BorrowedFd<'_>, Interest) {
        (self.0.as_fd(), Interest::Write)
    }

    fn advance(&mut self) -> Progress {
        self.0.advance().into()
    }

    fn overdue(&self, limit: Duration) -> String {
        format!("{}: no answer within {limit:?}", self.0)
    }
}
