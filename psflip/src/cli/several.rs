//! `psflip upgrade --all` and `psflip upgrade PATTERN...`: several services, one after the other, until one
//! fails.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;

use super::discover::{Found, owner_of, services};
use super::list::{Answered, ask};
use super::render;
use super::screen::Screen;
use super::session::Label;
use super::target::{ServiceAddress, Trouble};
use super::upgrade::Upgrade;
use super::wait::Waiter;
use super::{DEFAULT_CONFIG, complain};
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::manager::systemd::unit_of;
use crate::sys::tree;
use crate::text;

/// Selects several services.
#[derive(Debug, Args)]
pub(super) struct Several {
    /// Services to upgrade one after the other: names as `psflip list` prints them, or their last part, or
    /// names of systemd units; `*` and `?` are wildcards
    #[arg(value_name = "PATTERN", group = "services", conflicts_with_all = ["config", "socket", "no_wait"])]
    patterns: Vec<String>,
    /// Upgrade all services of this user, one after the other
    #[arg(long, group = "services", conflicts_with_all = ["config", "socket", "no_wait", "patterns"])]
    all: bool,
    /// With --all or PATTERN: the services of another user (name or ID), for root
    #[arg(long, value_name = "USER", requires = "services")]
    user: Option<String>,
    /// With --all or PATTERN: print the names of the services, and upgrade none
    #[arg(long, requires = "services", conflicts_with_all = ["json", "progress", "quiet"])]
    dry_run: bool,
}

/// How long the psflips may take to tell their names.
const TIMEOUT: Duration = Duration::from_secs(5);

/// The name of a control socket in `$RUNTIME_DIRECTORY`.
const DEFAULT_SOCKET: &str = "psflip.sock";

/// A service, and what it is called in the output.
#[derive(Debug)]
struct Chosen {
    name: String,
    found: Found,
}

/// The services that may be chosen.
struct Candidates {
    answers: Vec<Answered>,
    /// The user whose services they are.
    user: u32,
    /// Those that may not: how many belong to other users, and how many run in containers.
    other_users: usize,
    contained: usize,
}

impl Several {
    /// Whether the command is about several services.
    pub(super) fn is_given(&self) -> bool {
        self.all || !self.patterns.is_empty()
    }

    /// Upgrades one service after the other. Stops at the first whose upgrade does not succeed.
    pub(super) fn run(&self, upgrade: &Upgrade) -> ExitStatus {
        let (chosen, left_out) = match self.choose() {
            Ok(chosen) => chosen,
            Err(trouble) => return trouble.report(),
        };
        if upgrade.keeps() && self.patterns.iter().any(|pattern| is_wildcard(pattern)) {
            let message = "--keep is for services that are named one by one, not for wildcards";
            return Trouble { message: message.to_owned(), code: exit::USAGE }.report();
        }
        if self.dry_run {
            let mut screen = Screen::new();
            chosen.iter().for_each(|one| screen.line(&one.name));
            return ExitStatus::Exited(exit::OK);
        }
        let names: Vec<&str> = chosen.iter().map(|one| one.name.as_str()).collect();
        let mut end = ExitStatus::Exited(exit::OK);
        let mut done = 0;
        let mut reason = None;
        for one in &chosen {
            let head = format!("[{}/{}] {}", done + 1, chosen.len(), one.name);
            (end, reason) = upgrade_one(upgrade, one, &head).unwrap_or_else(|trouble| {
                complain(&format!("{head}: {}", trouble.message));
                (ExitStatus::Exited(trouble.code), Some(trouble.message))
            });
            if end != ExitStatus::Exited(exit::OK) {
                break;
            }
            done += 1;
        }
        if upgrade.prints_json() {
            let code = match end {
                ExitStatus::Exited(code) => i32::from(code),
                ExitStatus::Killed(signal) => 128 + signal.number(),
            };
            let line = summary_json(&names, done, code, reason.as_deref()).to_string();
            Screen::new().line(&text::json(&line));
        } else if done < names.len() {
            super::print_text(&summary(&names, done));
        } else if !upgrade.is_quiet() {
            Screen::new().line(&format!("{}{left_out}", summary(&names, done).trim_end()));
        }
        end
    }

