//! Every system call of an upgrade fails, one by one, with every error of its manual page, in every process
//! that takes part (F10). Either the upgrade succeeds, or the old generation keeps serving unchanged. Then
//! the next upgrade works.

#![expect(clippy::print_stdout, reason = "which fault it was that failed the test, and how many there were")]

use std::collections::BTreeSet;
use std::fmt;
use std::os::unix::process::ExitStatusExt as _;

use nix::errno::Errno;
use testkit::{Deadline, FdSnapshot, Psflip, Sandbox, Signal, Stream, wait_until};

use super::stage::Stage;
use crate::service::stop;

/// Short, since there are hundreds of failures.
const TIMES: &str = "[upgrade]\ntimeout = \"10s\"\n[shutdown]\ntimeout = \"1s\"\n";

/// The errors of each call, from ERRORS of its page in section 2 of the manual. The flag says whether the
/// cause may last (a limit, a full disk), so that all later calls fail, too.
const ERRORS: &[(&str, &[Errno], bool)] = &[
    ("Fork", &[Errno::EAGAIN, Errno::ENOMEM], true),
    ("MemoryFile", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM], true),
    ("Clone", &[Errno::EAGAIN, Errno::ENOMEM], true),
    ("Execve", &[Errno::EACCES, Errno::ENOENT, Errno::ENOMEM, Errno::ETXTBSY], true),
    ("Waitid", &[Errno::EINTR], false),
    ("PidfdOpen", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM], true),
    ("PidfdSendSignal", &[Errno::EPERM, Errno::EAGAIN], false),
    ("SignalChild", &[Errno::EPERM], false),
    ("ParentDeathSignal", &[Errno::EINVAL], false),
    ("ProcessGroup", &[Errno::EPERM], false),
    ("SignalGroup", &[Errno::EPERM], false),
    ("Subreaper", &[Errno::EINVAL], false),
    ("Signalfd", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM], true),
    ("ReadSignal", &[Errno::EINTR], false),
    ("TimerCreate", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM], true),
    ("TimerSet", &[], false), // only if it is no timer
    ("EpollCreate", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM], true),
    ("EpollControl", &[Errno::ENOMEM, Errno::ENOSPC], true),
    ("EpollWait", &[Errno::EINTR], false),
    ("Poll", &[Errno::EINTR, Errno::ENOMEM], false),
    ("Socketpair", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM], true),
    ("Sendmsg", &[Errno::ENOBUFS, Errno::ENOMEM, Errno::EAGAIN, Errno::EINTR], false),
    ("Recvmsg", &[Errno::ENOMEM, Errno::EINTR], false),
    ("OpenConfig", &[Errno::EACCES, Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM], true),
    ("ReadConfig", &[Errno::EIO, Errno::ENOMEM], false),
    ("AccessDirectory", &[Errno::EACCES, Errno::EROFS, Errno::EIO], true),
    ("StatPidfile", &[Errno::EACCES, Errno::ENOMEM, Errno::EIO], true),
    ("OpenPidfile", &[Errno::EACCES, Errno::EMFILE, Errno::ENFILE], true),
    ("CreatePidfile", &[Errno::EACCES, Errno::EMFILE, Errno::ENOSPC, Errno::EDQUOT, Errno::EROFS], true),
    ("Lock", &[Errno::ENOLCK, Errno::EINTR], false),
    ("Chmod", &[Errno::EPERM, Errno::EROFS, Errno::EIO], false),
    ("WritePidfile", &[Errno::ENOSPC, Errno::EDQUOT, Errno::EIO], true),
    ("Rename", &[Errno::ENOSPC, Errno::EACCES, Errno::EROFS, Errno::EDQUOT], true),
    ("Unlink", &[Errno::EACCES, Errno::EROFS, Errno::EBUSY], true),
    ("Chdir", &[Errno::ENOENT, Errno::EACCES, Errno::ENOMEM], false),
    ("Pipe", &[Errno::EMFILE, Errno::ENFILE], false),
    ("Dup", &[Errno::EMFILE], false),
    ("Connect", &[Errno::EAGAIN, Errno::ECONNREFUSED], false),
    ("Socket", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM], false),
    ("Bind", &[Errno::EACCES, Errno::EADDRINUSE, Errno::ENOMEM], false),
    ("Listen", &[Errno::EADDRINUSE], false),
    ("Chown", &[Errno::EPERM, Errno::EROFS], false),
    ("Symlink", &[Errno::EACCES, Errno::ENOSPC, Errno::EROFS], false),
    ("OpenProc", &[Errno::EMFILE, Errno::ENFILE, Errno::ENOMEM], false),
    ("SignalMask", &[Errno::EINVAL], false),
    ("SignalAction", &[Errno::EINVAL], false),
    ("DescriptorFlags", &[], false), // only if it is no descriptor
];

