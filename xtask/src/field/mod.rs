//! `cargo xtask field`: the tools that upgrade a service, side by side, by what clients lose.

mod setups;

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use setups::{SETUPS, Setup, Upgrade};

use crate::args::Args;
use crate::{Error, Outcome, binaries, packages, repo, step};

pub(crate) const USAGE: &str = "\
cargo xtask field [--flips N] [--rate N] [--only PART] [--json FILE] [--binaries DIR]

Rehearses the upgrades of servers by their own tools (gunicorn HUP, nginx USR2, haproxy -sf, ...) and by psflip, each in a
sandbox of its own and under the same load: eight clients, half of them on keep-alive connections. Prints the table of
docs/field.md. What is not installed is left out, and named. Newer versions of gunicorn and uvicorn (PyPI) and pm2 (npm) are installed into the target
directory, if they can be.

  --flips N      upgrades of each set-up (default 10)
  --rate N       requests a second (default 400)
  --only PART    only set-ups whose name contains PART
  --binaries DIR psflip and psflip-rehearse of this directory instead of static release builds
  --json FILE    also write each whole report to FILE, an object by the names of the set-ups";

pub(crate) fn run(mut args: Args) -> Outcome {
    let flips: u32 = args.value("flips")?.unwrap_or(10);
    let rate: u32 = args.value("rate")?.unwrap_or(400);
    let only: Option<String> = args.value("only")?;
    let json: Option<PathBuf> = args.value("json")?;
    let binaries: Option<PathBuf> = args.value("binaries")?;
    args.done()?;
    let (psflip, rehearse) = match binaries {
        Some(directory) => {
            let directory = directory.canonicalize()?;
            (directory.join("psflip"), directory.join("psflip-rehearse"))
        }
        None => (binaries::build_static()?, binaries::build_rehearse()?),
    };
    let path = path_with_fetched()?;
    let mut reports = serde_json::Map::new();
    let mut table = vec![HEAD.to_owned()];
    for setup in SETUPS.iter().filter(|setup| only.as_deref().is_none_or(|part| setup.name.contains(part))) {
        if let Some(missing) = setup.needs.iter().find(|program| !repo::is_in(&path, program)) {
            println!("left out: {}: {missing} is not installed", setup.name);
            continue;
        }
        println!("==> {}", setup.name);
        let report = rehearse_one(setup, &path, &rehearse, &psflip, flips, rate)?;
        table.push(row(setup, &report));
        println!("{}", table[table.len() - 1]);
        reports.insert(setup.name.to_owned(), report);
    }
    println!("\n{}", table.join("\n"));
    if let Some(path) = json {
        fs::write(path, Value::Object(reports).to_string())?;
    }
    Ok(())
}

/// The newest pm2 when the table of docs/field.md was made.
const PM2: &str = "pm2@7.0.4";

/// PATH, with what is no Debian package. What can't be fetched is missing, and its set-ups are left out.
fn path_with_fetched() -> Result<OsString, Error> {
    let target = repo::target_dir()?;
    for newer in [packages::GUNICORN, packages::UVICORN] {
        if let Err(error) = packages::install_newer(&newer) {
            println!("    {error}");
        }
    }
    let folder = target.join("field-npm");
    let bin = folder.join("node_modules/.bin");
    if repo::is_installed("npm") && !bin.join("pm2").exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(&folder).arg(PM2);
        if let Err(error) = step::run(&mut npm) {
            println!("    {error}");
        }
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let fetched = [target.join(testkit::PROGRAMS).join("bin"), bin];
    Ok(env::join_paths(env::split_paths(&path).chain(fetched))?)
}

const HEAD: &str = "\
| Server, and what upgrades it | Lost: new connections | Lost: keep-alive | Slowest request | 99 % of requests | Active after | Peak memory |
|---|---|---|---|---|---|---|";

