//! An HTTP/1.1 client (RFC 9112): one request at a time, over TCP or a Unix socket.

use std::time::Duration;

use super::{ClientError, Connection, TIMEOUT, Target};

/// The longest head of an answer, and the longest line of a chunked body, in bytes.
const MOST_HEAD: usize = 64 * 1024;

/// Sends requests to one server. By default each has a connection of its own.
///
/// ```no_run
/// # use psflip_testkit::client::http::HttpClient;
/// let mut client = HttpClient::tcp("127.0.0.1:8080".parse().unwrap()).keep_alive();
/// let answer = client.get("/up").unwrap();
/// assert_eq!(answer.status, 200);
/// ```
#[derive(Debug)]
pub struct HttpClient {
    target: Target,
    keep_alive: bool,
    retry_stale: bool,
    timeout: Duration,
    connection: Option<Connection>,
    retries: u64,
}

/// An HTTP response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order of arrival.
    pub headers: Vec<(String, String)>,
    /// The body, with its chunks put together.
    pub body: Vec<u8>,
    /// Whether the answer came on a connection that had served another request before.
    pub reused: bool,
}

impl Response {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The first header of this name; case doesn't matter.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// The value of `key=value` in the body if the status is 200: the tag for an availability probe, as the
    /// fixtures answer.
    ///
    /// # Errors
    /// [`crate::client::Stage::Content`]: another status, or no such word in the body.
    pub fn tag(&self, key: &str) -> Result<String, ClientError> {
        let text = self.text();
        match super::field(&text, key) {
            Some(value) if self.status == 200 => Ok(value.to_owned()),
            _ => Err(ClientError::content(format!("status {}, body `{}`", self.status, text.trim_end()))),
        }
    }
}

impl HttpClient {
    /// For a server at a TCP address or a Unix socket.
    #[must_use]
    pub fn new(target: impl Into<Target>) -> Self {
        Self {
            target: target.into(),
            keep_alive: false,
            retry_stale: false,
            timeout: TIMEOUT,
            connection: None,
            retries: 0,
        }
    }

    /// For a server at a TCP address.
    #[must_use]
    pub fn tcp(address: std::net::SocketAddr) -> Self {
        Self::new(address)
    }

    /// For a server at a Unix socket.
    #[must_use]
    pub fn unix(path: impl AsRef<std::path::Path>) -> Self {
        Self::new(path.as_ref())
    }

    /// Keeps the connection for the next request until the server closes it.
    #[must_use]
    pub fn keep_alive(mut self) -> Self {
        self.keep_alive = true;
        self
    }

    /// Repeats a request once, on a new connection, if an idle keep-alive connection turns out to be closed
    /// (see [`ClientError::is_stale_connection`]), as browsers and proxies do. Without this, such a request
    /// fails.
    #[must_use]
    pub fn retry_stale(mut self) -> Self {
        self.retry_stale = true;
        self
    }

    /// The time limit of a request, connecting included.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How many requests [`HttpClient::retry_stale`] has repeated.
    #[must_use]
    pub fn retries(&self) -> u64 {
        self.retries
    }

    /// `GET path`.
    ///
    /// # Errors
    /// No complete answer came. An answer with any status is a success.
    pub fn get(&mut self, path: &str) -> Result<Response, ClientError> {
        self.request("GET", path, &[], b"")
    }

    /// `POST path` with a body.
    ///
    /// # Errors
    /// See [`HttpClient::get`].
    pub fn post(&mut self, path: &str, body: &[u8]) -> Result<Response, ClientError> {
        self.request("POST", path, &[], body)
    }

    /// A request with any method, headers and body.
    ///
    /// # Errors
    /// See [`HttpClient::get`].
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, ClientError> {
        match self.once(method, path, headers, body) {
            Err(error) if self.retry_stale && error.is_stale_connection() => {
                self.retries += 1;
                self.once(method, path, headers, body)
            }
            result => result,
        }
    }

    fn once(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Result<Response, ClientError> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.target, self.timeout)?,
        };
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: testkit\r\n");
        if !self.keep_alive {
            head.push_str("Connection: close\r\n");
        }
        if !body.is_empty() || method == "POST" {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        head.push_str("\r\n");
        connection.begin();
        connection.send(&[head.as_bytes(), body].concat())?;
        let (response, open) = read_response(&mut connection, method)?;
        if self.keep_alive && open {
            self.connection = Some(connection);
        }
        Ok(response)
    }
}

/// Reads one answer; the flag is whether the connection may be used again.
fn read_response(connection: &mut Connection, method: &str) -> Result<(Response, bool), ClientError> {
    let reused = connection.requests > 1;
    let (version, status, headers) = loop {
        let head = read_head(connection)?;
        // A 1xx response precedes the answer.
        if !(100..200).contains(&head.1) {
            break head;
        }
    };
    let mut response = Response { status, headers, body: Vec::new(), reused };
    let has = |name: &str, value: &str| {
        let fields = response.headers.iter().filter(|(known, _)| known == name);
        fields.flat_map(|(_, text)| text.split(',')).any(|word| word.trim().eq_ignore_ascii_case(value))
    };
    let mut open =
        if version == "HTTP/1.0" { has("connection", "keep-alive") } else { !has("connection", "close") };
    let length = response.header("content-length").map(str::parse::<usize>);
    response.body = if method == "HEAD" || matches!(status, 204 | 304) {
        Vec::new()
    } else if has("transfer-encoding", "chunked") {
        read_chunks(connection)?
    } else if let Some(length) = length {
        let length =
            length.map_err(|_| connection.explain(ClientError::protocol("Content-Length is no number")))?;
        connection.read_exact(length)?
    } else {
        open = false;
        connection.read_to_end()?
    };
    Ok((response, open))
}

type Head = (String, u16, Vec<(String, String)>);

fn read_head(connection: &mut Connection) -> Result<Head, ClientError> {
    let bytes = connection.read_until(b"\r\n\r\n", MOST_HEAD)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let mut lines = text.trim_end_matches("\r\n").split("\r\n");
    let first = lines.next().unwrap_or_default();
    let wrong = |what: &str| connection.explain(ClientError::protocol(format!("{what}: `{first}`")));
    let mut words = first.splitn(3, ' ');
    let version =
        words.next().filter(|version| version.starts_with("HTTP/1.")).ok_or_else(|| wrong("not HTTP/1"))?;
    let status = words.next().filter(|status| status.len() == 3).and_then(|status| status.parse().ok());
    let status = status.ok_or_else(|| wrong("no status"))?;
    let mut headers = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(':').ok_or_else(|| wrong("a header without a colon"))?;
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok((version.to_owned(), status, headers))
}

fn read_chunks(connection: &mut Connection) -> Result<Vec<u8>, ClientError> {
    let mut body = Vec::new();
    loop {
        let line = connection.read_until(b"\r\n", MOST_HEAD)?;
        let text = String::from_utf8_lossy(&line).into_owned();
        let size = text.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16)
            .map_err(|_| connection.explain(ClientError::protocol(format!("`{size}` is no chunk size"))))?;
        if size == 0 {
            // Skips trailers, up to the empty line.
            while connection.read_until(b"\r\n", MOST_HEAD)?.len() > 2 {}
            return Ok(body);
        }
        body.extend(connection.read_exact(size)?);
        if connection.read_exact(2)? != b"\r\n" {
            return Err(connection.explain(ClientError::protocol("a chunk does not end where its size says")));
        }
    }
}
