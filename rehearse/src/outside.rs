//! The three processes: outside, at the door, and inside of the sandbox.

use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::args::{Args, Net};
use crate::exit;
use crate::interrupt::Interrupt;
use crate::plan::{Abort, Plan};
use crate::sandbox::{self, Files, Stage};
use crate::{rehearsal, report};

/// What `--out` gets, besides the log.
const REPORTS: [&str; 3] = ["report.html", "report.json", "junit.xml"];

/// Prints an error as all of psflip's programs do.
fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "psflip rehearse: {text}");
}

/// The process that the user has started. Returns its exit code.
pub(crate) fn run(args: &Args) -> u8 {
    match try_run(args) {
        Ok(code) => code,
        Err(abort) => {
            complain(&abort.text);
            abort.exit
        }
    }
}

fn try_run(args: &Args) -> Result<u8, Abort> {
    // Errors in the configuration are found here, before anything is started.
    let plan = Plan::new(args)?;
    if let Some(out) = &args.out {
        let made = fs::create_dir_all(out).and_then(|()| remove_reports(out));
        made.map_err(|error| Abort::failed(&format!("--out {}", out.display()), &error))?;
    }
    let runs_here = args.no_sandbox || (args.during.is_some() && args.service.is_none());
    if runs_here && args.net == Net::Host {
        let text = "--net is the network of the sandbox, and --during without --service runs on this host: \
                    leave --net out, or give the command that starts the service (--service)";
        return Err(Abort::new(exit::USAGE, text));
    }
    if !runs_here {
        check_places(args)?;
    }
    let mut files = files(args).map_err(|error| Abort::failed("the report's files", &error))?;
    let interrupt = if runs_here { Interrupt::take_here() } else { Interrupt::take() };
    let interrupt = interrupt.map_err(|error| Abort::failed("sigaction", &error))?;
    let code = if runs_here {
        rehearse(plan, &files, interrupt)
    } else {
        let status = sandbox::run(&files, args.net == Net::Host, &args.pass)
            .map_err(|error| Abort::failed("the sandbox", &error))?;
        if status.code().is_none() {
            complain(&format!("the sandbox was killed: {status} (out of memory?)"));
        }
        status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::FAILED)
    };
    if let Some(out) = &args.out {
        write_reports(&mut files.report, out)
            .map_err(|error| Abort::failed(&format!("--out {}", out.display()), &error))?;
    }
    Ok(code)
}

/// The working directory and the files that are read must be there in the sandbox, too: as they are named, and where
/// links lead. /dev/stdin, for example, is another file there.
fn check_places(args: &Args) -> Result<(), Abort> {
    let cwd = std::env::current_dir().map_err(|error| Abort::failed("the working directory", &error))?;
    let config = Some(&args.config).filter(|_| args.run.is_empty() && args.during.is_none());
    let (elsewhere, other_file) = ("rehearse in another directory", "name a file in another directory");
    let places = [
        ("the working directory", Some(&cwd), elsewhere),
        ("the configuration", config, elsewhere),
        ("the file of --body", args.body.as_ref(), other_file),
        ("the file of --next", args.next.as_ref(), other_file),
    ];
    for (what, path, advice) in places {
        let Some(path) = path.map(|path| cwd.join(path)) else { continue };
        let hidden = |path: PathBuf| sandbox::hides(&path).map(|own| (path, own));
        if let Some((path, own)) = path.canonicalize().ok().and_then(hidden).or_else(|| hidden(path)) {
            let text = format!(
                "{what} `{}` is below {own}, and the sandbox has a {own} of its own, where it does not exist: \
                 {advice}, for example below /tmp; or on this host, while the service \
                 itself does not run: --no-sandbox",
                path.display()
            );
            return Err(Abort::new(exit::USAGE, text));
        }
    }
    Ok(())
}

