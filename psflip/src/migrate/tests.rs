//! Whole files: upstream's published examples (their keys and structure; the words are ours), and files with
//! errors.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{Format, Kind, Migrated, Unreadable, migrate};
use crate::config::{self, Generation, Slot};

fn read(name: &str, text: &str) -> Result<Migrated, Unreadable> {
    let started = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_323_045);
    let env = |_: &str| None;
    let format = Format::of_name(name).unwrap_or_else(|| Format::of_text(text));
    migrate(name, text, format, &Generation { number: 1, slot: Slot::A, started, env: &env })
}

#[track_caller]
fn made(text: &str) -> Migrated {
    read("old.yml", text).unwrap_or_else(|error| panic!("{error:?}"))
}

/// The result without comments, and the remarks.
fn plain(text: &str) -> String {
    let migrated = made(text);
    let mut lines: Vec<String> = migrated
        .text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty())
        .map(str::to_owned)
        .collect();
    lines.extend(
        migrated.remarks.iter().map(|remark| format!("{} {}: {}", remark.at, remark.kind, remark.text)),
    );
    lines.extend(migrated.refused.map(|errors| format!("refused: {errors}")));
    lines.join("\n")
}

/// The remarks about a file with a command and `rest`.
fn remarks(rest: &str) -> Vec<String> {
    made(&format!("cmd: [x]\n{rest}"))
        .remarks
        .iter()
        .map(|remark| format!("{} {}: {}", remark.at, remark.kind, remark.text))
        .collect()
}

#[test]
fn upstreams_examples_are_migrated() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/migrate");
    let mut names: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let name = name.into_string().unwrap();
        let migrated = read(&name, &std::fs::read_to_string(folder.join(&name)).unwrap()).unwrap();
        assert_eq!(migrated.refused, None, "{name}");
        let remarks: String = migrated
            .remarks
            .iter()
            .map(|remark| format!("{name}:{}: {}: {}\n", remark.at, remark.kind, remark.text))
            .collect();
        let text = migrated.text.replace(env!("CARGO_PKG_VERSION"), "VERSION");
        insta::assert_snapshot!(name.as_str(), format!("{text}---\n{remarks}"));
    }
}

#[test]
fn the_three_formats_give_the_same_result() {
    let yaml =
        "cmd: [a, '{{ AB `x` `y` }}']\nenv: ['A=1']\nupgrade: {timeout: 90s, signal: usr2}\nquiet: true\n";
    let json = r#"{"cmd": ["a", "{{ AB `x` `y` }}"], "env": ["A=1"],
        "upgrade": {"timeout": "90s", "signal": "usr2"}, "quiet": true}"#;
    let toml = "cmd = ['a', '{{ AB `x` `y` }}']\nenv = ['A=1']\nquiet = true\n[upgrade]\nsignal = 'usr2'\ntimeout = '90s'\n";
    let env = |_: &str| None;
    let generation = Generation { number: 1, slot: Slot::B, started: SystemTime::now(), env: &env };
    let plan = |name: &str, text: &str| {
        let migrated = read(name, text).unwrap();
        assert!(migrated.remarks.is_empty(), "{:?}", migrated.remarks);
        config::parse(name, &migrated.text, &generation).unwrap()
    };
    let meant = plan("a.yml", yaml);
    assert_eq!(meant.cmd, ["a", "y"]);
    assert_eq!(plan("a.json", json), meant);
    assert_eq!(plan("a.toml", toml), meant);
    // The format is detected from the text, as for standard input.
    for text in [yaml, json, toml] {
        assert_eq!(plan("-", text), meant);
    }
}

