//! Errors in values: types, durations, signals, commands, paths. Every message as a user sees it (contract
//! X1).

use insta::assert_snapshot;

use super::{read, refused};

#[test]
fn a_command_line_is_suggested_as_a_list() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = "./server --port 80""#), @r#"
    app.toml:1:7: `cmd` must be an array of strings, not one string
      |
    1 | cmd = "./server --port 80"
      |       ^^^^^^^^^^^^^^^^^^^^
      = help: there is no shell, so write one string per argument: `["./server", "--port", "80"]`
    "#);
}

#[test]
fn a_shell_command_is_advised_to_run_a_shell() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = "./server | tee log""#), @r#"
    app.toml:1:7: `cmd` must be an array of strings, not one string
      |
    1 | cmd = "./server | tee log"
      |       ^^^^^^^^^^^^^^^^^^^^
      = help: there is no shell, so write one string per argument: `["./server", "--port", "8080"]`; if you need a shell: `["sh", "-c", "…"]`
    "#);
}

#[test]
fn an_empty_command() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = []"#), @r#"
    app.toml:1:7: `cmd` is empty
      |
    1 | cmd = []
      |       ^^
      = help: one string per argument, without a shell: `["./server", "--port", "8080"]`
    "#);
}

#[test]
fn an_empty_program() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["", "x"]"#), @r#"
    app.toml:1:8: the first string of `cmd`, the program, is empty
      |
    1 | cmd = ["", "x"]
      |        ^^
    "#);
}

#[test]
fn a_number_among_the_arguments() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x", "--port", 8080]"#), @r#"
    app.toml:1:23: every argument in `cmd` must be a string, not an integer
      |
    1 | cmd = ["x", "--port", 8080]
      |                       ^^^^
      = help: did you mean `"8080"`?
    "#);
}

#[test]
fn a_string_in_place_of_a_boolean() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
quiet = "true""#), @r#"
    app.toml:2:9: `quiet` must be `true` or `false`, not a string
      |
    2 | quiet = "true"
      |         ^^^^^^
      = help: write `true` without quotes
    "#);
}

#[test]
fn a_template_in_place_of_a_boolean() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
quiet = "{{ true }}""#), @r#"
    app.toml:2:9: `quiet` must be `true` or `false`, not a string
      |
    2 | quiet = "{{ true }}"
      |         ^^^^^^^^^^^^
      = help: `quiet` takes no template: write `true` or `false`
    "#);
}

