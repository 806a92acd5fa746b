//! The schema allows what psflip allows, as far as it can be known without rendering templates; what is made is whole.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use psflip::testing::config::{Generation, Slot, parse};
use serde_json::Value;

use crate::validate::validate;

/// Whether the schema allows this TOML.
fn is_valid(text: &str) -> Result<(), String> {
    let value: Value = toml::from_str(text).map_err(|error| error.to_string())?;
    validate(&value, &crate::schema::schema(), "")
}

fn is_read(text: &str) -> bool {
    let env = |_: &str| None;
    parse(
        "psflip.toml",
        text,
        &Generation { number: 1, slot: Slot::A, started: SystemTime::UNIX_EPOCH, env: &env },
    )
    .is_ok()
}

#[test]
fn every_example_is_valid() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let mut count = 0;
    for folder in [examples.clone(), examples.join("servers")] {
        for path in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|extension| extension == "toml") {
                is_valid(&fs::read_to_string(&path).unwrap())
                    .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                count += 1;
            }
        }
    }
    assert!(count > 25, "{count} examples were found");
}

#[test]
fn the_schema_refuses_what_psflip_refuses() {
    for text in [
        "",
        "cmd = 'x'",
        "cmd = []",
        "cmd = ['']",
        "cmd = ['x', 1]",
        "CMD\ntimout = '1s'",
        "CMD\nquiet = 'true'",
        "CMD\n[upgrade]\ntimeout = 5",
        "CMD\n[upgrade]\ntimeout = '5'",
        "CMD\n[upgrade]\ntimeout = '0s'",
        "CMD\n[upgrade]\nsignal = 1",
        "CMD\n[env]\nA = 1",
        "CMD\n[env]\nA = true",
        "CMD\n[locals]\nA = false",
        "CMD\n[healthcheck]",
        "CMD\n[healthcheck.htpp]\nurl = 'x'",
        "CMD\n[healthcheck.http]",
        "CMD\n[healthcheck.alive]\n[healthcheck.notify]",
        "CMD\n[healthcheck.http]\nurl = 'http://localhost/'\nstatus = 99",
        "CMD\n[healthcheck.unix]\npath = 'x'\nsuccesses = 0",
        "CMD\n[shutdown]\norphans = 'keep'",
        "CMD\n[listen]\naddress = 'unix://x'",
        "CMD\n[[listen]]\nname = 'x'",
        "CMD\n[[listen]]\naddress = 'unix://x'\nas = []",
        "CMD\n[[listen]]\naddress = 'unix://x'\nmode = 660",
        "CMD\n[[listen]]\naddress = 'unix://x'\nmode = '0999'",
        "CMD\n[switch]\nsymlink = { path = 'x' }",
        "CMD\n[hooks]\ntimeout = '0s'",
        "CMD\n[log]\nlevel = 'chatty'",
    ] {
        let text = text.replace("CMD", "cmd = ['x']");
        assert!(!is_read(&text), "psflip reads\n{text}");
        assert!(is_valid(&text).is_err(), "the schema allows\n{text}");
    }
}

#[test]
fn the_schema_allows_what_psflip_allows() {
    for text in [
        "CMD\n[upgrade]\ntimeout = '1d2h3m4s5ms'\nsignal = 'rtmin+3'",
        "CMD\n[upgrade]\ntimeout = '{{ 5 }}s'\nsignal = '{{ 'usr1' }}'",
        "CMD\n[shutdown]\ndelay = '0s'\ntimeout = '10s'\norphans = '{{ 'kill' }}'",
        "CMD\n[env]\nA = 'x'\nB = false",
        "CMD\n[healthcheck.http]\nurl = 'http://localhost/'\nstatus = '200,204,300-399'",
        "CMD\n[healthcheck.http]\nurl = 'http://localhost/'\nstatus = 204",
        "CMD\n[healthcheck.notify]",
        "CMD\n[[listen]]\naddress = 'unix://x'\nas = ['stdin', 'einhorn']\nmode = '660'",
        "CMD\n[hooks]\npromote = []\nfailed = ['x', '']",
    ] {
        let text =
            text.replace("CMD", "cmd = ['x', '']").replace("'{{ '", "\"{{ '").replace("' }}'", "' }}\"");
        assert!(is_read(&text), "psflip refuses\n{text}");
        is_valid(&text).unwrap_or_else(|error| panic!("{text}\n{error}"));
    }
}

#[test]
fn every_subcommand_and_every_table_is_in_the_man_pages() {
    let files =
        crate::files(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../dist"))).unwrap();
    let page = |name: &str| {
        let (_, text) =
            files.iter().find(|(path, _)| path == name).unwrap_or_else(|| panic!("there is no {name}"));
        String::from_utf8(text.clone()).unwrap()
    };
    for subcommand in crate::command().get_subcommands() {
        assert!(page(&format!("man/psflip-{}.1", subcommand.get_name())).contains(".SH NAME"));
        for shell in ["psflip.bash", "_psflip", "psflip.fish"] {
            assert!(page(&format!("completions/{shell}")).contains(subcommand.get_name()), "{shell}");
        }
    }
    let manual = page("man/psflip.toml.5");
    for title in ["KEYS", "[upgrade]", "[healthcheck.fcgi]", "[[listen]]", "[hooks]", "[log]", "TEMPLATES"] {
        assert!(
            manual.contains(&format!(".SH \"{title}\"")) || manual.contains(&format!(".SH {title}\n")),
            "{title}"
        );
    }
}

#[test]
fn outdated_files_are_named_and_updated() {
    let directory = std::env::temp_dir().join(format!("docgen-{}", std::process::id()));
    let files = [("man/a.1".to_owned(), b"a".to_vec()), ("b".to_owned(), b"b".to_vec())];
    let bring = |check| crate::bring(&directory, &files, check).unwrap();
    assert_eq!(bring(true), ["man/a.1", "b"]);
    assert!(!directory.exists(), "a check writes nothing");
    assert_eq!(bring(false), ["man/a.1", "b"]);
    fs::write(directory.join("b"), "old").unwrap();
    fs::write(directory.join("man/gone.1"), "old").unwrap();
    assert_eq!(bring(true), ["b", "man/gone.1"]);
    assert_eq!(bring(false), ["b", "man/gone.1"]);
    assert!(bring(true).is_empty());
    fs::remove_dir_all(&directory).unwrap();
}
