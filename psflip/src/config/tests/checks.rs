//! Errors in health checks: kinds, addresses, URLs, status codes. Every message as a user sees it (contract
//! X1).

use insta::assert_snapshot;

use super::refused;

#[test]
fn two_kinds_of_check() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.tcp]
address = "127.0.0.1:80"
[healthcheck.alive]
timeout = "5s""#), @r#"
    app.toml:4:14: two health checks, `tcp` and `alive`
      |
    4 | [healthcheck.alive]
      |              ^^^^^
      = help: a child is healthy by one check: keep one; a `command` can test several things
    "#);
}

#[test]
fn no_kind_of_check() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck]"#), @r#"
    app.toml:2:1: `[healthcheck]` has no kind of check
      |
    2 | [healthcheck]
      | ^^^^^^^^^^^^^
      = help: write `[healthcheck.KIND]` with one of `alive`, `command`, `docker`, `tcp`, `unix`, `http`, `fcgi` or `notify`, or leave it out for the default: healthy when still running after 5s
    "#);
}

#[test]
fn a_key_without_a_kind_of_check() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck]
timeout = "5s""#), @r#"
    app.toml:3:1: `timeout` is not allowed in `[healthcheck]` itself
      |
    3 | timeout = "5s"
      | ^^^^^^^
      = help: name the kind of check: `[healthcheck.KIND]` with one of `alive`, `command`, `docker`, `tcp`, `unix`, `http`, `fcgi` or `notify`
    "#);
}

#[test]
fn a_kind_as_a_value() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
healthcheck = "http""#), @r#"
    app.toml:2:15: `healthcheck` must be a table, not a string
      |
    2 | healthcheck = "http"
      |               ^^^^^^
      = help: write the kind of check on a line of its own and its keys below: `[healthcheck.tcp]`, then `address = "127.0.0.1:8080"`
    "#);
}

#[test]
fn a_misspelled_kind() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.htpp]
url = "http://127.0.0.1/""#), @r#"
    app.toml:2:14: there is no health check `htpp`
      |
    2 | [healthcheck.htpp]
      |              ^^^^
      = help: did you mean `[healthcheck.http]`?
    "#);
}

#[test]
fn an_unknown_kind() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.kubernetes]"#), @r#"
    app.toml:2:14: there is no health check `kubernetes`
      |
    2 | [healthcheck.kubernetes]
      |              ^^^^^^^^^^
      = help: there are `alive`, `command`, `docker`, `tcp`, `unix`, `http`, `fcgi` and `notify`
    "#);
}

#[test]
fn a_check_without_its_target() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.http]
status = "200""#), @r#"
    app.toml:2:1: `url` is missing in `[healthcheck.http]`
      |
    2 | [healthcheck.http]
      | ^^^^^^^^^^^^^^^^^^
      = help: what to get: `url = "http://127.0.0.1:8080/up"`
    "#);
}

#[test]
fn a_check_with_a_misspelled_target() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.tcp]
adress = "127.0.0.1:80""#), @r#"
    app.toml:3:1: unknown key `adress` in `[healthcheck.tcp]`
      |
    3 | adress = "127.0.0.1:80"
      | ^^^^^^
      = help: did you mean `address`?
    "#);
}

#[test]
fn a_key_that_this_kind_does_not_have() {
    // Contract: X1, H1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.alive]
interval = "1s""#), @r#"
    app.toml:3:1: unknown key `interval` in `[healthcheck.alive]`
      |
    3 | interval = "1s"
      | ^^^^^^^^
      = help: `interval` belongs to `[healthcheck.command]`, `[healthcheck.docker]` or `[healthcheck.tcp]`
    "#);
}

#[test]
fn zeros_that_are_refused() {
    // Contract: X1, X3
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.tcp]
address = ":80"
interval = "0s"
timeout = "0s"
successes = 0"#), @r#"
    app.toml:4:12: `interval` can't be zero: probes without a pause would load the host
      |
    4 | interval = "0s"
      |            ^^^^

    app.toml:5:11: `timeout` can't be zero: no probe could ever succeed in time
      |
    5 | timeout = "0s"
      |           ^^^^

    app.toml:6:13: `successes` must be a whole number from 1 to 1000, not `0`
      |
    6 | successes = 0
      |             ^
    "#);
}

#[test]
fn a_count_in_quotes() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.tcp]
address = ":80"
successes = "2""#), @r#"
    app.toml:4:13: `successes` must be a whole number from 1 to 1000, not a string
      |
    4 | successes = "2"
      |             ^^^
      = help: write it without quotes: `2`
    "#);
}

#[test]
fn a_host_name() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.tcp]
address = "example.com:80""#), @r#"
    app.toml:3:11: the host `example.com` is neither an IP address nor `localhost`
      |
    3 | address = "example.com:80"
      |           ^^^^^^^^^^^^^^^^
      = help: psflip resolves no names, because a resolver can block for seconds; write the IP address
    "#);
}

#[test]
fn an_address_without_port() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.tcp]
address = "127.0.0.1""#), @r#"
    app.toml:3:11: the address `127.0.0.1` has no port
      |
    3 | address = "127.0.0.1"
      |           ^^^^^^^^^^^
      = help: write for example `127.0.0.1:8080`
    "#);
}

