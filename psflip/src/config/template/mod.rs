//! Templates in string values: MiniJinja with limits on work, memory and output. The environment is built
//! only when a value needs it.
//!
//! MiniJinja requires functions that outlive the environment, while `Generation::env` is borrowed. So the
//! functions use a shared store. A variable that is not in the store yet aborts the rendering; it is then
//! fetched, and the value is rendered again.

pub(super) mod fault;
mod functions;
mod inspect;
pub(super) mod ports;
mod store;

use std::sync::Arc;

use minijinja::{Environment, ErrorKind, UndefinedBehavior};

use self::fault::{Fault, LONGEST, too_long};
use self::inspect::{inspect, syntax};
use self::ports::Ports;
use self::store::{Local, Store};
use super::error::{all_of, nearest, quoted};
use super::generation::Generation;

/// MiniJinja's fuel for one value: one unit per instruction or per 64 bytes, so a value can produce about 3
/// MB of text in total.
const FUEL_OF_VALUE: u64 = 50_000;
/// The fuel for one file.
const FUEL_OF_FILE: u64 = 1_000_000;
/// How many different variables the templates of one file may read.
const MOST_VARIABLES: usize = 200;

/// Renders the values of one file.
pub(super) struct Templates<'a> {
    generation: &'a Generation<'a>,
    store: Arc<Store>,
    environment: Option<Environment<'static>>,
    fuel: u64,
}

impl<'a> Templates<'a> {
    /// `ports` are those that `free_port()` may give.
    pub(super) fn new(generation: &'a Generation<'a>, ports: Ports) -> Self {
        Self {
            generation,
            store: Arc::new(Store::of(generation, ports)),
            environment: None,
            fuel: FUEL_OF_FILE,
        }
    }

    /// A variable of psflip's environment.
    pub(super) fn variable(&self, name: &str) -> Option<String> {
        (self.generation.env)(name)?.into_string().ok()
    }

    /// Declares the names of locals, to distinguish the use of a later local from that of an unknown one.
    pub(super) fn announce(&self, names: impl Iterator<Item = String>) {
        self.store.changing().locals.extend(names.map(|name| (name, Local::Later)));
    }

    /// Whether one that was rendered depends on the slot.
    pub(super) fn use_slot(&self) -> bool {
        self.store.changing().uses_slot
    }

    /// Sets a local for the values that follow; `None`: its error is already reported.
    pub(super) fn set_local(&self, name: &str, value: Option<String>) {
        let local = value.map_or(Local::Broken, Local::Rendered);
        self.store.changing().locals.insert(name.to_owned(), local);
    }

    /// Renders `text`. Most values are not templates and are returned unchanged.
    pub(super) fn render(&mut self, text: &str) -> Result<String, Fault> {
        let rendered = if is_template(text) { self.render_template(text)? } else { text.to_owned() };
        if rendered.contains('\0') {
            return Err(Fault::new("the value has a NUL character in it")
                .help("the kernel ends arguments, variables and paths at a NUL, so it can't be passed on"));
        }
        if rendered.len() > LONGEST {
            return Err(too_long(&rendered));
        }
        Ok(rendered)
    }

    fn render_template(&mut self, text: &str) -> Result<String, Fault> {
        if text.len() > LONGEST {
            return Err(too_long(text));
        }
        inspect(text)?;
        loop {
            let result = self.render_once(text);
            let wanted = self.store.changing().wanted.take();
            let (Err(_), Some(name)) = (&result, wanted) else { return result };
            let value = (self.generation.env)(&name);
            let mut changing = self.store.changing();
            if changing.variables.len() >= MOST_VARIABLES {
                return Err(Fault::new(format!(
                    "the templates of this file use more than {MOST_VARIABLES} variables"
                )));
            }
            changing.variables.insert(name, value);
        }
    }

    fn render_once(&mut self, text: &str) -> Result<String, Fault> {
        let store = &self.store;
        let environment = self.environment.get_or_insert_with(|| environment(store));
        let fuel = FUEL_OF_VALUE.min(self.fuel);
        environment.set_fuel(Some(fuel));
        let result = environment.template_from_str(text).and_then(|template| template.render_captured(()));
        // A template that failed may have used all its fuel; one that did not parse used none.
        let used = match &result {
            Ok(captured) => captured.state().fuel_levels().map_or(fuel, |(used, _)| used),
            Err(error) if error.kind() == ErrorKind::SyntaxError => 0,
            Err(error) if error.kind() == ErrorKind::OutOfFuel => fuel,
            // It failed on a variable that is now fetched; the number of variables is limited.
            Err(_) if store.changing().wanted.is_some() => 0,
            Err(_) => fuel / 10,
        };
        self.fuel = self.fuel.saturating_sub(used);
        result.map(minijinja::Captured::into_output).map_err(|error| explain(&error, text, store))
    }
}

