//! The eight clients: GET and POST in turn, every second client with keep-alive connections, every answer
//! checked to its last byte.

use std::path::Path;

use testkit::client::fcgi::FcgiClient;
use testkit::client::http::HttpClient;
use testkit::client::{ClientError, Stage, Target, field};

/// One request of a client, and its expected answer.
pub(crate) struct Question {
    pub(crate) uri: String,
    pub(crate) body: Option<Vec<u8>>,
    /// The end of the answer's line.
    ending: String,
}

impl Question {
    /// Request number `count` of client `number`. No two are alike, so the answer to another request is
    /// detected.
    pub(crate) fn new(number: usize, count: usize, fastcgi: bool) -> Self {
        let echo = format!("{number}-{count}");
        let body = (count % 2 == 1).then(|| vec![(count % 251) as u8; count * 37 % 5000 + 1]);
        let length = body.as_ref().map_or(0, Vec::len);
        let sum: u64 = body.iter().flatten().map(|byte| u64::from(*byte)).sum();
        let received = if fastcgi { format!("stdin={length} sum={sum}") } else { format!("body={length}") };
        Self { uri: format!("/?echo={echo}"), body, ending: format!(" {received} echo={echo}\n") }
    }

    /// The generation that answered, if the answer is right.
    pub(crate) fn tag(&self, status: u16, text: &str) -> Result<String, ClientError> {
        let name = field(text, "name").filter(|_| status == 200 && text.ends_with(&self.ending));
        let right = name.filter(|name| text.starts_with(&format!("name={name} pid=")));
        right.map(str::to_owned).ok_or_else(|| {
            ClientError::content(format!(
                "status {status}, `{text}`, which should end with `{}`",
                self.ending
            ))
        })
    }
}

/// A client of HTTP. `fastcgi`: a FastCGI application answers behind a web server. No request is ever
/// repeated.
pub(super) fn http(
    target: impl Into<Target>,
    number: usize,
    fastcgi: bool,
) -> impl FnMut() -> Result<String, ClientError> + Send + 'static {
    let client = HttpClient::new(target);
    let mut client = if number.is_multiple_of(2) { client.keep_alive() } else { client };
    let mut count = 0;
    move || {
        count += 1;
        let question = Question::new(number, count, fastcgi);
        let response = match &question.body {
            Some(body) => client.post(&question.uri, body)?,
            None => client.get(&question.uri)?,
        };
        question.tag(response.status, &response.text())
    }
}

/// A client of FastCGI. The protocol has no message for "my last answer on this connection", so a client with
/// a keep-alive connection must try. If the write itself fails (EPIPE), the server has taken nothing, and the
/// client sends the request on a new connection. A request that was sent is never repeated.
pub(super) fn fastcgi(
    socket: &Path,
    number: usize,
) -> impl FnMut() -> Result<String, ClientError> + Send + 'static {
    let client = FcgiClient::unix(socket);
    let mut client = if number.is_multiple_of(2) { client.keep_alive() } else { client };
    let mut count = 0;
    move || {
        count += 1;
        let question = Question::new(number, count, true);
        let mut ask = || match &question.body {
            Some(body) => client.post(&question.uri, body),
            None => client.get(&question.uri),
        };
        let response = match ask() {
            Err(error) if error.reused && error.stage == Stage::Write => ask()?,
            result => result?,
        };
        question.tag(response.status, &response.text())
    }
}