/// One fault.
pub(crate) struct Case {
    pub(crate) role: String,
    pub(crate) call: String,
    /// The number of the call among those of its kind. With a `+`, all later ones fail, too.
    pub(crate) nth: String,
    errno: Errno,
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fail {} {} {} {}", self.role, self.call, self.nth, self.errno as i32)
    }
}

/// All faults for the calls in this trace.
pub(crate) fn cases(trace: &str, is_meant: impl Fn(&str) -> bool) -> Vec<Case> {
    let calls: BTreeSet<(&str, &str, &str)> = trace
        .lines()
        .filter_map(|line| {
            let mut words = line.strip_prefix("call ")?.split(' ');
            Some((words.next()?, words.next()?, words.next()?))
        })
        .filter(|(role, call, _)| is_meant(role) && *call != "WriteLog")
        .collect();
    let mut cases = Vec::new();
    for (role, call, nth) in calls {
        let errors = ERRORS.iter().find(|(known, _, _)| *known == call);
        let (_, errors, lasts) =
            errors.unwrap_or_else(|| panic!("there is no error for `{call}` in this list"));
        for errno in *errors {
            let case =
                |nth: String| Case { role: role.to_owned(), call: call.to_owned(), nth, errno: *errno };
            cases.push(case(nth.to_owned()));
            if *lasts {
                cases.push(case(format!("{nth}+")));
            }
        }
    }
    cases
}

/// Outcomes of the faults of a test.
#[derive(Default)]
struct Tally {
    tried: usize,
    came_to_pass: usize,
    in_vain: usize,
}

impl Tally {
    fn count(&mut self, sandbox: &Sandbox, succeeded: bool) {
        // Empty: the fault did not occur.
        let noted = std::fs::read_to_string(sandbox.path("trace")).unwrap_or_default();
        self.tried += 1;
        self.came_to_pass += usize::from(noted.contains("fault "));
        self.in_vain += usize::from(succeeded);
    }

    /// The number of calls varies a little, since it depends on how often descriptors become ready.
    #[track_caller]
    fn print(&self) {
        let Self { tried, came_to_pass, in_vain } = self;
        println!(
            "{tried} faults tried, {came_to_pass} happened; {in_vain} times it succeeded in spite of them"
        );
        assert!(came_to_pass * 10 >= tried * 8, "only {came_to_pass} of {tried} faults happened");
    }
}

/// Waits for a log line with the error, by its text or with its number.
#[track_caller]
fn wait_reason(psflip: &Psflip, mark: usize, case: &Case) {
    let text = std::io::Error::from(case.errno).to_string();
    let text = text.split(" (os error").next().unwrap_or_default().to_lowercase();
    psflip.output().wait_for(Deadline::default(), &format!("the reason: `{text}`"), |lines| {
        lines[mark..].iter().find(|line| line.text.to_lowercase().contains(&text)).cloned()
    });
}

struct Staged {
    sandbox: Sandbox,
    stage: Stage,
    psflip: Psflip,
    /// Descriptors of a psflip that serves and does nothing else.
    open: FdSnapshot,
    /// How many processes a generation has: psflip, keeper, child, and the relay if there is one.
    processes: usize,
}

impl Staged {
    fn start() -> Self {
        Self::start_with(|_| String::new())
    }

