//! The relay's life: orders of psflip come in, connections are served.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use tokio::runtime::Builder;
use tokio::sync::{Notify, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::accept;
use crate::counts;
use crate::descriptors::Descriptors;
use crate::exited::GRACE;
use crate::link::{Link, Packet};
use crate::message::{Order, Report};
use crate::pause::{elapsed, pause, timer};
use crate::predecessor;
use crate::proxied::{Control, Proxied};
use crate::successor::Successor;

/// How long receiving orders pauses after an error.
const PAUSE: Duration = Duration::from_millis(100);

/// Runs a relay until psflip closes `link`. The calling thread has SIGPIPE blocked from then on: writev(2)
/// and splice(2), which have no MSG_NOSIGNAL, would let a client that is gone end the process.
///
/// # Errors
/// The first order can't be obeyed: no such order, or a descriptor or memory is missing. psflip reads the end
/// of the link.
pub fn run(link: OwnedFd) -> io::Result<()> {
    SigSet::from(Signal::SIGPIPE).thread_block()?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, live(link))
    // Whatever is still open is closed with the runtime.
}

async fn live(link: OwnedFd) -> io::Result<()> {
    let orders = Rc::new(Orders::new(Link::new(link)?));
    let link = orders.link();
    let (control, listening) = watch::channel(Control::default());
    let Some(packet) = link.receive().await? else { return Ok(()) };
    let all = start(packet, &listening, &orders)?;
    report(link, &Report::Ready).await?;
    let (mut waited_for, mut overdue) = (None, None);
    let mut pauses = None;
    let under_way = || Some(all.iter().map(|proxied| proxied.tally.under_way.get()).sum::<u64>());
    loop {
        let packet = tokio::select! {
            packet = link.receive() => packet,
            () = nothing_open(&all), if waited_for.is_some() => {
                let waited_for = waited_for.take().unwrap_or_default();
                let passed_on = all.iter().map(|proxied| proxied.tally.passed_on.get()).sum();
                // Closes the link: nothing more comes from here.
                control.send_modify(|control| control.successor = None);
                if let Err(error) = report(link, &Report::Drained { passed_on, waited_for }).await {
                    tracing::warn!(%error, "can't report to psflip");
                }
                continue;
            }
            () = nothing_under_way(&all), if pauses.is_some() => {
                let waited_for = pauses.take().unwrap_or_default();
                if let Err(error) = report(link, &Report::Drained { passed_on: 0, waited_for }).await {
                    tracing::warn!(%error, "can't report to psflip");
                }
                continue;
            }
            () = elapsed(&mut overdue) => {
                overdue = None;
                control.send_modify(|control| control.overdue = true);
                continue;
            }
        };
        // Clients' connections must not depend on what psflip sends: an error is logged, and the relay goes
        // on.
        let packet = match packet {
            Ok(Some(packet)) => packet,
            Ok(None) => return Ok(()),
            Err(error) => {
                tracing::warn!(%error, "can't receive psflip's orders for a moment");
                pause(PAUSE).await;
                continue;
            }
        };
        if packet.is_cut {
            tracing::warn!("descriptors of an order were lost");
        }
        let mut fds = packet.fds.into_iter();
        let mut next_link = || fds.next().and_then(linked);
        match serde_json::from_slice(&packet.bytes) {
            Err(error) => tracing::warn!(%error, "unknown order"),
            Ok(Order::Start { .. }) => tracing::warn!("the order to start came twice"),
            Ok(Order::Accept) => {
                if let Some(predecessor) = next_link() {
                    spawn_local(predecessor::receive(predecessor, Rc::clone(&all)));
                }
                control.send_modify(|control| {
                    (control.is_active, control.leaves, control.stops) = (true, false, false);
                });
                waited_for = None;
            }
            Ok(Order::Leave { stops, may_return }) => {
                let successor = next_link().map(Successor::new).map(Rc::new);
                control.send_modify(|control| {
                    control.departure += u64::from(!control.leaves);
                    (control.leaves, control.stops, control.may_return) = (true, stops, may_return);
                    let before = control.successor.take().filter(|_| !stops);
                    control.successor = successor.or(before);
                    control.gave_way |= control.is_paused && !stops;
                    control.is_paused = false;
                });
                pauses = None;
                waited_for = under_way();
            }
            Ok(Order::Close) => {
                let successor = next_link().map(Successor::new).map(Rc::new);
                control.send_modify(|control| {
                    control.exited = true;
                    control.successor = successor.or_else(|| control.successor.take());
                });
                pauses = None;
                waited_for = waited_for.or_else(under_way);
                overdue = Some(timer(GRACE));
            }
            Ok(Order::Pause) => {
                control.send_modify(|control| control.is_paused = true);
                pauses = Some(all.iter().map(|proxied| proxied.unheld()).sum());
            }
            Ok(Order::Stay) => {
                pauses = None;
                if let Some(successor) = next_link() {
                    spawn_local(predecessor::receive(successor, Rc::clone(&all)));
                }
                control.send_modify(|control| {
                    (control.is_paused, control.gave_way) = (false, false);
                    (control.leaves, control.stops, control.successor) = (false, false, None);
                });
                waited_for = None;
            }
            Ok(Order::Hold { max_ms }) => {
                control.send_modify(|control| control.hold = Some(Duration::from_millis(max_ms)));
            }
            Ok(Order::Resume) => control.send_modify(|control| control.hold = None),
        }
        let ends = !control.borrow().keeps_child();
        for proxied in &*all {
            if ends {
                proxied.close_idle(); // the child may wait for their end before it exits
            }
            proxied.changed.notify_one();
        }
        orders.are_obeyed();
    }
}

