//! The meaning of valid configurations: defaults, templates, every kind of health check.

use std::path::PathBuf;
use std::time::Duration;

use super::{plan, read_as};
use crate::config::{Endpoint, EnvChange, Health, LogFormat, Orphans, Slot};
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
    format = "auto"
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

#[test]
fn keys_of_a_table_may_be_dotted_or_inline() {
    let table = plan("cmd = ['x']\n[upgrade]\ntimeout = '5s'\n[healthcheck.tcp]\naddress = ':80'");
    assert_eq!(table, plan("cmd = ['x']\nupgrade.timeout = '5s'\nhealthcheck.tcp.address = ':80'"));
    assert_eq!(
        table,
        plan("cmd = ['x']\nupgrade = { timeout = '5s' }\nhealthcheck = { tcp = { address = ':80' } }")
    );
    let crlf =
        "\u{feff}cmd = ['x']\r\n[upgrade]\r\ntimeout = '5s'\r\n[healthcheck.tcp]\r\naddress = ':80'\r\n";
    assert_eq!(table, plan(crlf));
}

#[test]
fn durations_are_whole_numbers_with_units() {
    // Contract: H1, X3
    let texts = [
        ("500ms", 500),
        ("10s", 10_000),
        ("1m30s", 90_000),
        ("1h", 3_600_000),
        ("1d", 86_400_000),
        ("365d", 31_536_000_000),
    ];
    for (text, ms) in texts {
        let plan = plan(&format!("cmd = ['x']\nupgrade.timeout = '{text}'"));
        assert_eq!(plan.upgrade.timeout, Duration::from_millis(ms), "{text}");
    }
}

#[test]
fn zero_durations_are_accepted_where_zero_is_valid() {
    // Contract: X3
    let plan =
        plan("cmd = ['x']\nshutdown = { delay = '0s', timeout = '0s' }\nhealthcheck.alive.timeout = '0s'");
    assert_eq!((plan.shutdown.delay, plan.shutdown.timeout), (Duration::ZERO, Duration::ZERO));
    assert_eq!(plan.health, Health::Alive { timeout: Duration::ZERO });
}

#[test]
fn templates_see_the_generation() {
    let text = "cmd = ['x', \"{{ ab('1', '2') }} {{ blue_green() }} {{ generation() }}\"]";
    assert_eq!(read_as(text, 1, Slot::A).unwrap().cmd[1], "1 blue 1");
    assert_eq!(read_as(text, 2, Slot::B).unwrap().cmd[1], "2 green 2");
    assert_eq!(
        read_as(text, 7, Slot::A).unwrap().cmd[1],
        "1 blue 7",
        "the slot follows promotions, not numbers"
    );
}

#[test]
fn template_functions_return_what_the_reference_says() {
    for (template, expected) in [
        ("{{ env('HOME') }}", "/home/app"),
        ("{{ env('HOME', 'unused') }}", "/home/app"),
        ("{{ env('NOPE', 'default') }}", "default"),
        ("{{ env('EMPTY', 'unused') }}", ""),
        ("{{ env(env('NAME')) }}", "/home/app"),
        ("{% if env('HOME') == '/home/app' %}{{ env('NOPE', 'b') }}{% endif %}", "b"),
        ("{{ local('last') }}", "first and last"),
        ("{{ utc_now('%Y-%m-%dT%H:%M:%S') }}", "2026-01-02T03:04:05"),
        ("{{ utc_now('%c|%x|%X|%r') }}", "Fri Jan  2 03:04:05 2026|01/02/26|03:04:05|03:04:05 AM"),
        ("{{ escape_re('a.b[c]') }}", "a\\.b\\[c\\]"),
        ("{{ '{{' }} {{ '{%' }}", "{{ {%"),
        ("{# a remark #}text\n", "text\n"),
        ("no { template } {", "no { template } {"),
    ] {
        // Locals are rendered first wherever they stand, in the order of the file.
        let text = format!(
            "cmd = ['x', \"\"\"{template}\"\"\"]\n[locals]\nz = 'first'\nlast = \"{{{{ local('z') }}}} and last\""
        );
        assert_eq!(plan(&text).cmd[1], expected, "{template}");
    }
}

#[test]
fn the_local_time_is_within_a_day_of_utc() {
    // The test does not know the host's time zone.
    let day = &plan("cmd = ['x', \"{{ now('%Y-%m-%d') }}\"]").cmd[1];
    assert!(["2026-01-01", "2026-01-02"].contains(&day.as_str()), "{day}");
}