    /// Starts it with more configuration, which may depend on the sandbox's path.
    fn start_with(config: impl Fn(&Sandbox) -> String) -> Self {
        let sandbox = Sandbox::new();
        let stage = Stage::new(&sandbox);
        let config = config(&sandbox);
        let builder = if config.is_empty() {
            stage.psflip(&sandbox, TIMES)
        } else {
            stage.psflip(&sandbox, "").config(format!("{config}{TIMES}"))
        };
        let psflip = builder.start().wait_ready();
        let open = FdSnapshot::of(psflip.active());
        let processes = if config.contains("[[proxy]]") { 4 } else { 3 };
        Self { sandbox, stage, psflip, open, processes }
    }

    /// The trace of an upgrade in which nothing fails.
    fn trace(&self) -> String {
        self.stage.plan(&self.sandbox, Some(self.psflip.active()), "record");
        self.psflip.flip();
        self.stage.no_plan(&self.sandbox);
        self.sandbox.read("trace")
    }

    #[track_caller]
    fn wait_three(&self) {
        wait_until(Deadline::default(), "only one psflip, keeper and child to be left", || {
            (self.sandbox.processes().len() == self.processes).then_some(())
        });
    }

    /// Runs an upgrade with this fault, and one without. Returns whether the first succeeded.
    #[track_caller]
    fn survives(&self, case: &Case) -> bool {
        let Self { sandbox, stage, psflip, open, .. } = self;
        let (old, child) = (psflip.active(), psflip.child());
        open.assert_same_in(old); // it has closed what belonged to its predecessor
        let mark = psflip.output().mark();
        stage.plan(sandbox, Some(old), &case.to_string());
        psflip.request_flip();
        let line = psflip.output().wait_for(Deadline::default(), "the upgrade to finish", |lines| {
            // Lines of earlier generations may arrive only now.
            let its_own = |text: &str| text.contains(&format!("pid={old}}}"));
            let told = |part: &str| {
                lines[mark..].iter().find(|line| its_own(&line.text) && line.text.contains(part)).cloned()
            };
            told("upgrade failed").or_else(|| told("new generation took over"))
        });
        let succeeded = line.text.contains("new generation took over");
        if succeeded {
            let status = psflip.wait_end_of(old);
            assert!(status.success(), "{case}: {status}");
            self.wait_three();
            assert_ne!(psflip.active(), old, "{case}");
        } else {
            assert!(line.text.contains("the old child keeps running"), "{case}: {line}");
            self.wait_three();
            assert!(old.is_alive() && child.is_alive(), "{case}");
            assert_eq!((psflip.active(), psflip.child()), (old, child), "{case}");
            wait_reason(psflip, mark, case);
        }
        open.assert_same_in(psflip.active());
        stage.no_plan(sandbox);
        psflip.flip();
        succeeded
    }
}

/// For each selected process, makes every call fail during an upgrade, one by one.
#[track_caller]
fn each_fault(is_meant: impl Fn(&str, usize) -> bool) {
    let staged = Staged::start();
    let cases = cases(&staged.trace(), |_| true);
    let mut tally = Tally::default();
    let meant = cases.iter().enumerate().filter(|(number, case)| is_meant(&case.role, *number));
    for (_, case) in meant {
        println!("{case}");
        let succeeded = staged.survives(case);
        tally.count(&staged.sandbox, succeeded);
    }
    stop(&staged.psflip);
    assert!(!staged.psflip.pidfile_path().exists());
    staged.sandbox.assert_no_process_left();
    tally.print();
}

#[test]
fn each_call_of_the_old_psflip_may_fail_during_an_upgrade() {
    // Contract: F10, U8
    each_fault(|role, _| role == "old");
}

#[test]
fn each_call_of_the_intermediate_processes_may_fail() {
    // Contract: F10, U8
    each_fault(|role, _| ["intermediate", "coming"].contains(&role));
}

#[test]
fn each_call_of_the_new_psflip_may_fail() {
    // Contract: F10, U8
    each_fault(|role, number| role == "new" && number % 2 == 0);
}

#[test]
fn each_call_of_the_new_psflip_may_fail_part_two() {
    // Contract: F10, U8
    each_fault(|role, number| role == "new" && number % 2 == 1);
}

#[test]
fn each_call_of_the_keepers_and_of_the_child_to_be_may_fail_during_an_upgrade() {
    // Contract: F10, U8
    each_fault(|role, _| ["old-keeper", "new-keeper", "new-child"].contains(&role));
}

