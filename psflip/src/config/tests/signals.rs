//! `[signals]`: its meaning, and every error as a user sees it (contract X1, S8).

use super::{plan, read, refused};

#[test]
fn signals_are_read_by_any_of_their_names_and_printed_by_one() {
    // Contract: S8
    let text =
        "cmd = ['x']\n[signals]\nSIGTERM = 'quit'\nwinch = false\n'SIGRTMIN+1' = 'RTMAX'\nUSR1 = 'SIGHUP'\n";
    let plan = plan(text);
    let rules: Vec<String> = plan
        .signals
        .iter()
        .map(|(received, sent)| {
            format!("{received} {}", sent.map_or("-".to_owned(), |sent| sent.to_string()))
        })
        .collect();
    assert_eq!(rules, ["SIGTERM SIGQUIT", "SIGWINCH -", "SIGRTMIN+1 SIGRTMAX", "SIGUSR1 SIGHUP"]);
    let printed = plan.to_string();
    let part = "[signals]\nSIGTERM = \"SIGQUIT\"\nSIGWINCH = false\n\"SIGRTMIN+1\" = \"SIGRTMAX\"\nSIGUSR1 = \"SIGHUP\"\n";
    assert!(printed.contains(part), "{printed}");
    assert_eq!(read(&printed).unwrap(), plan);
}

/// Each configuration is rejected with the place, the reason and what to do.
#[track_caller]
fn all_refused(cases: &[(&str, &str, &str, &str)]) {
    for (text, place, reason, help) in cases {
        let said = refused(&format!("cmd = ['x']\n{text}\n"));
        assert!(said.starts_with(&format!("app.toml:{place}: {reason}")), "{text}\n{said}");
        assert!(said.contains(&format!("= help: {help}")), "{text}\n{said}");
    }
}

#[test]
fn signals_that_are_never_forwarded_can_not_be_mapped() {
    // Contract: X1, S8
    let help =
        "on the left is what is sent to psflip, on the right what the child gets: `SIGTERM = \"SIGQUIT\"`";
    all_refused(&[
        (
            "[signals]\nSIGKILL = 'TERM'",
            "3:1",
            "`SIGKILL` is not allowed in `[signals]`: no process can catch it",
            help,
        ),
        (
            "[signals]\nstop = 'TSTP'",
            "3:1",
            "`SIGSTOP` is not allowed in `[signals]`: no process can catch it",
            help,
        ),
        (
            "[signals]\nSIGCHLD = false",
            "3:1",
            "`SIGCHLD` is not allowed in `[signals]`: the kernel sends it",
            help,
        ),
        (
            "[signals]\nSIGCONT = false",
            "3:1",
            "`SIGCONT` is not allowed in `[signals]`: shells send it",
            help,
        ),
    ]);
}

#[test]
fn the_upgrade_signal_can_not_be_mapped() {
    // Contract: X1, S8
    let help = "choose another `upgrade.signal`, or another signal to be passed on";
    all_refused(&[
        (
            "[signals]\nhup = 'USR1'",
            "3:1",
            "`SIGHUP` is not allowed in `[signals]`: it is the upgrade signal",
            help,
        ),
        (
            "signals = { SIGUSR2 = false }\n[upgrade]\nsignal = 'USR2'",
            "2:13",
            "`SIGUSR2` is not allowed in `[signals]`: it is the upgrade signal",
            help,
        ),
    ]);
    // With another upgrade signal, SIGHUP is an ordinary signal.
    plan("cmd = ['x']\nsignals = { SIGHUP = false }\n[upgrade]\nsignal = 'USR2'\n");
}

#[test]
fn a_mapping_that_prevents_stopping_is_refused() {
    // Contract: X1, S8
    let help = "write the signal on which your program shuts down gracefully, for example `\"SIGQUIT\"`";
    all_refused(&[
        (
            "[signals]\nSIGTERM = false",
            "3:11",
            "`SIGTERM` can't be `false`: it requests a stop of psflip",
            help,
        ),
        (
            "[signals]\nSIGINT = 'SIGSTOP'",
            "3:10",
            "`SIGSTOP` can't replace a stop request: it suspends the child",
            help,
        ),
        (
            "[signals]\nTERM = 'SIGCONT'",
            "3:8",
            "`SIGCONT` can't replace a stop request: it continues the child",
            help,
        ),
    ]);
    plan("cmd = ['x']\nsignals = { SIGTERM = 'SIGKILL', SIGINT = 'SIGUSR1' }");
}

#[test]
fn unknown_signals_are_refused_on_both_sides() {
    // Contract: X1, S8
    all_refused(&[
        ("[signals]\nSIGTREM = 'QUIT'", "3:1", "`SIGTREM` is not a signal", "did you mean `SIGTERM`?"),
        (
            "[signals]\n15 = 'QUIT'",
            "3:1",
            "signals are given by name, not by number (`15`)",
            "number 15 is `SIGTERM`",
        ),
        (
            "[signals]\nSIGTERM = 3",
            "3:11",
            "signals are given by name, not by number (`3`)",
            "number 3 is `SIGQUIT`",
        ),
        ("[signals]\nSIGTERM = 'SIGQIT'", "3:11", "`SIGQIT` is not a signal", "did you mean `SIGQUIT`?"),
        (
            "[signals]\nWINCH = 'false'",
            "3:9",
            "`false` in quotes is no signal",
            "write `false` without quotes",
        ),
        (
            "[signals]\nWINCH = true",
            "3:9",
            "`WINCH` must become a signal, or `false` for none, not `true`",
            "for example",
        ),
        (
            "[signals]\nUSR1 = 'CHLD'",
            "3:8",
            "`SIGCHLD` can't be sent to the child",
            "to send nothing, write `false`",
        ),
        (
            "[signals]\nUSR1 = 'HUP'\nSIGUSR1 = false",
            "4:1",
            "`SIGUSR1` is there twice",
            "names with and without `SIG`",
        ),
        ("signals = 'TERM=QUIT'", "2:11", "`signals` must be a table, not a string", "write `[signals]`"),
    ]);
}
