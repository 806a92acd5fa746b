//! A real nginx in the sandbox: its own directory, a Unix socket instead of a port, in the foreground.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use testkit::{Running, Sandbox, Signal, Stream};

/// Whether nginx is installed. If not, the caller skips the test.
#[track_caller]
pub(crate) fn is_installed() -> bool {
    find().is_some()
}

/// The path of nginx.
#[track_caller]
pub(crate) fn find() -> Option<PathBuf> {
    testkit::need("nginx")
}

/// A running nginx.
pub(crate) struct Nginx {
    running: Arc<Running>,
}

impl Nginx {
    /// Starts nginx in the sandbox's directory with `http` (the content of the block `http`) and waits until
    /// it serves.
    pub(crate) fn start(sandbox: &Sandbox, http: &str) -> Self {
        let folder = sandbox.dir().display();
        let text = format!(
            "pid {folder}/nginx.pid;\n\
             worker_processes 1;\n\
             events {{ worker_connections 512; }}\n\
             http {{\n\
             access_log off;\n\
             client_body_temp_path {folder}/nginx-body;\n\
             fastcgi_temp_path {folder}/nginx-fastcgi;\n\
             proxy_temp_path {folder}/nginx-proxy;\n\
             uwsgi_temp_path {folder}/nginx-uwsgi;\n\
             scgi_temp_path {folder}/nginx-scgi;\n\
             {http}\n\
             }}\n"
        );
        sandbox.write("nginx.conf", text);
        Self::start_with(sandbox, "nginx.conf")
    }

    /// Starts nginx with a complete configuration file in the sandbox's directory.
    pub(crate) fn start_with(sandbox: &Sandbox, file: &str) -> Self {
        let nginx = find().expect("the caller has checked that nginx is installed");
        // As root, its workers would become `nobody`, which may not enter the sandbox.
        let is_root = std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0);
        let user = if is_root { " user root;" } else { "" };
        let globals = format!("daemon off; error_log stderr notice;{user}");
        let (nginx, folder) = (nginx.display().to_string(), format!("{}/", sandbox.dir().display()));
        let argv = [&nginx, "-p", &folder, "-c", file, "-e", "stderr", "-g", &globals];
        let running = sandbox.command(argv).start();
        // Its sockets listen before it starts the first worker.
        running.output().wait(Stream::Stderr, "start worker process ");
        Self { running }
    }

    /// Stops it as its users do. Returns its warnings and errors.
    pub(crate) fn stop(&self) -> Vec<String> {
        self.running.signal(Signal::SIGQUIT);
        assert!(self.running.wait_exit().success(), "{}", self.running.stderr());
        let bad = ["[warn]", "[error]", "[crit]", "[alert]", "[emerg]"];
        let log = self.running.stderr();
        log.lines().filter(|line| bad.iter().any(|level| line.contains(level))).map(str::to_owned).collect()
    }
}
