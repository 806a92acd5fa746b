//! Generates man pages, shell completions, the JSON Schema of configurations, and the tables of keys in
//! docs/configuration.md, from psflip's own command line and table of keys.
//!
//! `docgen DIRECTORY` writes them, `docgen DIRECTORY --check` only compares. `cargo xtask docs` runs it with
//! `dist` of the repository.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task talks to the person who started it")]

mod completions;
mod man;
mod schema;
#[cfg(test)]
mod shells;
mod tables;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod validate;

use std::fs;
use std::io;
use std::path::Path;
use std::process::ExitCode;

/// A file to write: its path below the directory, and its content.
type File = (String, Vec<u8>);

/// The page with the tables of keys, seen from the directory of the other files.
const MANUAL: &str = "../docs/configuration.md";

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let Some(directory) = args.next() else {
        eprintln!("usage: docgen DIRECTORY [--check]");
        return ExitCode::from(2);
    };
    let only_check = args.next().is_some_and(|arg| arg == "--check");
    match files(Path::new(&directory)).and_then(|files| bring(Path::new(&directory), &files, only_check)) {
        Ok(changed) if changed.is_empty() => {
            println!("all up to date in {directory}");
            ExitCode::SUCCESS
        }
        Ok(changed) if only_check => {
            eprintln!(
                "not up to date in {directory}: {}\nrun `cargo xtask docs` and commit what it changes",
                changed.join(", ")
            );
            ExitCode::FAILURE
        }
        Ok(changed) => {
            println!("written in {directory}: {}", changed.join(", "));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("docgen: {error}");
            ExitCode::FAILURE
        }
    }
}

/// psflip's command line, with that of psflip-rehearse in its place.
fn command() -> clap::Command {
    psflip::testing::cli::command()
        .mut_subcommand("rehearse", |_| psflip_rehearse::command().name("rehearse"))
}

/// All generated files, in the order of their paths.
fn files(directory: &Path) -> io::Result<Vec<File>> {
    let mut files = man::pages()?;
    let page = fs::read_to_string(directory.join(MANUAL))?;
    files.push((MANUAL.to_owned(), tables::renewed(&page)?.into_bytes()));
    for (name, script) in completions::scripts() {
        files.push((format!("completions/{name}"), script));
    }
    files.push(("psflip.schema.json".to_owned(), format!("{:#}\n", schema::schema()).into_bytes()));
    let report = format!("{:#}\n", psflip_rehearse::schema());
    files.push(("psflip-rehearse.schema.json".to_owned(), report.into_bytes()));
    files.sort();
    Ok(files)
}

/// Writes the files that differ, and removes pages that are not generated any more. With `only_check` it only
/// compares. Returns the paths.
fn bring(directory: &Path, files: &[File], only_check: bool) -> io::Result<Vec<String>> {
    let mut changed = Vec::new();
    for (name, content) in files {
        let path = directory.join(name);
        if fs::read(&path).ok().as_deref() == Some(content) {
            continue;
        }
        if !only_check {
            fs::create_dir_all(path.parent().unwrap_or(directory))?;
            fs::write(&path, content)?;
        }
        changed.push(name.clone());
    }
    for folder in ["man", "completions"] {
        let Ok(entries) = fs::read_dir(directory.join(folder)) else { continue };
        for entry in entries {
            let entry = entry?;
            let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if !files.iter().any(|(known, _)| *known == name) {
                if !only_check {
                    fs::remove_file(entry.path())?;
                }
                changed.push(name);
            }
        }
    }
    Ok(changed)
}
