//! `docker`: the child is healthy when a container engine reports that its container is healthy.
//!
//! A probe is one `GET /containers/NAME/json` (Docker Engine API, ContainerInspect; Podman has
//! the same) on the engine's Unix socket. The engine knows the result of the health check that
//! the image or `docker run --health-cmd` defines. A container that has exited, or has no such
//! check, can't become healthy, so the wait ends.

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use serde::Deserialize;

use super::exchange::{Exchange, Question, Received};
use super::{Attempt, Begun, ChildInfo, Interest, Probe, Progress, Why, http, response};
use crate::config::Endpoint;
use crate::text;

/// The longest answer, in bytes. Usual ones have ten thousand, and the log of a health
/// check may add twenty thousand.
const LONGEST: usize = 1024 * 1024;
/// The most that is read at once, in bytes.
const GULP: usize = 64 * 1024;
/// How much of an engine's error message is shown, in characters.
const SHOWN: usize = 200;

pub(super) struct Docker {
    question: Question,
    container: Rc<str>,
}

impl Docker {
    pub(super) fn new(container: &str, socket: &Path) -> Self {
        let request = http::get("docker", &format!("/containers/{container}/json"));
        let what = format!("container {container} at {}", socket.display());
        let question = Question::new(&Endpoint::Unix(socket.to_path_buf()), request, &what);
        Self { question, container: container.into() }
    }
}

impl Probe for Docker {
    fn begin(&self, child: &ChildInfo) -> Result<Begun, Why> {
        let exchange = self.question.begin(child)?;
        let container = Rc::clone(&self.container);
        Ok(Begun::Pending(Box::new(DockerAttempt { exchange, answer: Vec::new(), container })))
    }
}

/// A request and the answer so far.
struct DockerAttempt {
    exchange: Exchange,
    answer: Vec<u8>,
    container: Rc<str>,
}

impl DockerAttempt {
    fn go_on(&mut self) -> Result<Progress, Why> {
        if !self.exchange.send()? {
            return Ok(Progress::Pending);
        }
        let mut buffer = [0; 4096];
        let mut closed = false;
        for _ in 0..GULP / buffer.len() {
            match self.exchange.receive(&mut buffer)? {
                Received::Nothing => break,
                Received::Bytes(length) => self.answer.extend_from_slice(&buffer[..length]),
                Received::End => {
                    closed = true;
                    break;
                }
            }
        }
        match response::read(&self.answer, closed) {
            Ok(Some(response)) => Ok(judge(response.status, &response.body, &self.container)),
            Ok(None) if self.answer.len() > LONGEST => {
                Err(self.exchange.failed("no end of the answer within 1 MiB").into())
            }
            Ok(None) => Ok(Progress::Pending),
            Err(why) => Err(self.exchange.unfit(why, &self.answer).into()),
        }
    }
}

impl Attempt for DockerAttempt {
    fn watch(&self) -> (BorrowedFd<'_>, Interest) {
        self.exchange.watch()
    }

    fn advance(&mut self) -> Progress {
        self.go_on().unwrap_or_else(Progress::Failed)
    }

    fn overdue(&self, limit: Duration) -> String {
        self.exchange.overdue(limit, &self.answer)
    }
}

/// The relevant fields of a container. Any of them may be missing, since engines differ.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Container {
    state: ContainerState,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ContainerState {
    status: Option<String>,
    exit_code: Option<i64>,
    error: Option<String>,
    health: Option<Health>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Health {
    status: Option<String>,
    log: Option<Vec<Run>>,
}

/// One run of the container's health check.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Run {
    exit_code: Option<i64>,
    output: Option<String>,
}

/// An error of the engine.
#[derive(Debug, Deserialize)]
struct EngineError {
    message: String,
}

fn failed(text: String) -> Progress {
    Progress::Failed(text.into())
}

/// The result of an answer.
fn judge(status: u16, body: &[u8], name: &str) -> Progress {
    if status != 200 {
        let message = serde_json::from_slice(body).map_or_else(
            |_| text::head(&String::from_utf8_lossy(body), SHOWN),
            |EngineError { message }| text::head(&message, SHOWN),
        );
        let text = match status {
            404 => format!("there is no container `{name}` (yet): {message}"),
            _ => format!("the engine answered HTTP status {status}: {message}"),
        };
        return failed(text);
    }
    match serde_json::from_slice::<Container>(body) {
        Ok(container) => container.state.judge(name),
        // The library quotes the unexpected value at any length.
        Err(error) => {
            failed(format!("the engine's answer can't be read: {}", text::head(&error.to_string(), SHOWN)))
        }
    }
}

impl ContainerState {
    fn judge(self, name: &str) -> Progress {
        let state = self.status.as_deref().unwrap_or_default();
        match state {
            "running" => {}
            "exited" | "dead" => return Progress::Hopeless(self.describe_exit(name, state)),
            _ => {
                let state = text::head(state, SHOWN);
                return failed(format!("the container `{name}` is not running: `{state}`"));
            }
        }
        let health = self.health.unwrap_or_default();
        match health.status.as_deref().unwrap_or_default() {
            "healthy" => Progress::Healthy,
            "starting" => failed(format!(
                "the container `{name}` is `starting`{}",
                health.last_run().unwrap_or(": its health check has not run yet".to_owned())
            )),
            "" | "none" => Progress::Hopeless(format!(
                "the container `{name}` has no health check, so it will never be healthy: give its image a HEALTHCHECK, run it \
                 with `--health-cmd`, or choose another `[healthcheck]`"
            )),
            other => failed(format!(
                "the container `{name}` is `{}`{}",
                text::head(other, SHOWN),
                health.last_run().unwrap_or_default()
            )),
        }
    }

