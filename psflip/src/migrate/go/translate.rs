//! Translates a parsed Go template. The values of psflip's functions do not change within a generation, so
//! each variable is replaced by the expression that was assigned to it, and the dot by the argument of
//! `with`.

use super::Fault;
use super::jinja::{Code, Template, Type};
use super::parse::{Expr, Kind, Piece, Set, parse};
use super::time;

/// A template of psflip with the same meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Translation {
    /// The template, or plain text.
    pub(crate) text: String,
    /// Remaining differences, with their places in the Go template.
    pub(crate) notes: Vec<(usize, String)>,
}

type Result<T> = std::result::Result<T, Fault>;

/// The largest expression in words; psflip allows 500 in one template.
const LARGEST: usize = 600;
/// The longest template.
const LONGEST: usize = 64 * 1024;

/// Translates a text as upstream reads it: a Go template if it contains `{{`.
pub(crate) fn translate(text: &str) -> Result<Translation> {
    let mut template = Template::default();
    let mut translator = Translator { variables: Vec::new(), dots: Vec::new(), depth: 0, notes: Vec::new() };
    if text.len() > LONGEST {
        return Err(Fault::new(0, format!("the text is longer than {LONGEST} bytes")));
    }
    translator.pieces(&parse(text)?, &mut template)?;
    translator.notes.sort();
    translator.notes.dedup();
    Ok(Translation { text: template.finish(), notes: translator.notes })
}

struct Variable {
    name: String,
    /// The nesting depth of its declaration.
    depth: usize,
    value: Code,
}

struct Translator {
    variables: Vec<Variable>,
    /// The values of `.`, innermost last.
    dots: Vec<Code>,
    depth: usize,
    notes: Vec<(usize, String)>,
}

impl Translator {
    fn pieces(&mut self, pieces: &[Piece], out: &mut Template) -> Result<()> {
        for piece in pieces {
            match piece {
                Piece::Text(text) => out.text(text),
                Piece::Print(value) => out.print(&self.value(value)?),
                Piece::Set(set, value) => {
                    let value = self.value(value)?;
                    self.set(set, value)?;
                }
                Piece::If { .. } => self.control(piece, "if", out)?,
            }
            if out.len() > LONGEST {
                return Err(Fault::new(0, format!("its translation is longer than {LONGEST} bytes")));
            }
        }
        Ok(())
    }

    fn set(&mut self, set: &Set, value: Code) -> Result<()> {
        if !set.assigns {
            self.variables.push(Variable { name: set.name.clone(), depth: self.depth, value });
            return Ok(());
        }
        let known = self.variables.iter_mut().rev().find(|variable| variable.name == set.name);
        match known {
            None => Err(unknown(set.at, &set.name)),
            Some(variable) if variable.depth == self.depth => {
                variable.value = value;
                Ok(())
            }
            Some(_) => Err(Fault::new(
                set.at,
                format!(
                    "`${}` gets another value in some cases; psflip's templates have no variables",
                    set.name
                ),
            )),
        }
    }

    /// Translates an `if` with its branches. `word` is `elif` for an `if` that shares the `end` of the
    /// previous one. If the condition is constant, only the branch that is taken remains.
    fn control(&mut self, piece: &Piece, word: &str, out: &mut Template) -> Result<()> {
        let Piece::If { with, set, when, then, otherwise } = piece else { return Ok(()) };
        let condition = self.value(when)?;
        let truth = condition.truth();
        let variables = self.variables.len();
        if truth.is_none() {
            out.statement(word, Some(&condition));
        }
        self.depth += 1;
        if let Some(set) = set {
            self.set(set, condition.clone())?;
        }
        if *with {
            self.dots.push(condition.clone());
        }
        // As in Go, a branch that is never taken must be valid as well.
        let mut unused = Template::default();
        self.pieces(then, if truth == Some(false) { &mut unused } else { &mut *out })?;
        if *with {
            self.dots.pop();
        }
        self.variables.truncate(variables);
        if let Some(set) = set {
            self.set(set, condition)?;
        }
        let out = if truth == Some(true) { &mut unused } else { out };
        match (otherwise.as_slice(), truth) {
            ([], _) => {}
            ([inner @ Piece::If { when, .. }], None) if self.value(when)?.truth().is_none() => {
                self.control(inner, "elif", out)?;
            }
            (pieces, None) => {
                out.statement("else", None);
                self.pieces(pieces, out)?;
            }
            (pieces, Some(_)) => self.pieces(pieces, out)?,
        }
        self.variables.truncate(variables);
        self.depth -= 1;
        if truth.is_none() && word == "if" {
            out.statement("endif", None);
        }
        Ok(())
    }

