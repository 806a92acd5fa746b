//! Splits a Go template into tokens: the text between actions with its trim markers, and the content of
//! actions.

use super::Fault;

/// A part of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Part {
    /// Text, already trimmed.
    Text(String),
    /// An action: the tokens between `{{` and `}}`, and its place.
    Action(Vec<Token>, usize),
}

/// A word or sign in an action.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Token {
    pub(super) at: usize,
    pub(super) sign: Sign,
    /// Whether white space precedes it, so that it does not belong to the word before.
    pub(super) apart: bool,
}

/// The kinds of tokens.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Sign {
    Word(String),
    /// `$name`, without the `$`.
    Variable(String),
    /// `.name`, without the `.`.
    Field(String),
    Dot,
    Text(String),
    Int(i64),
    /// A number that is not an integer, as written.
    Number(String),
    Pipe,
    Open,
    Close,
    Comma,
    Declare,
    Assign,
}

/// White space in Go's templates.
const SPACE: &[char] = &[' ', '\t', '\r', '\n'];

/// Splits a template into its parts.
pub(super) fn parts(template: &str) -> Result<Vec<Part>, Fault> {
    let mut parts = Vec::new();
    let (mut from, mut trim) = (0, false);
    loop {
        let rest = &template[from..];
        let open = rest.find("{{");
        let mut text = open.map_or(rest, |open| &rest[..open]);
        if trim {
            text = text.trim_start_matches(SPACE);
        }
        let Some(open) = open.map(|open| from + open) else {
            if !text.is_empty() {
                parts.push(Part::Text(text.to_owned()));
            }
            return Ok(parts);
        };
        let mut start = open + 2;
        if template[start..].strip_prefix('-').is_some_and(|rest| rest.starts_with(SPACE)) {
            text = text.trim_end_matches(SPACE);
            start += 1;
        }
        if !text.is_empty() {
            parts.push(Part::Text(text.to_owned()));
        }
        let body = template[start..].trim_start_matches(SPACE);
        let after;
        if body.starts_with("/*") {
            (after, trim) = comment(template, template.len() - body.len())?;
        } else {
            let mut lexer = Lexer { template, at: start };
            let tokens;
            (tokens, trim) = lexer.action(open)?;
            after = lexer.at;
            parts.push(Part::Action(tokens, open));
        }
        from = after;
    }
}

/// The end of a comment's action, and whether the action trims the text after it.
fn comment(template: &str, start: usize) -> Result<(usize, bool), Fault> {
    let Some(end) = template[start..].find("*/") else {
        return Err(Fault::new(start, "the comment is not closed by `*/`"));
    };
    let rest = &template[start + end + 2..];
    let close = |rest: &str| template.len() - rest.len() + 2;
    if rest.starts_with("}}") {
        return Ok((close(rest), false));
    }
    match rest.trim_start_matches(SPACE).strip_prefix('-') {
        Some(marker) if rest.starts_with(SPACE) && marker.starts_with("}}") => Ok((close(marker), true)),
        _ => Err(Fault::new(start, "a comment ends with `*/}}`, nothing in between")),
    }
}

