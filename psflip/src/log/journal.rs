//! Log lines for systemd's journal, with fields that can be searched for (`journalctl PSFLIP_GENERATION=7`).
//!
//! The protocol is one datagram for each entry, with `NAME=value` lines ("Native Journal Protocol" of
//! systemd's documentation). A socket is opened for each entry: entries are rare, an idle psflip then needs
//! no descriptor, and a restarted journal is found again.

use std::fmt::{self, Write as _};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use tracing::field::{Field, Visit};
use tracing::{Event, Level};

use super::source::Source;
use super::stderr;
use crate::secrets;
use crate::sys::seam::{self, Call};

/// The journal's socket.
const SOCKET: &str = "/run/systemd/journal/socket";

/// Whether the journal did not accept the last entry in time.
static JOURNAL_HANGS: AtomicBool = AtomicBool::new(false);

/// Sends an entry to the journal.
pub(super) fn write(entry: &[u8]) -> io::Result<()> {
    send(Path::new(SOCKET), entry)
}

/// The datagram for an event.
pub(super) fn entry(event: &Event<'_>, source: &Source) -> Vec<u8> {
    let mut entry = Entry::default();
    event.record(&mut entry);
    entry.datagram(*event.metadata().level(), source)
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
    fn datagram(&self, level: Level, source: &Source) -> Vec<u8> {
        let Self { message, fields, rest } = self;
        let (generation, pid) = (source.generation.unwrap_or_default(), source.pid.to_string());
        let mut out = Vec::with_capacity(512);
        // Both generations of an upgrade write to the log, so each message names its generation.
        put(&mut out, "MESSAGE", &format!("generation {generation}: {message}{rest}"));
        put(&mut out, "PRIORITY", priority(level));
        put(&mut out, "SYSLOG_IDENTIFIER", source.name);
        put(&mut out, "SYSLOG_PID", &pid);
        put(&mut out, "PSFLIP_GENERATION", &generation.to_string());
        put(&mut out, "PSFLIP_PID", &pid);
        put(&mut out, "PSFLIP_EVENT", message);
        for (name, value) in fields {
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
    use crate::log::subscriber::{Encoder, report_everything, written};
    use crate::text;

    #[test]
    fn an_entry_has_a_text_and_fields_for_every_kind_of_value() {
        let text = text::escaped_but(&written(Encoder::Journald, report_everything), &['\n']);
        insta::assert_snapshot!(text, @r#"
        MESSAGE=generation 7: upgrade failed text="a \"b\"\n\u{1b}[31m\u{202e}" list=["a", "b"] address=127.0.0.1 child=8 change=-3 is_root=true share=0.25
        PRIORITY=4
        SYSLOG_IDENTIFIER=psflip
        SYSLOG_PID=99
        PSFLIP_GENERATION=7
        PSFLIP_PID=99
        PSFLIP_EVENT=upgrade failed
        PSFLIP_TEXT
        \u{e}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}\u{0}a "b"
        \u{1b}[31m\u{202e}
        PSFLIP_LIST=["a", "b"]
        PSFLIP_ADDRESS=127.0.0.1
        PSFLIP_CHILD=8
        PSFLIP_CHANGE=-3
        PSFLIP_IS_ROOT=true
        PSFLIP_SHARE=0.25
        "#);
    }

    #[test]
    fn a_line_break_does_not_terminate_a_field() {
        let text = written(Encoder::Journald, || tracing::info!(reason = "one\nPRIORITY=0", "m"));
        assert!(text.contains("PSFLIP_REASON\n\u{e}\0\0\0\0\0\0\0one\nPRIORITY=0\n"), "{text:?}");
        assert_eq!(text.matches("\nPRIORITY=6\n").count(), 1);
    }

    #[test]
    fn a_journal_that_hangs_or_is_gone_blocks_nothing() {
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
