//! FastCGI: each request goes to the child over a connection of its own. A client that keeps its connection
//! (nginx with `fastcgi_keep_conn on`) keeps it with the relay, and between two requests the relay of any
//! generation can have it.
//!
//! Records are carried as they are. Only the flag `FCGI_KEEP_CONN` of a request is taken out, so that the
//! child closes its connection after the answer.

mod record;

use std::io;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use tokio::sync::watch;

use self::record::{
    BEGIN_REQUEST, END_REQUEST, Framing, GET_VALUES, GET_VALUES_RESULT, HEADER, Header, KEEP_CONNECTION,
    STDIN, STDOUT, UNKNOWN_TYPE, end_request, record,
};
use crate::addresses::Addresses;
use crate::connect::connect;
use crate::exited::{exited, overdue};
use crate::pause::{elapsed, pause};
use crate::proxied::{Control, Counted, Proxied};
use crate::socket::{Socket, Stream};
use crate::tally::add;

/// How long a client may take for the first record of a request.
const RECORD: Duration = Duration::from_secs(60);

/// How much of an answer is read at once.
const BUFFER: usize = 32 * 1024;

/// A request that has begun.
#[derive(Clone, Copy, Debug)]
struct Request {
    id: u16,
    keeps_open: bool,
}

/// A client's connection: its socket, and what was read from it and not yet carried.
struct Client {
    socket: Socket,
    read: BytesMut,
    /// Where the carried bytes stand: within a record, if its request was answered before all of its input
    /// came.
    carried: Framing,
}

/// Serves a client's connection until it is closed or passed on.
///
/// # Errors
/// The client's own fault, or it is gone.
pub(crate) async fn serve(stream: Stream, named: Option<Addresses>, proxied: &Rc<Proxied>) -> io::Result<()> {
    stream.socket.set_nodelay();
    let addresses = named.clone().unwrap_or_else(|| Addresses::of(&stream.socket));
    let mut client = Client::new(stream);
    let mut control = proxied.control.clone();
    let mut stayed = None;
    loop {
        let request = match client.next_request(&mut control, stayed).await? {
            Next::Request(request) => request,
            Next::Closed => return Ok(()),
            Next::Leave if control.borrow().parks() => {
                proxied.parked(&client.socket).await?;
                continue;
            }
            Next::Leave => {
                let (successor, exited, departure) = {
                    let control = control.borrow();
                    let successor = control.successor.clone().filter(|_| control.may_leave(stayed));
                    (successor, control.exited, control.departure)
                };
                let idle = Stream { socket: client.socket, first: client.read.freeze() };
                let Some(successor) = successor else {
                    if exited {
                        Box::pin(idle.socket.close_gracefully(&control)).await; // no child would answer what has come
                        return Ok(());
                    }
                    if idle.first.is_empty() && idle.socket.has_nothing_to_read() {
                        return Ok(());
                    }
                    (client, stayed) = (Client::new(idle), Some(departure)); // a request has come
                    continue;
                };
                let passed_on = Box::pin(successor.pass_on(&proxied.proxy.listen, idle, named.as_ref()));
                match passed_on.await {
                    Ok(()) => {
                        add(&proxied.tally.passed_on, 1);
                        return Ok(());
                    }
                    // The successor's relay is gone: the client is served here, as long as this relay lives.
                    Err(back) => {
                        (client, stayed) = (Client::new(back), Some(departure));
                        continue;
                    }
                }
            }
        };
        let _under_way = Counted::new(proxied, |tally| &tally.under_way);
        let may_go = Box::pin(client.waits_for_resume(proxied, &mut control, stayed)).await?;
        if may_go == MayGo::ToNextChild {
            continue;
        }
        add(&proxied.tally.requests, 1);
        if may_go == MayGo::Nowhere {
            client.skip_begin()?;
            client.answer(request, "503 Service Unavailable", "requests are held back").await?;
        } else {
            Box::pin(client.carry(request, &addresses, proxied)).await?;
        }
        let is_last = {
            let control = control.borrow();
            control.closes_after_answers() || control.ends() && !control.may_leave(stayed)
        };
        // FastCGI has no way to announce that this was the last answer. A client that finds its connection
        // closed between two requests connects anew.
        if !request.keeps_open || is_last {
            Box::pin(client.socket.close_gracefully(&control)).await; // it may still send an input that nobody needed
            return Ok(());
        }
    }
}

/// What follows on an idle connection.
enum Next {
    Request(Request),
    /// It is to be passed on.
    Leave,
    /// The client has closed it.
    Closed,
}

/// Where a request may go of which the child has got nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MayGo {
    ToChild,
    /// It was held, and the child is to give way: it is unread again.
    ToNextChild,
    /// It was held for too long, or until the child was gone.
    Nowhere,
}

impl Client {
    fn new(stream: Stream) -> Self {
        Self { socket: stream.socket, read: stream.first.into(), carried: Framing::default() }
    }

