//! `psflip hold` and `psflip resume`, and what `psflip status` shows of a `[[proxy]]`.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixListener;
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};
use testkit::client::http::{HttpClient, Response};
use testkit::{Deadline, NotifyManager, Psflip, Sandbox, Signal, Stream, wait_until};

use super::{client, ended, run, start_at_once};
use crate::service::{psflip, stop};

/// Each generation has a socket of its own.
const SERVER: &[&str] = &["http-server", "--unix", "{{ blue_green() }}.sock", "--verbose"];

const PROXIED: &str = "[healthcheck.unix]\npath = \"{{ blue_green() }}.sock\"\ninterval = \"10ms\"\n\
    [[proxy]]\nlisten = \"unix://web.sock\"\nforward = \"unix://{{ blue_green() }}.sock\"\nprotocol = \"http\"\n";

#[track_caller]
fn start_proxied(sandbox: &Sandbox) -> Psflip {
    psflip(sandbox, SERVER, PROXIED).start().wait_ready()
}

/// A client whose connection is open: it has got an answer.
#[track_caller]
fn connected(sandbox: &Sandbox) -> HttpClient {
    let mut client = HttpClient::new(sandbox.path("web.sock").as_path()).keep_alive();
    assert_eq!(client.get("/").unwrap().status, 200);
    client
}

/// A request that may wait.
fn get(mut client: HttpClient) -> JoinHandle<Response> {
    thread::spawn(move || client.get("/").unwrap())
}

