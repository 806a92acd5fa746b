//! Accepts clients' connections.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{AddressFamily, getsockname};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::spawn_local;

use crate::pause::pause;
use crate::proxied::{Control, Proxied};
use crate::relay::Orders;
use crate::serve::serve;
use crate::socket::{Socket, Stream};

/// How long accepting pauses when the process or the host has no descriptor or memory left, unless a
/// connection is closed before.
const PAUSE: Duration = Duration::from_millis(100);

/// A listening socket.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    /// A socket that psflip opened. From here on it blocks in no process that shares it.
    ///
    /// # Errors
    /// ENOMEM, ENOSPC: it can't be watched.
    fn new(fd: OwnedFd) -> io::Result<Self> {
        fcntl_setfl(&fd, fcntl_getfl(&fd)? | OFlags::NONBLOCK)?;
        if getsockname(&fd)?.address_family() == AddressFamily::UNIX {
            Ok(Self::Unix(UnixListener::from_std(fd.into())?))
        } else {
            Ok(Self::Tcp(TcpListener::from_std(fd.into())?))
        }
    }

    async fn accept(&self) -> io::Result<Socket> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(socket, _)| Socket::Tcp(socket)),
            Self::Unix(listener) => listener.accept().await.map(|(socket, _)| Socket::Unix(socket)),
        }
    }
}

/// Accepts on one socket whenever this relay is to accept. Closes it once another generation does: if that one
/// does not have the socket, clients are refused instead of waiting in a queue that nobody reads.
pub(crate) async fn accept(
    fd: OwnedFd,
    proxied: Rc<Proxied>,
    mut control: watch::Receiver<Control>,
    orders: Rc<Orders>,
) {
    let mut reporter = Reporter::default();
    let mut opened = None;
    loop {
        if control.borrow().leaves {
            opened = None; // this relay need not wake up for another one's clients
        }
        // An error means that the relay exits.
        let can = control.wait_for(|control| control.accepts() || control.has_left()).await;
        if can.is_err() || can.is_ok_and(|control| control.has_left()) {
            return;
        }
        // Only now: all generations share the socket's flags, and the child of a `[[listen]]` of before may
        // rely on a socket that blocks.
        let listener = match opened.take().map_or_else(|| fd.try_clone().and_then(Listener::new), Ok) {
            Ok(listener) => opened.insert(listener),
            Err(error) => {
                reporter.report(&proxied, &error);
                pause(PAUSE).await;
                continue;
            }
        };
        if !proxied.descriptors.has_room() {
            reporter.report(&proxied, &io::Error::from(Errno::MFILE));
            paused(&proxied).await;
            continue;
        }
        tokio::select! {
            biased;
            _ = control.changed() => {}
            accepted = listener.accept() => match accepted {
                Ok(socket) => {
                    // The client may have connected after the promotion of another generation, while the
                    // order to leave is still unread. Then it belongs to the new generation (contract T3).
                    orders.obeyed().await;
                    let stream = Stream { socket, first: bytes::Bytes::new() };
                    spawn_local(serve(stream, None, Rc::clone(&proxied)));
                }
                Err(error) if is_short_of_something(&error) => {
                    reporter.report(&proxied, &error);
                    paused(&proxied).await;
                }
                Err(error) if is_of_one_client(&error) => {}
                // It may be permanent.
                Err(error) => {
                    reporter.report(&proxied, &error);
                    pause(PAUSE).await;
                }
            },
        }
    }
}

/// Waits until a connection of this proxy is closed, but not for long: others may be.
async fn paused(proxied: &Proxied) {
    tokio::select! {
        () = proxied.closed.notified() => {}
        () = pause(PAUSE) => {}
    }
}

/// Whether accept(2) has failed because of a client that is gone: ECONNABORTED, EPERM of a firewall, and
/// errors that were pending on its connection.
fn is_of_one_client(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(
        errno,
        Some(
            Errno::CONNABORTED
                | Errno::PERM
                | Errno::PROTO
                | Errno::NETDOWN
                | Errno::NOPROTOOPT
                | Errno::HOSTDOWN
                | Errno::NONET
                | Errno::HOSTUNREACH
                | Errno::OPNOTSUPP
                | Errno::NETUNREACH
                | Errno::INTR
        )
    )
}

/// Whether accept(2) lacks what may come back: EMFILE, ENFILE, ENOMEM, ENOBUFS.
fn is_short_of_something(error: &io::Error) -> bool {
    let errno = error.raw_os_error().map(Errno::from_raw_os_error);
    matches!(errno, Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::NOBUFS))
}

/// Logs that accepting pauses, once until it has succeeded for a while.
#[derive(Debug, Default)]
struct Reporter {
    last: Option<std::time::Instant>,
}