/// psflip's orders, for the tasks that accept.
#[derive(Debug)]
pub(crate) struct Orders {
    link: Link,
    obeyed: Notify,
}

impl Orders {
    pub(crate) fn new(link: Link) -> Self {
        Self { link, obeyed: Notify::new() }
    }

    pub(crate) fn link(&self) -> &Link {
        &self.link
    }

    /// Wakes up the tasks that wait: the orders received so far are obeyed.
    pub(crate) fn are_obeyed(&self) {
        self.obeyed.notify_waiters();
    }

    /// Waits until this relay has obeyed every order that was sent before this call.
    pub(crate) async fn obeyed(&self) {
        loop {
            let obeyed = self.obeyed.notified();
            if !self.link.has_packet() {
                return;
            }
            obeyed.await;
        }
    }
}

/// The link to another relay. `None`: there is no memory for it, which is logged.
fn linked(fd: OwnedFd) -> Option<Link> {
    match Link::new(fd) {
        Ok(link) => Some(link),
        Err(error) => {
            tracing::warn!(%error, "can't exchange clients' connections with another relay");
            None
        }
    }
}

/// Obeys the first order.
fn start(
    packet: Packet,
    control: &watch::Receiver<Control>,
    orders: &Rc<Orders>,
) -> io::Result<Rc<[Rc<Proxied>]>> {
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let Order::Start { proxies } = serde_json::from_slice(&packet.bytes)? else { return Err(invalid()) };
    let mut fds = packet.fds.into_iter();
    let changed = Rc::new(Notify::new());
    let descriptors = Rc::new(Descriptors::new(proxies.iter().map(|proxy| proxy.sockets + proxy.pool).sum()));
    let mut all = Vec::with_capacity(proxies.len());
    for proxy in proxies {
        let proxied =
            Rc::new(Proxied::new(proxy, control.clone(), Rc::clone(&descriptors), Rc::clone(&changed)));
        for _ in 0..proxied.proxy.sockets {
            let listener = fds.next().ok_or_else(invalid)?;
            spawn_local(accept::accept(listener, Rc::clone(&proxied), control.clone(), Rc::clone(orders)));
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

/// Waits until no request is under way or can begin, but those that wait for the end of a hold.
async fn nothing_under_way(all: &[Rc<Proxied>]) {
    for proxied in all {
        loop {
            let closed = proxied.closed.notified();
            if proxied.has_paused() {
                break;
            }
            closed.await;
        }
    }
}

/// Waits until no client's connection is open, no idle one to the child, and none can come from a predecessor's relay.
async fn nothing_open(all: &[Rc<Proxied>]) {
    for proxied in all {
        loop {
            let closed = proxied.closed.notified();
            let tally = &proxied.tally;
            if tally.open.get() == 0 && tally.predecessors.get() == 0 && tally.idle.get() == 0 {
                break;
            }
            closed.await;
        }
    }
}
