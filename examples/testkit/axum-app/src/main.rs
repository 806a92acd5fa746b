//! A small axum app that a supervisor replaces: it takes a socket that all generations share (`LISTEN_FDS`), or
//! listens at the port in `PORT`. `APP_CARELESS` lets it exit at once on SIGTERM, and `APP_BROKEN` at its start.

use std::future::IntoFuture as _;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderValue, header};
use axum::middleware::map_response_with_state;
use axum::response::Response;
use axum::routing::get;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

#[tokio::main(flavor = "current_thread")]
async fn main() -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let is_set = |name| std::env::var_os(name).is_some();
    if is_set("APP_BROKEN") {
        return Err(io::Error::other("the table `users` is missing"));
    }
    let listener = listener().await?;
    let app = Router::new().route("/", get(answer));
    if is_set("APP_CARELESS") {
        ready()?;
        tokio::select! {
            served = axum::serve(listener, app).into_future() => return served,
            _ = terminate.recv() => return Ok(()),
        }
    }
    let (stop, stopping) = watch::channel(false);
    let app = app.layer(map_response_with_state(stopping, last_answer));
    let stopped = async move {
        terminate.recv().await;
        let _ = stop.send(true);
        // A client may be about to use an idle connection: it gets one more answer, the last one.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    ready()?;
    axum::serve(listener, app).with_graceful_shutdown(stopped).await
}

async fn answer() -> String {
    tokio::time::sleep(Duration::from_millis(5)).await; // the database
    format!("pid={}\n", std::process::id())
}

async fn last_answer(State(stopping): State<watch::Receiver<bool>>, mut response: Response) -> Response {
    if *stopping.borrow() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

async fn listener() -> io::Result<TcpListener> {
    if let Some(inherited) = listenfd::ListenFd::from_env().take_tcp_listener(0)? {
        inherited.set_nonblocking(true)?;
        return TcpListener::from_std(inherited);
    }
    let port = std::env::var("PORT").map_err(|_| io::Error::other("neither LISTEN_FDS nor PORT is set"))?;
    TcpListener::bind(format!("127.0.0.1:{port}")).await
}

/// Sends `READY=1` to the socket in `NOTIFY_SOCKET` (sd_notify(3)), for `[healthcheck.notify]`.
fn ready() -> io::Result<()> {
    let Ok(path) = std::env::var("NOTIFY_SOCKET") else { return Ok(()) };
    let address = match path.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(path)?,
    };
    UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address).map(drop)
}
