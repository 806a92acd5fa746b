//! The relay's life: orders of psflip come in, connections are served.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{Notify, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::accept::{self, Listener};
use crate::connect::{Addresses, connect};
use crate::counts::{self, Counted, Tally};
use crate::link::{Link, Packet};
use crate::message::{Counts, Order, Protocol, Proxy, Report};
use crate::pass_on::{self, Successor};
use crate::socket::Stream;
use crate::tcp::{self, Until};
use crate::{fcgi, http, proxy_protocol};

/// A proxy, and all that its connections share.
#[derive(Debug)]
pub(crate) struct Proxied {
    pub(crate) proxy: Proxy,
    pub(crate) tally: Tally,
    pub(crate) control: watch::Receiver<Control>,
    /// The counts have changed.
    pub(crate) changed: Rc<Notify>,
    /// A connection was closed.
    pub(crate) closed: Notify,
    /// When the last failure was logged, and how many have not been since.
    failures: Cell<(Option<std::time::Instant>, u64)>,
}

/// What psflip has ordered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Control {
    /// The generation is promoted.
    is_active: bool,
    /// Another generation is, or psflip stops.
    pub(crate) leaves: bool,
    /// Where idle connections go then.
    pub(crate) successor: Option<Rc<Successor>>,
    /// Requests wait, each at most this long.
    pub(crate) hold: Option<Duration>,
}

impl Control {
    pub(crate) fn accepts(&self) -> bool {
        self.is_active && !self.leaves && self.hold.is_none()
    }
}

/// Runs a relay until psflip closes `link`.
///
/// # Errors
/// The first order can't be obeyed: no such order, or a descriptor or memory is missing. psflip reads the end of
/// the link.
pub fn run(link: OwnedFd) -> io::Result<()> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, live(link))
    // Whatever is still open is closed with the runtime.
}

async fn live(link: OwnedFd) -> io::Result<()> {
    let link = Link::new(link)?;
    let (control, listening) = watch::channel(Control::default());
    let Some(packet) = link.receive().await? else { return Ok(()) };
    let all = start(packet, &listening)?;
    report(&link, &Report::Ready).await?;
    let mut waited_for = None;
    loop {
        let packet = tokio::select! {
            packet = link.receive() => packet?,
            () = nothing_open(&all), if waited_for.is_some() => {
                let waited_for = waited_for.take().unwrap_or_default();
                let passed_on = all.iter().map(|proxied| proxied.tally.passed_on.get()).sum();
                report(&link, &Report::Drained { passed_on, waited_for }).await?;
                continue;
            }
        };
        let Some(Packet { bytes, fds }) = packet else { return Ok(()) };
        let mut fds = fds.into_iter();
        match serde_json::from_slice(&bytes)? {
            Order::Start { .. } => return Err(io::ErrorKind::InvalidData.into()),
            Order::Accept => {
                if let Some(predecessor) = fds.next() {
                    spawn_local(pass_on::receive(Link::new(predecessor)?, Rc::clone(&all)));
                }
                control.send_modify(|control| (control.is_active, control.leaves) = (true, false));
            }
            Order::Leave => {
                let successor = fds.next().map(Successor::new).transpose()?.map(Rc::new);
                control.send_modify(|control| (control.leaves, control.successor) = (true, successor));
                waited_for = Some(all.iter().map(|proxied| proxied.tally.under_way.get()).sum::<u64>());
            }
            Order::Hold { max_ms } => {
                control.send_modify(|control| control.hold = Some(Duration::from_millis(max_ms)));
            }
            Order::Resume => {
                control.send_modify(|control| (control.hold, control.leaves) = (None, false));
                waited_for = None;
            }
        }
        all.iter().for_each(|proxied| proxied.changed.notify_one());
    }
}

