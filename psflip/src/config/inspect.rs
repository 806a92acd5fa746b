//! What a template may be made of, decided on its tokens before MiniJinja parses it.
//!
//! MiniJinja's fuel bounds instructions and text, but two things escape it (3.1, both found by `tests/limits.rs`):
//! its compiler recurses once for each link of `a.b.c…` until the stack overflows, and printing or comparing a list of
//! lists, `[[1] * 10000] * 10000`, works for minutes on one instruction. A value of a configuration needs neither long
//! expressions nor lists.

use minijinja::machinery::{Token, tokenize};

use super::template::Fault;

/// The most tokens outside of plain text; a nesting of that depth takes less than 1 MB of stack even in a debug build.
const MOST_TOKENS: usize = 500;

/// Words before a parenthesis that do not make it a call.
const KEYWORDS: &[&str] = &[
    "not",
    "and",
    "or",
    "in",
    "is",
    "if",
    "else",
    "elif",
    "for",
    "set",
    "with",
    "recursive",
    "filter",
    "do",
    "call",
];

/// Refuses templates that are too long or have lists, tuples or maps.
pub(super) fn inspect(template: &str) -> Result<(), Fault> {
    let mut count = 0;
    // For each open parenthesis: does it hold a call's arguments?
    let mut calls = Vec::new();
    let mut callable = false;
    for token in tokenize(template, false, super::template::syntax()) {
        // What can't be read is left to the parser to tell; it gets no further than this point either.
        let Ok((token, span)) = token else { return Ok(()) };
        let range = span.start_offset as usize..span.end_offset as usize;
        let list = match token {
            Token::TemplateData(_) | Token::VariableStart | Token::BlockStart => {
                calls.clear();
                false
            }
            Token::ParenOpen => {
                calls.push(callable);
                false
            }
            Token::ParenClose => {
                calls.pop();
                false
            }
            Token::Comma => calls.last() != Some(&true),
            Token::BracketOpen | Token::BraceOpen => true,
            _ => false,
        };
        if list {
            let mut fault = Fault::new("lists, maps and indexes are not available in templates").help(
                "a template makes one text of functions, strings and numbers: `{{ ab('8080', '8081') }}`",
            );
            fault.range = Some(range);
            return Err(fault);
        }
        callable = match &token {
            Token::Ident(name) => !KEYWORDS.contains(name),
            Token::ParenClose => true,
            _ => false,
        };
        count += usize::from(!matches!(token, Token::TemplateData(_)));
        if count > MOST_TOKENS {
            let mut fault = Fault::new(format!("the template has more than {MOST_TOKENS} words and signs"))
                .help("use several values, or let a script make the text and read it by `cat(path)`");
            fault.range = Some(range);
            return Err(fault);
        }
    }
    Ok(())
}
