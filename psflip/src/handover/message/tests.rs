//! The messages on the wire, and packets that are none.

use super::*;
use crate::history::{Counts, Outcome, UpgradeStep};
use crate::sys::socket::LONGEST;
use proptest::prelude::*;

fn hello() -> Hello {
    Hello {
        protocol: 2,
        oldest: 1,
        version: "0.1.0".to_owned(),
        pid: 4711,
        generation: 7,
        slot: Slot::A,
        signals: SignalSetup { mask: SignalSet::from_bits(0), ignored: SignalSet::from_bits(1) },
        pidfile: Some("/run/app.pid".to_owned()),
        listeners: 1,
        control: true,
        relay: true,
        relay_back: true,
        bakes: true,
        keeper: true,
        loggers: 1,
        exclusive: true,
        hold: Some(Hold { since: 1_795_000_000_000, max_ms: 30_000 }),
        records: 1,
        older: 1,
        upgrade: Begun {
            number: 8,
            at: 1_795_000_000_000,
            clock: 86_400_000,
            by: "SIGHUP from pid 12 (root)".to_owned(),
            counts: Some(Counts { promoted: 4, failed: 2, rolled_back: 1 }),
        },
        activated: true,
        config: Some("26 4711 80 1795000000 0".to_owned()),
    }
}

fn record() -> Record {
    let mut record =
        Record { upgrade: 7, from: Some(6), to: 7, began_at: 1_795_000_000_000, ..Record::default() };
    record.step(UpgradeStep::Started, 0);
    record.step(UpgradeStep::Child, 12);
    record.probe_failed("connection refused");
    record.end(Outcome::Promoted, None, 500);
    record.drain(Drain::Signalled, 501);
    record
}

/// The wire format: a change here changes the protocol.
#[test]
fn the_wire() {
    // Contract: V1
    let by = || Some("SIGHUP from pid 12 (root)".to_owned());
    let to_successor = [
        ToSuccessor::Hello(hello()),
        ToSuccessor::Listener {
            address: "unix:///run/app.sock".to_owned(),
            file: Some(FileId { device: 26, inode: 4711 }),
        },
        ToSuccessor::Listener { address: "tcp://0.0.0.0:80".to_owned(), file: None },
        ToSuccessor::Control {
            address: "unix:///run/app.pid.sock".to_owned(),
            file: Some(FileId { device: 26, inode: 4712 }),
        },
        ToSuccessor::Record(Box::new(record())),
        ToSuccessor::Relay,
        ToSuccessor::RelayBack,
        ToSuccessor::Traffic,
        ToSuccessor::Keep,
        ToSuccessor::Signal(Received { signal: Signal::HUP, code: -1, pid: 12, uid: 0, value: 7 }),
        ToSuccessor::Keeper,
        ToSuccessor::Logger { target: "pipe:svlogd -tt /var/log/app".to_owned() },
        ToSuccessor::Start { waiting_since: Some(86_400_100) },
        ToSuccessor::Start { waiting_since: None },
        ToSuccessor::Acknowledge {
            upgrade_queued: true,
            by: by(),
            hold: Some(Hold { since: 1_795_000_000_000, max_ms: 1_500 }),
        },
        ToSuccessor::Acknowledge { upgrade_queued: false, by: None, hold: None },
        ToSuccessor::Hold { hold: None },
        ToSuccessor::Abort { reason: None },
        ToSuccessor::Hurry,
        ToSuccessor::Abort { reason: Some("rolled back by pid 12 (root)".to_owned()) },
        ToSuccessor::Upgrade { by: by() },
        ToSuccessor::Main,
        ToSuccessor::Reopen,
        ToSuccessor::Older {
            generation: 5,
            pid: 4700,
            ending: true,
            progress: Some((Drain::Signalled, Duration::from_millis(9_500))),
        },
        ToSuccessor::Older { generation: 5, pid: 4700, ending: false, progress: None },
        ToSuccessor::OlderDraining { generation: 5, step: Drain::Killed, left: Duration::from_secs(10) },
        ToSuccessor::Draining { step: Drain::Signalled, left: Duration::from_secs(10) },
        ToSuccessor::Answered { passed_on: 12, waited_for: 3 },
    ];
    let to_predecessor = [
        ToPredecessor::Spawned { pid: 4712 },
        ToPredecessor::Starting {
            version: "0.2.0".to_owned(),
            deadline: Duration::from_secs(80),
            grace: Duration::from_millis(25_500),
        },
        ToPredecessor::Prepared { deadline: Duration::from_secs(90) },
        ToPredecessor::Extended { deadline: Duration::from_secs(120) },
        ToPredecessor::Warning { text: "nobody asks the child".to_owned() },
        ToPredecessor::Progress { step: UpgradeStep::Child, child: Some(4713), probe: None, left: None },
        ToPredecessor::Progress {
            step: UpgradeStep::Settling,
            child: Some(4713),
            probe: None,
            left: Some(Duration::from_millis(1500)),
        },
        ToPredecessor::Progress {
            step: UpgradeStep::Probe,
            child: Some(4713),
            probe: Some("connection refused".to_owned()),
            left: None,
        },
        ToPredecessor::Baking {
            bake: Duration::from_secs(120),
            deadline: Duration::from_secs(15),
            grace: Duration::from_millis(55_500),
        },
        ToPredecessor::Returned { reason: "the health check failed".to_owned() },
        ToPredecessor::Ready,
        ToPredecessor::Failed { code: 78, child_code: None, reason: "two\nlines and a \\".to_owned() },
        ToPredecessor::Failed {
            code: 1,
            child_code: Some(0),
            reason: "the child ended: exit code 0".to_owned(),
        },
        ToPredecessor::Upgrade { by: by() },
        ToPredecessor::Resume,
        ToPredecessor::Stop,
        ToPredecessor::Reopen,
        ToPredecessor::End,
    ];
    let mut wire = String::new();
    for message in &to_successor {
        wire += &format!("old -> new\n{}\n\n", message.encode());
        assert_eq!(ToSuccessor::decode(message.encode().as_bytes()), Ok(Some(message.clone())));
    }
    for message in &to_predecessor {
        wire += &format!("new -> old\n{}\n\n", message.encode());
        assert_eq!(ToPredecessor::decode(message.encode().as_bytes()), Ok(Some(message.clone())));
    }
    insta::assert_snapshot!("wire", wire);
}

