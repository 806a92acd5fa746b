//! The table of keys matches the reader: the reader accepts exactly its keys, with exactly the values it
//! allows.

use super::{plan, read, refused};
use crate::config::keys::{Absent, Key, Kind, TOP, Table, Zero};

/// A valid value of a key, in TOML.
fn good(table: &Table, key: &Key) -> String {
    match &key.kind {
        Kind::Text => "\"x\"".to_owned(),
        Kind::Special | Kind::OrFalse => format!("\"{}\"", table.text(key).example),
        Kind::Duration(_) => "\"1m30s\"".to_owned(),
        Kind::Size => "\"1536M\"".to_owned(),
        Kind::Percent(most) => format!("\"{most}%\""),
        Kind::Signal => "\"SIGUSR1\"".to_owned(),
        Kind::Boolean => "true".to_owned(),
        Kind::Number(_, most) => most.to_string(),
        Kind::Word(words) => format!("\"{}\"", words[words.len() - 1]),
        Kind::Words(words) => format!("[\"{}\"]", words.join("\", \"")),
        Kind::Argv(_) => "[\"x\", \"\"]".to_owned(),
        Kind::Paths => "[\"?no-such-file\", \"?{{ 'x' }}\"]".to_owned(),
        Kind::Status => "204".to_owned(),
        Kind::Mode => "\"0660\"".to_owned(),
        Kind::Map(_) => "{ X = \"1\" }".to_owned(),
        Kind::Signals => "{ SIGTERM = \"SIGQUIT\", winch = false, RTMIN = \"KILL\" }".to_owned(),
        Kind::Table(_) | Kind::One(_) | Kind::Many(..) => unreachable!("tables are walked"),
    }
}

/// Values that the kind of the key excludes.
fn bad(key: &Key) -> Vec<String> {
    let list: &[&str] = match &key.kind {
        Kind::Text => &["1", "true", "[]", "{}"],
        Kind::Special => &["1", "true", "[]", "{}", "\"\""],
        Kind::OrFalse => &["1", "true", "[]", "{}", "\"\""],
        Kind::Duration(Zero::Allowed) => &["0", "5", "\"5\"", "true"],
        Kind::Duration(Zero::Refused(_)) => &["0", "5", "\"5\"", "true", "\"0s\""],
        Kind::Size => &["1", "\"512\"", "\"0M\"", "\"512MB\"", "\"M\"", "\"1.5G\"", "\"1025T\"", "true"],
        Kind::Percent(_) => &["10", "0.1", "\"10\"", "\"51%\"", "\"-1%\"", "\"%\"", "true"],
        Kind::Signal => &["1", "\"SIGHOP\"", "\"\"", "[\"SIGHUP\"]"],
        Kind::Boolean => &["1", "\"true\"", "\"{{ 'true' }}\""],
        Kind::Number(least, most) => {
            let (below, above) = (i64::from(*least) - 1, i64::from(*most) + 1);
            return vec![below.to_string(), above.to_string(), "\"2\"".to_owned(), "1.5".to_owned()];
        }
        Kind::Word(_) => &["\"no-such-word\"", "1", "[]"],
        Kind::Words(_) => &["\"no-such-word\"", "[\"no-such-word\"]", "[]", "1"],
        Kind::Argv(true) => &["\"x\"", "[1]", "[\"\"]"],
        Kind::Argv(false) => &["\"x\"", "[1]", "[\"\"]", "[]"],
        Kind::Paths => &["1", "[1]", "[\"\"]", "\"?\"", "\"no-such-file\""],
        Kind::Status => &["99", "600", "\"x\"", "[200]"],
        Kind::Mode => &["660", "\"0999\"", "\"x\""],
        Kind::Map(true) => &["{ X = true }", "{ X = 1 }", "\"x\""],
        Kind::Signals => &[
            "{ SIGTERM = false }",
            "{ SIGHUP = false }",
            "{ SIGKILL = \"SIGTERM\" }",
            "{ X = \"SIGTERM\" }",
            "{ SIGUSR1 = true }",
            "{ SIGUSR1 = 3 }",
            "\"x\"",
        ],
        Kind::Map(false) => &["{ X = false }", "{ X = 1 }", "\"x\""],
        Kind::Table(_) | Kind::One(_) | Kind::Many(..) => unreachable!("tables are walked"),
    };
    list.iter().map(|&value| value.to_owned()).collect()
}

