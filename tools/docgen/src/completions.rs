//! Completions for shells: zsh's and fish's by clap_complete, told what it can't know; bash's is ours, since clap_complete's offers files for
//! every value, nothing after `--flag=`, and psflip's own flags behind `--`.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use clap::builder::PossibleValuesParser;
use clap::{Arg, Command, ValueHint};
use clap_complete::Shell;
use psflip::testing::config::keys::{Kind, TOP};

/// A file to be: its name, and its content.
type Script = (&'static str, Vec<u8>);

/// The script of every shell.
pub(crate) fn scripts() -> [Script; 3] {
    let command = command();
    let by_clap = |shell| {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command.clone(), "psflip", &mut script);
        script
    };
    let mut fish = by_clap(Shell::Fish);
    fish.extend_from_slice(fish_rest(&command).as_bytes());
    let zsh = String::from_utf8_lossy(&by_clap(Shell::Zsh)).replace(":_cmdambivalent'", ":_psflip_program'");
    let zsh = offers_nothing(&file_or_command(&zsh));
    let (head, rest) = zsh.split_at(zsh.find("if [ \"$funcstack[1]\"").unwrap_or(zsh.len()));
    let zsh = format!("{head}{ZSH_REST}{rest}").into_bytes();
    [("_psflip", zsh), ("psflip.bash", bash(&command).into_bytes()), ("psflip.fish", fish)]
}

/// The patterns of `upgrade` can't be completed. Without an action, they would keep zsh from offering options.
fn offers_nothing(zsh: &str) -> String {
    let line = |line: &str| match line.starts_with("'*::patterns") {
        true => line.replace(":' ", ":_psflip_nothing' ") + "\n",
        false => line.to_owned() + "\n",
    };
    zsh.lines().map(line).collect()
}

/// The first argument of `migrate` is a file or a command of its own; to clap_complete the command is the second.
fn file_or_command(zsh: &str) -> String {
    const COMMANDS: &str = "\":: :_psflip__subcmd__migrate_commands\" \\\n";
    let Some((before, after)) = zsh.split_once(COMMANDS) else { return zsh.to_owned() };
    let before = before.rsplit_once("':file -- ").map_or(before, |(before, _)| before);
    let after = after.replacen("words=($line[2] ", "words=($line[1] ", 1);
    let after = after.replacen("psflip-migrate-command-$line[2]:", "psflip-migrate-command-$line[1]:", 1);
    let after = after.replacen("case $line[2] in", "case $line[1] in", 1);
    format!("{before}\": :_psflip_migrate\" \\\n{after}")
}

/// psflip's command line, with what values are: told by the name of the value, and by the table of keys.
fn command() -> Command {
    let mut command = crate::command();
    command.build();
    command.mut_args(known).mut_subcommands(|subcommand| subcommand.mut_args(known))
}

fn known(arg: Arg) -> Arg {
    if let Some(words) = words(&arg) {
        return arg.value_parser(PossibleValuesParser::new(words));
    }
    let name = arg.get_value_names().and_then(|names| names.first()).map(|name| name.as_str().to_owned());
    let hint = match name.as_deref() {
        Some("FILE" | "[?]FILE" | "PATH" | "FILE.svg") => ValueHint::FilePath,
        Some("DIR" | "[?]DIR") => ValueHint::DirPath,
        Some("COMMAND") => ValueHint::CommandWithArguments,
        _ => ValueHint::Other,
    };
    arg.value_hint(hint)
}

/// The words that the value of a flag may be, where it stands for a key of a table: `--log-format` for `format` of `[log]`. Any template is
/// allowed as well, so the command line itself doesn't know them.
fn words(arg: &Arg) -> Option<&'static [&'static str]> {
    let (table, key) = arg.get_long()?.split_once('-')?;
    let Kind::Table(table) = TOP.keys.iter().find(|known| known.name == table)?.kind else { return None };
    match table.keys.iter().find(|known| known.name == key)?.kind {
        Kind::Word(words) => Some(words),
        // Those that are asked for in practice.
        Kind::Signal => {
            Some(&["SIGHUP", "SIGINT", "SIGQUIT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGRTMIN+1"])
        }
        _ => None,
    }
}

/// Whether the command takes a program of its own behind `--`.
fn runs_a_program(command: &Command) -> bool {
    command.get_positionals().any(|arg| arg.get_value_hint() == ValueHint::CommandWithArguments)
}

/// What clap_complete's script for zsh lacks: before `--`, no argument is a program; a file or a command.
const ZSH_REST: &str = "\
(( $+functions[_psflip_migrate] )) ||
_psflip_migrate() {
    _alternative 'commands:command:_psflip__subcmd__migrate_commands' 'files:file:_files'
}
(( $+functions[_psflip_nothing] )) ||
_psflip_nothing() {
    return 1
}
(( $+functions[_psflip_program] )) ||
_psflip_program() {
    [[ $LBUFFER == *' -- '* ]] && _normal
}

";

