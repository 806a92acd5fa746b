//! Bad versions of each example: the next version crashes as soon as it is started, or in its workers. The
//! upgrade must fail with a reason, the old version keeps serving, and the next good version takes over.
//! `docs/traffic.md` lists what no health check finds.

use std::collections::BTreeSet;

use testkit::psflip_bin;

use super::{Example, are_installed, data, java, nginx, node, perl, php, python, ruby, rust, sqlite, web};

/// How the next version is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Crash {
    /// The child itself crashes, before it serves.
    AtOnce,
    /// Its workers crash, again and again, while the main process stays.
    Workers,
}

/// One bad version of an example.
struct Bad {
    crash: Crash,
    /// The file to change, and the text to replace. If `from` is empty, `to` is inserted at the beginning of
    /// the file.
    file: &'static str,
    from: &'static str,
    to: &'static str,
    /// Words of the upgrade's failure.
    reason: &'static str,
}

impl Bad {
    const fn at_once(file: &'static str, from: &'static str, to: &'static str, reason: &'static str) -> Self {
        Self { crash: Crash::AtOnce, file, from, to, reason }
    }

    const fn workers(file: &'static str, from: &'static str, to: &'static str, reason: &'static str) -> Self {
        Self { crash: Crash::Workers, file, from, to, reason }
    }
}

/// One test for each example, and the list of examples.
macro_rules! examples {
    ($($name:ident: $file:expr, $programs:expr, [$($bad:expr),* $(,)?];)*) => {
        const FILES: &[&str] = &[$($file),*];
        $(/// Contract: F3, F4, U6, U8
        #[test]
        fn $name() {
            refuses($file, &$programs, &[$($bad),*]);
        })*
    };
}

