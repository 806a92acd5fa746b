//! Errors in keys and tables. Every message as a user sees it (contract X1).

use insta::assert_snapshot;

use super::refused;

#[test]
fn a_misspelled_key_is_refused_with_the_right_one() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[upgrade]
timout = "5s""#), @r#"
    app.toml:3:1: unknown key `timout` in `[upgrade]`
      |
    3 | timout = "5s"
      | ^^^^^^
      = help: did you mean `timeout`?
    "#);
}

#[test]
fn an_unknown_key_lists_the_tables_that_have_it() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
timout = "5s""#), @r#"
    app.toml:2:1: unknown key `timout`
      |
    2 | timout = "5s"
      | ^^^^^^
      = help: `timeout` belongs to `[upgrade]`, `[shutdown]` or `[healthcheck.alive]`
    "#);
}

#[test]
fn an_unknown_key_is_not_taken_for_a_far_one_of_another_table() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[upgrade]
for = "5s""#), @r#"
    app.toml:3:1: unknown key `for` in `[upgrade]`
      |
    3 | for = "5s"
      | ^^^
      = help: here `signal`, `timeout`, `bake`, `draining`, `overlap` and `precheck` can be set
    "#);
}

#[test]
fn an_unknown_key_lists_the_valid_keys() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[upgrade]
port = 80"#), @r#"
    app.toml:3:1: unknown key `port` in `[upgrade]`
      |
    3 | port = 80
      | ^^^^
      = help: here `signal`, `timeout`, `bake`, `draining`, `overlap` and `precheck` can be set
    "#);
}

#[test]
fn a_key_name_of_another_tool_gets_a_suggestion() {
    // Contract: X1
    assert_snapshot!(refused(r#"command = ["x"]"#), @r#"
    app.toml:1:1: unknown key `command`
      |
    1 | command = ["x"]
      | ^^^^^^^
      = help: did you mean `cmd`?
    "#);
}

#[test]
fn cmd_is_required() {
    // Contract: X1
    assert_snapshot!(refused(r#"workdir = "/srv""#), @r#"
    app.toml: `cmd` is missing: the program to run
      = help: write it above the first `[table]` line, one string per argument: `cmd = ["./server", "--port", "8080"]`
    "#);
}

#[test]
fn an_empty_file_lacks_cmd() {
    // Contract: X1
    assert_snapshot!(refused(r#""#), @r#"
    app.toml: `cmd` is missing: the program to run
      = help: write it above the first `[table]` line, one string per argument: `cmd = ["./server", "--port", "8080"]`
    "#);
}

#[test]
fn cmd_below_a_table_header_gets_advice_to_move_up() {
    // Contract: X1
    assert_snapshot!(refused(r#"[upgrade]
cmd = ["x"]"#), @r#"
    app.toml: `cmd` is missing: the program to run
      = help: write it above the first `[table]` line, one string per argument: `cmd = ["./server", "--port", "8080"]`

    app.toml:2:1: unknown key `cmd` in `[upgrade]`
      |
    2 | cmd = ["x"]
      | ^^^
      = help: `cmd` belongs to no table: move it above the first `[table]` line
    "#);
}

#[test]
fn cmd_inside_env_gets_advice_to_move_out() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[env]
quiet = true"#), @r#"
    app.toml:3:9: the variable `quiet` must be a string, or `false` to remove it, not `true`
      |
    3 | quiet = true
      |         ^^^^
      = help: if you mean psflip's own `quiet`: move it above the first `[table]` line
    "#);
}

#[test]
fn a_table_inside_a_table_is_reported() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[upgrade]
log = "x""#), @r#"
    app.toml:3:1: unknown key `log` in `[upgrade]`
      |
    3 | log = "x"
      | ^^^
      = help: `[log]` is a table of its own
    "#);
}

#[test]
fn a_value_in_place_of_a_table() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
env = "A=b""#), @r#"
    app.toml:2:7: `env` must be a table, not a string
      |
    2 | env = "A=b"
      |       ^^^^^
      = help: write `[env]` on a line of its own and its keys below
    "#);
}

#[test]
fn tables_in_place_of_a_table() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[[env]]
A = "x""#), @r#"
    app.toml:2:1: `env` is given more than once as `[[env]]`
      |
    2 | [[env]]
      | ^^^^^^^
      = help: write `[env]` on a line of its own and its keys below
    "#);
}

#[test]
fn all_errors_are_reported_in_file_order() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = "x"
quite = true
[shutdown]
signal = 9
timeout = 10
[env]
PORT = 8080"#), @r#"
    app.toml:1:7: `cmd` must be an array of strings, not one string
      |
    1 | cmd = "x"
      |       ^^^
      = help: there is no shell, so write one string per argument: `["x"]`

    app.toml:2:1: unknown key `quite`
      |
    2 | quite = true
      | ^^^^^
      = help: did you mean `quiet`?

    app.toml:4:10: signals are given by name, not by number (`9`)
      |
    4 | signal = 9
      |          ^
      = help: number 9 is `SIGKILL` on this host; numbers differ between architectures

    app.toml:5:11: the duration `10` has no unit
      |
    5 | timeout = 10
      |           ^^
      = help: did you mean `"10s"`?

    app.toml:7:8: the variable `PORT` must be a string, or `false` to remove it, not an integer
      |
    7 | PORT = 8080
      |        ^^^^
      = help: did you mean `"8080"`?
    "#);
}
