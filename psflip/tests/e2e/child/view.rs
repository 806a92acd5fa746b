//! The view of the fixture `introspect`, without psflip and under it, in generation 1 and after an upgrade
//! (C4, and so C1 to C3).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;

use testkit::{Sandbox, Session, Signal, Stream, fixture};

/// What the introspector saw, by key. Values that differ from run to run, pids and pipe numbers, are
/// normalized.
type View = BTreeMap<String, String>;

/// The view in the output of a psflip after `number` upgrades.
fn view(text: &str, number: usize) -> View {
    let mut views = text.split_inclusive("\nready pid=").take_while(|part| part.contains("argv[00]="));
    let text = views.nth(number).unwrap_or_else(|| panic!("there is no view {number} in\n{text}"));
    let from = text.find("argv[00]=").unwrap_or_default();
    let facts: View = text[from..]
        .lines()
        .filter_map(|line| line.split_once('='))
        // Lines of other origin: this introspector's readiness, and signals that the old generation received
        // as it stopped.
        .filter(|(key, _)| *key != "ready pid" && !key.starts_with("got "))
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect();
    let pipes = |value: &str| match value.split_once("pipe:[") {
        Some((_, rest)) => format!("pipe{}", rest.split_once(']').map_or("", |(_, flags)| flags)),
        None => value.to_owned(),
    };
    facts.into_iter().map(|(key, value)| (key, pipes(&value))).collect()
}

/// The lines in which the view under psflip differs from the one without, in the format of diff(1).
fn difference(bare: &View, under_psflip: &View) -> String {
    let keys: std::collections::BTreeSet<_> = bare.keys().chain(under_psflip.keys()).collect();
    let mut text = String::new();
    for key in keys {
        let (was, is) = (bare.get(key), under_psflip.get(key));
        if was != is {
            text.extend(was.map(|was| format!("- {key}={was}\n")));
            text.extend(is.map(|is| format!("+ {key}={is}\n")));
        }
    }
    text
}

/// The differences that the contract allows: pid, parent, process group, parent-death signal, and the
/// documented variables at the end.
fn allowed(bare: &View, under_psflip: &View, generation: u64) -> String {
    let slot = if generation % 2 == 1 { "a" } else { "b" };
    let variables = bare.keys().filter(|key| key.starts_with("env[")).count();
    let mut expected = format!("+ env[{variables:03}]=PSFLIP_GENERATION={generation}\n");
    expected.push_str(&format!("+ env[{:03}]=PSFLIP_SLOT={slot}\n", variables + 1));
    expected.push_str("- parent_death_signal=none\n+ parent_death_signal=SIGKILL\n");
    assert_eq!(under_psflip["pgid"], under_psflip["pid"], "it leads a group of its own");
    for key in ["pgid", "pid", "ppid"] {
        let value = |view: &View| view.get(key).cloned().unwrap_or_default();
        expected.push_str(&format!("- {key}={}\n+ {key}={}\n", value(bare), value(under_psflip)));
    }
    expected
}

/// Starts the introspector without psflip and under it, changes both environments in the same way, and
/// compares the views.
macro_rules! assert_same_view {
    ($sandbox:ident, $start:ident => $odd:expr) => {{
        let introspect = [fixture("introspect").display().to_string(), "--hold".to_owned()];
        let $start = $sandbox.command(&introspect).session(Session::Inherit);
        let bare = $odd.start();
        bare.output().wait(Stream::Stdout, "ready pid=");
        let $start = $sandbox.psflip().cmd(&introspect).session(Session::Inherit);
        let $start = $start.config("[healthcheck.alive]\ntimeout = \"0s\"\n");
        let psflip = $odd.start().wait_ready();
        psflip.output().wait(Stream::Stdout, "ready pid=");
        for flips in 1..=2 {
            psflip.flip();
            psflip.output().wait_count(flips + 1, Stream::Stdout, "ready pid=");
        }
        let bare = view(&bare.stdout(), 0);
        for generation in 1..=3 {
            let seen = view(&psflip.program().stdout(), generation - 1);
            let (got, expected) = (difference(&bare, &seen), allowed(&bare, &seen, generation as u64));
            assert_eq!(got, expected, "generation {generation} sees this:\n{got}\n{}", $sandbox.report());
        }
    }};
}

#[test]
fn the_child_sees_what_it_would_see_without_psflip() {
    // Contract: C1, C2, C3, C4
    let sandbox = Sandbox::new();
    assert_same_view!(sandbox, start => start);
}

#[test]
fn limits_umask_nice_level_and_affinity_reach_the_child() {
    // Contract: C1, C4
    let sandbox = Sandbox::new();
    fs::create_dir(sandbox.path("elsewhere")).unwrap();
    assert_same_view!(sandbox, start => start
        .umask(0o027)
        .nice(3)
        .rlimit("nofile", 77)
        .rlimit("core", 0)
        .cwd("elsewhere")
        .wrapper(["taskset", "1", "ionice", "-c", "3"]));
}

#[test]
fn scheduling_and_other_inherited_attributes_reach_the_child() {
    // Contract: C1, C4
    let sandbox = Sandbox::new();
    assert_same_view!(sandbox, start => start
        .wrapper(["chrt", "--batch", "0", "choom", "-n", "500", "--", "setpriv", "--no-new-privs"]));
}