    /// The services, in the order of `psflip list`; and with `--all`, which ones are left out.
    fn choose(&self) -> Result<(Vec<Chosen>, String), Trouble> {
        let candidates = self.candidates()?;
        let left_out = candidates.left_out();
        let none = |what: &str| Trouble::new(format!("{what}; `psflip list` shows what runs{left_out}"));
        for pattern in &self.patterns {
            let found = candidates.answers.iter().filter(|one| candidates.matches(pattern, one)).count();
            let hint = match Path::new(pattern).extension() {
                Some(extension) if extension == "toml" => {
                    format!(" (a configuration is named by `-c {pattern}`)")
                }
                _ => String::new(),
            };
            if found == 0 {
                return Err(none(&format!("no service of this user matches `{pattern}`{hint}")));
            }
            if found > 1 && !is_wildcard(pattern) {
                return Err(none(&format!(
                    "{found} services match `{pattern}`, so nothing was upgraded; give the whole name, or use wildcards for all{hint}"
                )));
            }
        }
        if candidates.answers.is_empty() {
            return Err(none("there is no service of this user"));
        }
        let user = candidates.user;
        let is_chosen = |one: &Answered| {
            self.all || self.patterns.iter().any(|pattern| matches_any(pattern, &names(one, user)))
        };
        let chosen: Vec<Answered> = candidates.answers.into_iter().filter(is_chosen).collect();
        for one in &chosen {
            if let Err(reason) = &one.status {
                let message = format!(
                    "the psflip of {} (pid {}) does not answer, so nothing was upgraded: {reason}",
                    shown(one, user),
                    one.found.pid
                );
                return Err(Trouble::new(message));
            }
        }
        Ok((named(chosen, user), if self.all { left_out } else { String::new() }))
    }

    /// The services of the user, without those in containers: their files and users are others. For root, a
    /// pattern may also name a unit of the system, whatever its user. The control group alone proves nothing
    /// then: jobs of users run in that of cron.service. So the psflip, or its anchor, must be the unit's main
    /// process.
    fn candidates(&self) -> Result<Candidates, Trouble> {
        let user = self.user()?;
        let by_unit = |one: &Found| {
            user == 0
                && system_unit(one).is_some_and(|unit| {
                    self.patterns.iter().any(|pattern| matches_any(pattern, &names_of_unit(&unit)))
                        && is_of_unit(one, main_pid(&unit))
                })
        };
        let (may, others): (Vec<Found>, Vec<Found>) =
            services().into_iter().partition(|one| one.owner == Some(user) || by_unit(one));
        let (outside, contained): (Vec<Found>, Vec<Found>) =
            may.into_iter().partition(|one| pid_namespace(&one.pid.to_string()) == pid_namespace("self"));
        let (foreign, answers): (Vec<Answered>, Vec<Answered>) =
            ask(outside, TIMEOUT).into_iter().partition(|one| one.is_foreign);
        let other_users = others.len() + foreign.len();
        Ok(Candidates { answers, user, other_users, contained: contained.len() })
    }

    fn user(&self) -> Result<u32, Trouble> {
        let Some(user) = &self.user else { return Ok(nix::unistd::geteuid().as_raw()) };
        if let Ok(uid) = user.parse() {
            return Ok(uid);
        }
        let found = nix::unistd::User::from_name(user).ok().flatten();
        found.map(|user| user.uid.as_raw()).ok_or_else(|| Trouble::new(format!("there is no user `{user}`")))
    }
}

impl Candidates {
    fn matches(&self, pattern: &str, one: &Answered) -> bool {
        matches_any(pattern, &names(one, self.user))
    }

    fn left_out(&self) -> String {
        let mut text = String::new();
        for (count, what) in
            [(self.other_users, "belong to other users (`--user`)"), (self.contained, "run in containers")]
        {
            if count > 0 {
                // Writing to a string can't fail.
                let _ = write!(text, "; {count} that {what} are left out");
            }
        }
        text
    }
}

/// Upgrades one of the services. Returns the exit status, and why the upgrade failed.
fn upgrade_one(upgrade: &Upgrade, one: &Chosen, head: &str) -> Result<(ExitStatus, Option<String>), Trouble> {
    if let Some(signal) = Waiter::new(None)?.interrupted()? {
        return Ok((ExitStatus::Killed(signal), Some(format!("interrupted by {signal}"))));
    }
    let label = Label { name: one.name.clone(), head: head.to_owned() };
    let mut session = upgrade.begin(ServiceAddress::of(&one.found), Some(label))?;
    let end = upgrade.follow(&mut session)?;
    let interrupted = match end {
        ExitStatus::Killed(signal) => Some(format!("interrupted by {signal}")),
        ExitStatus::Exited(_) => None,
    };
    Ok((end, session.failure.take().or(interrupted)))
}

/// The PID namespace of a process (pid_namespaces(7)): a container has one of its own.
fn pid_namespace(process: &str) -> Option<std::path::PathBuf> {
    std::fs::read_link(format!("/proc/{process}/ns/pid")).ok()
}

