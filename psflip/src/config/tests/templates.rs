//! Errors in templates. Every message as a user sees it (contract X1).

use insta::assert_snapshot;

use super::refused;

#[test]
fn a_misspelled_local() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ local('prot') }}"]
[locals]
port = "80""#), @r#"
    app.toml:1:17: there is no local `prot`
      |
    1 | cmd = ["x", "{{ local('prot') }}"]
      |                 ^^^^^^^^^^^^^
      = help: did you mean `local('port')`?
    "#);
}

#[test]
fn a_local_without_function() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ port }}"]
[locals]
port = "80""#), @r#"
    app.toml:1:17: `port` is not defined in a template
      |
    1 | cmd = ["x", "{{ port }}"]
      |                 ^^^^
      = help: did you mean `local('port')`?
    "#);
}

#[test]
fn a_local_without_quotes() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ local(port) }}"]
[locals]
port = "80""#), @r#"
    app.toml:1:17: something in `local(port)` is not defined
      |
    1 | cmd = ["x", "{{ local(port) }}"]
      |                 ^^^^^^^^^^^
      = help: write strings in quotes: `local('port')`, `env('HOME')`
    "#);
}

#[test]
fn a_local_where_there_are_none() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ local('port') }}"]"#), @r#"
    app.toml:1:17: there is no local `port`
      |
    1 | cmd = ["x", "{{ local('port') }}"]
      |                 ^^^^^^^^^^^^^
      = help: set it: `[locals]` with `port = "…"`
    "#);
}

#[test]
fn a_local_before_it_is_set() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[locals]
a = "{{ local('b') }}"
b = "1""#), @r#"
    app.toml:3:9: the local `b` is used before it is set
      |
    3 | a = "{{ local('b') }}"
      |         ^^^^^^^^^^
      = help: locals are rendered in order: move `b` above this line in `[locals]`
    "#);
}

#[test]
fn an_invalid_local_is_reported_once() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ local('a') }}"]
[locals]
a = "{{ env('NOPE') }}"
b = "{{ local('a') }}""#), @r#"
    app.toml:3:9: the environment variable `NOPE` is not set
      |
    3 | a = "{{ env('NOPE') }}"
      |         ^^^^^^^^^^^
      = help: set it before psflip starts, or give a default: `env('NOPE', 'default')`
    "#);
}

#[test]
fn a_local_that_is_not_a_string() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[locals]
port = 8080"#), @r#"
    app.toml:3:8: the local `port` must be a string, not an integer
      |
    3 | port = 8080
      |        ^^^^
      = help: did you mean `"8080"`?
    "#);
}

#[test]
fn an_unset_variable() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ env('NOPE') }}"]"#), @r#"
    app.toml:1:17: the environment variable `NOPE` is not set
      |
    1 | cmd = ["x", "{{ env('NOPE') }}"]
      |                 ^^^^^^^^^^^
      = help: set it before psflip starts, or give a default: `env('NOPE', 'default')`
    "#);
}

#[test]
fn a_misspelled_function() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ blue_gren() }}"]"#), @r#"
    app.toml:1:17: there is no template function `blue_gren`
      |
    1 | cmd = ["x", "{{ blue_gren() }}"]
      |                 ^^^^^^^^^^^
      = help: did you mean `blue_green()`?
    "#);
}

#[test]
fn an_unknown_function() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ range(9) }}"]"#), @r#"
    app.toml:1:17: there is no template function `range`
      |
    1 | cmd = ["x", "{{ range(9) }}"]
      |                 ^^^^^^^^
      = help: there are `env`, `ab`, `blue_green`, `local`, `now`, `utc_now`, `cat`, `escape_re`, `generation` and `free_port`
    "#);
}

#[test]
fn a_go_template() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", '{{ AB "8080" "8081" }}']"#), @r#"
    app.toml:1:20: malformed template: unexpected string, expected end of variable block
      |
    1 | cmd = ["x", '{{ AB "8080" "8081" }}']
      |                    ^^^^^^
      = help: functions are called as in `{{ ab('a', 'b') }}`; upstream's Go templates, `{{ AB "a" "b" }}`, don't work here
    "#);
}

#[test]
fn an_open_template() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "--port={{ ab('1', '2')"]"#), @r#"
    app.toml:1:35: malformed template: it is not closed by `}}`
      |
    1 | cmd = ["x", "--port={{ ab('1', '2')"]
      |                                   ^
      = help: a template looks like `{{ local('port') }}`; a literal `{{` is written `{{ '{{' }}`
    "#);
}

#[test]
fn an_open_string_in_a_template() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ env('HOME) }}"]"#), @r#"
    app.toml:1:13: malformed template: a string in it is not closed
      |
    1 | cmd = ["x", "{{ env('HOME) }}"]
      |             ^^^^^^^^^^^^^^^^^^
      = help: a template looks like `{{ local('port') }}`; a literal `{{` is written `{{ '{{' }}`
    "#);
}

#[test]
fn too_few_and_too_many_arguments() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ ab('a') }}", "{{ generation(1) }}"]"#), @r#"
    app.toml:1:17: too few arguments in `ab('a')`
      |
    1 | cmd = ["x", "{{ ab('a') }}", "{{ generation(1) }}"]
      |                 ^^^^^^^
      = help: write `ab('first', 'second')`

    app.toml:1:34: too many arguments in `generation(1)`
      |
    1 | cmd = ["x", "{{ ab('a') }}", "{{ generation(1) }}"]
      |                                  ^^^^^^^^^^^^^
      = help: write `generation()`
    "#);
}

