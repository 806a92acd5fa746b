//! Go templates and their translations, one by one.

use super::translate;

/// The translation, or `! PLACE: REASON` if there is none.
fn become_of(template: &str) -> String {
    match translate(template) {
        Ok(translation) => translation.text,
        Err(fault) => format!("! {}: {}", fault.at, fault.message),
    }
}

#[track_caller]
fn all(cases: &[(&str, &str)]) {
    for (template, ours) in cases {
        assert_eq!(become_of(template), *ours, "{template}");
    }
}

#[test]
fn functions_of_upstream_are_translated() {
    all(&[
        ("{{ Env \"X\" }}", "{{ env('X', '') }}"),
        ("{{ EnvDefault `X` \"d\" }}", "{{ env('X', 'd') }}"),
        ("{{ AB \"a\" \"b\" }}-{{BlueGreen}}", "{{ ab('a', 'b') }}-{{ blue_green() }}"),
        ("{{ Local \"port\" }}", "{{ local('port') }}"),
        ("{{ Cat \"f\" }}", "{{ cat('f') }}"),
        ("{{ Now \"%F\" }} {{ UTCNow \"%f\" }}", "{{ now('%Y-%m-%d') }} {{ utc_now('%6f') }}"),
        ("{{ EscapeRE (Env \"X\") }}", "{{ escape_re(env('X', '')) }}"),
        ("{{ Env \"X\" | EscapeRE }}", "{{ escape_re(env('X', '')) }}"),
        ("{{ \"b\" | AB \"a\" }}", "{{ ab('a', 'b') }}"),
        ("{{ EscapeRE \"a.b\" }}{{ EscapeRE \"a-b.c\" }}", "{{ escape_re('a.b') }}a-b\\.c"),
        (
            "{{ env \"X\" }}{{ cat \"f\" }}{{ now \"%Y\" }}{{ utcnow \"%Y\" }}",
            "{{ env('X', '') }}{{ cat('f') }}{{ now('%Y') }}{{ utc_now('%Y') }}",
        ),
        ("{{ Env \"PSFLIP_AB_FLAG\" }}", "{{ ab('a', 'b') }}"),
    ]);
}

#[test]
fn built_in_go_template_syntax_is_translated() {
    all(&[
        ("a {{- \"b\" -}} c {{/* no */}}d{{- /* no */ -}} e", "abc de"),
        ("{{ \"a\\tb\\\"\\u00e9\\x41\\101\" }}{{ `raw \\n` }}", "a\tb\"éAAraw \\n"),
        ("{{ 5 }}{{ -3 }}{{ 0x10 }}{{ 'a' }}{{ true }}", "5-31697true"),
        ("{{ print \"a\" 1 2 BlueGreen }}", "a1 2{{ blue_green() }}"),
        ("{{ printf \"%s:%d %v%%\" (Env \"H\") 80 BlueGreen }}", "{{ env('H', '') }}:80 {{ blue_green() }}%"),
        ("{{ println \"a\" \"b\" }}", "a b\n"),
        ("{{ len \"é\" }}", "2"),
        ("{{ $p := AB \"1\" \"2\" }}{{ $p }}-{{ $p }}", "{{ ab('1', '2') }}-{{ ab('1', '2') }}"),
        ("{{ $p := \"1\" }}{{ $p = \"2\" }}{{ $p }}", "2"),
        ("{{ if Env \"X\" }}a{{ else }}b{{ end }}", "{% if env('X', '') %}a{% else %}b{% endif %}"),
        (
            "{{ if eq BlueGreen \"blue\" }}1{{ else if Env \"X\" }}2{{ else }}3{{ end }}",
            "{% if blue_green() == 'blue' %}1{% elif env('X', '') %}2{% else %}3{% endif %}",
        ),
        ("{{ if eq \"a\" \"a\" }}1{{ else }}2{{ end }}", "1"),
        ("{{ with Env \"X\" }}<{{ . }}>{{ end }}", "{% if env('X', '') %}<{{ env('X', '') }}>{% endif %}"),
        (
            "{{ if $x := Env \"X\" }}{{ $x }}{{ $x = \"y\" }}{{ $x }}{{ else }}[{{ $x }}]{{ end }}",
            "{% if env('X', '') %}{{ env('X', '') }}y{% else %}[{{ env('X', '') }}]{% endif %}",
        ),
        (
            "{{ if and (Env \"X\") (not (Env \"Y\")) }}a{{ end }}",
            "{% if env('X', '') and (not env('Y', '')) %}a{% endif %}",
        ),
        ("{{ eq (Env \"X\") \"a\" \"b\" }}", "{{ (env('X', '') == 'a') or (env('X', '') == 'b') }}"),
        ("{{ or \"\" (Env \"X\") }}", "{{ env('X', '') }}"),
    ]);
}