/// A configuration that uses every feature: a socket, a symlink, a hook, a directory, a health check by
/// command.
fn everything(sandbox: &Sandbox) -> String {
    sandbox.write("one", "");
    sandbox.write("two", "");
    let dir = sandbox.dir().display();
    format!(
        "workdir = \"{dir}\"\n[[listen]]\naddress = \"{dir}/app.sock\"\n[switch]\nsymlink = {{ path = \"{dir}/current\", \
         to = \"{{{{ ab('{dir}/one', '{dir}/two') }}}}\" }}\n[hooks]\npromote = [\"true\"]\n[healthcheck.command]\ncmd = [\"true\"]\n\
         interval = \"1ms\"\n"
    )
}

/// A proxy. Nobody connects to it.
fn proxied(sandbox: &Sandbox) -> String {
    let dir = sandbox.dir().display();
    format!(
        "[healthcheck.command]\ncmd = [\"true\"]\ninterval = \"1ms\"\n\
         [[proxy]]\nlisten = \"unix://{dir}/web.sock\"\nforward = \"unix://{dir}/{{{{ blue_green() }}}}.sock\"\n"
    )
}

/// Makes each call fail once, with one error, in the roles that are meant.
#[track_caller]
fn each_call_once(staged: &Staged, is_meant: impl Fn(&str) -> bool, check: impl Fn(&Case)) {
    let trace = staged.trace();
    let mut tally = Tally::default();
    let mut last = String::new();
    for case in cases(&trace, is_meant) {
        // The tests above cover the differences between errors.
        let call = format!("{} {} {}", case.role, case.call, case.nth.trim_end_matches('+'));
        if std::mem::replace(&mut last, call.clone()) == call {
            continue;
        }
        println!("{case}");
        let succeeded = staged.survives(&case);
        tally.count(&staged.sandbox, succeeded);
        check(&case);
    }
    tally.print();
}

#[test]
fn each_call_of_a_new_psflip_with_a_proxy_may_fail() {
    // Contract: F10, U8, T9
    let staged = Staged::start_with(proxied);
    each_call_once(
        &staged,
        |role| role == "new",
        |case| {
            let connected = std::os::unix::net::UnixStream::connect(staged.sandbox.path("web.sock"));
            assert!(connected.is_ok(), "{case}: {connected:?}");
        },
    );
    stop(&staged.psflip);
    staged.sandbox.assert_no_process_left();
}

#[test]
fn each_call_of_an_old_psflip_with_a_proxy_may_fail() {
    // Contract: F10, U8, T9
    let staged = Staged::start_with(proxied);
    each_call_once(
        &staged,
        |role| role == "old",
        |case| {
            let connected = std::os::unix::net::UnixStream::connect(staged.sandbox.path("web.sock"));
            assert!(connected.is_ok(), "{case}: {connected:?}");
        },
    );
    stop(&staged.psflip);
    staged.sandbox.assert_no_process_left();
}

#[test]
fn each_call_of_a_new_psflip_with_all_features_may_fail() {
    // Contract: F10, U8, U4
    let staged = Staged::start_with(everything);
    each_call_once(
        &staged,
        |role| role == "new",
        |case| {
            let slot = staged.psflip.child().env("PSFLIP_SLOT").unwrap();
            let link = std::fs::read_link(staged.sandbox.path("current")).unwrap();
            assert_eq!(
                link.ends_with("one"),
                slot == "a",
                "{case}: {} in slot {}",
                link.display(),
                slot.display()
            );
            std::os::unix::net::UnixStream::connect(staged.sandbox.path("app.sock")).unwrap();
        },
    );
    stop(&staged.psflip);
    staged.sandbox.assert_no_process_left();
}

