//! Parses a Go template into a tree.

use super::Fault;
use super::token::{Part, Sign, Token, parts};

/// A part of a template's output.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Print(Expr),
    /// `$x := ...` or `$x = ...`.
    Set(Set, Expr),
    /// `if`, or `with`, which also sets the dot.
    If {
        with: bool,
        set: Option<Set>,
        when: Expr,
        then: Vec<Piece>,
        otherwise: Vec<Piece>,
    },
}

/// The variable of a declaration or an assignment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) assigns: bool,
    pub(super) at: usize,
}

/// An expression and its place.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Expr {
    pub(super) at: usize,
    pub(super) kind: Kind,
}

/// The kinds of expressions.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Text(String),
    Int(i64),
    Bool(bool),
    Dot,
    Variable(String),
    Call(String, Vec<Expr>),
}

/// The limit for nested controls, nested parentheses, and the length of a pipeline.
const DEEPEST: usize = 30;

/// Parses a template.
pub(super) fn parse(template: &str) -> Result<Vec<Piece>, Fault> {
    let mut parts = parts(template)?.into_iter();
    let (pieces, end) = block(&mut parts, 0)?;
    match end {
        Stop::Template => Ok(pieces),
        Stop::Else(_, at) => Err(Fault::new(at, "an `else` without an `if`")),
        Stop::End(at) => Err(Fault::new(at, "an `end` without an `if`")),
    }
}

/// What ends a block.
enum Stop {
    Template,
    /// `else`, with the words that follow it: `if`, `with`.
    Else(Vec<Token>, usize),
    End(usize),
}

fn block(parts: &mut impl Iterator<Item = Part>, depth: usize) -> Result<(Vec<Piece>, Stop), Fault> {
    let mut pieces = Vec::new();
    while let Some(part) = parts.next() {
        let (tokens, at) = match part {
            Part::Text(text) => {
                pieces.push(Piece::Text(text));
                continue;
            }
            Part::Action(tokens, at) => (tokens, at),
        };
        let keyword = match tokens.first() {
            Some(Token { sign: Sign::Word(word), .. }) => word.as_str(),
            Some(_) => "",
            None => return Err(Fault::new(at, "an action without anything in it")),
        };
        match keyword {
            "if" | "with" => pieces.push(control(parts, &tokens, at, depth)?),
            "else" => return Ok((pieces, Stop::Else(tokens[1..].to_vec(), at))),
            "end" => return Ok((pieces, Stop::End(at))),
            "range" | "break" | "continue" => {
                return Err(Fault::new(at, "there are no loops in psflip's templates"));
            }
            "define" | "template" | "block" => {
                return Err(Fault::new(at, "there are no named templates in psflip's; write its text here"));
            }
            _ => {
                let mut reader = Reader { tokens: &tokens, next: 0, end: at };
                let set = reader.set();
                let value = reader.pipeline(0)?;
                reader.finished()?;
                pieces.push(match set {
                    Some(set) => Piece::Set(set, value),
                    None => Piece::Print(value),
                });
            }
        }
    }
    Ok((pieces, Stop::Template))
}

/// Parses an `if` or `with` up to its `end`; `tokens` start with that word.
fn control(
    parts: &mut impl Iterator<Item = Part>,
    tokens: &[Token],
    at: usize,
    depth: usize,
) -> Result<Piece, Fault> {
    if depth >= DEEPEST {
        return Err(Fault::new(at, format!("more than {DEEPEST} `if` in one another")));
    }
    let with = matches!(&tokens[0].sign, Sign::Word(word) if word == "with");
    let mut reader = Reader { tokens: &tokens[1..], next: 0, end: at };
    let set = reader.set();
    let when = reader.pipeline(0)?;
    reader.finished()?;
    let (then, end) = block(parts, depth + 1)?;
    let otherwise = match end {
        Stop::End(_) => Vec::new(),
        Stop::Else(tokens, _) if tokens.is_empty() => match block(parts, depth + 1)? {
            (pieces, Stop::End(_)) => pieces,
            (_, Stop::Else(_, at)) => return Err(Fault::new(at, "a second `else`")),
            (_, Stop::Template) => return Err(Fault::new(at, "it is not closed by `{{ end }}`")),
        },
        // `else if` shares the `end` of the preceding `if`.
        Stop::Else(tokens, at) => match &tokens[0].sign {
            Sign::Word(word) if word == "if" || word == "with" => {
                vec![control(parts, &tokens, at, depth + 1)?]
            }
            _ => return Err(Fault::new(at, "after `else` stands nothing, or `if`")),
        },
        Stop::Template => return Err(Fault::new(at, "it is not closed by `{{ end }}`")),
    };
    Ok(Piece::If { with, set, when, then, otherwise })
}

