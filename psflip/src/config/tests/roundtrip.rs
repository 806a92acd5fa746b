//! `psflip check` prints a configuration with the same meaning.

use std::time::Duration;

use proptest::prelude::*;

use super::read;
use crate::config::scalar;

/// Whole milliseconds up to the longest duration.
fn duration(least: u64) -> impl Strategy<Value = String> {
    prop_oneof![least..5000_u64, least..=365 * 86_400_000]
        .prop_map(|ms| scalar::spell(Duration::from_millis(ms)))
}

/// Text without NUL that favours characters with a meaning in TOML, templates and shells.
fn text() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        prop::sample::select(vec![
            "{{", "}}", "{%", "%}", "{#", "{", "\"", "'", "\\", "\n", "\r", "\t", "=", "#", "\u{1b}",
            "\u{7f}"
        ])
        .prop_map(str::to_owned),
        "\\PC{0,5}",
    ];
    prop::collection::vec(part, 0..8).prop_map(|parts| parts.concat())
}

/// A TOML string that is `text` after rendering, written in another way than `Plan` writes it.
fn literal(text: &str) -> String {
    let template: String = text
        .chars()
        .map(|c| if c == '{' { "{{ '\\x7b' }}".replace("\\x7b", "{") } else { c.to_string() })
        .collect();
    let escaped: String = template.chars().map(|c| format!("\\U{:08X}", u32::from(c))).collect();
    format!("\"{escaped}\"")
}

fn check() -> impl Strategy<Value = String> {
    let pace = (duration(0), duration(1), duration(1), 1..1000_u32).prop_map(
        |(after, interval, timeout, successes)| {
            format!(
                "after = '{after}'\ninterval = '{interval}'\ntimeout = '{timeout}'\nsuccesses = {successes}\n"
            )
        },
    );
    let target = prop_oneof![
        text().prop_map(|argument| format!("[healthcheck.command]\ncmd = ['x', {}]\n", literal(&argument))),
        prop::sample::select(vec!["127.0.0.1:80", "localhost:8080", ":1", "[::1]:65535", "tcp://10.0.0.1:5"])
            .prop_map(|address| format!("[healthcheck.tcp]\naddress = '{address}'\n")),
        prop::sample::select(vec!["/run/a.sock", "a.sock", "@app", "unix:///run/a", "unix:@b"])
            .prop_map(|path| format!("[healthcheck.unix]\npath = '{path}'\n")),
        (
            prop::sample::select(vec![
                "http://127.0.0.1",
                "HTTP://localhost:1/up?a=b",
                "http://[::1]/",
                "unix:///run/a:/up",
                "unix:@b"
            ]),
            prop::sample::select(vec!["'200'", "204", "'200-399'", "'200, 204,300-399'"]),
            prop::sample::select(vec!["", "method = 'HEAD'\n", "host = 'a.example:1'\n"]),
            prop::collection::btree_map("[A-Z]{1,4}[!#$%&'*+.^_`|~-]{0,2}", "[!-~é]{0,5}", 0..3),
        )
            .prop_map(|(url, status, more, headers)| {
                let headers: Vec<String> = headers
                    .iter()
                    .filter(|(name, _)| !matches!(name.as_str(), "HOST" | "TE"))
                    .map(|(name, value)| format!("\"{name}\" = {}", literal(value)))
                    .collect();
                let headers = headers.join(", ");
                format!(
                    "[healthcheck.http]\nurl = '{url}'\nstatus = {status}\n{more}headers = {{ {headers} }}\n"
                )
            }),
        (
            prop::sample::select(vec!["unix:///run/a", "/run/a", "@b", "127.0.0.1:9000", "tcp://[::1]:9000"]),
            text(),
            text(),
            prop::collection::btree_map("[A-Z_]{1,4}", text(), 0..3),
        )
            .prop_map(|(address, script, query, params)| {
                let params: Vec<String> =
                    params.iter().map(|(name, value)| format!("{name} = {}", literal(value))).collect();
                format!(
                    "[healthcheck.fcgi]\naddress = '{address}'\nscript = {}\nquery = {}\nparams = {{ {} }}\n",
                    literal(&format!("/{script}")),
                    literal(query.trim_start_matches('?')),
                    params.join(", ")
                )
            }),
        prop::sample::select(vec!["", "socket = 'unix:///run/d.sock'\n", "socket = '@d'\n"])
            .prop_map(|socket| format!("[healthcheck.docker]\ncontainer = 'web_1.a-b'\n{socket}")),
    ];
    prop_oneof![
        Just(String::new()),
        duration(0).prop_map(|timeout| format!("[healthcheck.alive]\ntimeout = '{timeout}'\n")),
        duration(0).prop_map(|extend| format!("[healthcheck.notify]\nextend = '{extend}'\n")),
        (target, pace).prop_map(|(target, pace)| target + &pace),
    ]
}