/// A configuration with this table, in which `name` has this value and only the required keys are added.
fn text(table: &Table, name: &str, value: &str) -> String {
    let is_required = |key: &&Key| matches!(key.absent, Absent::Required);
    let required = |key: &&Key| is_required(key) && key.name != name;
    let mut text = String::new();
    for key in TOP.keys.iter().filter(is_required).filter(|_| !table.title.is_empty()) {
        text += &format!("{} = {}\n", key.name, good(&TOP, key));
    }
    if name == "bake" {
        text += "listen = [{ address = '[::]:1' }]\n";
    }
    if name == "settle" {
        text += "upgrade.timeout = \"5m\"\n"; // longer than the value
    }
    let creates = table.title == "[output]" && ["mode", "owner", "group"].contains(&name);
    text += table.title;
    text.push('\n');
    for key in table.keys.iter().filter(required) {
        // Which keys of a socket apply depends on its address.
        let address = match name {
            "mode" | "owner" | "group" => "\"unix://x\"",
            _ => "\"tcp://[::1]:0\"",
        };
        let is_address =
            [("[[listen]]", "address"), ("[[proxy]]", "listen")].contains(&(table.title, key.name));
        let value = if is_address { address.to_owned() } else { good(table, key) };
        text += &format!("{} = {value}\n", key.name);
    }
    if ["fd", "key"].contains(&name) {
        text += "as = \"server_starter\"\n";
    }
    if creates {
        text += "stdout = \"append:x\"\n";
    }
    if ["forwarded", "pool"].contains(&name) && table.title == "[[proxy]]" {
        text += "protocol = \"http\"\n";
    }
    text + &format!("{name} = {value}\n")
}

/// Every table, with each of its keys that holds a value.
fn walk(table: &'static Table, found: &mut Vec<(&'static Table, &'static Key)>) {
    for key in table.keys {
        match &key.kind {
            Kind::Table(inner) | Kind::Many(inner, _) => walk(inner, found),
            Kind::One(inner) => inner.iter().for_each(|(_, inner)| walk(inner, found)),
            _ => found.push((table, key)),
        }
    }
}

fn all() -> Vec<(&'static Table, &'static Key)> {
    let mut found = Vec::new();
    walk(&TOP, &mut found);
    found
}

#[test]
fn every_key_of_the_table_is_read_with_its_type_only() {
    // Contract: X1
    for (table, key) in all() {
        plan(&text(table, key.name, &good(table, key)));
        for value in bad(key) {
            let said = refused(&text(table, key.name, &value));
            assert!(
                said.contains(key.name) || said.contains(&value) || said.contains("empty"),
                "{}: {value} is refused by\n{said}",
                key.name
            );
            assert!(!said.contains("unknown key"), "{said}");
        }
        if let Absent::Is(value) = key.absent {
            let with = plan(&text(table, key.name, value));
            let mut without = text(table, key.name, value);
            without.truncate(without.trim_end().rfind('\n').unwrap() + 1);
            assert_eq!(with, plan(&without), "the default of `{}` in `{}` is {value}", key.name, table.title);
        }
    }
}

#[test]
fn required_keys_of_the_table_are_required() {
    // Contract: X1
    for (table, key) in all().into_iter().filter(|(_, key)| matches!(key.absent, Absent::Required)) {
        let text = text(table, key.name, &good(table, key));
        let without: String = text
            .lines()
            .filter(|line| !line.starts_with(&format!("{} ", key.name)))
            .fold(String::new(), |text, line| text + line + "\n");
        // A table without keys is written as its header alone.
        let said = read(&without).expect_err(&without).to_string();
        assert!(said.contains(&format!("`{}` is missing", key.name)), "{said}");
    }
}