/// Runs a set-up in a fresh directory; returns its report.
fn rehearse_one(
    setup: &Setup,
    path: &OsStr,
    rehearse: &Path,
    psflip: &Path,
    flips: u32,
    rate: u32,
) -> Result<Value, Error> {
    let directory = repo::target_dir()?.join("field").join(setup.name.replace([' ', '/'], "-"));
    // Files of an earlier run must not be mixed with these.
    if directory.exists() {
        fs::remove_dir_all(&directory)?;
    }
    fs::create_dir_all(&directory)?;
    for source in ["examples/servers", "tools/field"] {
        for entry in fs::read_dir(repo::root().join(source))? {
            let path = entry?.path();
            if path.is_file() {
                fs::copy(&path, directory.join(path.file_name().unwrap_or_default()))?;
            }
        }
    }
    let mut command = Command::new(rehearse);
    command.current_dir(&directory).env("PATH", path).arg("--json").arg("--psflip").arg(psflip);
    command.args(["--flips", &flips.to_string(), "--rate", &rate.to_string(), "--load", setup.load]);
    match setup.upgrade {
        Upgrade::Tool { service, during } => {
            command.args(["--service", service, "--during", during, "--pause", setup.pause]);
        }
        Upgrade::Psflip(config) => {
            command.args(["-c", config, "--pause", setup.pause]);
        }
        Upgrade::Proxy(cmd) => {
            command.args(["--pause", setup.pause, "--", "--proxy", "http://127.0.0.1:8080", "--"]).args(cmd);
        }
    }
    let output = command.stderr(Stdio::inherit()).output()?;
    let report = serde_json::from_slice(&output.stdout);
    let _ = fs::remove_dir_all(&directory); // a rehearsal leaves nothing but what was copied
    report.map_err(|error| format!("{}: {error}: {}", setup.name, output.status).into())
}

fn row(setup: &Setup, report: &Value) -> String {
    let upgrades = report["upgrades"].as_array().into_iter().flatten();
    let failed = upgrades.filter(|upgrade| upgrade["result"] != "promoted").count();
    // Without its upgrades, a row would look like a tool that loses nothing.
    let name = if failed == 0 {
        setup.name.to_owned()
    } else {
        format!("{} ({failed} upgrades FAILED)", setup.name)
    };
    let losses = |kind: &str| -> u64 {
        let loads = report["loads"].as_array().into_iter().flatten().filter(|load| load["kind"] == kind);
        loads.filter_map(|load| load["lost"].as_u64()).sum()
    };
    let upgrades: Vec<&Value> = report["upgrades"].as_array().into_iter().flatten().collect();
    let most = |get: &dyn Fn(&Value) -> Option<f64>| {
        upgrades.iter().filter_map(|upgrade| get(upgrade)).fold(0.0, f64::max)
    };
    let at = |upgrade: &Value, name: &str| {
        upgrade["steps"].as_array()?.iter().find(|step| step["step"] == name)?["at_ms"].as_f64()
    };
    let mut took: Vec<f64> = upgrades
        .iter()
        .filter_map(|upgrade| Some(at(upgrade, "promoted")? - at(upgrade, "requested")?))
        .collect();
    took.sort_by(f64::total_cmp);
    // Most tools return at once, and only their processes know when the upgrade is over.
    let reports = !matches!(setup.upgrade, Upgrade::Tool { .. });
    let took =
        took.get(took.len() / 2).filter(|_| reports).map_or("-".to_owned(), |took| format!("{took:.0} ms"));
    format!(
        "| {name} | {} | {} | {:.0} ms | {:.0} ms | {took} | {:.0} MB |",
        losses("new"),
        losses("keep-alive"),
        most(&|upgrade| upgrade["latency"]["max_ms"].as_f64()),
        most(&|upgrade| upgrade["latency"]["p99_ms"].as_f64()),
        most(&|upgrade| upgrade["peak_memory_kb"].as_f64()) / 1024.0,
    )
}
