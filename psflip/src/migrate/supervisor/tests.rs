//! What becomes of command lines and files, and every error (contract X4).

use std::fmt::Write as _;
use std::time::SystemTime;

use super::{Translated, Wrong, procfile, runit, spawn_fcgi, start_server, supervisord};
use crate::config::{self, Generation, Plan, Slot};

fn generation<'e>(env: &'e dyn Fn(&str) -> Option<std::ffi::OsString>) -> Generation<'e> {
    Generation { number: 1, slot: Slot::A, started: SystemTime::UNIX_EPOCH, env }
}

fn with<T>(translate: impl FnOnce(&Generation<'_>) -> T) -> T {
    let env = |name: &str| (name == "STAGE").then(|| "test".into());
    translate(&generation(&env))
}

fn words(line: &str) -> Vec<String> {
    line.split(' ').map(str::to_owned).collect()
}

/// The meaning of a result, which psflip accepts.
#[track_caller]
fn plan(translated: &Translated) -> Plan {
    assert_eq!(translated.refused, None, "{}", translated.text);
    with(|generation| config::parse("the result", &translated.text, generation)).unwrap()
}

/// A result as a snapshot: the file, then the remarks.
#[track_caller]
fn shown(translated: Result<Translated, Wrong>) -> String {
    let translated = translated.unwrap();
    plan(&translated);
    let mut text = translated.text.replace(env!("CARGO_PKG_VERSION"), "VERSION");
    for remark in &translated.remarks {
        write!(text, "\n{}: {}: {}", remark.place, remark.kind, remark.text).unwrap();
    }
    text
}

fn of_start_server(line: &str) -> Result<Translated, Wrong> {
    with(|generation| start_server(&words(line), generation))
}

#[test]
fn every_option_of_start_server_has_its_counterpart() {
    // Contract: X4
    insta::assert_snapshot!(
        "start_server",
        shown(of_start_server(
            "--port 8080 --port=[::1]:u53=7 --port 127.0.0.1:0 --path app.sock --path @app --interval 3 \
             --backlog=100 --dir /srv --pid-file app.pid --status-file app.status --envdir env --signal-on-hup=usr1 \
             --signal-on-term SIGQUIT --kill-old-delay 10 --daemonize --log-file log --enable-auto-restart \
             --auto-restart-interval 60 -- plackup --port {{x}} --help"
        ))
    );
}

#[test]
fn options_are_read_as_getopt_long_reads_them() {
    let plan_of = |line| plan(&of_start_server(line).unwrap());
    let plain = plan_of("--port=80 --signal-on-hup=QUIT --pid-file=p -- ./server -a");
    // A single dash, abbreviations, any case, and options after the program.
    assert_eq!(plan_of("-po 80 --SIGNAL-ON-H QUIT -pid=p -- ./server -a"), plain);
    assert_eq!(plan_of("./server --port 80 --pid p --signal-on-hup QUIT -- -a"), plain);
    assert_eq!(plan_of("-- ./server --port 80").cmd.len(), 3);
    // The last one counts, but of ports and paths all do.
    assert_eq!(plan_of("--port 80 --port 81 --dir /a --dir /b -- x").listeners.len(), 2);
}

#[test]
fn sockets_have_the_key_that_start_server_gives_them() {
    // Contract: C3
    for (port, address, key) in [
        ("80", "tcp://0.0.0.0:80", Some("80")),
        ("u80", "udp://0.0.0.0:80", Some("80")),
        ("1.2.3.4:80", "tcp://1.2.3.4:80", None),
        ("[1.2.3.4]:u80", "udp://1.2.3.4:80", None),
        ("::1:80", "tcp://[::1]:80", None),
        ("[0::1]:80", "tcp://[::1]:80", Some("[0::1]:80")),
        ("localhost:80=9", "tcp://127.0.0.1:80", Some("localhost:80")),
        ("1.2.3.4:0", "tcp://1.2.3.4:0", Some("1.2.3.4:0")),
    ] {
        let plan = plan(&of_start_server(&format!("--port {port} -- x")).unwrap());
        let [listener] = &plan.listeners[..] else { panic!("{port}: {:?}", plan.listeners) };
        assert_eq!(
            (listener.address.to_string().as_str(), listener.key.as_deref()),
            (address, key),
            "{port}"
        );
        assert_eq!(listener.fd, port.ends_with("=9").then_some(9), "{port}");
        assert_eq!(listener.options.v6only, address.contains('[').then_some(true), "{port}");
    }
}

#[test]
fn without_sockets_a_child_of_start_server_has_its_variables_too() {
    insta::assert_snapshot!("start_server_bare", shown(of_start_server("--interval 0 ./server")));
}

fn of_spawn_fcgi(line: &str) -> Result<Translated, Wrong> {
    with(|generation| spawn_fcgi(&words(line), generation))
}

#[test]
fn every_option_of_spawn_fcgi_has_its_counterpart() {
    // Contract: X4
    let all = "-s/run/app.sock -M 660 -U www-data -u app -g app -c /jail -S -d /srv -P app.pid -C 4 -F 2 -b 100 -- ./app -x";
    insta::assert_snapshot!("spawn_fcgi", shown(of_spawn_fcgi(all)));
    insta::assert_snapshot!("spawn_fcgi_tcp", shown(of_spawn_fcgi("-np 9000 -a ::1 -f app.fcgi")));
    insta::assert_snapshot!("spawn_fcgi_bare", shown(of_spawn_fcgi("-s app.sock -U 33 -n -P x ./app -- -n")));
}

const SUPERVISORD: &str = "\
[supervisord]
logfile = x
[program:app]
command = /srv/%(program_name)s/server --port \"%(ENV_STAGE)s\" 'a b' 100%% --node %(process_num)02d ; a comment
directory = %(here)s/data
environment = A=\"1,2\",C=\"a\\b\",
    B='%(ENV_STAGE)s',D=\"\"
user = app
stopsignal = QUIT
stopwaitsecs = 30
startsecs = 5
numprocs = 2
AutoRestart: true
mystery = 1
[fcgi-program:php]
command = php-cgi
socket = tcp://localhost:9000
socket_backlog = 10
[fcgi-program:cgi]
command = cgi
socket = unix:///run/%(program_name)s.sock
socket_owner = www-data:adm
socket_mode = 770
[eventlistener:no]
command = x
";

fn of_supervisord(text: &str, program: Option<&str>) -> Result<Translated, Wrong> {
    with(|generation| supervisord("app.conf", Some("/etc/sv"), text, program, generation))
}

#[test]
fn a_program_of_supervisord_becomes_a_configuration() {
    // Contract: X4
    insta::assert_snapshot!("supervisord", shown(of_supervisord(SUPERVISORD, Some("app"))));
    insta::assert_snapshot!("supervisord_fcgi", shown(of_supervisord(SUPERVISORD, Some("php"))));
    insta::assert_snapshot!("supervisord_unix", shown(of_supervisord(SUPERVISORD, Some("cgi"))));
}

/// The place, kind and text of each remark, without those that every result has.
fn remarks(translated: &Translated) -> Vec<String> {
    let remarks = translated.remarks.iter().filter(|remark| !remark.text.starts_with("during an upgrade"));
    remarks.map(|remark| format!("{}: {}: {:.60}", remark.place, remark.kind, remark.text)).collect()
}

#[test]
fn supervisord_inserts_before_it_splits() {
    // Contract: X4
    let made =
        |command: &str| of_supervisord(&format!("[program:a b]\ncommand = {command}\n"), None).unwrap();
    let stage = "supervisord inserts `%(ENV_STAGE)s` first and splits the tex";
    for (command, argv, is_noted) in [
        ("x \"%(ENV_STAGE)s\" '%(ENV_STAGE)s'", &["x", "test", "test"][..], false),
        ("x -s%(ENV_STAGE)s", &["x", "-stest"], true),
        ("x \\%(ENV_STAGE)s", &["x", "test"], true),
        ("x %%(ENV_STAGE)s \\%%%%(ENV_STAGE)s", &["x", "%(ENV_STAGE)s", "%%(ENV_STAGE)s"], false),
        // What is known is inserted first here, too.
        ("x %(program_name)s '%(program_name)s'", &["x", "a", "b", "a b"], false),
        // No braces become a template.
        ("x {%% {{%(ENV_STAGE)s}} {#", &["x", "{%", "{{test}}", "{#"], true),
        ("x '{%%(a' {%(program_name)s", &["x", "{%(a", "{a", "b"], false),
    ] {
        let made = made(command);
        assert_eq!(plan(&made).cmd, argv, "{command}");
        let wanted = format!("line 2: note: {stage}");
        assert_eq!(remarks(&made), if is_noted { vec![wanted] } else { Vec::new() }, "{command}");
    }
    let text = "[program:a]\ncommand = x\nenvironment = A=%(ENV_STAGE)s,B=\"%(ENV_STAGE)s\",C=\"{%%\"\n";
    let made = of_supervisord(text, None).unwrap();
    plan(&made);
    assert_eq!(remarks(&made), [format!("line 3: note: {stage}")]);
    assert!(made.text.contains("C = \"{{ '{%' }}\""), "{}", made.text);
}

#[test]
fn the_socket_of_a_program_with_another_user_is_bound_by_root() {
    // Contract: X4
    let made = |settings: &str| {
        let text = format!("[fcgi-program:a]\ncommand = x\nsocket = unix:///run/a.sock\n{settings}");
        remarks(&of_supervisord(&text, None).unwrap())
    };
    assert_eq!(
        made("user = app\nsocket_owner = www-data\n"),
        ["line 4: left to do: supervisord binds the socket and gives it to `socket_owner` "]
    );
    assert_eq!(
        made("user = app\n"),
        ["line 4: note: `user` stays in supervisord's section. supervisord binds the"]
    );
    assert_eq!(
        made("user = root\nsocket_owner = app\n"),
        ["line 4: note: `user` stays in supervisord's section"]
    );
    assert_eq!(made("socket_owner = app\n"), [""; 0]);
}

fn of_runit(lines: &str) -> Result<Translated, Wrong> {
    with(|generation| runit(Some("/etc/sv/app/run"), lines, generation))
}

#[test]
fn a_run_script_becomes_a_configuration() {
    // Contract: X4
    let simple = "#!/bin/sh\nexec 2>&1\n# it\ncd '/srv/my app' || exit 1\nexport A=1 B=\"2 3\"\n\
                  C=4 exec chpst -u app \\\n    ./server --port 80 2>&1\n";
    insta::assert_snapshot!("runit", shown(of_runit(simple)));
    for (script, reason) in [
        ("#!/bin/sh\nexec ./server $OPTIONS\n", "line 2: the script stays the command, because a variable"),
        (
            "#!/bin/bash\n. ./env\nexec ./server\n",
            "line 2: the script stays the command, because it does more",
        ),
        (
            "#!/bin/sh\nexec ./a\necho b\n",
            "line 3: the script stays the command, because there are commands after",
        ),
        ("#!/bin/sh\n./server\n", "line 2: the script stays the command, because it does more"),
        ("#!/bin/sh\nexport A\nexec ./server\n", "line 2: the script stays the command, because it exports"),
        (
            "#!/bin/sh\ncd /a || exit 1; umask 077\nexec ./x\n",
            "line 2: the script stays the command, because it does more than `exit`",
        ),
        (
            "#!/bin/sh\ncd /a || { cd /b || exit 1; }\nexec ./x\n",
            "line 2: the script stays the command, because it does more than `exit`",
        ),
        (
            "#!/bin/sh\nexec -a name ./x\n",
            "line 2: the script stays the command, because its `exec` has options",
        ),
        (
            "#!/bin/sh\nexec ./x 'a\\\nb'\n",
            "line 2: the script stays the command, because a quote is not closed",
        ),
        ("#!/bin/sh\n", "the whole script: the script stays the command, because it has no `exec`"),
        ("#!/usr/bin/python3\nexec('x')\n", "line 1: the script stays the command, because it is no script"),
    ] {
        let kept = of_runit(script).unwrap();
        let remark = &kept.remarks[0];
        let said = format!("{}: {}", remark.place, remark.text);
        assert!(said.starts_with(reason), "{said}");
        let plan = plan(&kept);
        assert_eq!(plan.cmd, ["/etc/sv/app/run"], "{script}");
    }
}

#[test]
fn lines_of_a_run_script_are_joined_as_a_shell_joins_them() {
    // Contract: X4
    for (script, argv) in [
        ("# a comment \\\nexec ./a\n", &["./a"][..]),
        ("exec ./a\\\n    --port 80\n", &["./a", "--port", "80"]),
        ("exec ./a --po\\\nrt 80 \\\n\n", &["./a", "--port", "80"]),
        ("exec ./a \"b\\\nc\" d\\\\\n", &["./a", "bc", "d\\"]),
        ("cd /d || exit\nexec ./a 2>&1\n", &["./a"]),
        ("cd /d || { echo \"no /d\" >&2; exit 111; }\nexec ./a\n", &["./a"]),
    ] {
        let made = of_runit(&format!("#!/bin/sh\n{script}")).unwrap();
        assert_eq!(plan(&made).cmd, argv, "{script}");
        assert_eq!(remarks(&made), [""; 0], "{script}");
    }
}

fn of_procfile(text: &str, kind: Option<&str>) -> Result<Translated, Wrong> {
    with(|generation| procfile("Procfile", text, kind, generation))
}

#[test]
fn a_line_of_a_procfile_becomes_a_configuration() {
    // Contract: X4
    let text = "# it\nweb: A=1 B=\"2\" bundle exec puma -p ${PORT:-3000}\nworker: exec ./work 'a b'\n\
                tcp: PORT=9 ./x $PORT\nbuild: cd a && exec ./b > c\nnamed: exec -a x ./y\n";
    insta::assert_snapshot!("procfile", shown(of_procfile(text, Some("web"))));
    insta::assert_snapshot!("procfile_worker", shown(of_procfile(text, Some("worker"))));
    for (kind, argv) in [
        ("tcp", &["sh", "-c", "exec ./x $PORT"][..]),
        ("build", &["sh", "-c", "cd a && exec ./b > c"]),
        ("worker", &["./work", "a b"]),
        ("named", &["sh", "-c", "exec -a x ./y"]),
    ] {
        let plan = plan(&of_procfile(text, Some(kind)).unwrap());
        assert_eq!(plan.cmd, argv);
        assert!(plan.proxies.is_empty());
    }
    let plan = plan(&of_procfile("web: ./server\n", None).unwrap());
    assert_eq!(plan.proxies.len(), 1);
}

#[test]
fn what_can_not_be_translated_is_an_error_with_place_and_help() {
    // Contract: X4
    let mut text = String::new();
    let mut add = |what: &str, wrong: Result<Translated, Wrong>| {
        writeln!(text, "{what}\n{}\n", wrong.expect_err(what)).unwrap();
    };
    for line in [
        "--port 80",
        "--prot 80 -- x",
        "--mystery -- x",
        "-o x --port 80 -- x",
        "--p 80 -- x",
        "--daemonize=1 -- x",
        "x --port",
        "--interval 1s -- x",
        "--interval 99999999999 -- x",
        "--port http -- x",
        "--port 70000 -- x",
        "--port 80=x -- x",
        "--port www.example:80 -- x",
        "--signal-on-hup HUB -- x",
        "--port 80 --port u80 -- x",
        "--port 1.2.3.4:80 --path 1.2.3.4:80 -- x",
        "--restart --pid-file p --status-file s",
        "--stop --pid-file p",
        "--version",
    ] {
        add(&format!("start_server {line}"), of_start_server(line));
    }
    for line in [
        "-s a",
        "-n ./x",
        "-s a -p 80 ./x",
        "-p http ./x",
        "-p 80 -a localhost ./x",
        "-s a -b x ./x",
        "-s a -z ./x",
        "./x -s",
        "-v",
    ] {
        add(&format!("spawn-fcgi {line}"), of_spawn_fcgi(line));
    }
    for (file, program) in [
        ("", None),
        ("x = 1\n", None),
        ("[program:a]\ncommand\n", None),
        ("[program:a]\nuser = x\n", None),
        ("[program:a]\ncommand = 'x\n", None),
        ("[program:a]\ncommand = x %\n", None),
        ("[program:a]\ncommand = x \\\n", None),
        ("[program:a]\ncommand = x %(host_node_name)s\n", None),
        ("[program:a]\ncommand = x\nstopsignal = NO\n", None),
        ("[program:a]\ncommand = x\nstartsecs = 1s\n", None),
        ("[program:a]\ncommand = x\nenvironment = A\n", None),
        ("  [program:a]\n  command = x\n  environment = A=1 2\n", None),
        ("[fcgi-program:a]\ncommand = x\n", None),
        (SUPERVISORD, None),
        (SUPERVISORD, Some("other")),
    ] {
        add(&format!("supervisord {file:.60}"), of_supervisord(file, program));
    }
    add("runit", of_runit("exec x\n"));
    add("runit", with(|generation| runit(None, "#!/bin/sh\nexec $X\n", generation)));
    for (file, kind) in
        [("", None), ("web\n", None), ("web: A=1\n", None), ("a: x\nb: y\n", None), ("a: x\n", Some("b"))]
    {
        add(&format!("procfile {file}"), of_procfile(file, kind));
    }
    insta::assert_snapshot!("errors", text);
}

#[test]
fn braces_of_the_source_are_no_templates() {
    for text in ["{{", "{{{", "a {% b #}{#", "}}", "{ {", "{{{%", "x{{ 1 }}y"] {
        let translated =
            with(|generation| start_server(&["--".to_owned(), text.to_owned()], generation)).unwrap();
        assert_eq!(plan(&translated).cmd, [text], "{}", translated.text);
    }
}