/// What clap_complete's script for fish lacks: no files where no argument is one, the subcommands of
/// `help`, and the program's own completions behind `--`.
fn fish_rest(command: &Command) -> String {
    let mut script = String::from(
        "\n# Behind `--` stands a program, with completions of its own.\n\
         function __fish_psflip_program\n    \
             set -l tokens (commandline -opc)\n    \
             set -l dashes (contains -i -- -- $tokens)\n    \
             set -e tokens[1..$dashes]\n    \
             complete -C (string join -- ' ' (string escape -- $tokens) (commandline -ct))\n\
         end\n",
    );
    for subcommand in command.get_subcommands() {
        let used = format!("__fish_psflip_using_subcommand {}", subcommand.get_name());
        if runs_a_program(subcommand) {
            let _ = writeln!(
                script,
                "complete -c psflip -n \"{used}; and contains -- -- (commandline -opc)\" -f -a \"(__fish_psflip_program)\""
            );
        }
        if subcommand.get_positionals().all(|arg| arg.get_value_hint() != ValueHint::FilePath) {
            let _ = writeln!(script, "complete -c psflip -n \"{used}\" -f");
        }
    }
    let subcommands: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    let _ = writeln!(
        script,
        "complete -c psflip -n \"__fish_psflip_using_subcommand help\" -f -a \"{}\"",
        subcommands.join(" ")
    );
    script
}

/// bash's script: what stands on the command line so far, and a table of what may follow.
fn bash(command: &Command) -> String {
    let subcommands: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    let mut values = BTreeMap::<String, Vec<String>>::new();
    let mut flags = String::new();
    let mut files = Vec::new();
    let mut nested = String::new();
    for (name, used) in
        std::iter::once(("", command)).chain(command.get_subcommands().map(|used| (used.get_name(), used)))
    {
        let mut all = Vec::new();
        for arg in used.get_arguments().filter(|arg| !arg.is_positional()) {
            for flag in spellings(arg).filter(|flag| !all.contains(flag)).collect::<Vec<_>>() {
                if arg.get_action().takes_values() {
                    values.entry(bash_value(arg)).or_default().push(format!("{name}:{flag}"));
                }
                all.push(flag);
            }
        }
        let _ = writeln!(flags, "        {name}:) flags=\"{}\" ;;", all.join(" "));
        if used.get_positionals().any(|arg| arg.get_value_hint() == ValueHint::FilePath) {
            files.push(name);
        }
        let below: Vec<&str> = used.get_subcommands().map(Command::get_name).collect();
        if !name.is_empty() && !below.is_empty() {
            // Where no command begins like that, it is a file.
            let _ = writeln!(
                nested,
                "            {name}:2) words=\"{}\"; compopt -o default ;;",
                below.join(" ")
            );
        }
    }
    let values: String = values
        .iter()
        .map(|(value, flags)| format!("        {})\n            {value} ;;\n", flags.join(" | ")))
        .collect();
    BASH.replace("@SUBCOMMANDS@", &subcommands.join(" "))
        .replace("@PATTERN@", &subcommands.join(" | "))
        .replace("@FLAGS@\n", &flags)
        .replace("@VALUES@\n", &values)
        .replace("            @NESTED@\n", &nested)
        .replace("@FILES@", &files.join(":* | "))
}

/// `--config` and `-c`.
fn spellings(arg: &Arg) -> impl Iterator<Item = String> {
    let long = arg.get_long().map(|long| format!("--{long}"));
    long.into_iter().chain(arg.get_short().map(|short| format!("-{short}")))
}

/// What completes the value of a flag. Files and folders are readline's own: it knows `~`, blanks and quotes.
fn bash_value(arg: &Arg) -> String {
    let words: Vec<String> =
        arg.get_possible_values().iter().map(|value| value.get_name().to_owned()).collect();
    match arg.get_value_hint() {
        _ if !words.is_empty() => format!("words=\"{}\"", words.join(" ")),
        ValueHint::FilePath => "compopt -o default; return".to_owned(),
        ValueHint::DirPath => "compopt -o dirnames; return".to_owned(),
        _ => "return".to_owned(),
    }
}

const BASH: &str = r#"# Completions of psflip(1) for bash. Made by `cargo xtask docs`.
_psflip() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} used= flags= words= i
    COMPREPLY=()
    # readline takes `--flag=value` for three words.
    if [[ $cur == = ]]; then
        cur=
    elif [[ $prev == = ]]; then
        prev=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    case ${COMP_WORDS[1]} in
        @PATTERN@) ((COMP_CWORD == 1)) || used=${COMP_WORDS[1]} ;;
    esac
    # Behind `--` stands a program, with completions of its own.
    for ((i = 1; i < COMP_CWORD; i++)); do
        [[ ${COMP_WORDS[i]} == -- ]] || continue
        if declare -F _command_offset >/dev/null; then
            _command_offset $((i + 1))
        elif ((i + 1 == COMP_CWORD)); then
            mapfile -t COMPREPLY < <(compgen -c -- "$cur")
        else
            compopt -o default
        fi
        return
    done
    case $used:$prev in
@VALUES@
    esac
    case $used: in
@FLAGS@
    esac
    if [[ $words ]]; then
        :
    elif [[ $cur == -* ]]; then
        words=$flags
    else
        case $used:$COMP_CWORD in
            :1 | help:2) words="@SUBCOMMANDS@" ;;
            @NESTED@
            @FILES@:*) compopt -o default; return ;;
            *) words=$flags ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
}
complete -F _psflip psflip
"#;
