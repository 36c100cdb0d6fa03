//! A value in as many copies as there are workers, so that recording never waits for another
//! worker.
//!
//! - *In*: the worker's number.
//! - *Out*: exclusive access to its copy; all copies in turn for a snapshot.
//! - *Never*: a lock that two workers want at the same time in the ordinary course; only a snapshot
//!   meets a worker.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One copy for each worker.
#[derive(Debug)]
pub struct Sharded<T> {
    shards: Box<[Mutex<T>]>,
}

impl<T: Default> Sharded<T> {
    /// That many copies, at least one.
    pub fn new(workers: usize) -> Self {
        Sharded { shards: (0..workers.max(1)).map(|_| Mutex::new(T::default())).collect() }
    }

    /// The copy of a worker. Numbers beyond the workers share the copies.
    #[inline]
    pub fn shard(&self, worker: usize) -> MutexGuard<'_, T> {
        // A worker that panicked while it counted left at worst one observation half made.
        self.shards[worker % self.shards.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Each copy in turn.
    pub fn for_each(&self, mut look: impl FnMut(&mut T)) {
        for worker in 0..self.shards.len() {
            look(&mut self.shard(worker));
        }
    }
}