/// What `psflip list` calls a service.
fn name(one: &Answered) -> String {
    match &one.status {
        Ok((_, status)) => render::name(status, one),
        Err(_) => render::clean(&text::lossy(&one.found.named)),
    }
}

/// The name in the output: that of `psflip list`, or of the unit for another user's service, whose status may
/// contain any name.
fn shown(one: &Answered, user: u32) -> String {
    let unit = system_unit(&one.found).filter(|_| one.found.owner != Some(user));
    unit.map_or_else(|| name(one), |unit| render::clean(&unit))
}

/// Whether the pattern matches one of the names. `*` stands for slashes, too. Most files have their default
/// name, so a wildcard does not stand for these: `psflip*` means units.
fn matches_any(pattern: &str, names: &[String]) -> bool {
    let is_default = |name: &str| name == DEFAULT_CONFIG || name == DEFAULT_SOCKET;
    names
        .iter()
        .filter(|name| !(is_wildcard(pattern) && is_default(name)))
        .any(|name| text::matches(pattern.as_bytes(), name.as_bytes(), |_| true))
}

/// Whether the pattern may match several services.
fn is_wildcard(pattern: &str) -> bool {
    pattern.contains(['*', '?'])
}

/// The unit's main process, as the system's systemd knows it (systemctl(1)).
fn main_pid(unit: &str) -> Option<u32> {
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["show", "--system", "--property=MainPID", "--value", "--", unit]).stdin(Stdio::null());
    let shown = systemctl.stderr(Stdio::null()).output().ok()?;
    String::from_utf8(shown.stdout).ok()?.trim().parse().ok().filter(|pid| *pid != 0)
}

/// Whether this psflip, or its parent with the same user (the anchor), is the main process of its unit.
fn is_of_unit(found: &Found, main: Option<u32>) -> bool {
    let is_anchor = |main: u32| {
        tree::parent_of(found.pid) == Some(main) && found.owner.is_some() && owner_of(main) == found.owner
    };
    main.is_some_and(|main| main == found.pid || is_anchor(main))
}

/// The names by which a pattern may choose this service. For another user than the service's only the unit
/// counts.
fn names(one: &Answered, user: u32) -> Vec<String> {
    if one.found.owner.is_some_and(|owner| owner != user) {
        return system_unit(&one.found).map(|unit| names_of_unit(&unit)).unwrap_or_default();
    }
    let (name, socket) = (name(one), text::lossy(&one.found.named));
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let unit = one.found.cgroup.as_deref().and_then(|cgroup| unit_of(&format!("0::{cgroup}")));
    let unit = unit.map(|unit| names_of_unit(&unit)).unwrap_or_default();
    [last(&name), last(&socket), name, socket].into_iter().chain(unit).collect()
}

/// `psflip@shop.service` and `psflip@shop`.
fn names_of_unit(unit: &str) -> Vec<String> {
    [unit, unit.strip_suffix(".service").unwrap_or(unit)].map(str::to_owned).into()
}

/// The service of the system's systemd that this psflip belongs to. The first unit in the path counts, since
/// a service may be allowed to make groups below its own (`Delegate=`), and none of a user's systemd.
fn system_unit(found: &Found) -> Option<String> {
    let mut parts = found.cgroup.as_deref()?.split('/');
    let first = parts.find(|part| part.ends_with(".service") || *part == "user.slice")?;
    (first != "user.slice" && !first.starts_with("user@")).then(|| first.to_owned())
}

/// Names that several services share are replaced by the paths of their sockets.
fn named(chosen: Vec<Answered>, user: u32) -> Vec<Chosen> {
    let mut count: HashMap<String, usize> = HashMap::new();
    for one in &chosen {
        *count.entry(shown(one, user)).or_default() += 1;
    }
    let one = |one: Answered| {
        let name = Some(shown(&one, user)).filter(|name| count[name] == 1);
        let name = name.unwrap_or_else(|| render::clean(&text::lossy(&one.found.named)));
        Chosen { name, found: one.found }
    };
    chosen.into_iter().map(one).collect()
}

/// What became of the services: the first `done` were upgraded, the next one was not, and the rest was not
/// tried.
fn summary(names: &[&str], done: usize) -> String {
    let mut out = format!("{done} of {} services upgraded\n", names.len());
    for (at, name) in names.iter().enumerate().skip(done) {
        let what = if at == done { "stopped at" } else { "not upgraded" };
        let _ = writeln!(out, "{what:<12}  {name}"); // writing to a string can't fail
    }
    out
}

