//! A proxy at work: its configuration, what psflip has ordered, and its counters.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::descriptors::Descriptors;
use crate::http;
use crate::message::{Counts, Proxy};
use crate::pool::Pool;
use crate::socket::Socket;
use crate::successor::Successor;
use crate::tally::{Tally, add};

/// A proxy, and all that its connections share.
#[derive(Debug)]
pub(crate) struct Proxied {
    pub(crate) proxy: Proxy,
    pub(crate) tally: Tally,
    pub(crate) control: watch::Receiver<Control>,
    pub(crate) descriptors: Rc<Descriptors>,
    /// Idle HTTP connections to the child.
    pub(crate) http: Pool<http::Connection>,
    /// The counts have changed.
    pub(crate) changed: Rc<Notify>,
    /// A connection was closed.
    pub(crate) closed: Notify,
    /// When the last failure was logged, and how many have not been since.
    failures: Cell<(Option<Instant>, u64)>,
}

/// What psflip has ordered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Control {
    /// The generation is promoted.
    pub(crate) is_active: bool,
    /// Another generation is, or psflip stops.
    pub(crate) leaves: bool,
    /// How often that has begun: `Stay` takes it back.
    pub(crate) departure: u64,
    /// psflip stops: idle connections are closed.
    pub(crate) stops: bool,
    /// The other generation has the traffic on trial, so this one may have to accept again.
    pub(crate) may_return: bool,
    /// The child gives way to another one: no request begins.
    pub(crate) is_paused: bool,
    /// It has: another one was promoted. No request may be sent to it, nor to one that has its address now.
    pub(crate) gave_way: bool,
    /// Where idle connections go then.
    pub(crate) successor: Option<Rc<Successor>>,
    /// The child has exited. Nothing takes that back.
    pub(crate) exited: bool,
    /// It has, and what it sent must have come.
    pub(crate) overdue: bool,
    /// Requests wait, each at most this long.
    pub(crate) hold: Option<Duration>,
}

impl Control {
    pub(crate) fn accepts(&self) -> bool {
        self.is_active && !self.ends() && !self.is_paused && self.hold.is_none()
    }

    /// Whether another generation serves new clients, or none does.
    pub(crate) fn ends(&self) -> bool {
        self.leaves || self.exited
    }

    /// Whether the child serves on, so that idle connections to it are of use.
    pub(crate) fn keeps_child(&self) -> bool {
        !self.ends() && !self.is_paused
    }

    /// Whether connections between two requests go: to the successor's relay, or, at a stop or without a
    /// child, to nowhere; or wait until that is known. `stayed`: see [`Self::may_leave`].
    pub(crate) fn dismisses_idle(&self, stayed: Option<u64>) -> bool {
        let leaves = self.may_leave(stayed) && self.leaves && (self.stops || self.successor.is_some());
        self.exited || self.is_paused || leaves
    }

    /// Whether a connection may leave. `stayed`: the departure in which it could not, because the successor's
    /// relay was gone or a request had come.
    pub(crate) fn may_leave(&self, stayed: Option<u64>) -> bool {
        stayed != Some(self.departure)
    }

    /// Whether a connection between two requests waits.
    pub(crate) fn parks(&self) -> bool {
        self.is_paused && !self.exited
    }

    /// Whether a held request goes back to be unread: the next child is to get it. `stayed`: see
    /// [`Self::may_leave`].
    pub(crate) fn takes_held_back(&self, stayed: Option<u64>) -> bool {
        self.parks() || self.gave_way && self.successor.is_some() && self.may_leave(stayed)
    }

    /// Whether this relay never accepts again.
    pub(crate) fn has_left(&self) -> bool {
        self.exited || self.leaves && !self.stops && !self.may_return
    }

    /// Whether each answer is its connection's last one.
    pub(crate) fn closes_after_answers(&self) -> bool {
        self.ends() && self.successor.is_none()
    }
}

/// Increases a counter as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    proxied: Rc<Proxied>,
    counter: fn(&Tally) -> &Cell<u64>,
}

impl Counted {
    pub(crate) fn new(proxied: &Rc<Proxied>, counter: fn(&Tally) -> &Cell<u64>) -> Self {
        add(counter(&proxied.tally), 1);
        proxied.changed.notify_one();
        Self { proxied: Rc::clone(proxied), counter }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let counter = (self.counter)(&self.proxied.tally);
        counter.set(counter.get().saturating_sub(1));
        self.proxied.changed.notify_one();
        self.proxied.closed.notify_waiters();
    }
}

impl Proxied {
    /// Waits until connections between two requests may go on or away.
    ///
    /// # Errors
    /// The client is gone, or the relay exits.
    pub(crate) async fn parked(&self, socket: &Socket) -> io::Result<()> {
        let mut control = self.control.clone();
        tokio::select! {
            resumed = control.wait_for(|control| !control.parks()) => {
                resumed.map(drop).map_err(|_| io::ErrorKind::NotConnected.into())
            }
            () = socket.reset() => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// How many requests are under way that don't wait for the end of a hold.
    pub(crate) fn unheld(&self) -> u64 {
        self.tally.under_way.get().saturating_sub(self.tally.held.get())
    }

    /// Whether, after `Pause`, the child has nothing left to answer.
    pub(crate) fn has_paused(&self) -> bool {
        self.unheld() == 0 && self.tally.http2.get() == 0 && self.tally.idle.get() == 0
    }

    pub(crate) fn new(
        proxy: Proxy,
        control: watch::Receiver<Control>,
        descriptors: Rc<Descriptors>,
        changed: Rc<Notify>,
    ) -> Self {
        let (tally, closed, failures) = (Tally::default(), Notify::new(), Cell::default());
        let http = Pool::new(proxy.pool);
        Self { proxy, tally, control, descriptors, http, changed, closed, failures }
    }

    /// Closes the idle connections to the child.
    pub(crate) fn close_idle(&self) {
        self.http.close();
    }

    /// Counts a failure of the child, and logs the first of each second.
    pub(crate) fn failed(&self, error: &dyn std::fmt::Display) {
        add(&self.tally.errors, 1);
        let (last, unlogged) = self.failures.get();
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            self.failures.set((last, unlogged + 1));
            return;
        }
        self.failures.set((Some(Instant::now()), 0));
        let listen = &self.proxy.listen;
        if unlogged == 0 {
            tracing::warn!(listen, %error, "the child did not serve a client");
        } else {
            tracing::warn!(listen, %error, more = unlogged, "the child did not serve clients");
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        let control = self.control.borrow();
        Counts {
            listen: self.proxy.listen.clone(),
            connections: self.tally.connections.get(),
            open: self.tally.open.get(),
            requests: self.tally.requests.get(),
            under_way: self.tally.under_way.get(),
            errors: self.tally.errors.get(),
            passed_on: self.tally.passed_on.get(),
            reused: self.tally.reused.get(),
            accepting: control.accepts(),
            leaving: control.ends(),
            held: control.hold.is_some() || control.is_paused,
        }
    }
}
