//! Test failures as one readable text: the failed condition, then the state of the sandboxes.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::sandbox::Inner;
use crate::wait::Deadline;

/// The existing sandboxes. The failure of a thread reports its own sandboxes, or all if it has none (a helper
/// thread).
static LIVE: Mutex<Vec<Weak<Inner>>> = Mutex::new(Vec::new());

pub(crate) fn register(sandbox: &Arc<Inner>) {
    let mut live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    live.retain(|known| known.strong_count() > 0);
    live.push(Arc::downgrade(sandbox));
}

/// Panics with `what` and the reports of this thread's sandboxes.
#[track_caller]
pub(crate) fn fail(what: &str) -> ! {
    let mut text = what.to_owned();
    for sandbox in concerned() {
        text.push('\n');
        text.push_str(&sandbox.report());
    }
    panic!("{text}");
}

/// Panics because a deadline has passed.
#[track_caller]
pub(crate) fn expired(deadline: &Deadline, what: &dyn fmt::Display) -> ! {
    fail(&format!("waited {:.1} s for {what}, which did not happen", deadline.elapsed().as_secs_f64()));
}

fn concerned() -> Vec<Arc<Inner>> {
    let live = LIVE.lock().unwrap_or_else(PoisonError::into_inner);
    let all: Vec<_> = live.iter().filter_map(Weak::upgrade).collect();
    drop(live);
    let here = std::thread::current().id();
    let own: Vec<_> = all.iter().filter(|sandbox| sandbox.owner == here).cloned().collect();
    if own.is_empty() { all } else { own }
}