    fn value(&mut self, expr: &Expr) -> Result<Code> {
        let value = match &expr.kind {
            Kind::Text(text) => Code::Text(text.clone()),
            Kind::Int(number) => Code::Int(*number),
            Kind::Bool(value) => Code::Bool(*value),
            Kind::Dot => match self.dots.last() {
                Some(value) => value.clone(),
                None => return Err(Fault::new(expr.at, "`.` stands for data, of which upstream gives none")),
            },
            Kind::Variable(name) => {
                let known = self.variables.iter().rev().find(|variable| variable.name == *name);
                known.map(|variable| variable.value.clone()).ok_or_else(|| unknown(expr.at, name))?
            }
            Kind::Call(name, arguments) => {
                let arguments =
                    arguments.iter().map(|argument| self.value(argument)).collect::<Result<Vec<_>>>()?;
                self.call(expr.at, name, arguments)?
            }
        };
        if value.size() > LARGEST { Err(too_long(expr.at)) } else { Ok(value) }
    }

    fn call(&mut self, at: usize, name: &str, arguments: Vec<Code>) -> Result<Code> {
        match name {
            // Upstream's first versions have the lower-case names.
            "Env" | "env" => {
                let [variable] = texts(at, name, arguments)?;
                if variable == Code::Text("PSFLIP_AB_FLAG".to_owned()) {
                    return Ok(call("ab", [Code::Text("a".to_owned()), Code::Text("b".to_owned())]));
                }
                Ok(call("env", [variable, Code::Text(String::new())]))
            }
            "EnvDefault" => Ok(call("env", texts::<2>(at, name, arguments)?)),
            "AB" => Ok(call("ab", texts::<2>(at, name, arguments)?)),
            "BlueGreen" => Ok(call("blue_green", texts::<0>(at, name, arguments)?)),
            "Local" => Ok(call("local", texts::<1>(at, name, arguments)?)),
            "Cat" | "cat" => {
                self.notes.push((
                    at,
                    "`cat` drops the newline at the end of the file; upstream kept it".to_owned(),
                ));
                Ok(call("cat", texts::<1>(at, name, arguments)?))
            }
            "EscapeRE" | "escapere" => {
                let [text] = texts(at, name, arguments)?;
                Ok(self.escape_re(at, text))
            }
            "Now" | "now" => self.time(at, name, "now", arguments),
            "UTCNow" | "utcnow" => self.time(at, name, "utc_now", arguments),
            _ => builtin(at, name, arguments),
        }
    }

    fn escape_re(&mut self, at: usize, text: Code) -> Code {
        match &text {
            Code::Text(known) if known.contains(MORE_ESCAPED) => Code::Text(quote_meta(known)),
            Code::Text(_) => call("escape_re", [text]),
            _ => {
                let note =
                    "`escape_re` puts a backslash before `#`, `&`, `-`, `~` and `/` too; it matches the same";
                self.notes.push((at, note.to_owned()));
                call("escape_re", [text])
            }
        }
    }

    fn time(&mut self, at: usize, name: &str, ours: &'static str, arguments: Vec<Code>) -> Result<Code> {
        let [format] = texts(at, name, arguments)?;
        let Code::Text(known) = &format else {
            let note = "the time format is known only when it runs; `%f`, `%c`, `%x`, `%X` and `%r` differ from upstream's";
            self.notes.push((at, note.to_owned()));
            return Ok(call(ours, [format]));
        };
        match time::format(known) {
            Ok(format) => Ok(call(ours, [Code::Text(format)])),
            Err(reason) => Err(Fault::new(at, format!("in the time format {reason}"))),
        }
    }
}

