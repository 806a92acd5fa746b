//! Errors of the TOML syntax, and how places in unusual lines are shown. Every message as a user sees it
//! (contract X1).

use insta::assert_snapshot;

use super::refused;

#[test]
fn an_open_array() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"
quiet = true"#), @r#"
    app.toml:2:1: the array is not closed, or a comma is missing
      |
    2 | quiet = true
      | ^
      = help: write `["one", "two"]`
    "#);
}

#[test]
fn an_open_string() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x]
quiet = true"#), @r#"
    app.toml:1:11: the string is not closed
      |
    1 | cmd = ["x]
      |           ^
      = help: a string ends on the line where it begins; in `"…"` a backslash and a quote are written `\\` and `\"`
    "#);
}

#[test]
fn a_string_without_quotes() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
pidfile = /run/x.pid"#), @r#"
    app.toml:2:11: `/run/x.pid` is not a value: write strings in quotes
      |
    2 | pidfile = /run/x.pid
      |           ^^^^^^^^^^
      = help: did you mean `"/run/x.pid"`?
    "#);
}

#[test]
fn a_key_without_value() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
quiet"#), @r#"
    app.toml:2:6: a key without a value
      |
    2 | quiet
      |      ^
      = help: write `key = value`
    "#);
}

#[test]
fn a_key_set_twice() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
cmd = ["y"]"#), @r#"
    app.toml:2:1: `cmd` is set twice
      |
    2 | cmd = ["y"]
      | ^^^
      = help: keep one of the two
    "#);
}

#[test]
fn a_table_set_twice() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[env]
A = "1"
[env]
B = "2""#), @r#"
    app.toml:4:2: `env` is set twice
      |
    4 | [env]
      |  ^^^
      = help: keep one of the two
    "#);
}

#[test]
fn a_backslash_that_is_no_escape() {
    // Contract: X1
    assert_snapshot!(refused("cmd = [\"x\"]\nworkdir = \"C:\\dir\""), @r#"
    app.toml:2:15: what follows the backslash is no escape that TOML has
      |
    2 | workdir = "C:\dir"
      |               ^
      = help: write `\\` for a backslash, or put the string into single quotes: `'C:\dir'`
    "#);
}

#[test]
fn yaml() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd:
  - ./server
"#), @r#"
    app.toml:1:4: not valid TOML: invalid unquoted key, expected letters, numbers, `-`, `_`
      |
    1 | cmd:
      |    ^
      = help: the format is TOML: `key = value`

    app.toml:2:13: a key without a value
      |
    2 |   - ./server
      |             ^
      = help: write `key = value`
    "#);
}

#[test]
fn several_syntax_errors() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
quiet = yes
[env
A = "1"
B = 2 3"#), @r#"
    app.toml:2:9: `yes` is not a value: write strings in quotes
      |
    2 | quiet = yes
      |         ^^^
      = help: did you mean `true`?

    app.toml:3:5: not valid TOML: unclosed table, expected `]`
      |
    3 | [env
      |     ^
    "#);
}

#[test]
fn tabs_and_wide_characters_keep_the_carets_in_place() {
    // Contract: X1
    assert_snapshot!(refused("cmd = [\"x\"]\n\tworkdir = \"日本/{{ nope }}\""), @r#"
    app.toml:2:19: `nope` is not defined in a template
      |
    2 |     workdir = "日本/{{ nope }}"
      |                        ^^^^
      = help: there are `env`, `ab`, `blue_green`, `local`, `now`, `utc_now`, `cat`, `escape_re`, `generation` and `free_port`
    "#);
}

#[test]
fn a_long_line_is_cut() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
workdir = "/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/{{ nope }}/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b/b""#), @r#"
    app.toml:2:136: `nope` is not defined in a template
      |
    2 | …/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/a/{{ nope }}/b/b/b/b/b/b/b/b/b/b/b/b/b/…
      |                                                    ^^^^
      = help: there are `env`, `ab`, `blue_green`, `local`, `now`, `utc_now`, `cat`, `escape_re`, `generation` and `free_port`
    "#);
}

#[test]
fn a_string_of_several_lines() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
workdir = '''
/srv/
{{ nope }}'''"#), @r#"
    app.toml:4:4: `nope` is not defined in a template
      |
    4 | {{ nope }}'''
      |    ^^^^
      = help: there are `env`, `ab`, `blue_green`, `local`, `now`, `utc_now`, `cat`, `escape_re`, `generation` and `free_port`
    "#);
}

#[test]
fn carriage_returns_are_not_shown() {
    // Contract: X1
    assert_snapshot!(refused("cmd = [\"x\"]\r\nquite = true\r\n"), @r#"
    app.toml:2:1: unknown key `quite`
      |
    2 | quite = true
      | ^^^^^
      = help: did you mean `quiet`?
    "#);
}

#[test]
fn a_byte_order_mark_is_not_counted_as_a_column() {
    // Contract: X1
    assert_snapshot!(refused("\u{feff}cmd = \"x\""), @r#"
    app.toml:1:7: `cmd` must be an array of strings, not one string
      |
    1 | cmd = "x"
      |       ^^^
      = help: there is no shell, so write one string per argument: `["x"]`
    "#);
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    // Contract: X1
    assert_snapshot!(refused("cmd = [\"x\"]\n\"\\u001b[31m\" = 1"), @r#"
    app.toml:2:1: unknown key `\u{1b}[31m`
      |
    2 | "\u001b[31m" = 1
      | ^^^^^^^^^^^^
      = help: here `cmd`, `workdir`, `pidfile`, `quiet`, `locals`, `env`, `env_file`, `env_dir`, `signals`, `upgrade`, `shutdown`, `healthcheck`, `listen`, `proxy`, `switch`, `hooks`, `recycle`, `output`, `control` and `log` can be set
    "#);
}