/// Whether MiniJinja would find anything to evaluate.
pub(super) fn is_template(text: &str) -> bool {
    text.as_bytes().windows(2).any(|pair| matches!(pair, b"{{" | b"{%" | b"{#"))
}

fn environment(store: &Arc<Store>) -> Environment<'static> {
    let mut environment = Environment::empty();
    environment.set_debug(true); // errors then have a place
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_recursion_limit(50);
    environment.set_syntax(syntax());
    functions::register(&mut environment, store);
    environment
}

/// Translates MiniJinja's error into psflip's terms.
fn explain(error: &minijinja::Error, template: &str, store: &Store) -> Fault {
    let range = error.range().filter(|range| template.get(range.clone()).is_some());
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Fault>());
    let mut fault = match source {
        Some(fault) => fault.clone(),
        None => translate(error, range.clone().map_or("", |range| &template[range]), template, store),
    };
    fault.range = range;
    fault
}

fn translate(error: &minijinja::Error, at: &str, template: &str, store: &Store) -> Fault {
    let detail = error.detail().unwrap_or_default();
    match error.kind() {
        ErrorKind::SyntaxError => Fault::new(format!("malformed template: {}", syntax_error(detail))).help(if is_go(template) {
            "functions are called as in `{{ ab('a', 'b') }}`; upstream's Go templates, `{{ AB \"a\" \"b\" }}`, don't work here"
        } else {
            "a template looks like `{{ local('port') }}`; a literal `{{` is written `{{ '{{' }}`"
        }),
        ErrorKind::UnknownFunction => {
            let name = at.split('(').next().unwrap_or_default().trim();
            Fault::new(format!("there is no template function {}", quoted(name))).help(other_function(name))
        }
        ErrorKind::UndefinedError => {
            if at.contains('(') {
                return Fault::new(format!("something in {} is not defined", quoted(at)))
                    .help("write strings in quotes: `local('port')`, `env('HOME')`");
            }
            let known = store.changing().locals.contains_key(at);
            let fault = Fault::new(if at.is_empty() {
                "the template uses something that is not defined".to_owned()
            } else {
                format!("{} is not defined in a template", quoted(at))
            });
            if known {
                fault.help(format!("did you mean `local('{at}')`?"))
            } else {
                fault.help(other_function(at))
            }
        }
        ErrorKind::UnknownFilter | ErrorKind::UnknownTest => {
            Fault::new(format!("the template uses a filter or test that psflip doesn't have: {detail}"))
                .help(format!("only functions are available: {}", all_of(functions::NAMES)))
        }
        ErrorKind::MissingArgument | ErrorKind::TooManyArguments => {
            let name = at.split('(').next().unwrap_or_default().trim();
            let many = if error.kind() == ErrorKind::MissingArgument { "few" } else { "many" };
            let fault = Fault::new(format!("too {many} arguments in {}", quoted(at)));
            match functions::usage(name) {
                Some(usage) => fault.help(format!("write `{usage}`")),
                None => fault,
            }
        }
        kind if kind == ErrorKind::OutOfFuel || detail.contains("too large") => Fault::new("the template does too much work or makes too much text")
            .help("templates are for short values; let a script write long ones to a file and read it by `cat(path)`"),
        _ if detail.contains("operator on unsupported types") => {
            Fault::new(format!("the template can't be rendered: {detail}")).help("texts are joined by `~`: `generation() ~ 'a'`")
        }
        kind if detail.is_empty() => Fault::new(format!("the template can't be rendered: {kind}")),
        _ => Fault::new(format!("the template can't be rendered: {detail}")),
    }
}

/// Rephrases MiniJinja's most frequent syntax errors for users.
fn syntax_error(detail: &str) -> &str {
    match detail {
        "unexpected end of string" => "a string in it is not closed",
        "unexpected end of input, expected end of variable block" => "it is not closed by `}}`",
        "unexpected end of input, expected end of block" => "it is not closed by `%}`",
        "unexpected end of comment" => "the comment in it is not closed by `#}`",
        "template exceeds maximum recursion limits" => "it is nested too deeply",
        detail => detail,
    }
}

/// Whether it looks like a template of the Go version: `{{ AB "a" "b" }}`, `{{ .Env }}`.
fn is_go(template: &str) -> bool {
    template.split("{{").skip(1).any(|inner| {
        let inner = inner.trim_start_matches('-').trim_start();
        inner.starts_with(|c: char| c == '.' || c.is_ascii_uppercase())
    })
}

fn other_function(name: &str) -> String {
    match nearest(name, functions::NAMES) {
        Some(name) => format!("did you mean `{}`?", functions::usage(&name).unwrap_or_default()),
        None => format!("there are {}", all_of(functions::NAMES)),
    }
}
