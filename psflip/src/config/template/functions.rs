//! The functions that templates can call.

use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use jiff::fmt::strtime::{BrokenDownTime, Config, PosixCustom};
use jiff::tz::TimeZone;
use minijinja::Environment;

use super::fault::{Fault, LONGEST};
use super::store::{Local, Store};
use crate::config::error::{all_of, nearest, quoted};
use crate::config::file;
use crate::config::generation::Slot;
use crate::secrets;

/// The names of all functions, for messages.
pub(super) const NAMES: &[&str] =
    &["env", "ab", "blue_green", "local", "now", "utc_now", "cat", "escape_re", "generation", "free_port"];

/// The usage of a function.
pub(super) fn usage(name: &str) -> Option<&'static str> {
    Some(match name {
        "env" => "env('NAME')",
        "ab" => "ab('first', 'second')",
        "blue_green" => "blue_green()",
        "local" => "local('name')",
        "now" => "now('%Y-%m-%d')",
        "utc_now" => "utc_now('%Y-%m-%d')",
        "cat" => "cat('/path')",
        "escape_re" => "escape_re('text')",
        "generation" => "generation()",
        "free_port" => "free_port('20000-29999')",
        _ => return None,
    })
}

type Result<T = String> = std::result::Result<T, minijinja::Error>;

/// Adds the functions to `environment`.
pub(super) fn register(environment: &mut Environment<'static>, store: &Arc<Store>) {
    let seen = Arc::clone(store);
    environment.add_function("env", move |name: String, default: Option<String>| env(&seen, name, default));
    let seen = Arc::clone(store);
    environment.add_function("local", move |name: String| local(&seen, &name));
    let seen = Arc::clone(store);
    environment.add_function("free_port", move |range: String| free_port(&seen, &range));
    let (number, started) = (store.number, store.started);
    let seen = Arc::clone(store);
    environment
        .add_function("ab", move |a: String, b: String| if seen.use_slot() == Slot::A { a } else { b });
    let seen = Arc::clone(store);
    environment.add_function("blue_green", move || if seen.use_slot() == Slot::A { "blue" } else { "green" });
    environment.add_function("generation", move || number);
    environment.add_function("now", move |format: String| time(started, &format, TimeZone::system()));
    environment.add_function("utc_now", move |format: String| time(started, &format, TimeZone::UTC));
    environment.add_function("cat", |path: String| cat(&path));
    environment.add_function("escape_re", |text: String| escape_re(&text));
}

fn env(store: &Store, name: String, default: Option<String>) -> Result {
    let mut changing = store.changing();
    match changing.variables.get(&name) {
        Some(Some(value)) => match value.to_str() {
            Some(value) => {
                secrets::register(value, &format!("env('{name}')"));
                Ok(value.to_owned())
            }
            // The default does not apply: the variable is set, and psflip would start a command that the user
            // did not request.
            None => Err(Fault::new(format!("the environment variable {} is not UTF-8", quoted(&name)))
                .help("a configuration is text: set the variable to UTF-8, or let the program read it from its environment, which it inherits")
                .into()),
        },
        Some(None) => default.ok_or_else(|| {
            Fault::new(format!("the environment variable {} is not set", quoted(&name)))
                .help(format!("set it before psflip starts, or give a default: `env('{name}', 'default')`"))
                .into()
        }),
        None => {
            changing.wanted = Some(name);
            Err(Fault::new("a variable is fetched").into())
        }
    }
}

fn local(store: &Store, name: &str) -> Result {
    let changing = store.changing();
    match changing.locals.get(name) {
        Some(Local::Rendered(value)) => Ok(value.clone()),
        Some(Local::Broken) => {
            let mut fault = Fault::new(format!("the local {} can't be rendered", quoted(name)));
            fault.silent = true;
            Err(fault.into())
        }
        Some(Local::Later) => Err(Fault::new(format!("the local {} is used before it is set", quoted(name)))
            .help(format!("locals are rendered in order: move `{name}` above this line in `[locals]`"))
            .into()),
        None => {
            let fault = Fault::new(format!("there is no local {}", quoted(name)));
            Err(match nearest(name, changing.locals.keys()) {
                Some(other) => fault.help(format!("did you mean `local('{other}')`?")),
                None if changing.locals.is_empty() => {
                    fault.help(format!("set it: `[locals]` with `{name} = \"…\"`"))
                }
                None => {
                    let names: Vec<&String> = changing.locals.keys().take(10).collect();
                    fault.help(format!("`[locals]` has {}", all_of(&names)))
                }
            }
            .into())
        }
    }
}

fn free_port(store: &Store, range: &str) -> Result<u16> {
    Ok(store.changing().ports.free(range, store.number)?)
}

fn time(started: std::time::SystemTime, format: &str, zone: TimeZone) -> Result {
    let bad = |reason: &dyn std::fmt::Display| {
        let reason = reason.to_string().replace("strftime formatting failed: ", "");
        Fault::new(format!("the time format {} is not valid: {reason}", quoted(format)))
            .help("the format is that of strftime(3), for example `%Y-%m-%dT%H:%M:%S`")
    };
    if format.len() > 1024 {
        return Err(bad(&"it is longer than 1024 bytes").into());
    }
    let moment = Timestamp::try_from(started).map_err(|error| bad(&error))?.to_zoned(zone);
    // `%c` and similar formats as in the POSIX locale; jiff's default differs.
    let posix = Config::new().custom(PosixCustom::new());
    let text =
        BrokenDownTime::from(&moment).to_string_with_config(&posix, format).map_err(|error| bad(&error))?;
    Ok(text)
}

/// The text of a regular file without the newline at its end.
fn cat(path: &str) -> Result {
    let failed = |reason: String| Fault::new(format!("can't read {}: {reason}", quoted(path)));
    let (mut file, size) = match file::open_regular(Path::new(path)) {
        Ok(opened) => opened,
        Err(reason) => return Err(failed(reason).into()),
    };
    let too_long = || {
        failed("the file is larger than a value may be".to_owned()).help(format!("at most {LONGEST} bytes"))
    };
    if size > LONGEST as u64 {
        return Err(too_long().into());
    }
    let mut bytes = Vec::new();
    // Files in /proc have size 0, so the size alone does not limit what is read.
    if let Err(error) = file.by_ref().take(LONGEST as u64 + 1).read_to_end(&mut bytes) {
        return Err(failed(file::reason(&error)).into());
    }
    if bytes.len() > LONGEST {
        return Err(too_long().into());
    }
    let Ok(mut text) = String::from_utf8(bytes) else {
        return Err(failed("the file is not UTF-8".to_owned()).into());
    };
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    secrets::register(&text, &format!("cat('{path}')"));
    Ok(text)
}

/// The text as a regular expression that matches exactly this text.
fn escape_re(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if "\\.+*?()|[]{}^$#&-~/".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