    /// Waits for the next request's first record, which stays in `read`.
    async fn next_request(
        &mut self,
        control: &mut watch::Receiver<Control>,
        stayed: Option<u64>,
    ) -> io::Result<Next> {
        let mut late = None;
        loop {
            let leaves = control.borrow_and_update().dismisses_idle(stayed);
            while !self.carried.is_between_records() && !self.read.is_empty() {
                let (used, _) = self.carried.next(&self.read).map_err(invalid)?;
                self.read.advance(used);
            }
            if leaves && self.carried.is_between_records() {
                return Ok(Next::Leave);
            }
            if control.borrow().exited {
                return Ok(Next::Closed); // within a record that nobody needs
            }
            while let Some(header) = self.whole_record()? {
                match header.kind {
                    BEGIN_REQUEST if header.content >= 8 => {
                        let keeps_open = self.read[HEADER + 2] & KEEP_CONNECTION != 0;
                        return Ok(Next::Request(Request { id: header.request, keeps_open }));
                    }
                    // Requests about the connection itself are the relay's to answer (section 4).
                    GET_VALUES => {
                        self.read.advance(header.length());
                        let values = b"\x0f\x01FCGI_MPXS_CONNS0";
                        self.socket.write_all(&record(GET_VALUES_RESULT, 0, values)).await?;
                    }
                    kind if header.request == 0 => {
                        self.read.advance(header.length());
                        let content = [kind, 0, 0, 0, 0, 0, 0, 0];
                        self.socket.write_all(&record(UNKNOWN_TYPE, 0, &content)).await?;
                    }
                    // The rest of a request that was answered before its input had ended (section 3.3:
                    // records of a request that isn't active are ignored).
                    _ => self.read.advance(header.length()),
                }
                late = None;
            }
            if self.read.is_empty() {
                late = None;
            } else if late.is_none() {
                late = Some(Box::pin(tokio::time::sleep_until((Instant::now() + RECORD).into())));
            }
            tokio::select! {
                more = self.socket.read_more(&mut self.read) => if !more? {
                    return Ok(Next::Closed);
                },
                changed = control.changed() => if changed.is_err() {
                    return Ok(Next::Closed); // the relay exits
                },
                () = elapsed(&mut late) => return Ok(Next::Closed), // it took too long for the record
            }
        }
    }

    /// The header of the next record, if it has come whole.
    fn whole_record(&self) -> io::Result<Option<Header>> {
        if !self.carried.is_between_records() {
            return Ok(None);
        }
        let Some(header) = self.read.first_chunk::<HEADER>() else { return Ok(None) };
        let header = Header::parse(*header).map_err(invalid)?;
        Ok((self.read.len() >= header.length()).then_some(header))
    }

    /// Waits while requests are held back. `stayed`: see [`Control::may_leave`].
    ///
    /// # Errors
    /// The client is gone.
    async fn waits_for_resume(
        &self,
        proxied: &Rc<Proxied>,
        control: &mut watch::Receiver<Control>,
        stayed: Option<u64>,
    ) -> io::Result<MayGo> {
        let (hold, gave_way) = {
            let control = control.borrow();
            (control.hold, control.gave_way)
        };
        if gave_way {
            return Ok(MayGo::Nowhere);
        }
        let Some(max) = hold else { return Ok(MayGo::ToChild) };
        let _held = Counted::new(proxied, |tally| &tally.held);
        let decided =
            |control: &Control| control.gave_way || control.hold.is_none() || control.takes_held_back(stayed);
        tokio::select! {
            control = control.wait_for(decided) => Ok(match control {
                Ok(control) if control.takes_held_back(stayed) => MayGo::ToNextChild,
                Ok(control) if control.gave_way => MayGo::Nowhere,
                _ => MayGo::ToChild,
            }),
            () = pause(max) => Ok(MayGo::Nowhere),
            () = exited(&proxied.control) => Ok(MayGo::Nowhere),
            () = self.socket.reset() => Err(io::ErrorKind::ConnectionReset.into()),
        }
    }

    /// Carries a request to the child, and its answer back.
    async fn carry(
        &mut self,
        request: Request,
        addresses: &Addresses,
        proxied: &Rc<Proxied>,
    ) -> io::Result<()> {
        let child = match connect(proxied, addresses).await {
            Ok(child) => child,
            Err(error) => {
                proxied.failed(&error);
                self.skip_begin()?;
                return self.answer(request, "502 Bad Gateway", "can't connect to the child").await;
            }
        };
        child.set_nodelay();
        self.read[HEADER + 2] &= !KEEP_CONNECTION;
        match self.exchange(request, &child, proxied).await {
            Ok(()) => Ok(()),
            Err(Failure::Client(error)) => Err(error),
            Err(Failure::Child { began: false, error }) => {
                proxied.failed(&error);
                self.answer(request, "502 Bad Gateway", "the child did not answer").await
            }
            Err(Failure::Child { began: true, error }) => {
                proxied.failed(&error);
                self.socket.reset_at_close(); // an answer cut short must not look complete
                Err(error)
            }
        }
    }

