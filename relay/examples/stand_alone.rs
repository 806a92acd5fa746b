//! A relay without psflip, for measurements: `stand_alone tcp|http|fastcgi LISTEN FORWARD`, for example
//! `stand_alone http 127.0.0.1:8080 127.0.0.1:9000`. FORWARD may be the path of a Unix socket. It runs until
//! it is killed.

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::AsFd as _;

use relay::Link;
use relay::message::{Forward, Forwarded, Order, Protocol, Proxy};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: stand_alone tcp|http|fastcgi LISTEN FORWARD";
    let (protocol, listen, forward) =
        (arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?, arguments.next().ok_or(usage)?);
    let protocol = match &*protocol {
        "tcp" => Protocol::Tcp,
        "http" => Protocol::Http,
        "fastcgi" => Protocol::Fastcgi,
        _ => return Err(usage.into()),
    };
    let forward = match forward.parse() {
        Ok(address) => Forward::Tcp(address),
        Err(_) => Forward::Unix(forward.into()),
    };
    let listener = TcpListener::bind(&listen)?;
    let counts = tempfile::tempfile()?;
    let (ours, theirs) = Link::pair()?;
    let proxy = Proxy {
        listen,
        sockets: 1,
        forward,
        protocol,
        send_proxy_protocol: None,
        accept_proxy_protocol: false,
        forwarded: Forwarded::Append,
    };
    for order in [Order::Start { proxies: vec![proxy] }, Order::Accept] {
        let fds = [listener.as_fd(), counts.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if matches!(order, Order::Start { .. }) && !control.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err("no room for two descriptors".into());
        }
        sendmsg(&ours, &[IoSlice::new(&serde_json::to_vec(&order)?)], &mut control, SendFlags::empty())?;
    }
    relay::run(theirs)?;
    Ok(())
}
