//! What a relay has carried, for operators.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::message::Counts;
use crate::pause::pause;
use crate::relay::Proxied;

/// The shortest time between two writes to the memory file.
const PAUSE: Duration = Duration::from_millis(100);

/// The counters of one proxy.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connections: Cell<u64>,
    pub(crate) open: Cell<u64>,
    pub(crate) requests: Cell<u64>,
    pub(crate) under_way: Cell<u64>,
    pub(crate) errors: Cell<u64>,
    pub(crate) passed_on: Cell<u64>,
}

/// Increases a counter as long as it lives.
#[derive(Debug)]
pub(crate) struct Counted {
    proxied: Rc<Proxied>,
    counter: fn(&Tally) -> &Cell<u64>,
}

impl Counted {
    pub(crate) fn new(proxied: &Rc<Proxied>, counter: fn(&Tally) -> &Cell<u64>) -> Self {
        add(counter(&proxied.tally), 1);
        proxied.changed.notify_one();
        Self { proxied: Rc::clone(proxied), counter }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let counter = (self.counter)(&self.proxied.tally);
        counter.set(counter.get().saturating_sub(1));
        self.proxied.changed.notify_one();
        self.proxied.closed.notify_waiters();
    }
}

/// Adds to a counter.
pub(crate) fn add(counter: &Cell<u64>, number: u64) {
    counter.set(counter.get().saturating_add(number));
}

/// Writes the counts of all proxies into the memory file whenever they have changed, at most ten times a second.
/// An idle relay does not wake up.
pub(crate) async fn keep(file: File, all: Rc<[Rc<Proxied>]>, changed: Rc<Notify>) {
    loop {
        if let Err(error) = write(&file, &all) {
            tracing::warn!(%error, "can't write the proxy's counts");
            return;
        }
        changed.notified().await;
        pause(PAUSE).await;
    }
}

/// One write(2) of the length, in eight digits, and as many bytes of JSON. Readers and writers of a memory file
/// exclude each other within one call each.
fn write(file: &File, all: &[Rc<Proxied>]) -> io::Result<()> {
    let counts: Vec<Counts> = all.iter().map(|proxied| proxied.counts()).collect();
    let text = serde_json::to_string(&counts)?;
    file.write_all_at(format!("{:08}{text}", text.len()).as_bytes(), 0)
}