#[test]
fn text_that_looks_like_a_template_is_escaped() {
    all(&[
        ("plain", "plain"),
        ("a {% b %} {# c #}", "a {{ '{% b %} {#' }} c #}"),
        ("{{ \"{{\" }}", "{{ '{{' }}"),
        ("{{ `{` }}{{ Env \"X\" }}}", "{{ '{' }}{{ env('X', '') }}}"),
        ("${ {{ Env \"it's\" }}", "${ {{ env('it\\'s', '') }}"),
        ("{", "{"),
    ]);
}

#[test]
fn untranslatable_parts_are_reported_with_their_position() {
    all(&[
        ("ab{{ .Field }}", "! 5: `.Field` stands for data, of which upstream gives none"),
        ("{{ . }}", "! 3: `.` stands for data, of which upstream gives none"),
        ("{{ $ }}", "! 3: `$` stands for data, of which upstream gives none"),
        ("{{ $x }}", "! 3: there is no variable `$x`"),
        ("{{ range BlueGreen }}{{ end }}", "! 0: there are no loops in psflip's templates"),
        ("{{ define \"x\" }}{{ end }}", "! 0: there are no named templates in psflip's; write its text here"),
        ("{{ Foo }}", "! 3: neither Go nor upstream has a function `Foo`"),
        ("{{ AB \"a\" }}", "! 3: `AB` takes 2 arguments, and here are 1"),
        ("{{ Env 5 }}", "! 3: `Env` takes texts only"),
        ("{{ len BlueGreen }}", "! 3: psflip's templates can't tell the length of a text"),
        ("{{ html BlueGreen }}", "! 3: psflip's templates have no counterpart of `html`"),
        (
            "{{ printf \"%5s\" BlueGreen }}",
            "! 3: of the verbs of `printf` psflip knows `%s`, `%v`, `%d` and `%t`, and here is `%5`",
        ),
        ("{{ Now \"%Q\" }}", "! 3: in the time format `%Q` has no counterpart"),
        ("{{ eq \"a\" 1 }}", "! 3: only values of one type can be compared"),
        (
            "{{ $x := \"\" }}{{ if Env \"X\" }}{{ $x = \"1\" }}{{ end }}",
            "! 33: `$x` gets another value in some cases; psflip's templates have no variables",
        ),
        ("{{ 1.5 }}", "! 3: `1.5` is no integer that psflip's templates know"),
        ("{{ (Env \"X\").Y }}", "! 12: texts have no field `.Y`"),
    ]);
}

#[test]
fn invalid_templates_are_reported() {
    all(&[
        ("{{ Env \"X\"", "! 0: the action is not closed by `}}`"),
        ("{{ Env \"X }}", "! 7: a string in it is not closed"),
        ("{{ `x }}", "! 3: a raw string in it is not closed"),
        ("{{ }}", "! 0: an action without anything in it"),
        ("{{ if Env \"X\" }}", "! 0: it is not closed by `{{ end }}`"),
        ("{{ end }}", "! 0: an `end` without an `if`"),
        ("{{ else }}", "! 0: an `else` without an `if`"),
        ("{{ (Env \"X\" }}", "! 3: the parenthesis is not closed"),
        ("{{ \"a\" \"b\" }}", "! 7: an argument for something that is no function"),
        ("{{ \"a\" | \"b\" }}", "! 9: behind `|` stands no function"),
        ("{{ Env | }}", "! 0: a value is missing"),
        ("{{ \"\\q\" }}", "! 4: a string in it has an escape that makes no character of Unicode"),
        ("{{ § }}", "! 3: unexpected `§` in an action"),
        ("{{/* a }}", "! 2: the comment is not closed by `*/`"),
    ]);
}

#[test]
fn remaining_differences_are_noted() {
    let notes = |template| translate(template).unwrap().notes;
    assert_eq!(notes("a{{ Cat \"f\" }}")[0].0, 4);
    assert!(notes("{{ EscapeRE BlueGreen }}")[0].1.contains("`-`"));
    assert!(notes("{{ Now (Env \"F\") }}")[0].1.contains("known only when it runs"));
    assert_eq!(notes("{{ Env \"X\" }}{{ EscapeRE \"a\" }}"), []);
}

#[test]
fn translation_takes_bounded_time_and_memory() {
    // Contract: X2
    let doubled: String =
        (1..40).map(|n| format!("{{{{ $a{n} := print $a{} $a{} }}}}", n - 1, n - 1)).collect();
    assert!(become_of(&format!("{{{{ $a0 := BlueGreen }}}}{doubled}{{{{ $a39 }}}}")).contains("too long"));
    assert!(become_of(&format!("{{{{ {}1{} }}}}", "(".repeat(30_000), ")".repeat(30_000))).starts_with('!'));
    assert!(become_of(&format!("{{{{ \"a\" {} }}}}", "| print ".repeat(5000))).starts_with('!'));
    assert!(become_of(&"{{ if Env \"X\" }}".repeat(3000)).starts_with('!'));
    assert!(
        become_of(&format!("{{{{ if Env `X` }}}}{}{{{{ end }}}}", "{{ else if Env `Y` }}".repeat(2000)))
            .starts_with('!')
    );
    assert!(become_of(&"x".repeat(100_000)).starts_with('!'));
}