struct Lexer<'t> {
    template: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    /// The tokens up to the end of the action, and whether the action trims the text after it.
    fn action(&mut self, open: usize) -> Result<(Vec<Token>, bool), Fault> {
        let mut tokens: Vec<Token> = Vec::new();
        loop {
            let before = self.at;
            let rest = self.rest().trim_start_matches(SPACE);
            self.at = self.template.len() - rest.len();
            let apart = self.at > before;
            if rest.starts_with("}}") {
                self.at += 2;
                return Ok((tokens, false));
            }
            if apart && rest.starts_with("-}}") {
                self.at += 3;
                return Ok((tokens, true));
            }
            let at = self.at;
            let Some(first) = rest.chars().next() else {
                return Err(Fault::new(open, "the action is not closed by `}}`"));
            };
            let sign = self.sign(first)?;
            tokens.push(Token { at, sign, apart });
        }
    }

    fn rest(&self) -> &'t str {
        &self.template[self.at..]
    }

    fn sign(&mut self, first: char) -> Result<Sign, Fault> {
        let at = self.at;
        let next = self.rest().chars().nth(1);
        let single = |sign| Ok((sign, 1));
        let (sign, length) = match first {
            '|' => single(Sign::Pipe),
            '(' => single(Sign::Open),
            ')' => single(Sign::Close),
            ',' => single(Sign::Comma),
            '=' => single(Sign::Assign),
            ':' if next == Some('=') => Ok((Sign::Declare, 2)),
            '"' => self.quoted(),
            '`' => self.raw(),
            '\'' => self.character(),
            '$' => {
                let name = name(&self.rest()[1..]).to_owned();
                let length = 1 + name.len();
                Ok((Sign::Variable(name), length))
            }
            '.' if next.is_none_or(|next| !next.is_ascii_digit()) => {
                let name = name(&self.rest()[1..]).to_owned();
                let length = 1 + name.len();
                Ok((if name.is_empty() { Sign::Dot } else { Sign::Field(name) }, length))
            }
            '.' | '+' | '-' | '0'..='9' => self.number(),
            first if first.is_alphabetic() || first == '_' => {
                let word = name(self.rest()).to_owned();
                let length = word.len();
                Ok((Sign::Word(word), length))
            }
            _ => Err(Fault::new(at, format!("unexpected `{}` in an action", first.escape_debug()))),
        }?;
        self.at += length;
        Ok(sign)
    }

    fn number(&self) -> Result<(Sign, usize), Fault> {
        let rest = self.rest();
        let end = rest
            .char_indices()
            .skip(1)
            .find(|(at, c)| {
                let exponent = rest[..*at].ends_with(['e', 'E', 'p', 'P']) && matches!(c, '+' | '-');
                !(c.is_ascii_alphanumeric() || matches!(c, '_' | '.') || exponent)
            })
            .map_or(rest.len(), |(at, _)| at);
        let word = &rest[..end];
        if !word.contains(|c: char| c.is_ascii_digit()) {
            return Err(Fault::new(self.at, format!("`{word}` is no number")));
        }
        Ok((integer(word).map_or_else(|| Sign::Number(word.to_owned()), Sign::Int), end))
    }

    fn raw(&self) -> Result<(Sign, usize), Fault> {
        match self.rest()[1..].find('`') {
            Some(end) => Ok((Sign::Text(self.rest()[1..=end].replace('\r', "")), end + 2)),
            None => Err(Fault::new(self.at, "a raw string in it is not closed")),
        }
    }

    /// A string in `"` quotes, with Go's escapes.
    fn quoted(&self) -> Result<(Sign, usize), Fault> {
        let mut text = String::new();
        let mut chars = self.rest().char_indices().skip(1).peekable();
        while let Some((at, c)) = chars.next() {
            match c {
                '"' => return Ok((Sign::Text(text), at + 1)),
                '\n' => break,
                '\\' => {
                    let digits = escape(&self.rest()[at + 1..]);
                    let Some((c, length)) = digits else {
                        let message = "a string in it has an escape that makes no character of Unicode";
                        return Err(Fault::new(self.at + at, message));
                    };
                    text.push(c);
                    while chars.peek().is_some_and(|(next, _)| *next <= at + length) {
                        chars.next();
                    }
                }
                c => text.push(c),
            }
        }
        Err(Fault::new(self.at, "a string in it is not closed"))
    }

    /// A character in `'` quotes: in Go its number.
    fn character(&self) -> Result<(Sign, usize), Fault> {
        let rest = &self.rest()[1..];
        let (c, length) = match rest.strip_prefix('\\') {
            Some("'") | None => (rest.chars().next(), rest.chars().next().map_or(0, char::len_utf8)),
            Some(escaped) => match escaped.chars().next() {
                Some('\'') => (Some('\''), 2),
                _ => escape(escaped).map_or((None, 0), |(c, length)| (Some(c), length + 1)),
            },
        };
        match c {
            Some(c) if c != '\'' || length == 2 => match rest[length..].starts_with('\'') {
                true => Ok((Sign::Int(i64::from(u32::from(c))), length + 2)),
                false => Err(Fault::new(self.at, "a character in it is not closed")),
            },
            _ => Err(Fault::new(self.at, "a character in it is not closed")),
        }
    }
}

/// The letters, digits and underscores at the beginning.
fn name(text: &str) -> &str {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len());
    &text[..end]
}

/// A Go integer; `None` for other numbers and for integers that do not fit.
fn integer(word: &str) -> Option<i64> {
    crate::migrate::source::integer(&word.replace('_', ""))?.ok()
}

/// The escape sequence after a backslash: the character and its length in bytes.
fn escape(text: &str) -> Option<(char, usize)> {
    let number = |from: usize, length: usize, radix: u32| {
        let digits = text.get(from..from + length)?;
        let valid = digits.chars().all(|c| c.is_digit(radix));
        let number = u32::from_str_radix(digits, radix).ok().filter(|_| valid)?;
        // A byte above 0x7F would be a part of a character, and need not be valid UTF-8.
        let c = char::from_u32(number).filter(|_| number < 0x80 || length > 3)?;
        Some((c, from + length))
    };
    let c = match text.chars().next()? {
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\u{b}',
        '\\' => '\\',
        '"' => '"',
        'x' => return number(1, 2, 16),
        'u' => return number(1, 4, 16),
        'U' => return number(1, 8, 16),
        '0'..='7' => return number(0, 3, 8),
        _ => return None,
    };
    Some((c, 1))
}
