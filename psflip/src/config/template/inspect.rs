//! Limits what a template may contain. It is decided on the tokens, before MiniJinja parses them.
//!
//! MiniJinja's fuel limits instructions and text, but not two other costs (3.1, both found by
//! `config/tests/limits.rs`). Its compiler recurses once for each link of `a.b.c…` until the stack
//! overflows. Printing or comparing a list of lists, `[[1] * 10000] * 10000`, takes minutes in one
//! instruction. Values of a configuration need neither long expressions nor lists.

use minijinja::machinery::{Token, tokenize};
use minijinja::syntax::SyntaxConfig;

use super::fault::Fault;

/// The most tokens outside of plain text; nesting to that depth takes less than 1 MB of stack even in a debug
/// build.
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

/// Rejects templates that are too long or contain lists, tuples or maps.
pub(super) fn inspect(template: &str) -> Result<(), Fault> {
    let mut count = 0;
    // For each open parenthesis, whether it holds the arguments of a call.
    let mut calls = Vec::new();
    let mut callable = false;
    for token in tokenize(template, false, syntax()) {
        // The parser reports this error: it gets no further than this point either.
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

/// MiniJinja's usual delimiters. Unlike its default, a newline at the end of a value is kept.
pub(super) fn syntax() -> SyntaxConfig {
    SyntaxConfig::builder().keep_trailing_newline(true).build().unwrap_or_default()
}
