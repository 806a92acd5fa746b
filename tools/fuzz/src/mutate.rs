//! Makes new inputs from seeds: moves, repeats, nests and replaces words and punctuation, and sometimes
//! single bytes.

use crate::rng::Rng;

/// The usual maximum length of an input, in bytes.
const USUAL: usize = 32 * 1024;
/// The maximum length of an input, in bytes: slightly more than a configuration may have.
const LONGEST: usize = 1024 * 1024 + 10;

/// Values that break many parsers.
const EVIL: &[&str] = &[
    "0",
    "-1",
    "1",
    "255",
    "256",
    "65535",
    "65536",
    "2147483648",
    "4294967295",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "99999999999999999999999999999999999999999",
    "1e999",
    "-0",
    "0.0000000001",
    "nan",
    "inf",
    "0x7f",
    "1_0",
    "\0",
    "\n",
    "\r\n",
    "\r",
    "\t",
    " ",
    "",
    "\u{feff}",
    "\u{200b}",
    "\u{202e}",
    "\u{1f600}",
    "é",
    "日本",
    "\u{1b}[0m",
    "\u{7f}",
    "\\",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "{",
    "}",
    "[",
    "]",
    "[[",
    "]]",
    "(",
    ")",
    ",",
    ".",
    "=",
    ":",
    "/",
    "@",
    "#",
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "%",
    "$",
    "-",
    "~",
    "true",
    "false",
];

/// Invalid UTF-8, and rare valid UTF-8.
const BYTES: &[&[u8]] =
    &[b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xc3", b"\x00", b"\x80"];

/// Makes an input from the corpus. `words`: the target's dictionary.
pub(crate) fn input(rng: &mut Rng, corpus: &[Vec<u8>], words: &[String]) -> Vec<u8> {
    let mut input = rng.pick(corpus).cloned().unwrap_or_default();
    let longest = if rng.one_in(500) { LONGEST } else { USUAL };
    let most = 1 + rng.below(12);
    let steps = 1 + rng.below(most);
    for _ in 0..steps {
        input = step(rng, &input, corpus, words);
        input.truncate(longest);
    }
    input
}

fn step(rng: &mut Rng, input: &[u8], corpus: &[Vec<u8>], words: &[String]) -> Vec<u8> {
    let tokens = tokens(input);
    let at = rng.below(tokens.len());
    let range = rng.range(tokens.len());
    let (before, token, after) = split(&tokens, at..(at + 1).min(tokens.len()));
    match rng.below(16) {
        0 | 1 => [before, word(rng, words), after].concat(),
        2 | 3 => [before, token, word(rng, words), after].concat(),
        4 => {
            let other = rng.pick(corpus).map_or(&[] as &[u8], Vec::as_slice);
            let others = self::tokens(other);
            let (_, middle, _) = split(&others, rng.range(others.len()));
            [before, middle, after].concat()
        }
        5 => {
            let (before, _, after) = split(&tokens, range);
            [before, after].concat()
        }
        6 => {
            let (before, middle, after) = split(&tokens, range);
            let times = 1 << rng.rarely_below(20, 20, 6);
            let times = times.min(LONGEST / middle.len().max(1));
            [before, middle.repeat(times), after].concat()
        }
        7 => {
            let (before, middle, after) = split(&tokens, range);
            // The new place may be the old one.
            let rest = [before, after].concat();
            let cut = rng.below(rest.len() + 1);
            [&rest[..cut], &middle, &rest[cut..]].concat()
        }
        8 => {
            let mut bytes = input.to_vec();
            if let Some(last) = bytes.len().checked_sub(1) {
                bytes[rng.below(last + 1)] = rng.any() as u8;
            }
            bytes
        }
        9 => {
            let bytes = rng.pick(BYTES).copied().unwrap_or_default().to_vec();
            [before, bytes, token, after].concat()
        }
        10 => input[..rng.below(input.len() + 1)].to_vec(),
        11 => {
            let other = rng.pick(corpus).map_or(&[] as &[u8], Vec::as_slice);
            let (cut, other_cut) = (rng.below(input.len() + 1), rng.below(other.len() + 1));
            [&input[..cut], &other[other_cut..]].concat()
        }
        12 => lines(rng, input),
        13 => {
            let pairs = [
                ("[", "]"),
                ("{a=", "}"),
                ("{{", "}}"),
                ("(", ")"),
                ("\"", "\""),
                ("{% if ", " %}"),
                ("\\", ""),
            ];
            let (open, close) = rng.pick(&pairs).copied().unwrap_or_default();
            let times = 1 << rng.rarely_below(10, 12, 3);
            [before, open.repeat(times).into(), token, close.repeat(times).into(), after].concat()
        }
        14 => {
            let digits: Vec<usize> =
                (0..tokens.len()).filter(|at| tokens[*at].first().is_some_and(u8::is_ascii_digit)).collect();
            let at = rng.pick(&digits).copied().unwrap_or(at);
            let (before, _, after) = split(&tokens, at..(at + 1).min(tokens.len()));
            let numbers = &EVIL[..22];
            [before, rng.pick(numbers).copied().unwrap_or_default().into(), after].concat()
        }
        _ => {
            let character =
                rng.pick(&["a", "9", " ", "é", "\u{1f600}", "/", "\\", "{"]).copied().unwrap_or_default();
            let many = character.repeat(1 << rng.rarely_below(20, 17, 9));
            [before, many.into(), after].concat()
        }
    }
}

/// A word from the dictionary, or one of [`EVIL`].
fn word(rng: &mut Rng, words: &[String]) -> Vec<u8> {
    if rng.one_in(3) {
        return rng.pick(EVIL).copied().unwrap_or_default().into();
    }
    rng.pick(words).map(String::as_str).unwrap_or_default().into()
}

/// Moves, repeats or removes a line.
fn lines(rng: &mut Rng, input: &[u8]) -> Vec<u8> {
    let mut lines: Vec<&[u8]> = input.split_inclusive(|byte| *byte == b'\n').collect();
    if lines.is_empty() {
        return Vec::new();
    }
    let line = lines[rng.below(lines.len())];
    match rng.below(3) {
        0 => lines.insert(rng.below(lines.len() + 1), line),
        1 => drop(lines.remove(rng.below(lines.len()))),
        _ => {
            let (one, other) = (rng.below(lines.len()), rng.below(lines.len()));
            lines.swap(one, other);
        }
    }
    lines.concat()
}

/// Splits into words, runs of spaces, and single characters.
fn tokens(input: &[u8]) -> Vec<&[u8]> {
    let kind = |byte: &u8| match byte {
        b' ' | b'\t' => 1,
        // Usually keeps the bytes of a multi-byte character together.
        b'_' | 0x80.. => 2,
        byte if byte.is_ascii_alphanumeric() => 2,
        _ => 0,
    };
    input.chunk_by(|one, other| kind(one) != 0 && kind(one) == kind(other)).collect()
}

fn split(tokens: &[&[u8]], range: std::ops::Range<usize>) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    (tokens[..range.start].concat(), tokens[range.clone()].concat(), tokens[range.end..].concat())
}
