//! Signals that a service manager or a terminal sends to every process of a unit or a group. psflip starts
//! the relay with all signals blocked, and nothing in the relay may unblock them.

use std::os::unix::thread::JoinHandleExt as _;

use nix::sys::pthread::pthread_kill;
use nix::sys::signal::{SigSet, Signal};
use relay::message::Protocol;

use crate::http::{answer, careless, get};
use crate::support::{Client, Relay, listener, proxy};

/// All that can be blocked, except those that an instruction of the process itself causes.
const SIGNALS: [Signal; 17] = [
    Signal::SIGTERM,
    Signal::SIGINT,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGCONT,
    Signal::SIGWINCH,
    Signal::SIGCHLD,
    Signal::SIGALRM,
    Signal::SIGPIPE,
    Signal::SIGABRT,
    Signal::SIGIO,
    Signal::SIGPWR,
];

#[test]
fn blocked_signals_neither_stop_the_relay_nor_reach_it() {
    // Contract: T1
    let (socket, address) = listener();
    let (child, ..) = careless("a");
    let before = SigSet::thread_get_mask().unwrap();
    SigSet::all().thread_block().unwrap(); // the relay's thread inherits it
    let a = Relay::start(&socket, proxy(Protocol::Http, child));
    before.thread_set_mask().unwrap();
    a.accept();
    let thread = a.thread().as_pthread_t();
    for signal in SIGNALS {
        pthread_kill(thread, signal).unwrap();
        let mut client = Client::connect(address);
        client.send(get("/1"));
        answer(&mut client);
    }
    assert_eq!(a.wait_counts("all", |counts| counts.requests == SIGNALS.len() as u64).errors, 0);
}