impl Reporter {
    fn report(&mut self, proxied: &Proxied, error: &io::Error) {
        if self.last.is_none_or(|last| last.elapsed() > Duration::from_secs(1)) {
            let open = proxied.tally.open.get();
            tracing::warn!(listen = proxied.proxy.listen, %error, open, "can't accept connections for a moment");
            self.last = Some(std::time::Instant::now());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpStream;
    use std::os::fd::AsFd;

    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    use tokio::sync::Notify;
    use tokio::task::{LocalSet, yield_now};

    use crate::descriptors::Descriptors;
    use crate::link::Link;
    use crate::message::{Forward, Forwarded, Protocol, Proxy};
    use crate::successor::Successor;

    fn is_readable(fd: &impl AsFd) -> bool {
        poll(&mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)], PollTimeout::ZERO) == Ok(1)
    }

    /// A proxy by `tcp` that accepts, and its psflip.
    struct Accepting {
        listener: std::net::TcpListener,
        child: std::net::TcpListener,
        sender: watch::Sender<Control>,
        orders: Rc<Orders>,
        psflip: Link,
    }

    impl Accepting {
        fn start() -> Self {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let child = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
            let proxy = Proxy {
                listen: "the proxy".to_owned(),
                sockets: 1,
                forward: Forward::Tcp(child.local_addr().unwrap()),
                protocol: Protocol::Tcp,
                send_proxy_protocol: None,
                accept_proxy_protocol: false,
                forwarded: Forwarded::Off,
                pool: 0,
            };
            let accepts = Control { is_active: true, ..Control::default() };
            let (sender, control) = watch::channel(accepts);
            let (psflip, ours) = Link::pair().unwrap();
            let orders = Rc::new(Orders::new(Link::new(ours).unwrap()));
            let proxied = Rc::new(Proxied::new(
                proxy,
                control.clone(),
                Rc::new(Descriptors::new(1)),
                Rc::new(Notify::new()),
            ));
            let socket = listener.try_clone().unwrap().into();
            spawn_local(accept(socket, Rc::clone(&proxied), control, Rc::clone(&orders)));
            Self { listener, child, sender, orders, psflip: Link::new(psflip).unwrap() }
        }

        /// A client that is accepted while an order waits in the relay's queue.
        async fn client_after_order(&self) -> TcpStream {
            self.psflip.send(b"an order", &[]).await.unwrap();
            let client = TcpStream::connect(self.listener.local_addr().unwrap()).unwrap();
            let accepted = async {
                while is_readable(&self.listener) {
                    yield_now().await;
                }
            };
            tokio::time::timeout(DEADLINE, accepted).await.expect("the client is accepted");
            settled().await; // without the wait for orders, it would be served now
            client
        }

        /// Obeys that order.
        async fn obey(&self, order: impl FnOnce(&mut Control)) {
            assert!(self.orders.link().receive().await.unwrap().is_some());
            self.sender.send_modify(order);
            self.orders.are_obeyed();
        }
    }

    const DEADLINE: Duration = Duration::from_secs(30);

    /// Lets all tasks run that can.
    async fn settled() {
        for _ in 0..10 {
            yield_now().await;
        }
    }

    fn on_this_thread(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, test);
    }

    #[test]
    fn a_client_that_connects_after_the_order_to_leave_is_the_successors() {
        // Contract: T3
        on_this_thread(async {
            let relay = Accepting::start();
            let _client = relay.client_after_order().await;
            let (to_successor, successors) = Link::pair().unwrap();
            let leave = |control: &mut Control| {
                (control.leaves, control.departure) = (true, 1);
                control.successor = Some(Rc::new(Successor::new(Link::new(to_successor).unwrap())));
            };
            relay.obey(leave).await;
            let successors = Link::new(successors).unwrap();
            let passed_on = tokio::time::timeout(DEADLINE, successors.receive());
            let passed_on = passed_on.await.expect("the client is passed on").unwrap().unwrap();
            assert_eq!(passed_on.fds.len(), 1);
            assert!(!is_readable(&relay.child), "the old child got the client");
        });
    }

    #[test]
    fn a_client_that_connects_after_the_order_to_hold_waits() {
        // Contract: T11
        on_this_thread(async {
            let relay = Accepting::start();
            let _client = relay.client_after_order().await;
            relay.obey(|control| control.hold = Some(DEADLINE)).await;
            settled().await;
            assert!(!is_readable(&relay.child), "the child got the client in the hold");
            relay.sender.send_modify(|control| control.hold = None);
            let served = async {
                while !is_readable(&relay.child) {
                    yield_now().await;
                }
            };
            tokio::time::timeout(DEADLINE, served).await.expect("the child gets the client");
        });
    }
}