#[test]
fn each_read_of_the_signals_may_fail_during_a_stop() {
    // Contract: F10, F11
    let mut failed = 0;
    for number in 1..=20 {
        let sandbox = Sandbox::new();
        let stage = Stage::new(&sandbox);
        let child = ["/bin/sh", "-c", "trap 'exit 7' TERM; echo up; while :; do sleep 9 & wait; done"];
        let psflip = stage.psflip(&sandbox, TIMES).cmd(child).start().wait_ready();
        psflip.wait_for_line(Stream::Stdout, "up");
        let active = psflip.active();
        let order = Case {
            role: "old".to_owned(),
            call: "ReadSignal".to_owned(),
            nth: number.to_string(),
            errno: Errno::EIO,
        };
        stage.plan(&sandbox, Some(active), &order.to_string());
        active.signal(Signal::SIGTERM).unwrap();
        assert_eq!(psflip.wait_exit().code(), Some(7), "{order}: {}", sandbox.report());
        sandbox.assert_no_process_left();
        // Empty: nothing was recorded.
        let trace = std::fs::read_to_string(sandbox.path("trace")).unwrap_or_default();
        if !trace.contains("fault ") {
            break;
        }
        failed += 1;
    }
    // The request, no more data, and again when the child exits.
    assert!(failed >= 3, "only {failed} reads failed");
}

#[test]
fn the_real_psflip_ignores_fault_plans() {
    // Contract: C3, F10
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    stage.plan(&sandbox, None, "record\nfail new OpenConfig 1+ 13\npause new Before StartChild");
    let psflip = stage.psflip(&sandbox, TIMES).exe(testkit::psflip_bin()).start().wait_ready();
    psflip.flip();
    stop(&psflip);
    assert!(!sandbox.path("trace").exists(), "{}", sandbox.read("trace"));
}