#[test]
fn unquoted_values_are_typed_as_in_upstream() {
    let text = "cmd: [sleep, 100, 1.10, 0755, 1_000, true, yes, ~, 1e3, 0x1F, '007']\n";
    let made = made(text);
    assert!(
        made.text
            .contains(r#"cmd = ["sleep", "100", "1.1", "493", "1000", "1", "yes", "", "1000", "31", "007"]"#),
        "{}",
        made.text
    );
    let notes: Vec<usize> = made.remarks.iter().map(|remark| remark.at.column).collect();
    assert_eq!(notes, [19, 25, 31, 38, 49, 52, 57], "{:?}", made.remarks);
    assert_eq!(made.left(), 0);
    assert_eq!(
        remarks("workdir: 2020-01-01\n"),
        ["2:10 left to do: upstream refuses a date here; put a text into quotes"]
    );
}

#[test]
fn settings_that_upstream_ignores_are_reported_and_kept() {
    assert_eq!(
        remarks("x-a: &a { foo: 1 }\nupgrade: { <<: *a }\n"),
        [
            "2:1 note: `x-a` is no key of upstream's; what repeats it has it",
            "2:11 left to do: upstream has no key `foo` here, and ignores it",
        ]
    );
    let text = "cmd: [x]\nupgrad:\n  timout: 5s\nx-common: &common\n  timeout: 3s\nshutdown: *common\nupgrade:\n  <<: *common\n  timout: 1s\n";
    let made = made(text);
    let told: Vec<String> =
        made.remarks.iter().map(|remark| format!("{} {} {}", remark.at, remark.kind, remark.text)).collect();
    assert_eq!(
        told,
        [
            "2:1 left to do upstream has no key `upgrad` here, and ignores it; did it mean `upgrade`?",
            "4:1 note `x-common` is no key of upstream's; what repeats it has it",
            "9:3 left to do upstream has no key `timout` here, and ignores it; did it mean `timeout`?",
        ]
    );
    assert!(made.text.contains("# upgrad = { timout = \"5s\" }"), "{}", made.text);
    assert!(made.text.contains("[upgrade]\ntimeout = \"3s\"\n"), "{}", made.text);
    assert!(made.text.contains("[shutdown]\ntimeout = \"3s\"\n"), "{}", made.text);
}

#[test]
fn keys_are_case_insensitive() {
    assert_eq!(
        plain("CMD: [x]\nPidFile: a\nUpgrade: {Signal: USR1}\n"),
        "cmd = [\"x\"]\npidfile = \"a\"\n[upgrade]\nsignal = \"SIGUSR1\""
    );
    let told = remarks("pidfile: a\nPIDFILE: b\n");
    assert_eq!(
        told,
        ["3:1 left to do: the same key stands above in other letters; upstream takes one of them"]
    );
}

#[test]
fn zeros_and_numbers_are_read_as_in_upstream() {
    let text = "cmd: [x]\nupgrade: {timeout: 0s}\nshutdown: {timeout: 5}\nhealthcheck: {alive: {timeout: 2000000000}}\n";
    assert_eq!(
        plain(text),
        "cmd = [\"x\"]\n[upgrade]\ntimeout = \"1m\"\n[shutdown]\n[healthcheck.alive]\ntimeout = \"2s\"\n\
         2:20 note: upstream took zero for its default, `1m`\n\
         3:21 left to do: without a unit it is 5 ns to upstream, which is hardly meant; write the unit, `\"5s\"` for seconds\n\
         4:32 note: without a unit it is nanoseconds to upstream"
    );
}

#[test]
fn invalid_variables_are_left_to_the_user() {
    let told =
        remarks("env:\n- A=1\n- '{{ Env \"N\" }}=1'\n- BARE\n- A=2\n- 5\n- PATH=/x\n- PSFLIP_SLOT=1\n");
    let places: Vec<&str> = told.iter().map(|told| told.split(": ").next().unwrap()).collect();
    assert_eq!(
        places,
        [
            "4:3 left to do",
            "5:3 left to do",
            "6:3 left to do",
            "7:3 left to do",
            "8:3 note",
            "9:3 left to do"
        ],
        "{told:#?}"
    );
    assert_eq!(remarks("env: A=1\n"), Vec::<String>::new());
    assert!(
        plain("cmd: [x]\nenv: {A: 1, 'B C': '{{ BlueGreen }}'}\n")
            .contains("A = \"1\"\n\"B C\" = \"{{ blue_green() }}\"\n")
    );
}

#[test]
fn an_untranslatable_template_is_left_to_the_user_with_its_position() {
    let told = remarks("env:\n- 'A=b{{ range .X }}c{{ end }}'\nworkdir: \"é{{ Foo }}\"\n");
    assert_eq!(
        told,
        [
            "3:7 left to do: this template can't be translated: there are no loops in psflip's templates",
            "4:15 left to do: this template can't be translated: neither Go nor upstream has a function `Foo`",
        ]
    );
}

#[test]
fn values_that_psflip_refuses_are_left_to_the_user() {
    let told = remarks(
        "upgrade: {signal: TERM}\npidfile: run/\nhealthcheck: {docker: {container: 'a b', socket: tcp://h:1}}\n",
    );
    assert_eq!(told.len(), 4, "{told:#?}");
    assert!(told[0].starts_with("2:11 left to do: `SIGTERM` can't be the upgrade signal"), "{told:#?}");
    assert!(told[3].starts_with("4:50 left to do: psflip connects to container engines"), "{told:#?}");
    // A check that is incomplete must not become a weaker check: psflip rejects it.
    assert!(made("cmd: [x]\nhealthcheck: {docker: {container: 'a b'}}\n").refused.is_some());
    assert!(made("cmd: '{{ Foo }}'\n").refused.is_some());
}

#[test]
fn a_file_missing_on_this_host_is_not_a_configuration_error() {
    let made = made("cmd: [x, '{{ Cat \"/no/such/file\" }}']\n");
    assert!(made.text.contains(r#"cmd = ["x", "{{ cat('/no/such/file') }}"]"#), "{}", made.text);
    assert_eq!(made.left(), 0);
    assert!(made.refused.unwrap().contains("can't read `/no/such/file`"));
    assert_eq!(made.remarks[0].kind, Kind::Note);
}

#[test]
fn a_second_document_and_comments_are_kept() {
    let made = made("# first\n\ncmd: [x] # behind\n# end\n---\ncmd: [y]\n# last\n");
    assert!(made.text.contains("# first\n# behind\ncmd = [\"x\"]\n"), "{}", made.text);
    assert!(made.text.contains("# end\n"), "{}", made.text);
    assert_eq!((made.left(), made.remarks[0].at.line), (1, 5));
}

#[test]
fn an_invalid_configuration_is_reported_with_its_position() {
    let cases = [
        ("a.yml", "", "the file is empty", None),
        ("a.yml", "cmd: [x", "not valid YAML", Some(1)),
        ("a.yml", "- x\n", "the file is no table", Some(1)),
        ("a.yml", "a: 1\na: 2\n", "the key `a` is there already", Some(2)),
        ("a.yml", "a: *b\n", "not valid YAML", Some(1)),
        ("a.yml", "a: &a [*a]\n", "the alias stands inside", Some(1)),
        ("a.json", "{\"a\": 1,\n}", "not valid JSON", Some(2)),
        ("a.toml", "a = 1\nb =\n", "not valid TOML", Some(2)),
        ("a.toml", "# nothing\n", "the file is empty", None),
    ];
    for (name, text, message, line) in cases {
        let error = read(name, text).map(|made| made.text).unwrap_err();
        assert!(error.message.starts_with(message), "{name} {text:?}: {error:?}");
        assert_eq!(error.at.map(|at| at.line), line, "{name} {text:?}: {error:?}");
    }
}

#[test]
fn alias_bombs_and_deep_nesting_are_refused() {
    // Contract: X2
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let parts = vec![format!("*a{}", level - 1); 9].join(", ");
        bomb += &format!("a{level}: &a{level} [{parts}]\n");
    }
    assert!(read("a.yml", &bomb).unwrap_err().message.contains("aliases included"));
    let long = format!("a: &a '{}'\nb: [{}]\n", "x".repeat(500_000), "*a, ".repeat(5000));
    assert!(read("a.yml", &long).is_err());
    for (name, open, close) in [("a.yml", "[", "]"), ("a.json", "[", "]"), ("a.toml", "[", "]")] {
        let depth = 100_000;
        let (before, after) = match name {
            "a.toml" => ("a = ", ""),
            "a.json" => ("{\"a\": ", "}"),
            _ => ("a: ", ""),
        };
        let text = format!("{before}{}{}{after}", open.repeat(depth), close.repeat(depth));
        assert!(read(name, &text).is_err(), "{name}");
    }
    let block: String = (0..2000).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
    assert!(read("a.yml", &block).is_err());
}

#[test]
fn every_key_of_upstreams_current_version_is_translated() {
    // All keys of its `Config` (cmd/psflip/main.go) and of its health checks as of 2026; `proxy` has a test
    // of its own.
    let text = "cmd: [x]\nworkdir: /srv\nenv: [A=b]\npidfile: /run/x.pid\nquiet: true\n\
                upgrade: {signal: SIGHUP, timeout: 1m}\nshutdown: {delay: 3s, signal: SIGTERM, timeout: 10s}\n";
    for check in [
        "alive: {timeout: 5s}",
        "command: {cmd: [y], after: 1s, interval: 1s}",
        "docker: {container: web, socket: /run/docker.sock, interval: 1s}",
    ] {
        let migrated = made(&format!("{text}healthcheck:\n  {check}\n"));
        assert_eq!(migrated.refused, None, "{check}");
        for remark in &migrated.remarks {
            assert_eq!(remark.kind, Kind::Note, "{check}: {remark:?}");
        }
        assert!(migrated.text.contains("delay = \"3s\""), "{}", migrated.text);
    }
    assert!(remarks("shutdown: {delay: 5s}\n")[0].contains("only after a promotion"));
    assert_eq!(remarks("shutdown: {delay: 0s}\n"), [""; 0]);
    assert!(remarks("shutdown: {dela: 5s}\n")[0].contains("did it mean `delay`?"));
}

#[test]
fn a_proxy_becomes_a_proxy() {
    let mut text = String::new();
    for proxy in [
        "[{listen_address: '127.0.0.1:8080', forward_address: 'localhost:{{ AB \"8081\" \"8082\" }}'}]",
        "{listen: ':8000', forward: ':{{ AB \"8081\" \"8082\" }}'}",
        "[{listen_network: unix, listen_address: /run/a, forward_network: unix, forward_address: '/run/{{ BlueGreen }}'}]",
        "[{listen: '[::1]:80', forward: '127.0.0.1:1'}, {listen: '0.0.0.0:81', forward: '127.0.0.1:2', tls: true}]",
        // Left to do as a whole.
        "[{listen: '127.0.0.1:80', forward: 'backend:80'}]",
        "[{listen: [1], forward: '127.0.0.1:1'}]",
        "[x]",
        "x",
    ] {
        text += &format!("{proxy}\n{}\n\n", plain(&format!("cmd: [x]\nproxy: {proxy}\n")));
    }
    insta::assert_snapshot!("proxies", text);
}
