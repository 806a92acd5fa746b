//! Time limits, with a clock that runs ahead as soon as everything waits.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;

use tokio::task::{LocalSet, spawn_local};

use super::*;
use crate::descriptors::Descriptors;
use crate::message::{Forward, Forwarded, Protocol, Proxy};
use crate::socket::Socket;

fn proxied(control: watch::Receiver<Control>, forward: Forward) -> Rc<Proxied> {
    let proxy = Proxy {
        listen: "the proxy".to_owned(),
        sockets: 0,
        forward,
        protocol: Protocol::Http,
        send_proxy_protocol: None,
        accept_proxy_protocol: false,
        forwarded: Forwarded::Off,
        pool: 0,
    };
    Rc::new(Proxied::new(proxy, control, Rc::new(Descriptors::new(0)), Rc::new(Notify::new())))
}

/// Lets hyper serve one end of a socket pair while `client` has the other, and returns how that ended and
/// how long it took.
fn served<F: Future<Output = ()> + 'static>(client: impl FnOnce(UnixStream) -> F) -> (Left, Duration) {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let socket = Socket::Unix(tokio::net::UnixStream::from_std(ours).unwrap());
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("child.sock");
        let child = tokio::net::UnixListener::bind(&path).unwrap();
        spawn_local(async move {
            let (mut connection, _) = child.accept().await.unwrap();
            let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
            tokio::io::AsyncWriteExt::write_all(&mut connection, answer).await.unwrap();
            let _ = tokio::io::AsyncReadExt::read_to_end(&mut connection, &mut Vec::new()).await;
        });
        let (_sender, mut control) = watch::channel(Control::default());
        let proxied = proxied(control.clone(), Forward::Unix(path));
        let start = tokio::time::Instant::now();
        spawn_local(client(theirs));
        let stream = Stream { socket, first: Bytes::new() };
        let left = requests(stream, &Rc::new(Addresses::default()), &proxied, &mut control, None).await;
        (left, start.elapsed())
    })
}

#[test]
fn a_head_that_comes_byte_by_byte_has_a_time_limit() {
    let (left, took) = served(|mut client| async move {
        for byte in b"GET / HTTP/1.1\r\nHost: a\r\n".iter().cycle() {
            if client.write_all(&[*byte]).is_err() {
                return;
            }
            pause(Duration::from_secs(7)).await;
        }
    });
    assert!(matches!(left, Left::Closed), "{left:?}");
    assert!((HEAD..HEAD + Duration::from_secs(7)).contains(&took), "{took:?}");
}

#[test]
fn a_connection_rests_after_its_last_request_and_keeps_what_came() {
    let (left, took) = served(|mut client| async move {
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        client.set_nonblocking(true).unwrap();
        let mut got = Vec::new();
        while !got.ends_with(b"ok") {
            let mut buffer = [0; 100];
            match client.read(&mut buffer) {
                Ok(length) => got.extend_from_slice(&buffer[..length]),
                Err(_) => pause(Duration::from_millis(1)).await,
            }
        }
        pause(IDLE / 2).await;
        client.write_all(b"\r\n").unwrap(); // an empty line is no request
        pause(HEAD).await;
    });
    let Left::Resting(stream) = left else { panic!("{left:?}") };
    assert_eq!(stream.first, "\r\n");
    assert!((IDLE..IDLE * 4).contains(&took), "{took:?}");
}
