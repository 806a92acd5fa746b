//! Man pages: psflip(1) and one for each subcommand from the command line's own help, psflip.toml(5) from the table of keys.

use std::io;

use clap_mangen::Man;
use psflip::testing::config::keys::{Absent, HEALTHCHECKS, Key, Kind, TOP, Table};

use crate::File;

/// The foot of each page.
const SOURCE: &str = concat!("psflip ", env!("CARGO_PKG_VERSION"));

/// The day of this version, YYYY-MM-DD: that of the changelog's newest entry (its dates are those of RFC 5322). groff(1) takes the source for
/// the date if there is none.
fn released() -> String {
    const MONTHS: &str = "JanFebMarAprMayJunJulAugSepOctNovDec";
    let changelog = include_str!("../../../dist/debian/changelog");
    let date = changelog.lines().find_map(|line| line.strip_prefix(" -- ")?.split_once(", "));
    let words: Vec<&str> = date.map(|(_, date)| date.split(' ').collect()).unwrap_or_default();
    let [day, month, year, ..] = words[..] else { return String::new() };
    format!("{year}-{:02}-{day:0>2}", MONTHS.find(month).unwrap_or_default() / 3 + 1)
}

/// All pages.
pub(crate) fn pages() -> io::Result<Vec<File>> {
    let mut command = crate::command().disable_help_subcommand(true);
    command.build();
    let subcommands: Vec<&clap::Command> = command.get_subcommands().collect();
    let mut names: Vec<String> =
        subcommands.iter().map(|command| format!("psflip-{}(1)", command.get_name())).collect();
    names.push("psflip.toml(5)".to_owned());
    let mut files = vec![("man/psflip.1".to_owned(), page(&command, &names)?)];
    for subcommand in subcommands {
        let name = format!("man/psflip-{}.1", subcommand.get_name());
        files.push((name, page(subcommand, &["psflip(1)".to_owned(), "psflip.toml(5)".to_owned()])?));
    }
    files.push(("man/psflip.toml.5".to_owned(), configuration().into_bytes()));
    Ok(files)
}

/// The page of a command; what stands below its help is shown as it is.
fn page(command: &clap::Command, see_also: &[String]) -> io::Result<Vec<u8>> {
    let below = command.get_after_long_help().or(command.get_after_help()).map(ToString::to_string);
    let man = Man::new(command.clone()).manual("psflip").date(released()).source(SOURCE);
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    let name = command.get_display_name().unwrap_or(command.get_name());
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let about = about.trim_start_matches("psflip ");
    page.extend(format!(".SH NAME\n{} \\- {}\n", escaped(name), escaped(about)).into_bytes());
    // Not all options by name: there are more of them than a line has room for.
    let usage = command.clone().render_usage().to_string();
    let usage: Vec<&str> = usage.lines().map(|line| line.trim_start_matches("Usage:").trim()).collect();
    page.extend(format!(".SH SYNOPSIS\n{}", verbatim(&usage.join("\n"))).into_bytes());
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let mut nested = command.get_subcommands().peekable();
    if nested.peek().is_some() && !command.get_display_name().is_some_and(|name| name.contains('-')) {
        man.render_subcommands_section(&mut page)?;
    } else if nested.peek().is_some() {
        // These have no page of their own.
        page.extend(b".SH COMMANDS\n");
        for command in nested {
            let usage = command.clone().render_usage().to_string();
            let usage = usage.trim_start_matches("Usage:").trim();
            let about = command.get_about().map(ToString::to_string).unwrap_or_default();
            page.extend(format!(".TP\n\\fB{}\\fR\n{}\n", escaped(usage), sentence(&about)).into_bytes());
        }
    }
    let mut rest = String::new();
    if let Some(below) = below {
        rest += ".SH NOTES\n";
        rest += &verbatim(&below);
    }
    rest += &format!(
        ".SH \"SEE ALSO\"\n{}\n",
        see_also.iter().map(|name| reference(name)).collect::<Vec<_>>().join(", ")
    );
    page.extend(rest.into_bytes());
    Ok(page)
}

/// `name(1)` as man pages write it.
fn reference(name: &str) -> String {
    let (name, section) = name.split_once('(').unwrap_or((name, ""));
    format!("\\fB{}\\fR({section}", escaped(name))
}

/// Lines as they are.
fn verbatim(text: &str) -> String {
    let lines: String = text.trim().lines().map(|line| line_of(&escaped(line)) + "\n").collect();
    format!(".nf\n{lines}.fi\n")
}

/// Text in which nothing is taken for an instruction (groff(7)).
fn escaped(text: &str) -> String {
    text.replace('\\', "\\e").replace('-', "\\-").replace('\'', "\\(aq").replace('`', "\\(ga")
}

/// A line that doesn't begin like a request.
fn line_of(text: &str) -> String {
    if text.starts_with('.') { format!("\\&{text}") } else { text.to_owned() }
}

/// A sentence in which `code` is bold.
fn sentence(text: &str) -> String {
    let parts = text.split('`').enumerate();
    let parts = parts.map(
        |(index, part)| if index % 2 == 1 { format!("\\fB{}\\fR", escaped(part)) } else { escaped(part) },
    );
    line_of(&parts.collect::<String>())
}

