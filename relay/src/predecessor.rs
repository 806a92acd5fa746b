//! The relay of the previous generation, which passes its clients' idle connections on to this one.

use std::rc::Rc;

use std::time::Duration;

use bytes::Bytes;
use tokio::task::spawn_local;

use crate::addresses::Addresses;
use crate::link::Link;
use crate::pause::pause;
use crate::proxied::{Counted, Proxied};
use crate::serve::serve;
use crate::socket::{Socket, Stream};
use crate::successor::Head;

/// How long receiving pauses after an error.
const PAUSE: Duration = Duration::from_millis(100);

/// Serves the connections that the predecessor's relay passes on, until it closes the link.
pub(crate) fn receive(link: Link, all: Rc<[Rc<Proxied>]>) -> impl Future<Output = ()> {
    // From this call on, not from the future's first turn: nothing is drained while connections may still
    // come.
    let receiving = all.first().map(|proxied| Counted::new(proxied, |tally| &tally.predecessors));
    async move {
        let _receiving = receiving;
        receive_all(&link, &all).await;
    }
}

/// Waits until this relay has left for good and has nothing more to do itself. An older relay may still have
/// clients for an hour (`upgrade.draining`); it keeps them, so that this generation need not wait for it.
async fn is_done(all: &[Rc<Proxied>]) {
    let Some(first) = all.first() else { return std::future::pending().await };
    let mut control = first.control.clone();
    if control.wait_for(|control| control.leaves && !control.may_return).await.is_err() {
        return std::future::pending().await;
    }
    for proxied in all {
        loop {
            let closed = proxied.closed.notified();
            if proxied.tally.open.get() == 0 && proxied.tally.idle.get() == 0 {
                break;
            }
            closed.await;
        }
    }
}

async fn receive_all(link: &Link, all: &[Rc<Proxied>]) {
    let mut is_refused = false;
    loop {
        let received = tokio::select! {
            received = link.receive() => received,
            () = is_done(all), if !is_refused => {
                link.refuse_more();
                is_refused = true;
                continue;
            }
        };
        let packet = match received {
            Ok(Some(packet)) => packet,
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(%error, "can't receive clients' connections from the old relay for a moment");
                pause(PAUSE).await;
                continue;
            }
        };
        let mut parts = packet.bytes.splitn(2, |byte| *byte == b'\n');
        let head = parts.next().and_then(|head| serde_json::from_slice::<Head>(head).ok());
        let first = Bytes::copy_from_slice(parts.next().unwrap_or_default());
        let (Some(head), Some(fd)) = (head, packet.fds.into_iter().next()) else {
            tracing::warn!(packet.is_cut, "a client's connection was lost on its way from the old relay");
            continue;
        };
        // A proxy that this generation no longer has: the connection is closed between two requests.
        let Some(proxied) = all.iter().find(|proxied| proxied.proxy.listen == head.listen) else { continue };
        match Socket::adopt(fd) {
            Ok(socket) => {
                let Head { source, destination, .. } = head;
                let named = source.is_some() || destination.is_some();
                let addresses = named.then_some(Addresses { source, destination });
                spawn_local(serve(Stream { socket, first }, Some(addresses), Rc::clone(proxied)));
            }
            Err(error) => tracing::warn!(%error, "can't go on with a client's connection"),
        }
    }
}