#[test]
fn an_impossible_port() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.tcp]
address = "127.0.0.1:70000""#), @r#"
    app.toml:3:11: `70000` is not a port
      |
    3 | address = "127.0.0.1:70000"
      |           ^^^^^^^^^^^^^^^^^
      = help: a port is a number from 1 to 65535
    "#);
}

#[test]
fn an_ipv6_address_without_brackets() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.tcp]
address = "::1:80""#), @r#"
    app.toml:3:11: `::1:80` is not an address
      |
    3 | address = "::1:80"
      |           ^^^^^^^^
      = help: write an IPv6 address in brackets: `[::1]:8080`
    "#);
}

#[test]
fn a_unix_socket_as_tcp_address() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.tcp]
address = "unix:///run/x.sock""#), @r#"
    app.toml:3:11: `unix:///run/x.sock` is not a TCP address
      |
    3 | address = "unix:///run/x.sock"
      |           ^^^^^^^^^^^^^^^^^^^^
      = help: write for example `127.0.0.1:8080`; for a Unix socket use `[healthcheck.unix]`, for a URL `[healthcheck.http]`
    "#);
}

#[test]
fn a_path_too_long_for_a_socket() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.unix]
path = "/run/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.sock""#), @r#"
    app.toml:3:8: the path of the socket `/run/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…` has 120 bytes
      |
    3 | path = "/run/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…
      |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      = help: the kernel allows at most 107; a path relative to psflip's directory may be shorter
    "#);
}

#[test]
fn an_abstract_socket_without_name() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.unix]
path = "@""#), @r#"
    app.toml:3:8: the abstract socket `@` has no name
      |
    3 | path = "@"
      |        ^^^
      = help: write for example `@app`
    "#);
}

#[test]
fn a_url_with_tls() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.http]
url = "https://127.0.0.1/""#), @r#"
    app.toml:3:7: `https://127.0.0.1/` needs TLS, which psflip does not speak
      |
    3 | url = "https://127.0.0.1/"
      |       ^^^^^^^^^^^^^^^^^^^^
      = help: probe plain HTTP, or let curl do it: `[healthcheck.command]` with `cmd = ["curl", "-fsS", "https://…"]`
    "#);
}

#[test]
fn a_url_without_scheme() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.http]
url = "127.0.0.1:80/up""#), @r#"
    app.toml:3:7: `127.0.0.1:80/up` is not a URL that psflip can probe
      |
    3 | url = "127.0.0.1:80/up"
      |       ^^^^^^^^^^^^^^^^^
      = help: write for example `http://127.0.0.1:8080/up` or `unix:///run/app.sock:/up`
    "#);
}

#[test]
fn a_url_without_host() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.http]
url = "http:///up""#), @r#"
    app.toml:3:7: the URL `http:///up` has no host
      |
    3 | url = "http:///up"
      |       ^^^^^^^^^^^^
      = help: write for example `http://127.0.0.1:8080/up` or `unix:///run/app.sock:/up`
    "#);
}

#[test]
fn a_url_with_a_space() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.http]
url = "http://127.0.0.1/a b""#), @r#"
    app.toml:3:7: the URL has the character ` ` in it
      |
    3 | url = "http://127.0.0.1/a b"
      |       ^^^^^^^^^^^^^^^^^^^^^^
      = help: write it percent-encoded: `%20`
    "#);
}

#[test]
fn a_url_with_a_password() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.http]
url = "http://u:p@127.0.0.1/""#), @r#"
    app.toml:3:7: the URL `http://u:p@127.0.0.1/` has a user name in it
      |
    3 | url = "http://u:p@127.0.0.1/"
      |       ^^^^^^^^^^^^^^^^^^^^^^^
      = help: psflip sends no credentials; let curl do it: `[healthcheck.command]`
    "#);
}

#[test]
fn a_url_with_a_fragment() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.http]
url = "http://127.0.0.1/#a""#), @r#"
    app.toml:3:7: the URL `http://127.0.0.1/#a` has a fragment (`#`), which is never sent to a server
      |
    3 | url = "http://127.0.0.1/#a"
      |       ^^^^^^^^^^^^^^^^^^^^^
      = help: leave it out, or write `%23` for the character itself
    "#);
}

#[test]
fn status_codes_that_do_not_exist() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.http]
url = "http://:80"
status = "2xx""#), @r#"
    app.toml:4:10: `2xx` is not an HTTP status
      |
    4 | status = "2xx"
      |          ^^^^^
      = help: write codes from 100 to 599 and ranges of them: `200`, `200-399` or `200,204,300-399`
    "#);
}

#[test]
fn a_status_range_backwards() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.http]
url = "http://:80"
status = "399-200""#), @r#"
    app.toml:4:10: the range `399-200` of status codes is empty
      |
    4 | status = "399-200"
      |          ^^^^^^^^^
      = help: did you mean `200-399`?
    "#);
}

#[test]
fn a_status_out_of_range() {
    // Contract: X1
    assert_snapshot!(refused(r#"cmd = ["x"]
[healthcheck.http]
url = "http://:80"
status = 700"#), @r#"
    app.toml:4:10: `700` is not an HTTP status
      |
    4 | status = 700
      |          ^^^
      = help: write codes from 100 to 599 and ranges of them: `200`, `200-399` or `200,204,300-399`
    "#);
}