#[test]
fn additions_of_later_versions_are_skipped() {
    // Contract: V1
    assert_eq!(ToSuccessor::decode(b"sing\nsong loud"), Ok(None));
    assert_eq!(ToPredecessor::decode(b"dance"), Ok(None));
    assert_eq!(
        ToSuccessor::decode(b"acknowledge\nfuture 7\nremembered 0"),
        Ok(Some(ToSuccessor::Acknowledge { upgrade_queued: false, by: None, hold: None }))
    );
    // An earlier version does not say who requested it.
    assert_eq!(ToSuccessor::decode(b"upgrade"), Ok(Some(ToSuccessor::Upgrade { by: None })));
    assert_eq!(ToPredecessor::decode(b"upgrade"), Ok(Some(ToPredecessor::Upgrade { by: None })));
    // Nor which exit code of the child its reason names.
    assert_eq!(
        ToPredecessor::decode(b"failed\ncode 3\nreason no"),
        Ok(Some(ToPredecessor::Failed { code: 3, child_code: None, reason: "no".to_owned() }))
    );
}

#[test]
fn a_predecessor_without_bakes_is_known_by_its_hello() {
    // Contract: B10, V1
    let text = ToSuccessor::Hello(hello()).encode();
    let earlier = text.replace("\nbakes 1", "").replace("\nrelay-back 1", "");
    let Ok(Some(ToSuccessor::Hello(read))) = ToSuccessor::decode(earlier.as_bytes()) else {
        panic!("{text}")
    };
    assert_eq!(read, Hello { bakes: false, relay_back: false, ..hello() });
}

#[test]
fn a_predecessor_that_counts_no_upgrades_is_understood() {
    // Contract: O8, V1
    let text = ToSuccessor::Hello(hello()).encode();
    let earlier = text.replace("\npromoted 4", "").replace("\nfailed 2", "").replace("\nrolled-back 1", "");
    let Ok(Some(ToSuccessor::Hello(read))) = ToSuccessor::decode(earlier.as_bytes()) else {
        panic!("{text}")
    };
    assert_eq!(read.upgrade, Begun { counts: None, ..hello().upgrade });
}

#[test]
fn missing_or_invalid_fields_are_named() {
    let error = |packet: &[u8]| ToSuccessor::decode(packet).unwrap_err().to_string();
    assert_eq!(error(b"acknowledge"), "malformed message: no `remembered`");
    assert_eq!(
        error(b"acknowledge\nremembered yes"),
        "malformed message: `remembered yes` is no number in range"
    );
    assert!(error(b"\xff").starts_with("malformed message: invalid utf-8"));
}

#[test]
fn a_too_long_reason_is_truncated() {
    let message = ToPredecessor::Failed { code: 1, child_code: None, reason: "\\ä".repeat(3000) };
    let wire = message.encode();
    assert!(wire.len() <= LONGEST, "{}", wire.len());
    let Ok(Some(ToPredecessor::Failed { reason, .. })) = ToPredecessor::decode(wire.as_bytes()) else {
        panic!()
    };
    assert!(reason.starts_with("\\ä\\ä") && reason.ends_with("..."), "{reason}");
}

#[test]
fn a_too_long_record_drops_its_texts() {
    let mut long = record();
    long.end(Outcome::Failed, Some(&"\"\\".repeat(2000)), 600);
    long.probe_failed(&"\u{1b}".repeat(2000));
    let wire = ToSuccessor::Record(Box::new(long.clone())).encode();
    assert!(wire.len() <= LONGEST, "{}", wire.len());
    let Ok(Some(ToSuccessor::Record(read))) = ToSuccessor::decode(wire.as_bytes()) else { panic!("{wire}") };
    assert_eq!(*read, Record { probe: None, reason: None, ..long });
}

proptest! {
    #[test]
    fn every_reason_round_trips(reason in ".{0,900}") {
        let message = ToPredecessor::Failed { code: 3, child_code: Some(3), reason };
        prop_assert_eq!(ToPredecessor::decode(message.encode().as_bytes()), Ok(Some(message)));
    }

    #[test]
    fn no_packet_causes_a_panic(packet in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = ToSuccessor::decode(&packet);
        let _ = ToPredecessor::decode(&packet);
    }
}
