//! Log lines for systemd's journal, with fields that can be searched for (`journalctl PSFLIP_GENERATION=7`).
//!
//! The protocol is one datagram for each entry, with `NAME=value` lines ("Native Journal Protocol" of
//! systemd's documentation). A socket is opened for each entry: entries are rare, an idle psflip then needs
//! no descriptor, and a restarted journal is found again.

use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::stderr::{self, Careful};
use crate::secrets;
use crate::sys::seam::{self, Call};

/// The journal's socket.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Whether the journal did not accept the last entry in time.
static JOURNAL_HANGS: AtomicBool = AtomicBool::new(false);

/// Writes every event to the journal, or to standard error if that fails.
pub(super) struct Journal {
    generation: u64,
    pid: u32,
}

impl Journal {
    pub(super) fn new(generation: u64, pid: u32) -> Self {
        Self { generation, pid }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry::default();
        event.record(&mut entry);
        let level = *event.metadata().level();
        if send(Path::new(SOCKET), &entry.datagram(level, self.generation, self.pid)).is_err() {
            let Self { generation, pid } = self;
            let line = format!("{level:>5} psflip{{generation={generation} pid={pid}}}: {}\n", entry.text());
            // It never fails.
            let _ = Careful(io::stderr()).write_all(line.as_bytes());
        }
    }
}

/// Sends one entry. It waits a moment if the journal's queue is full, but a journal that
/// hangs must not delay psflip.
fn send(socket: &Path, datagram: &[u8]) -> io::Result<()> {
    seam::before(Call::WriteLog)?;
    let sender = UnixDatagram::unbound()?;
    sender.set_nonblocking(true)?;
    sender.connect(socket)?;
    if !stderr::has_room(&sender, &JOURNAL_HANGS) {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    sender.send(datagram).map(drop)
}

/// The content of an event.
#[derive(Debug, Default)]
struct Entry {
    message: String,
    /// Names as in the code, values as in a field.
    fields: Vec<(&'static str, String)>,
    /// ` name=value` for each of them, for people.
    rest: String,
}

impl Entry {
    fn text(&self) -> String {
        format!("{}{}", self.message, self.rest)
    }

    fn datagram(&self, level: Level, generation: u64, pid: u32) -> Vec<u8> {
        let mut out = Vec::with_capacity(512);
        // Both generations of an upgrade write to the log, so each message names its generation.
        put(&mut out, "MESSAGE", &format!("generation {generation}: {}", self.text()));
        put(&mut out, "PRIORITY", priority(level));
        put(&mut out, "SYSLOG_IDENTIFIER", "psflip");
        put(&mut out, "SYSLOG_PID", &pid.to_string());
        put(&mut out, "PSFLIP_GENERATION", &generation.to_string());
        put(&mut out, "PSFLIP_PID", &pid.to_string());
        put(&mut out, "PSFLIP_EVENT", &self.message);
        for (name, value) in &self.fields {
            put(&mut out, &format!("PSFLIP_{}", name.to_ascii_uppercase().replace('.', "_")), value);
        }
        out
    }

    fn field(&mut self, field: &Field, value: &str, shown: &str) {
        let (value, shown) = (secrets::hide(value).into_owned(), secrets::hide(shown));
        if field.name() == "message" {
            self.message = value;
        } else {
            let _ = write!(self.rest, " {}={shown}", field.name()); // writing to a String can't fail
            self.fields.push((field.name(), value));
        }
    }
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.field(field, value, &format!("{value:?}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let value = format!("{value:?}");
        self.field(field, &value, &value);
    }
}

/// The priority numbers of syslog(3).
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// One field. If the value has a line break, its length precedes it.
fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing_subscriber::layer::SubscriberExt as _;

    /// The entry that the journal would get for the events of `tell`.
    fn entry(tell: impl FnOnce()) -> String {
        struct Taken(std::sync::Arc<std::sync::Mutex<Vec<u8>>>);
        impl<S: Subscriber> Layer<S> for Taken {
            fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
                let mut entry = Entry::default();
                event.record(&mut entry);
                *self.0.lock().unwrap() = entry.datagram(*event.metadata().level(), 7, 99);
            }
        }
        let taken = std::sync::Arc::default();
        let subscriber = tracing_subscriber::registry().with(Taken(std::sync::Arc::clone(&taken)));
        tracing::subscriber::with_default(subscriber, tell);
        String::from_utf8(taken.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn an_entry_has_a_text_and_fields() {
        let end = "exit code 3";
        let text = entry(|| {
            tracing::error!(child = 8_u32, %end, reason = "it \"died\"", "upgrade failed; the old child keeps running");
        });
        insta::assert_snapshot!(text, @r#"
        MESSAGE=generation 7: upgrade failed; the old child keeps running child=8 end=exit code 3 reason="it \"died\""
        PRIORITY=3
        SYSLOG_IDENTIFIER=psflip
        SYSLOG_PID=99
        PSFLIP_GENERATION=7
        PSFLIP_PID=99
        PSFLIP_EVENT=upgrade failed; the old child keeps running
        PSFLIP_CHILD=8
        PSFLIP_END=exit code 3
        PSFLIP_REASON=it "died"
        "#);
    }

    #[test]
    fn a_line_break_ends_no_field() {
        let text = entry(|| tracing::info!(reason = "one\nPRIORITY=0", "m"));
        assert!(text.contains("PSFLIP_REASON\n\u{e}\0\0\0\0\0\0\0one\nPRIORITY=0\n"), "{text:?}");
        assert_eq!(text.matches("\nPRIORITY=6\n").count(), 1);
    }

    #[test]
    fn a_journal_that_hangs_or_is_gone_holds_nobody_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal");
        assert_eq!(send(&path, b"x").unwrap_err().kind(), io::ErrorKind::NotFound);
        let journal = UnixDatagram::bind(&path).unwrap();
        send(&path, b"MESSAGE=m\n").unwrap();
        let mut buffer = [0; 100];
        let length = journal.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..length], b"MESSAGE=m\n");
        // Nothing reads the socket. Its queue fills up (net.unix.max_dgram_qlen), and then
        // every entry is refused at once.
        let full = (0..100_000).find_map(|_| send(&path, b"x").err()).unwrap();
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