/// Characters that psflip's `escape_re` escapes and Go's QuoteMeta doesn't.
const MORE_ESCAPED: &[char] = &['#', '&', '-', '~', '/'];

/// Go's regexp.QuoteMeta.
fn quote_meta(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        if "\\.+*?()|[]{}^$".contains(c) {
            out.push('\\');
        }
        out.push(c);
        out
    })
}

fn unknown(at: usize, name: &str) -> Fault {
    Fault::new(at, format!("there is no variable `${name}`"))
}

fn too_long(at: usize) -> Fault {
    Fault::new(at, "its translation is too long: variables are replaced by what they stand for")
}

fn call<const N: usize>(name: &'static str, arguments: [Code; N]) -> Code {
    Code::Call(name, arguments.into())
}

/// The arguments of an upstream function, which must all be texts.
fn texts<const N: usize>(at: usize, name: &str, arguments: Vec<Code>) -> Result<[Code; N]> {
    if arguments.iter().any(|argument| argument.kind() != Type::Text) {
        return Err(Fault::new(at, format!("`{name}` takes texts only")));
    }
    let given = arguments.len();
    arguments
        .try_into()
        .map_err(|_| Fault::new(at, format!("`{name}` takes {N} arguments, and here are {given}")))
}

/// The functions that Go defines for all templates.
fn builtin(at: usize, name: &str, arguments: Vec<Code>) -> Result<Code> {
    let few = || Fault::new(at, format!("too few or too many arguments of `{name}`"));
    match name {
        "and" | "or" => {
            let mut arguments = arguments.into_iter();
            let first = arguments.next().ok_or_else(few)?;
            Ok(arguments.fold(first, |a, b| logic(name == "and", a, b)))
        }
        "not" => {
            let [value]: [Code; 1] = arguments.try_into().map_err(|_| few())?;
            Ok(value.truth().map_or_else(|| Code::Not(Box::new(value.clone())), |truth| Code::Bool(!truth)))
        }
        "eq" => {
            let mut arguments = arguments.into_iter();
            let first = arguments.next().ok_or_else(few)?;
            let mut any: Option<Code> = None;
            for other in arguments {
                let same = compare(at, first.clone(), "==", other)?;
                any = Some(match any {
                    Some(any) => logic(false, any, same),
                    None => same,
                });
            }
            any.ok_or_else(few)
        }
        "ne" | "lt" | "le" | "gt" | "ge" => {
            let [a, b]: [Code; 2] = arguments.try_into().map_err(|_| few())?;
            let sign = match name {
                "ne" => "!=",
                "lt" => "<",
                "le" => "<=",
                "gt" => ">",
                _ => ">=",
            };
            compare(at, a, sign, b)
        }
        "len" => match arguments.as_slice() {
            [Code::Text(text)] => Ok(Code::Int(text.len() as i64)),
            _ => Err(Fault::new(at, "psflip's templates can't tell the length of a text")),
        },
        "print" => {
            let mut parts: Vec<Code> = Vec::new();
            for argument in arguments {
                // Go puts a space between two values that are not texts.
                let apart = parts.last().is_some_and(|last| last.kind() != Type::Text);
                if argument.kind() == Type::Mixed
                    || parts.last().is_some_and(|last| last.kind() == Type::Mixed)
                {
                    return Err(Fault::new(
                        at,
                        "whether `print` puts a space there depends on what is printed",
                    ));
                }
                if apart && argument.kind() != Type::Text {
                    parts.push(Code::Text(" ".to_owned()));
                }
                parts.push(argument);
            }
            Ok(join(parts))
        }
        "println" => {
            let mut parts = Vec::new();
            for (index, argument) in arguments.into_iter().enumerate() {
                if index > 0 {
                    parts.push(Code::Text(" ".to_owned()));
                }
                parts.push(argument);
            }
            parts.push(Code::Text("\n".to_owned()));
            Ok(join(parts))
        }
        "printf" => printf(at, arguments),
        "html" | "js" | "urlquery" | "index" | "slice" | "call" => {
            Err(Fault::new(at, format!("psflip's templates have no counterpart of `{name}`")))
        }
        _ => Err(Fault::new(at, format!("neither Go nor upstream has a function `{name}`"))),
    }
}

