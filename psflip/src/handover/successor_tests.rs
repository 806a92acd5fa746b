//! What a successor may send, and the reasons of failures.

use super::*;

fn link() -> SuccessorLink {
    let (socket, _) = Socket::pair().unwrap();
    SuccessorLink {
        socket,
        process: None,
        deadline: Duration::ZERO,
        grace: GRACE,
        bake: None,
        failure: None,
        unacknowledged: false,
        sent: Sent::default(),
        client: None,
        exclusive: false,
    }
}

#[test]
fn a_stop_is_the_reason_for_a_missing_acknowledgement() {
    // Contract: F11
    for (before, wanted) in [(None, STOPPED), (Some("it was late"), "it was late")] {
        let mut link = link();
        link.failure = before.map(str::to_owned);
        link.give_up_unacknowledged("broken pipe".to_owned());
        assert_eq!(link.failure(), Some(before.unwrap_or("broken pipe")));
        assert_eq!(link.on_message(ToPredecessor::Stop, vec![]), FromSuccessor::Stop);
        assert_eq!(link.failure(), Some(wanted));
    }
}

#[test]
fn no_child_is_reported_before_its_turn() {
    // Contract: E2
    let starting = ToPredecessor::Starting {
        version: "9".to_owned(),
        deadline: Duration::from_secs(1),
        grace: Duration::from_secs(1),
    };
    let deadline = Duration::from_secs(7);
    for exclusive in [false, true] {
        let mut link = SuccessorLink { exclusive, ..link() };
        link.on_message(starting.clone(), vec![]);
        if !exclusive {
            let prepared = ToPredecessor::Prepared { deadline };
            assert_eq!(link.on_message(prepared, vec![]), FromSuccessor::Prepared);
            assert_eq!(link.deadline(), deadline);
        }
        assert_eq!(link.on_message(ToPredecessor::Ready, vec![]), FromSuccessor::Misbehaved);
    }
    let (ours, _theirs) = Socket::pair().unwrap();
    let mut link = SuccessorLink { socket: ours, exclusive: true, ..link() };
    link.on_message(starting, vec![]);
    link.on_message(ToPredecessor::Prepared { deadline }, vec![]);
    let (lease, _) = Socket::pair().unwrap();
    link.grant_turn(None, &lease).unwrap();
    assert_eq!(link.on_message(ToPredecessor::Ready, vec![]), FromSuccessor::Ready);
    assert_eq!(link.on_message(ToPredecessor::Prepared { deadline }, vec![]), FromSuccessor::Misbehaved);
}

#[test]
fn a_successor_that_does_not_accept_is_not_awaited_for_its_whole_bake() {
    // Contract: B1, F5
    let (hour, then) = (Duration::from_secs(3600), Duration::from_secs(15));
    let mut link = link();
    link.sent.starting = true;
    let baking = ToPredecessor::Baking { bake: hour, deadline: then, grace: GRACE };
    assert_eq!(link.on_message(baking, vec![]), FromSuccessor::Baking);
    assert_eq!(link.deadline_in_bake(), then);
    let mut progress = |step| {
        link.on_message(ToPredecessor::Progress { step, child: None, probe: None, left: None }, vec![]);
        (link.deadline_in_bake(), link.bakes_until().unwrap())
    };
    assert_eq!(progress(UpgradeStep::Healthy).0, then);
    let (deadline, until) = progress(UpgradeStep::Baking);
    assert!(deadline > hour, "{deadline:?}");
    assert_eq!(progress(UpgradeStep::Baking).1, until, "only the first report counts");
}

#[test]
fn an_exit_code_is_reported_once() {
    // Contract: V1
    let reason_with_code = |reason: &str, code, child_code| {
        let mut link = link();
        let failed = ToPredecessor::Failed { code, child_code, reason: reason.to_owned() };
        assert_eq!(link.on_message(failed, vec![]), FromSuccessor::Failed);
        link.failure().unwrap().to_owned()
    };
    let (three, zero) = ("the child ended: exit code 3; last probe: no", "the child ended: exit code 0");
    assert_eq!(reason_with_code(three, 3, Some(3)), three);
    assert_eq!(reason_with_code(zero, 1, Some(0)), format!("{zero} (exit code 1)"));
    assert_eq!(reason_with_code("broken", 78, None), "broken (exit code 78)");
    // Only the key counts, not the text: this version does not send the key.
    assert_eq!(reason_with_code(three, 3, None), format!("{three} (exit code 3)"));
}