/// `code`: the exit code of the command; `reason`: why the last upgrade was not successful.
fn summary_json(names: &[&str], done: usize, code: i32, reason: Option<&str>) -> serde_json::Value {
    serde_json::json!({
        "event": "summary",
        "exit_code": code,
        "reason": reason,
        "upgraded": names[..done],
        "stopped_at": names.get(done),
        "not_upgraded": names.get(done + 1..).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(socket: &str, cgroup: Option<&str>) -> Answered {
        let mut found = Found::at(Path::new(socket));
        found.cgroup = cgroup.map(str::to_owned);
        Answered { found, status: Err("no answer".to_owned()), is_foreign: false }
    }

    #[test]
    fn patterns_match_names_their_last_part_and_units() {
        // Contract: O6
        let shop =
            answered("/run/shop/psflip.sock", Some("/system.slice/system-psflip.slice/psflip@shop.service"));
        for (pattern, expected) in [
            ("psflip@*", true),
            ("psflip@shop", true),
            ("psflip@shop.service", true),
            ("psflip@sho", false),
            ("/run/*", true),
            ("/run/shop/psflip.sock", true),
            ("psflip.sock", true),
            ("psflip.so*", false),
            ("psflip.s?ck", false),
            ("shop", false),
            ("*shop*", true),
            ("", false),
        ] {
            assert_eq!(matches_any(pattern, &names(&shop, 0)), expected, "{pattern}");
        }
        assert!(!matches_any("psflip@*", &names(&answered("/run/a.sock", None), 0)));
        let other = answered("/run/shop/psflip.sock", Some("/system.slice/shop.service"));
        assert!(!matches_any("psflip*", &names(&other, 0)));
    }

    #[test]
    fn of_other_users_only_units_of_the_system_are_chosen() {
        // Contract: O6
        for (cgroup, unit) in [
            ("/system.slice/system-psflip.slice/psflip@a.service", "psflip@a.service"),
            ("/system.slice/other.service/psflip@a.service", "other.service"),
            ("/user.slice/user-7.slice/user@7.service/app.slice/psflip@a.service", ""),
            ("/user.slice/user-7.slice/session-1.scope", ""),
            ("/docker/1234", ""),
        ] {
            let mut one = answered("/run/psflip@a.service", Some(cgroup));
            one.found.owner = Some(7);
            assert_eq!(system_unit(&one.found).unwrap_or_default(), unit, "{cgroup}");
            assert_eq!(matches_any("psflip@*", &names(&one, 0)), unit == "psflip@a.service", "{cgroup}");
        }
    }

    #[test]
    fn of_other_users_only_the_main_process_of_a_unit_or_its_child_is_chosen() {
        // Contract: O6
        let this = std::process::id();
        let of = |pid: u32, owner: Option<u32>| {
            let mut found = Found::at(Path::new("/run/a.sock"));
            (found.pid, found.owner) = (pid, owner);
            found
        };
        let own = Some(nix::unistd::geteuid().as_raw());
        assert!(is_of_unit(&of(this, own), Some(this)));
        assert!(!is_of_unit(&of(this, own), None));
        let mut child = Command::new("sleep").arg("infinity").spawn().unwrap();
        assert!(is_of_unit(&of(child.id(), own), Some(this)), "its anchor is the main process");
        assert!(!is_of_unit(&of(child.id(), Some(7)), Some(this)), "a job of another user");
        assert!(!is_of_unit(&of(this, own), Some(child.id())));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn services_with_the_same_name_are_told_apart_by_their_sockets() {
        let of = |socket: &str| {
            let mut one = answered(socket, Some("/system.slice/app.service"));
            one.found.owner = Some(7);
            one
        };
        let names = |all: Vec<Answered>| named(all, 0).into_iter().map(|one| one.name).collect::<Vec<_>>();
        assert_eq!(names(vec![of("/a.sock"), of("/b.sock")]), ["/a.sock", "/b.sock"]);
        assert_eq!(names(vec![of("/a.sock")]), ["app.service"]);
    }

    #[test]
    fn the_summary_names_every_service() {
        // Contract: O6
        assert_eq!(summary(&["a", "b"], 2), "2 of 2 services upgraded\n");
        let text = "1 of 3 services upgraded\nstopped at    b\nnot upgraded  c\n";
        assert_eq!(summary(&["a", "b", "c"], 1), text);
        assert_eq!(
            summary_json(&["a", "b", "c"], 1, 1, Some("no")),
            serde_json::json!({"event": "summary", "exit_code": 1, "reason": "no", "upgraded": ["a"], "stopped_at": "b", "not_upgraded": ["c"]})
        );
        assert_eq!(
            summary_json(&["a"], 1, 0, None),
            serde_json::json!({"event": "summary", "exit_code": 0, "reason": null, "upgraded": ["a"], "stopped_at": null, "not_upgraded": []})
        );
    }
}
