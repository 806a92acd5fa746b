//! `psflip upgrade --all` and `psflip upgrade PATTERN...`: several services, one after the other, until one
//! fails.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::complain;
use super::discover::{Found, services};
use super::list::{Answered, ask};
use super::render;
use super::screen::Screen;
use super::session::Label;
use super::target::{ServiceAddress, Trouble};
use super::upgrade::Upgrade;
use super::wait::Waiter;
use crate::exit;
use crate::exit_status::ExitStatus;
use crate::manager::systemd::unit_of;
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
}

/// How long the psflips may take to tell their names.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A service, and what it is called in the output.
#[derive(Debug)]
struct Chosen {
    name: String,
    found: Found,
}

/// The services that may be chosen.
struct Candidates {
    answers: Vec<Answered>,
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
        let names: Vec<&str> = chosen.iter().map(|one| one.name.as_str()).collect();
        let mut end = ExitStatus::Exited(exit::OK);
        let mut done = 0;
        for one in &chosen {
            let head = format!("[{}/{}] {}", done + 1, chosen.len(), one.name);
            end = upgrade_one(upgrade, one, &head).unwrap_or_else(|trouble| {
                complain(&format!("{head}: {}", trouble.message));
                ExitStatus::Exited(trouble.code)
            });
            if end != ExitStatus::Exited(exit::OK) {
                break;
            }
            done += 1;
        }
        if upgrade.prints_json() {
            Screen::new().line(&summary_json(&names, done).to_string());
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
            let found = candidates.answers.iter().filter(|one| matches(pattern, one)).count();
            let hint = match Path::new(pattern).extension() {
                Some(extension) if extension == "toml" => {
                    format!(" (a configuration is named by `-c {pattern}`)")
                }
                _ => String::new(),
            };
            if found == 0 {
                return Err(none(&format!("no service of this user matches `{pattern}`{hint}")));
            }
            if found > 1 && !pattern.contains(['*', '?']) {
                return Err(none(&format!(
                    "{found} services match `{pattern}`, so nothing was upgraded; give the whole name, or use wildcards for all{hint}"
                )));
            }
        }
        if candidates.answers.is_empty() {
            return Err(none("there is no service of this user"));
        }
        let is_chosen =
            |one: &Answered| self.all || self.patterns.iter().any(|pattern| matches(pattern, one));
        let chosen: Vec<Answered> = candidates.answers.into_iter().filter(is_chosen).collect();
        for one in &chosen {
            if let Err(reason) = &one.status {
                let message = format!(
                    "the psflip of {} (pid {}) does not answer, so nothing was upgraded: {reason}",
                    name(one),
                    one.found.pid
                );
                return Err(Trouble::new(message));
            }
        }
        Ok((named(chosen), if self.all { left_out } else { String::new() }))
    }

    /// The services of the user, without those in containers: their files and users are others.
    fn candidates(&self) -> Result<Candidates, Trouble> {
        let user = self.user()?;
        let (own, others): (Vec<Found>, Vec<Found>) =
            services().into_iter().partition(|one| one.owner == Some(user));
        let (outside, contained): (Vec<Found>, Vec<Found>) =
            own.into_iter().partition(|one| pid_namespace(&one.pid.to_string()) == pid_namespace("self"));
        let answers = ask(outside, TIMEOUT);
        Ok(Candidates { answers, other_users: others.len(), contained: contained.len() })
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

fn upgrade_one(upgrade: &Upgrade, one: &Chosen, head: &str) -> Result<ExitStatus, Trouble> {
    if let Some(signal) = Waiter::new(None)?.interrupted()? {
        return Ok(ExitStatus::Killed(signal));
    }
    let label = Label { name: one.name.clone(), head: head.to_owned() };
    let session = upgrade.begin(ServiceAddress::of(&one.found), Some(label))?;
    upgrade.follow(session)
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

/// Whether the pattern matches a name of this service. `*` stands for slashes, too.
fn matches(pattern: &str, one: &Answered) -> bool {
    let name = name(one);
    let socket = text::lossy(&one.found.named);
    let last = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    let unit = one.found.cgroup.as_deref().and_then(|cgroup| unit_of(&format!("0::{cgroup}")));
    let instance = unit.as_deref().and_then(|unit| unit.strip_suffix(".service")).map(str::to_owned);
    let names = [Some(last(&name)), Some(last(&socket)), Some(name), Some(socket), unit, instance];
    let mut names = names.into_iter().flatten();
    names.any(|name| text::matches(pattern.as_bytes(), name.as_bytes(), |_| true))
}

/// Names that several services share are replaced by the paths of their sockets.
fn named(chosen: Vec<Answered>) -> Vec<Chosen> {
    let mut count: HashMap<String, usize> = HashMap::new();
    for one in &chosen {
        *count.entry(name(one)).or_default() += 1;
    }
    let one = |one: Answered| {
        let name = Some(name(&one)).filter(|name| count[name] == 1);
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

fn summary_json(names: &[&str], done: usize) -> serde_json::Value {
    serde_json::json!({
        "event": "summary",
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
        Answered { found, status: Err("no answer".to_owned()) }
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
            ("shop", false),
            ("*shop*", true),
            ("", false),
        ] {
            assert_eq!(matches(pattern, &shop), expected, "{pattern}");
        }
        assert!(!matches("psflip@*", &answered("/run/a.sock", None)));
    }

    #[test]
    fn services_with_the_same_name_are_told_apart_by_their_sockets() {
        let names: Vec<String> = named(vec![answered("/a/x.sock", None), answered("/b/x.sock", None)])
            .into_iter()
            .map(|one| one.name)
            .collect();
        assert_eq!(names, ["/a/x.sock", "/b/x.sock"]);
    }

    #[test]
    fn the_summary_names_every_service() {
        // Contract: O6
        assert_eq!(summary(&["a", "b"], 2), "2 of 2 services upgraded\n");
        let text = "1 of 3 services upgraded\nstopped at    b\nnot upgraded  c\n";
        assert_eq!(summary(&["a", "b", "c"], 1), text);
        assert_eq!(
            summary_json(&["a", "b", "c"], 1),
            serde_json::json!({"event": "summary", "upgraded": ["a"], "stopped_at": "b", "not_upgraded": ["c"]})
        );
        assert_eq!(
            summary_json(&["a"], 1),
            serde_json::json!({"event": "summary", "upgraded": ["a"], "stopped_at": null, "not_upgraded": []})
        );
    }
}
