//! HTTP/2 with prior knowledge.

use std::net::SocketAddr;
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use relay::message::{Forwarded, Protocol, Report};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Builder;
use tokio::task::{LocalSet, spawn_local};

use crate::support::{DEADLINE, Relay, listener, proxy, requests};

#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

fn on_this_thread<F: Future>(future: F) -> F::Output {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, future)
}

/// A server that answers with its name and the body. `/slow`: it says that the request has come, and waits
/// for `go`.
fn child(name: &'static str, go: Arc<tokio::sync::Notify>, came: mpsc::Sender<()>) -> SocketAddr {
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let address = socket.local_addr().unwrap();
    let came = Arc::new(Mutex::new(came));
    std::thread::spawn(move || {
        on_this_thread(async move {
            let socket = TcpListener::from_std(socket).unwrap();
            loop {
                let (connection, _) = socket.accept().await.unwrap();
                let (go, came) = (Arc::clone(&go), Arc::clone(&came));
                let service = service_fn(move |request: Request<Incoming>| {
                    let (go, came) = (Arc::clone(&go), Arc::clone(&came));
                    async move {
                        if request.uri().path() == "/refused" {
                            return Err(std::io::Error::other("refused"));
                        }
                        if request.uri().path() == "/host" {
                            let host = request.headers()["x-forwarded-host"].to_str().unwrap();
                            return Ok(Response::new(Full::new(Bytes::from(host.to_owned()))));
                        }
                        if request.uri().path() == "/slow" {
                            came.lock().unwrap().send(()).unwrap();
                            go.notified().await;
                        }
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let text = format!("{name} {}", String::from_utf8_lossy(&body));
                        Ok(Response::new(Full::new(Bytes::from(text))))
                    }
                });
                let server = hyper::server::conn::http2::Builder::new(Local);
                spawn_local(server.serve_connection(TokioIo::new(connection), service));
            }
        });
    });
    address
}

type Sender = hyper::client::conn::http2::SendRequest<Full<Bytes>>;

/// A client, and what its connection ends with.
async fn client(address: SocketAddr) -> (Sender, tokio::task::JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(Local, TokioIo::new(stream)).await.unwrap();
    (sender, spawn_local(connection))
}

async fn post(sender: &mut Sender, path: &str, body: &'static str) -> String {
    let request = Request::post(format!("http://a{path}")).body(Full::new(Bytes::from(body))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

#[test]
fn a_connection_ends_by_goaway_after_its_last_stream() {
    // Contract: T6
    let (socket, address) = listener();
    let go = Arc::new(tokio::sync::Notify::new());
    let (came, comes) = mpsc::channel();
    let child_a = child("a", Arc::clone(&go), came.clone());
    let child_b = child("b", Arc::clone(&go), came);
    let a = Relay::start(&socket, proxy(Protocol::Http, child_a));
    let b = Relay::start(&socket, proxy(Protocol::Http, child_b));
    a.accept();
    on_this_thread(async {
        let (mut sender, connection) = client(address).await;
        assert_eq!(post(&mut sender, "/", "one").await, "a one");
        let mut slow = sender.clone();
        let slow = spawn_local(async move { post(&mut slow, "/slow", "two").await });
        tokio::task::spawn_blocking(move || comes.recv().unwrap()).await.unwrap();
        a.leave_to(&b);
        a.wait_counts("leaving", |counts| counts.leaving);
        go.notify_one();
        assert_eq!(slow.await.unwrap(), "a two");
        connection.await.unwrap().unwrap(); // the end after GOAWAY is no error
        assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 1 });
        let (mut sender, _connection) = client(address).await;
        assert_eq!(post(&mut sender, "/", "three").await, "b three");
    });
}

#[test]
fn a_refused_stream_is_refused_to_the_client_and_the_others_go_on() {
    // Contract: T6
    let (socket, address) = listener();
    let child = child("a", Arc::default(), mpsc::channel().0);
    let mut proxy = proxy(Protocol::Http, child);
    proxy.forwarded = Forwarded::Append;
    let a = Relay::start(&socket, proxy);
    a.accept();
    on_this_thread(async {
        let (mut sender, _connection) = client(address).await;
        let request = Request::get("http://a/refused").body(Full::new(Bytes::new())).unwrap();
        sender.send_request(request).await.unwrap_err();
        assert_eq!(post(&mut sender, "/", "one").await, "a one");
        assert_eq!(post(&mut sender, "/host", "").await, "a");
    });
    let counts = a.wait_counts("all requests", |counts| counts.requests == 3);
    assert_eq!(counts.errors, 0);
}

#[test]
fn a_held_stream_is_refused_when_the_child_gives_way() {
    // Contract: E5, T11
    let (socket, address) = listener();
    let child = child("a", Arc::default(), mpsc::channel().0);
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    a.accept();
    on_this_thread(async {
        let (mut sender, connection) = client(address).await;
        assert_eq!(post(&mut sender, "/", "one").await, "a one");
        a.hold(DEADLINE);
        a.wait_counts("the hold", |counts| counts.held);
        let request = Request::post("http://a/").body(Full::new(Bytes::from("two"))).unwrap();
        let held = spawn_local(sender.send_request(request));
        let counts = async {
            while a.wait_counts("any", |_| true).under_way == 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(DEADLINE, counts).await.expect("the stream is held");
        a.wait_counts("one request", |counts| counts.requests == 1);
        a.pause();
        let error = held.await.unwrap().unwrap_err();
        let source = std::error::Error::source(&error).unwrap().to_string();
        assert!(source.contains("refused stream before processing"), "{source}");
        connection.await.unwrap().unwrap();
        assert_eq!(a.report(), Report::Drained { passed_on: 0, waited_for: 0 });
    });
    assert_eq!(requests(&a), 1);
}
