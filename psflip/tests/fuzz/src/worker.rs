//! One target in a process of its own, with little memory and little time for each input.

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
/// After so many seconds an input is taken for one that hangs.
pub(crate) const LONGEST: u32 = 60;
/// The processor time that one input may take.
const PATIENCE: Duration = Duration::from_secs(4);
/// The address space that all inputs of a worker may take beyond what the worker has at its start: its stack included.
const MEMORY: u64 = 96 * 1024 * 1024;

/// How long a worker works, and from which seed.
pub(crate) struct Limit {
    pub(crate) seconds: u64,
    pub(crate) inputs: u64,
    pub(crate) seed: u64,
}

/// Works on the one target, from the corpus or on this input alone.
pub(crate) fn work(
    names: &[String],
    folder: &Path,
    limit: &Limit,
    input: Option<&Path>,
) -> Result<ExitCode, Error> {
    // psflip's library blocks all signals before `main`, and this worker needs SIGALRM. It ends with its driver.
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
            // What is known comes first, as it is.
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
        if outcome.is_ok() && took > PATIENCE {
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

/// The file in a worker's folder that holds the input it works on, after its length.
const INPUT: &str = "input";

/// What the worker of this folder worked on when it ended.
pub(crate) fn last_input(folder: &Path) -> Result<Option<Vec<u8>>, Error> {
    let Ok(bytes) = std::fs::read(folder.join(INPUT)) else { return Ok(None) };
    let Some((length, rest)) = bytes.split_first_chunk::<8>() else { return Ok(None) };
    let length = usize::try_from(u64::from_ne_bytes(*length))?;
    Ok(rest.get(..length).map(<[u8]>::to_vec))
}

/// What this process has used of the processor.
fn processor_time() -> Result<Duration, Error> {
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

/// A figure of this process in bytes (proc_pid_status(5)).
fn figure(name: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}
