//! nginx, which replaces its own executable: `psflip watch` is not only for psflip.

use testkit::client::http::HttpClient;
use testkit::{AvailabilityProbe, Deadline, Process, Sandbox, Signal, Stream, psflip_bin, wait_until};

use super::{wait_follows, wait_named};
use crate::traffic::nginx::{find, is_installed};

#[test]
fn nginx_replaces_its_executable_under_watch_and_loses_no_request() {
    // Contract: C5, S1
    if !is_installed() {
        return;
    }
    let sandbox = Sandbox::new();
    let folder = sandbox.dir().display().to_string();
    sandbox.write(
        "nginx.conf",
        format!(
            "daemon on; user root; worker_processes 1; pid {folder}/x.pid; error_log stderr notice;\n\
             events {{ }}\n\
             http {{ access_log off;\n\
               client_body_temp_path {folder}/b; fastcgi_temp_path {folder}/f; proxy_temp_path {folder}/p;\n\
               uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;\n\
               server {{ listen unix:{folder}/app.sock; location / {{ return 200 here; }} }} }}\n"
        ),
    );
    let (psflip, nginx) = (psflip_bin().display().to_string(), find().unwrap().display().to_string());
    let config = format!("{folder}/nginx.conf");
    let argv =
        [&psflip, "watch", "--pidfile", "x.pid", "--", &nginx, "-p", &folder, "-e", "stderr", "-c", &config];
    let watch = sandbox.command(argv).start();
    let pidfile = sandbox.path("x.pid");
    let first = wait_named(&pidfile);
    wait_follows(&watch, first.pid());
    let socket = sandbox.path("app.sock");
    let probe = AvailabilityProbe::start(2, |_| {
        let mut client = HttpClient::unix(&socket);
        move || client.get("/").map(|answer| answer.text())
    });
    probe.wait_requests(10);
    let mut old = first;
    for _ in 0..3 {
        watch.signal(Signal::SIGUSR2);
        let new = wait_until(Deadline::default(), "the new nginx", || {
            let named =
                std::fs::read_to_string(&pidfile).ok()?.trim().parse().ok().and_then(Process::find)?;
            // Once it has children, its worker runs.
            (named != old && !named.children().is_empty()).then_some(named)
        });
        wait_follows(&watch, new.pid());
        old.signal(Signal::SIGQUIT).unwrap();
        wait_until(Deadline::default(), "the old nginx to exit", || (!old.is_alive()).then_some(()));
        probe.wait_requests(10);
        old = new;
    }
    // When a new nginx is stopped, the old one gets the pidfile back.
    watch.signal(Signal::SIGUSR2);
    let new = wait_until(Deadline::default(), "the new nginx", || {
        let named = std::fs::read_to_string(&pidfile).ok()?.trim().parse().ok().and_then(Process::find)?;
        (named != old && !named.children().is_empty()).then_some(named)
    });
    wait_follows(&watch, new.pid());
    let mark = watch.output().mark();
    watch.signal(Signal::SIGQUIT);
    watch.output().wait_after(mark, Stream::Stderr, &format!("follows the pidfile service={old}"));
    probe.wait_requests(10);
    probe.finish().assert_no_failures();
    // The earlier stop request held for the new process only. Ten seconds later, or when repeated, such a
    // request stops the old one.
    sandbox.assert_zombie_free();
    watch.signal(Signal::SIGTERM);
    assert!(watch.wait_exit().success(), "{}", sandbox.report());
    sandbox.assert_no_process_left();
}