#[track_caller]
fn status(sandbox: &Sandbox) -> Value {
    let (status, stdout, stderr) = run(sandbox, &["status", "--json"]);
    assert!(status.success(), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// Waits until the status has this value there: the counts of the relay are up to 100 ms old.
#[track_caller]
pub(crate) fn wait_status(sandbox: &Sandbox, pointer: &str, value: impl Into<Value>) -> Value {
    let value = value.into();
    wait_until(Deadline::default(), format!("{pointer} to be {value} in the status"), || {
        Some(status(sandbox)).filter(|status| status.pointer(pointer) == Some(&value))
    })
}

/// Runs a client that succeeds. Returns its standard output.
#[track_caller]
fn done(sandbox: &Sandbox, args: &[&str]) -> String {
    let (status, stdout, stderr) = run(sandbox, args);
    assert!(status.success(), "{args:?}: {status}\n{stderr}");
    stdout
}

#[test]
fn requests_wait_during_a_hold_and_go_on_after_it() {
    // Contract: T11
    let sandbox = Sandbox::new();
    let psflip = start_proxied(&sandbox);
    let kept = connected(&sandbox);
    let watcher = client(&sandbox, &["status", "--watch"]);
    watcher.output().wait(Stream::Stdout, "serving: generation 1");
    let held = done(&sandbox, &["hold", "--max", "1h"]);
    assert!(
        held.starts_with("connections are held: none is accepted, and requests wait, each at most 1 h"),
        "{held}"
    );
    watcher.output().wait(Stream::Stdout, "; connections held, each request at most 1 h 0 min");
    let checked = done(&sandbox, &["status", "--check"]); // no reason to restart a container
    assert!(checked.starts_with("serving: ") && checked.contains("; connections held"), "{checked}");
    let fresh = get(HttpClient::new(sandbox.path("web.sock").as_path()));
    let waiting = get(kept);
    let shown = wait_status(&sandbox, "/proxies/0/under_way", 1);
    assert_eq!(shown["proxies"][0]["state"], "held");
    assert_eq!(shown["proxies"][0]["connections"], 1, "the new one is not accepted: {shown}");
    assert_eq!(shown["hold"]["max_ms"], 3_600_000);
    assert!(!waiting.is_finished() && !fresh.is_finished());
    assert!(!psflip.output().text(Stream::Stdout).contains("request 2"), "{}", psflip.log());
    let resumed = done(&sandbox, &["resume"]);
    assert!(resumed.starts_with("connections are accepted again; they were held for "), "{resumed}");
    for answer in [waiting, fresh] {
        assert_eq!(answer.join().unwrap().status, 200);
    }
    let shown = status(&sandbox);
    assert_eq!((&shown["proxies"][0]["state"], &shown["hold"]), (&json!("accepting"), &Value::Null));
    assert_eq!(done(&sandbox, &["resume"]), "connections were not held\n");
    psflip.wait_for_line(Stream::Stderr, "hold requested over the control socket");
    psflip.wait_for_line(Stream::Stderr, "resume requested over the control socket");
    watcher.signal(Signal::SIGINT);
    watcher.wait_exit();
    stop(&psflip);
}

#[test]
fn a_request_waits_at_most_as_long_as_the_hold_says() {
    // Contract: T11
    let sandbox = Sandbox::new();
    let psflip = start_proxied(&sandbox);
    let mut kept = connected(&sandbox);
    let answer: Value = serde_json::from_str(&done(&sandbox, &["hold", "--max", "20ms", "--json"])).unwrap();
    assert_eq!((&answer["event"], &answer["hold"]["max_ms"]), (&json!("held"), &json!(20)));
    let answer = kept.get("/").unwrap();
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert!(answer.header("retry-after").is_some(), "{answer:?}");
    let since = status(&sandbox)["hold"]["since"].clone();
    done(&sandbox, &["hold", "--max", "1h"]); // a second hold only changes how long requests wait
    let shown = status(&sandbox);
    assert_eq!((&shown["hold"]["since"], &shown["hold"]["max_ms"]), (&since, &json!(3_600_000)));
    let waiting = get(kept);
    wait_status(&sandbox, "/proxies/0/under_way", 1);
    done(&sandbox, &["resume"]);
    assert_eq!(waiting.join().unwrap().status, 200);
    stop(&psflip);
}

#[test]
fn a_hold_outlives_an_upgrade() {
    // Contract: T4, T11
    let sandbox = Sandbox::new();
    let psflip = start_proxied(&sandbox);
    let kept = connected(&sandbox);
    done(&sandbox, &["hold", "--max", "1h"]);
    let since = status(&sandbox)["hold"]["since"].clone();
    let waiting = get(kept);
    wait_status(&sandbox, "/proxies/0/under_way", 1);
    done(&sandbox, &["upgrade"]);
    let warning =
        psflip.wait_for_line(Stream::Stderr, "connections are held; `psflip resume` lets them go on");
    assert!(warning.text.contains("generation=2 "), "{warning:?}");
    let shown = wait_status(&sandbox, "/predecessor/step", "answering");
    assert!(shown["predecessor"]["left_ms"].as_u64().unwrap() > 0, "{shown}");
    assert_eq!((&shown["generation"], &shown["proxies"][0]["state"]), (&json!(2), &json!("held")));
    assert_eq!(shown["hold"]["since"], since);
    let text = done(&sandbox, &["status"]);
    assert!(text.contains("its proxy answers the requests that are under way, "), "{text}");
    assert!(text.contains("\nheld      since "), "{text}");
    assert!(!waiting.is_finished());
    done(&sandbox, &["resume"]);
    let answer = waiting.join().unwrap();
    assert_eq!((answer.status, answer.tag("name").unwrap()), (200, "gen1".to_owned()));
    let fresh = get(HttpClient::new(sandbox.path("web.sock").as_path())).join().unwrap();
    assert_eq!(fresh.tag("name").unwrap(), "gen2");
    psflip.wait_for_line(Stream::Stderr, "requests_waited_for=1");
    let shown = wait_status(&sandbox, "/history/1/waited_for", 1);
    assert_eq!(shown["hold"], Value::Null);
    wait_status(&sandbox, "/predecessor", Value::Null);
    stop(&psflip);
}

#[test]
fn without_overlap_the_next_child_answers_what_is_held() {
    // Contract: E5, T11
    let sandbox = Sandbox::new();
    let more = format!("{PROXIED}[upgrade]\noverlap = false\n");
    let psflip = psflip(&sandbox, SERVER, &more).start().wait_ready();
    let kept = connected(&sandbox);
    done(&sandbox, &["hold", "--max", "1h"]);
    let waiting = get(kept);
    wait_status(&sandbox, "/proxies/0/under_way", 1);
    done(&sandbox, &["upgrade"]);
    let shown = wait_status(&sandbox, "/proxies/0/under_way", 1);
    assert_eq!((&shown["generation"], &shown["proxies"][0]["state"]), (&json!(2), &json!("held")));
    wait_status(&sandbox, "/predecessor", Value::Null);
    assert!(!waiting.is_finished());
    done(&sandbox, &["resume"]);
    let answer = waiting.join().unwrap();
    assert_eq!((answer.status, answer.tag("name").unwrap()), (200, "gen2".to_owned()));
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn without_a_proxy_there_is_nothing_to_hold() {
    // Contract: T11
    let sandbox = Sandbox::new();
    let psflip = start_at_once(&sandbox);
    for verb in ["hold", "resume"] {
        let (status, stdout, stderr) = run(&sandbox, &[verb]);
        assert_eq!((status.code(), stdout.as_str()), (Some(1), ""));
        assert!(stderr.contains("this generation has no `[[proxy]]`"), "{stderr}");
    }
    stop(&psflip);
}

#[test]
fn a_psflip_that_is_too_old_to_hold_is_named_as_such() {
    let sandbox = Sandbox::new();
    let listener = UnixListener::bind(sandbox.path("old.sock")).unwrap();
    let hold = client(&sandbox, &["hold", "--socket", "old.sock"]);
    let (mut server, _) = listener.accept().unwrap();
    let mut request = String::new();
    BufReader::new(&server).read_line(&mut request).unwrap();
    assert_eq!(request, "{\"psflip\":1,\"request\":\"hold\",\"max_ms\":30000}\n");
    let reason = format!(
        "`{}` is no request: unknown variant `hold`, expected one of `status`, `watch`, `upgrade`, `follow`, `stop`",
        request.trim_end()
    );
    server.write_all(format!("{}\n", json!({"event": "error", "reason": reason})).as_bytes()).unwrap();
    let (status, _, stderr) = ended(&hold);
    assert_eq!(status.code(), Some(125));
    assert!(
        stderr.contains("the running psflip is older than this one and does not know this request"),
        "{stderr}"
    );
}

#[test]
fn status_shows_each_proxy() {
    // Contract: T12
    let sandbox = Sandbox::new();
    let psflip = start_proxied(&sandbox);
    let mut kept = connected(&sandbox);
    for _ in 0..2 {
        kept.get("/").unwrap();
    }
    let shown = wait_status(&sandbox, "/proxies/0/requests", 3);
    let proxy = &shown["proxies"][0];
    assert_eq!(
        (&proxy["state"], &proxy["open"], &proxy["errors"]),
        (&json!("accepting"), &json!(1), &json!(0))
    );
    let text = done(&sandbox, &["status"]);
    let row = "\nproxy     unix://web.sock -> unix://blue.sock (http): accepting; open 1, requests 3, under way 0, errors 0\n";
    assert!(text.contains(row), "{text}");
    let relay = &shown["relay"];
    assert_eq!(relay["unexpected_exits"], 0);
    let name = std::fs::read_to_string(format!("/proc/{}/comm", relay["pid"])).unwrap();
    assert_eq!(name, "psflip: relay\n");
    stop(&psflip);
}

#[test]
fn the_status_line_of_systemd_says_that_connections_are_held() {
    // Contract: T12
    let sandbox = Sandbox::new();
    let manager = NotifyManager::bind(&sandbox.path("notify"));
    let told = psflip(&sandbox, SERVER, PROXIED).env("NOTIFY_SOCKET", sandbox.path("notify"));
    let psflip = told.start().wait_ready();
    manager.wait("READY=1");
    let last = || manager.notices().iter().rev().find_map(|notice| notice.value("STATUS").map(str::to_owned));
    for (verb, is_held) in [("hold", true), ("resume", false)] {
        done(&sandbox, &[verb]);
        wait_until(Deadline::default(), format!("the status line after `psflip {verb}`"), || {
            last().filter(|status| status.ends_with("; connections held") == is_held)
        });
    }
    stop(&psflip);
}

#[test]
fn a_resume_during_an_upgrade_counts_even_if_the_old_psflip_is_killed() {
    // Contract: T11, F8
    let sandbox = Sandbox::new();
    let psflip = start_proxied(&sandbox);
    done(&sandbox, &["hold", "--max", "1h"]);
    let when_told = PROXIED.replace(
        "[healthcheck.unix]\npath = \"{{ blue_green() }}.sock\"\ninterval = \"10ms\"",
        "[healthcheck.command]\ncmd = [\"test\", \"-e\", \"healthy\"]\ninterval = \"10ms\"",
    );
    crate::service::configure(&sandbox, SERVER, &when_told);
    let mark = psflip.output().mark();
    let old = psflip.request_flip();
    psflip.output().wait_after(mark, Stream::Stdout, "ready");
    done(&sandbox, &["resume"]);
    crate::service::kill(old);
    psflip.output().wait_after(mark, Stream::Stderr, "the old psflip was killed");
    sandbox.write("healthy", "");
    psflip.wait_successor(old);
    assert_eq!(connected(&sandbox).get("/").unwrap().tag("name").unwrap(), "gen2");
    stop(&psflip);
    sandbox.assert_no_process_left();
}