#[test]
fn every_kind_of_check_has_its_defaults() {
    // Contract: H1
    let command = plan("cmd = ['x']\nhealthcheck.command.cmd = ['a', \"{{ generation() }}\"]").health;
    let Health::Command { cmd, pace } = command else { panic!("{command:?}") };
    assert_eq!(cmd, ["a", "1"]);
    assert_eq!((pace.after, pace.interval), (Duration::ZERO, Duration::from_secs(1)));
    assert_eq!((pace.timeout, pace.successes), (Duration::from_secs(5), 1));
    let tcp = plan("cmd = ['x']\nhealthcheck.tcp.address = 'localhost:80'").health;
    let Health::Tcp { addresses, text, pace } = tcp else { panic!("{tcp:?}") };
    assert_eq!(addresses, ["127.0.0.1:80".parse().unwrap(), "[::1]:80".parse().unwrap()]);
    assert_eq!((text.as_str(), pace.interval), ("localhost:80", Duration::from_millis(100)));
    let http = plan("cmd = ['x']\nhealthcheck.http.url = 'http://127.0.0.1/up?a=b'").health;
    let Health::Http { request, status, .. } = http else { panic!("{http:?}") };
    assert_eq!(request.target, Endpoint::Tcp(vec!["127.0.0.1:80".parse().unwrap()]));
    assert_eq!((request.host.as_str(), request.path.as_str()), ("127.0.0.1", "/up?a=b"));
    assert_eq!(status, [200..=399]);
    let fcgi = plan("cmd = ['x']\nhealthcheck.fcgi = { address = '@app', script = '/ping' }").health;
    let Health::Fcgi { request, status, pace } = fcgi else { panic!("{fcgi:?}") };
    assert_eq!((request.target, request.script.as_str()), (Endpoint::Unix("@app".into()), "/ping"));
    assert_eq!((request.query.as_str(), request.params, status), ("", Vec::new(), vec![200..=399]));
    assert_eq!(pace.interval, Duration::from_millis(100));
    let docker = plan("cmd = ['x']\nhealthcheck.docker.container = 'web-{{ blue_green() }}'").health;
    let Health::Docker { container, socket, pace } = docker else { panic!("{docker:?}") };
    assert_eq!((container.as_str(), socket), ("web-blue", PathBuf::from("/var/run/docker.sock")));
    assert_eq!(pace.interval, Duration::from_secs(1));
    let notify = plan("cmd = ['x']\n[healthcheck.notify]").health;
    assert_eq!(notify, Health::Notify { extend: Duration::from_secs(600), settle: Duration::ZERO });
}

#[test]
fn sockets_are_named_by_path_or_abstract_name() {
    // Contract: H1
    let paths = [
        ("/run/a", "/run/a"),
        ("a.sock", "a.sock"),
        ("@app", "@app"),
        ("unix:///run/a", "/run/a"),
        ("unix:@app", "@app"),
    ];
    for (text, path) in paths {
        let health = plan(&format!("cmd = ['x']\nhealthcheck.unix.path = '{text}'")).health;
        assert!(
            matches!(&health, Health::Unix { path: read, .. } if read == &PathBuf::from(path)),
            "{text}: {health:?}"
        );
    }
    let urls = [
        ("unix:///run/a:/up", "/run/a", "/up"),
        ("unix:@app:/up?x:/y", "@app", "/up?x:/y"),
        ("unix:///run/a", "/run/a", "/"),
    ];
    for (text, socket, path) in urls {
        let health = plan(&format!("cmd = ['x']\nhealthcheck.http.url = '{text}'")).health;
        let Health::Http { request, .. } = health else { panic!("{health:?}") };
        assert_eq!(
            (request.target, request.path.as_str()),
            (Endpoint::Unix(PathBuf::from(socket)), path),
            "{text}"
        );
        assert_eq!(request.host, "localhost");
    }
}

#[test]
fn status_codes_are_lists_and_ranges() {
    for (text, ranges) in [("204", vec![204..=204]), ("'200, 300-399'", vec![200..=200, 300..=399])] {
        let health =
            plan(&format!("cmd = ['x']\nhealthcheck.http = {{ url = 'http://:80', status = {text} }}"))
                .health;
        assert!(matches!(&health, Health::Http { status, .. } if *status == ranges), "{text}: {health:?}");
    }
}

#[test]
fn every_kind_but_alive_can_settle() {
    // Contract: H1, H6
    for kind in [
        "command.cmd = ['a']",
        "tcp.address = ':80'",
        "unix.path = '@app'",
        "http.url = 'http://:80'",
        "fcgi = { address = '@app', script = '/ping' }",
        "docker.container = 'web'",
        "notify.extend = '1m'",
    ] {
        let name = kind.split(['.', ' ']).next().unwrap_or_default();
        let with = match kind.strip_suffix(" }") {
            Some(inline) => format!("{inline}, settle = '2s' }}"),
            None => format!("{kind}\nhealthcheck.{name}.settle = '2s'"),
        };
        let read = plan(&format!("cmd = ['x']\nhealthcheck.{with}"));
        assert_eq!(read.health.settle(), Duration::from_secs(2), "{name}");
        assert!(read.to_string().contains("\nsettle = \"2s\"\n"), "{read}");
        assert_eq!(plan(&read.to_string()), read, "{name}");
        let without = plan(&format!("cmd = ['x']\nhealthcheck.{kind}")).health;
        assert_eq!(without.settle(), Duration::ZERO, "{name}");
    }
}
