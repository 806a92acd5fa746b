//! The test runner: cargo-nextest if it is installed, otherwise plain `cargo test`.

use std::process::{Command, Stdio};

use crate::repo;

/// Which tests to run.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of them.
    All,
    /// Those inside the crates: no other process, no socket, no waiting.
    Unit,
    /// Of these all but the model checker's, and one end-to-end test a room ([`ONE_A_ROOM`]), built without optimization; with
    /// cargo-nextest only.
    Fast,
    /// Those in the `tests` folders, which start real processes.
    EndToEnd,
    /// Those of `EndToEnd` that pass with a psflip that waits at random places; with cargo-nextest only.
    Shaken,
    /// Those of `EndToEnd` that boot a systemd. They fail if none can be booted.
    Systemd,
}

/// Excludes tests that measure the cost of a start or an upgrade, trace every call, or fill a queue faster
/// than a slow psflip reads it.
const NOT_SHAKEN: &str =
    "not (test(/^cost::/) | test(/^failures::injected::/) | test(a_predecessor_that_sends_endlessly))";

/// One quick test of each room of psflip/tests/e2e: those that say soonest that something is wrong there.
pub(crate) const ONE_A_ROOM: &[&str] = &[
    "anchor::the_anchor_exits_as_its_only_generation_exited",
    "bake::rolled_back::a_failing_health_check_in_the_bake_loses_no_request",
    "changes::a_change_of_files_upgrades_and_a_broken_version_changes_nothing",
    "check::sound_settings_cause_no_warning",
    "child::inherited::no_descriptor_of_psflips_own_reaches_the_child_in_any_generation",
    "configuration::all_errors_of_a_file_are_reported_at_once",
    "control::requests::an_upgrade_is_reported_step_by_step",
    "cost::a_start_and_an_upgrade_make_few_system_calls",
    "examples::every_example_is_run_by_a_test",
    "exclusive::restarted::the_old_child_notices_nothing_of_what_fails_before_it_stops",
    "exit_codes::every_exit_code_of_the_child_is_relayed",
    "failures::matrix::the_new_child_is_killed::at_new_before_take_pidfile",
    "flags::the_command_line_for_users_of_start_server_works",
    "groups::an_old_child_that_signals_its_group_on_exit_affects_no_other_process",
    "health::every_kind_is_healthy_when_the_child_is",
    "hooks::a_promote_hook_that_fails_fails_the_upgrade",
    "listen::activation::activated_sockets_are_passed_by_name_in_every_generation",
    "log::an_upgrade_is_logged_in_eight_lines",
    "systemd::failures::a_failed_first_child_is_reported_with_its_exit_code",
    "migrating::the_basic_example_runs",
    "operations::outage::a_crash_of_the_child_is_logged_as_an_error_and_kept_for_status",
    "output::all_generations_share_one_logger",
    "pidfile::a_second_psflip_is_refused_and_names_the_running_one",
    "proxy::flips::a_kept_connection_outlives_its_generation",
    "quickstart::quick_start_of_gunicorn",
    "raw::a_configuration_may_have_any_name",
    "readme::the_quick_start_works_when_pasted",
    "recycle::a_child_that_needs_too_much_memory_is_replaced",
    "servers::every_example_of_a_server_is_run_by_a_test",
    "signals::every_signal_that_can_be_caught_reaches_the_child_from_its_sender",
    "stop::a_stop_while_serving_is_forwarded_and_the_exit_is_relayed",
    "switch::the_symlink_is_restored_when_the_pidfile_is_refused",
    "terminal::ctrl_z_stops_child_and_psflip_and_fg_continues_both",
    "traffic::inherited::load_fastcgi_on_descriptor_0_loses_none_in_200_upgrades",
    "tree::hidden::a_hidden_tree_is_terminated_with_its_generation",
    "upgrade::drain::the_old_child_gets_the_shutdown_signal_and_no_other",
    "variables::the_child_gets_variables_from_files_which_each_generation_reads_again",
    "watch::follows::the_exit_of_a_daemon_whose_command_has_exited_is_relayed",
];

/// The profile of Cargo.toml for [`Scope::Fast`].
pub(crate) const FAST: &str = "fast";

/// Whether `cargo nextest` can be used.
pub(crate) fn has_nextest() -> bool {
    let mut command = repo::cargo();
    command.args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// How many tests run at once in CI: more than there are cores, because most of them wait for processes and
/// timers for half of their time.
pub(crate) fn ci_jobs() -> Option<u32> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores + cores.div_ceil(2)).ok()
}

/// The command that runs these tests.
///
/// `profile` is one of .config/nextest.toml; `jobs` is how many run at once, by default one per core;
/// `filter` is a part of the tests' names.
pub(crate) fn tests(
    nextest: bool,
    scope: Scope,
    profile: &str,
    jobs: Option<u32>,
    filter: Option<&str>,
) -> Command {
    let mut command = repo::cargo();
    if nextest {
        command.args(["nextest", "run", "--profile", profile]);
    } else {
        // Otherwise the first failure would hide those of the other crates.
        command.args(["test", "--no-fail-fast"]);
    }
    command.arg("--workspace");
    match scope {
        // Without documentation tests, which only `cargo test --doc` runs: the same tests with both runners.
        // `--tests` respects `harness = false` in a manifest: psflip's binary has no main function of Rust's.
        Scope::All => command.args(["--tests"]),
        Scope::Unit => command.args(["--lib", "--bin", "xtask", "--bin", "chaos"]),
        Scope::Fast => {
            let one_a_room: Vec<String> = ONE_A_ROOM.iter().map(|name| format!("test(={name})")).collect();
            let filter = format!("(kind(lib) - test(/(^|::)model::/)) + ({})", one_a_room.join(" + "));
            command
                .args(["--cargo-profile", FAST, "--lib", "--test", "e2e", "-E", &filter])
                .env("TRAFFIC_FLIPS", "10")
        }
        Scope::EndToEnd => command.args(["--test", "*"]),
        Scope::Shaken => command.args(["--test", "*", "-E", NOT_SHAKEN]),
        Scope::Systemd => {
            command.args(["--test", "systemd*"]).env("TESTKIT_REQUIRE", "systemd,newer-systemd")
        }
    };
    match (nextest, jobs) {
        (_, None) => {}
        (true, Some(jobs)) => {
            command.arg(format!("--test-threads={jobs}"));
        }
        (false, Some(jobs)) => {
            command.env("RUST_TEST_THREADS", jobs.to_string());
        }
    }
    if let Some(filter) = filter {
        command.args(["--", filter]);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_room_of_the_end_to_end_tests_has_a_quick_test() {
        let folder = repo::root().join("psflip/tests/e2e");
        let main = std::fs::read_to_string(folder.join("main.rs")).unwrap();
        let rooms = main.lines().filter_map(|line| line.strip_suffix(';')?.rsplit("mod ").next());
        for room in rooms.filter(|room| *room != "service" && main.contains(&format!("mod {room};"))) {
            let is_there = ONE_A_ROOM.iter().any(|name| name.starts_with(&format!("{room}::")));
            assert!(is_there, "no test of `{room}` in ONE_A_ROOM");
        }
        let mut source = String::new();
        for file in repo::files().unwrap().iter().filter(|file| file.path.starts_with("psflip/tests/e2e/")) {
            source += &file.text;
        }
        for name in ONE_A_ROOM.iter().filter(|name| !name.contains("::matrix::")) {
            let test = name.rsplit("::").next().unwrap();
            assert!(source.contains(&format!("fn {test}(")), "{name} does not exist");
        }
    }
}
