//! No input makes psflip panic, hang, or use much memory (contract X2).

use proptest::prelude::*;

use super::{read, refused};

/// A configuration with `template` as its only argument.
fn argument(template: &str) -> String {
    format!("cmd = ['x', \"\"\"{template}\"\"\"]")
}

#[test]
fn long_expressions_are_refused_or_rendered() {
    // Contract: X2
    // Found by this test: MiniJinja's compiler overflows the stack on a chain of 100,000 `.a`.
    let chains = [
        (".a", 2),
        ("()", 2),
        ("|b", 2),
        (" is b", 2),
        ("+1", 2),
        ("~1", 2),
        ("**2", 2),
        (" and 1", 2),
        (" or 1", 2),
        (" < 1", 2),
        (" in 1", 2),
        (" if 1 else 1", 4),
        (" not", 1),
        ("-", 1),
        ("(", 1),
        ("%}{% if 1 ", 4),
        ("%}{% for a in 1 ", 6),
        ("%}{% elif 1 ", 4),
        ("}}{{ 1 ", 3),
    ];
    for (chain, tokens) in chains {
        // The longest one that is within the limit for tokens.
        let longest = chain.repeat(480 / tokens);
        for head in ["{{ a", "{{ 1", "{{ ", "{% if 1", "{% set a = 1"] {
            for tail in [" }}", " %}", ""] {
                let _ = read(&argument(&format!("{head}{longest}{tail}")));
            }
        }
        let message = refused(&argument(&format!("{{{{ a{} }}}}", chain.repeat(3_000))));
        let told =
            ["more than 500", "malformed template", "lists, maps"].iter().any(|part| message.contains(part));
        assert!(told, "{chain}: {message}");
    }
}

#[test]
fn templates_have_no_lists() {
    // Contract: X2
    // Found by this test: MiniJinja prints the first for half a minute, the second for days.
    for template in [
        "{{ [[1] * 10000] * 10000 }}",
        "{{ [[[1] * 1000] * 1000] * 1000 }}",
        "{% set a = 1, 1 %}{% set a = a, a %}{{ a == a }}",
        "{{ (1, 2) * 9 }}",
        "{{ not (1, 2) }}",
        "{{ ab((1, 2), 3) }}",
        "{{ {1: 2} }}",
        "{{ 1, 2 }}",
        "{% for a, b in 'ab' %}{% endfor %}",
        "{{ 'abc'[0] }}",
    ] {
        let message = refused(&argument(template));
        assert!(message.contains("lists, maps and indexes are not available"), "{message}");
    }
}

#[test]
fn deep_and_long_toml_is_refused_or_read() {
    // Contract: X2
    let many = 5_000;
    let texts = [
        format!("cmd = {}", "[".repeat(many)),
        format!("cmd = {}", "{a=".repeat(many)),
        format!("cmd = [{}]", "'x',".repeat(many)),
        format!("{}a = 1", "a.".repeat(many)),
        "=\n".repeat(many),
        "[[a]]\n".repeat(many),
        "[env]\n".repeat(many),
        format!("{} = 1", "k".repeat(many)),
        (0..many).map(|i| format!("key{i} = 1\n")).collect(),
        (0..many).map(|i| format!("[a.b.c{i}]\n")).collect(),
        format!(
            "cmd = ['x']\n[env]\n{}",
            (0..many).map(|i| format!("A{i} = '{{{{ b{i} }}}}'\n")).collect::<String>()
        ),
        format!("cmd = ['x']\n[healthcheck]\n{}", "http.url = 1\n".repeat(many)),
        "\u{feff}".repeat(many),
        "\r".repeat(many),
        "\0".repeat(many),
        "cmd = [\"x\"]\nupgrade.timeout = 99999999999999999999999999999999999999999999".to_owned(),
        "cmd = [\"x\"]\nupgrade.timeout = 0x7fffffffffffffffffff".to_owned(),
        "cmd = [\"x\"]\nupgrade.timeout = 1e999".to_owned(),
        "cmd = [\"x\"]\nupgrade.timeout = nan".to_owned(),
        "cmd = [\"x\"]\nupgrade.signal = -9223372036854775809".to_owned(),
        "cmd = [\"x\"]\nquiet = 1979-05-27T07:32:00Z".to_owned(),
        "cmd = [\"\"\"x".to_owned(),
    ];
    for text in texts {
        if let Err(errors) = read(&text) {
            let shown = errors.to_string();
            assert!(shown.len() < 64 * 1024, "{} bytes of messages", shown.len());
        }
    }
}

#[test]
fn too_deep_nesting_is_reported_with_its_position() {
    // Contract: X1
    // Found by `cargo xtask fuzz`: the TOML library gives no place for this error.
    let many = 200;
    for deep in [
        format!("a = {}", "[".repeat(many)),
        format!("a = {}1{}", "[".repeat(many), "]".repeat(many)),
        format!("a = {}", "{a=".repeat(many)),
        format!("[{}a]", "a.".repeat(many)),
        format!("{}a = 1", "a.".repeat(many)),
    ] {
        let message = refused(&format!("cmd = ['x']\n{deep}\nb = 1\n"));
        assert!(message.starts_with("app.toml:2:") && message.contains("nested too deeply"), "{message}");
    }
}

#[test]
fn no_message_repeats_a_long_value() {
    // Contract: X2
    // Found by `cargo xtask fuzz`: the message quoted an unknown statement in full.
    let message = refused(&argument(&format!("{{% {} %}}", "a".repeat(30_000))));
    assert!(message.len() < 2000, "{} bytes", message.len());
}