/// Those of an earlier rehearsal must not be taken for this one's.
fn remove_reports(out: &Path) -> io::Result<()> {
    for name in REPORTS {
        match fs::remove_file(out.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The report is an unnamed file until it is complete; the log is written as it comes.
fn files(args: &Args) -> io::Result<Files> {
    let log = match &args.out {
        Some(out) => File::create(out.join("log.txt"))?,
        None => tempfile::tempfile()?,
    };
    Ok(Files { report: tempfile::tempfile()?, log })
}

fn write_reports(bundle: &mut File, out: &Path) -> io::Result<()> {
    let mut text = String::new();
    bundle.seek(SeekFrom::Start(0))?;
    bundle.read_to_string(&mut text)?;
    if text.is_empty() {
        // The rehearsal did not get so far, and has said why; a CI system reads only this.
        return fs::write(out.join("junit.xml"), report::junit::of_abort()?);
    }
    let reports: Map<String, Value> = serde_json::from_str(&text)?;
    for (name, content) in &reports {
        fs::write(out.join(name), content.as_str().unwrap_or_default())?;
    }
    Ok(())
}

/// The process that makes the namespaces.
pub(crate) fn enter(stage: &Stage) -> u8 {
    // Ctrl-C reaches the process inside as well, which ends the rehearsal.
    let _interrupt = Interrupt::take();
    sandbox::enter(stage).unwrap_or_else(|error| no_sandbox(&error))
}

fn no_sandbox(error: &sandbox::SandboxError) -> u8 {
    complain(&format!("no sandbox is possible here: {error}"));
    complain(
        "run it as root, or where user namespaces are allowed (sysctl kernel.unprivileged_userns_clone, \
         kernel.apparmor_restrict_unprivileged_userns; docker run --privileged); or on this host, while the \
         service itself does not run: --no-sandbox",
    );
    exit::NO_SANDBOX
}

/// PID 1 of the sandbox.
pub(crate) fn run_inside(stage: &Stage, args: &Args) -> u8 {
    let files = match sandbox::set_up(stage, &args.config, &args.pass) {
        Ok(files) => files,
        Err(error) => return no_sandbox(&error),
    };
    let interrupt = Interrupt::take().map_err(|error| Abort::failed("sigaction", &error));
    match Plan::new(args).and_then(|plan| Ok((plan, interrupt?))) {
        Ok((plan, interrupt)) => rehearse(plan, &files, interrupt),
        Err(abort) => {
            complain(&abort.text);
            abort.exit
        }
    }
}

/// The rehearsal, its summary and its reports.
fn rehearse(plan: Plan, files: &Files, interrupt: Interrupt) -> u8 {
    let log = match files.log.try_clone() {
        Ok(log) => log,
        Err(error) => {
            complain(&format!("the log: {error}"));
            return exit::FAILED;
        }
    };
    let (json, has_out) = (plan.args.json, plan.args.out.is_some());
    let report = match rehearsal::run(plan, log, interrupt) {
        Ok(report) => report,
        Err(abort) => {
            complain(&abort.text);
            return abort.exit;
        }
    };
    let text = serde_json::to_string_pretty(&report).unwrap_or_default();
    let summary = if json { format!("{text}\n") } else { report::terminal::summary(&report) };
    let printed = io::stdout().write_all(summary.as_bytes());
    let written = if has_out { write_bundle(&files.report, &report, text) } else { Ok(()) };
    if let Err(error) = printed.and(written) {
        complain(&format!("the report can't be written: {error}"));
        return exit::FAILED;
    }
    if report.failures.is_empty() { exit::OK } else { exit::LOST }
}

fn write_bundle(mut file: &File, report: &report::Report, json: String) -> io::Result<()> {
    let reports = Map::from_iter([
        ("report.html".to_owned(), Value::String(report::html::page(&json))),
        ("junit.xml".to_owned(), Value::String(report::junit::xml(report)?)),
        ("report.json".to_owned(), Value::String(json)),
    ]);
    serde_json::to_writer(&mut file, &reports)?;
    file.flush()
}