#[test]
fn a_list() {
    // Contract: X1, X2
    assert_snapshot!(refused(r#"cmd = ["x", "{{ [1, 2] }}"]"#), @r#"
    app.toml:1:17: lists, maps and indexes are not available in templates
      |
    1 | cmd = ["x", "{{ [1, 2] }}"]
      |                 ^
      = help: a template makes one text of functions, strings and numbers: `{{ ab('8080', '8081') }}`
    "#);
}

#[test]
fn an_expression_without_end() {
    // Contract: X1, X2
    assert_snapshot!(refused(r#"cmd = ["x", "{{ 1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1 }}"]"#), @r#"
    app.toml:1:516: the template has more than 500 words and signs
      |
    1 | …+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+1+…
      |                                                    ^
      = help: use several values, or let a script make the text and read it by `cat(path)`
    "#);
}

#[test]
fn a_filter() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ env('HOME') | upper }}"]"#), @r#"
    app.toml:1:31: the template uses a filter or test that psflip doesn't have: filter upper is unknown
      |
    1 | cmd = ["x", "{{ env('HOME') | upper }}"]
      |                               ^^^^^
      = help: only functions are available: `env`, `ab`, `blue_green`, `local`, `now`, `utc_now`, `cat`, `escape_re`, `generation` and `free_port`
    "#);
}

#[test]
fn a_sum_of_text_and_number() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ generation() + 'a' }}"]"#), @r#"
    app.toml:1:17: the template can't be rendered: tried to use + operator on unsupported types number and string
      |
    1 | cmd = ["x", "{{ generation() + 'a' }}"]
      |                 ^^^^^^^^^^^^^^^^^^
      = help: texts are joined by `~`: `generation() ~ 'a'`
    "#);
}

#[test]
fn a_malformed_time_format() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ now('%') }}"]"#), @r#"
    app.toml:1:17: the time format `%` is not valid: invalid format string, expected byte after `%`, but found end of format string
      |
    1 | cmd = ["x", "{{ now('%') }}"]
      |                 ^^^^^^^^
      = help: the format is that of strftime(3), for example `%Y-%m-%dT%H:%M:%S`
    "#);
}

#[test]
fn a_file_that_does_not_exist() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "{{ cat('/nonexistent/file') }}"]"#), @r#"
    app.toml:1:17: can't read `/nonexistent/file`: no such file or directory
      |
    1 | cmd = ["x", "{{ cat('/nonexistent/file') }}"]
      |                 ^^^^^^^^^^^^^^^^^^^^^^^^
    "#);
}

#[test]
fn a_file_that_never_ends() {
    // Contract: X1, X2
    assert_snapshot!(refused(r#"cmd = ["x", "{{ cat('/dev/zero') }}"]"#), @r#"
    app.toml:1:17: can't read `/dev/zero`: it is a device, not a regular file
      |
    1 | cmd = ["x", "{{ cat('/dev/zero') }}"]
      |                 ^^^^^^^^^^^^^^^^
    "#);
}

#[test]
fn more_text_than_a_value_may_have() {
    // Contract: X1, X2
    assert_snapshot!(refused(r#"cmd = ["x", "{{ 'x' * 100000 }}"]"#), @r#"
    app.toml:1:13: the value is 100000 bytes long
      |
    1 | cmd = ["x", "{{ 'x' * 100000 }}"]
      |             ^^^^^^^^^^^^^^^^^^^^
      = help: at most 65536 bytes are allowed
    "#);
}

#[test]
fn more_work_than_a_template_may_do() {
    // Contract: X1, X2
    assert_snapshot!(refused(r#"cmd = ["x", "{{ 'x' * 10**9 }}"]"#), @r#"
    app.toml:1:17: the template does too much work or makes too much text
      |
    1 | cmd = ["x", "{{ 'x' * 10**9 }}"]
      |                 ^^^^^^^^^^^
      = help: templates are for short values; let a script write long ones to a file and read it by `cat(path)`
    "#);
}

#[test]
fn a_rendered_value_that_is_refused() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.signal = "{{ 'SIG' ~ 'UP' }}"
shutdown.timeout = "{{ env('EMPTY') }}""#), @r#"
    app.toml:2:18: `SIGUP` is not a signal (as its template was rendered)
      |
    2 | upgrade.signal = "{{ 'SIG' ~ 'UP' }}"
      |                  ^^^^^^^^^^^^^^^^^^^^
      = help: did you mean `SIGHUP`?

    app.toml:3:20: the duration is empty (as its template was rendered)
      |
    3 | shutdown.timeout = "{{ env('EMPTY') }}"
      |                    ^^^^^^^^^^^^^^^^^^^^
      = help: a duration is whole numbers with units, largest first: `500ms`, `10s`, `1m30s`, `2h`, `1d`
    "#);
}

#[test]
fn a_variable_that_is_not_utf_8_is_an_error_despite_a_default() {
    // Contract: X1
    for template in ["{{ env('LATIN1') }}", "{{ env('LATIN1', '8080') }}"] {
        let told = refused(&format!("cmd = ['x', \"{template}\"]"));
        assert!(told.contains("the environment variable `LATIN1` is not UTF-8"), "{told}");
    }
}

#[test]
fn ranges_of_ports_that_are_none() {
    // Contract: X1
    let mut text = String::new();
    for call in [
        "free_port()",
        "free_port(20000)",
        "free_port('20000')",
        "free_port('a-b')",
        "free_port('0-100')",
        "free_port('60000-70000')",
        "free_port('-1')",
        "free_port('29999-20000')",
        "free_port('20000-20000')",
        "free_ports('20000-29999')",
    ] {
        text += &format!("{}\n\n", refused(&format!("cmd = [\"x\", \"{{{{ {call} }}}}\"]")));
    }
    insta::assert_snapshot!("ports", text);
}
