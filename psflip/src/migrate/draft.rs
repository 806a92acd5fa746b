//! The resulting `psflip.toml`: keys in the order of the documentation, each with its comments and its place
//! in the original file.

use super::source::Position;

/// The longest line of a comment or an array, in characters.
const WIDTH: usize = 100;

/// A key with its value, or a comment without a key.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// The place in the original file; `None` for a line that psflip adds.
    pub(super) from: Option<Position>,
    /// The user's comments, then psflip's.
    pub(super) comments: Vec<String>,
    /// Key and value, on one or several lines.
    pub(super) text: String,
    /// Whether the text is to be commented out.
    pub(super) left: bool,
}

/// A table and its keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Section {
    /// As written; empty for the keys of the file itself.
    pub(super) header: String,
    pub(super) comments: Vec<String>,
    pub(super) lines: Vec<Line>,
}

/// The whole file.
#[derive(Clone, Debug, Default)]
pub(super) struct Draft {
    pub(super) comments: Vec<String>,
    pub(super) sections: Vec<Section>,
    /// The comments at the end.
    pub(super) tail: Vec<String>,
}

impl Draft {
    /// The table with this header, created if necessary.
    pub(super) fn section(&mut self, header: &str) -> &mut Section {
        let index = self.sections.iter().position(|section| section.header == header).unwrap_or_else(|| {
            self.sections.push(Section { header: header.to_owned(), ..Section::default() });
            self.sections.len() - 1
        });
        &mut self.sections[index]
    }

    /// The text, and for each of its lines the index of its section and its key.
    pub(super) fn render(&self) -> (String, Vec<Option<(usize, usize)>>) {
        let mut page = Page::default();
        self.comments.iter().for_each(|comment| page.comment(comment));
        let mut order: Vec<usize> = (0..self.sections.len()).collect();
        order.sort_by_key(|index| rank(&self.sections[*index].header));
        for index in order {
            let section = &self.sections[index];
            if !page.text.is_empty() {
                page.line("", None);
            }
            section.comments.iter().for_each(|comment| page.comment(comment));
            if !section.header.is_empty() {
                page.line(&section.header, None);
            }
            for (number, line) in section.lines.iter().enumerate() {
                line.comments.iter().for_each(|comment| page.comment(comment));
                for text in line.text.lines() {
                    match line.left {
                        true => page.line(format!("# {text}").trim_end(), None),
                        false => page.line(text, Some((index, number))),
                    }
                }
            }
        }
        if !self.tail.is_empty() {
            page.line("", None);
        }
        self.tail.iter().for_each(|comment| page.comment(comment));
        (page.text, page.owners)
    }
}

/// The position of a table.
fn rank(header: &str) -> usize {
    let order = ["", "[locals]", "[env]", "[upgrade]", "[shutdown]", "[healthcheck"];
    let same = |known: &&str| {
        header == *known || !known.ends_with(']') && !known.is_empty() && header.starts_with(known)
    };
    order.iter().position(same).unwrap_or(order.len())
}

#[derive(Default)]
struct Page {
    text: String,
    owners: Vec<Option<(usize, usize)>>,
}

impl Page {
    fn line(&mut self, text: &str, owner: Option<(usize, usize)>) {
        self.text.push_str(text);
        self.text.push('\n');
        self.owners.push(owner);
    }

    /// A comment, broken into lines.
    fn comment(&mut self, comment: &str) {
        let clean: String = comment.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut line = String::from("#");
        for word in clean.split(' ') {
            if line.chars().count() + 1 + word.chars().count() > WIDTH && line != "#" {
                self.line(&line, None);
                line = String::from("#");
            }
            line.push(' ');
            line.push_str(word);
        }
        self.line(line.trim_end(), None);
    }
}

/// A TOML string with the value `text`, in the most readable form.
pub(super) fn string(text: &str) -> String {
    let printable = |allowed: &[char]| text.chars().all(|c| !c.is_control() || allowed.contains(&c));
    if text.contains('\n') && printable(&['\n', '\t']) && !text.contains("'''") && !text.ends_with('\'') {
        return format!("'''\n{text}'''");
    }
    if text.contains(['"', '\\']) && !text.contains('\'') && printable(&['\t']) {
        return format!("'{text}'");
    }
    basic(text)
}

/// A TOML basic string.
fn basic(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A key.
pub(super) fn key(name: &str) -> String {
    let bare = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    if !name.is_empty() && name.bytes().all(bare) {
        return name.to_owned();
    }
    basic(name) // a key can't span several lines
}

/// An array of strings, one per line if they are long.
pub(super) fn array(key: &str, items: &[String]) -> String {
    let items: Vec<String> = items.iter().map(|item| string(item)).collect();
    let line = format!("{key} = [{}]", items.join(", "));
    if line.chars().count() <= WIDTH && !line.contains('\n') {
        return line;
    }
    let items: Vec<String> = items.iter().map(|item| format!("    {item},\n")).collect();
    format!("{key} = [\n{}]", items.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_round_trip() {
        for text in [
            "",
            "plain",
            "a \"b\" $c",
            "it's",
            "both \"'",
            "a\nb",
            "a\n'",
            "\u{1}\r\n",
            "'''\n",
            "\\",
            "\n\n",
        ] {
            let line = format!("a = {}\n{} = 1\n", string(text), key(&format!("k{text}")));
            let table: toml::Table = line.parse().unwrap_or_else(|error| panic!("{line}: {error}"));
            assert_eq!(table["a"].as_str(), Some(text), "{line}");
            assert!(table.contains_key(&format!("k{text}")), "{line}");
        }
    }

    #[test]
    fn a_long_array_is_split_into_lines() {
        assert_eq!(array("cmd", &["a".to_owned(), "b".to_owned()]), "cmd = [\"a\", \"b\"]");
        let long = "x".repeat(60);
        assert_eq!(array("cmd", &[long.clone(), long.clone()]).lines().count(), 4);
    }

    #[test]
    fn a_comment_is_wrapped_and_stays_a_comment() {
        let mut draft = Draft::default();
        draft.comments.push("word ".repeat(50) + "\nevil = 1");
        let (text, _) = draft.render();
        assert!(text.lines().all(|line| line.starts_with('#') && line.chars().count() <= WIDTH), "{text}");
        assert_eq!(text.lines().count(), 3);
    }
}
