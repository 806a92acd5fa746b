//! Translates upstream's `proxy`: each becomes a `[[proxy]]`.

use super::draft::{Line, Section, string};
use super::source::{Entry, Node, Value};
use super::translate::{Work, raw, shown};

/// The header of a proxy. If psflip refuses one of its lines, all of them become a comment: a proxy that
/// lacks an address is none.
pub(super) const HEADER: &str = "[[proxy]]";

const BYTES: &str = "Upstream forwards bytes, as the default `protocol = \"tcp\"` does. With \"http\" or \"fastcgi\", \
                     keep-alive connections outlive an upgrade.";

impl Work<'_> {
    /// Each proxy of the list.
    pub(super) fn proxy(&mut self, entry: &Entry) {
        let items = match &entry.node.value {
            Value::List(items) => items.as_slice(),
            Value::Map(_) => std::slice::from_ref(&entry.node),
            _ => {
                return self.put("", &entry.key, entry.at, &entry.node, |work| {
                    work.left(entry.at, "upstream refuses it: `proxy` is a list of proxies");
                    Err(shown(entry))
                });
            }
        };
        for item in items {
            let mut comments = self.comments(entry.at.line);
            let Value::Map(entries) = &item.value else {
                let mark = self.remarks.len();
                self.left(item.at, "upstream refuses it: a proxy has keys of its own");
                comments.extend(self.remarks[mark..].iter().map(super::Remark::comment));
                self.section_left(format!("# {HEADER}"), comments, vec![(item.at, raw(item))]);
                continue;
            };
            let mut lines = Vec::new();
            for entry in entries {
                let mark = self.remarks.len();
                let found = self.comments(entry.node.end.max(entry.at.line));
                let mut made = self.proxy_key(entries, entry);
                let notes = self.remarks[mark..].iter().map(super::Remark::comment);
                let notes: Vec<String> = found.into_iter().chain(notes).collect();
                match made.first_mut() {
                    Some(first) => first.comments = notes,
                    None => comments.extend(notes),
                }
                lines.extend(made);
            }
            comments.extend(self.comments(item.end));
            let has_both = ["listen", "forward"].iter().all(|key| {
                let start = format!("{key} = ");
                lines.iter().any(|line| !line.left && line.text.starts_with(&start))
            });
            let header = if has_both {
                comments.push(BYTES.to_owned());
                HEADER.to_owned()
            } else {
                lines.iter_mut().for_each(|line| line.left = true);
                format!("# {HEADER}")
            };
            self.draft.sections.push(Section { header, comments, lines });
        }
    }

    /// The lines of one key; the first is the key itself.
    fn proxy_key(&mut self, entries: &[Entry], entry: &Entry) -> Vec<Line> {
        let line = |text: String, left: bool| Line { from: Some(entry.at), comments: Vec::new(), text, left };
        let name = entry.key.to_lowercase();
        let (ours, network) = match name.as_str() {
            "listen" | "forward" => (name.as_str(), String::new()),
            "listen_address" => ("listen", network(entries, "listen_network")),
            "forward_address" => ("forward", network(entries, "forward_network")),
            "listen_network" | "forward_network" => return Vec::new(),
            _ => {
                self.left(
                    entry.at,
                    &format!("upstream has no key `{}` in a proxy, and ignores it", entry.key),
                );
                return vec![line(shown(entry), true)];
            }
        };
        let Some(text) = self.text(&entry.node) else { return vec![line(shown(entry), true)] };
        let listens = ours == "listen";
        let scheme = if listens { "tcp://" } else { "" };
        let (address, is_any) = match text.strip_prefix(':') {
            _ if network.starts_with("unix") => (format!("unix://{text}"), false),
            // Go listens on all addresses of both families, and connects to this host.
            Some(port) if listens => (format!("tcp://[::]:{port}"), true),
            Some(port) => (format!("127.0.0.1:{port}"), false),
            None if text.contains("://") || text.starts_with("{{") => (text, false),
            None => match text.strip_prefix("localhost:") {
                Some(port) => {
                    self.note(entry.at, "psflip takes no names here; `localhost` is taken for 127.0.0.1");
                    (format!("{scheme}127.0.0.1:{port}"), false)
                }
                None => (format!("{scheme}{text}"), false),
            },
        };
        let mut lines = vec![line(format!("{ours} = {}", string(&address)), false)];
        if is_any {
            lines.push(line("v6only = false".to_owned(), false));
        }
        lines
    }
}

/// The network of an address, as Go's package net calls it.
fn network(entries: &[Entry], name: &str) -> String {
    let found = entries.iter().find(|entry| entry.key.eq_ignore_ascii_case(name));
    match found.map(|Entry { node: Node { value, .. }, .. }| value) {
        Some(Value::Text(text)) => text.to_lowercase(),
        _ => String::new(),
    }
}