#[test]
fn ambiguous_strings_round_trip() {
    // Contract: X1
    // Found by `cargo xtask fuzz`: one template for each pair of braces exceeded the limit, and a socket's
    // path looked like a URL.
    for path in ["unix:x", "tcp:x", "a://b", "unix:://c", "@://d", "//e"] {
        let text = format!("cmd = ['x', 'y']\n[healthcheck.unix]\npath = 'unix://{path}'\n");
        let mut first = read(&text).unwrap();
        first.cmd[1] = "{{%{#'\\\"}}\n".repeat(300);
        let printed = first.to_string();
        let second = read(&printed).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(first, second, "{path}");
        let docker =
            format!("cmd = ['x']\n[healthcheck.docker]\ncontainer = 'a'\nsocket = 'unix://{path}'\n");
        let first = read(&docker).unwrap();
        let second = read(&first.to_string()).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(first, second, "{path}");
    }
}

proptest! {
    #[test]
    fn a_printed_plan_round_trips(
        argument in text(),
        variable in text(),
        path in text(),
        name in "[^=\0{}]{1,6}",
        upgrade in ("USR2|HUP|rtmin\\+3|SIGRTMAX-1", duration(1)),
        shutdown in (duration(0), "TERM|KILL|sigquit|RTMIN", duration(0), "kill|leave"),
        log in ("text|json", "error|warn|info|debug|trace"),
        health in check(),
        signals in prop::sample::subsequence(
            vec!["TERM = 'QUIT'", "SIGWINCH = false", "'rtmin+2' = 'SIGRTMAX'", "SIGINT = 'KILL'", "TSTP = 'STOP'"], 0..=5),
        quiet in any::<bool>(),
    ) {
        // Contract: X1
        let key: String = name.chars().map(|c| format!("\\U{:08X}", u32::from(c))).collect();
        let text = format!(
            "cmd = ['x', {}]\nworkdir = {}\nquiet = {quiet}\n[env]\n\"{key}\" = {}\nGONE = false\n\
             [upgrade]\nsignal = '{}'\ntimeout = '{}'\n\
             [shutdown]\ndelay = '{}'\nsignal = '{}'\ntimeout = '{}'\norphans = '{}'\n\
             [log]\nformat = '{}'\nlevel = '{}'\n[signals]\n{}\n{health}",
            literal(&argument), literal(&format!("/{path}")), literal(&variable), upgrade.0, upgrade.1,
            shutdown.0, shutdown.1, shutdown.2, shutdown.3, log.0, log.1, signals.join("\n"),
        );
        let first = read(&text).map_err(|errors| TestCaseError::fail(format!("{text}\n{errors}")))?;
        prop_assert_eq!(&first.cmd[1], &argument);
        let printed = first.to_string();
        let second = read(&printed).map_err(|errors| TestCaseError::fail(format!("{printed}\n{errors}")))?;
        prop_assert_eq!(first, second);
    }

    #[test]
    fn durations_round_trip(ms in 0..=365 * 86_400_000_u64) {
        // Contract: X3
        let duration = Duration::from_millis(ms);
        prop_assert_eq!(scalar::duration(&scalar::spell(duration)), Ok(duration));
    }

    #[test]
    fn no_text_makes_a_duration_panic(text in "[0-9.smhd +-]{0,30}") {
        // Contract: X2
        if let Ok(duration) = scalar::duration(&text) {
            prop_assert!(duration <= Duration::from_secs(365 * 86_400));
        }
    }
}
