//! The request of an `http` check: method, host and headers. Every message as a user sees it (contract X1).

use insta::assert_snapshot;

use super::{plan, refused};
use crate::config::{Health, HttpMethod, HttpRequest};

fn http(keys: &str) -> HttpRequest {
    match plan(&format!("cmd = ['x']\n[healthcheck.http]\n{keys}\n")).health {
        Health::Http { request, .. } => request,
        other => panic!("{other:?}"),
    }
}

fn mistakes(keys: &str) -> String {
    refused(&format!("cmd = ['x']\n[healthcheck.http]\nurl = 'unix:a:/up'\n{keys}\n"))
}

#[test]
fn the_host_comes_from_the_url_or_from_the_host_key() {
    // Contract: H1
    for (url, host) in [
        ("http://127.0.0.1:8080/up", "127.0.0.1:8080"),
        ("http://[::1]/", "[::1]"),
        ("http://:8080/up", "localhost:8080"),
        ("unix:///run/a.sock:/up", "localhost"),
    ] {
        assert_eq!(http(&format!("url = '{url}'")).host, host, "{url}");
        assert_eq!(http(&format!("url = '{url}'\nhost = 'app.example:1'")).host, "app.example:1");
    }
}

#[test]
fn method_and_headers_are_as_they_are_written() {
    // Contract: H1
    let request =
        http("url = 'unix:a'\nmethod = 'HEAD'\nheaders = { X-A = 'b', 'x_b' = '', C = \"d\\te é\" }");
    assert_eq!(request.method, HttpMethod::Head);
    let headers: Vec<(&str, &str)> =
        request.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(headers, [("X-A", "b"), ("x_b", ""), ("C", "d\te é")]);
}

#[test]
fn methods_that_are_refused() {
    // Contract: X1, H1
    assert_snapshot!(mistakes("method = 'POST'"), @"
    app.toml:4:10: `method` can't be `POST`: a probe is repeated and must change nothing
      |
    4 | method = 'POST'
      |          ^^^^^^
      = help: use `GET`, `HEAD` or `OPTIONS`, or let curl do it: `[healthcheck.command]`
    ");
    assert_snapshot!(mistakes("method = 'head'"), @"
    app.toml:4:10: `method` can't be `head`: methods are written in capitals
      |
    4 | method = 'head'
      |          ^^^^^^
      = help: did you mean `HEAD`?
    ");
    assert_snapshot!(mistakes("method = 'GET / HTTP'"), @"
    app.toml:4:10: `method` can't be `GET / HTTP`
      |
    4 | method = 'GET / HTTP'
      |          ^^^^^^^^^^^^
      = help: it can be `GET`, `HEAD` or `OPTIONS`
    ");
}

#[test]
fn hosts_that_are_refused() {
    // Contract: X1, H1
    assert_snapshot!(mistakes("host = ''"), @"
    app.toml:4:8: `host` is empty
      |
    4 | host = ''
      |        ^^
      = help: write what a client would send, for example `app.example` or `app.example:8080`
    ");
    assert_snapshot!(mistakes("host = 'http://a/'"), @"
    app.toml:4:8: `http://a/` is not a host: it has a `/` in it
      |
    4 | host = 'http://a/'
      |        ^^^^^^^^^^^
      = help: write only the host, without `http://` and without a path
    ");
    assert_snapshot!(mistakes(r#"host = "a\r\nX: y""#), @r#"
    app.toml:4:8: `a\r\nX: y` is not a host: it has the character `\r` in it
      |
    4 | host = "a\r\nX: y"
      |        ^^^^^^^^^^^
      = help: write what a client would send, for example `app.example` or `app.example:8080`
    "#);
}

#[test]
fn headers_that_are_refused() {
    // Contract: X1, H1
    assert_snapshot!(mistakes("headers = ['A: b']"), @"
    app.toml:4:11: `healthcheck.http.headers` must be a table, not an array
      |
    4 | headers = ['A: b']
      |           ^^^^^^^^
      = help: write `[healthcheck.http.headers]` on a line of its own and its keys below
    ");
    assert_snapshot!(mistakes("headers = { 'X Y' = 'b', '' = 'c', 'Ä' = 'd', A = 1 }"), @r#"
    app.toml:4:13: `X Y` is no name of a header: it has the character ` ` in it
      |
    4 | headers = { 'X Y' = 'b', '' = 'c', 'Ä' = 'd', A…
      |             ^^^^^
      = help: letters, digits, `-`, `_` and a few other signs are allowed (RFC 9110, 5.6.2)

    app.toml:4:26: the name of a header is empty
      |
    4 | headers = { 'X Y' = 'b', '' = 'c', 'Ä' = 'd', A = 1 }
      |                          ^^

    app.toml:4:36: `Ä` is no name of a header: it has the character `Ä` in it
      |
    4 | headers = { 'X Y' = 'b', '' = 'c', 'Ä' = 'd', A = 1 }
      |                                    ^^^
      = help: letters, digits, `-`, `_` and a few other signs are allowed (RFC 9110, 5.6.2)

    app.toml:4:51: `headers.A` must be a string, not an integer
      |
    4 | headers = { 'X Y' = 'b', '' = 'c', 'Ä' = 'd', A = 1 }
      |                                                   ^
      = help: did you mean `"1"`?
    "#);
    assert_snapshot!(mistakes("headers = { host = 'a', content-length = '5' }"), @r#"
    app.toml:4:13: `Host` can't be set in `[healthcheck.http.headers]`
      |
    4 | headers = { host = 'a', content-length = '5' }
      |             ^^^^
      = help: use `host = "app.example"`

    app.toml:4:25: `Content-Length` can't be set in `[healthcheck.http.headers]`
      |
    4 | headers = { host = 'a', content-length = '5' }
      |                         ^^^^^^^^^^^^^^
      = help: psflip sends a request without a body and closes the connection after the answer
    "#);
    assert_snapshot!(mistakes("headers = { X-A = 'b', x-a = 'c' }"), @"
    app.toml:4:24: the header `x-a` is given twice, as `X-A` too
      |
    4 | headers = { X-A = 'b', x-a = 'c' }
      |                        ^^^
      = help: names of headers are the same in capitals and in small letters: keep one
    ");
}

#[test]
fn no_message_shows_a_header_value() {
    // Contract: X1, H1
    for (value, wanted) in
        [("s3cret\\r\\nX: y", "has the character `\\r` in it"), (" s3cret", "begins or ends with a space")]
    {
        let said = refused(&format!(
            "cmd = ['x']\nhealthcheck.http = {{ url = 'unix:a', headers.X = \"{{{{ local('v') }}}}\" }}\n[locals]\nv = \"{value}\"\n"
        ));
        assert!(said.contains(wanted) && !said.contains("s3cret"), "{said}");
    }
}

#[test]
fn headers_beyond_the_limit_are_refused() {
    // Contract: X1, X2
    let said = mistakes(&format!("headers = {{ X = '{}' }}", "a".repeat(8192)));
    assert!(said.contains("the headers have 8193 bytes together") && said.contains("at most 8192"), "{said}");
}
