//! Values and places of the three formats.

use super::{Format, Position, Value, numbers::resolve, read};

#[test]
fn plain_scalars_are_resolved_as_in_upstreams_library() {
    let ints = [
        ("8080", 8080),
        ("-1", -1),
        ("+7", 7),
        ("0755", 493),
        ("0o17", 15),
        ("0x1F", 31),
        ("0b11", 3),
        ("1_000", 1000),
        ("0", 0),
    ];
    for (word, number) in ints {
        assert!(matches!(resolve(word), Value::Int(found) if found == number), "{word}: {:?}", resolve(word));
    }
    for (word, number) in
        [("1.5", 1.5), ("1e3", 1000.0), ("08", 8.0), (".5", 0.5), ("5.", 5.0), ("-1.25", -1.25)]
    {
        assert!(
            matches!(resolve(word), Value::Float(found) if found == number),
            "{word}: {:?}",
            resolve(word)
        );
    }
    for word in
        ["yes", "on", "0x", "1.2.3", "-", "+", "1e", "10s", "127.0.0.1", "-x", ".", "...", "2020-1", "a b"]
    {
        assert!(matches!(resolve(word), Value::Text(found) if found == word), "{word}: {:?}", resolve(word));
    }
    for word in ["2020-01-01", "2020-1-1T10:00:00Z", "2020-01-01 10:00:00", "0xFFFFFFFFFFFFFFFFFFFF"] {
        assert!(matches!(resolve(word), Value::Other(_)), "{word}: {:?}", resolve(word));
    }
    assert!(matches!(resolve("~"), Value::Null) && matches!(resolve("True"), Value::Bool(true)));
}

#[test]
fn positions_are_lines_and_columns_in_characters() {
    let texts = [
        (Format::Yaml, "\u{feff}é: 1\nb: ['ü', \"x\"]\n"),
        (Format::Json, "{\"é\": 1,\n\"b\": [\"ü\", \"x\"]}"),
        (Format::Toml, "'é' = 1\nb = ['ü', \"x\"]\n"),
    ];
    for (format, text) in texts {
        let source = read(text, format).unwrap();
        let Value::List(items) = &source.root[1].node.value else { panic!("{format:?}") };
        let column = match format {
            Format::Yaml => 10,
            Format::Json => 12,
            Format::Toml => 11,
        };
        assert_eq!(items[1].at, Position { line: 2, column }, "{format:?}");
        assert_eq!(
            source.position(items[1].verbatim.unwrap()),
            Position { line: 2, column: column + 1 },
            "{format:?}"
        );
    }
}

#[test]
fn a_hash_sign_in_a_string_starts_no_comment() {
    let text = "# one\na = '#no' # two\nb = \"\"\"\n# no\n\"\"\"\n\"#k\" = 1 # three\n";
    let source = read(text, Format::Toml).unwrap();
    let told: Vec<_> = source.comments.iter().map(|comment| (comment.line, comment.text.as_str())).collect();
    assert_eq!(told, [(1, "one"), (2, "two"), (6, "three")]);
}

#[test]
fn the_format_is_detected() {
    let texts = [
        ("cmd: [x]\n", Format::Yaml),
        (" {\"cmd\": 1}", Format::Json),
        ("cmd = ['x']\n", Format::Toml),
        ("", Format::Yaml),
    ];
    for (text, format) in texts {
        assert_eq!(Format::of_text(text), format, "{text}");
    }
    assert_eq!(Format::of_name("a/b.YML"), Some(Format::Yaml));
    assert_eq!(Format::of_name("a.b/c"), None);
}
