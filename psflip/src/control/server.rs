//! psflip's end of the control socket: which users it serves, and what happens to clients
//! that send an invalid request, send nothing, or never read. Nothing here waits, and every
//! client takes a limited amount of memory.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::socket::{getsockopt, sockopt};
use nix::unistd::Uid;

use super::protocol::{ControlRequest, Event, LONGEST_REQUEST};
use crate::sys::seam::{self, Call};
use crate::text;

/// How many clients are served at a time.
const MOST_CLIENTS: usize = 64;
/// How much unread output is kept for a client, in bytes.
const MOST_UNREAD: usize = 256 * 1024;
/// How long a client may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long to pause accepting after the kernel lacked resources for a client.
const PAUSE: Duration = Duration::from_secs(1);
/// How many events are processed at once.
const AT_ONCE: usize = 16;

/// The epoll data of the listening socket; clients count from 1.
const LISTENER: u64 = 0;

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Interest {
    /// Unknown: it has not sent its request yet.
    Unknown,
    /// Every change of the status.
    Changes,
    /// The events of this upgrade.
    Upgrade(u64),
    /// The events of the stop.
    Stop,
    /// Nothing more: the rest of its output is being sent.
    Nothing,
}

/// A request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRequest {
    /// The client.
    pub client: u64,
    /// The requested action.
    pub request: ControlRequest,
    /// The pid of the process that connected (SO_PEERCRED of unix(7)).
    pub pid: i32,
    /// The user ID of that process.
    pub uid: u32,
}

/// What happens to the connection after a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AfterReply {
    /// More lines follow.
    KeepOpen,
    /// It was the last line.
    Close,
}

#[derive(Debug)]
struct Client {
    stream: UnixStream,
    pid: i32,
    uid: u32,
    since: Instant,
    interest: Interest,
    input: Vec<u8>,
    unread: Vec<u8>,
    /// A change was not sent because the previous ones were not read yet.
    is_behind: bool,
}

/// All clients.
#[derive(Debug)]
pub struct Server {
    epoll: Epoll,
    /// The socket on which clients are accepted, until another generation accepts them.
    listener: Option<UnixListener>,
    /// When the kernel lacked resources for a client. Accepting pauses since then.
    paused: Option<Instant>,
    clients: BTreeMap<u64, Client>,
    next: u64,
}

