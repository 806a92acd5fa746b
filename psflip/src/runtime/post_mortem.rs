//! What `psflip status` shows of a service that went down, besides the reason: where the child's standard
//! error led, and its last lines if that is a file. An inherited pipe or socket has another reader, so its
//! lines are not known here.

use std::path::Path;

use super::operators::upgrade_log::{Mark, OWN};
use crate::config::Target;
use crate::log::leads_to_the_journal;
use crate::manager::systemd::{unit_of, user_option};
use crate::secrets;
use crate::text;

/// How many of the last bytes are read.
const READ: u64 = 16 * 1024;
/// How many lines are kept.
const LINES: usize = 20;
/// The longest text that is kept, in characters: the file with the last exit is small.
const LONGEST: usize = 2000;

/// The child's standard error, since the child was started.
#[derive(Debug)]
pub(super) struct ChildStderr {
    target: Target,
    /// The file, when the child was started.
    file: Option<Mark>,
}

impl ChildStderr {
    /// That of a child that is about to start.
    pub(super) fn new(target: &Target) -> Self {
        let file = match target {
            Target::Inherit => Mark::now(Path::new(OWN)),
            Target::Append(path) => Mark::now(path),
            Target::Null | Target::Pipe(_) => None,
        };
        Self { target: target.clone(), file }
    }

    /// Where it leads, for people.
    pub(super) fn place(&self) -> String {
        let own = std::fs::read_link(OWN).unwrap_or_default();
        let cgroup = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let unit = unit_of(&cgroup).map(|unit| format!("{}-u {unit}", user_option(&cgroup)));
        let place = place(&self.target, &own, leads_to_the_journal(), unit.as_deref());
        secrets::hide(&place).into_owned()
    }

    /// The last lines that processes other than psflip have written since then; `None`: not known, or there
    /// are none.
    pub(super) fn last_lines(self) -> Option<String> {
        let written = self.file?.written_since(READ)?;
        let lines: Vec<&str> = written.lines().filter(|line| !text::is_of_psflips_log(line)).collect();
        let mut lines = &lines[lines.len().saturating_sub(LINES)..];
        let length = |lines: &[&str]| lines.iter().map(|line| line.chars().count() + 1).sum::<usize>();
        while lines.len() > 1 && length(lines) > LONGEST {
            lines = &lines[1..];
        }
        let last: String = lines.join("\n").chars().take(LONGEST).collect();
        (!last.trim().is_empty()).then_some(last)
    }
}

/// `own`: what psflip's own standard error is, as /proc shows it; `unit`: journalctl's option for its unit.
fn place(target: &Target, own: &Path, is_journal: bool, unit: Option<&str>) -> String {
    match (target, unit) {
        (Target::Null, _) => "nowhere (`output.stderr = \"null\"`)".to_owned(),
        (Target::Append(path), _) => text::lossy(std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        (Target::Pipe(line), _) => format!("the logger `{line}`"),
        (Target::Inherit, Some(unit)) if is_journal => format!("the journal: journalctl {unit} -n 50"),
        (Target::Inherit, None) if is_journal => "the journal".to_owned(),
        (Target::Inherit, _) => match text::lossy(own) {
            null if null == "/dev/null" => "nowhere (/dev/null)".to_owned(),
            terminal if terminal.starts_with("/dev/") => format!("the terminal {terminal}"),
            file if file.starts_with('/') => file,
            pipe if pipe.starts_with("pipe:") => "a pipe that another process reads".to_owned(),
            socket if socket.starts_with("socket:") => "a socket that another process reads".to_owned(),
            _ => "a place that psflip does not know".to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn the_place_says_where_to_look() {
        // Contract: L1
        let own = |link: &str| place(&Target::Inherit, Path::new(link), false, Some("-u a.service"));
        assert_eq!(own("/var/log/app.log"), "/var/log/app.log");
        assert_eq!(own("/dev/pts/3"), "the terminal /dev/pts/3");
        assert_eq!(own("/dev/null"), "nowhere (/dev/null)");
        assert_eq!(own("pipe:[12]"), "a pipe that another process reads");
        assert_eq!(own("socket:[12]"), "a socket that another process reads");
        assert_eq!(own(""), "a place that psflip does not know");
        let journal = |unit| place(&Target::Inherit, Path::new("socket:[12]"), true, unit);
        assert_eq!(journal(Some("-u a.service")), "the journal: journalctl -u a.service -n 50");
        assert_eq!(journal(None), "the journal");
        assert_eq!(
            place(&Target::Pipe("svlogd .".to_owned()), Path::new(""), true, None),
            "the logger `svlogd .`"
        );
    }

    #[test]
    fn only_lines_of_this_child_are_quoted() {
        // Contract: L1
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("app.log");
        let target = Target::Append(file.clone());
        let new = ChildStderr::new(&target);
        fs::write(&file, "first\n").unwrap();
        assert_eq!(new.last_lines().as_deref(), Some("first"), "the file was made for this child");
        let next = ChildStderr::new(&target);
        let own = "2026-01-01T00:00:00Z ERROR psflip{generation=1 pid=7}: the service is down\n";
        let lines: String = (1..=30).map(|line| format!("line {line}\n")).collect();
        fs::write(&file, format!("first\n{lines}{own}")).unwrap();
        let last = next.last_lines().unwrap();
        assert!(last.starts_with("line 11\n") && last.ends_with("\nline 30"), "{last}");
        assert_eq!(ChildStderr::new(&target).last_lines(), None, "nothing was written since");
        let rotated = ChildStderr::new(&target);
        fs::write(&file, "x\n").unwrap();
        assert_eq!(rotated.last_lines().as_deref(), Some("x"), "it was emptied by a rotation");
    }
}
