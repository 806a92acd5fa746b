//! Reads the values of keys. Their limits, words and defaults are those of the table of keys.

use std::path::PathBuf;
use std::time::Duration;

use toml::de::DeValue;

use super::error::{Error, any_of, nearest, quoted};
use super::keys::{Key, Kind, Zero};
use super::reader::Reader;
use super::scalar::{self, Refused};
use super::section::{Node, Section};
use super::template::fault::LONGEST;
use super::template::is_template;
use super::words::Word;
use crate::signal::Signal;

/// The default of a key, by the parser of its values.
fn default<T>(key: &Key, parse: impl FnOnce(&str) -> Result<T, Refused>) -> Option<T> {
    key.absent.value().and_then(|text| parse(text).ok())
}

impl Reader<'_> {
    /// A string that `parse` accepts, or the default. `None`: it is invalid, or there is neither.
    pub(super) fn parsed<T>(
        &mut self,
        section: &Section<'_>,
        name: &str,
        parse: impl FnOnce(&str) -> Result<T, Refused>,
    ) -> Option<T> {
        match section.find(name) {
            Some(node) => self.parsed_string(name, node, parse),
            None => default(section.key(name), parse),
        }
    }

    /// A duration (contract X3).
    pub(super) fn duration(&mut self, section: &Section<'_>, name: &str) -> Duration {
        let key = section.key(name);
        let read = section.find(name).and_then(|node| self.read_duration(key, node));
        read.or_else(|| default(key, scalar::duration)).unwrap_or_default()
    }

    fn read_duration(&mut self, key: &Key, node: Node<'_>) -> Option<Duration> {
        let name = key.name;
        let reason = match key.kind {
            Kind::Duration(Zero::Refused(reason)) => Some(reason),
            _ => None,
        };
        let duration = match node.get_ref() {
            DeValue::Integer(_) | DeValue::Float(_) => {
                let written = self.written(node);
                let error = Error::at(node.span(), format!("the duration {} has no unit", quoted(written)));
                let digits = written.replace('_', "");
                self.error(error.help(match reason {
                    Some(reason) if digits == "0" => format!("`{name}` can't be zero at all: {reason}"),
                    _ => scalar::unit_hint(&digits, "\""),
                }));
                return None;
            }
            DeValue::String(_) => self.parsed_string(name, node, scalar::duration)?,
            _ => {
                let hint = Some("for example `\"10s\"`".to_owned());
                self.wrong_type(node, &format!("`{name}` must be a duration"), hint);
                return None;
            }
        };
        if let Some(reason) = reason.filter(|_| duration.is_zero()) {
            self.error(Error::at(node.span(), format!("`{name}` can't be zero: {reason}")));
            return None;
        }
        Some(duration)
    }

    /// A percentage.
    pub(super) fn percent(&mut self, section: &Section<'_>, name: &str) -> u32 {
        let most = if let Kind::Percent(most) = section.key(name).kind { most } else { 100 };
        self.parsed(section, name, |text| scalar::percent(text, most)).unwrap_or_default()
    }

    /// A signal, read by `parse`.
    pub(super) fn signal(
        &mut self,
        section: &Section<'_>,
        name: &str,
        parse: impl Fn(&str) -> Result<Signal, Refused>,
    ) -> Signal {
        let read = section.find(name).and_then(|node| self.read_signal(name, node, &parse));
        read.or_else(|| default(section.key(name), parse)).unwrap_or(Signal::TERM)
    }

    /// As [`Reader::signal`], with this name in messages.
    pub(super) fn read_signal(
        &mut self,
        name: &str,
        node: Node<'_>,
        parse: impl FnOnce(&str) -> Result<Signal, Refused>,
    ) -> Option<Signal> {
        if let DeValue::Integer(number) = node.get_ref() {
            let number = i64::from_str_radix(number.as_str(), number.radix()).unwrap_or(i64::MAX);
            self.refused(node, scalar::signal_number(number));
            return None;
        }
        self.parsed_string(name, node, parse)
    }

    /// `true` or `false`.
    pub(super) fn boolean(&mut self, section: &Section<'_>, name: &str) -> bool {
        self.optional_boolean(section, name)
            .or_else(|| Some(section.key(name).absent.value()? == "true"))
            .unwrap_or_default()
    }

    /// `true` or `false`; `None` without the key.
    pub(super) fn optional_boolean(&mut self, section: &Section<'_>, name: &str) -> Option<bool> {
        let node = section.find(name)?;
        let hint = match node.get_ref() {
            DeValue::Boolean(value) => return Some(*value),
            DeValue::String(text) if matches!(&**text, "true" | "false") => {
                format!("write `{text}` without quotes")
            }
            DeValue::String(text) if is_template(text) => {
                format!("`{name}` takes no template: write `true` or `false`")
            }
            _ => "write `true` or `false`".to_owned(),
        };
        self.wrong_type(node, &format!("`{name}` must be `true` or `false`"), Some(hint));
        None
    }

    /// A whole number; `None` without the key, or if it is invalid.
    pub(super) fn optional_number(&mut self, section: &Section<'_>, name: &str) -> Option<u32> {
        self.read_number(section.key(name), section.find(name)?)
    }

    /// A whole number.
    pub(super) fn number(&mut self, section: &Section<'_>, name: &str) -> u32 {
        let key = section.key(name);
        let read = section.find(name).and_then(|node| self.read_number(key, node));
        read.or_else(|| key.absent.value()?.parse().ok()).unwrap_or_default()
    }

    fn read_number(&mut self, key: &Key, node: Node<'_>) -> Option<u32> {
        let name = key.name;
        let range = match key.kind {
            Kind::Number(least, most) => least..=most,
            _ => 0..=u32::MAX,
        };
        let allowed = format!("a whole number from {} to {}", range.start(), range.end());
        let DeValue::Integer(number) = node.get_ref() else {
            let number = node.get_ref().as_str().is_some_and(|text| text.parse::<u32>().is_ok());
            let hint = number.then(|| "write it without quotes: `2`".to_owned());
            self.wrong_type(node, &format!("`{name}` must be {allowed}"), hint);
            return None;
        };
        let value =
            u32::from_str_radix(number.as_str(), number.radix()).ok().filter(|value| range.contains(value));
        if value.is_none() {
            let written = quoted(self.written(node));
            self.error(Error::at(node.span(), format!("`{name}` must be {allowed}, not {written}")));
        }
        value
    }

    /// One of a few words, or the default. `None`: it is invalid.
    pub(super) fn word<T: Word>(&mut self, section: &Section<'_>, name: &str) -> Option<T> {
        let key = section.key(name);
        let read = section.find(name).and_then(|node| self.read_word(key, node));
        read.or_else(|| T::of_word(key.absent.value()?))
    }

    fn read_word<T: Word>(&mut self, key: &Key, node: Node<'_>) -> Option<T> {
        let (name, words) = (key.name, T::WORDS);
        self.parsed_string(name, node, |text| {
            T::of_word(text).ok_or_else(|| Refused {
                message: format!("`{name}` can't be {}", quoted(text)),
                help: Some(match nearest(text, words) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("it can be {}", any_of(words)),
                }),
            })
        })
    }

    /// One or more of a few words, each once; never empty.
    pub(super) fn words<T: Word>(&mut self, section: &Section<'_>, name: &str) -> Vec<T> {
        let key = section.key(name);
        let read = section.find(name).and_then(|node| self.read_words(key, node));
        read.or_else(|| Some(vec![T::of_word(key.absent.value()?)?])).unwrap_or_default()
    }

    fn read_words<T: Word>(&mut self, key: &Key, node: Node<'_>) -> Option<Vec<T>> {
        let DeValue::Array(items) = node.get_ref() else {
            return self.read_word(key, node).map(|word| vec![word]);
        };
        if items.is_empty() {
            let help = format!("it can have {}", any_of(T::WORDS));
            self.error(Error::at(node.span(), format!("`{}` is empty", key.name)).help(help));
            return None;
        }
        let mut words = Vec::new();
        for item in items.iter() {
            let word = self.read_word(key, item)?;
            if !words.contains(&word) {
                words.push(word);
            }
        }
        Some(words)
    }

    /// A path that is not empty.
    pub(super) fn path(&mut self, section: &Section<'_>, name: &str) -> Option<PathBuf> {
        self.parsed(section, name, |text| {
            if text.is_empty() {
                scalar::refuse_help(format!("`{name}` is empty"), "write a path, or leave the key out")
            } else if text.len() > 4095 {
                scalar::refuse_help(
                    format!("the path in `{name}` has {} bytes", text.len()),
                    "the kernel allows at most 4095",
                )
            } else {
                Ok(PathBuf::from(text))
            }
        })
    }

    /// An argv; empty if there is none.
    pub(super) fn argv(&mut self, section: &Section<'_>, name: &str) -> Vec<String> {
        let may_be_empty = matches!(section.key(name).kind, Kind::Argv(true));
        let argv = section.find(name).and_then(|node| self.read_argv(name, node, may_be_empty));
        argv.unwrap_or_default()
    }

    fn read_argv(&mut self, key: &str, node: Node<'_>, may_be_empty: bool) -> Option<Vec<String>> {
        let example = "one string per argument, without a shell: `[\"./server\", \"--port\", \"8080\"]`";
        let items = match node.get_ref() {
            DeValue::Array(items) => items,
            DeValue::String(text) => {
                self.error(
                    Error::at(node.span(), format!("`{key}` must be an array of strings, not one string"))
                        .help(array_hint(text)),
                );
                return None;
            }
            _ => {
                self.wrong_type(
                    node,
                    &format!("`{key}` must be an array of strings"),
                    Some(example.to_owned()),
                );
                return None;
            }
        };
        if items.is_empty() && !may_be_empty {
            self.error(Error::at(node.span(), format!("`{key}` is empty")).help(example));
            return None;
        }
        let mut argv = Vec::with_capacity(items.len());
        let mut total = 0;
        for item in items.iter() {
            if !item.get_ref().is_str() {
                self.wrong_type(item, &format!("every argument in `{key}` must be a string"), None);
                continue;
            }
            let Some(argument) = self.string(key, item) else { continue };
            if argument.is_empty() && argv.is_empty() && item.span() == items[0].span() {
                self.error(Error::at(
                    item.span(),
                    format!("the first string of `{key}`, the program, is empty"),
                ));
            }
            total += argument.len();
            argv.push(argument);
        }
        if total > 16 * LONGEST {
            self.error(
                Error::at(node.span(), format!("the arguments in `{key}` have {total} bytes together"))
                    .help(format!("at most {} are allowed", 16 * LONGEST)),
            );
            return None;
        }
        (argv.len() == items.len()).then_some(argv)
    }
}

/// How to write a command line as an array.
fn array_hint(text: &str) -> String {
    let simple = !text.is_empty()
        && text.len() <= 60
        && text.chars().all(|c| c.is_alphanumeric() || " ./_-=:,@%+".contains(c));
    if simple {
        let words: Vec<String> = text.split_whitespace().map(|word| format!("\"{word}\"")).collect();
        return format!("there is no shell, so write one string per argument: `[{}]`", words.join(", "));
    }
    "there is no shell, so write one string per argument: `[\"./server\", \"--port\", \"8080\"]`; \
     if you need a shell: `[\"sh\", \"-c\", \"…\"]`"
        .to_owned()
}
