//! Changes the conditions under which a program starts (terminal, signals, descriptors, limits), then
//! executes it; or guards a test process. See HELP.
//!
//! It is a separate program because the test's process could do this between fork and exec only with unsafe
//! code.

use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, IoSliceMut, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use nix::unistd::{close, setsid};
use psflip_testkit::{MARKER, process};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

const HELP: &str = "\
testkit-launch [OPTION]... [--] PROGRAM [ARG]...
  --setsid             in a session of its own
  --ctty               descriptor 0 becomes the controlling terminal (with --setsid)
  --take-fds 0,N...    descriptor 0 is a Unix socket; takes descriptors from one message (SCM_RIGHTS) and opens
                       them as these numbers
  --close N            with descriptor N closed
  --rlimit NAME=N      soft and hard limit: as, core, cpu, data, fsize, memlock, nofile, nproc, stack
  --umask OCTAL        file mode creation mask
  --nice N             adds to the nice level
testkit-launch --guard PREFIX
  reads folders from stdin, one a line; at its end kills every process whose TESTKIT_SANDBOX begins with PREFIX, and
  removes the folders
Ignored and blocked signals: put `env --ignore-signal=HUP` or `env --block-signal=HUP` (coreutils) before PROGRAM.
Exit code: PROGRAM's; 125 when an option fails, 126 or 127 when PROGRAM can't be executed or found.
";

type Result<T> = std::result::Result<T, Box<dyn Error>>;

#[derive(Default)]
struct Options {
    setsid: bool,
    ctty: bool,
    take: Vec<i32>,
    close: Vec<i32>,
    rlimits: Vec<(Resource, u64)>,
    umask: Option<Mode>,
    nice: Option<i32>,
}

fn main() -> ExitCode {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    match args.first().and_then(|arg| arg.to_str()) {
        None | Some("--help") => {
            // A failed write means that stdout is closed; there is no other place to report it.
            let _ = io::stdout().write_all(HELP.as_bytes());
            return ExitCode::SUCCESS;
        }
        Some("--guard") if args.len() == 2 => {
            guard(&args[1].to_string_lossy());
            return ExitCode::SUCCESS;
        }
        Some(_) => {}
    }
    let error = match parse(&mut args).and_then(|options| apply(&options)) {
        Err(error) => return fail(125, &error.to_string()),
        Ok(()) if args.is_empty() => return fail(125, "no program is given"),
        Ok(()) => Command::new(&args[0]).args(&args[1..]).exec(),
    };
    let code = if error.kind() == io::ErrorKind::NotFound { 127 } else { 126 };
    fail(code, &format!("`{}` can't be executed: {error}", args[0].display()))
}

fn fail(code: u8, message: &str) -> ExitCode {
    // If descriptor 2 is closed, the exit code is the only report.
    let _ = writeln!(io::stderr(), "testkit-launch: {message}");
    ExitCode::from(code)
}

/// Takes the options from the front of `args`.
fn parse(args: &mut Vec<OsString>) -> Result<Options> {
    let mut options = Options::default();
    while args.first().is_some_and(|arg| arg.to_string_lossy().starts_with("--")) {
        let name = args.remove(0).to_string_lossy().into_owned();
        match name.as_str() {
            "--" => break,
            "--setsid" => options.setsid = true,
            "--ctty" => options.ctty = true,
            _ => {
                if args.is_empty() {
                    return Err(format!("`{name}` is unknown or needs a value").into());
                }
                let value = args.remove(0).to_string_lossy().into_owned();
                let set = match name.as_str() {
                    "--take-fds" => numbers(&value).map(|numbers| options.take = numbers),
                    "--close" => value.parse().map(|number| options.close.push(number)).map_err(Into::into),
                    "--rlimit" => rlimit(&value).map(|limit| options.rlimits.push(limit)),
                    "--umask" => mode(&value).map(|mode| options.umask = Some(mode)),
                    "--nice" => value.parse().map(|by| options.nice = Some(by)).map_err(Into::into),
                    _ => Err("unknown option".into()),
                };
                set.map_err(|error: Box<dyn Error>| format!("`{name} {value}`: {error}"))?;
            }
        }
    }
    Ok(options)
}

