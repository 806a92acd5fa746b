//! psflip names missing kernel features before it starts anything (C6).

use testkit::{Sandbox, Stream, psflip_bin};

use super::AT_ONCE;
use crate::service::{can_trace, psflip};

#[test]
fn a_missing_system_call_is_named_at_the_start() {
    // Contract: C6
    for error in ["ENOSYS", "EPERM"] {
        let sandbox = Sandbox::new();
        if !can_trace(&sandbox) {
            return;
        }
        let inject = format!("inject=pidfd_open:error={error}");
        let strace = ["strace", "-D", "-qq", "-o", "/dev/null", "-e", "trace=pidfd_open", "-e", &inject];
        let started = psflip(&sandbox, &["/bin/sh", "-c", "echo started"], AT_ONCE).wrapper(strace).start();
        assert_eq!(started.wait_exit().code(), Some(125), "{}", sandbox.report());
        started.wait_for_line(Stream::Stderr, "does not provide pidfd_open: ");
        assert!(!started.program().stdout().contains("started"));
        let watch = [
            psflip_bin().display().to_string(),
            "watch".into(),
            "--pidfile=x".into(),
            "--".into(),
            "true".into(),
        ];
        let watch = sandbox.command(watch).wrapper(strace).start();
        assert_eq!(watch.wait_exit().code(), Some(125), "{}", sandbox.report());
    }
}

#[test]
fn descriptors_are_closed_also_by_a_kernel_without_close_range() {
    // Contract: C3
    let sandbox = Sandbox::new();
    if !can_trace(&sandbox) {
        return;
    }
    let strace = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", "trace=close_range"];
    let inject = ["-e", "inject=close_range:error=ENOSYS"];
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let psflip = psflip(&sandbox, &["/bin/sleep", "1000"], AT_ONCE).inherit_fd(writer, 9);
    let psflip = psflip.wrapper(strace).wrapper(inject).start().wait_ready();
    let keeper = psflip.child().parent().unwrap();
    testkit::wait_until(testkit::Deadline::default(), "the keeper to have three descriptors", || {
        (keeper.open_fds().unwrap().len() == 3).then_some(())
    });
    psflip.stop();
}
