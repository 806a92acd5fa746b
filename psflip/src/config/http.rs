//! The request of an `http` health check: URL, method, `Host`, header fields (RFC 9110). Pure.
//!
//! The value of a field may be a secret, so no message contains it.

use toml::de::DeValue;

use super::address::{self, Url};
use super::error::{Error, any_of, quoted};
use super::plan::{HttpMethod, HttpRequest};
use super::proxy::{Forward, Proxy, ProxyKind};
use super::reader::Reader;
use super::scalar::{Refused, refuse, refuse_help};
use super::section::{Node, Section};
use super::words::Word as _;

/// The limit for all fields together, in bytes: common servers accept that much (nginx: 8 KiB per line).
const LONGEST_HEADERS: usize = 8 * 1024;

/// Methods that may change something on the server, or that need more than a request without a body.
const UNSAFE: &[&str] = &["POST", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE"];

/// Fields that control the framing of the request and the connection (RFC 9110, 7.6.1 and 10.1; RFC 9112, 6).
const OWN: &[&str] = &[
    "Connection",
    "Content-Length",
    "Expect",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "Trailer",
    "Transfer-Encoding",
    "Upgrade",
];

/// Reads the request. `proxies`: those of the same file, if they are valid.
pub(super) fn request(
    reader: &mut Reader<'_>,
    section: &Section<'_>,
    proxies: Option<&[Proxy]>,
) -> Option<HttpRequest> {
    let url = reader.parsed(section, "url", |text| match (text.starts_with('/'), proxies) {
        (false, _) => Ok(Some((address::url(text)?, text.to_owned()))),
        (true, Some(proxies)) => {
            let text = below_forward(text, proxies)?;
            Ok(Some((address::url(&text)?, text)))
        }
        // The proxies have errors of their own.
        (true, None) => Ok(None),
    });
    let method = reader.parsed(section, "method", method);
    let host = reader.parsed(section, "host", host);
    let headers = section.find("headers").map(|node| headers(reader, node)).unwrap_or_default();
    let (Url { target, host: default, path }, url) = url??;
    Some(HttpRequest { url, target, method: method?, host: host.unwrap_or(default), headers, path })
}

/// The URL of a path on the new child's own address, to which a proxy forwards.
fn below_forward(path: &str, proxies: &[Proxy]) -> Result<String, Refused> {
    let example =
        "write the URL of the child's own address: `http://127.0.0.1:8080/up` or `unix:///run/app.sock:/up`";
    let Some(proxy) = proxies.first() else {
        return refuse_help(
            format!(
                "{} is a path alone, and there is no `[[proxy]]` that says where the child listens",
                quoted(path)
            ),
            example,
        );
    };
    if proxies.iter().any(|other| other.forward != proxy.forward) {
        return refuse_help(
            format!("{} is a path alone, and the proxies forward to several addresses", quoted(path)),
            example,
        );
    }
    if proxy.protocol == ProxyKind::Fastcgi {
        return refuse_help(
            format!("{} is asked by HTTP, and the child speaks FastCGI", quoted(path)),
            "use `[healthcheck.fcgi]`, or `[healthcheck.tcp]` or `[healthcheck.unix]` with the address of `forward`",
        );
    }
    Ok(match &proxy.forward {
        Forward::Tcp(address) => format!("http://{address}{path}"),
        Forward::Unix(socket) => format!("unix://{}:{path}", socket.display()),
    })
}

/// All methods are safe (RFC 9110, 9.2.1): a probe is repeated and must change nothing.
fn method(text: &str) -> Result<HttpMethod, Refused> {
    if let Some(method) = HttpMethod::of_word(text) {
        return Ok(method);
    }
    let (names, upper) = (HttpMethod::WORDS, text.to_ascii_uppercase());
    if names.contains(&upper.as_str()) {
        return refuse_help(
            format!("`method` can't be {}: methods are written in capitals", quoted(text)),
            format!("did you mean `{upper}`?"),
        );
    }
    if UNSAFE.contains(&upper.as_str()) {
        return refuse_help(
            format!("`method` can't be {}: a probe is repeated and must change nothing", quoted(text)),
            format!("use {}, or let curl do it: `[healthcheck.command]`", any_of(names)),
        );
    }
    refuse_help(format!("`method` can't be {}", quoted(text)), format!("it can be {}", any_of(names)))
}

/// The value of the `Host` field: a host with an optional port (RFC 9110, 7.2).
fn host(text: &str) -> Result<String, Refused> {
    let example = "write what a client would send, for example `app.example` or `app.example:8080`";
    if text.is_empty() {
        return refuse_help("`host` is empty", example);
    }
    if text.len() > 255 {
        return refuse(format!("`host` has {} bytes; at most 255 are allowed", text.len()));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:[]%".contains(c);
    match text.chars().find(|c| !allowed(*c)) {
        None => Ok(text.to_owned()),
        Some('/') => refuse_help(
            format!("{} is not a host: it has a `/` in it", quoted(text)),
            "write only the host, without `http://` and without a path",
        ),
        Some(bad) => refuse_help(
            format!("{} is not a host: it has the character {} in it", quoted(text), shown(bad)),
            example,
        ),
    }
}

fn headers(reader: &mut Reader<'_>, node: Node<'_>) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    let mut total = 0;
    for (name, span, node) in reader.map("healthcheck.http.headers", node).unwrap_or_default() {
        let other = headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        if let Err(Refused { message, help }) = field_name(name, other.map(|(other, _)| other.as_str())) {
            reader.error(Error { message, span: Some(span), help });
            continue;
        }
        // This precedes rendering, so that no message about the type contains the value.
        let value = match node.get_ref() {
            DeValue::String(_) => {
                reader.parsed_string(&format!("headers.{name}"), node, |text| value(name, text))
            }
            _ => reader.string(&format!("headers.{name}"), node),
        };
        if let Some(value) = value {
            total += name.len() + value.len();
            headers.push((name.to_owned(), value));
        }
    }
    if total > LONGEST_HEADERS {
        reader.error(
            Error::at(node.span(), format!("the headers have {total} bytes together"))
                .help(format!("at most {LONGEST_HEADERS} are allowed")),
        );
    }
    headers
}

/// Whether a field may have this name; `other` is an earlier field of the same name.
fn field_name(name: &str, other: Option<&str>) -> Result<(), Refused> {
    if name.is_empty() {
        return refuse("the name of a header is empty");
    }
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    if let Some(bad) = name.chars().find(|c| !token(*c)) {
        return refuse_help(
            format!("{} is no name of a header: it has the character {} in it", quoted(name), shown(bad)),
            "letters, digits, `-`, `_` and a few other signs are allowed (RFC 9110, 5.6.2)",
        );
    }
    if name.eq_ignore_ascii_case("Host") {
        return refuse_help(
            "`Host` can't be set in `[healthcheck.http.headers]`",
            "use `host = \"app.example\"`",
        );
    }
    if let Some(own) = OWN.iter().find(|own| own.eq_ignore_ascii_case(name)) {
        return refuse_help(
            format!("`{own}` can't be set in `[healthcheck.http.headers]`"),
            "psflip sends a request without a body and closes the connection after the answer",
        );
    }
    match other {
        Some(other) => refuse_help(
            format!("the header {} is given twice, as {} too", quoted(name), quoted(other)),
            "names of headers are the same in capitals and in small letters: keep one",
        ),
        None => Ok(()),
    }
}

/// The value of a field (RFC 9110, 5.5).
fn value(name: &str, text: &str) -> Result<String, Refused> {
    if let Some(bad) = text.chars().find(|c| c.is_ascii_control() && *c != '\t') {
        return refuse_help(
            format!("the value of the header {} has the character {} in it", quoted(name), shown(bad)),
            "a header is one line of text without control characters",
        );
    }
    if text.trim_matches([' ', '\t']).len() != text.len() {
        return refuse(format!("the value of the header {} begins or ends with a space", quoted(name)));
    }
    Ok(text.to_owned())
}

fn shown(c: char) -> String {
    quoted(&c.escape_debug().to_string())
}
