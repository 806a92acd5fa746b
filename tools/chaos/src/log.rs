//! Parses psflip's log: which psflip received which request, and what the result was.

use testkit::{Output, Stream};

/// The event of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogEvent {
    Requested,
    Refused,
    Started,
    NewReads,
    ChildStarted,
    Baking,
    Active,
    Superseded,
    Failed,
    RolledBack,
    ServesAgain,
    StopRequested,
    StopIgnored,
}

/// The beginnings of these lines.
const LINES: [(&str, LogEvent); 14] = [
    ("upgrade requested", LogEvent::Requested),
    ("upgrade request refused", LogEvent::Refused),
    ("upgrade started", LogEvent::Started),
    ("the new psflip starts its child", LogEvent::NewReads),
    ("child started", LogEvent::ChildStarted),
    ("the new generation has the traffic and bakes", LogEvent::Baking),
    ("healthy, active", LogEvent::Active),
    ("new generation took over", LogEvent::Superseded),
    ("upgrade failed", LogEvent::Failed),
    ("upgrade rolled back", LogEvent::RolledBack),
    ("upgrade aborted by a stop request", LogEvent::Failed),
    ("the old child serves again", LogEvent::ServesAgain),
    ("stop requested", LogEvent::StopRequested),
    ("the child did not exit on the stop request", LogEvent::StopIgnored),
];

/// A line with an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The number of the line in all output.
    pub(crate) line: usize,
    /// The psflip that wrote it.
    pub(crate) pid: u32,
    pub(crate) event: LogEvent,
    pub(crate) text: String,
}

/// The log of one service, of all its generations.
#[derive(Debug, Default)]
pub(crate) struct Log {
    read: usize,
    entries: Vec<Entry>,
    panics: Vec<String>,
    /// Lines in which psflip reports a failure of something that should always work, and their numbers.
    complaints: Vec<(usize, String)>,
}

/// Parts of such lines.
const COMPLAINTS: [&str; 10] = [
    "can't reclaim",
    "can't return",
    "can't remove",
    "can't become",
    "can't signal",
    "can't forward",
    "can't receive",
    "can't wait",
    "can't go on",
    "last words",
];

impl LogEvent {
    /// An upgrade that has not led to a promotion.
    pub(crate) fn is_failure(self) -> bool {
        matches!(self, Self::Failed | Self::RolledBack)
    }
}

impl Log {
    /// Reads the new lines.
    pub(crate) fn read(&mut self, output: &Output) {
        let complete = output.mark();
        if complete == self.read {
            return;
        }
        let lines = output.lines();
        for (line, found) in lines.iter().enumerate().take(complete).skip(self.read) {
            if found.text.contains("panicked") {
                self.panics.push(found.text.clone());
            }
            if found.text.contains("psflip") && COMPLAINTS.iter().any(|part| found.text.contains(part)) {
                self.complaints.push((line, found.text.clone()));
            }
            if found.stream == Stream::Stderr
                && let Some((pid, event)) = parse(&found.text)
            {
                self.entries.push(Entry { line, pid, event, text: found.text.clone() });
            }
        }
        self.read = complete;
    }

    /// The number of lines read so far: a mark for [`Log::since`].
    pub(crate) fn mark(&self) -> usize {
        self.read
    }

    /// The entries after a mark.
    pub(crate) fn since(&self, mark: usize) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.line >= mark)
    }

    /// How often this psflip has logged this event.
    pub(crate) fn count(&self, pid: u32, event: LogEvent) -> usize {
        self.entries.iter().filter(|entry| entry.pid == pid && entry.event == event).count()
    }

    /// The last line in which this psflip has logged this event.
    pub(crate) fn last(&self, pid: u32, event: LogEvent) -> Option<usize> {
        self.entries
            .iter()
            .rev()
            .find(|entry| entry.pid == pid && entry.event == event)
            .map(|entry| entry.line)
    }

    /// The pid of the child that this psflip has logged.
    pub(crate) fn child(&self, pid: u32) -> Option<u32> {
        let started = self
            .entries
            .iter()
            .rev()
            .find(|entry| entry.pid == pid && entry.event == LogEvent::ChildStarted)?;
        started.text.split_once(" child=")?.1.split(' ').next()?.parse().ok()
    }

    /// The first failure since a mark of something that should always work.
    pub(crate) fn complaint_since(&self, mark: usize) -> Option<&str> {
        self.complaints.iter().find(|(line, _)| *line >= mark).map(|(_, text)| text.as_str())
    }

    /// Lines with a panic.
    pub(crate) fn panics(&self) -> &[String] {
        &self.panics
    }
}

/// Parses `2026-11-23T13:11:57Z  INFO psflip{generation=1 pid=4062}: upgrade requested ...`.
fn parse(line: &str) -> Option<(u32, LogEvent)> {
    let (head, message) = line.split_once("}: ")?;
    let pid = head.rsplit_once(" pid=")?.1.parse().ok()?;
    let (_, event) = LINES.iter().find(|(start, _)| message.starts_with(start))?;
    Some((pid, *event))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_process_level_and_message() {
        let line = "2026-11-23T13:11:57.2Z  INFO psflip{generation=1 pid=4062}: new generation took over; stopping the old child child=4065";
        assert_eq!(parse(line), Some((4062, LogEvent::Superseded)));
        assert_eq!(parse("got SIGTERM from=4062"), None);
        assert_eq!(parse("psflip: the configuration is invalid; nothing was started"), None);
    }
}
