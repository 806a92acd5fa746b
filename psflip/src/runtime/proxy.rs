//! This generation's relay (`crate::proxy`): when it starts, what it is ordered, and what follows from its
//! reports.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use relay::message::Order;

use super::poller::Token;
use super::timers::Key;
use super::waiting::Waiting;
use super::{Identity, Runtime};
use crate::config::Plan;
use crate::control::protocol::ProxyState;
use crate::flip::signals::Reach;
use crate::flip::{Event, RelayOrder};
use crate::handover::{ToPredecessor, ToSuccessor};
use crate::log;
use crate::proxy::{Counts, Hold, Relay, RelayReport, Start};
use crate::sys::errors::is_transient;
use crate::sys::signal::Received;
use crate::sys::socket::Socket;
use crate::traffic::listen::Listeners;

/// How long psflip waits before it starts a relay again that could not be started, or that has ended within
/// this time.
const RETRY: Duration = Duration::from_secs(1);
/// How many reports are read before other descriptors get their turn.
const MOST_REPORTS: usize = 50;
/// How long a relay may deliver what it has read from a child that has exited (contract T8).
pub(super) const CLOSING: Duration = Duration::from_secs(1);

/// The relay, and what it has been ordered.
#[derive(Debug, Default)]
pub(super) struct Proxy {
    /// `None`: there is no `[[proxy]]`, or the relay is to be started again.
    relay: Option<Relay>,
    /// Whether it has reported that it can accept.
    is_ready: bool,
    /// The child became healthy before the relay was ready.
    child_waits: bool,
    /// It was ordered to accept once, so it obeys [`Order::Stay`].
    is_active: bool,
    /// The last order.
    ordered: Option<RelayOrder>,
    /// Nothing is under way in it after it was ordered to accept no more.
    is_drained: bool,
    /// The link on which the predecessor's relay passes connections on, until this one accepts.
    from_predecessor: Option<OwnedFd>,
    /// The link to the successor's relay, until this one gets it.
    to_successor: Option<OwnedFd>,
    /// The link on which this relay passes connections back to the predecessor's, until it does.
    back_to_predecessor: Option<OwnedFd>,
    /// The link on which the successor's relay passes connections back, until this one accepts again.
    back_from_successor: Option<OwnedFd>,
    /// Connections are held.
    hold: Option<Hold>,
    /// The signal that requested the stop. The child gets it when the relay has answered what is under way
    /// (contract T5).
    pub(super) held_signal: Option<(Received, Reach)>,
    /// How often a relay of this generation has ended unexpectedly.
    lost: u64,
    /// When the last one was started.
    started: Option<Instant>,
    /// How many stop requests came to this process itself, and how many the successor passed back: one
    /// request may come both ways (contract T5).
    stops: (u32, u32),
}

impl Proxy {
    /// `from_predecessor` and `back`: the links to the predecessor's relay. `hold`: the predecessor holds
    /// connections.
    pub(super) fn new(
        from_predecessor: Option<OwnedFd>,
        back_to_predecessor: Option<OwnedFd>,
        hold: Option<Hold>,
    ) -> Self {
        Self { from_predecessor, back_to_predecessor, hold, ..Self::default() }
    }

    /// Its process, which is a child of psflip and not of the child's tree.
    pub(super) fn pid(&self) -> Option<u32> {
        self.relay.as_ref().map(Relay::pid)
    }

    /// Whether connections are held.
    pub(super) fn hold(&self) -> Option<Hold> {
        self.hold
    }

    /// The predecessor holds connections, or no longer does.
    pub(super) fn set_hold(&mut self, hold: Option<Hold>) {
        self.hold = hold;
    }

    /// What the proxies have carried.
    pub(super) fn counts(&self) -> Vec<Counts> {
        self.relay.as_ref().map(Relay::counts).unwrap_or_default()
    }

    /// How often a relay of this generation has ended unexpectedly.
    pub(super) fn lost(&self) -> u64 {
        self.lost
    }

    /// What its proxies are doing, by the last order to the relay: the counts may be older.
    pub(super) fn state(&self) -> ProxyState {
        match (&self.relay, self.ordered) {
            (None, _) | (_, None) => ProxyState::Waiting,
            (Some(_), Some(RelayOrder::Accept | RelayOrder::Stay)) if self.hold.is_some() => ProxyState::Held,
            (Some(_), Some(RelayOrder::Accept | RelayOrder::Stay)) => ProxyState::Accepting,
            (Some(_), Some(RelayOrder::Hold)) => ProxyState::Held,
            (Some(_), Some(RelayOrder::StandBy)) => ProxyState::StandingBy,
            (
                Some(_),
                Some(RelayOrder::Leave | RelayOrder::Return | RelayOrder::Stop | RelayOrder::Close),
            ) => ProxyState::Leaving,
        }
    }

