//! The proxies that are compared.

use std::fmt;
use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{SysconfVar, sysconf};
use testkit::{Deadline, Process, wait_until};

use super::origin::Server;
use super::write;
use crate::bench::{Build, build_dynamic};
use crate::{Error, repo, step};

/// The name of psflip's proxy, which is compared with the others.
pub(super) const OURS: &str = "psflip";

/// The name of the process that carries psflip's connections.
const RELAY: &str = "psflip: relay";

/// How long a program may take to listen.
const START: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Tcp,
    /// With a connection to the origin for each request.
    Http,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Http => "http",
        })
    }
}

/// A proxy, or none.
pub(super) struct Subject {
    pub(super) name: &'static str,
    kind: Kind,
}

enum Kind {
    Direct,
    Haproxy,
    Nginx,
    Psflip { program: PathBuf, upstream: Upstream },
}

/// How psflip reaches the origin.
#[derive(Clone, Copy)]
enum Upstream {
    Tcp,
    Unix,
    /// TCP, by HTTP over idle connections that are kept.
    Pool,
}

impl Subject {
    fn psflip(name: &'static str, build: &Build, upstream: Upstream) -> Self {
        Self { name, kind: Kind::Psflip { program: build.program.clone(), upstream } }
    }

    /// Whether it can be measured by this protocol.
    pub(super) fn speaks(&self, mode: Mode) -> bool {
        mode == Mode::Http || !matches!(self.kind, Kind::Psflip { upstream: Upstream::Pool, .. })
    }

    /// Whether psflip's proxy is compared with it.
    pub(super) fn is_peer(&self) -> bool {
        matches!(self.kind, Kind::Haproxy | Kind::Nginx)
    }
}

/// All that are installed. `before`: a psflip from before a change.
pub(super) fn all(before: Option<PathBuf>) -> Result<Vec<Subject>, Error> {
    let mut all = vec![Subject { name: "direct", kind: Kind::Direct }];
    for (name, kind) in [("haproxy", Kind::Haproxy), ("nginx", Kind::Nginx)] {
        if repo::is_installed(name) {
            all.push(Subject { name, kind });
        } else {
            println!("  skipped: {name} is not installed");
        }
    }
    let build = build_dynamic()?;
    all.push(Subject::psflip(OURS, &build, Upstream::Tcp));
    all.push(Subject::psflip("to Unix", &build, Upstream::Unix));
    all.push(Subject::psflip("pool", &build, Upstream::Pool));
    all.extend(
        before.map(|program| Subject {
            name: "before",
            kind: Kind::Psflip { program, upstream: Upstream::Tcp },
        }),
    );
    Ok(all)
}

/// Starts `psflip run --proxy`, as a user does. The child is not the origin, which all subjects share: it does
/// nothing.
fn psflip(
    program: &Path,
    upstream: Upstream,
    mode: Mode,
    listen: SocketAddr,
    origin: &Server,
) -> Result<Running, Error> {
    let forward = match upstream {
        Upstream::Tcp => origin.address.to_string(),
        Upstream::Pool => format!("{},pool=64", origin.address),
        Upstream::Unix => format!("unix://{}", origin.path.display()),
    };
    let proxy = format!("{mode}://{listen},forward={forward}");
    let arguments = ["run", "--no-control-socket", "--proxy", &proxy, "--", "sleep", "infinity"];
    Running::start(&program.display().to_string(), &arguments, listen)?.measuring(RELAY)
}

impl Subject {
    /// Starts it in front of `origin`, on a free port.
    pub(super) fn start(&self, mode: Mode, origin: &Server, directory: &Path) -> Result<Running, Error> {
        let listen = free_address()?;
        match &self.kind {
            Kind::Direct => Ok(Running { address: origin.address, child: None, measured: None }),
            Kind::Haproxy => haproxy(mode, listen, origin.address, directory),
            Kind::Nginx => nginx(mode, listen, origin.address, directory),
            Kind::Psflip { program, upstream } => psflip(program, *upstream, mode, listen, origin),
        }
    }
}

fn haproxy(mode: Mode, listen: SocketAddr, origin: SocketAddr, directory: &Path) -> Result<Running, Error> {
    let options = match mode {
        Mode::Tcp => "option splice-auto",
        Mode::Http => "option http-server-close\n  option forwardfor\n  option splice-auto",
    };
    let text = format!(
        "global\n  nbthread 1\n  maxconn 4000\n\
         defaults\n  mode {mode}\n  {options}\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n\
         listen all\n  bind {listen} backlog 8192\n  server origin {origin}\n"
    );
    let config = write(directory, "haproxy.cfg", &text)?;
    Running::start("haproxy", &["-db", "-f", &config.display().to_string()], listen)
}

