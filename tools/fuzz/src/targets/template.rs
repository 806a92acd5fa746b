//! `template`: any text as a template: in an argument, a local and the environment.

use std::path::Path;

use super::{Run, config, ensure};
use crate::Error;

pub(super) const WORDS: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "{{-",
    "-}}",
    "{%-",
    "-%}",
    " ",
    "env",
    "('HOME')",
    "('EMPTY', 'x')",
    "ab(",
    "'a'",
    ",",
    ")",
    "(",
    "local('a')",
    "now(",
    "'%Y'",
    "cat('/dev/null')",
    "cat('/proc/self/maps')",
    "escape_re(",
    "generation()",
    "blue_green()",
    "utc_now('%s')",
    "if ",
    " else ",
    "{% endif %}",
    "{% for a in 'ab' %}",
    "{% for a in 'ab' recursive %}",
    "{{ loop(a) }}",
    "{% endfor %}",
    "{% set a = 'x' * 9999 %}",
    "a ~ a",
    ".a",
    "[0]",
    "|upper",
    " * 10000",
    " ** 9",
    " * 10**9",
    "range(10**9)",
    "-",
    "'",
    "\"",
    "\\x",
    "\\u12",
    "loop.index",
    " not ",
    " is ",
    " and ",
    " or ",
    " in ",
    "{% macro m() %}",
    "{% endmacro %}",
    "{% raw %}",
    "{% endraw %}",
    "{% include 'x' %}",
    "{% extends 'x' %}",
    "{% block b %}",
    "{% endblock %}",
    "{% call m() %}",
    "{% with a = 1 %}",
    "{% filter upper %}",
    "{% do m() %}",
    "{% autoescape true %}",
    "none",
    "true",
    "9",
    "//",
    "%",
    "0.1",
    "1e308",
    "+",
    "<",
    "==",
];

pub(super) fn start(_: &Path) -> Result<Run, Error> {
    Ok(Box::new(|bytes| {
        let text = String::from_utf8_lossy(bytes);
        let literal = literal(&text);
        // Other values use this local, so its text becomes part of their templates.
        let file = format!(
            "cmd = [\"x\", \"{{{{ local('a') ~ local('a') }}}}\"]\n[locals]\na = {literal}\n[env]\nA = {literal}\n"
        );
        config::check(&file)?;
        let plain = !["{{", "{%", "{#"].iter().any(|sign| text.contains(sign));
        if plain && !text.contains('\0') && text.len() < 30_000 {
            let plan = config::read(&file)
                .map_err(|errors| format!("a text that is no template is refused: {errors}"))?;
            ensure(plan.cmd[1] == text.repeat(2), || "a text that is no template is changed".to_owned())?;
        }
        Ok(())
    }))
}

/// The text as a TOML string.
pub(super) fn literal(text: &str) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push('"');
    for char in text.chars() {
        if char.is_ascii_graphic() && char != '"' && char != '\\' || char == ' ' {
            literal.push(char);
        } else {
            literal.push_str(&format!("\\U{:08X}", u32::from(char)));
        }
    }
    literal.push('"');
    literal
}