struct Reader<'a> {
    tokens: &'a [Token],
    next: usize,
    /// The place to report if something is missing.
    end: usize,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.next)
    }

    /// `$x :=` or `$x =` at the beginning.
    fn set(&mut self) -> Option<Set> {
        let [Token { at, sign: Sign::Variable(name), .. }, Token { sign, .. }, ..] = self.tokens else {
            return None;
        };
        let assigns = match sign {
            Sign::Declare => false,
            Sign::Assign => true,
            _ => return None,
        };
        self.next = 2;
        Some(Set { name: name.clone(), assigns, at: *at })
    }

    fn finished(&self) -> Result<(), Fault> {
        match self.peek() {
            None => Ok(()),
            Some(token) => Err(Fault::new(token.at, "unexpected sign in an action")),
        }
    }

    /// `a | f x`: the value before `|` is the last argument of the function after it.
    fn pipeline(&mut self, depth: usize) -> Result<Expr, Fault> {
        let mut value = self.command(None, depth)?;
        let mut length = 0;
        while let Some(Token { sign: Sign::Pipe, at, .. }) = self.peek() {
            length += 1;
            if length > DEEPEST {
                return Err(Fault::new(*at, format!("a pipeline of more than {DEEPEST} functions")));
            }
            self.next += 1;
            value = self.command(Some(value), depth)?;
        }
        Ok(value)
    }

    /// A function with its arguments, or a single value.
    fn command(&mut self, last: Option<Expr>, depth: usize) -> Result<Expr, Fault> {
        let first = match self.peek() {
            Some(Token { at, sign: Sign::Word(word), .. }) if !is_constant(word) => {
                self.next += 1;
                let mut arguments = Vec::new();
                while let Some(argument) = self.operand(depth)? {
                    arguments.push(argument);
                }
                arguments.extend(last);
                return Ok(Expr { at: *at, kind: Kind::Call(word.clone(), arguments) });
            }
            _ => self.operand(depth)?,
        };
        let Some(value) = first else {
            let at = self.peek().map_or(self.end, |token| token.at);
            return Err(Fault::new(at, "a value is missing"));
        };
        if last.is_some() {
            return Err(Fault::new(value.at, "behind `|` stands no function"));
        }
        match self.operand(depth)? {
            Some(argument) => Err(Fault::new(argument.at, "an argument for something that is no function")),
            None => Ok(value),
        }
    }

    /// The next value before the end of the command, if there is one.
    fn operand(&mut self, depth: usize) -> Result<Option<Expr>, Fault> {
        let Some(Token { at, sign, .. }) = self.peek() else { return Ok(None) };
        let at = *at;
        let kind = match sign {
            Sign::Pipe | Sign::Close => return Ok(None),
            Sign::Open => {
                if depth >= DEEPEST {
                    return Err(Fault::new(at, format!("more than {DEEPEST} parentheses in one another")));
                }
                self.next += 1;
                let inner = self.pipeline(depth + 1)?;
                match self.peek() {
                    Some(Token { sign: Sign::Close, .. }) => self.next += 1,
                    _ => return Err(Fault::new(at, "the parenthesis is not closed")),
                }
                self.no_field()?;
                return Ok(Some(inner));
            }
            Sign::Word(word) => match word.as_str() {
                "true" => Kind::Bool(true),
                "false" => Kind::Bool(false),
                "nil" => return Err(Fault::new(at, "`nil` is no value of psflip's templates")),
                _ => Kind::Call(word.clone(), Vec::new()),
            },
            Sign::Variable(name) if name.is_empty() => {
                return Err(Fault::new(at, "`$` stands for data, of which upstream gives none"));
            }
            Sign::Variable(name) => Kind::Variable(name.clone()),
            Sign::Field(name) => {
                return Err(Fault::new(
                    at,
                    format!("`.{name}` stands for data, of which upstream gives none"),
                ));
            }
            Sign::Dot => Kind::Dot,
            Sign::Text(text) => Kind::Text(text.clone()),
            Sign::Int(number) => Kind::Int(*number),
            Sign::Number(number) => {
                return Err(Fault::new(at, format!("`{number}` is no integer that psflip's templates know")));
            }
            Sign::Comma | Sign::Declare | Sign::Assign => {
                return Err(Fault::new(at, "unexpected sign in an action"));
            }
        };
        self.next += 1;
        self.no_field()?;
        if let Some(token) = self.peek()
            && !token.apart
            && !matches!(token.sign, Sign::Pipe | Sign::Close | Sign::Open)
        {
            return Err(Fault::new(token.at, "white space is missing before it"));
        }
        Ok(Some(Expr { at, kind }))
    }

    /// Rejects `(...).Field` and `$x.Field`.
    fn no_field(&self) -> Result<(), Fault> {
        match self.peek() {
            Some(Token { at, sign: Sign::Field(name), apart: false }) => {
                Err(Fault::new(*at, format!("texts have no field `.{name}`")))
            }
            _ => Ok(()),
        }
    }
}

fn is_constant(word: &str) -> bool {
    matches!(word, "true" | "false" | "nil")
}