    /// Carries both ways until the answer has ended.
    async fn exchange(&mut self, request: Request, child: &Socket, proxied: &Proxied) -> Result<(), Failure> {
        let Self { socket, read, carried } = self;
        let (up, down) = (up(socket, read, carried, request, child), down(child, socket, request, proxied));
        tokio::pin!(up, down);
        let mut is_up = true;
        loop {
            tokio::select! {
                biased;
                ended = &mut down => return ended,
                ended = &mut up, if is_up => match ended {
                    // A child may answer without reading all of the input.
                    Ok(()) | Err(Up::Child) => is_up = false,
                    Err(Up::Client(error)) => return Err(Failure::Client(error)),
                },
                () = socket.reset() => {
                    return Err(Failure::Client(io::ErrorKind::ConnectionReset.into()));
                }
            }
        }
    }

    /// An answer of the relay's own. The records of the request's input are skipped as they come.
    async fn answer(&mut self, request: Request, status: &str, text: &str) -> io::Result<()> {
        let text = format!("Status: {status}\r\nContent-Type: text/plain\r\n\r\n{text}\n");
        let mut answer = record(STDOUT, request.id, text.as_bytes());
        answer.extend(record(STDOUT, request.id, b""));
        answer.extend(end_request(request.id));
        self.socket.write_all(&answer).await
    }

    /// Removes the first record of a request that the child does not get.
    fn skip_begin(&mut self) -> io::Result<()> {
        if let Some(header) = self.whole_record()? {
            self.read.advance(header.length());
        }
        Ok(())
    }
}

/// Why a request's way to the child has ended early.
enum Up {
    Client(io::Error),
    Child,
}

/// Carries the request's records to the child until its input has ended, then those that still belong to it.
/// When the answer has ended this may be dropped at any await: `read` and `carried` still fit together.
async fn up(
    client: &Socket,
    read: &mut BytesMut,
    carried: &mut Framing,
    request: Request,
    child: &Socket,
) -> Result<(), Up> {
    let mut input_ended = false;
    loop {
        while !read.is_empty() {
            if input_ended && carried.is_between_records() {
                match belongs_to(request, read) {
                    Some(true) => {}
                    Some(false) => return Ok(()), // the next request waits for the answer
                    None => break,
                }
            }
            let (used, whole) = carried.next(read).map_err(|error| Up::Client(invalid(error)))?;
            let piece = read.split_to(used);
            child.write_all(&piece).await.map_err(|_| Up::Child)?;
            input_ended |= whole.is_some_and(|header| {
                header.kind == STDIN && header.content == 0 && header.request == request.id
            });
        }
        match client.read_more(read).await {
            Ok(true) => {}
            Ok(false) if input_ended => return Ok(()), // it waits for the answer
            Ok(false) => return Err(Up::Client(io::ErrorKind::UnexpectedEof.into())),
            Err(error) => return Err(Up::Client(error)),
        }
    }
}

/// Whether the next record belongs to a request whose input has ended: its abort, or the data of a filter.
/// `None`: its header has not come whole, so it may be the next request's.
fn belongs_to(request: Request, read: &[u8]) -> Option<bool> {
    let header = Header::parse(*read.first_chunk::<HEADER>()?);
    Some(header.is_ok_and(|header| header.request == request.id && header.kind != BEGIN_REQUEST))
}

/// Why an answer has ended early.
enum Failure {
    Client(io::Error),
    Child {
        /// A part of it was sent.
        began: bool,
        error: io::Error,
    },
}

/// Carries the answer's records to the client, up to the end of the request.
async fn down(child: &Socket, client: &Socket, request: Request, proxied: &Proxied) -> Result<(), Failure> {
    let mut framing = Framing::default();
    let mut buffer = vec![0; BUFFER];
    let mut began = false;
    loop {
        let read = tokio::select! {
            biased;
            read = child.read(&mut buffer) => read,
            () = overdue(&proxied.control) => Err(io::ErrorKind::ConnectionReset.into()),
        };
        let length = match read {
            Ok(0) => return Err(Failure::Child { began, error: io::ErrorKind::UnexpectedEof.into() }),
            Ok(length) => length,
            Err(error) => return Err(Failure::Child { began, error }),
        };
        let (mut at, mut ended) = (0, false);
        while at < length && !ended {
            let next = framing.next(&buffer[at..length]);
            let (used, whole) = next.map_err(|error| Failure::Child { began, error: invalid(error) })?;
            at += used;
            ended = whole.is_some_and(|header| header.kind == END_REQUEST && header.request == request.id);
        }
        client.write_all(&buffer[..at]).await.map_err(Failure::Client)?;
        began = true;
        if ended {
            return Ok(());
        }
    }
}

fn invalid(error: record::NoFastCgi) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
