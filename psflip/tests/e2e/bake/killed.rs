//! Each process of a bake is killed or suspended.

use testkit::client::http::HttpClient;
use testkit::{Sandbox, Signal, Stream};

use super::{Baked, CARELESS, LONG, config, staged};
use crate::failures::stage::Stage;
use crate::service::{configure, freeze, kill, thaw};

/// The relay of this psflip.
#[track_caller]
fn relay_of(sandbox: &Sandbox, psflip: testkit::Process) -> testkit::Process {
    testkit::wait_until(testkit::Deadline::default(), format!("the relay of {psflip}"), || {
        let stats = sandbox.processes().into_iter().filter_map(|process| process.stat());
        stats
            .filter(|stat| stat.name == "psflip: relay" && stat.state.is_alive())
            .map(|stat| stat.process)
            .find(|relay| relay.parent() == Some(psflip))
    })
}

#[test]
fn the_new_psflip_is_killed() {
    // Contract: B2, B3, F6
    let service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    kill(bake.new);
    service.serves("gen1");
    service.is_rolled_back(bake);
    let Baked { probe, psflip, sandbox } = service;
    drop(probe.finish());
    psflip.request_flip();
    psflip.wait_for_line(Stream::Stderr, "has the traffic and bakes");
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn the_old_psflip_is_killed() {
    // Contract: B4, F8
    let service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    kill(bake.old);
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "there is nothing to go back to");
    service.psflip.wait_successor(bake.old);
    assert_eq!(service.psflip.active(), bake.new);
    service.serves("gen2");
    assert_eq!(service.psflip.child(), bake.new_child);
    drop(service.probe.finish());
    service.psflip.stop();
    service.sandbox.assert_no_process_left();
}

#[test]
fn the_old_psflip_is_killed_when_the_new_one_has_taken_the_pidfile_after_its_bake() {
    // Contract: B4, F8, P1
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let psflip = staged(&sandbox, "bake = \"50ms\"\n");
    let (old, mark) = (psflip.active(), psflip.output().mark());
    stage.plan(&sandbox, Some(old), "record\npause old Sending acknowledge");
    psflip.request_flip();
    let _paused = stage.wait_pause(&sandbox);
    let new = psflip.active();
    assert_ne!(new, old, "it has taken the pidfile");
    stage.pause_no_more(&sandbox, old);
    kill(old);
    psflip.output().wait_after(mark, Stream::Stderr, "healthy, active");
    assert_eq!(psflip.active(), new);
    let answer = HttpClient::new(sandbox.path("web.sock").as_path()).get("/").unwrap();
    assert_eq!(answer.tag("name").unwrap(), "gen2");
    configure(&sandbox, CARELESS, &config(""));
    psflip.flip();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_pidfile_that_another_psflip_holds_by_then_is_not_taken_from_it() {
    // Contract: P3
    let sandbox = Sandbox::new();
    let stage = Stage::new(&sandbox);
    let psflip = staged(&sandbox, "bake = \"50ms\"\n");
    let old = psflip.active();
    stage.plan(&sandbox, Some(old), "pause old Sending acknowledge");
    psflip.request_flip();
    let _paused = stage.wait_pause(&sandbox);
    // This process holds it as psflip does, as far as others can see.
    let own = format!("{}\n", std::process::id());
    sandbox.write("other.pid", &own);
    let held = std::fs::File::options().write(true).open(sandbox.path("other.pid")).unwrap();
    held.lock().unwrap();
    std::fs::rename(sandbox.path("other.pid"), psflip.pidfile_path()).unwrap();
    stage.no_plan(&sandbox);
    kill(old);
    psflip.wait_for_line(Stream::Stderr, "is running with this pidfile");
    psflip.wait_exit();
    assert_eq!(sandbox.read("psflip.pid"), own);
    drop(held);
    sandbox.assert_no_process_left();
}

#[test]
fn the_old_child_is_killed() {
    // Contract: B4, F7
    let service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    kill(bake.old_child);
    service.psflip.wait_successor(bake.old);
    assert_eq!((service.psflip.active(), service.psflip.child()), (bake.new, bake.new_child));
    service.probe.wait_requests(20);
    let Baked { probe, psflip, sandbox } = service;
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn the_new_relay_is_killed_and_the_bake_goes_on() {
    // Contract: B1, T9
    let service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    let relay = relay_of(&service.sandbox, bake.new);
    kill(relay);
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "the relay is started again");
    service.serves("gen2");
    service.sandbox.write("sick", "");
    service.is_rolled_back(bake);
    service.serves("gen1");
    drop(service.probe.finish());
    service.psflip.stop();
    service.sandbox.assert_no_process_left();
}

#[test]
fn a_new_relay_that_is_lost_twice_ends_the_bake() {
    // Contract: B2, T9
    let service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    let relay = relay_of(&service.sandbox, bake.new);
    kill(relay);
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "the relay is started again");
    service.serves("gen2");
    kill(relay_of(&service.sandbox, bake.new));
    let line = service.is_rolled_back(bake);
    assert!(
        line.text.contains("the relay, which carries the connections of `[[proxy]]`, has exited twice"),
        "{line}"
    );
    service.serves("gen1");
    drop(service.probe.finish());
    service.psflip.stop();
    service.sandbox.assert_no_process_left();
}

