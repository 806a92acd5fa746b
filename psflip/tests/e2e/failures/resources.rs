//! System calls fail during an upgrade: no descriptors, no processes, no memory, no space (F10). The old
//! child keeps serving, nothing leaks, and the next upgrade works.

use std::fmt::Write as _;

use testkit::{Deadline, Process, Sandbox, Stream, wait_until};

use crate::service::{AT_ONCE, Service, psflip, stop};

/// Sets a soft limit of a running process with prlimit(1), as the user of that process.
fn limit(sandbox: &Sandbox, process: Process, user: &str, limit: &str) {
    let (pid, reuid, regid) =
        (process.pid().to_string(), format!("--reuid={user}"), format!("--regid={user}"));
    let prlimit = ["prlimit", "--pid", &pid, limit];
    let as_user = ["setpriv", &reuid, &regid, "--clear-groups", "--"];
    let argv: Vec<_> = if user.is_empty() { prlimit.to_vec() } else { [&as_user[..], &prlimit].concat() };
    let running = sandbox.command(argv).start();
    let status = running.wait_exit();
    assert!(status.success(), "prlimit {limit}: {status}: {}", running.stderr());
}

#[test]
fn an_upgrade_without_descriptors_fails_and_keeps_the_old_generation() {
    // Contract: F10, U8
    let service = Service::start();
    service.configure_well();
    let (psflip, old) = (&service.psflip, service.psflip.active());
    let before = old.open_fds().unwrap();
    let highest = *before.keys().last().unwrap() as u64;
    let mut failed = 0;
    for nofile in 4..=highest + 12 {
        limit(&service.sandbox, old, "", &format!("--nofile={nofile}:"));
        let mark = psflip.output().mark();
        psflip.request_flip();
        let line = psflip.output().wait_for(Deadline::default(), "the upgrade to finish", |lines| {
            let new = lines.iter().skip(mark);
            new.into_iter()
                .find(|line| {
                    line.text.contains("upgrade failed") || line.text.contains("new generation took over")
                })
                .cloned()
        });
        if line.text.contains("new generation took over") {
            break;
        }
        failed += 1;
        assert!(line.text.contains("reason="), "{line}");
        assert_eq!(psflip.active(), old, "with {nofile} descriptors\n{}", service.sandbox.report());
        wait_until(Deadline::default(), "no additional descriptor to be open", || {
            (old.open_fds().unwrap() == before).then_some(())
        });
    }
    assert!(failed > 3, "{}", service.sandbox.report());
    if old.is_alive() {
        psflip.wait_gone(old);
    }
    limit(&service.sandbox, psflip.active(), "", "--nofile=1024:");
    service.succeeds_and_ends();
}

#[test]
fn an_upgrade_that_can_not_fork_fails_and_keeps_the_old_generation() {
    // Contract: F10, U8
    if !testkit::need_root() {
        return; // no test user without other processes
    }
    let sandbox = Sandbox::new();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(sandbox.dir(), open).unwrap();
    // A user that has no other processes.
    let user = (1_000_000 + std::process::id()).to_string();
    let ids = [format!("--reuid={user}"), format!("--regid={user}")];
    let wrapper = ["setpriv", &ids[0], &ids[1], "--clear-groups", "--"];
    let psflip = psflip(&sandbox, &["never-ready"], AT_ONCE).wrapper(wrapper).start().wait_ready();
    let (old, child) = (psflip.active(), psflip.child());
    for nproc in 3..=5 {
        limit(&sandbox, old, &user, &format!("--nproc={nproc}:"));
        let mark = psflip.output().mark();
        psflip.request_flip();
        let line = psflip.output().wait_after(mark, Stream::Stderr, "upgrade failed");
        assert!(line.text.contains("Resource temporarily unavailable"), "with {nproc} processes: {line}");
        wait_until(Deadline::default(), "no process of the new generation to be left", || {
            (sandbox.processes().len() == 3).then_some(())
        });
        assert_eq!((psflip.active(), psflip.child()), (old, child), "{}", sandbox.report());
    }
    sandbox.assert_zombie_free();
    limit(&sandbox, old, &user, "--nproc=100:");
    psflip.flip();
    stop(&psflip);
}

