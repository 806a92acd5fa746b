//! What psflip's log tells, line by line: which of its processes was asked for what, and what became of it.

use testkit::{Output, Stream};

/// What a line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum News {
    Requested,
    Refused,
    Started,
    NewReads,
    ChildStarted,
    Active,
    Superseded,
    Failed,
    StopRequested,
    StopIgnored,
}

/// How the lines begin.
const LINES: [(&str, News); 11] = [
    ("upgrade requested", News::Requested),
    ("upgrade request refused", News::Refused),
    ("upgrade started", News::Started),
    ("the new psflip starts its child", News::NewReads),
    ("child started", News::ChildStarted),
    ("healthy, active", News::Active),
    ("new generation took over", News::Superseded),
    ("upgrade failed", News::Failed),
    ("upgrade aborted by a stop request", News::Failed),
    ("stop requested", News::StopRequested),
    ("the child did not exit on the stop request", News::StopIgnored),
];

/// One line that matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Which line of all output.
    pub(super) line: usize,
    /// Of which psflip.
    pub(super) pid: u32,
    pub(super) news: News,
    pub(super) text: String,
}

/// The log of one service, all its generations.
#[derive(Debug, Default)]
pub(super) struct Log {
    read: usize,
    entries: Vec<Entry>,
    panics: Vec<String>,
    /// Lines by which psflip says that it can't do what it always should be able to, and where they stand.
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

impl Log {
    /// Reads what is new.
    pub(super) fn read(&mut self, output: &Output) {
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
                && let Some((pid, news)) = parse(&found.text)
            {
                self.entries.push(Entry { line, pid, news, text: found.text.clone() });
            }
        }
        self.read = complete;
    }

    /// How many lines were read: a mark for [`Log::since`].
    pub(super) fn mark(&self) -> usize {
        self.read
    }

    /// What came after a mark.
    pub(super) fn since(&self, mark: usize) -> impl Iterator<Item = &Entry> {
        self.entries.iter().filter(move |entry| entry.line >= mark)
    }

    /// How often this psflip said this.
    pub(super) fn count(&self, pid: u32, news: News) -> usize {
        self.entries.iter().filter(|entry| entry.pid == pid && entry.news == news).count()
    }

    /// The last line in which this psflip said this.
    pub(super) fn last(&self, pid: u32, news: News) -> Option<usize> {
        self.entries.iter().rev().find(|entry| entry.pid == pid && entry.news == news).map(|entry| entry.line)
    }

    /// The child that this psflip said it has started.
    pub(super) fn child(&self, pid: u32) -> Option<u32> {
        let started =
            self.entries.iter().rev().find(|entry| entry.pid == pid && entry.news == News::ChildStarted)?;
        started.text.split_once(" child=")?.1.split(' ').next()?.parse().ok()
    }

    /// What psflip could not do since a mark, though it should.
    pub(super) fn complaint_since(&self, mark: usize) -> Option<&str> {
        self.complaints.iter().find(|(line, _)| *line >= mark).map(|(_, text)| text.as_str())
    }

    /// Lines that tell of a panic.
    pub(super) fn panics(&self) -> &[String] {
        &self.panics
    }
}

/// `2026-11-23T13:11:57Z  INFO psflip{generation=1 pid=4062}: upgrade requested ...`
fn parse(line: &str) -> Option<(u32, News)> {
    let (head, message) = line.split_once("}: ")?;
    let pid = head.rsplit_once(" pid=")?.1.parse().ok()?;
    let (_, news) = LINES.iter().find(|(start, _)| message.starts_with(start))?;
    Some((pid, *news))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_tells_who_says_what() {
        let line = "2026-11-23T13:11:57.2Z  INFO psflip{generation=1 pid=4062}: new generation took over; stopping the old child child=4065";
        assert_eq!(parse(line), Some((4062, News::Superseded)));
        assert_eq!(parse("got SIGTERM from=4062"), None);
        assert_eq!(parse("psflip: the configuration is invalid; nothing was started"), None);
    }
}
