//! The completions in the shells that they are for: what a person sees who types a line and presses the key.

use std::fs::File;
use std::process::Command;

use testkit::Sandbox;

/// What stands on each of the lines when every completion was put in its place.
type Shell = fn(&Sandbox, &[&str]) -> Vec<String>;

/// `psflip` is a function that tells its arguments, so that nothing is parsed but what the shell says by itself.
const TELLS: &str = "psflip() { printf 'TOLD:'; printf ' %s' \"$@\"; echo; }\n";

/// Whether a program is installed; says so when it isn't.
#[expect(clippy::print_stderr, reason = "a test that skips something says so")]
fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = std::env::split_paths(&path).any(|folder| folder.join(program).is_file());
    if !installed {
        eprintln!("skipped: {program} is not installed");
    }
    installed
}

/// What an interactive shell makes of keys.
fn type_into(sandbox: &Sandbox, command: &mut Command, keys: &str) -> Vec<String> {
    let keys = sandbox.write("keys", keys);
    let output = command
        .current_dir(sandbox.dir())
        .env("LC_ALL", "C.UTF-8")
        .env("ZDOTDIR", sandbox.dir())
        .env("TERM", "dumb")
        .stdin(File::open(keys).unwrap())
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = output.lines().filter_map(|line| line.split_once("TOLD: "));
    told.map(|(_, told)| told.trim_end().to_owned()).collect()
}

/// Alt-* puts in every completion; readline does so without a terminal, too.
fn bash(sandbox: &Sandbox, lines: &[&str]) -> Vec<String> {
    let typed: String = lines.iter().map(|line| format!("{line}\u{1b}*\n")).collect();
    let keys = format!("{TELLS}. ./psflip.bash\n{typed}exit\n");
    type_into(sandbox, Command::new("bash").args(["--norc", "-i"]), &keys)
}

/// Ctrl-T likewise, as `.zshrc` wants it; zsh's line editor needs a terminal, which script(1) makes.
fn zsh(sandbox: &Sandbox, lines: &[&str]) -> Vec<String> {
    let setup = "PS1=; fpath=($PWD $fpath); autoload -Uz compinit; compinit -u -D
        zstyle ':completion:all-matches:*' completer _all_matches _complete
        zstyle ':completion:all-matches:*' insert true
        zle -C all-matches complete-word _generic; bindkey '^T' all-matches\n";
    sandbox.write(".zshrc", format!("{setup}{TELLS}"));
    let typed: String = lines.iter().map(|line| format!("{line}\u{14}\n")).collect();
    let mut command = Command::new("script");
    type_into(sandbox, command.args(["-qec", "exec zsh -d -i", "/dev/null"]), &format!("{typed}exit\n"))
}

/// fish says what it would offer: that in place of the last word, as the others.
fn fish(sandbox: &Sandbox, lines: &[&str]) -> Vec<String> {
    let script =
        "source psflip.fish; for line in $argv; echo (complete -C $line | string split -f1 \\t); end";
    let mut command = Command::new("fish");
    command.args(["--no-config", "-c", script]).args(lines);
    let output = command.current_dir(sandbox.dir()).env("HOME", sandbox.dir()).output().unwrap();
    let offered = String::from_utf8(output.stdout).unwrap();
    let words = |(line, offered): (&&str, &str)| {
        let (before, _) = line.rsplit_once(' ').unwrap();
        let all = format!("{before} {}", offered.replace("/", ""));
        all.trim_start_matches("psflip").trim().to_owned()
    };
    lines.iter().zip(offered.lines()).map(words).collect()
}

/// What is typed, and what stands there then, without `psflip`. `run.toml`, `run.yml` and the folder `rundir` are in the working directory.
const LINES: &[(&str, &str)] = &[
    (
        "psflip ",
        "check help hold keep list metrics migrate rehearse reopen resume rollback run status stop upgrade watch",
    ),
    ("psflip up", "upgrade"),
    ("psflip help up", "help upgrade"),
    ("psflip -c run.", "-c run.toml run.yml"),
    ("psflip upgrade --wa", "upgrade --wait"),
    ("psflip upgrade --wait ", "upgrade --wait baked drained traffic"),
    ("psflip upgrade --wait=d", "upgrade --wait=drained"),
    ("psflip upgrade --timeout ", "upgrade --timeout"),
    ("psflip status --config=run.t", "status --config=run.toml"),
    ("psflip status --socket run.y", "status --socket run.yml"),
    ("psflip check --log-level ", "check --log-level debug error info trace warn"),
    ("psflip run --log-format j", "run --log-format journald json"),
    ("psflip run --shutdown-orphans=l", "run --shutdown-orphans=leave"),
    ("psflip run --upgrade-signal SIGUSR", "run --upgrade-signal SIGUSR1 SIGUSR2"),
    ("psflip run --workdir run", "run --workdir rundir"),
    ("psflip run --pidfile run.pid -- nohu", "run --pidfile run.pid -- nohup"),
    ("psflip run -- cat run.", "run -- cat run.toml run.yml"),
    ("psflip watch --pidfile a -- nohu", "watch --pidfile a -- nohup"),
    ("psflip migrate run.y", "migrate run.yml"),
    ("psflip migrate --format ", "migrate --format json toml yaml"),
    ("psflip migrate sta", "migrate start_server"),
    ("psflip migrate supervisord run.t", "migrate supervisord run.toml"),
];

fn every_line(name: &str, shell: Shell) {
    if !is_installed(name) {
        return;
    }
    let sandbox = Sandbox::new();
    for (name, script) in crate::completions::scripts() {
        sandbox.write(name, script);
    }
    sandbox.write("run.toml", "");
    sandbox.write("run.yml", "");
    std::fs::create_dir(sandbox.path("rundir")).unwrap();
    let typed: Vec<&str> = LINES.iter().map(|(line, _)| *line).collect();
    let expected: Vec<&str> = LINES.iter().map(|(_, expected)| *expected).collect();
    assert_eq!(shell(&sandbox, &typed), expected);
}

#[test]
fn bash_completes() {
    every_line("bash", bash);
}

#[test]
fn zsh_completes() {
    every_line("zsh", zsh);
}

#[test]
fn fish_completes() {
    every_line("fish", fish);
}