impl Server {
    /// Does not accept clients yet. `listener`: a nonblocking socket that listens.
    ///
    /// # Errors
    /// EMFILE, ENFILE, ENOMEM, ENOSPC: see epoll_ctl(2).
    pub fn new(listener: BorrowedFd<'_>) -> io::Result<Self> {
        seam::before(Call::Dup)?;
        let listener = listener.try_clone_to_owned()?;
        seam::before(Call::EpollCreate)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        seam::before(Call::EpollControl)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::empty(), LISTENER))?;
        let listener = Some(listener.into());
        Ok(Self { epoll, listener, paused: None, clients: BTreeMap::new(), next: LISTENER + 1 })
    }

    /// Accepts clients from now on. It can't fail; [`Server::new`] has done everything that could.
    pub fn start_accepting(&self) {
        self.watch_listener(EpollFlags::EPOLLIN);
    }

    /// Accepts clients on this nonblocking socket instead. Existing connections stay open.
    ///
    /// # Errors
    /// As [`Server::new`]; the previous socket stays in use then.
    pub fn replace_listener(&mut self, listener: BorrowedFd<'_>) -> io::Result<()> {
        seam::before(Call::Dup)?;
        let listener = listener.try_clone_to_owned()?;
        seam::before(Call::EpollControl)?;
        self.epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        if let Some(old) = self.listener.replace(listener.into()) {
            let _ = self.epoll.delete(&old); // it is in the set
        }
        self.paused = None;
        Ok(())
    }

    /// Stops accepting clients. New clients are accepted by another generation.
    pub fn stop_accepting(&mut self) {
        if let Some(listener) = self.listener.take() {
            // Closing it would not remove it from the set: the successor has the same socket open.
            let _ = self.epoll.delete(&listener); // it is in the set
        }
        self.paused = None;
    }

    /// Whether any client waits for this.
    #[must_use]
    pub fn has(&self, interest: Interest) -> bool {
        self.clients.values().any(|client| client.interest == interest)
    }

    /// Does what is possible without waiting. Returns new requests. A watching client that was behind and has
    /// caught up counts as a new request.
    pub fn on_ready(&mut self) -> Vec<ClientRequest> {
        let mut events = [EpollEvent::empty(); AT_ONCE];
        // after EINTR it is still ready
        let count = self.epoll.wait(&mut events, EpollTimeout::ZERO).unwrap_or(0);
        let mut requests = Vec::new();
        for event in &events[..count] {
            if event.data() == LISTENER {
                self.accept();
            } else {
                requests.extend(self.client_is_ready(event.data(), event.events()));
            }
        }
        requests
    }

    /// When to call [`Server::on_timer`]. `None`: never.
    #[must_use]
    pub fn next_timer(&self) -> Option<Duration> {
        let silent = self.clients.values().filter(|client| client.interest == Interest::Unknown);
        let first = silent
            .map(|client| client.since + REQUEST_TIMEOUT)
            .chain(self.paused.map(|since| since + PAUSE))
            .min()?;
        Some(first.saturating_duration_since(Instant::now()).max(Duration::from_millis(1)))
    }

    /// Drops clients that have sent no request for too long, and resumes accepting after a pause.
    pub fn on_timer(&mut self) {
        let now = Instant::now();
        self.clients
            .retain(|_, client| client.interest != Interest::Unknown || now < client.since + REQUEST_TIMEOUT);
        if self.paused.is_some_and(|since| now >= since + PAUSE) {
            self.paused = None;
            self.watch_listener(EpollFlags::EPOLLIN);
        }
    }

    /// Sets what this client waits for.
    pub fn set_interest(&mut self, client: u64, interest: Interest) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.interest = interest;
        }
    }

    /// Changes what all clients with the interest `from` wait for.
    pub fn change(&mut self, from: Interest, to: Interest) {
        for client in self.clients.values_mut().filter(|client| client.interest == from) {
            client.interest = to;
        }
    }

    /// Gives the connection to a client away. What was not sent yet is lost.
    pub fn take(&mut self, client: u64) -> Option<OwnedFd> {
        let client = self.clients.remove(&client)?;
        // Closing it would not remove it from the set: another process has it open.
        let _ = self.epoll.delete(&client.stream); // it is in the set
        Some(client.stream.into())
    }

    /// Closes the connection to the client once its output is sent.
    pub fn close(&mut self, client: u64) {
        self.set_interest(client, Interest::Nothing);
        self.flush(client);
    }

    /// Sends an event to one client.
    pub fn answer(&mut self, client: u64, event: &Event, after: AfterReply) {
        self.write(client, &event.line(), after);
    }

    /// Sends an event to all clients that wait for this.
    pub fn notify(&mut self, interest: Interest, event: &Event, after: AfterReply) {
        let waiting: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| client.interest == interest)
            .map(|(id, _)| *id)
            .collect();
        if waiting.is_empty() {
            return;
        }
        let line = event.line();
        for client in waiting {
            self.write(client, &line, after);
        }
    }

    /// Sends the status to all watching clients. A client that has not read the last one
    /// gets the status when it has.
    pub fn notify_watchers(&mut self, status: &Event) {
        let watching: Vec<u64> = self
            .clients
            .iter()
            .filter(|(_, client)| client.interest == Interest::Changes)
            .map(|(id, _)| *id)
            .collect();
        if watching.is_empty() {
            return;
        }
        let line = status.line();
        for id in watching {
            let Some(client) = self.clients.get_mut(&id) else { continue };
            if client.unread.is_empty() {
                self.write(id, &line, AfterReply::KeepOpen);
            } else {
                client.is_behind = true;
            }
        }
    }

    /// For a generation that is not active any more: sends a final event to all clients and closes their
    /// connections, except those for which `stays` is true because they wait for its own exit.
    pub fn send_away(&mut self, stays: impl Fn(Interest) -> bool, to: impl Fn(Interest) -> Event) {
        let going: Vec<(u64, Interest)> = self
            .clients
            .iter()
            .filter(|(_, client)| client.interest != Interest::Nothing && !stays(client.interest))
            .map(|(id, client)| (*id, client.interest))
            .collect();
        for (id, interest) in going {
            self.answer(id, &to(interest), AfterReply::Close);
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        let accepted = seam::before(Call::Accept).map_err(io::Error::from).and_then(|()| listener.accept());
        let stream = match accepted {
            Ok((stream, _)) => stream,
            // The client has gone again, or another generation was faster.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionAborted) =>
            {
                return;
            }
            // The listener would stay ready for ever.
            Err(error) => {
                tracing::warn!(%error, "can't accept a client of the control socket for now");
                self.pause();
                return;
            }
        };
        let Ok(peer) = getsockopt(&stream, sockopt::PeerCredentials) else { return };
        let (pid, uid) = (peer.pid(), peer.uid());
        let own = Uid::effective();
        if !(uid == 0 || uid == own.as_raw()) {
            let reason = format!(
                "this psflip belongs to {}; {} may not send requests to it",
                text::user(own.as_raw()),
                text::user(uid)
            );
            let line = Event::Error { reason }.line();
            // a new connection has room for one line
            let _ = stream.set_nonblocking(true).and_then(|()| (&stream).write(&line));
            return;
        }
        self.make_room();
        let id = self.next;
        let watched = stream.set_nonblocking(true).and_then(|()| {
            seam::before(Call::EpollControl)?;
            self.epoll.add(&stream, EpollEvent::new(EpollFlags::EPOLLIN, id)).map_err(Into::into)
        });
        if let Err(error) = watched {
            tracing::warn!(%error, pid, uid, "can't receive from a client of the control socket");
            return;
        }
        self.next += 1;
        let client = Client {
            stream,
            pid,
            uid,
            since: Instant::now(),
            interest: Interest::Unknown,
            input: Vec::new(),
            unread: Vec::new(),
            is_behind: false,
        };
        self.clients.insert(id, client);
        if self.clients.len() > MOST_CLIENTS {
            let reason = format!(
                "{MOST_CLIENTS} clients already wait for an upgrade or a stop; a signal to psflip requests one without a client"
            );
            self.answer(id, &Event::Error { reason }, AfterReply::Close);
        }
    }

    /// If there are too many clients, drops one: the oldest without a request, else one that doesn't read,
    /// else the oldest that watches. Clients that wait for an upgrade or a stop stay.
    fn make_room(&mut self) {
        if self.clients.len() < MOST_CLIENTS {
            return;
        }
        let first = |goes: fn(&Client) -> bool| {
            self.clients.iter().find(|(_, client)| goes(client)).map(|(id, _)| *id)
        };
        let silent = first(|client| client.interest == Interest::Unknown);
        if let Some(id) = silent {
            let reason = format!(
                "{MOST_CLIENTS} clients are connected, and another one needs the place of the oldest that has sent no request"
            );
            self.answer(id, &Event::Error { reason }, AfterReply::Close);
            self.clients.remove(&id);
        } else if let Some(id) = first(|client| !client.unread.is_empty()) {
            self.clients.remove(&id); // it would not read a reason either
        } else if let Some(id) = first(|client| client.interest == Interest::Changes) {
            tracing::debug!(
                most = MOST_CLIENTS,
                "closing the connection of the client that has watched for longest"
            );
            let reason = format!(
                "{MOST_CLIENTS} clients are connected, and another one needs the place of the oldest that watches"
            );
            self.answer(id, &Event::Error { reason }, AfterReply::Close);
            self.clients.remove(&id);
        }
    }

    fn pause(&mut self) {
        self.watch_listener(EpollFlags::empty());
        self.paused = Some(Instant::now());
    }

    fn watch_listener(&self, flags: EpollFlags) {
        if let Some(listener) = &self.listener {
            let _ = self.epoll.modify(listener, &mut EpollEvent::new(flags, LISTENER)); // it is in the set
        }
    }

    fn client_is_ready(&mut self, id: u64, flags: EpollFlags) -> Option<ClientRequest> {
        let client = self.clients.get_mut(&id)?;
        if flags.contains(EpollFlags::EPOLLOUT) {
            self.flush(id);
            let client = self.clients.get_mut(&id)?;
            let caught_up = client.is_behind && client.unread.is_empty();
            client.is_behind &= !caught_up;
            return caught_up.then_some(ClientRequest {
                client: id,
                request: ControlRequest::Watch,
                pid: client.pid,
                uid: client.uid,
            });
        }
        if flags.intersects(EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR)
            && !flags.contains(EpollFlags::EPOLLIN)
        {
            self.clients.remove(&id);
            return None;
        }
        if client.interest != Interest::Unknown {
            // It has closed its end, so nothing can be sent to it.
            self.clients.remove(&id);
            return None;
        }
        match client.read_request() {
            Ok(None) => None,
            Ok(Some(text)) => {
                // From now on only its exit is of interest: a client may shut down its sending
                // side and still read the answer.
                let _ = self.epoll.modify(&client.stream, &mut EpollEvent::new(EpollFlags::empty(), id));
                client.interest = Interest::Nothing;
                let from_client =
                    |request| ClientRequest { client: id, request, pid: client.pid, uid: client.uid };
                match ControlRequest::read(&text) {
                    Ok(request) => Some(from_client(request)),
                    Err(reason) => {
                        self.answer(id, &Event::Error { reason }, AfterReply::Close);
                        None
                    }
                }
            }
            Err(reason) => {
                client.interest = Interest::Nothing;
                match reason {
                    Some(reason) => self.answer(id, &Event::Error { reason }, AfterReply::Close),
                    None => drop(self.clients.remove(&id)),
                }
                None
            }
        }
    }

    /// Sends as much as there is room for, and queues the rest.
    fn write(&mut self, id: u64, line: &[u8], after: AfterReply) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        client.unread.extend_from_slice(line);
        if after == AfterReply::Close {
            client.interest = Interest::Nothing;
        }
        self.flush(id);
    }

    fn flush(&mut self, id: u64) {
        let Some(client) = self.clients.get_mut(&id) else { return };
        while !client.unread.is_empty() {
            match client.stream.write(&client.unread) {
                Ok(written) => drop(client.unread.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(_) => {
                    self.clients.remove(&id);
                    return;
                }
            }
        }
        let is_done = client.unread.is_empty() && client.interest == Interest::Nothing;
        if is_done || client.unread.len() > MOST_UNREAD {
            self.clients.remove(&id);
            return;
        }
        let flags = if client.unread.is_empty() { EpollFlags::empty() } else { EpollFlags::EPOLLOUT };
        let _ = self.epoll.modify(&client.stream, &mut EpollEvent::new(flags, id)); // it is in the set
    }
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.epoll.0.as_fd()
    }
}

impl Client {
    /// The request, once it is complete. `Err(None)`: the client has gone without a request.
    fn read_request(&mut self) -> Result<Option<Vec<u8>>, Option<String>> {
        let mut buffer = [0; LONGEST_REQUEST];
        loop {
            let room = LONGEST_REQUEST - self.input.len();
            match self.stream.read(&mut buffer[..room]) {
                // The client has shut down its sending side, so the request is complete.
                Ok(0) if self.input.is_empty() => return Err(None),
                Ok(0) => return Ok(Some(std::mem::take(&mut self.input))),
                Ok(read) => {
                    self.input.extend_from_slice(&buffer[..read]);
                    if let Some(end) = self.input.iter().position(|byte| *byte == b'\n') {
                        self.input.truncate(end);
                        return Ok(Some(std::mem::take(&mut self.input)));
                    }
                    if self.input.len() == LONGEST_REQUEST {
                        return Err(Some(format!(
                            "the request has more than {LONGEST_REQUEST} bytes without a line break"
                        )));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(_) => return Err(None),
            }
        }
    }
}