    fn describe_exit(&self, name: &str, state: &str) -> String {
        let code = self.exit_code.map_or_else(String::new, |code| format!(" with code {code}"));
        let error = self.error.as_deref().and_then(|error| text::tail(error.as_bytes()));
        let error = error.map_or_else(String::new, |error| format!(": {error}"));
        match state {
            "dead" => format!("the container `{name}` is dead: the engine could not remove it{error}"),
            _ => format!("the container `{name}` has exited{code}{error}"),
        }
    }
}

impl Health {
    /// The result of the last run of the check.
    fn last_run(&self) -> Option<String> {
        let run = self.log.as_ref()?.last()?;
        let code = run.exit_code.unwrap_or_default();
        let output = run.output.as_deref().and_then(|output| text::tail(output.as_bytes()));
        let output = output.map_or(", without output".to_owned(), |output| format!(": {output}"));
        Some(format!("; its check exited with code {code}{output}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn failed(state: &str) -> String {
        match judge(200, format!(r#"{{"Id":"1","State":{state},"Config":{{}}}}"#).as_bytes(), "web") {
            Progress::Failed(Why { text: why, .. }) => why,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn hopeless(state: &str) -> String {
        match judge(200, format!(r#"{{"State":{state}}}"#).as_bytes(), "web") {
            Progress::Hopeless(why) => why,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_container_is_healthy_when_the_engine_reports_it() {
        // Contract: H1
        let body = br#"{"State":{"Status":"running","Running":true,"Health":{"Status":"healthy","FailingStreak":0,"Log":[]}}}"#;
        assert_eq!(judge(200, body, "web"), Progress::Healthy);
    }

    #[test]
    fn unreadable_answers_are_quoted_in_part() {
        // Contract: H4, X2
        // Found by `cargo xtask fuzz`.
        let body = format!(r#"{{"State":"{}"}}"#, "x".repeat(100_000));
        let Progress::Failed(Why { text: why, .. }) = judge(200, body.as_bytes(), "web") else { panic!() };
        assert!(why.len() < 400, "{} bytes", why.len());
    }

    #[test]
    fn a_container_that_may_become_healthy_is_probed_again() {
        // Contract: H1, H4
        for (state, wanted) in [
            (r#"{"Status":"created"}"#, "the container `web` is not running: `created`"),
            (r#"{"Status":"restarting","ExitCode":1}"#, "`restarting`"),
            (r#"{"Status":"paused"}"#, "`paused`"),
            (r#"{"Status":"removing"}"#, "`removing`"),
            (r#"{"Status":null}"#, "not running: ``"),
            (
                r#"{"Status":"running","Health":{"Status":"starting","Log":null}}"#,
                "`starting`: its health check has not run yet",
            ),
            (
                r#"{"Status":"running","Health":{"Status":"starting","Log":[{"ExitCode":1,"Output":"no"}]}}"#,
                "`starting`; its check exited with code 1: no",
            ),
            (
                r#"{"Status":"running","Health":{"Status":"unhealthy","FailingStreak":3,"Log":[{"ExitCode":0,"Output":"old"},{"ExitCode":7,"Output":"no\ndatabase\n"}]}}"#,
                r"`web` is `unhealthy`; its check exited with code 7: no\ndatabase",
            ),
            (
                r#"{"Status":"running","Health":{"Status":"unhealthy","Log":[{"ExitCode":-1,"Output":""}]}}"#,
                "code -1, without output",
            ),
        ] {
            let why = failed(state);
            assert!(why.contains(wanted), "`{wanted}` is not in: {why}");
        }
    }

    #[test]
    fn a_container_that_can_not_become_healthy_stops_the_wait() {
        // Contract: H3, H4
        for (state, wanted) in [
            (
                r#"{"Status":"exited","ExitCode":137,"Error":""}"#,
                "the container `web` has exited with code 137",
            ),
            (r#"{"Status":"exited","ExitCode":127,"Error":"no such file"}"#, "with code 127: no such file"),
            (r#"{"Status":"dead"}"#, "the container `web` is dead"),
            (
                r#"{"Status":"running"}"#,
                "has no health check, so it will never be healthy: give its image a HEALTHCHECK",
            ),
            (r#"{"Status":"running","Health":{"Status":"none"}}"#, "has no health check"),
        ] {
            let why = hopeless(state);
            assert!(why.contains(wanted), "`{wanted}` is not in: {why}");
        }
    }

    #[test]
    fn errors_of_the_engine_are_passed_on() {
        // Contract: H4, X2
        for (status, body, wanted) in [
            (
                404,
                r#"{"message":"No such container: web"}"#,
                "there is no container `web` (yet): No such container: web",
            ),
            (500, r#"{"message":"oh\nno"}"#, r"the engine answered HTTP status 500: oh\nno"),
            (403, "denied by a proxy", "HTTP status 403: denied by a proxy"),
            (200, "[]", "is not running: ``"),
            (200, "", "can't be read: EOF"),
            (200, r#"{"State":{"Status":5}}"#, "can't be read: invalid type"),
        ] {
            let Progress::Failed(Why { text: why, .. }) = judge(status, body.as_bytes(), "web") else {
                panic!("{status} {body}")
            };
            assert!(why.contains(wanted), "`{wanted}` is not in: {why}");
        }
        let deep = "[".repeat(100_000);
        assert!(matches!(judge(200, deep.as_bytes(), "web"), Progress::Failed(_)));
    }
}
