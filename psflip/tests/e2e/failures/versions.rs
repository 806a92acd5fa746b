//! Another version on the other side (V1). What is said is in `psflip/src/handover/message.rs`, with a snapshot of the wire.

use testkit::Sandbox;

#[test]
fn a_successor_without_a_predecessor_says_so() {
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
