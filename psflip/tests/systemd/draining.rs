//! Several old generations that drain under systemd (`upgrade.draining`): the main process is the newest one, the
//! end of an older one means nothing, and a stop of the unit ends all of them in time.

use testkit::{Deadline, Process, wait_until};

use crate::rig::{APP, AT_ONCE, NOTIFY, Rig};

/// Reloads, and returns the old main process, which drains.
#[track_caller]
fn reload(rig: &Rig) -> Process {
    let old = rig.wait_main();
    rig.machine.systemctl(["reload", APP]).unwrap();
    wait_until(Deadline::default(), "systemd to know the next psflip", || {
        (rig.wait_main() != old).then_some(())
    });
    assert!(old.is_alive());
    old
}

/// Waits until systemd's status line says this.
#[track_caller]
fn says(rig: &Rig, text: &str) {
    wait_until(Deadline::default(), format!("systemd's status line to say `{text}`"), || {
        rig.machine.property(APP, "StatusText").contains(text).then_some(())
    });
}

#[test]
fn several_old_generations_drain_beside_the_main_process_and_stop_with_the_unit() {
    // Contract: D3, F9, F11
    let Some(rig) = Rig::new() else { return };
    let rest = format!("{AT_ONCE}[upgrade]\ndraining = 2\n[shutdown]\ndelay = \"1h\"\ntimeout = \"5s\"\n");
    rig.configure(&["signal-logger"], &rest);
    rig.install(NOTIFY);
    rig.start();
    let first = reload(&rig);
    says(&rig, "generation 1 still drains");
    let second = reload(&rig);
    says(&rig, "2 old generations still drain, the oldest is 1");
    // One more ends the oldest, and the unit does not notice.
    let third = reload(&rig);
    rig.wait_gone(first);
    says(&rig, "2 old generations still drain, the oldest is 2");
    second.signal(testkit::Signal::SIGKILL).unwrap();
    rig.wait_gone(second);
    says(&rig, "generation 3 still drains");
    rig.assert_state("active/running/success/0");
    assert!(third.is_alive());
    rig.stop_well();
}
