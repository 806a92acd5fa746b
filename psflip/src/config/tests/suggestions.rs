//! The suggestions of messages are valid: a user who follows the help step by step gets a valid
//! configuration.

use super::{read, refused};

/// The texts in backticks of the first help in these messages.
fn suggested(messages: &str) -> Vec<String> {
    let (_, help) = messages.split_once("= help: ").unwrap_or_else(|| panic!("no help in\n{messages}"));
    let help = help.lines().next().unwrap_or_default();
    help.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Checks that `text` is rejected, and that what `follow` makes of the suggestions is accepted.
#[track_caller]
fn leads_to_an_end(text: &str, follow: impl Fn(&[String]) -> String) {
    let messages = refused(text);
    let better = follow(&suggested(&messages));
    if let Err(errors) = read(&better) {
        panic!("{text}\n{messages}\n\nleads to\n{better}\n{errors}");
    }
}

const CMD: &str = "cmd = ['x']\n";

#[test]
fn the_suggestion_for_a_missing_command_can_be_copied() {
    // Contract: X1
    leads_to_an_end("quiet = true\n", |suggested| format!("{}\nquiet = true\n", suggested[1]));
}

#[test]
fn the_suggestion_for_a_table_given_as_a_value_can_be_copied() {
    // Contract: X1
    for name in ["upgrade", "shutdown", "env", "locals", "log", "hooks", "control"] {
        leads_to_an_end(&format!("{CMD}{name} = 'x'\n"), |suggested| format!("{CMD}{}\n", suggested[0]));
    }
    for name in ["healthcheck", "switch"] {
        let follow = |suggested: &[String]| format!("{CMD}{}\n{}\n", suggested[0], suggested[1]);
        leads_to_an_end(&format!("{CMD}{name} = 'x'\n"), follow);
    }
}

#[test]
fn a_health_check_without_a_kind_gets_a_suggestion() {
    // Contract: X1
    leads_to_an_end(&format!("{CMD}[healthcheck]\n"), |suggested| {
        format!("{CMD}{}\n", suggested[0].replace("KIND", &suggested[1]))
    });
    leads_to_an_end(&format!("{CMD}[healthcheck.systemd]\n"), |suggested| format!("{CMD}{}\n", suggested[0]));
}

#[test]
fn every_kind_of_health_check_shows_how_to_write_its_required_key() {
    // Contract: X1
    for kind in ["command", "docker", "tcp", "unix", "http", "fcgi"] {
        let mut text = format!("{CMD}[healthcheck.{kind}]\n");
        // Some kinds have two required keys, which are reported one after the other.
        for _ in 0..3 {
            let Err(errors) = read(&text) else { break };
            let suggested = suggested(&errors.to_string());
            let line = suggested.iter().find(|part| part.contains(" = "));
            let line = line.unwrap_or_else(|| panic!("`[healthcheck.{kind}]`: nothing to copy in\n{errors}"));
            text += &format!("{line}\n");
        }
        if let Err(errors) = read(&text) {
            panic!("{text}\n{errors}");
        }
    }
}

#[test]
fn a_check_of_a_shared_listener_is_advised_to_use_another_kind() {
    // Contract: X1, U3
    let listen = "[[listen]]\naddress = 'tcp://127.0.0.1:8080'\n";
    leads_to_an_end(
        &format!("{CMD}[healthcheck.http]\nurl = 'http://127.0.0.1:8080/'\n{listen}"),
        |suggested| format!("{CMD}{}\n{listen}", suggested[0]),
    );
}

#[test]
fn the_suggestion_for_an_incomplete_symlink_can_be_copied() {
    // Contract: X1
    leads_to_an_end(&format!("{CMD}[switch]\nsymlink = {{ path = '/run/a' }}\n"), |suggested| {
        format!("{CMD}[switch]\n{}\n", suggested[0])
    });
}