/// Makes system calls of the running psflip fail during one upgrade, with strace(1). `follow`: also those of
/// all processes that it starts. Returns the log line with the outcome of the upgrade.
fn inject(service: &Service, follow: bool, fault: &str) -> String {
    let old = service.psflip.active();
    let (pid, expression) = (old.pid().to_string(), format!("inject={fault}"));
    let mut argv = vec!["strace", "-o", "/dev/null", "-p", &pid, "-e", &expression];
    if follow {
        argv.push("-f");
    }
    let strace = service.sandbox.command(argv).start();
    strace.output().wait(Stream::Stderr, "attached");
    let mark = service.psflip.output().mark();
    service.psflip.request_flip();
    let line = service.psflip.output().wait_for(Deadline::default(), "the upgrade to finish", |lines| {
        let new = lines.iter().skip(mark);
        new.into_iter()
            .find(|line| {
                line.text.contains("upgrade failed") || line.text.contains("new generation took over")
            })
            .cloned()
    });
    strace.signal(testkit::Signal::SIGINT); // strace detaches from all processes
    strace.wait_exit();
    if line.text.contains("new generation took over") {
        service.psflip.wait_gone(old);
    }
    line.text
}

#[test]
fn system_calls_that_fail_during_an_upgrade_fail_the_upgrade_only() {
    // Contract: F10, U8
    let service = Service::start();
    if testkit::need("strace").is_none() {
        return;
    }
    let (old, child) = (service.psflip.active(), service.psflip.child());
    service.configure(&["never-ready"], AT_ONCE);
    let of_old = [
        "clone,clone3,fork,vfork:error=EAGAIN",
        "socketpair:error=EMFILE",
        "pidfd_open:error=EMFILE",
        "sendmsg:error=ENOBUFS",
        "epoll_ctl:error=ENOMEM",
        "prctl:error=EINVAL",
    ];
    let of_all = [
        "execve:error=ENOMEM",
        "clone,clone3,fork,vfork:error=EAGAIN:when=1",
        "epoll_create1:error=EMFILE",
        "signalfd4:error=EMFILE",
        "timerfd_create:error=ENFILE",
        "flock:error=ENOLCK",
        "rename,renameat,renameat2:error=ENOSPC",
        "socketpair:error=EMFILE",
        "openat:error=EMFILE",
        "mmap:error=ENOMEM",
    ];
    let mut wrong = String::new();
    for (follow, fault) in
        of_old.map(|fault| (false, fault)).into_iter().chain(of_all.map(|fault| (true, fault)))
    {
        let line = inject(&service, follow, fault);
        if !line.contains("upgrade failed; the old child keeps running") || !line.contains("reason=") {
            let _ = writeln!(wrong, "{fault}: {line}");
        }
        service.wait_alone(old, child);
    }
    assert!(wrong.is_empty(), "{wrong}{}", service.sandbox.report());
    service.sandbox.assert_zombie_free();
    service.succeeds_and_ends();
}

#[test]
fn a_keepers_message_is_received_later_if_memory_is_short() {
    // Contract: F10
    let service = Service::start();
    if testkit::need("strace").is_none() {
        return;
    }
    let (psflip, child) = (service.psflip.active(), service.psflip.child());
    let pid = psflip.pid().to_string();
    let fault = "inject=recvmsg:error=ENOMEM:when=1..3";
    let strace = service.sandbox.command(["strace", "-p", &pid, "-e", "trace=recvmsg", "-e", fault]).start();
    strace.output().wait(Stream::Stderr, "attached");
    child.signal(testkit::Signal::SIGSTOP).unwrap(); // the keeper reports it
    strace.output().wait_count(3, Stream::Stderr, "(INJECTED)");
    child.signal(testkit::Signal::SIGCONT).unwrap();
    strace.signal(testkit::Signal::SIGINT);
    strace.wait_exit();
    service.wait_alone(psflip, child);
    service.succeeds_and_ends();
}
