//! psflip's templates: expressions, and the text of a template around them.

/// The type of an expression's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Text,
    Int,
    Bool,
    /// Either type; Go's `and` and `or` return one of their arguments.
    Mixed,
}

/// An expression.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Code {
    Text(String),
    Int(i64),
    Bool(bool),
    Call(&'static str, Vec<Code>),
    /// Texts joined by `~`.
    Join(Vec<Code>),
    Compare(Box<Code>, &'static str, Box<Code>),
    And(Box<Code>, Box<Code>),
    Or(Box<Code>, Box<Code>),
    Not(Box<Code>),
}

impl Code {
    pub(super) fn kind(&self) -> Type {
        match self {
            Self::Text(_) | Self::Call(..) | Self::Join(_) => Type::Text,
            Self::Int(_) => Type::Int,
            Self::Bool(_) | Self::Compare(..) | Self::Not(_) => Type::Bool,
            Self::And(a, b) | Self::Or(a, b) => {
                if a.kind() == b.kind() {
                    a.kind()
                } else {
                    Type::Mixed
                }
            }
        }
    }

    /// Whether Go's `if` treats it as true, if it is a constant.
    pub(super) fn truth(&self) -> Option<bool> {
        match self {
            Self::Text(text) => Some(!text.is_empty()),
            Self::Int(number) => Some(*number != 0),
            Self::Bool(value) => Some(*value),
            _ => None,
        }
    }

    /// Its text, if it is a constant.
    pub(super) fn constant(&self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text.clone()),
            Self::Int(number) => Some(number.to_string()),
            Self::Bool(value) => Some(value.to_string()),
            _ => None,
        }
    }

    /// Its approximate size in words.
    pub(super) fn size(&self) -> usize {
        1 + match self {
            Self::Text(text) => text.len() / 64,
            Self::Int(_) | Self::Bool(_) => 0,
            Self::Call(_, parts) | Self::Join(parts) => parts.iter().map(Self::size).sum(),
            Self::Compare(a, _, b) | Self::And(a, b) | Self::Or(a, b) => a.size() + b.size(),
            Self::Not(inner) => inner.size(),
        }
    }

    /// Writes the expression as it appears between `{{` and `}}`.
    pub(super) fn write(&self, out: &mut String) {
        match self {
            Self::Text(text) => quote(text, out),
            Self::Int(number) => out.push_str(&number.to_string()),
            Self::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Self::Call(name, arguments) => {
                out.push_str(name);
                out.push('(');
                for (index, argument) in arguments.iter().enumerate() {
                    if index > 0 {
                        out.push_str(", ");
                    }
                    argument.write(out);
                }
                out.push(')');
            }
            Self::Join(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    if index > 0 {
                        out.push_str(" ~ ");
                    }
                    part.write_inside(out);
                }
            }
            Self::Compare(a, sign, b) => infix(a, sign, b, out),
            Self::And(a, b) => infix(a, "and", b, out),
            Self::Or(a, b) => infix(a, "or", b, out),
            Self::Not(inner) => {
                out.push_str("not ");
                inner.write_inside(out);
            }
        }
    }

    fn write_inside(&self, out: &mut String) {
        let simple = match self {
            Self::Int(number) => *number >= 0,
            Self::Text(_) | Self::Bool(_) | Self::Call(..) => true,
            _ => false,
        };
        if simple {
            return self.write(out);
        }
        out.push('(');
        self.write(out);
        out.push(')');
    }
}

fn infix(a: &Code, sign: &str, b: &Code, out: &mut String) {
    a.write_inside(out);
    out.push_str(&format!(" {sign} "));
    b.write_inside(out);
}

/// A string literal of an expression.
fn quote(text: &str, out: &mut String) {
    out.push('\'');
    for c in text.chars() {
        match c {
            '\'' => out.push_str("\\'"),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c => out.push(c),
        }
    }
    out.push('\'');
}

/// A template under construction.
#[derive(Debug, Default)]
pub(super) struct Template {
    out: String,
    /// Text that is not written yet: its form depends on what follows.
    text: String,
    /// Whether it contains more than text.
    has_code: bool,
}

impl Template {
    pub(super) fn text(&mut self, text: &str) {
        self.text.push_str(text);
    }

    /// Adds an expression that prints a value.
    pub(super) fn print(&mut self, code: &Code) {
        if let Some(text) = code.constant() {
            return self.text(&text);
        }
        if let Code::Join(parts) = code {
            return parts.iter().for_each(|part| self.print(part));
        }
        self.code("{{ ", |out| code.write(out), " }}");
    }

    /// Adds a statement: `if`, `elif` and `else` with their conditions, `endif`.
    pub(super) fn statement(&mut self, word: &str, condition: Option<&Code>) {
        let write = |out: &mut String| {
            out.push_str(word);
            if let Some(condition) = condition {
                out.push(' ');
                condition.write(out);
            }
        };
        self.code("{% ", write, " %}");
    }

    fn code(&mut self, open: &str, write: impl FnOnce(&mut String), close: &str) {
        self.flush(true);
        self.out.push_str(open);
        write(&mut self.out);
        self.out.push_str(close);
        self.has_code = true;
    }

    pub(super) fn len(&self) -> usize {
        self.out.len() + self.text.len()
    }

    pub(super) fn finish(mut self) -> String {
        self.flush(false);
        self.out
    }

    /// Writes the text. Parts that MiniJinja would take for a template become an expression.
    fn flush(&mut self, before_code: bool) {
        let text = std::mem::take(&mut self.text);
        let signs = |at: usize| matches!(text.as_bytes().get(at..at + 2), Some(b"{{" | b"{%" | b"{#"));
        let open_end = before_code && text.ends_with('{');
        let first = (0..text.len()).find(|at| signs(*at)).or(open_end.then(|| text.len() - 1));
        let Some(first) = first else { return self.out.push_str(&text) };
        let end = if open_end {
            text.len()
        } else {
            (first..text.len()).rev().find(|at| signs(*at)).map_or(text.len(), |last| last + 2)
        };
        self.out.push_str(&text[..first]);
        self.out.push_str("{{ ");
        quote(&text[first..end], &mut self.out);
        self.out.push_str(" }}");
        self.out.push_str(&text[end..]);
    }
}
