//! The text of a configuration, from a file or the command line: its plan, and the places of its keys.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::{Error, Errors};
use super::flags::Flags;
use super::generation::Generation;
use super::plan::Plan;
use super::{build, file, lenient, raw, template};

/// The name of a configuration that consists of flags.
pub(super) const COMMAND_LINE: &str = "the command line";

/// A configuration that was read but not parsed yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    name: String,
    text: String,
    /// For each line the flag that it was made of; empty for a file.
    flags: Vec<String>,
    /// Whether the text contains bytes that are not UTF-8, in the encoding of `raw`.
    is_raw: bool,
}

/// Something that is valid but probably unintended. Messages are fragments, like those of errors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Warning {
    /// The key it is about, dotted, with an index for an array of tables: `listen.0.address`. Empty: the
    /// whole file.
    pub key: String,
    /// What is unusual, and why it matters.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl Document {
    /// Reads the file at `path`: a regular file, or a pipe that psflip inherited (`/dev/stdin`), of at most 1
    /// MiB.
    ///
    /// # Errors
    /// One, without a place, if the file can't be read.
    pub fn read(path: &Path) -> Result<Self, Errors> {
        let name = crate::text::lossy(path);
        let bytes = match file::read(path) {
            Ok(bytes) => bytes,
            Err(reason) => {
                let error = Error::whole(format!("can't read the configuration: {reason}"));
                return Err(Errors::new(&name, "", vec![error], 0));
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => Ok(Self { name, text, flags: Vec::new(), is_raw: false }),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let byte = error.as_bytes().get(at).copied().unwrap_or_default();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let error = Error::at(at..at + 1, format!("byte `0x{byte:02X}` is not UTF-8"))
                    .help("save the file with the encoding UTF-8");
                Err(Errors::new(&name, &text, vec![error], 0))
            }
        }
    }

    /// The configuration that consists of flags.
    #[must_use]
    pub fn of_flags(flags: &Flags) -> Self {
        let is_raw = flags.is_raw();
        let (text, flags) = flags.lines();
        Self { name: COMMAND_LINE.to_owned(), text, flags, is_raw }
    }

    /// Its name in messages.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The path of the file; `None` if the configuration consists of flags.
    #[must_use]
    pub fn file(&self) -> Option<&str> {
        self.flags.is_empty().then_some(self.name.as_str())
    }

    /// The text: of the file, or of the file that the flags stand for.
    #[must_use]
    pub fn text(&self) -> String {
        if self.is_raw { raw::unmarked(&self.text) } else { self.text.clone() }
    }

    /// The text of a configuration that consists of flags.
    #[must_use]
    pub fn text_of_flags(&self) -> Option<String> {
        (!self.flags.is_empty()).then(|| raw::unmarked(&self.text))
    }

    /// Whether it contains templates, so that another generation may get other values.
    #[must_use]
    pub fn has_templates(&self) -> bool {
        template::is_template(&self.text)
    }

    /// The plan of a generation.
    ///
    /// # Errors
    /// All errors of the configuration.
    pub fn plan(&self, generation: &Generation<'_>) -> Result<Plan, Errors> {
        let plan = build::parse(&self.name, &self.text, generation).map(|plan| self.as_given(plan));
        plan.map_err(|errors| {
            let errors = errors.of_flags(self.flags.clone());
            if self.is_raw { errors.map_text(raw::unmarked) } else { errors }
        })
    }

    /// The plan with the original bytes of the command line.
    fn as_given(&self, mut plan: Plan) -> Plan {
        if self.is_raw {
            plan.raw_cmd = Some(plan.cmd.iter().map(|argument| raw::decode(argument)).collect());
            for argument in &mut plan.cmd {
                *argument = raw::unmarked(argument);
            }
            for path in plan.pidfile.iter_mut().chain(&mut plan.workdir) {
                *path = raw::path(path);
            }
        }
        plan
    }

    /// As [`Document::plan`], for a client that only needs to find the control socket: returns the valid
    /// parts, and the errors of the rest.
    ///
    /// # Errors
    /// The text is not TOML.
    pub fn plan_even_if_broken(&self, generation: &Generation<'_>) -> Result<(Plan, Option<Errors>), Errors> {
        let (plan, errors) = build::parse_even_if_broken(&self.name, &self.text, generation)?;
        Ok((self.as_given(plan), errors))
    }

    /// As [`Document::plan_even_if_broken`], for a text that is not TOML: plans that say only where the
    /// control socket may be, the likeliest first. They hold what can be read from the lines of `pidfile`,
    /// `[control]` and `[locals]`.
    #[must_use]
    pub fn places_even_if_no_toml(&self, generation: &Generation<'_>) -> Vec<Plan> {
        let plans = lenient::places(&self.text).into_iter();
        let whole = |(plan, errors): (Plan, Option<Errors>)| errors.is_none().then_some(plan);
        plans
            .filter_map(|text| {
                build::parse_even_if_broken(&self.name, &text, generation).ok().and_then(whole)
            })
            .collect()
    }

    /// Whether it has this key (dotted).
    #[must_use]
    pub fn has_key(&self, key: &str) -> bool {
        let root = DeTable::parse(&self.text);
        root.is_ok_and(|root| find(root.get_ref(), key).is_some_and(|(_, all)| all))
    }

    /// The warnings with their places, ready to be shown; `None` if there are none.
    #[must_use]
    pub fn locate(&self, warnings: Vec<Warning>) -> Option<Errors> {
        let root = DeTable::parse(&self.text).ok()?;
        let list: Vec<Error> = warnings
            .into_iter()
            .map(|Warning { key, message, help }| Error {
                message: format!("warning: {message}"),
                span: find(root.get_ref(), &key).map(|(node, _)| node.span()),
                help: Some(help),
            })
            .collect();
        (!list.is_empty()).then(|| Errors::new(&self.name, &self.text, list, 0).of_flags(self.flags.clone()))
    }
}

/// The value of a dotted key, or of its longest prefix that exists, and whether it is the whole key.
fn find<'t>(root: &'t DeTable<'t>, key: &str) -> Option<(&'t Spanned<DeValue<'t>>, bool)> {
    let mut parts = key.split('.');
    let mut node = root.get(parts.next()?)?;
    for part in parts {
        let next = match node.get_ref() {
            DeValue::Table(table) => table.get(part),
            DeValue::Array(items) => part.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        };
        match next {
            Some(next) => node = next,
            None => return Some((node, false)),
        }
    }
    Some((node, true))
}