examples! {
    a_bad_version_of_the_gunicorn_example_changes_nothing: python::GUNICORN, ["gunicorn"], [
        Bad::at_once("wsgi_app.py", "", "raise SystemExit(7)\n", "exit code 7"),
        Bad::workers("gunicorn.conf.py", "def post_worker_init", "def post_fork(server, worker):\n    raise RuntimeError\n\n\ndef post_worker_init", "exit code "),
    ];
    a_bad_version_of_the_uvicorn_example_changes_nothing: python::UVICORN, ["uvicorn"], [
        Bad::at_once("asgi_app.py", "", "raise SystemExit(7)\n", "exit code 7"),
        Bad::at_once("asgi_app.py", "    notify(", "    raise RuntimeError\n    notify(", "exit code 3"),
    ];
    a_bad_version_of_the_shared_uvicorn_example_changes_nothing: python::UVICORN_SHARED, ["uvicorn"], [
        Bad::at_once("asgi_app.py", "", "raise SystemExit(7)\n", "exit code 7"),
        Bad::at_once("asgi_app.py", "    notify(", "    raise RuntimeError\n    notify(", "exit code 0"),
    ];
    // `sqlite.rs` has the versions that pass the precheck and fail later.
    a_bad_version_of_the_sqlite_example_changes_nothing: sqlite::EXAMPLE, ["python3"], [
        Bad::at_once("sqlite_app.py", "", "raise SystemExit(7)\n", "exited with code 7"),
    ];
    a_bad_version_of_the_puma_example_changes_nothing: ruby::PUMA, ["puma"], [
        Bad::at_once("config.ru", "run app", "exit 7", "exit code 7"),
    ];
    a_bad_version_of_the_puma_cluster_example_changes_nothing: ruby::PUMA_CLUSTER, ["puma"], [
        Bad::at_once("puma.rb", "plugin 'notify'", "exit 7", "exit code 7"),
        Bad::workers("config.ru", "run app", "exit 7", "no READY=1"),
    ];
    a_bad_version_of_the_server_starter_example_changes_nothing: perl::SCRIPT, ["perl"], [
        Bad::at_once("server_starter.pl", "use strict;", "exit 7;", "exit code 7"),
        Bad::workers("server_starter.pl", "        close $hold;", "        exit 7;", "exit code"),
    ];
    a_bad_version_of_the_starlet_example_changes_nothing: perl::STARLET, ["plackup", "start_server"], [
        Bad::at_once("app.psgi", "", "exit 7;\n", "exit code 7"),
        Bad::workers("app.psgi", "", "BEGIN { *CORE::GLOBAL::srand = sub { exit 7 } }\n", "no READY=1"),
    ];
    a_bad_version_of_the_nginx_example_changes_nothing: nginx::EXAMPLE, ["nginx", "pgrep"], [
        Bad::at_once("nginx.conf", "events {", "bad;\nevents {", "exit code 1"),
        Bad::workers("nginx.conf", "events {", "working_directory /nonexistent;\nevents {", "last probe: probe "),
    ];
    a_bad_version_of_the_node_example_changes_nothing: node::EXAMPLE, ["node"], [
        Bad::at_once("node_app.js", "const name", "process.exit(7)\nconst name", "exit code 7"),
        Bad::at_once("node_app.js", "response.end('up\\n')", "process.exit(7)", "exit code 7"),
    ];
    a_bad_version_of_the_php_cgi_example_changes_nothing: php::CGI, ["php-cgi"], [
        Bad::at_once("php-cgi.toml", "cmd = [\"php-cgi\"]", "cmd = [\"sh\", \"-c\", \"exit 7\"]", "exit code 7"),
        Bad::workers("app.php", "<?php", "<?php exit(7);", "last probe: probe "),
    ];
    a_bad_version_of_the_php_fpm_example_changes_nothing: php::FPM, [php::FPM_PROGRAM], [
        Bad::at_once("php-fpm.conf", "[www]", "[www]\nbad = 1", "exit code 78"),
        Bad::workers("app.php", "<?php", "<?php http_response_code(500); exit(7);", "last probe: probe "),
    ];
    a_bad_version_of_the_shared_php_fpm_example_changes_nothing: php::FPM_SHARED, [php::FPM_PROGRAM], [
        Bad::at_once("php-fpm-shared.conf", "[www]", "[www]\nbad = 1", "exit code 78"),
        Bad::workers("app.php", "<?php", "<?php http_response_code(500); exit(7);", "last probe: probe "),
        Bad::workers("app.php", "<?php", "<?php posix_kill(getmypid(), SIGKILL);", "last probe: probe "),
    ];
    a_bad_version_of_the_uwsgi_example_changes_nothing: python::UWSGI, ["uwsgi"], [
        Bad::at_once("wsgi_app.py", "", "raise SystemExit(7)\n", "exit code "),
        Bad::workers("wsgi_app.py", "import os\n", "import os, uwsgi\nuwsgi.post_fork_hook = lambda: os._exit(7)\n", "last probe: probe "),
    ];
    a_bad_version_of_the_unicorn_example_changes_nothing: ruby::UNICORN, ["unicorn"], [
        Bad::at_once("config.ru", "run app", "exit 7", "exit code 7"),
        Bad::workers("unicorn.rb", "preload_app true", "after_fork { |_server, _worker| exit!(7) }", "no READY=1"),
    ];
    a_bad_version_of_the_apache_example_changes_nothing: web::APACHE, ["apache2"], [
        Bad::at_once("apache.conf", "", "Bad\n", "exit code 1"),
        // No worker can create its threads.
        Bad::workers("apache.conf", "User ", "ThreadStackSize 99999999999999\nUser ", "last probe: probe "),
    ];
    a_bad_version_of_the_caddy_example_changes_nothing: web::CADDY, ["caddy"], [
        Bad::at_once("Caddyfile", "admin off", "bad", "exit code 1"),
    ];
    a_bad_version_of_the_haproxy_example_changes_nothing: web::HAPROXY, ["haproxy"], [
        Bad::at_once("haproxy.cfg", "", "bad\n", "exit code 1"),
    ];
    a_bad_version_of_the_redis_example_changes_nothing: data::REDIS, ["redis-server", "redis-cli"], [
        Bad::at_once("redis.toml", "--appendonly", "--nonsense", "exit code 1"),
    ];
    a_bad_version_of_the_axum_example_changes_nothing: rust::EXAMPLE, [], [
        Bad::at_once("axum.toml", "[\"./axum-server\"]", "[\"env\", \"-u\", \"LISTEN_FDS\", \"./axum-server\"]", "exit code 1"),
        Bad::workers("axum.toml", "[\"./axum-server\"]", "[\"env\", \"-u\", \"NOTIFY_SOCKET\", \"./axum-server\"]", "no READY=1"),
    ];
    a_bad_version_of_the_memcached_example_changes_nothing: data::MEMCACHED, ["memcached"], [
        Bad::at_once("memcached.toml", "\"-a\"", "\"--nonsense\"", "exit code "),
    ];
    a_bad_version_of_the_jetty_example_changes_nothing: java::JETTY, ["java", java::JETTY_PROGRAM], [
        Bad::at_once("jetty.xml", "RewriteHandler", "NoHandler", "exit code "),
        Bad::workers("jetty.xml", "<Set name=\"code\">200", "<Set name=\"code\">500", "last probe: probe "),
    ];
    a_bad_version_of_the_tomcat_example_changes_nothing: java::TOMCAT, ["java", java::TOMCAT_PROGRAM], [
        Bad::at_once("tomcat.xml", "<Server port", "<", "exit code "),
        Bad::workers("app.jsp", "pid=", "<% if (true) throw new RuntimeException(); %>", "last probe: probe "),
    ];
    a_bad_version_of_the_java_example_changes_nothing: java::EXAMPLE, ["java", "javac"], [
        Bad::at_once("java.toml", "\"App\"", "\"NoApp\"", "exit code 1"),
    ];
}

