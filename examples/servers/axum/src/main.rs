//! The program of axum.toml: an axum application that loses no request during an upgrade (docs/traffic.md).
//!
//! `axum::serve` with a graceful shutdown closes idle connections at once, and so loses requests that
//! clients are just sending. Here the same shutdown starts a second after SIGTERM. Until then the program accepts
//! no connection, and each answer is the last one on its connection and says so (`Connection: close`).
//! `--careless` uses axum's shutdown as it is, for comparison.

use std::io;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddr, UnixDatagram};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderValue, header};
use axum::middleware::map_response_with_state;
use axum::response::Response;
use axum::routing::any;
use axum::serve::Listener;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Idle connections stay open for this long after SIGTERM, so that their clients can send one more request.
const IDLE: Duration = Duration::from_secs(1);

/// The application.
fn app() -> Router {
    Router::new().route("/", any(answer))
}

async fn answer(RawQuery(query): RawQuery, body: Bytes) -> String {
    let echo = query.as_deref().and_then(|query| query.strip_prefix("echo=")).unwrap_or_default();
    let generation = std::env::var("PSFLIP_GENERATION").unwrap_or_default();
    format!("name=gen{generation} pid={} body={} echo={echo}\n", std::process::id(), body.len())
}

#[tokio::main]
async fn main() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        terminate.recv().await;
        stop.send(true)
    });
    let listener = inherited()?;
    ready()?;
    if std::env::args().any(|arg| arg == "--careless") {
        return axum::serve(listener, app()).with_graceful_shutdown(stopped(stopping, Duration::ZERO)).await;
    }
    let app = app().layer(map_response_with_state(stopping.clone(), last_answer));
    let listener = UntilStop { listener: Some(listener), stopping: stopping.clone() };
    axum::serve(listener, app).with_graceful_shutdown(stopped(stopping, IDLE)).await
}

async fn stopped(mut stopping: watch::Receiver<bool>, later: Duration) {
    let _ = stopping.wait_for(|stop| *stop).await;
    tokio::time::sleep(later).await;
}

async fn last_answer(State(stopping): State<watch::Receiver<bool>>, mut response: Response) -> Response {
    if *stopping.borrow() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// Closes the socket at SIGTERM. The next generation shares its queue, and accepts the connections that wait there.
struct UntilStop {
    listener: Option<TcpListener>,
    stopping: watch::Receiver<bool>,
}

impl Listener for UntilStop {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        if let Some(listener) = &mut self.listener {
            tokio::select! {
                accepted = Listener::accept(listener) => return accepted,
                _ = self.stopping.wait_for(|stop| *stop) => self.listener = None,
            }
        }
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.as_ref().ok_or(io::ErrorKind::NotConnected)?.local_addr()
    }
}

/// The socket that psflip opened: descriptor 3, from `LISTEN_FDS`.
fn inherited() -> io::Result<TcpListener> {
    let listener = listenfd::ListenFd::from_env().take_tcp_listener(0)?;
    let listener =
        listener.ok_or_else(|| io::Error::other("no socket is inherited: LISTEN_FDS is not set"))?;
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Sends `READY=1` to `NOTIFY_SOCKET` (sd_notify(3)), for the health check of axum.toml. Call it when the
/// application can serve.
fn ready() -> io::Result<()> {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.strip_prefix('@') {
        Some(name) => UnixAddr::from_abstract_name(name)?,
        None => UnixAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}
