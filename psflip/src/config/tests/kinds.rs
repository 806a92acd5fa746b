//! Errors in the health checks `fcgi`, `docker` and `notify`, and in `settle`. Every message as a user sees
//! it (contract X1).

use insta::assert_snapshot;

use super::refused;

#[test]
fn a_fcgi_check_without_address_and_script() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.fcgi]
query = "a""#), @r#"
    app.toml:2:1: `address` is missing in `[healthcheck.fcgi]`
      |
    2 | [healthcheck.fcgi]
      | ^^^^^^^^^^^^^^^^^^
      = help: where to connect: `address = "unix:///run/app/app.sock"` or `"127.0.0.1:9000"`

    app.toml:2:1: `script` is missing in `[healthcheck.fcgi]`
      |
    2 | [healthcheck.fcgi]
      | ^^^^^^^^^^^^^^^^^^
      = help: set the script to request (SCRIPT_FILENAME and SCRIPT_NAME): `script = "/srv/app/ping.php"`, or php-fpm's `ping.path`
    "#);
}

#[test]
fn an_invalid_fcgi_address() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.fcgi]
address = "http://127.0.0.1:9000/"
script = "/ping""#), @r#"
    app.toml:3:11: `http://127.0.0.1:9000/` is not an address of a FastCGI server
      |
    3 | address = "http://127.0.0.1:9000/"
      |           ^^^^^^^^^^^^^^^^^^^^^^^^
      = help: write for example `unix:///run/app/app.sock` or `127.0.0.1:9000`
    "#);
}

