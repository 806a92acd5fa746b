//! The health check `fcgi`, with the fixture and with real PHP: php-cgi and php-fpm.

use std::fs;
use std::path::PathBuf;

use testkit::client::fcgi::FcgiClient;
use testkit::{PsflipBuilder, Sandbox, Stream, fixture};

use super::notify::is_installed;
use crate::service::stop;

/// A short timeout, for tests in which it must expire.
const SOON: &str = "[upgrade]\ntimeout = \"5s\"\n";

fn server(sandbox: &Sandbox, check: &str, rest: &str) -> PsflipBuilder {
    let program = fixture("fcgi-server").display().to_string();
    let config = format!("[healthcheck.fcgi]\naddress = \"unix:app.sock\"\n{check}{rest}");
    sandbox.psflip().cmd([program.as_str(), "--socket", "app.sock"]).config(config)
}

#[test]
fn a_fastcgi_server_is_promoted_only_by_its_own_answers() {
    // Contract: H1, U3
    let sandbox = Sandbox::new();
    let psflip = server(&sandbox, "script = \"/ping\"\ninterval = \"5ms\"\n", "").start().wait_ready();
    for _ in 0..3 {
        let old = psflip.child_pid();
        psflip.flip();
        // The new server's answer decided, so the new server is the one at the socket.
        let answer = FcgiClient::unix(sandbox.path("app.sock")).get("/").unwrap();
        assert_eq!(answer.tag("pid"), Ok(psflip.child_pid().to_string()));
        assert_ne!(old, psflip.child_pid());
    }
    stop(&psflip);
    sandbox.assert_no_process_left();
}

#[test]
fn the_status_of_the_answer_counts_and_is_reported() {
    // Contract: H1, H4, C6
    let sandbox = Sandbox::new();
    let check = "script = \"/ping\"\nquery = \"status=503\"\nstatus = \"503\"\n";
    let psflip = server(&sandbox, check, "").start().wait_ready();
    stop(&psflip);
    let psflip = server(&sandbox, &check.replace("status = \"503\"\n", ""), SOON).start();
    assert_eq!(psflip.wait_exit().code(), Some(124), "{}", sandbox.report());
    let line = psflip.wait_for_line(Stream::Stderr, "not healthy within").text;
    assert!(line.contains("`unix:app.sock /ping`: FastCGI status 503, wanted 200-399"), "{line}");
}

#[test]
fn a_parameter_of_the_user_reaches_the_application() {
    // Contract: H1
    let sandbox = Sandbox::new();
    let check = "script = \"/ping\"\nparams = { QUERY_STRING = \"status=204\" }\nstatus = 204\n";
    let psflip = server(&sandbox, check, "").start().wait_ready();
    stop(&psflip);
}

#[test]
fn php_cgi_is_healthy_when_its_script_is() {
    // Contract: H1, H4, U8
    if !is_installed("php-cgi") {
        return;
    }
    let sandbox = Sandbox::new();
    let dir = sandbox.dir().display();
    sandbox.write("ping.php", "<?php http_response_code(file_exists(__DIR__ . '/down') ? 503 : 204);\n");
    let config = |script: &str| {
        format!(
            "[healthcheck.fcgi]\naddress = \"unix:php-{{{{ blue_green() }}}}.sock\"\nscript = \"{dir}/{script}\"\n{SOON}"
        )
    };
    let cmd = ["php-cgi", "-b", "php-{{ blue_green() }}.sock"];
    let psflip = sandbox.psflip().cmd(cmd).config(config("ping.php")).start().wait_ready();
    psflip.flip();
    let active = psflip.active();
    sandbox.write("down", "");
    psflip.request_flip();
    let line = psflip.wait_for_line(Stream::Stderr, "upgrade failed").text;
    assert!(line.contains("ping.php`: FastCGI status 503, wanted 200-399"), "{line}");
    assert_eq!(psflip.active(), active);
    fs::remove_file(sandbox.path("down")).unwrap();
    psflip.flip();
    stop(&psflip);

    let psflip = sandbox.psflip().cmd(cmd).config(config("missing.php")).start();
    assert_eq!(psflip.wait_exit().code(), Some(124), "{}", sandbox.report());
    let line = psflip.wait_for_line(Stream::Stderr, "not healthy within").text;
    assert!(line.contains("missing.php`: FastCGI status 404, wanted 200-399"), "{line}");
    sandbox.assert_no_process_left();
}

/// php-fpm under Debian's name, which contains its version.
fn php_fpm() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> =
        fs::read_dir("/usr/sbin").ok()?.flatten().map(|entry| entry.path()).collect();
    found.retain(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("php-fpm")));
    found.sort();
    found.pop()
}

#[test]
fn php_fpm_is_healthy_when_it_answers_its_ping_and_is_upgraded() {
    // Contract: H1, H4
    let Some(php_fpm) = php_fpm() else {
        testkit::skip("php-fpm", "php-fpm is not installed");
        return;
    };
    let sandbox = Sandbox::new();
    let pool = |slot: &str| {
        format!(
            "[global]\nerror_log = /dev/stderr\n[www]\nuser = root\ngroup = root\nlisten = {}/{slot}.sock\npm = static\n\
             pm.max_children = 2\nping.path = /ping\n",
            sandbox.dir().display()
        )
    };
    sandbox.write("blue.conf", pool("blue"));
    sandbox.write("green.conf", pool("green"));
    let check = "[healthcheck.fcgi]\naddress = \"{{ blue_green() }}.sock\"\nscript = \"/ping\"\n";
    let check = check.replace("address = \"", &format!("address = \"{}/", sandbox.dir().display()));
    let program = php_fpm.display().to_string();
    // -R: as root, its workers stay root and so may enter the sandbox.
    let cmd = [program.as_str(), "-F", "-R", "-y", "{{ blue_green() }}.conf"];
    let psflip = sandbox.psflip().cmd(cmd).config(format!("{check}{SOON}")).start().wait_ready();
    for slot in ["green", "blue"] {
        psflip.flip();
        let answer = FcgiClient::unix(sandbox.path(format!("{slot}.sock"))).get("/ping").unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (200, "pong"), "{}", sandbox.report());
    }
    stop(&psflip);
    let wrong = check.replace("\"/ping\"", "\"/nothing\"");
    let psflip = sandbox.psflip().cmd(cmd).config(format!("{wrong}{SOON}")).start();
    assert_eq!(psflip.wait_exit().code(), Some(124), "{}", sandbox.report());
    let line = psflip.wait_for_line(Stream::Stderr, "not healthy within").text;
    assert!(
        line.contains("FastCGI status 404, wanted 200-399; its STDERR: Primary script unknown"),
        "{line}"
    );
    sandbox.assert_no_process_left();
}