#[test]
fn empty_paths() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
workdir = ""
pidfile = """#), @r#"
    app.toml:2:11: `workdir` is empty
      |
    2 | workdir = ""
      |           ^^
      = help: write a path, or leave the key out

    app.toml:3:11: `pidfile` is empty
      |
    3 | pidfile = ""
      |           ^^
      = help: write a path, or leave the key out
    "#);
}

#[test]
fn a_directory_as_pidfile() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
pidfile = "/run/""#), @r#"
    app.toml:2:11: the pidfile `/run/` is a directory
      |
    2 | pidfile = "/run/"
      |           ^^^^^^^
      = help: write the path of the file, for example `/run/app/psflip.pid`
    "#);
}

#[test]
fn a_duration_without_unit() {
    // Contract: X1, X3
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.timeout = 5
shutdown.delay = "10""#), @r#"
    app.toml:2:19: the duration `5` has no unit
      |
    2 | upgrade.timeout = 5
      |                   ^
      = help: did you mean `"5s"`?

    app.toml:3:18: the duration `10` has no unit
      |
    3 | shutdown.delay = "10"
      |                  ^^^^
      = help: did you mean `10s`?
    "#);
}

#[test]
fn a_duration_of_zero_without_unit() {
    // Contract: X1, X3
    assert_snapshot!(refused(r#"cmd = ["x"]
shutdown.timeout = 0
shutdown.delay = "0"
upgrade.timeout = 0"#), @r#"
    app.toml:2:20: the duration `0` has no unit
      |
    2 | shutdown.timeout = 0
      |                    ^
      = help: zero is written `"0s"`

    app.toml:3:18: the duration `0` has no unit
      |
    3 | shutdown.delay = "0"
      |                  ^^^
      = help: zero is written `0s`

    app.toml:4:19: the duration `0` has no unit
      |
    4 | upgrade.timeout = 0
      |                   ^
      = help: `timeout` can't be zero at all: no new child could ever become healthy in time
    "#);
}

#[test]
fn a_large_duration_without_unit_may_be_milliseconds() {
    // Contract: X1, X3
    assert_snapshot!(refused(r#"cmd = ["x"]
shutdown.timeout = 5000"#), @r#"
    app.toml:2:20: the duration `5000` has no unit
      |
    2 | shutdown.timeout = 5000
      |                    ^^^^
      = help: did you mean `"5000ms"` or `"5000s"`?
    "#);
}

#[test]
fn a_zero_timeout_of_upgrades() {
    // Contract: X1, X3
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.timeout = "0s""#), @r#"
    app.toml:2:19: `timeout` can't be zero: no new child could ever become healthy in time
      |
    2 | upgrade.timeout = "0s"
      |                   ^^^^
    "#);
}

#[test]
fn a_duration_with_a_fraction() {
    // Contract: X1, X3
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.timeout = "1.5m"
shutdown.timeout = 1.5"#), @r#"
    app.toml:2:19: `1.5m` is not a duration
      |
    2 | upgrade.timeout = "1.5m"
      |                   ^^^^^^
      = help: did you mean `1m30s`?

    app.toml:3:20: the duration `1.5` has no unit
      |
    3 | shutdown.timeout = 1.5
      |                    ^^^
      = help: did you mean `"1s500ms"`?
    "#);
}

#[test]
fn a_duration_with_long_units() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.timeout = "10 sec"
shutdown.timeout = "2Minutes""#), @r#"
    app.toml:2:19: `10 sec` is not a duration
      |
    2 | upgrade.timeout = "10 sec"
      |                   ^^^^^^^^
      = help: did you mean `10s`?

    app.toml:3:20: `2Minutes` is not a duration
      |
    3 | shutdown.timeout = "2Minutes"
      |                    ^^^^^^^^^^
      = help: did you mean `2m`?
    "#);
}

#[test]
fn a_duration_with_units_out_of_order() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.timeout = "30s1m""#), @r#"
    app.toml:2:19: `30s1m` is not a duration
      |
    2 | upgrade.timeout = "30s1m"
      |                   ^^^^^^^
      = help: a duration is whole numbers with units, largest first: `500ms`, `10s`, `1m30s`, `2h`, `1d`
    "#);
}

#[test]
fn a_negative_duration() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.timeout = "-5s""#), @r#"
    app.toml:2:19: the duration `-5s` is negative
      |
    2 | upgrade.timeout = "-5s"
      |                   ^^^^^
      = help: a duration is whole numbers with units, largest first: `500ms`, `10s`, `1m30s`, `2h`, `1d`
    "#);
}

#[test]
fn a_duration_beyond_all_bounds() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.timeout = "366d"
shutdown.delay = "99999999999999999999d""#), @r#"
    app.toml:2:19: the duration `366d` is too long
      |
    2 | upgrade.timeout = "366d"
      |                   ^^^^^^
      = help: the longest is `365d`

    app.toml:3:18: the duration `99999999999999999999d` is too long
      |
    3 | shutdown.delay = "99999999999999999999d"
      |                  ^^^^^^^^^^^^^^^^^^^^^^^
      = help: the longest is `365d`
    "#);
}

#[test]
fn a_boolean_in_place_of_a_duration() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.timeout = true"#), @r#"
    app.toml:2:19: `timeout` must be a duration, not `true`
      |
    2 | upgrade.timeout = true
      |                   ^^^^
      = help: for example `"10s"`
    "#);
}

#[test]
fn an_upgrade_signal_that_can_not_be_caught() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.signal = "SIGKILL""#), @r#"
    app.toml:2:18: `SIGKILL` can't be the upgrade signal: no process can catch it
      |
    2 | upgrade.signal = "SIGKILL"
      |                  ^^^^^^^^^
      = help: use for example `SIGHUP` (the default), `SIGUSR1`, `SIGUSR2` or `SIGRTMIN`
    "#);
}

#[test]
fn an_upgrade_signal_that_psflip_needs_for_stops() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.signal = "term""#), @r#"
    app.toml:2:18: `SIGTERM` can't be the upgrade signal: it requests a stop of psflip
      |
    2 | upgrade.signal = "term"
      |                  ^^^^^^
      = help: use for example `SIGHUP` (the default), `SIGUSR1`, `SIGUSR2` or `SIGRTMIN`
    "#);
}

#[test]
fn a_shutdown_signal_that_only_suspends() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
shutdown.signal = "STOP""#), @r#"
    app.toml:2:19: `SIGSTOP` can't be the shutdown signal: it suspends the child instead of terminating it
      |
    2 | shutdown.signal = "STOP"
      |                   ^^^^^^
      = help: use the signal on which your program shuts down gracefully, for example `SIGTERM` (the default), `SIGQUIT` or `SIGINT`
    "#);
}

#[test]
fn a_signal_by_number() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.signal = 1
shutdown.signal = "15""#), @r#"
    app.toml:2:18: signals are given by name, not by number (`1`)
      |
    2 | upgrade.signal = 1
      |                  ^
      = help: number 1 is `SIGHUP` on this host; numbers differ between architectures

    app.toml:3:19: signals are given by name, not by number (`15`)
      |
    3 | shutdown.signal = "15"
      |                   ^^^^
      = help: number 15 is `SIGTERM` on this host; numbers differ between architectures
    "#);
}

#[test]
fn a_signal_by_a_number_that_does_not_exist() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
shutdown.signal = 9999"#), @r#"
    app.toml:2:19: signals are given by name, not by number (`9999`)
      |
    2 | shutdown.signal = 9999
      |                   ^^^^
      = help: write a name such as `SIGTERM`; `kill -l` lists them
    "#);
}

#[test]
fn a_misspelled_signal() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.signal = "SIGUP""#), @r#"
    app.toml:2:18: `SIGUP` is not a signal
      |
    2 | upgrade.signal = "SIGUP"
      |                  ^^^^^^^
      = help: did you mean `SIGHUP`?
    "#);
}

#[test]
fn an_unknown_signal() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.signal = "reload""#), @r#"
    app.toml:2:18: `reload` is not a signal
      |
    2 | upgrade.signal = "reload"
      |                  ^^^^^^^^
      = help: write a name such as `SIGHUP`, `USR2` or `SIGRTMIN+3`; `kill -l` lists them
    "#);
}

#[test]
fn a_misspelled_choice() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
shutdown.orphans = "Kil"
log.level = "warning""#), @r#"
    app.toml:2:20: `orphans` can't be `Kil`
      |
    2 | shutdown.orphans = "Kil"
      |                    ^^^^^
      = help: did you mean `kill`?

    app.toml:3:13: `level` can't be `warning`
      |
    3 | log.level = "warning"
      |             ^^^^^^^^^
      = help: did you mean `warn`?
    "#);
}

#[test]
fn an_unknown_choice() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
log.level = "verbose""#), @r#"
    app.toml:2:13: `level` can't be `verbose`
      |
    2 | log.level = "verbose"
      |             ^^^^^^^^^
      = help: it can be `error`, `warn`, `info`, `debug` or `trace`
    "#);
}

#[test]
fn a_variable_that_is_not_a_string() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[env]
PORT = 8080
DEBUG = true"#), @r#"
    app.toml:3:8: the variable `PORT` must be a string, or `false` to remove it, not an integer
      |
    3 | PORT = 8080
      |        ^^^^
      = help: did you mean `"8080"`?

    app.toml:4:9: the variable `DEBUG` must be a string, or `false` to remove it, not `true`
      |
    4 | DEBUG = true
      |         ^^^^
      = help: did you mean `"true"`?
    "#);
}

#[test]
fn a_variable_that_psflip_sets_itself() {
    // Contract: X1, C3
    assert_snapshot!(refused(r#"cmd = ["x"]
[env]
PSFLIP_SLOT = "a""#), @r#"
    app.toml:3:1: `PSFLIP_SLOT` can't be set in `[env]`
      |
    3 | PSFLIP_SLOT = "a"
      | ^^^^^^^^^^^
      = help: psflip sets it for every child; choose another name
    "#);
}

#[test]
fn a_variable_with_an_impossible_name() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[env]
"A=B" = "x"
"" = "y""#), @r#"
    app.toml:3:1: `A=B` is no name of a variable: it has a `=` or a NUL character in it
      |
    3 | "A=B" = "x"
      | ^^^^^

    app.toml:4:1: `` is no name of a variable: it is empty
      |
    4 | "" = "y"
      | ^^
    "#);
}

#[test]
fn a_nul_character() {
    // Contract: X1
    assert_snapshot!(refused("cmd = [\"x\", \"a\\u0000b\"]"), @r#"
    app.toml:1:13: the value has a NUL character in it
      |
    1 | cmd = ["x", "a\u0000b"]
      |             ^^^^^^^^^^
      = help: the kernel ends arguments, variables and paths at a NUL, so it can't be passed on
    "#);
}

#[test]
fn several_generations_share_no_slot_and_nothing_that_cant_overlap() {
    // Contract: D3, X1
    let text = |draining: u8, more: &str| format!("cmd = [\"x\"]\n[upgrade]\ndraining = {draining}\n{more}");
    let because = |draining, more: &str, reason: &str| {
        let errors = refused(&text(draining, more));
        assert!(errors.contains(reason), "{errors}");
    };
    because(2, "overlap = false\n", "`upgrade.draining` and `overlap = false` exclude each other");
    for slot in ["{{ blue_green() }}", "{{ ab('x', 'y') }}"] {
        let switch = format!("[switch]\nsymlink = {{ path = \"a\", to = \"{slot}\" }}\n");
        because(2, &switch, "`upgrade.draining` and `blue_green()` or `ab()` exclude each other");
        assert_eq!(read(&text(1, &switch)).unwrap().upgrade.draining, 1);
    }
    because(0, "", "`draining` must be a whole number from 1 to 7, not `0`");
    because(8, "", "`draining` must be a whole number from 1 to 7, not `8`");
    let switch = "[switch]\nsymlink = { path = \"a\", to = \"{{ generation() }}\" }\n";
    assert_eq!(read(&text(7, switch)).unwrap().upgrade.draining, 7);
    assert_eq!(read("cmd = [\"x\"]\n").unwrap().upgrade.draining, 1);
}

#[test]
fn nothing_stands_by_without_overlap() {
    // Contract: E6, X1
    let text = "cmd = [\"x\"]\n[upgrade]\noverlap = false\nbake = \"1m\"\n[switch]\nsymlink = { path = \"a\", to = \"b\" }\n";
    assert!(
        refused(text).contains("`upgrade.bake` and `overlap = false` exclude each other"),
        "{}",
        refused(text)
    );
    read("cmd = [\"x\"]\n[upgrade]\noverlap = false\nprecheck = [\"true\"]\n").unwrap();
}
