//! What valid configurations mean: defaults, templates, every kind of health check.

use std::path::PathBuf;
use std::time::Duration;

use super::{plan, read_as};
use crate::config::{EnvChange, Health, HttpTarget, LogFormat, Orphans, Slot};
use crate::signal::Signal;

#[test]
fn the_smallest_configuration_has_the_documented_defaults() {
    let plan = plan("cmd = ['./server']");
    insta::assert_snapshot!(plan, @r#"
    cmd = ["./server"]
    quiet = false

    [upgrade]
    signal = "SIGHUP"
    timeout = "1m"

    [shutdown]
    delay = "0s"
    signal = "SIGTERM"
    timeout = "10s"
    orphans = "kill"

    [healthcheck.alive]
    timeout = "5s"

    [log]
    format = "text"
    level = "info"
    "#);
}

#[test]
fn every_key_reaches_the_plan() {
    let plan = plan(
        r#"
        cmd = ["./server", "--port", "{{ local('port') }}"]
        workdir = "/srv/app"
        pidfile = "/run/app/psflip.pid"
        quiet = true
        upgrade.signal = "usr2"
        upgrade.timeout = "1m30s"
        [locals]
        port = "{{ ab('8080', '8081') }}"
        [env]
        PORT = "{{ local('port') }}"
        DEBUG = false
        [shutdown]
        delay = "500ms"
        signal = "KILL"
        timeout = "0s"
        orphans = "leave"
        [log]
        format = "json"
        level = "warn"
        "#,
    );
    assert_eq!(plan.cmd, ["./server", "--port", "8080"]);
    assert_eq!(plan.workdir, Some(PathBuf::from("/srv/app")));
    assert_eq!(plan.pidfile, Some(PathBuf::from("/run/app/psflip.pid")));
    assert!(plan.quiet);
    let port = EnvChange::Set("PORT".into(), "8080".into());
    assert_eq!(plan.env, [port, EnvChange::Remove("DEBUG".into())], "in the order of the file");
    assert_eq!(
        (plan.upgrade.signal.to_string(), plan.upgrade.timeout),
        ("SIGUSR2".into(), Duration::from_secs(90))
    );
    assert_eq!((plan.shutdown.delay, plan.shutdown.signal), (Duration::from_millis(500), Signal::KILL));
    assert_eq!((plan.shutdown.timeout, plan.shutdown.orphans), (Duration::ZERO, Orphans::Leave));
    assert_eq!((plan.log.format, plan.log.level), (LogFormat::Json, tracing::Level::WARN));
}