fn numbers(text: &str) -> Result<Vec<i32>> {
    Ok(text.split(',').map(str::parse).collect::<std::result::Result<_, _>>()?)
}

fn rlimit(text: &str) -> Result<(Resource, u64)> {
    let (name, value) = text.split_once('=').ok_or("not of the form `NAME=N`")?;
    let resource = match name {
        "as" => Resource::RLIMIT_AS,
        "core" => Resource::RLIMIT_CORE,
        "cpu" => Resource::RLIMIT_CPU,
        "data" => Resource::RLIMIT_DATA,
        "fsize" => Resource::RLIMIT_FSIZE,
        "memlock" => Resource::RLIMIT_MEMLOCK,
        "nofile" => Resource::RLIMIT_NOFILE,
        "nproc" => Resource::RLIMIT_NPROC,
        "stack" => Resource::RLIMIT_STACK,
        _ => return Err("unknown limit".into()),
    };
    Ok((resource, value.parse()?))
}

fn mode(text: &str) -> Result<Mode> {
    Ok(Mode::from_bits_truncate(u32::from_str_radix(text, 8)?))
}

fn apply(options: &Options) -> Result<()> {
    if options.setsid {
        setsid()?;
    }
    if !options.take.is_empty() {
        take_fds(&options.take)?;
    }
    if options.ctty {
        rustix::process::ioctl_tiocsctty(io::stdin())?;
    }
    if let Some(mode) = options.umask {
        umask(mode);
    }
    if let Some(by) = options.nice {
        rustix::process::nice(by)?;
    }
    for number in &options.close {
        close(*number)?;
    }
    for (resource, value) in &options.rlimits {
        let hard = getrlimit(*resource)?.1.min(*value);
        setrlimit(*resource, *value, hard.max(*value))?;
    }
    Ok(())
}

/// Receives descriptors over the socket at descriptor 0 and opens them as `numbers`.
fn take_fds(numbers: &[i32]) -> Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(io::stdin(), &mut [IoSliceMut::new(&mut byte)], &mut control, RecvFlags::CMSG_CLOEXEC)?;
    let mut received: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(fds) = message {
            received.extend(fds);
        }
    }
    if received.len() != numbers.len() {
        return Err(format!("{} descriptors came for {} numbers", received.len(), numbers.len()).into());
    }
    // First copy every descriptor above the wanted numbers, then move each to its number. dup2(2) would do
    // this in one step, but is unsafe.
    let above = numbers.iter().max().map_or(3, |most| (most + 1).max(3));
    let mut parked = Vec::new();
    for fd in received {
        let mut high = Vec::new();
        // Copy to the lowest free number until one is high enough; the lower copies are closed again.
        while high.last().is_none_or(|copy: &OwnedFd| copy.as_raw_fd() < above) {
            high.push(fd.try_clone()?);
        }
        parked.extend(high.pop());
    }
    for (number, from) in numbers.iter().zip(&parked) {
        // EBADF: it was not open.
        let _ = close(*number);
        fcntl(from, FcntlArg::F_DUPFD(*number))?;
    }
    Ok(())
}

/// Waits until the test process has exited, then kills its processes and removes its folders.
fn guard(prefix: &str) {
    let folders: Vec<String> = io::stdin().lock().lines().map_while(std::result::Result::ok).collect();
    // Look until several looks in a row find nothing: a killed supervisor may just have started a process,
    // and a process in the middle of execve(2) shows no environment.
    let mut quiet = 0;
    for _ in 0..2000 {
        let marked = |stat: &process::Stat| {
            let id = stat.process.env(MARKER).unwrap_or_default();
            stat.state.is_alive() && id.to_string_lossy().starts_with(prefix)
        };
        let left: Vec<_> = process::all().into_iter().filter(marked).collect();
        quiet = if left.is_empty() { quiet + 1 } else { 0 };
        if quiet == 10 {
            break;
        }
        for stat in left {
            // ESRCH: it has exited since. EPERM: it belongs to another user. Neither can be reported to the
            // test, which is gone.
            let _ = stat.process.signal(Signal::SIGKILL);
        }
        std::thread::yield_now();
    }
    for folder in folders {
        let path = Path::new(&folder);
        if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("tk")) {
            // Usually the test has removed it already.
            let _ = fs::remove_dir_all(path);
        }
    }
}
