//! What psflip logs of an upgrade, in which form, and what it never logs.

use testkit::{Line, Psflip, Sandbox, Stream};

use crate::service::{AT_ONCE, psflip, stop};

const MARKER: &str = "hunter2-the-secret";

/// psflip's own lines among these, without the parts that differ from run to run: time, pids, durations.
fn own_lines(lines: &[Line]) -> Vec<String> {
    lines
        .iter()
        .filter(|line| line.text.contains("psflip{generation="))
        .map(|line| plain(&line.text))
        .collect()
}

/// The line without time, pids and durations.
fn plain(line: &str) -> String {
    let text = line.split_once('Z').map_or(line, |(_, rest)| rest).trim();
    let mut out = String::new();
    for word in text.split(' ') {
        let (name, value) = word.split_once('=').unwrap_or(("", word));
        let differs = ["pid", "child", "new_psflip", "took", "drained", "command"].contains(&name);
        let value = match (differs, value.trim_end_matches("}:") == value) {
            (true, true) => "_",
            (true, false) => "_}:",
            _ => value,
        };
        out += &if name.is_empty() { format!("{word} ") } else { format!("{name}={value} ") };
    }
    let out = out.trim_end().to_owned();
    // `from="pid 1234 (root)"`
    match out.split_once("from=\"pid ") {
        Some((before, after)) => format!("{before}from=\"pid _{}", &after[after.find(' ').unwrap()..]),
        None => out,
    }
}

/// A psflip whose environment and configuration contain every possible kind of secret.
fn with_secrets(sandbox: &Sandbox, rest: &str) -> Psflip {
    let config = format!(
        "{AT_ONCE}{rest}[env]\nTOKEN = \"{MARKER}\"\nOTHER = \"{{{{ env('PASSWORD') }}}}\"\n\
         [hooks]\npromote = [\"true\", \"{MARKER}\"]\npromoted = [\"false\", \"{MARKER}\"]\n"
    );
    psflip(sandbox, &["http-server", "--unix", "app.sock", "--name", MARKER], &config)
        .env("PASSWORD", MARKER)
        .start()
        .wait_ready()
}

#[test]
fn an_upgrade_is_logged_in_eight_lines() {
    // Contract: S6, U8
    let sandbox = Sandbox::new();
    let psflip = psflip(&sandbox, &["http-server", "--unix", "app.sock"], AT_ONCE).start().wait_ready();
    psflip.wait_for_line(Stream::Stderr, "healthy, active");
    let mark = psflip.output().mark();
    psflip.flip();
    psflip.output().wait_after(mark, Stream::Stderr, "the old generation is gone");
    let mut lines = own_lines(&psflip.output().lines()[mark..]);
    lines.sort_by_key(|line| line.contains("{generation=2")); // each psflip writes its own lines in order
    assert!((5..=8).contains(&lines.len()), "{lines:#?}");
    insta::assert_snapshot!(lines.join("\n"), @r#"
    INFO psflip{generation=1 pid=_}: upgrade requested signal=SIGHUP from="pid _ (root)"
    INFO psflip{generation=1 pid=_}: upgrade started next_generation=2
    INFO psflip{generation=1 pid=_}: new generation took over; stopping the old child child=_ new_psflip=_ signal=SIGTERM
    INFO psflip{generation=1 pid=_}: the child has exited child=_ end=exit code 0
    INFO psflip{generation=2 pid=_}: child started child=_ command=_
    INFO psflip{generation=2 pid=_}: healthy; taking over child=_ health="alive"
    INFO psflip{generation=2 pid=_}: healthy, active child=_ health="alive" took=_
    INFO psflip{generation=2 pid=_}: the old generation is gone drained=_
    "#);
    stop(&psflip);
}

#[test]
fn no_secret_is_logged_at_any_level_or_format() {
    for format in ["text", "json"] {
        let sandbox = Sandbox::new();
        let psflip = with_secrets(&sandbox, &format!("[log]\nlevel = \"trace\"\nformat = \"{format}\"\n"));
        psflip.flip();
        stop(&psflip);
        psflip.output().wait_closed();
        let lines = psflip.output().lines();
        assert!(lines.iter().any(|line| line.text.contains("hook failed")), "{}", sandbox.report());
        for line in lines.iter().filter(|line| line.stream == Stream::Stderr) {
            assert!(!line.text.contains(MARKER), "{line}");
        }
    }
}

#[test]
fn a_terminal_gets_colours_unless_disabled() {
    let text = |variable: (&str, &str)| {
        let sandbox = Sandbox::new();
        let psflip = psflip(&sandbox, &["/bin/sleep", "600"], AT_ONCE).pty().env("TERM", "xterm");
        let psflip = psflip.env(variable.0, variable.1).start().wait_ready();
        psflip.wait_for_line(Stream::Pty, "healthy, active");
        stop(&psflip);
        psflip.output().text(Stream::Pty)
    };
    let coloured = text(("LANG", "C"));
    assert!(coloured.contains("\x1b[32m INFO\x1b[0m psflip{generation=1"), "{coloured:?}");
    for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let plain = text(variable);
        assert!(!plain.contains('\x1b'), "{plain:?}");
    }
}