#[test]
fn a_fcgi_address_with_a_host_name() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.fcgi]
address = "php:9000"
script = """#), @r#"
    app.toml:3:11: the host `php` is neither an IP address nor `localhost`
      |
    3 | address = "php:9000"
      |           ^^^^^^^^^^
      = help: psflip resolves no names, because a resolver can block for seconds; write the IP address

    app.toml:4:10: `script` is empty
      |
    4 | script = ""
      |          ^^
      = help: set the script to request (SCRIPT_FILENAME and SCRIPT_NAME): `script = "/srv/app/ping.php"`, or php-fpm's `ping.path`
    "#);
}

#[test]
fn a_query_with_its_question_mark() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.fcgi]
address = "@app"
script = "/ping"
query = "?full""#), @r#"
    app.toml:5:9: the query begins with a `?`, which is no part of it
      |
    5 | query = "?full"
      |         ^^^^^^^
      = help: did you mean `full`?
    "#);
}

#[test]
fn parameters_that_can_not_be_set() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.fcgi]
address = ":9000"
script = "/ping"
[healthcheck.fcgi.params]
CONTENT_LENGTH = "5"
"A=B" = "x"
"" = "x"
C = 1"#), @r#"
    app.toml:6:1: `CONTENT_LENGTH` can't be set in `[healthcheck.fcgi.params]`
      |
    6 | CONTENT_LENGTH = "5"
      | ^^^^^^^^^^^^^^
      = help: psflip sends a request without a body

    app.toml:7:1: `A=B` is no name of a parameter: it has a `=` or a NUL character in it
      |
    7 | "A=B" = "x"
      | ^^^^^

    app.toml:8:1: `` is no name of a parameter: it is empty
      |
    8 | "" = "x"
      | ^^

    app.toml:9:5: `params.C` must be a string, not an integer
      |
    9 | C = 1
      |     ^
      = help: did you mean `"1"`?
    "#);
}

#[test]
fn parameters_as_a_string() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.fcgi]
address = ":9000"
script = "/ping"
params = "A=b""#), @r#"
    app.toml:5:10: `healthcheck.fcgi.params` must be a table, not a string
      |
    5 | params = "A=b"
      |          ^^^^^
      = help: write `[healthcheck.fcgi.params]` on a line of its own and its keys below
    "#);
}

#[test]
fn misspelled_keys_of_the_new_kinds() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.fcgi]
adress = ":9000"
scrpt = "/ping""#), @r#"
    app.toml:3:1: unknown key `adress` in `[healthcheck.fcgi]`
      |
    3 | adress = ":9000"
      | ^^^^^^
      = help: did you mean `address`?

    app.toml:4:1: unknown key `scrpt` in `[healthcheck.fcgi]`
      |
    4 | scrpt = "/ping"
      | ^^^^^
      = help: did you mean `script`?
    "#);
}

#[test]
fn a_docker_check_without_container() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.docker]
socket = "unix:///run/d.sock""#), @r#"
    app.toml:2:1: `container` is missing in `[healthcheck.docker]`
      |
    2 | [healthcheck.docker]
      | ^^^^^^^^^^^^^^^^^^^^
      = help: the name that `docker ps` shows: `container = "web"`
    "#);
}

#[test]
fn an_invalid_container_name() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.docker]
container = "my/web"
socket = "tcp://127.0.0.1:2375""#), @r#"
    app.toml:3:13: `my/web` is no name of a container: it has a `/` in it
      |
    3 | container = "my/web"
      |             ^^^^^^^^
      = help: letters, digits, `_`, `.` and `-` are allowed: the name or id that `docker ps` shows

    app.toml:4:10: `tcp://127.0.0.1:2375` is not the Unix socket of an engine
      |
    4 | socket = "tcp://127.0.0.1:2375"
      |          ^^^^^^^^^^^^^^^^^^^^^^
      = help: psflip connects to the Engine over its Unix socket only: `unix:///var/run/docker.sock`
    "#);
}

#[test]
fn a_container_with_a_leading_dash() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.docker]
container = "-web"
interval = 5"#), @r#"
    app.toml:3:13: `-web` is no name of a container
      |
    3 | container = "-web"
      |             ^^^^^^
      = help: it begins with a letter or a digit and has at most 255 characters

    app.toml:4:12: the duration `5` has no unit
      |
    4 | interval = 5
      |            ^
      = help: did you mean `"5s"`?
    "#);
}

#[test]
fn a_notify_check_with_keys_of_other_kinds() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.notify]
interval = "1s"
extend = 60
exten = "1s""#), @r#"
    app.toml:3:1: unknown key `interval` in `[healthcheck.notify]`
      |
    3 | interval = "1s"
      | ^^^^^^^^
      = help: `interval` belongs to `[healthcheck.command]`, `[healthcheck.docker]` or `[healthcheck.tcp]`

    app.toml:4:10: the duration `60` has no unit
      |
    4 | extend = 60
      |          ^^
      = help: did you mean `"60s"`?

    app.toml:5:1: unknown key `exten` in `[healthcheck.notify]`
      |
    5 | exten = "1s"
      | ^^^^^
      = help: did you mean `extend`?
    "#);
}

#[test]
fn notify_socket_in_the_environment() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.notify]
[env]
NOTIFY_SOCKET = "/run/x""#), @r#"
    app.toml:4:1: `NOTIFY_SOCKET` can't be set in `[env]` beside `[healthcheck.notify]`
      |
    4 | NOTIFY_SOCKET = "/run/x"
      | ^^^^^^^^^^^^^
      = help: psflip sets it to the socket on which it waits for READY=1; leave it out
    "#);
}

#[test]
fn a_kind_by_another_name() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.fastcgi]
address = ":9000""#), @r#"
    app.toml:2:14: there is no health check `fastcgi`
      |
    2 | [healthcheck.fastcgi]
      |              ^^^^^^^
      = help: did you mean `[healthcheck.fcgi]`?
    "#);
}

#[test]
fn a_time_to_settle_that_is_never_over() {
    // Contract: X1, H6
    assert_snapshot!(refused(r#"cmd = ["x"]
upgrade.timeout = "10s"
[healthcheck.notify]
settle = "10s""#), @r#"
    app.toml:4:10: `settle` takes 10s, and `upgrade.timeout` is 10s: no child could be promoted
      |
    4 | settle = "10s"
      |          ^^^^^
      = help: make `upgrade.timeout` longer: it is the time for the start and all of this
    "#);
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.tcp]
address = ":80"
settle = "20s"
after = "40s""#), @r#"
    app.toml:4:10: `after` and `settle` together take 1m, and `upgrade.timeout` is 1m: no child could be promoted
      |
    4 | settle = "20s"
      |          ^^^^^
      = help: make `upgrade.timeout` longer: it is the time for the start and all of this
    "#);
}

#[test]
fn a_time_to_settle_of_a_child_that_only_has_to_run() {
    // Contract: X1, H6
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.alive]
settle = "2s""#), @r#"
    app.toml:3:1: unknown key `settle` in `[healthcheck.alive]`
      |
    3 | settle = "2s"
      | ^^^^^^
      = help: `timeout` already is the time that the child must run: make it longer
    "#);
}
