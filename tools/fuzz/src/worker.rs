//! Runs one target in a process of its own, with limited memory, and limited time per input.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::alarm;

use crate::rng::Rng;
use crate::{Error, corpus, mutate, targets};

/// The exit code of a worker that found a broken promise.
pub(crate) const BROKEN: i32 = 3;
/// The time limit of an input, in seconds, after which it counts as a hang.
pub(crate) const LONGEST: u32 = 60;
/// The CPU time limit of an input.
const CPU_TIME_LIMIT: Duration = Duration::from_secs(4);
/// The limit of the worker's additional address space, in bytes, including the stack.
const MEMORY: u64 = 96 * 1024 * 1024;

/// How long a worker runs, and its seed.
pub(crate) struct Limit {
    pub(crate) seconds: u64,
    pub(crate) inputs: u64,
    pub(crate) seed: u64,
}

/// Runs one target, with the corpus or with this input alone.
pub(crate) fn work(
    names: &[String],
    folder: &Path,
    limit: &Limit,
    input: Option<&Path>,
) -> Result<ExitCode, Error> {
    // psflip's library blocks all signals before `main`, but this worker needs SIGALRM.
    SigSet::all().thread_unblock()?;
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let [name] = names else { return Err("a worker has one target".into()) };
    let target = targets::find(name)?;
    let corpus = corpus::of(target.name)?;
    let mut run = (target.start)(folder)?;
    let memory = figure("VmSize:").unwrap_or_default() + MEMORY;
    setrlimit(Resource::RLIMIT_AS, memory, memory)?;

    let last = File::create(folder.join(INPUT))?;
    let mut rng = Rng::new(limit.seed);
    let words = (target.words)();
    let given = input.map(std::fs::read).transpose()?;
    let start = Instant::now();
    let (mut count, mut slowest) = (0_u64, Duration::ZERO);
    while count < limit.inputs && start.elapsed().as_secs() < limit.seconds {
        let bytes = match &given {
            Some(bytes) => bytes.clone(),
            // First the seeds themselves, then mutations.
            None => match corpus.get(usize::try_from(count)?) {
                Some(bytes) => bytes.clone(),
                None => mutate::input(&mut rng, &corpus, &words),
            },
        };
        last.write_all_at(&bytes, 8)?;
        last.write_all_at(&(bytes.len() as u64).to_ne_bytes(), 0)?;
        alarm::set(LONGEST);
        let before = processor_time()?;
        let mut outcome = run(&bytes);
        let took = processor_time()?.saturating_sub(before);
        slowest = slowest.max(took);
        if outcome.is_ok() && took > CPU_TIME_LIMIT {
            outcome = Err(format!("it took {took:?} of the processor"));
        }
        if let Err(why) = outcome {
            eprintln!("{}: {why}", target.name);
            return Ok(ExitCode::from(BROKEN as u8));
        }
        count += 1;
        if given.is_some() {
            break;
        }
    }
    alarm::cancel();
    println!(
        "{:<10}{count} inputs in {:.1} s, none broke a promise; slowest {slowest:.1?}, most memory {} MB, seed {}",
        target.name,
        start.elapsed().as_secs_f64(),
        figure("VmHWM:").unwrap_or_default() >> 20,
        limit.seed
    );
    Ok(ExitCode::SUCCESS)
}

/// The file in a worker's folder with the length of the current input, then the input.
const INPUT: &str = "input";

/// The last input of the worker with this folder.
pub(crate) fn last_input(folder: &Path) -> Result<Option<Vec<u8>>, Error> {
    let Ok(bytes) = std::fs::read(folder.join(INPUT)) else { return Ok(None) };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return Ok(None) };
    let length = usize::try_from(u64::from_ne_bytes(*length))?;
    Ok(rest.get(..length).map(<[u8]>::to_vec))
}

/// The CPU time of this process so far.
fn processor_time() -> Result<Duration, Error> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// A value of this process in bytes (proc_pid_status(5)).
fn figure(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