fn nginx(mode: Mode, listen: SocketAddr, origin: SocketAddr, directory: &Path) -> Result<Running, Error> {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    let proxy = match mode {
        Mode::Tcp if !Path::new(module).exists() => {
            return Err("nginx has no stream module: apt-get install libnginx-mod-stream".into());
        }
        Mode::Tcp => {
            format!(
                "stream {{ server {{ listen {listen} backlog=8192; tcp_nodelay on; proxy_pass {origin}; }} }}"
            )
        }
        Mode::Http => format!(
            "http {{ access_log off; keepalive_requests 1000000000; client_body_temp_path {0}/n1;\n\
             proxy_temp_path {0}/n2; server {{ listen {listen} backlog=8192; location / {{\n\
             proxy_http_version 1.1; proxy_set_header Connection close; proxy_max_temp_file_size 0;\n\
             proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_pass http://{origin}; }} }} }}",
            directory.display()
        ),
    };
    let load = if mode == Mode::Tcp { format!("load_module {module};\n") } else { String::new() };
    let text = format!(
        "{load}daemon off; master_process off; pid {0}/nginx.pid; error_log {0}/nginx.log;\n\
         events {{ worker_connections 16384; }}\n{proxy}\n",
        directory.display()
    );
    let config = write(directory, "nginx.conf", &text)?;
    Running::start("nginx", &["-c", &config.display().to_string()], listen)
}

/// A free address, which another program is to bind at once.
pub(super) fn free_address() -> Result<SocketAddr, Error> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A running program; it is killed with this value.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    /// `None`: there is no proxy.
    child: Option<Child>,
    /// The process that carries the connections.
    measured: Option<Process>,
}

impl Running {
    /// Starts a program, and waits until it listens.
    pub(super) fn start(program: &str, arguments: &[&str], address: SocketAddr) -> Result<Self, Error> {
        let mut command = Command::new(program);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().map_err(|error| step::cannot_start(&command, &error))?;
        let measured = Process::find(child.id());
        let mut this = Self { address, child: Some(child), measured };
        wait_until(Deadline::after(START), step::shown(&command), || {
            let has_exited = this.child.as_mut().is_some_and(|child| !matches!(child.try_wait(), Ok(None)));
            (has_exited || TcpStream::connect(address).is_ok()).then_some(())
        });
        if TcpStream::connect(address).is_err() {
            return Err(format!("`{}` does not listen", step::shown(&command)).into());
        }
        Ok(this)
    }

    /// Measures the descendant of this name instead of the program itself.
    fn measuring(mut self, name: &str) -> Result<Self, Error> {
        let program = self.measured;
        self.measured = wait_until(Deadline::after(START), format!("a process `{name}`"), || {
            let mut tree = program.map(|program| program.tree()).unwrap_or_default().into_iter();
            let found = tree.find(|process| process.stat().is_some_and(|stat| stat.name == name));
            (found.is_some() || !program.is_some_and(|program| program.is_alive())).then_some(found)
        });
        if self.measured.is_none() { Err(format!("there is no process `{name}`").into()) } else { Ok(self) }
    }

    /// The processor time of all threads until now (proc(5), `stat`).
    pub(super) fn cpu(&self) -> Result<Duration, Error> {
        let Some(stat) = self.read("stat")? else { return Ok(Duration::ZERO) };
        // After the name, which may contain anything: state, then utime and stime as the 12th and 13th.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |at: usize| fields.get(at).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let per_second = sysconf(SysconfVar::CLK_TCK)?.unwrap_or(100).unsigned_abs();
        Ok(Duration::from_millis((ticks(11) + ticks(12)) * 1000 / per_second))
    }

    /// The resident memory in kB.
    pub(super) fn memory(&self) -> Result<usize, Error> {
        let Some(status) = self.read("status")? else { return Ok(0) };
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
        Ok(line.trim().trim_end_matches(" kB").parse()?)
    }

    pub(super) fn descriptors(&self) -> Result<usize, Error> {
        let Some(process) = &self.measured else { return Ok(0) };
        Ok(fs::read_dir(format!("/proc/{}/fd", process.pid()))?.count())
    }

    /// Waits until it has opened or closed its connections.
    pub(super) fn wait_for_descriptors(&self, is: impl Fn(usize) -> bool) -> Result<(), Error> {
        let deadline = Instant::now() + START;
        while self.measured.is_some() && !is(self.descriptors()?) {
            if Instant::now() > deadline {
                return Err(format!("it has {} descriptors after {START:?}", self.descriptors()?).into());
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    fn read(&self, file: &str) -> Result<Option<String>, Error> {
        let Some(process) = &self.measured else { return Ok(None) };
        Ok(Some(fs::read_to_string(format!("/proc/{}/{file}", process.pid()))?))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