#[test]
fn the_old_relay_is_killed_and_another_one_takes_the_traffic_back() {
    // Contract: B3, T9
    let service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    let relay = relay_of(&service.sandbox, bake.old);
    kill(relay);
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "the relay is started again");
    let another = relay_of(&service.sandbox, bake.old);
    service.sandbox.write("sick", "");
    service.is_rolled_back(bake);
    service.serves("gen1");
    assert_eq!(relay_of(&service.sandbox, bake.old), another, "no relay had to be started for that");
    std::fs::remove_file(service.sandbox.path("sick")).unwrap();
    service.goes_on_and_ends();
}

#[test]
fn a_suspended_new_psflip_is_killed_at_a_roll_back() {
    // Contract: B3, F5
    let service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    freeze(bake.new);
    service.serves("gen2");
    let rollback = service.sandbox.command([testkit::psflip_bin()]).args(["rollback"]).start();
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "this generation has the traffic again");
    let status = rollback.wait_exit();
    assert!(status.success(), "{status}");
    service.is_rolled_back(bake);
    service.serves("gen1");
    drop(service.probe.finish());
    service.psflip.stop();
    service.sandbox.assert_no_process_left();
}

#[test]
fn while_the_old_psflip_is_suspended_at_a_roll_back_the_new_child_serves() {
    // Contract: B3, F12
    let service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    freeze(bake.old);
    service.sandbox.write("sick", "");
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "this generation failed");
    service.probe.wait_requests(20);
    service.serves("gen2");
    thaw(bake.old);
    service.serves("gen1");
    service.is_rolled_back(bake);
    std::fs::remove_file(service.sandbox.path("sick")).unwrap();
    service.goes_on_and_ends();
}

#[test]
fn while_the_old_psflip_is_suspended_at_the_end_of_a_bake_the_new_child_serves() {
    // Contract: B3, F12
    let (service, stage) = Baked::start_staged("bake = \"50ms\"\n");
    // The new psflip waits until the old one is suspended.
    stage.plan(&service.sandbox, Some(service.psflip.active()), "pause new Sending ready");
    let bake = service.bake();
    let paused = stage.wait_pause(&service.sandbox);
    freeze(bake.old);
    stage.no_plan(&service.sandbox);
    paused.go_on();
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "this child has the traffic and keeps it");
    service.probe.wait_requests(20);
    service.serves("gen2");
    thaw(bake.old);
    service.psflip.wait_successor(bake.old);
    assert_eq!((service.psflip.active(), service.psflip.child()), (bake.new, bake.new_child));
    service.probe.wait_requests(20);
    let Baked { probe, psflip, sandbox } = service;
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}

#[test]
fn a_new_generation_whose_roll_back_the_old_psflip_does_not_outlive_serves() {
    // Contract: B3, B4, F8
    let service = Baked::start();
    let bake = service.bake();
    service.serves("gen2");
    freeze(bake.old);
    service.sandbox.write("sick", "");
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "this generation failed");
    kill(bake.old);
    service.psflip.output().wait_after(bake.mark, Stream::Stderr, "there is nothing to go back to");
    service.psflip.wait_successor(bake.old);
    assert_eq!((service.psflip.active(), service.psflip.child()), (bake.new, bake.new_child));
    service.serves("gen2");
    // The next upgrade works.
    std::fs::remove_file(service.sandbox.path("sick")).unwrap();
    configure(&service.sandbox, CARELESS, &config(""));
    service.psflip.flip();
    service.serves("gen3");
    drop(service.probe.finish());
    service.psflip.stop();
    service.sandbox.assert_no_process_left();
}

#[test]
fn a_bake_outlives_suspended_processes() {
    // Contract: F12
    let service = Baked::start_with(LONG, "");
    let bake = service.bake();
    service.serves("gen2");
    for process in [bake.old, bake.new, bake.old_child] {
        freeze(process);
        service.serves("gen2");
        thaw(process);
    }
    bake.new.signal(Signal::SIGCONT).unwrap();
    let keep = service.sandbox.command([testkit::psflip_bin()]).args(["keep"]).start();
    assert!(keep.wait_exit().success());
    service.psflip.wait_successor(bake.old);
    service.probe.wait_requests(20);
    let Baked { probe, psflip, sandbox } = service;
    probe.finish().assert_no_failures();
    psflip.stop();
    sandbox.assert_no_process_left();
}
