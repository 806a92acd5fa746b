//! A relay in a thread, and servers.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use relay::Link;
use relay::message::{Counts, Forward, Forwarded, Order, Protocol, Proxy, Report};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    SocketType, bind, getsockname, recvmsg, sendmsg, socket,
};

/// How long a test waits for anything.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// A relay, with the test as its psflip.
pub(crate) struct Relay {
    link: Option<OwnedFd>,
    counts: std::fs::File,
    thread: Option<JoinHandle<io::Result<()>>>,
}

/// A proxy from any free port to `forward`.
pub(crate) fn proxy(protocol: Protocol, forward: SocketAddr) -> Proxy {
    Proxy {
        listen: "the proxy".to_owned(),
        sockets: 1,
        forward: Forward::Tcp(forward),
        protocol,
        send_proxy_protocol: None,
        accept_proxy_protocol: false,
        forwarded: Forwarded::Off,
        pool: 0,
    }
}

impl Relay {
    /// Starts a relay that does not accept yet.
    pub(crate) fn start(listener: &TcpListener, proxy: Proxy) -> Self {
        let (ours, theirs) = Link::pair().unwrap();
        let thread = std::thread::spawn(move || relay::run(theirs));
        let counts = tempfile::tempfile().unwrap();
        let relay = Self { link: Some(ours), counts, thread: Some(thread) };
        let fds = [listener.as_fd(), relay.counts.as_fd()];
        relay.send(&Order::Start { proxies: vec![proxy] }, &fds);
        assert_eq!(relay.report(), Report::Ready);
        relay
    }

    fn send(&self, order: &Order, fds: &[BorrowedFd<'_>]) {
        self.send_bytes(&serde_json::to_vec(order).unwrap(), fds);
    }

    /// Sends what need not be an order.
    pub(crate) fn send_bytes(&self, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(fds.is_empty() || control.push(SendAncillaryMessage::ScmRights(fds)));
        let link = self.link.as_ref().unwrap();
        sendmsg(link, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).unwrap();
    }

    /// The next report.
    pub(crate) fn report(&self) -> Report {
        let mut bytes = [0; 4096];
        let mut control = RecvAncillaryBuffer::new(&mut []);
        let link = self.link.as_ref().unwrap();
        rustix::net::sockopt::set_socket_timeout(link, rustix::net::sockopt::Timeout::Recv, Some(DEADLINE))
            .unwrap();
        let flags = RecvFlags::empty();
        let received = recvmsg(link, &mut [IoSliceMut::new(&mut bytes)], &mut control, flags);
        let length = received.expect("a report of the relay").bytes;
        assert_ne!(length, 0, "the relay has exited");
        serde_json::from_slice(&bytes[..length]).unwrap()
    }

    pub(crate) fn accept(&self) {
        self.send(&Order::Accept, &[]);
    }

    pub(crate) fn hold(&self, max: Duration) {
        self.send(&Order::Hold { max_ms: max.as_millis() as u64 }, &[]);
    }

    pub(crate) fn resume(&self) {
        self.send(&Order::Resume, &[]);
    }

    /// Leaves without a successor that could take connections.
    pub(crate) fn leave(&self) {
        self.send(&Order::Leave { stops: false, may_return: false }, &[]);
    }

    /// Leaves because psflip stops.
    pub(crate) fn stop(&self) {
        self.send(&Order::Leave { stops: true, may_return: false }, &[]);
    }

    /// The child has exited.
    pub(crate) fn close(&self) {
        self.send(&Order::Close, &[]);
    }

    /// The relay's thread.
    pub(crate) fn thread(&self) -> &JoinHandle<io::Result<()>> {
        self.thread.as_ref().unwrap()
    }

    pub(crate) fn stay(&self) {
        self.send(&Order::Stay, &[]);
    }

    /// The child gives way.
    pub(crate) fn pause(&self) {
        self.send(&Order::Pause, &[]);
    }

    /// Makes `new` the successor.
    pub(crate) fn leave_to(&self, new: &Self) {
        let (old_end, new_end) = Link::pair().unwrap();
        new.send(&Order::Accept, &[new_end.as_fd()]);
        self.send(&Order::Leave { stops: false, may_return: false }, &[old_end.as_fd()]);
    }

    /// Stands by for a relay that is gone, so no connection can be passed on.
    pub(crate) fn stand_by_for_nobody(&self) {
        let (end, gone) = Link::pair().unwrap();
        drop(gone);
        self.send(&Order::Leave { stops: false, may_return: true }, &[end.as_fd()]);
    }

    /// Waits until the counts say this.
    pub(crate) fn wait_counts(&self, what: &str, is: impl Fn(&Counts) -> bool) -> Counts {
        use std::os::unix::fs::FileExt as _;
        let deadline = std::time::Instant::now() + DEADLINE;
        loop {
            let mut bytes = vec![0; 4096];
            let length = self.counts.read_at(&mut bytes, 0).unwrap();
            let text = std::str::from_utf8(&bytes[..length]).unwrap();
            let counts = text.get(..8).and_then(|digits| {
                let all: Vec<Counts> =
                    serde_json::from_str(text.get(8..8 + digits.parse::<usize>().ok()?)?).ok()?;
                all.into_iter().next()
            });
            if let Some(counts) = counts.clone().filter(|counts| is(counts)) {
                return counts;
            }
            assert!(std::time::Instant::now() < deadline, "waited for counts: {what}; they are {counts:?}");
            std::thread::yield_now();
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        drop(self.link.take());
        if let Some(thread) = self.thread.take()
            && !std::thread::panicking()
        {
            thread.join().unwrap().unwrap();
        }
    }
}

/// What the relay has carried to its child.
pub(crate) fn requests(relay: &Relay) -> u64 {
    relay.wait_counts("any", |_| true).requests
}

/// A listening socket on a free port, and its address.
pub(crate) fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// An address that refuses connections: its socket is bound, but does not listen. While the socket lives, no
/// other process can get the port.
pub(crate) fn refusing() -> (OwnedFd, SocketAddr) {
    let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
    bind(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = getsockname(&socket).unwrap().try_into().unwrap();
    (socket, address)
}

/// A server that handles each connection by `handle` in a thread.
pub(crate) fn server(handle: impl Fn(TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let (listener, address) = listener();
    let handle = Arc::new(handle);
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let (connection, handle) = (connection.unwrap(), Arc::clone(&handle));
            connection.set_read_timeout(Some(DEADLINE)).unwrap();
            std::thread::spawn(move || handle(connection));
        }
    });
    address
}

/// A client's connection.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { stream }
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    pub(crate) fn end(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads until `end` has come.
    pub(crate) fn until(&mut self, end: &str) -> String {
        read_until(&mut self.stream, end.as_bytes())
    }

    /// Reads all that comes until the connection is closed.
    pub(crate) fn rest(&mut self) -> io::Result<String> {
        let mut rest = Vec::new();
        self.stream.read_to_end(&mut rest)?;
        Ok(String::from_utf8_lossy(&rest).into_owned())
    }
}

/// Reads byte by byte, so nothing is read beyond `end`.
pub(crate) fn read_until(stream: &mut impl Read, end: &[u8]) -> String {
    let mut got = Vec::new();
    while !got.ends_with(end) {
        let mut byte = [0];
        match stream.read(&mut byte) {
            Ok(1) => got.extend(byte),
            other => panic!(
                "waited for {:?}, got {:?}, then {other:?}",
                String::from_utf8_lossy(end),
                String::from_utf8_lossy(&got)
            ),
        }
    }
    String::from_utf8_lossy(&got).into_owned()
}