#[test]
fn a_failed_first_start_reports_its_reason_and_leaves_no_process() {
    // Contract: F10, C6, P4
    let first = |orders: &str| {
        let sandbox = Sandbox::new();
        let stage = Stage::new(&sandbox);
        stage.plan(&sandbox, None, orders);
        let psflip = stage.psflip(&sandbox, TIMES).start();
        (sandbox, stage, psflip)
    };
    let (sandbox, _stage, psflip) = first("record");
    let psflip = psflip.wait_ready();
    let trace = sandbox.read("trace");
    stop(&psflip);
    let mut tally = Tally::default();
    for case in cases(&trace, |_| true) {
        println!("{case}");
        let (sandbox, stage, psflip) = first(&case.to_string());
        let ended = wait_until(Deadline::default(), "the pidfile, or psflip to exit", || {
            let ended = psflip.program().try_status();
            (ended.is_some() || psflip.pidfile_path().exists()).then_some(ended)
        });
        tally.count(&sandbox, ended.is_none());
        if let Some(status) = ended {
            assert!([78, 125, 126, 127].map(Some).contains(&status.code()), "{case}: {status}");
            wait_reason(&psflip, 0, &case);
        } else {
            psflip.wait_for_line(Stream::Stderr, "healthy, active");
            stage.no_plan(&sandbox);
            stop(&psflip);
        }
        sandbox.assert_no_process_left();
        let left: Vec<_> =
            std::fs::read_dir(sandbox.dir()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        // `psflip.pid.last` tells `psflip status` why the service went down.
        let is_left = |name: &str| name.contains("psflip.pid") && name != "psflip.pid.last";
        let pidfiles = left.iter().filter(|name| is_left(&name.to_string_lossy())).count();
        assert_eq!(pidfiles, 0, "{case}: {left:?}");
    }
    tally.print();
}

#[test]
fn a_failed_first_start_leaves_no_socket_and_no_symlink() {
    // Contract: F10, C6
    let first = |orders: &str| {
        let sandbox = Sandbox::new();
        let stage = Stage::new(&sandbox);
        stage.plan(&sandbox, None, orders);
        let owner = if crate::tree::is_root() { "owner = \"65534\"\n" } else { "" };
        let config =
            everything(&sandbox).replace("app.sock\"\n", &format!("app.sock\"\nmode = \"0600\"\n{owner}"));
        // A socket file from an earlier run, which psflip replaces.
        drop(std::os::unix::net::UnixListener::bind(sandbox.path("app.sock")).unwrap());
        let psflip = stage.psflip(&sandbox, "").config(format!("{config}{TIMES}")).start();
        (sandbox, stage, psflip)
    };
    let (sandbox, _stage, psflip) = first("record");
    let psflip = psflip.wait_ready();
    let trace = sandbox.read("trace");
    stop(&psflip);
    let about = ["Socket", "Bind", "Listen", "Chmod", "Chown", "Rename", "Symlink", "Dup"];
    let mut tally = Tally::default();
    for case in cases(&trace, |_| true).into_iter().filter(|case| about.contains(&&*case.call)) {
        println!("{case}");
        let (sandbox, stage, psflip) = first(&case.to_string());
        let ended = wait_until(Deadline::default(), "the pidfile, or psflip to exit", || {
            let ended = psflip.program().try_status();
            (ended.is_some() || psflip.pidfile_path().exists()).then_some(ended)
        });
        tally.count(&sandbox, ended.is_none());
        if let Some(status) = ended {
            // If the health check can't be started, no child becomes healthy.
            assert!([124, 125].map(Some).contains(&status.code()), "{case}: {status}");
            wait_reason(&psflip, 0, &case);
            // A symlink that was repointed is restored. There was none before.
            assert!(std::fs::symlink_metadata(sandbox.path("current")).is_err(), "{case}");
        } else {
            psflip.wait_for_line(Stream::Stderr, "healthy, active");
            std::os::unix::net::UnixStream::connect(sandbox.path("app.sock")).unwrap();
            stage.no_plan(&sandbox);
            stop(&psflip);
        }
        sandbox.assert_no_process_left();
        let names = std::fs::read_dir(sandbox.dir()).unwrap().map(|entry| entry.unwrap().file_name());
        let left: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
        assert!(left.is_empty(), "{case}: {left:?}");
        // A file is left only if psflip could not remove it, and then it is stale.
        let stale = ["Socket", "Chmod", "Rename"].contains(&&*case.call) && ended.is_some();
        assert!(stale || !sandbox.path("app.sock").exists(), "{case}");
    }
    tally.print();
}

#[test]
fn a_stop_completes_whatever_call_fails() {
    // Contract: F10, S5, C8
    let stopped = |orders: &str| {
        let sandbox = Sandbox::new();
        let stage = Stage::new(&sandbox);
        let psflip = stage.psflip(&sandbox, TIMES).start().wait_ready();
        psflip.wait_for_line(Stream::Stderr, "healthy, active");
        let active = psflip.active();
        stage.plan(&sandbox, Some(active), orders);
        active.signal(Signal::SIGTERM).unwrap();
        (sandbox, stage, psflip)
    };
    let (sandbox, _stage, psflip) = stopped("record");
    psflip.wait_exit();
    let mut tally = Tally::default();
    for case in cases(&sandbox.read("trace"), |_| true) {
        println!("{case}");
        let (sandbox, stage, psflip) = stopped(&case.to_string());
        if case.role == "old" && case.call == "PidfdSendSignal" && case.nth == "1" {
            // The signal did not reach the child, and the log says so.
            psflip.wait_for_line(Stream::Stderr, "can't forward a signal to the child");
            psflip.active().signal(Signal::SIGTERM).unwrap();
        }
        let status = psflip.wait_exit();
        let relays = status.signal() == Some(15) || status.code() == Some(128 + 15);
        assert!(relays, "{case}: {status}");
        tally.count(&sandbox, true);
        if case.call == "Unlink" {
            psflip.wait_for_line(Stream::Stderr, "can't remove the pidfile");
        } else {
            assert!(!psflip.pidfile_path().exists(), "{case}");
        }
        sandbox.assert_no_process_left();
        drop(stage);
    }
    tally.print();
}

#[test]
fn a_log_that_can_not_be_written_has_no_effect() {
    // Contract: F10, U8
    let Staged { sandbox, stage, psflip, .. } = Staged::start();
    for errno in [Errno::EPIPE, Errno::ENOSPC, Errno::EIO] {
        let old = psflip.active();
        let fault = |role: &str| format!("fail {role} WriteLog 1+ {}\n", errno as i32);
        stage.plan(&sandbox, Some(old), &(fault("old") + &fault("new")));
        psflip.flip();
        wait_until(Deadline::default(), format!("a line of the new psflip to fail with {errno}"), || {
            sandbox.read("trace").contains("fault new WriteLog").then_some(())
        });
        stage.no_plan(&sandbox);
    }
    stop(&psflip);
}