fn logic(and: bool, a: Code, b: Code) -> Code {
    match a.truth() {
        Some(truth) if truth == and => b,
        Some(_) => a,
        None if and => Code::And(Box::new(a), Box::new(b)),
        None => Code::Or(Box::new(a), Box::new(b)),
    }
}

fn compare(at: usize, a: Code, sign: &'static str, b: Code) -> Result<Code> {
    if a.kind() != b.kind() || a.kind() == Type::Mixed {
        return Err(Fault::new(at, "only values of one type can be compared"));
    }
    let order = match (&a, &b) {
        (Code::Text(a), Code::Text(b)) => a.cmp(b),
        (Code::Int(a), Code::Int(b)) => a.cmp(b),
        (Code::Bool(a), Code::Bool(b)) if matches!(sign, "==" | "!=") => a.cmp(b),
        _ if a.kind() == Type::Bool && !matches!(sign, "==" | "!=") => {
            return Err(Fault::new(at, "of true and false neither is less than the other"));
        }
        _ => return Ok(Code::Compare(Box::new(a), sign, Box::new(b))),
    };
    Ok(Code::Bool(match sign {
        "==" => order.is_eq(),
        "!=" => order.is_ne(),
        "<" => order.is_lt(),
        "<=" => order.is_le(),
        ">" => order.is_gt(),
        _ => order.is_ge(),
    }))
}

/// Concatenates several values into one text.
fn join(parts: Vec<Code>) -> Code {
    let mut joined: Vec<Code> = Vec::new();
    for part in parts {
        let inner = match part {
            Code::Join(inner) => inner,
            part => vec![part],
        };
        for part in inner {
            match (joined.last_mut(), part.constant()) {
                (Some(Code::Text(last)), Some(text)) => last.push_str(&text),
                (_, Some(text)) => joined.push(Code::Text(text)),
                (_, None) => joined.push(part),
            }
        }
    }
    match joined.as_slice() {
        [] => Code::Text(String::new()),
        [Code::Text(text)] => Code::Text(text.clone()),
        _ => Code::Join(joined),
    }
}

/// Go's formats `%s`, `%v`, `%d`, `%t` and `%%`.
fn printf(at: usize, arguments: Vec<Code>) -> Result<Code> {
    let mut arguments = arguments.into_iter();
    let Some(Code::Text(format)) = arguments.next() else {
        return Err(Fault::new(at, "the format of `printf` is known only when it runs"));
    };
    let mut parts = Vec::new();
    let mut rest = format.as_str();
    while let Some((text, after)) = rest.split_once('%') {
        parts.push(Code::Text(text.to_owned()));
        let verb = after.chars().next();
        rest = verb.map_or("", |verb| &after[verb.len_utf8()..]);
        if verb == Some('%') {
            parts.push(Code::Text("%".to_owned()));
            continue;
        }
        let verb = verb.unwrap_or(' ');
        let unfit = || {
            Fault::new(
                at,
                format!(
                    "of the verbs of `printf` psflip knows `%s`, `%v`, `%d` and `%t`, and here is `%{verb}`"
                ),
            )
        };
        let Some(value) = arguments.next() else {
            return Err(Fault::new(at, "`printf` has more verbs than arguments"));
        };
        let fits = match verb {
            's' => value.kind() == Type::Text,
            'v' => true,
            'd' => value.kind() == Type::Int,
            't' => value.kind() == Type::Bool,
            _ => false,
        };
        if !fits {
            return Err(unfit());
        }
        parts.push(value);
    }
    parts.push(Code::Text(rest.to_owned()));
    if arguments.next().is_some() {
        return Err(Fault::new(at, "`printf` has more arguments than verbs"));
    }
    Ok(join(parts))
}
