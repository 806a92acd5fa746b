//! The environment of a child, and the variables by which generations and the anchor find each other.

use std::collections::HashMap;
use std::ffi::{CStr, CString, OsStr};
use std::os::unix::ffi::OsStrExt;

use crate::config::EnvChange;

/// The environment for a child: what psflip was started with, without the variables that are meant for
/// psflip, plus `env_file`, `env_dir` and `[env]`, plus what psflip adds (contract C1, C3).
#[must_use]
pub fn child_environment<'a>(
    inherited: &[CString],
    changes: impl IntoIterator<Item = &'a EnvChange>,
    added: &[(&str, &str)],
) -> Vec<CString> {
    let inherited: Vec<CString> =
        inherited.iter().filter(|entry| !is_for_psflip(name_of(entry))).cloned().collect();
    let changes = changes.into_iter().map(|change| match change {
        EnvChange::Set(name, value) => (name.as_str(), Some(value.as_str())),
        EnvChange::Remove(name) => (name.as_str(), None),
    });
    let added = added.iter().map(|(name, value)| (*name, Some(*value)));
    set_variables(inherited, changes.chain(added))
}

/// Applies [`set_variable`] to each of these in turn, in time linear in their number.
fn set_variables<'a>(
    envp: Vec<CString>,
    changes: impl Iterator<Item = (&'a str, Option<&'a str>)>,
) -> Vec<CString> {
    // A name may occur more than once (environ(7) does not forbid it). Setting replaces its
    // first entry, removing removes all.
    let mut places: HashMap<Vec<u8>, Vec<usize>> = HashMap::new();
    let mut entries: Vec<Option<CString>> = envp.into_iter().map(Some).collect();
    for (place, entry) in entries.iter().enumerate() {
        if let Some(entry) = entry {
            places.entry(name_of(entry).to_vec()).or_default().push(place);
        }
    }
    for (name, value) in changes {
        let known = places.entry(name.as_bytes().to_vec()).or_default();
        match value.and_then(|value| CString::new(format!("{name}={value}")).ok()) {
            Some(entry) => match known.first() {
                Some(place) => entries[*place] = Some(entry),
                None => {
                    known.push(entries.len());
                    entries.push(Some(entry));
                }
            },
            None => known.drain(..).for_each(|place| entries[place] = None),
        }
    }
    entries.into_iter().flatten().collect()
}

/// The variable by which a successor finds its predecessor. It is never passed on to a child.
pub const HANDOVER_VARIABLE: &str = "PSFLIP_HANDOVER";

/// The variable by which a successor finds the anchor. It is never passed on to a child.
pub const ANCHOR_VARIABLE: &str = "PSFLIP_ANCHOR";

/// The variable that holds the state of an anchor that executes psflip again. No other process gets it.
pub const ANCHOR_STATE_VARIABLE: &str = "PSFLIP_ANCHOR_STATE";

/// Variables by which a service manager, or a predecessor, communicates with psflip itself (sd_notify(3),
/// sd_listen_fds(3), sd_watchdog_enabled(3)). A child that used them would answer in psflip's place.
fn is_for_psflip(name: &[u8]) -> bool {
    const NAMES: &[&str] = &[
        HANDOVER_VARIABLE,
        ANCHOR_VARIABLE,
        ANCHOR_STATE_VARIABLE,
        "NOTIFY_SOCKET",
        "WATCHDOG_PID",
        "WATCHDOG_USEC",
        "FDSTORE",
        "LISTEN_PID",
        "LISTEN_FDS",
        "LISTEN_FDNAMES",
        "LISTEN_PIDFDID",
    ];
    NAMES.iter().any(|known| known.as_bytes() == name)
}

/// Whether this is the variable `name`, with or without a value.
fn is_named(entry: &CStr, name: &str) -> bool {
    let rest = entry.to_bytes().strip_prefix(name.as_bytes());
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"="))
}

fn name_of(entry: &CStr) -> &[u8] {
    let bytes = entry.to_bytes();
    bytes.iter().position(|byte| *byte == b'=').map_or(bytes, |end| &bytes[..end])
}

/// The value of a variable.
#[must_use]
pub fn variable<'a>(envp: &'a [CString], name: &str) -> Option<&'a OsStr> {
    let entry = envp.iter().find(|entry| is_named(entry, name))?;
    entry.to_bytes().get(name.len() + 1..).map(OsStr::from_bytes)
}

/// Sets, replaces in place, or removes a variable.
pub fn set_variable(envp: &mut Vec<CString>, name: &str, value: Option<&str>) {
    let place = envp.iter().position(|entry| is_named(entry, name));
    let entry = value.and_then(|value| CString::new(format!("{name}={value}")).ok());
    match (place, entry) {
        (Some(place), Some(entry)) => envp[place] = entry,
        (None, Some(entry)) => envp.push(entry),
        (_, None) => envp.retain(|entry| !is_named(entry, name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(list: &[&str]) -> Vec<CString> {
        list.iter().map(|text| CString::new(*text).unwrap()).collect()
    }

    #[test]
    fn the_child_gets_psflips_environment_plus_configured_variables() {
        // Contract: C1, C3
        let inherited = strings(&[
            "A=1",
            "odd",
            "A=2",
            "NOTIFY_SOCKET=/x",
            "LISTEN_FDS=1",
            "WATCHDOG_USEC=5",
            "PSFLIP_HANDOVER=7",
            "PSFLIP_ANCHOR=8",
            "PSFLIP_ANCHOR_STATE=x",
            "B=3",
        ]);
        let changes = [
            EnvChange::Set("B".into(), "new".into()),
            EnvChange::Remove("C".into()),
            EnvChange::Set("D".into(), "".into()),
        ];
        let got = child_environment(&inherited, &changes, &[("PSFLIP_SLOT", "a")]);
        assert_eq!(got, strings(&["A=1", "odd", "A=2", "B=new", "D=", "PSFLIP_SLOT=a"]));
    }

    #[test]
    fn removing_a_variable_removes_every_copy_of_it() {
        let got = child_environment(&strings(&["A=1", "AB=2", "A=3"]), &[EnvChange::Remove("A".into())], &[]);
        assert_eq!(got, strings(&["AB=2"]));
    }

    #[test]
    fn changes_are_made_in_their_order() {
        let changes = [
            EnvChange::Remove("A".into()),
            EnvChange::Set("N".into(), "1".into()),
            EnvChange::Set("A".into(), "2".into()),
            EnvChange::Set("N".into(), "3".into()),
        ];
        let got = child_environment(&strings(&["A=1", "odd", "A=3"]), &changes, &[("odd", "x")]);
        assert_eq!(got, strings(&["odd=x", "N=3", "A=2"]));
    }

    #[test]
    fn an_environment_of_many_variables_takes_a_time_that_is_linear_in_their_number() {
        // Contract: X2
        use nix::time::{ClockId, clock_gettime};
        let cpu = || std::time::Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let changes: Vec<EnvChange> =
            (0..80_000).map(|number| EnvChange::Set(format!("V{number}"), "x".to_owned())).collect();
        let begin = cpu();
        assert_eq!(child_environment(&[], &changes, &[]).len(), 80_000);
        let took = cpu() - begin;
        // It takes about 0.1 s without optimization. Comparing the variables one by one would take minutes.
        assert!(took < std::time::Duration::from_secs(10), "{took:?}");
    }
}