#[test]
fn the_number_of_reported_errors_is_bounded() {
    // Contract: X2
    let text: String = (0..3000).map(|i| format!("key{i} = 1\n")).collect();
    let errors = read(&text).unwrap_err();
    assert_eq!((errors.iter().count(), errors.count()), (50, 3001), "listed, and all with the missing `cmd`");
    assert!(errors.to_string().ends_with("app.toml: 2951 more errors are not shown"));
}

#[test]
fn templates_can_not_work_or_allocate_without_bounds() {
    // Contract: X2
    let loops = "{% for a in '123456789' %}".repeat(9) + "x" + &"{% endfor %}".repeat(9);
    let recursion = "{% for a in '1' recursive %}{{ loop('1') }}{% endfor %}";
    for template in [
        "{{ 'x' * 10**9 }}",
        "{{ ('x' * 60000) * 60000 }}",
        "{% set a = 'x' * 60000 %}{{ a ~ a ~ a ~ a ~ a ~ a ~ a }}",
        "{{ 'x' * 65537 }}",
        &loops,
        recursion,
    ] {
        let message = refused(&argument(template));
        assert!(
            message.contains("too much work")
                || message.contains("bytes long")
                || message.contains("recursion"),
            "{message}"
        );
    }
}

#[test]
fn the_variables_of_one_file_are_bounded() {
    // Contract: X2
    let env: String = (0..300).map(|i| format!("A{i} = \"{{{{ env('V{i}', '') }}}}\"\n")).collect();
    let message = refused(&format!("cmd = ['x']\n[env]\n{env}"));
    assert!(message.contains("more than 200 variables"), "{message}");
}

#[test]
fn every_conversion_of_strftime_is_rendered_or_refused() {
    // Contract: X2
    for prefix in [
        "",
        "-",
        "_",
        "0",
        "^",
        "#",
        ":",
        "::",
        ":::",
        ".",
        "3",
        ".3",
        "E",
        "O",
        "255",
        "256",
        "99999999999999999999",
        ".",
    ] {
        for conversion in (' '..='~').filter(|c| !"'\"\\{}".contains(*c)) {
            let text = argument(&format!("{{{{ now('%{prefix}{conversion}') }}}}"));
            if let Err(errors) = read(&text) {
                assert!(errors.to_string().contains("time format"), "%{prefix}{conversion}: {errors}");
            }
        }
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_reader_panic(text in "\\PC{0,200}") {
        // Contract: X2
        let _ = read(&text).map_err(|errors| errors.to_string());
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        // Contract: X2
        let _ = read(&String::from_utf8_lossy(&bytes)).map_err(|errors| errors.to_string());
    }

    #[test]
    fn no_mixture_of_toml_makes_the_reader_panic(parts in prop::collection::vec(prop::sample::select(TOML), 0..40)) {
        // Contract: X2
        let _ = read(&parts.concat()).map_err(|errors| errors.to_string());
    }

    #[test]
    fn no_template_makes_the_reader_panic(parts in prop::collection::vec(prop::sample::select(TEMPLATE), 0..25)) {
        // Contract: X2
        let _ = read(&argument(&parts.concat())).map_err(|errors| errors.to_string());
    }

    #[test]
    fn every_error_position_lies_in_the_file(parts in prop::collection::vec(prop::sample::select(TOML), 0..40)) {
        // Contract: X1
        let text = parts.concat();
        if let Err(errors) = read(&text) {
            for error in errors.iter() {
                let Some((line, column)) = errors.position(error) else { continue };
                let lines: Vec<&str> = text.split('\n').collect();
                prop_assert!(line >= 1 && line <= lines.len());
                prop_assert!(column <= lines[line - 1].chars().count() + 1, "{line}:{column} of {text:?}");
            }
        }
    }
}

const TOML: &[&str] = &[
    "cmd",
    "upgrade",
    "timeout",
    "signal",
    "healthcheck",
    "http",
    "url",
    "tcp",
    "address",
    "env",
    "locals",
    "status",
    " = ",
    "=",
    ".",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "\"",
    "'",
    "\"\"\"",
    "'''",
    "\n",
    "\r\n",
    " ",
    "\t",
    ",",
    "#",
    "\\",
    "\\u0000",
    "5",
    "0",
    "-1",
    "1.5",
    "true",
    "false",
    "inf",
    "0x1",
    "1979-05-27",
    "\"5s\"",
    "\"SIGHUP\"",
    "[\"x\"]",
    "\"{{ env('HOME') }}\"",
    "\"{{\"",
    "\"127.0.0.1:80\"",
    "\"http://[::1]/\"",
    "\"200-\"",
    "日本",
    "\u{feff}",
    "\u{1f600}",
    "\u{200b}",
    "\0",
    "\u{1b}",
];

const TEMPLATE: &[&str] = &[
    "{{",
    "}}",
    "{%",
    "%}",
    "{#",
    "#}",
    "{{-",
    "-}}",
    " ",
    "env",
    "('HOME')",
    "ab(",
    "'a'",
    ",",
    ")",
    "(",
    "local",
    "now(",
    "'%Y'",
    "cat('/dev/null')",
    "escape_re",
    "generation()",
    "blue_green()",
    "if",
    "else",
    "endif",
    "for",
    "in",
    "endfor",
    "set",
    "=",
    "a",
    ".",
    "[",
    "]",
    "|",
    "~",
    "+",
    "*",
    "**",
    "9",
    "10",
    "-",
    "'",
    "\"",
    "\\",
    "\\x",
    "\\u12",
    "loop",
    "recursive",
    "not",
    "is",
    "and",
    "range",
    "macro",
    "raw",
    "endraw",
    "\n",
    "日",
    "none",
    "true",
    ":",
    "{",
    "}",
    "//",
    "%",
    "with",
    "filter",
];