    /// Whether the child is healthy and the relay is not ready.
    pub(super) fn is_awaited(&self) -> bool {
        self.child_waits
    }

    /// The child is not healthy any more. Returns whether it was still waiting for the relay.
    pub(super) fn stop_waiting(&mut self) -> bool {
        std::mem::take(&mut self.child_waits)
    }

    /// Counts a stop request of a generation that drains. Returns whether it is not one that has come the
    /// other way before.
    pub(super) fn is_new_stop(&mut self, passed_back: bool) -> bool {
        let (own, passed) = &mut self.stops;
        let (count, other) = if passed_back { (passed, *own) } else { (own, *passed) };
        *count += 1;
        *count > other
    }

    /// Whether this generation accepts connections.
    fn accepts(&self) -> bool {
        matches!(self.ordered, Some(RelayOrder::Accept | RelayOrder::Stay))
    }

    /// Whether a lost relay is started again: this generation accepts connections, or may have to at once.
    fn is_needed(&self) -> bool {
        self.accepts() || matches!(self.ordered, None | Some(RelayOrder::StandBy))
    }

    /// Starts the relay, if there is a `[[proxy]]`.
    ///
    /// # Errors
    /// Those of [`Start::start`] and epoll_ctl(2).
    pub(super) fn start(
        &mut self,
        plan: &Plan,
        identity: &Identity,
        listeners: &Listeners,
        wait: &mut Waiting,
    ) -> io::Result<()> {
        if plan.proxies.is_empty() {
            self.from_predecessor = None;
            return Ok(());
        }
        (self.is_ready, self.is_active) = (false, false);
        let sockets = plan.proxies.iter().map(|proxy| (proxy, listeners.sockets_of(&proxy.socket.address)));
        let start = Start {
            program: &identity.origin.program,
            log: &log::as_argument(plan, identity.generation),
            proxies: sockets.collect(),
        };
        let relay = start.start()?;
        self.started = Some(Instant::now());
        wait.poller.watch(Token::Relay, relay.as_fd())?;
        tracing::debug!(relay = relay.pid(), "relay started");
        self.relay = Some(relay);
        Ok(())
    }

    /// Opens two links between this generation's relay and the next one, there and back. Returns the other
    /// ends for the successor; `None`: there is no relay, or no descriptor left, so that connections are
    /// closed instead of passed on.
    pub(super) fn open_links(&mut self) -> (Option<OwnedFd>, Option<OwnedFd>) {
        self.close_links();
        if self.relay.is_none() {
            return (None, None);
        }
        let open = |ours: &mut Option<OwnedFd>| match Socket::pair() {
            Ok((end, theirs)) => {
                *ours = Some(end.into());
                Some(OwnedFd::from(theirs))
            }
            Err(error) => {
                tracing::warn!(%error, "can't link the relays, so idle connections will be closed");
                None
            }
        };
        (open(&mut self.to_successor), open(&mut self.back_from_successor))
    }

    /// The successor has failed.
    pub(super) fn close_links(&mut self) {
        (self.to_successor, self.back_from_successor) = (None, None);
    }

    /// The bake is over: nothing goes back any more.
    pub(super) fn close_link_back(&mut self) {
        self.back_to_predecessor = None;
    }

    /// Sends an order. Without memory or descriptors for the link it goes without it. Returns false if the
    /// relay did not get the order: it must not go on with the one before (contract F10).
    fn send(&self, order: &Order, link: Option<&OwnedFd>) -> bool {
        let Some(relay) = &self.relay else { return true };
        let sent = relay.send(order, link.map(AsFd::as_fd));
        let sent = sent.or_else(|error| if link.is_some() { relay.send(order, None) } else { Err(error) });
        if let Err(error) = &sent {
            tracing::error!(relay = relay.pid(), %error, "can't send an order to the relay, so it is replaced");
        }
        sent.is_ok()
    }

    /// Repeats to a new relay what the lost one was ordered. The new one also gets the link that the lost one
    /// did not: a connection that the predecessor's relay sends there would wait for ever if nobody read it.
    fn repeat_orders(&mut self) -> bool {
        let held = self.hold.is_none_or(|hold| self.send(&hold.order(), None));
        held && (!self.accepts() || self.accept(&Order::Accept))
    }

    /// Orders the relay to accept. It gets the link from another relay that passes connections on to it; if
    /// it can't be reached, the next one gets it.
    fn accept(&mut self, order: &Order) -> bool {
        let back = self.back_from_successor.take_if(|_| self.ordered == Some(RelayOrder::Stay));
        let link = back.or_else(|| self.from_predecessor.take());
        let order = if self.is_active { order } else { &Order::Accept };
        let sent = self.send(order, link.as_ref());
        self.is_active |= sent;
        if !sent {
            self.from_predecessor = link;
        }
        sent
    }
}

