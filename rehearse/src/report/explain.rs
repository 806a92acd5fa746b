//! Why requests were lost, and what to do: the same losses are one finding.

use std::collections::BTreeMap;

use serde::Serialize;

use super::LostRequest;
use crate::load::{Connection, Kind, Stage};

/// Losses of one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Finding {
    pub(crate) count: usize,
    /// What the server did.
    pub(crate) why: &'static str,
    pub(crate) remedy: &'static str,
    /// The page of the documentation.
    pub(crate) page: &'static str,
    /// What the clients saw, the most frequent first.
    pub(crate) seen: Vec<Seen>,
}

/// Losses that look the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub(crate) struct Seen {
    pub(crate) count: usize,
    pub(crate) what: String,
}

/// What a lost request says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Cause {
    why: &'static str,
    remedy: &'static str,
    page: &'static str,
}

const REFUSED: Cause = Cause {
    why: "nobody listened: the old version stopped before the new one had opened its socket (a check at an address of both is answered by the old one), or the service was down",
    remedy: "let psflip hold the socket (`[[listen]]`) or carry the connections (`[[proxy]]`), and check an address of the new version's own",
    page: "docs/traffic.md",
};
const NO_SOCKET: Cause = Cause {
    why: "the socket's file was missing: the old version removed it as it stopped, after the new one had made it",
    remedy: "let psflip hold the socket (`[[listen]]`), or give each generation a path of its own and `switch`",
    page: "docs/traffic.md",
};
const IDLE_CLOSED: Cause = Cause {
    why: "the server closes idle keep-alive connections as it stops, while a client sends its next request on one",
    remedy: "use `[[proxy]]`, which keeps clients' connections across upgrades; or, if all clients repeat such requests (RFC 9112, 9.3.1), allow it: --max-keep-alive-lost",
    page: "docs/proxy.md",
};
const DROPPED: Cause = Cause {
    why: "the server stopped with connections that it had accepted, or that waited in its queue, and answered nothing",
    remedy: "use `[[proxy]]`; or end gracefully on SIGTERM: accept what waits, answer it, then exit; `shutdown.delay` gives clients and web servers time to go elsewhere",
    page: "docs/proxy.md",
};
const CUT: Cause = Cause {
    why: "the server stopped in the middle of an answer",
    remedy: "end gracefully on SIGTERM: complete the answers first; if psflip had to kill the child, raise `shutdown.timeout`; `[[proxy]]` waits for answers with `drain`",
    page: "docs/proxy.md",
};
const UPLOAD_CUT: Cause = Cause {
    why: "the server stopped while a client still sent its request",
    remedy: "use `[[proxy]]`; or end gracefully on SIGTERM: read and answer the requests that have begun, then exit",
    page: "docs/proxy.md",
};
const WEBSOCKET_CUT: Cause = Cause {
    why: "the server cut a WebSocket without a close frame",
    remedy: "send a close frame (1001) on SIGTERM; or let connections stay with the old child: a long `shutdown.timeout` and `upgrade.draining`",
    page: "docs/operations.md",
};
const GATEWAY: Cause = Cause {
    why: "a server in front could not reach the service",
    remedy: "see its log, and whether it may use the service's socket; let psflip hold the socket (`[[listen]]`)",
    page: "docs/traffic.md",
};
const STATUS: Cause = Cause {
    why: "the application answered with an error while it started or stopped",
    remedy: "let the health check request what clients need, so that a version that can't serve it is not promoted",
    page: "docs/deploying.md",
};
const NO_ANSWER: Cause = Cause {
    why: "no byte moved: somebody holds the connection, or the listening socket, and does not serve it",
    remedy: "look in log.txt for a worker that hangs, or a leftover process that still listens",
    page: "docs/troubleshooting.md",
};
const PROTOCOL: Cause = Cause {
    why: "the answer is no valid answer of this protocol",
    remedy: "check the URL's scheme and port",
    page: "docs/troubleshooting.md",
};

impl Cause {
    fn of(lost: &LostRequest) -> Self {
        let is_cut = matches!(lost.stage, Stage::Send | Stage::FirstByte);
        match lost.stage {
            _ if lost.cause.starts_with("no progress") => NO_ANSWER,
            Stage::Connect if lost.cause.contains("No such file") => NO_SOCKET,
            // The connection was in the queue of a socket that was closed then.
            Stage::Connect if lost.cause.contains("reset") => DROPPED,
            Stage::Connect => REFUSED,
            Stage::Protocol => PROTOCOL,
            Stage::Status if matches!(lost.status, Some(502..=504)) => GATEWAY,
            Stage::Status => STATUS,
            _ if lost.kind == Kind::Websocket => WEBSOCKET_CUT,
            _ if lost.kind == Kind::PostHalf && is_cut => UPLOAD_CUT,
            Stage::Head | Stage::Body => CUT,
            Stage::Send | Stage::FirstByte if lost.connection == Connection::Reused => IDLE_CLOSED,
            Stage::Send | Stage::FirstByte => DROPPED,
        }
    }