fn configuration() -> String {
    let mut page = format!(".TH psflip.toml 5 {} \"{SOURCE}\" psflip\n", released());
    page += ".SH NAME\npsflip.toml \\- the configuration of psflip\n.SH DESCRIPTION\n";
    for paragraph in [
        "psflip reads one TOML file, given by `-c FILE`. Every new generation reads it again, so a change takes effect at the next upgrade. `psflip check -c FILE` prints the effective configuration, or every error in it. Unknown keys are errors.",
        "A duration is a string of whole numbers with units, largest first: `\"500ms\"`, `\"10s\"`, `\"1m30s\"`, `\"2h\"`. A signal is a name: `\"SIGHUP\"`, `\"usr2\"`, `\"SIGRTMIN+3\"`. Every string is a template, such as `\"{{ ab('8080', '8081') }}\"`.",
    ] {
        page += &format!("{}\n.PP\n", sentence(paragraph));
    }
    page += &section("KEYS", &TOP);
    for key in TOP.keys {
        match &key.kind {
            Kind::Table(inner) | Kind::Many(inner, _) => page += &section(inner.title, inner),
            Kind::One(_) => {
                for (_, inner) in HEALTHCHECKS {
                    page += &section(inner.title, inner);
                }
            }
            _ => {}
        }
    }
    page += ".SH TEMPLATES\n";
    for (function, about) in TEMPLATES {
        page += &format!(".TP\n\\fB{}\\fR\n{}\n", escaped(function), sentence(about));
    }
    page += ".SH EXAMPLE\n";
    page += &verbatim(
        "cmd     = [\"./server\"]\npidfile = \"/run/app/psflip.pid\"\n\n[[listen]]\naddress = \"tcp://0.0.0.0:8080\"\n\n[healthcheck.notify]\n\n[shutdown]\ntimeout = \"30s\"",
    );
    page + ".SH \"SEE ALSO\"\n" + &reference("psflip(1)") + ", " + &reference("psflip-check(1)") + "\n"
}

/// What templates may call.
const TEMPLATES: &[(&str, &str)] = &[
    (
        "env(NAME), env(NAME, DEFAULT)",
        "A variable of psflip's own environment; unset without a default is a mistake.",
    ),
    ("ab(A, B)", "`A` in the first generation, then alternating with every promotion."),
    ("blue_green()", "`blue` where `ab` gives its first argument, else `green`."),
    ("local(NAME)", "A value of `[locals]`."),
    ("now(FORMAT), utc_now(FORMAT)", "When the generation started, by strftime(3)."),
    ("cat(PATH)", "The text of a file of at most 64 KiB, without the newline at its end."),
    ("escape_re(TEXT)", "The text as a regular expression that matches just it."),
    ("generation()", "The generation's number; the first is 1."),
];

fn section(title: &str, table: &Table) -> String {
    let mut text = format!(".SH \"{}\"\n{}\n", escaped(title), sentence(table.about()));
    for key in table.keys {
        if let Kind::Table(inner) = &key.kind
            && inner.title.starts_with("[switch.")
        {
            text += &entry(table, key);
            text += ".RS\n";
            text += &inner.keys.iter().map(|key| entry(inner, key)).collect::<String>();
            text += ".RE\n";
            continue;
        }
        text += &entry(table, key);
    }
    text
}

/// One key: its name, its type, what it means and what holds without it.
fn entry(table: &Table, key: &Key) -> String {
    let text = table.text(key);
    let default = match &key.absent {
        Absent::Required => " Required.".to_owned(),
        Absent::Nothing => String::new(),
        Absent::Is(value) => format!(" Default: `{value}`."),
        Absent::Described => format!(" Default: {}.", text.default),
    };
    let kind = match &key.kind {
        Kind::Text => "string",
        Kind::Special => text.form,
        Kind::OrFalse => &format!("{} or false", text.form),
        Kind::Duration(_) => "duration",
        Kind::Size => "size",
        Kind::Percent(_) => "percentage",
        Kind::Signal => "signal",
        Kind::Boolean => "true or false",
        Kind::Number(..) => "number",
        Kind::Word(_) | Kind::Words(_) => "word",
        Kind::Argv(_) => "array of strings",
        Kind::Paths => "path or array of paths",
        Kind::Status => "string or integer",
        Kind::Mode => "octal digits in a string",
        Kind::Map(_) | Kind::Signals | Kind::Table(_) | Kind::One(_) => "table",
        Kind::Many(..) => "tables",
    };
    let words = match &key.kind {
        Kind::Word(words) => format!(" One of {}.", quoted(words)),
        Kind::Words(words) => format!(" One or an array of {}.", quoted(words)),
        Kind::Number(least, most) => format!(" From {least} to {most}."),
        _ => String::new(),
    };
    format!(
        ".TP\n\\fB{}\\fR ({kind})\n{}\n",
        escaped(key.name),
        sentence(&format!("{}{words}{default}", text.about))
    )
}

fn quoted(words: &[&str]) -> String {
    words.iter().map(|word| format!("`\"{word}\"`")).collect::<Vec<_>>().join(", ")
}