impl Runtime {
    /// The health check found the child healthy. The generation is healthy when its relay is ready as well.
    pub(super) fn child_is_healthy(&mut self) {
        if self.plan.proxies.is_empty() || self.proxy.is_ready {
            self.machine.push(Event::ChildHealthy);
        } else {
            self.proxy.child_waits = true;
        }
    }

    /// Gives the relay an order of the state machine.
    pub(super) fn order_relay(&mut self, order: RelayOrder) {
        let proxy = &mut self.proxy;
        let answers = !matches!(order, RelayOrder::Accept | RelayOrder::Stay);
        if self.plan.proxies.is_empty() || answers && proxy.ordered.is_none() {
            // It carries nothing.
            if answers {
                self.machine.push(Event::RelayDrained);
            }
            return;
        }
        let repeated = proxy.ordered == Some(order);
        let was_standing_by = proxy.ordered == Some(RelayOrder::StandBy);
        proxy.ordered = Some(order);
        if !answers && proxy.relay.is_none() {
            // It was lost, and nothing was to be carried then.
            proxy.is_drained = false;
            self.try_to_start_relay();
            return;
        }
        let sent = match order {
            RelayOrder::Accept | RelayOrder::Stay => {
                proxy.is_drained = false;
                if order == RelayOrder::Stay {
                    proxy.accept(&Order::Stay)
                } else if repeated {
                    true // it has accepted since its bake began
                } else {
                    let held = proxy.hold.is_none_or(|hold| {
                        tracing::warn!(
                            longest_wait = ?hold.longest_wait(),
                            "connections are held; `psflip resume` lets them go on"
                        );
                        proxy.send(&hold.order(), None)
                    });
                    held && proxy.accept(&Order::Accept)
                }
            }
            RelayOrder::Leave | RelayOrder::StandBy => {
                let leave = Order::Leave { stops: false, may_return: order == RelayOrder::StandBy };
                match proxy.to_successor.take() {
                    Some(link) if !proxy.is_drained => proxy.send(&leave, Some(&link)),
                    Some(_) | None if repeated => true,
                    Some(_) | None => proxy.send(&leave, None),
                }
            }
            RelayOrder::Return => {
                let link = proxy.back_to_predecessor.take();
                proxy.send(&Order::Leave { stops: false, may_return: false }, link.as_ref())
            }
            RelayOrder::Stop if !repeated => {
                // In a bake the successor's relay stops as well, and passes its idle connections back: this
                // relay closes them.
                let taken = match proxy.back_from_successor.take().filter(|_| was_standing_by) {
                    Some(link) => {
                        // Connections may come, so it reports again that nothing is under way.
                        proxy.is_drained = false;
                        proxy.send(&Order::Stay, Some(&link))
                    }
                    None => true,
                };
                taken && proxy.send(&Order::Leave { stops: true, may_return: false }, None)
            }
            RelayOrder::Hold if !repeated => proxy.send(&Order::Pause, None),
            RelayOrder::Close if !repeated => proxy.send(&Order::Close, None),
            RelayOrder::Hold | RelayOrder::Stop | RelayOrder::Close => true,
        };
        if !sent {
            self.relay_is_gone();
        } else if answers && (proxy.is_drained || proxy.relay.is_none()) {
            self.machine.push(Event::RelayDrained);
        }
    }

    /// The relay has reported, or has exited.
    pub(super) fn on_relay_report(&mut self) -> io::Result<()> {
        for _ in 0..MOST_REPORTS {
            let Some(relay) = &self.proxy.relay else { return Ok(()) };
            match relay.receive() {
                Ok(None) => return Ok(()),
                Ok(Some(RelayReport::Ready)) => {
                    self.proxy.is_ready = true;
                    if std::mem::take(&mut self.proxy.child_waits) {
                        self.dispatch(Event::ChildHealthy);
                    }
                }
                Ok(Some(RelayReport::Drained { passed_on, waited_for })) => {
                    self.relay_has_drained(passed_on, waited_for);
                }
                Err(error) if is_transient(&error) => return Err(error), // retried
                Ok(Some(RelayReport::Gone)) | Err(_) => {
                    self.relay_is_gone();
                    self.drain_queue();
                }
            }
        }
        Ok(())
    }

    /// Nothing is under way in the relay any more.
    fn relay_has_drained(&mut self, passed_on: u64, waited_for: u64) {
        if self.proxy.accepts() {
            return; // it crossed the order to stay
        }
        // Whatever follows a pause, more is to be reported.
        if self.proxy.ordered == Some(RelayOrder::Hold) {
            tracing::info!(requests_waited_for = waited_for, "the proxy has answered all requests");
            return self.dispatch(Event::RelayDrained);
        }
        // The relay reports it again after `Close`.
        if !std::mem::replace(&mut self.proxy.is_drained, true) {
            tracing::info!(
                connections_passed_on = passed_on,
                requests_waited_for = waited_for,
                "the proxy has answered all requests"
            );
            self.handover.send_to_successor(&ToSuccessor::Answered { passed_on, waited_for }); // for its records
        }
        self.dispatch(Event::RelayDrained);
    }