/// Obeys the first order.
fn start(packet: Packet, control: &watch::Receiver<Control>) -> io::Result<Rc<[Rc<Proxied>]>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let Order::Start { proxies } = serde_json::from_slice(&packet.bytes)? else { return Err(invalid()) };
    let mut fds = packet.fds.into_iter();
    let changed = Rc::new(Notify::new());
    let mut all = Vec::with_capacity(proxies.len());
    for proxy in proxies {
        let proxied = Rc::new(Proxied {
            proxy,
            tally: Tally::default(),
            control: control.clone(),
            changed: Rc::clone(&changed),
            closed: Notify::new(),
            failures: Cell::default(),
        });
        for _ in 0..proxied.proxy.sockets {
            let listener = Listener::new(fds.next().ok_or_else(invalid)?)?;
            spawn_local(accept::accept(listener, Rc::clone(&proxied), control.clone()));
        }
        all.push(proxied);
    }
    let all: Rc<[Rc<Proxied>]> = all.into();
    let file = File::from(fds.next().ok_or_else(invalid)?);
    spawn_local(counts::keep(file, Rc::clone(&all), changed));
    Ok(all)
}

async fn report(link: &Link, report: &Report) -> io::Result<()> {
    link.send(&serde_json::to_vec(report)?, &[]).await
}

/// Waits until no connection is open.
async fn nothing_open(all: &[Rc<Proxied>]) {
    for proxied in all {
        loop {
            let closed = proxied.closed.notified();
            if proxied.tally.open.get() == 0 {
                break;
            }
            closed.await;
        }
    }
}

/// Serves a client's connection until it is closed or passed on. It counts as open from this call on, not from
/// the future's first turn. `addresses`: `None`, if the connection is new; else those that the PROXY protocol named.
pub(crate) fn serve(
    stream: Stream,
    addresses: Option<Option<Addresses>>,
    proxied: Rc<Proxied>,
) -> impl Future<Output = ()> {
    counts::add(&proxied.tally.connections, 1);
    let open = Counted::new(&proxied, |tally| &tally.open);
    async move {
        let _open = open;
        let _ = serve_open(stream, addresses, &proxied).await;
    }
}

/// # Errors
/// An error of the client, which is not logged.
async fn serve_open(
    mut stream: Stream,
    addresses: Option<Option<Addresses>>,
    proxied: &Rc<Proxied>,
) -> io::Result<()> {
    let named = match addresses {
        Some(named) => named,
        None if proxied.proxy.accept_proxy_protocol => {
            let (named, rest) = proxy_protocol::read(&stream.socket).await?;
            stream.first = rest;
            named
        }
        None => None,
    };
    match proxied.proxy.protocol {
        Protocol::Tcp => serve_tcp(stream, named, proxied).await,
        Protocol::Http => http::serve(stream, named, proxied).await?,
        Protocol::Fastcgi => fcgi::serve(stream, named, proxied).await?,
    }
    Ok(())
}

async fn serve_tcp(client: Stream, named: Option<Addresses>, proxied: &Rc<Proxied>) {
    let _under_way = Counted::new(proxied, |tally| &tally.under_way);
    let addresses = named.unwrap_or_else(|| Addresses::of(&client.socket));
    match connect(&proxied.proxy, &addresses).await {
        Ok(socket) => {
            let child = Stream { socket, first: bytes::Bytes::new() };
            let _ = tcp::carry(client, child, Until::BothEnd).await; // both have seen the error
        }
        Err(error) => {
            proxied.failed(&error);
            client.socket.reset_at_close(); // the client must not take it for an answer that is empty
        }
    }
}

impl Proxied {
    /// Counts a failure of the child, and logs the first of each second.
    pub(crate) fn failed(&self, error: &dyn std::fmt::Display) {
        counts::add(&self.tally.errors, 1);
        let (last, unlogged) = self.failures.get();
        if last.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            self.failures.set((last, unlogged + 1));
            return;
        }
        self.failures.set((Some(std::time::Instant::now()), 0));
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
            accepting: control.accepts(),
            leaving: control.leaves,
            held: control.hold.is_some(),
        }
    }
}