#[test]
fn credentials_reach_the_child() {
    // Contract: C1, C4
    let sandbox = Sandbox::new();
    if !crate::tree::is_root() {
        return;
    }
    fs::set_permissions(sandbox.dir(), fs::Permissions::from_mode(0o777)).unwrap();
    let user = ["setpriv", "--reuid=65534", "--regid=65533", "--groups=4,5", "--bounding-set=-sys_boot"];
    assert_same_view!(sandbox, start => start.wrapper(user));
}

#[test]
fn nohup_stays_in_effect() {
    // Contract: C2
    let sandbox = Sandbox::new();
    assert_same_view!(sandbox, start => start.wrapper(["nohup"]));
}

#[test]
fn ignored_signals_stay_ignored() {
    // Contract: C2
    let sandbox = Sandbox::new();
    // Rust's runtime ignores SIGPIPE, and psflip resets SIGCHLD to its default. The child must get both as
    // psflip inherited them.
    assert_same_view!(sandbox, start => start
        .ignore_signal(Signal::SIGPIPE)
        .ignore_signal(Signal::SIGCHLD)
        .ignore_signal(Signal::SIGUSR1)
        .ignore_signal(Signal::SIGINT)
        .wrapper(["env", "--ignore-signal=RTMIN+5"]));
}

#[test]
fn sigpipe_alone_stays_ignored() {
    // Contract: C2
    let sandbox = Sandbox::new();
    assert_same_view!(sandbox, start => start.ignore_signal(Signal::SIGPIPE));
}

#[test]
fn everything_ignored_stays_ignored() {
    // Contract: C2
    let sandbox = Sandbox::new();
    assert_same_view!(sandbox, start => start.wrapper(["env", "--ignore-signal"]));
}

#[test]
fn blocked_signals_stay_blocked_real_time_ones_too() {
    // Contract: C2
    let sandbox = Sandbox::new();
    assert_same_view!(sandbox, start => start
        .block_signal(Signal::SIGUSR2)
        .block_signal(Signal::SIGHUP)
        .block_signal(Signal::SIGCHLD)
        .wrapper(["env", "--block-signal=RTMIN", "--block-signal=RTMAX-3"]));
}

#[test]
fn everything_blocked_stays_blocked() {
    // Contract: C2
    let sandbox = Sandbox::new();
    assert_same_view!(sandbox, start => start.wrapper(["env", "--block-signal"]));
}

#[test]
fn inherited_descriptors_pass_unchanged_over_upgrades() {
    // Contract: C3
    let sandbox = Sandbox::new();
    for name in ["three", "four", "nine"] {
        sandbox.write(name, "");
    }
    let open = |name| File::options().append(true).open(sandbox.path(name)).unwrap();
    assert_same_view!(sandbox, start => start
        .inherit_fd(open("three"), 3)
        .inherit_fd(open("four"), 4)
        .inherit_fd(open("nine"), 9)
        .inherit_fd(File::open(sandbox.path("three")).unwrap(), 40));
}

#[test]
fn a_closed_stdin_stays_closed() {
    // Contract: C1, C3
    let sandbox = Sandbox::new();
    assert_same_view!(sandbox, start => start.close_fd(0));
}

#[test]
fn a_closed_stderr_stays_closed() {
    // Contract: C1, C3
    let sandbox = Sandbox::new();
    assert_same_view!(sandbox, start => start.close_fd(2));
}

#[test]
fn the_raw_order_of_the_environment_is_kept() {
    // Contract: C1
    let sandbox = Sandbox::new();
    let marker = format!("{}={}", testkit::MARKER, sandbox.id());
    // Not in alphabetical order; an empty value; a value with `=`; bytes that are not UTF-8; two names that
    // differ only in case.
    let odd =
        ["env", "-i", "ZED=1", "A=", &marker, "EQ==x=y", "a=lower", "PATH=/usr/bin:/bin", "\u{e9}=\u{1}"];
    assert_same_view!(sandbox, start => start.wrapper(odd));
}

#[test]
fn the_child_has_a_terminal_as_its_own() {
    // Contract: C1, C4
    let sandbox = Sandbox::new();
    let introspect = [fixture("introspect").display().to_string(), "--hold".to_owned()];
    let bare = sandbox.command(&introspect).pty().start();
    bare.output().wait(Stream::Pty, "ready pid=");
    let psflip = sandbox
        .psflip()
        .cmd(&introspect)
        .pty()
        .config("quiet = true\n[healthcheck.alive]\ntimeout = \"0s\"\n");
    let psflip = psflip.start().wait_ready();
    psflip.output().wait(Stream::Pty, "ready pid=");
    let (bare, first) = (bare.output().text(Stream::Pty), psflip.output().text(Stream::Pty));
    let (bare, mut seen) = (view(&bare, 0), view(&first, 0));
    // The terminal's own number, its session and its foreground group. psflip leads both now.
    for key in ["sid", "tpgid"] {
        let leader = seen.insert(key.to_owned(), bare[key].clone());
        assert_eq!(leader, Some(psflip.first_pid().to_string()), "{key}\n{}", sandbox.report());
    }
    assert_ne!(seen["tty"], "0", "there is no terminal\n{}", sandbox.report());
    for key in ["tty", "fd[000]", "fd[001]", "fd[002]"] {
        let number = |view: &View| view[key].replace(|digit: char| digit.is_ascii_digit(), "");
        assert_eq!(number(&seen), number(&bare), "{}", sandbox.report());
        seen.insert(key.to_owned(), bare[key].clone());
    }
    assert_eq!(difference(&bare, &seen), allowed(&bare, &seen, 1), "{}", sandbox.report());
}