    fn finding(self, seen: BTreeMap<String, usize>) -> Finding {
        let mut seen: Vec<Seen> = seen.into_iter().map(|(what, count)| Seen { count, what }).collect();
        seen.sort_by_key(|one| std::cmp::Reverse(one.count));
        let count = seen.iter().map(|one| one.count).sum();
        Finding { count, why: self.why, remedy: self.remedy, page: self.page, seen }
    }
}

/// The findings, the most frequent first.
pub(crate) fn findings(losses: &[LostRequest]) -> Vec<Finding> {
    let mut found: BTreeMap<&str, (Cause, BTreeMap<String, usize>)> = BTreeMap::new();
    for lost in losses {
        let cause = Cause::of(lost);
        let (_, seen) = found.entry(cause.why).or_insert((cause, BTreeMap::new()));
        *seen.entry(what(lost)).or_insert(0) += 1;
    }
    let mut findings: Vec<Finding> = found.into_values().map(|(cause, seen)| cause.finding(seen)).collect();
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.count));
    findings
}

/// A loss without its time and its client.
fn what(lost: &LostRequest) -> String {
    let connection = match lost.connection {
        Connection::Own => "its own connection",
        Connection::First => "a fresh keep-alive connection",
        Connection::Reused => "a reused keep-alive connection",
    };
    let stage = match lost.stage {
        Stage::Connect => "connecting",
        Stage::Send => "sending the request",
        Stage::FirstByte => "waiting for the answer",
        Stage::Head => "reading the head of the answer",
        Stage::Body => "reading the body of the answer",
        Stage::Protocol => "understanding the answer",
        Stage::Status => "the answer itself",
    };
    let when = match (lost.upgrade, lost.after.as_deref()) {
        (Some(_), Some(step)) => format!("during an upgrade, after `{step}`"),
        _ => "between upgrades".to_owned(),
    };
    format!("{}: {} ({} on {connection}, {when})", lost.kind.name(), lost.cause, stage)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(kind: Kind, connection: Connection, stage: Stage, cause: &str) -> LostRequest {
        LostRequest {
            at_ms: 1.0,
            took_ms: 1.0,
            url: "http://h/".into(),
            kind,
            connection,
            stage,
            cause: cause.into(),
            status: None,
            upgrade: Some(1),
            after: Some("stop-signal".into()),
        }
    }

    #[test]
    fn the_connection_and_the_stage_name_the_cause() {
        let cause = |kind, connection, stage, text: &str| Cause::of(&lost(kind, connection, stage, text));
        use Connection::{First, Own, Reused};
        assert_eq!(cause(Kind::KeepAlive, Reused, Stage::FirstByte, "closed by the server"), IDLE_CLOSED);
        assert_eq!(cause(Kind::KeepAlive, First, Stage::FirstByte, "closed by the server"), DROPPED);
        assert_eq!(cause(Kind::New, Own, Stage::Connect, "Connection refused (os error 111)"), REFUSED);
        assert_eq!(
            cause(Kind::New, Own, Stage::Connect, "No such file or directory (os error 2)"),
            NO_SOCKET
        );
        assert_eq!(cause(Kind::New, Own, Stage::Connect, "Connection reset by peer (os error 104)"), DROPPED);
        assert_eq!(cause(Kind::New, Own, Stage::Body, "closed by the server"), CUT);
        assert_eq!(cause(Kind::PostHalf, Own, Stage::Send, "Broken pipe (os error 32)"), UPLOAD_CUT);
        assert_eq!(cause(Kind::Websocket, Reused, Stage::FirstByte, "closed by the server"), WEBSOCKET_CUT);
        assert_eq!(cause(Kind::New, Own, Stage::FirstByte, "no progress for 10 s"), NO_ANSWER);
        let gateway = LostRequest { status: Some(502), ..lost(Kind::New, Own, Stage::Status, "status 502") };
        assert_eq!(Cause::of(&gateway), GATEWAY);
    }

    #[test]
    fn the_same_losses_are_one_finding() {
        let idle = lost(Kind::KeepAlive, Connection::Reused, Stage::FirstByte, "closed by the server");
        let refused = lost(Kind::New, Connection::Own, Stage::Connect, "Connection refused (os error 111)");
        let found = findings(&[refused, idle.clone(), LostRequest { at_ms: 9.0, ..idle }]);
        assert_eq!(found.iter().map(|finding| finding.count).collect::<Vec<_>>(), [2, 1]);
        assert_eq!(found[0].seen.len(), 1);
        assert!(
            found[0].seen[0]
                .what
                .contains("reused keep-alive connection, during an upgrade, after `stop-signal`")
        );
    }
}
