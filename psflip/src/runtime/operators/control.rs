//! The control socket of this generation: the socket, in the form in which it is handed over, and its server
//! (`crate::control`).

use std::os::fd::{AsFd as _, OwnedFd};

use crate::config::{self, Plan};
use crate::control::protocol::Event as ControlEvent;
use crate::control::server::{AfterReply, ClientRequest, Interest, Server};
use crate::handover::predecessor::Inheritance;
use crate::runtime::poller::Token;
use crate::runtime::timers::Key;
use crate::runtime::waiting::Waiting;
use crate::traffic::activation::Activation;
use crate::traffic::given::Given;
use crate::traffic::listen::Listeners;

/// The control socket.
#[derive(Debug, Default)]
pub(in crate::runtime) struct Control {
    /// The socket that the predecessor handed over, until this generation opens its own.
    given: Option<Given>,
    /// The socket, in the form in which it is handed over.
    pub(in crate::runtime) listeners: Listeners,
    /// The server of the socket; `None`: there is no control socket.
    server: Option<Server>,
}

impl Control {
    pub(in crate::runtime) fn new(inheritance: &mut Inheritance) -> Self {
        Self { given: inheritance.control.take(), ..Self::default() }
    }

    /// Opens the control socket, or takes over that of the predecessor, which accepts on it until this
    /// generation is promoted.
    ///
    /// # Errors
    /// A text: the socket can't be had, though it is configured or was in use until now.
    pub(in crate::runtime) fn open(&mut self, plan: &Plan, wait: &mut Waiting) -> Result<(), String> {
        let is_default = matches!(plan.control, config::Control::Default | config::Control::Runtime(_));
        let is_wanted = !is_default || self.given.is_some();
        match self.try_to_open(plan, wait) {
            Err(error) if is_wanted => return Err(error),
            Err(error) => {
                tracing::warn!(
                    error,
                    "going on without a control socket; `[control]` can name another place for it"
                );
            }
            Ok(()) => {}
        }
        Ok(())
    }

    fn try_to_open(&mut self, plan: &Plan, wait: &mut Waiting) -> Result<(), String> {
        let wanted = plan.control.listener(plan.pidfile.as_deref());
        let given = self.given.take().into_iter().collect();
        let listeners = Listeners::open(wanted.as_slice(), given, &Activation::default());
        let listeners = listeners.map_err(|error| error.to_string())?;
        if let Some((address, socket, _)) = listeners.to_hand_over().next() {
            let opened = Server::new(socket).and_then(|server| {
                wait.poller.watch(Token::Control, server.as_fd())?;
                Ok(server)
            });
            match opened {
                Ok(server) => self.server = Some(server),
                Err(error) => {
                    listeners.remove_new_files();
                    return Err(format!("can't answer on `{address}`: {error}"));
                }
            }
        }
        self.listeners = listeners;
        Ok(())
    }

    /// Whether there is a control socket.
    pub(super) fn is_there(&self) -> bool {
        self.server.is_some()
    }

    /// Creates the socket again if its file is gone. Returns whether it was gone.
    ///
    /// # Errors
    /// A text: the socket can't be created, so clients can't reach this psflip.
    pub(super) fn mend(&mut self, plan: &Plan) -> Result<bool, String> {
        let Some(server) = self.server.as_mut().filter(|_| self.listeners.has_lost_files()) else {
            return Ok(false);
        };
        let wanted = plan.control.listener(plan.pidfile.as_deref());
        let listeners = Listeners::open(wanted.as_slice(), Vec::new(), &Activation::default());
        let listeners = listeners.map_err(|error| error.to_string())?;
        if let Some((address, socket, _)) = listeners.to_hand_over().next()
            && let Err(error) = server.replace_listener(socket)
        {
            listeners.remove_new_files();
            return Err(format!("can't answer on `{address}`: {error}"));
        }
        self.listeners = listeners;
        Ok(true)
    }

    /// From now on, this generation accepts clients.
    pub(in crate::runtime) fn accept(&self) {
        if let Some(server) = &self.server {
            server.start_accepting();
        }
    }

    /// The successor is promoted by upgrade `current`, and accepts clients from now on. Clients that wait for
    /// this upgrade stay connected here.
    pub(super) fn let_go(&mut self, current: u64) {
        if let Some(server) = &mut self.server {
            server.stop_accepting();
            let to = |interest| ControlEvent::Moved {
                upgrade: match interest {
                    Interest::Upgrade(upgrade) => Some(upgrade),
                    Interest::Unknown | Interest::Changes | Interest::Stop | Interest::Nothing => None,
                },
            };
            server.send_away(
                |interest| interest == Interest::Upgrade(current) || interest == Interest::Unknown,
                to,
            );
        }
        self.listeners = Listeners::default();
    }

    /// The control socket or a client is ready. Returns the requests.
    pub(super) fn on_ready(&mut self) -> Vec<ClientRequest> {
        self.server.as_mut().map(Server::on_ready).unwrap_or_default()
    }

    /// Closes clients that have been silent for too long.
    pub(in crate::runtime) fn on_timer(&mut self, wait: &mut Waiting) {
        if let Some(server) = &mut self.server {
            server.on_timer();
        }
        self.set_timer(wait);
    }

    /// Sets the timer for the next client that has been silent for too long.
    pub(super) fn set_timer(&self, wait: &mut Waiting) {
        match self.server.as_ref().and_then(Server::next_timer) {
            Some(time) => wait.timers.set(Key::Control, time),
            None => wait.timers.clear(Key::Control),
        }
    }

    /// Sends an event to the clients that wait for it.
    pub(super) fn notify(&mut self, interest: Interest, event: &ControlEvent, after: AfterReply) {
        if let Some(server) = &mut self.server {
            server.notify(interest, event, after);
        }
    }

    /// Whether a client watches the status.
    pub(super) fn is_watched(&self) -> bool {
        self.server.as_ref().is_some_and(|server| server.has(Interest::Changes))
    }

    /// Sends the changed status to the clients that watch it.
    pub(super) fn notify_watchers(&mut self, status: &ControlEvent) {
        if let Some(server) = &mut self.server {
            server.notify_watchers(status);
        }
    }

    /// Sends an event to one client.
    pub(super) fn answer(&mut self, client: u64, event: &ControlEvent, after: AfterReply) {
        if let Some(server) = &mut self.server {
            server.answer(client, event, after);
        }
    }

    /// From now on the client gets events about `interest`; the first one is `event`.
    pub(super) fn subscribe(&mut self, client: u64, interest: Interest, event: &ControlEvent) {
        if let Some(server) = &mut self.server {
            server.set_interest(client, interest);
            server.answer(client, event, AfterReply::KeepOpen);
        }
    }

    /// Gives the connection to a client away.
    pub(super) fn take(&mut self, client: u64) -> Option<OwnedFd> {
        self.server.as_mut()?.take(client)
    }

    /// Closes the connection to a client.
    pub(super) fn close(&mut self, client: u64) {
        if let Some(server) = &mut self.server {
            server.close(client);
        }
    }

    /// Clients that waited for `waiting` now wait until psflip exits.
    pub(super) fn await_exit(&mut self, waiting: Interest) {
        if let Some(server) = &mut self.server {
            server.change(waiting, Interest::Stop);
        }
    }

    /// psflip exits: every client gets a last event.
    pub(super) fn send_all_away(&mut self, last: impl Fn(Interest) -> ControlEvent) {
        if let Some(server) = &mut self.server {
            server.send_away(|_| false, last);
        }
    }
}
