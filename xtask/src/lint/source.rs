//! A Rust file as the rules see it: without comments, or without comments and strings.

use crate::repo::File;

/// Three views of one file, with the same lines.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: String,
    /// The original text.
    pub(super) text: String,
    /// Comments are blanked.
    pub(super) no_comments: String,
    /// Comments and the contents of string and character literals are blanked.
    pub(super) code: String,
}

#[derive(Clone, Copy)]
enum Kind {
    Code,
    Comment,
    Literal,
}

impl Source {
    pub(super) fn new(file: &File) -> Self {
        let (mut no_comments, mut code) = (String::new(), String::new());
        for (kind, char) in classify(&file.text) {
            let blank = if char == '\n' { '\n' } else { ' ' };
            no_comments.push(if matches!(kind, Kind::Comment) { blank } else { char });
            code.push(if matches!(kind, Kind::Code) { char } else { blank });
        }
        Self { path: file.path.clone(), text: file.text.clone(), no_comments, code }
    }
}

/// Whether `line` contains `word` as a whole word; a `(` at its end is part of it.
pub(super) fn has_word(line: &str, word: &str) -> bool {
    let is_part = |char: char| char.is_alphanumeric() || char == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(is_part) && (word.ends_with('(') || !after.is_some_and(is_part))
    })
}

/// Classifies every character. Quotes and comment marks belong to what they enclose.
fn classify(text: &str) -> Vec<(Kind, char)> {
    let chars: Vec<char> = text.chars().collect();
    let mut out = Vec::with_capacity(chars.len());
    let mut at = 0;
    while at < chars.len() {
        let (kind, length) = token(&chars[at..], at.checked_sub(1).map(|before| chars[before]));
        out.extend(chars[at..at + length].iter().map(|char| (kind, *char)));
        at += length;
    }
    out
}

/// The kind of the token that begins here, and its number of characters.
fn token(rest: &[char], before: Option<char>) -> (Kind, usize) {
    let in_word = before.is_some_and(|before| before.is_alphanumeric() || before == '_');
    match rest {
        ['/', '/', ..] => (Kind::Comment, rest.iter().position(|char| *char == '\n').unwrap_or(rest.len())),
        ['/', '*', ..] => (Kind::Comment, block_comment(rest)),
        ['"', ..] => (Kind::Literal, quoted(rest)),
        ['r', '"' | '#', ..] if !in_word || before == Some('b') => match raw_string(rest) {
            Some(length) => (Kind::Literal, length),
            None => (Kind::Code, 1),
        },
        // A character literal; any other quote begins a lifetime.
        ['\'', '\\', ..] => (
            Kind::Literal,
            rest.iter().skip(3).position(|char| *char == '\'').map_or(rest.len(), |end| end + 4),
        ),
        ['\'', _, '\'', ..] => (Kind::Literal, 3),
        _ => (Kind::Code, 1),
    }
}

fn block_comment(rest: &[char]) -> usize {
    let mut depth = 0;
    let mut at = 0;
    while at < rest.len() {
        match rest[at..] {
            ['/', '*', ..] => (depth, at) = (depth + 1, at + 2),
            ['*', '/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn quoted(rest: &[char]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

fn raw_string(rest: &[char]) -> Option<usize> {
    let hashes = rest[1..].iter().take_while(|char| **char == '#').count();
    if rest.get(1 + hashes) != Some(&'"') {
        return None;
    }
    let start = hashes + 2;
    let ends = |at: &usize| {
        rest[*at] == '"' && rest[at + 1..].iter().take_while(|char| **char == '#').count() >= hashes
    };
    Some((start..rest.len()).find(ends).map_or(rest.len(), |at| at + 1 + hashes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        Source::new(&File { path: "a.rs".to_owned(), text: text.to_owned() })
    }

    #[test]
    fn comments_strings_and_characters_are_distinguished_from_code() {
        let text = r####"a /* b /* c */ d */ "e \" f" '"' g<'h> // i
r#"j " k"# br"l" 'm' '\'' n"####;
        let code: Vec<String> = source(text).code.split_whitespace().map(str::to_owned).collect();
        assert_eq!(code, ["a", "g<'h>", "b", "n"]);
        assert!(source(text).no_comments.contains("j \" k"));
        assert!(!source(text).no_comments.contains('i'));
        assert_eq!(source(text).code.lines().count(), 2);
    }

    #[test]
    fn words_are_whole_words() {
        assert!(has_word("thread::sleep(1)", "sleep("));
        assert!(!has_word("nosleep(1)", "sleep("));
        assert!(!has_word("#![deny(unsafe_code)]", "unsafe"));
        assert!(has_word("unsafe {", "unsafe"));
    }
}
