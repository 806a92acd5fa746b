//! Upstream's health checks, and its proxies.

use super::draft::string;
use super::source::{Entry, Node, Position, Value};
use super::translate::{Work, raw, shown};

const KINDS: &[&str] = &["alive", "command", "docker"];
const COMMAND: &str = "[healthcheck.command]";
const DOCKER: &str = "[healthcheck.docker]";

/// Explains a line `timeout` that upstream's file doesn't have.
const NO_LIMIT: &str = "Upstream had no limit for one probe but that of the upgrade; psflip's default is 5s.";
/// Explains the other difference of checks that probe repeatedly.
const FIRST_PROBE: &str =
    "Upstream's first probe came one interval later; psflip's comes at once, or after `after`.";

impl Work<'_> {
    pub(super) fn healthcheck(&mut self, entry: &Entry) {
        for inner in self.entries("[healthcheck]", entry).unwrap_or_default() {
            let kind = inner.key.to_lowercase();
            if !KINDS.contains(&kind.as_str()) {
                self.unknown("[healthcheck]", inner, KINDS);
                continue;
            }
            let table = format!("[healthcheck.{kind}]");
            if matches!(inner.node.value, Value::Null) {
                self.put("[healthcheck]", &kind, inner.at, &inner.node, |work| {
                    work.note(inner.at, &format!("`{kind}` is empty, so upstream takes it for not set"));
                    Err(shown(inner))
                });
                continue;
            }
            let Some(entries) = self.entries(&table, inner) else { continue };
            match kind.as_str() {
                "alive" => self.alive(&table, entries),
                "command" => self.command(&table, entries),
                _ => self.docker(&table, entries),
            }
        }
        self.tidy();
    }

    /// Moves the comments of `healthcheck` to the table of its kind, if it has nothing else.
    fn tidy(&mut self) {
        let index = |work: &Self, header: &str| {
            work.draft.sections.iter().position(|section| section.header == header)
        };
        let Some(own) = index(self, "[healthcheck]") else { return };
        let kinds = KINDS.iter().find_map(|kind| index(self, &format!("[healthcheck.{kind}]")));
        if !self.draft.sections[own].lines.is_empty() && kinds.is_none() {
            return;
        }
        let section = self.draft.sections.remove(own);
        let Some(to) = KINDS.iter().find_map(|kind| index(self, &format!("[healthcheck.{kind}]"))) else {
            return self.draft.tail.extend(section.comments);
        };
        let to = &mut self.draft.sections[to];
        to.comments.splice(0..0, section.comments);
        to.lines.extend(section.lines);
    }

    fn alive(&mut self, table: &str, entries: &[Entry]) {
        for Entry { key, at, node, .. } in entries {
            match key.to_lowercase().as_str() {
                "timeout" => self.timing(table, "timeout", *at, node, "5s"),
                _ => self.ignored(table, entries, key, &["timeout"]),
            }
        }
    }

    fn command(&mut self, table: &str, entries: &[Entry]) {
        for Entry { key, at, node, .. } in entries {
            match key.to_lowercase().as_str() {
                "cmd" => self.put(table, "cmd", *at, node, |work| work.argv("cmd", node)),
                "after" => self.timing(table, "after", *at, node, "0s"),
                "interval" => self.timing(table, "interval", *at, node, "1s"),
                _ => self.ignored(table, entries, key, &["cmd", "after", "interval"]),
            }
        }
    }

    fn docker(&mut self, table: &str, entries: &[Entry]) {
        for Entry { key, at, node, .. } in entries {
            match key.to_lowercase().as_str() {
                "container" => self.put(table, "container", *at, node, |work| match work.text(node) {
                    Some(text) => Ok(format!("container = {}", string(&text))),
                    None => Err(format!("container = {}", raw(node))),
                }),
                "socket" => self.put(table, "socket", *at, node, |work| work.socket(node)),
                "interval" => self.timing(table, "interval", *at, node, "1s"),
                _ => self.ignored(table, entries, key, &["container", "socket", "interval"]),
            }
        }
    }

    fn timing(&mut self, table: &str, key: &str, at: Position, node: &Node, default: &str) {
        self.put(table, key, at, node, |work| work.duration(key, node, default));
    }

    fn ignored(&mut self, table: &str, entries: &[Entry], key: &str, known: &[&str]) {
        if let Some(entry) = entries.iter().find(|entry| entry.key == key) {
            self.unknown(table, entry, known);
        }
    }

    fn socket(&mut self, node: &Node) -> Result<String, String> {
        let Some(text) = self.text(node) else { return Err(format!("socket = {}", raw(node))) };
        let scheme = text.split_once("://").map(|(scheme, _)| scheme).filter(|scheme| !scheme.contains("{{"));
        if scheme.is_some_and(|scheme| scheme != "unix") {
            self.left(
                node.at,
                "psflip connects to container engines over Unix sockets only, so its default is taken",
            );
            return Err(format!("socket = {}", string(&text)));
        }
        let path = text.strip_prefix("unix://").unwrap_or(&text);
        if !path.starts_with(['/', '@', '{']) {
            self.note(
                node.at,
                "the path is relative to `workdir`; upstream's was relative to its own directory",
            );
        }
        Ok(format!("socket = {}", string(&text)))
    }

    /// Adds what depends on the rest of the file.
    pub(super) fn finish_health(&mut self) {
        let timeout = self.upgrade_timeout();
        let moved =
            self.has("", "workdir") || self.draft.sections.iter().any(|section| section.header == "[env]");
        for table in [COMMAND, DOCKER] {
            if !self.draft.sections.iter().any(|section| section.header == table) {
                continue;
            }
            let section = self.draft.section(table);
            section.comments.push(FIRST_PROBE.to_owned());
            if table == COMMAND && moved {
                let comment = "Upstream ran it in its own environment and directory; psflip runs it in the child's, as `[env]` and `workdir` say.";
                section.comments.push(comment.to_owned());
            }
            self.add(table, NO_LIMIT, format!("timeout = {timeout}"));
        }
    }

    /// `upgrade.timeout`, in TOML.
    fn upgrade_timeout(&self) -> String {
        let lines = self.draft.sections.iter().filter(|section| section.header == "[upgrade]");
        let said = lines
            .flat_map(|section| &section.lines)
            .filter(|line| !line.left)
            .find_map(|line| line.text.strip_prefix("timeout = "));
        said.unwrap_or("\"1m\"").to_owned()
    }
}
