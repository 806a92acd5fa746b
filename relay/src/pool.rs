//! Idle connections to the child, kept for the next request. All of them are of this relay's generation.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use tokio::task::spawn_local;
use tokio::time::Instant;

use crate::pause::pause;

/// How long a connection is kept without a request. Servers close their idle connections later: gunicorn
/// after 2 s, Node.js and uvicorn after 5 s.
pub(crate) const IDLE: Duration = Duration::from_secs(1);

/// Idle connections to the child. `C` closes its connection when it is dropped.
#[derive(Debug)]
pub(crate) struct Pool<C>(Rc<Shared<C>>);

#[derive(Debug)]
struct Shared<C> {
    most: usize,
    /// Each with the time since when it is idle, the least recently used first.
    idle: RefCell<VecDeque<(Instant, C)>>,
    /// A task closes those that were idle for too long. Without connections there is none.
    expires: Cell<bool>,
}

impl<C: 'static> Pool<C> {
    /// Keeps at most this many; 0: none.
    pub(crate) fn new(most: usize) -> Self {
        Self(Rc::new(Shared { most, idle: RefCell::default(), expires: Cell::new(false) }))
    }

    pub(crate) fn is_on(&self) -> bool {
        self.0.most > 0
    }

    /// The connection that was used last.
    pub(crate) fn take(&self) -> Option<C> {
        self.0.idle.borrow_mut().pop_back().map(|(_, connection)| connection)
    }

    /// Closes the connection that was used the longest time ago.
    pub(crate) fn close_oldest(&self) {
        let oldest = self.0.idle.borrow_mut().pop_front();
        drop(oldest);
    }

    /// Closes all.
    pub(crate) fn close(&self) {
        let all = self.0.idle.take();
        drop(all);
    }

    /// Keeps a connection, if there is a pool.
    pub(crate) fn put(&self, connection: C) {
        if self.0.idle.borrow().len() >= self.0.most {
            self.close_oldest();
        }
        if !self.is_on() {
            return;
        }
        self.0.idle.borrow_mut().push_back((Instant::now(), connection));
        if !self.0.expires.replace(true) {
            spawn_local(expire(Rc::clone(&self.0)));
        }
    }
}

async fn expire<C>(pool: Rc<Shared<C>>) {
    loop {
        let next = pool.idle.borrow().front().map(|(since, _)| IDLE.saturating_sub(since.elapsed()));
        match next {
            None => break,
            Some(Duration::ZERO) => {
                let expired = pool.idle.borrow_mut().pop_front();
                drop(expired);
            }
            Some(rest) => pause(rest).await,
        }
    }
    pool.expires.set(false);
}

#[cfg(test)]
mod tests {
    use tokio::task::LocalSet;

    use super::*;

    /// With a clock that runs ahead as soon as everything waits.
    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        LocalSet::new().block_on(&runtime.unwrap(), test);
    }

    #[test]
    fn the_most_recently_used_is_taken_and_the_least_recently_used_closed() {
        run(async {
            let pool = Pool::new(3);
            let all: Vec<Rc<u8>> = (0..5).map(Rc::new).collect();
            all.iter().for_each(|one| pool.put(Rc::clone(one)));
            let kept = || all.iter().map(|one| Rc::strong_count(one) - 1).collect::<Vec<_>>();
            assert_eq!(kept(), [0, 0, 1, 1, 1]);
            assert_eq!(pool.take().as_deref(), Some(&4));
            pool.close_oldest();
            assert_eq!(kept(), [0, 0, 0, 1, 0]);
            pool.close();
            assert_eq!(kept(), [0, 0, 0, 0, 0]);
            assert_eq!(pool.take(), None);
        });
    }

    #[test]
    fn each_is_closed_when_it_was_idle_for_too_long() {
        run(async {
            let pool = Pool::new(3);
            let (first, second) = (Rc::new(1), Rc::new(2));
            for _ in 0..2 {
                pool.put(Rc::clone(&first));
                pause(IDLE / 2).await;
                pool.put(Rc::clone(&second));
                pause(IDLE / 2 + Duration::from_millis(2)).await;
                assert_eq!((Rc::strong_count(&first), Rc::strong_count(&second)), (1, 2));
                pause(IDLE / 2).await;
                assert_eq!((Rc::strong_count(&first), Rc::strong_count(&second)), (1, 1));
                assert!(!pool.0.expires.get(), "an empty pool needs no task");
            }
        });
    }

    #[test]
    fn a_pool_of_0_keeps_nothing() {
        run(async {
            let pool = Pool::new(0);
            pool.put(1);
            assert_eq!((pool.is_on(), pool.take()), (false, None));
        });
    }
}
