//! Options as Perl's Getopt::Long reads them: `--name VALUE`, `--name=VALUE`, `-name`, unique abbreviations
//! in any case, also after the first argument that is no option, up to `--`.

use super::Wrong;

/// What an option takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    Nothing,
    Text,
    Number,
}

/// An option of the command line, and its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Given {
    pub(super) name: &'static str,
    pub(super) value: String,
    /// For messages: the option with the number of its argument.
    pub(super) place: String,
}

/// Reads the options; returns the other arguments as well.
pub(super) fn read(
    arguments: &[String],
    known: &'static [(&'static str, Takes)],
) -> Result<(Vec<Given>, Vec<String>), Wrong> {
    let mut given = Vec::new();
    let mut others = Vec::new();
    let mut arguments_left = arguments.iter().enumerate();
    while let Some((index, argument)) = arguments_left.next() {
        if argument == "--" {
            others.extend(arguments_left.map(|(_, argument)| argument.clone()));
            break;
        }
        let Some(option) = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-')) else {
            others.push(argument.clone());
            continue;
        };
        if option.is_empty() {
            others.push(argument.clone());
            continue;
        }
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        let place = format!("argument {} (`{}`)", index + 1, crate::text::head(argument, 60));
        let (name, takes) = meant(name, known, &place)?;
        let value = match (takes, value) {
            (Takes::Nothing, None) => String::new(),
            (Takes::Nothing, Some(_)) => {
                return Err(Wrong::new(
                    place,
                    format!("`--{name}` takes no value"),
                    "remove the `=` and what follows",
                ));
            }
            (_, Some(value)) => value,
            (_, None) => match arguments_left.next() {
                Some((_, value)) => value.clone(),
                None => {
                    let help = format!("write `--{name}=VALUE`");
                    return Err(Wrong::new(place, format!("`--{name}` needs a value"), help));
                }
            },
        };
        let is_number =
            value.strip_prefix(['-', '+']).unwrap_or(&value).bytes().all(|byte| byte.is_ascii_digit());
        if takes == Takes::Number && (value.is_empty() || !is_number) {
            let message = format!("`--{name}` needs a whole number, not `{}`", crate::text::head(&value, 60));
            return Err(Wrong::new(place, message, format!("write `--{name}=3`")));
        }
        given.push(Given { name, value, place: format!("`--{name}`") });
    }
    Ok((given, others))
}

/// The option with this name, or the only one that begins with it.
fn meant(
    written: &str,
    known: &'static [(&'static str, Takes)],
    place: &str,
) -> Result<(&'static str, Takes), Wrong> {
    let lower = written.to_ascii_lowercase();
    if let Some(found) = known.iter().find(|(name, _)| *name == lower) {
        return Ok(*found);
    }
    let near: Vec<&(&str, Takes)> = known.iter().filter(|(name, _)| name.starts_with(&lower)).collect();
    match near[..] {
        [found] => Ok(*found),
        [] => {
            if ["o", "output", "force"].contains(&lower.as_str()) {
                let help =
                    "psflip's own options go before it: `psflip migrate -o psflip.toml start_server ...`";
                return Err(Wrong::new(place, "start_server has no such option", help));
            }
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            let help = match crate::config::error::nearest(&lower, &names) {
                Some(near) => format!("did you mean `--{near}`?"),
                None => "the program and its options go after `--`; remove the option if it has no purpose"
                    .to_owned(),
            };
            Err(Wrong::new(place, "start_server has no such option", help))
        }
        _ => {
            let names: Vec<String> = near.iter().map(|(name, _)| format!("`--{name}`")).collect();
            Err(Wrong::new(
                place,
                "it may stand for several options",
                format!("write {}", names.join(" or ")),
            ))
        }
    }
}
