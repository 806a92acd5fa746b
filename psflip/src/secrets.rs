//! Values that may be secret: those that a template took from an environment variable (`env`) or a file
//! (`cat`).
//!
//! A probe's URL or an error message may quote a rendered value. Before psflip logs, sends or prints such a
//! text, it replaces each of these values by its origin: `{{ env('TOKEN') }}`. It does not replace values of
//! fewer than four characters, numbers (ports and counts), or results of filters (`env('TOKEN') | upper`).

use std::borrow::Cow;
use std::cell::RefCell;

/// Shorter values occur in any text.
const SHORTEST: usize = 4;
/// How many texts are kept at most, up to four forms of each value; a configuration has few variables.
const MOST: usize = 400;

thread_local! {
    /// Pairs of a value and its origin, the longest value first. psflip has one thread; each test has its
    /// own.
    static KNOWN: RefCell<Vec<(String, String)>> = const { RefCell::new(Vec::new()) };
}

/// Hides this value from now on. `origin`: the expression that gave it, such as `env('TOKEN')`.
pub(crate) fn register(value: &str, origin: &str) {
    if value.chars().count() < SHORTEST || value.chars().all(|c| c.is_ascii_digit()) {
        return;
    }
    KNOWN.with_borrow_mut(|known| {
        // In plain form, and as messages, log fields and JSON escape it.
        let json = serde_json::to_string(value).unwrap_or_default();
        let json = json.trim_matches('"').to_owned();
        for written in [value.to_owned(), value.escape_debug().to_string(), crate::text::escaped(value), json]
        {
            if known.len() < MOST && known.iter().all(|(other, _)| *other != written) {
                known.push((written, format!("{{{{ {origin} }}}}")));
            }
        }
        known.sort_by_key(|(value, _)| std::cmp::Reverse(value.len()));
    });
}

/// Returns the text with these values replaced.
pub(crate) fn hide(text: &str) -> Cow<'_, str> {
    KNOWN.with_borrow(|known| {
        let mut hidden = Cow::Borrowed(text);
        for (value, origin) in known {
            if hidden.contains(value.as_str()) {
                hidden = Cow::Owned(hidden.replace(value.as_str(), origin));
            }
        }
        hidden
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_value_is_replaced_by_its_source() {
        register("hunter2\"x", "env('TOKEN')");
        register("hunter2\"x and more", "cat('/run/token')");
        for text in ["GET /?t=hunter2\"x: 403", r#"reason="GET /?t=hunter2\"x: 403""#] {
            let hidden = hide(text);
            assert!(hidden.contains("GET /?t={{ env('TOKEN') }}: 403"), "{hidden}");
        }
        assert_eq!(hide("hunter2\"x and more"), "{{ cat('/run/token') }}");
    }

    #[test]
    fn ports_and_short_values_stay() {
        register("8080", "env('PORT')");
        register("abc", "env('SHORT')");
        assert_eq!(hide("connect to 127.0.0.1:8080 abc"), "connect to 127.0.0.1:8080 abc");
    }
}
