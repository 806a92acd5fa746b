//! The type of an unquoted word in YAML, as yaml.v3 decides it (the library that upstream uses). It is not
//! YAML 1.2: `0755` is 493 and `2025-01-01` is a date, while `yes` is a text.

use super::Value;

/// Resolves a plain scalar.
pub(super) fn resolve(word: &str) -> Value {
    match word {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        ".inf" | ".Inf" | ".INF" | "+.inf" | "+.Inf" | "+.INF" => return Value::Float(f64::INFINITY),
        "-.inf" | "-.Inf" | "-.INF" => return Value::Float(f64::NEG_INFINITY),
        _ => {}
    }
    if !word.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.')) {
        return Value::Text(word.to_owned());
    }
    if is_date(word) {
        return Value::Other("a date");
    }
    let plain = word.replace('_', "");
    match integer(&plain) {
        Some(Ok(number)) => return Value::Int(number),
        Some(Err(())) if is_float(&plain) => {}
        Some(Err(())) => return Value::Other("a number that is too large"),
        None => {}
    }
    match plain.parse() {
        Ok(number) if is_float(&plain) => Value::Float(number),
        _ => Value::Text(word.to_owned()),
    }
}

/// Parses an integer with Go's prefixes; `Err` if it does not fit.
pub(in crate::migrate) fn integer(word: &str) -> Option<Result<i64, ()>> {
    let (negative, digits) = match word.as_bytes().first()? {
        b'-' => (true, &word[1..]),
        b'+' => (false, &word[1..]),
        _ => (false, word),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return None;
    }
    let number =
        i128::from_str_radix(digits, radix).ok().map(|number| if negative { -number } else { number });
    Some(number.and_then(|number| i64::try_from(number).ok()).ok_or(()))
}

/// `[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_float(word: &str) -> bool {
    let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let word = word.strip_prefix(['-', '+']).unwrap_or(word);
    let whole = digits(word);
    let rest = &word[whole..];
    let rest = match rest.strip_prefix('.') {
        Some(rest) if whole > 0 || digits(rest) > 0 => &rest[digits(rest)..],
        Some(_) => return false,
        None if whole > 0 => rest,
        None => return false,
    };
    let Some(exponent) = rest.strip_prefix(['e', 'E']) else { return rest.is_empty() };
    let exponent = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    !exponent.is_empty() && digits(exponent) == exponent.len()
}

/// Whether the word begins like a date, `2025-1-31`, alone or before a time.
fn is_date(word: &str) -> bool {
    let (date, time) = match word.find(['T', 't', ' ']) {
        Some(at) => (&word[..at], word[at + 1..].trim_start()),
        None => (word, "0"),
    };
    let parts: Vec<&str> = date.split('-').collect();
    let is_number = |text: &str, most: usize| {
        (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let [year, month, day] = parts.as_slice() else { return false };
    year.len() == 4
        && is_number(year, 4)
        && is_number(month, 2)
        && is_number(day, 2)
        && time.starts_with(|c: char| c.is_ascii_digit())
}
