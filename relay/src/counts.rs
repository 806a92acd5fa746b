//! What a relay has carried, for operators.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;

use crate::message::Counts;
use crate::pause::pause;
use crate::proxied::Proxied;

/// The shortest time between two writes to the memory file.
const PAUSE: Duration = Duration::from_millis(100);

/// Writes the counts of all proxies into the memory file whenever they have changed, at most ten times a
/// second. An idle relay does not wake up.
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

/// One write(2) of the length, in eight digits, and as many bytes of JSON. Readers and writers of a memory
/// file exclude each other within one call each.
fn write(file: &File, all: &[Rc<Proxied>]) -> io::Result<()> {
    let counts: Vec<Counts> = all.iter().map(|proxied| proxied.counts()).collect();
    let text = serde_json::to_string(&counts)?;
    file.write_all_at(format!("{:08}{text}", text.len()).as_bytes(), 0)
}