    /// The relay has ended, though nobody ordered it to. Queues what follows.
    fn relay_is_gone(&mut self) {
        self.wait.poller.forget(Token::Relay);
        let open: u64 = self.proxy.counts().iter().map(|counts| counts.open).sum();
        let relay = self.proxy.relay.take().map(|relay| relay.pid());
        self.proxy.lost += 1;
        self.proxy.is_ready = false;
        self.operators.set_changed();
        let state = &self.machine.state;
        let is_stopping = state.is_stopping();
        if (state.is_starting() && !state.is_service() || state.is_preparing()) && !is_stopping {
            self.reasons.set_failure(
                "the relay, which carries the connections of `[[proxy]]`, has exited".to_owned(),
            );
            self.machine.push(Event::RelayLost);
            return;
        }
        if self.proxy.ordered.is_none() && is_stopping && !state.is_starting() {
            return; // its generation has failed
        }
        tracing::error!(relay, lost_connections = open, "the relay has exited, and with it its connections");
        if self.proxy.lost > 1 {
            self.fails_on_trial("the relay, which carries the connections of `[[proxy]]`, has exited twice");
        }
        if !self.proxy.accepts() && self.proxy.ordered.is_some() {
            // Nothing is under way any more.
            self.proxy.is_drained = true;
            self.machine.push(Event::RelayDrained);
        }
        if self.proxy.is_needed() {
            self.start_relay_again();
        }
    }

    /// Clients can't be served in the bake, so it ends.
    fn fails_on_trial(&mut self, reason: &str) {
        if self.machine.state.is_baking() {
            self.reasons.set_failure(reason.to_owned());
            self.machine.push(Event::RelayLost);
        }
    }

    /// Starts a relay in place of the lost one: at once, or after a pause if that one has not lived long.
    fn start_relay_again(&mut self) {
        if self.proxy.started.is_some_and(|started| started.elapsed() < RETRY) && self.proxy.lost > 1 {
            self.wait.timers.set(Key::Relay, RETRY);
        } else {
            self.try_to_start_relay();
        }
    }

    /// The pause is over.
    pub(super) fn on_relay_timer(&mut self) {
        self.try_to_start_relay();
        self.drain_queue();
    }

    fn try_to_start_relay(&mut self) {
        if self.proxy.relay.is_some() || !self.proxy.is_needed() {
            return;
        }
        let started = self.proxy.start(&self.plan, &self.identity, &self.traffic.listeners, &mut self.wait);
        match started {
            Ok(()) => {
                tracing::info!(relay = self.proxy.pid(), "the relay is started again");
                if !self.proxy.repeat_orders() {
                    self.wait.poller.forget(Token::Relay);
                    self.proxy.relay = None;
                    self.wait.timers.set(Key::Relay, RETRY);
                    self.fails_on_trial("the relay for `[[proxy]]` was started again, and can't be reached");
                }
            }
            Err(error) => {
                tracing::error!(%error, "can't start the relay; clients wait");
                self.proxy.relay = None;
                self.wait.timers.set(Key::Relay, RETRY);
                self.fails_on_trial(&format!("can't start the relay for `[[proxy]]` again: {error}"));
            }
        }
    }

    /// Holds connections, or lets them go on (`None`).
    pub(super) fn hold_connections(&mut self, hold: Option<Hold>) {
        self.proxy.hold = hold;
        let order = hold.map_or(Order::Resume, Hold::order);
        if !self.proxy.send(&order, None) {
            self.relay_is_gone();
            self.drain_queue();
        }
        if hold.is_none() {
            self.handover.report_to_old_generations(&ToPredecessor::Resume); // requests may wait in their relays
        }
        self.handover.send_to_successor(&ToSuccessor::Hold { hold }); // it may have to go on alone (contract F8)
        self.operators.set_changed();
        self.notify_managers_of_hold();
    }

    /// The predecessor holds connections, or no longer does. In a bake that concerns this relay, and after a
    /// roll-back the requests that wait in it.
    pub(super) fn predecessor_holds(&mut self, hold: Option<Hold>) {
        self.proxy.hold = hold;
        if self.proxy.ordered.is_some() && !self.proxy.send(&hold.map_or(Order::Resume, Hold::order), None) {
            self.relay_is_gone();
            self.drain_queue();
        }
    }

    /// How long the relay may answer what is under way.
    pub(super) fn drain_time(&self) -> Duration {
        self.plan.proxies.iter().map(|proxy| proxy.drain).max().unwrap_or_default()
    }
}
