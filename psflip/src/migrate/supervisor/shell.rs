//! Splits a command as a POSIX shell does, as far as that needs no shell.

/// A simple command.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Simple {
    /// The assignments before the command: `A=1 ./server`.
    pub(super) variables: Vec<(String, String)>,
    /// Its words, without quotes.
    pub(super) words: Vec<String>,
}

/// What the shell would do with a character, in words for a note. `None`: nothing.
fn meaning(c: char, at_start: bool) -> Option<&'static str> {
    Some(match c {
        '$' | '`' => "a variable or a command is inserted",
        '|' | '&' | ';' | '\n' => "there are several commands",
        '<' | '>' => "a file is redirected",
        '(' | ')' => "there is a subshell",
        '*' | '?' | '[' => "a pattern is replaced by file names",
        '~' if at_start => "`~` is replaced by a directory",
        '#' if at_start => "there is a comment",
        '{' | '}' => "there are braces",
        '!' if at_start => "the exit status is negated",
        _ => return None,
    })
}

/// Splits `line`. The error says why a shell is needed.
pub(super) fn split(line: &str) -> Result<Simple, &'static str> {
    let mut words: Vec<(String, bool)> = Vec::new();
    let mut word: Option<(String, bool)> = None;
    let mut chars = line.trim().chars();
    while let Some(c) = chars.next() {
        let at_start = word.is_none();
        match c {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let (text, quoted) = word.get_or_insert_default();
                *quoted = true;
                loop {
                    match chars.next() {
                        Some('\'') => break,
                        Some(c) => text.push(c),
                        None => return Err("a quote is not closed"),
                    }
                }
            }
            '"' => {
                let (text, quoted) = word.get_or_insert_default();
                *quoted = true;
                loop {
                    match chars.next() {
                        Some('"') => break,
                        Some('$' | '`') => return Err("a variable or a command is inserted"),
                        Some('\\') => match chars.next() {
                            Some(c @ ('"' | '\\' | '$' | '`')) => text.push(c),
                            Some(c) => text.extend(['\\', c]),
                            None => return Err("a quote is not closed"),
                        },
                        Some(c) => text.push(c),
                        None => return Err("a quote is not closed"),
                    }
                }
            }
            '\\' => match chars.next() {
                Some('\n') => {}
                Some(c) => {
                    let (text, quoted) = word.get_or_insert_default();
                    *quoted = true;
                    text.push(c);
                }
                None => return Err("a backslash ends the line"),
            },
            c => match meaning(c, at_start) {
                Some(reason) => return Err(reason),
                None => word.get_or_insert_default().0.push(c),
            },
        }
    }
    words.extend(word);
    let mut simple = Simple::default();
    for (word, _) in words {
        match word.split_once('=') {
            Some((name, value)) if simple.words.is_empty() && is_name(name) => {
                simple.variables.push((name.to_owned(), value.to_owned()));
            }
            _ => simple.words.push(word),
        }
    }
    Ok(simple)
}

/// Whether a shell takes this for the name of a variable.
pub(super) fn is_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '_';
    !name.is_empty() && !name.starts_with(|c: char| c.is_ascii_digit()) && name.chars().all(allowed)
}

/// Whether `line` inserts this variable: `$PORT`, `${PORT}`, `${PORT:-80}`.
pub(super) fn inserts(line: &str, name: &str) -> bool {
    line.match_indices('$').any(|(at, _)| {
        let rest = &line[at + 1..];
        let rest = rest.strip_prefix('{').unwrap_or(rest);
        rest.strip_prefix(name)
            .is_some_and(|after| !after.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_'))
    })
}
