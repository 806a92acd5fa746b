//! The other side has another version, or is not psflip at all (V1). The messages are in
//! `psflip/src/handover/message.rs`, with a snapshot of the wire format; the doubles are in
//! `tools/doubles`.

mod predecessor;
mod ranges;
mod rogue;

use std::os::unix::fs::symlink;
use std::path::Path;

use testkit::Sandbox;

use crate::service::Service;

/// A service whose psflip may be replaced by a double. The doubles follow the plan of [`plan`].
fn start() -> Service {
    Service::start_as(|builder, sandbox| builder.env("PSFLIP_DOUBLE_PLAN", sandbox.path("plan")))
}

/// The actions of the next double: see `tools/doubles/src`.
fn plan(service: &Service, lines: &str) {
    service.sandbox.write("plan", lines);
}

/// Replaces psflip as an operator does: by a rename.
fn install(service: &Service, program: &Path) {
    let next = service.sandbox.path("bin/next");
    symlink(program, &next).unwrap();
    std::fs::rename(next, service.sandbox.path("bin/psflip")).unwrap();
}

#[test]
fn a_successor_without_a_predecessor_is_an_error() {
    // Contract: V1, C6
    for value in ["99", "0", "x", "-1", "99999999999", ""] {
        let sandbox = Sandbox::new();
        let argv = crate::service::program(&["never-ready"]);
        let psflip = sandbox.psflip().cmd(argv).env("PSFLIP_HANDOVER", value).start();
        assert_eq!(psflip.wait_exit().code(), Some(125), "{}", sandbox.report());
        let log = psflip.log();
        for part in ["PSFLIP_HANDOVER", "no predecessor behind it", "unset it to start anew"] {
            assert!(log.contains(part), "no `{part}` in: {log}");
        }
        assert!(!psflip.pidfile_path().exists());
        assert!(!psflip.output().text(testkit::Stream::Stdout).contains("starting"), "nothing was started");
    }
}
