//! Finds the control socket of a configuration that is no longer valid TOML. It reads the file line by line,
//! and only the lines that matter for that.

use toml::de::DeTable;

/// The most pidfiles to look for. TOML forbids a key that is set twice, and either value may be the one in
/// use.
const MOST: usize = 4;
/// Longer texts are not configurations written by hand.
const LONGEST: usize = 64 * 1024;

/// Configurations that only say where the control socket is, the likeliest first. Empty if the text does not
/// say it.
pub(super) fn places(text: &str) -> Vec<String> {
    let mut table = "";
    let (mut pidfiles, mut locals, mut control) = (Vec::new(), String::new(), String::new());
    for line in text.get(..LONGEST).unwrap_or(text).lines().map(str::trim) {
        if line.starts_with('[') {
            table = match line.split_once(']').map_or(line, |(name, _)| name).trim_matches(['[', ' ', ']']) {
                "locals" => "locals",
                "control" => "control",
                _ => "another one",
            };
            continue;
        }
        let Some((key, _)) = line.split_once('=') else { continue };
        match (table, key.trim()) {
            ("", "pidfile") => pidfiles.extend(repaired(line)),
            ("", "control.socket") => control = repaired(line).unwrap_or(control),
            ("control", "socket") => {
                control = repaired(line).map_or(control, |line| format!("control.{line}"));
            }
            ("locals", _) => {
                if let Some(line) = repaired(line) {
                    locals.push_str(&format!("locals.{line}\n"));
                }
            }
            _ => {}
        }
    }
    if pidfiles.is_empty() && !control.is_empty() {
        pidfiles.push(String::new());
    }
    pidfiles.truncate(MOST);
    pidfiles.into_iter().map(|pidfile| format!("cmd = [\"?\"]\n{locals}{pidfile}\n{control}\n")).collect()
}

/// The line, if it can be read as TOML, with a missing quote added.
fn repaired(line: &str) -> Option<String> {
    let candidates = ["", "\"", "'"].map(|end| format!("{line}{end}"));
    // `pidfile = /run/app.pid`
    let quoted = line
        .split_once('=')
        .map(|(key, value)| format!("{key}= \"{}\"", value.trim().trim_matches(['"', '\''])));
    let is_string = |line: &String| {
        DeTable::parse(line).is_ok_and(|root| root.get_ref().iter().count() == 1 && !line.contains('\n'))
    };
    candidates.into_iter().chain(quoted).find(is_string)
}

#[cfg(test)]
mod tests {
    use super::places;

    #[test]
    fn paths_of_a_running_psflip_are_found_in_invalid_toml() {
        for (text, expected) in [
            ("cmd = [\"a\"\npidfile = \"/run/a.pid\"\n[locals\n", "pidfile = \"/run/a.pid\""),
            ("pidfile = \"/run/a.pid\ncmd = 5", "pidfile = \"/run/a.pid\""),
            ("pidfile = '/run/a.pid # x\n", "pidfile = '/run/a.pid # x'"),
            ("pidfile = /run/a.pid\n", "pidfile = \"/run/a.pid\""),
            (
                "[env]\npidfile = \"no\"\n[control]\nsocket = \"/run/a.sock\"\nx",
                "control.socket = \"/run/a.sock\"",
            ),
            ("[locals]\nname = 'a'\n[env]\nx\n[control]\nsocket = '{{ name }}.sock'", "locals.name = 'a'"),
        ] {
            assert!(
                places(text).first().is_some_and(|place| place.contains(expected)),
                "{text}: {:?}",
                places(text)
            );
        }
        assert_eq!(places("pidfile = 'a'\npidfile = 'b'\n").len(), 2);
        assert!(places("[env]\npidfile = 'a'\nnonsense").is_empty());
        assert!(places("").is_empty());
    }
}