/// Starts the example. Each bad version fails, and a good one takes over after each.
#[track_caller]
fn refuses(file: &'static str, programs: &[&str], bads: &[Bad]) {
    if !are_installed(programs) {
        return;
    }
    let example = Example::new(file);
    if file == java::EXAMPLE {
        let compiler = example.sandbox.command(["javac", "App.java"]).start();
        assert!(compiler.wait_exit().success(), "{}", compiler.stderr());
    }
    let psflip = example.psflip().start().wait_ready();
    for bad in bads {
        let before = (psflip.active(), psflip.child());
        let good = [bad.file, file].map(|name| (name, example.sandbox.read(name)));
        spoil(&example, bad);
        let (code, output) = upgrade(&example);
        assert_eq!(code, Some(1), "{file}, {:?}: {output}\n{}", bad.crash, example.sandbox.report());
        assert!(output.contains(bad.reason), "{file}, {:?}: no `{}` in\n{output}", bad.crash, bad.reason);
        assert_eq!((psflip.active(), psflip.child()), before, "{file}, {:?}", bad.crash);
        example.answers();
        for (name, text) in good {
            example.sandbox.write(name, text);
        }
        let (code, output) = upgrade(&example);
        assert_eq!(code, Some(0), "{file}, good again: {output}\n{}", example.sandbox.report());
        example.answers();
    }
    if file == perl::STARLET {
        perl::wait_rest(&example.sandbox);
    }
    psflip.stop();
    example.sandbox.assert_no_process_left();
}

/// Installs the bad version. If it never becomes healthy, the timeout is three seconds instead of the
/// example's minute.
fn spoil(example: &Example, bad: &Bad) {
    if bad.crash == Crash::Workers {
        let config = example.sandbox.read(example.file);
        let config = match config.contains("[upgrade]") {
            true => config.replace("\"3m\"", "\"5s\""),
            false => format!("{config}\n[upgrade]\ntimeout = \"3s\"\n"),
        };
        example.sandbox.write(example.file, config);
    }
    let text = example.sandbox.read(bad.file);
    assert!(text.contains(bad.from), "{}: no `{}`", bad.file, bad.from);
    example.sandbox.write(bad.file, text.replacen(bad.from, bad.to, 1));
}

/// Runs `psflip upgrade`. Returns its exit code and its output. A draining old generation may still accept
/// connections and close them.
#[track_caller]
fn upgrade(example: &Example) -> (Option<i32>, String) {
    let client =
        example.sandbox.command([psflip_bin()]).args(["upgrade", "--wait", "drained", "-c", example.file]);
    let client = client.env("PORT", example.port.port().to_string()).start();
    let status = client.wait_exit();
    client.output().wait_closed();
    (status.code(), client.stdout() + &client.stderr())
}

#[test]
fn every_server_example_is_tested_with_bad_versions() {
    let tested: BTreeSet<_> = FILES.iter().copied().collect();
    let run: BTreeSet<_> = super::RUN.iter().copied().collect();
    assert_eq!(tested, run, "add the example to the list in {}", file!());
}
