//! Runs every fuzz target briefly with fixed inputs: the whole corpus, and some mutations of it.

use std::path::Path;
use std::process::{Command, Output};

use psflip::testing::config::keys::{Kind, TOP, Table};

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_psflip-fuzz")).args(args).output().expect("the driver can be started")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn short(target: &str, inputs: u32) {
    let count = inputs.to_string();
    let output = run(&[target, "--seed", "1", "--inputs", &count]);
    assert!(output.status.success(), "{}\n{}", output.status, text(&output.stderr));
    assert!(text(&output.stdout).contains(&format!("{inputs} inputs")), "{}", text(&output.stdout));
}

#[test]
fn configurations_are_read_or_refused() {
    // Contract: X1, X2
    short("config", 700);
}

/// Mutation is not guided by coverage, so it hardly ever tries what no seed contains.
#[test]
fn every_key_of_a_configuration_is_in_a_seed() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/config");
    let seeds: String = std::fs::read_dir(corpus)
        .expect("it is there")
        .flatten()
        .filter_map(|seed| std::fs::read_to_string(seed.path()).ok())
        .collect();
    let missing = missing(&TOP, &seeds);
    assert!(missing.is_empty(), "no seed has {}", missing.join(", "));
}

fn missing(table: &Table, seeds: &str) -> Vec<String> {
    let words: Vec<&str> = seeds.split(|sign: char| !sign.is_alphanumeric() && sign != '_').collect();
    let mut missing = Vec::new();
    for key in table.keys {
        if !words.contains(&key.name) {
            missing.push(format!("{}.{}", table.title, key.name));
        }
        match key.kind {
            Kind::Table(inner) | Kind::Many(inner, _) => missing.extend(self::missing(inner, seeds)),
            Kind::One(kinds) => {
                missing.extend(
                    kinds
                        .iter()
                        .filter(|(name, _)| !words.contains(name))
                        .map(|(name, _)| (*name).to_owned()),
                );
                missing.extend(kinds.iter().flat_map(|(_, kind)| self::missing(kind, seeds)));
            }
            _ => {}
        }
    }
    missing
}

#[test]
fn templates_are_rendered_or_refused() {
    // Contract: X1, X2
    short("template", 1000);
}

#[test]
fn values_are_read_or_refused() {
    // Contract: X1, X2, X3
    short("value", 70);
}

#[test]
fn upstreams_configurations_are_migrated_or_refused() {
    // Contract: X2
    short("migrate", 300);
}

#[test]
fn messages_of_a_handover_are_read_or_refused() {
    // Contract: X2, V1
    short("message", 3000);
}

#[test]
fn successors_survive_any_message() {
    // Contract: X2, V1
    short("link", 3000);
}

#[test]
fn files_in_the_pidfiles_place_are_taken_or_refused() {
    // Contract: X2, P3, P4
    short("pidfile", 200);
}

#[test]
fn http_probes_take_any_answer() {
    // Contract: X2, H4
    short("http", 2000);
}

#[test]
fn fcgi_probes_take_any_answer() {
    // Contract: X2, H4
    short("fcgi", 2000);
}

#[test]
fn container_engines_may_answer_anything() {
    // Contract: X2, H4
    short("docker", 1000);
}

#[test]
fn requests_on_the_control_socket_may_be_anything() {
    // Contract: O1
    short("control", 1000);
}

#[test]
fn every_target_with_a_corpus_is_run_here() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for folder in std::fs::read_dir(corpus).expect("it is there").flatten() {
        let name = folder.file_name().into_string().expect("a name in UTF-8");
        assert!(
            name == "self-test" || include_str!("short.rs").contains(&format!("short(\"{name}\"")),
            "{name}"
        );
    }
}

#[test]
fn readiness_messages_may_be_anything() {
    // Contract: X2, H4
    short("notify", 1000);
}

#[test]
fn the_driver_finds_and_stores_inputs_that_crash_a_worker() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus/self-test");
    let tries = [
        ("broken", "a promise is broken"),
        ("panic", "it panicked"),
        ("memory", "it exceeded its memory limit"),
        ("stack", "it exceeded its memory limit, or overflowed its stack"),
    ];
    for (name, what) in tries {
        let folder = tempfile::tempdir().expect("a directory can be created");
        let (keep, input) = (folder.path().to_string_lossy().into_owned(), corpus.join(name));
        let found = run(&["self-test", "--keep", &keep, "--input", &input.to_string_lossy()]);
        assert_eq!(found.status.code(), Some(1), "{name}");
        assert!(text(&found.stderr).contains(what), "no `{what}` in: {}", text(&found.stderr));
        let kept: Vec<_> = std::fs::read_dir(folder.path()).expect("it is there").flatten().collect();
        assert_eq!(kept.len(), 1, "{name}: {}", text(&found.stderr));
        let read = |path: &Path| std::fs::read(path).expect("it can be read");
        assert_eq!(read(&kept[0].path()), read(&input));
    }
    assert_eq!(run(&["no-such-target"]).status.code(), Some(2));
}
