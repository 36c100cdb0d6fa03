//! One copy of a value per worker, so that recording never waits for another worker.
//!
//! - *In*: the worker's number.
//! - *Out*: exclusive access to its copy; all copies in turn for a snapshot.
//! - *Never*: a lock that two workers contend for in normal operation. Only a snapshot contends
//!   with a worker.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One copy for each worker.
#[derive(Debug)]
pub struct Sharded<T> {
    shards: Box<[Mutex<T>]>,
}

impl<T: Default> Sharded<T> {
    /// Create one copy per worker, at least one.
    pub fn new(workers: usize) -> Self {
        Sharded { shards: (0..workers.max(1)).map(|_| Mutex::new(T::default())).collect() }
    }

    /// The copy of a worker. Worker numbers wrap around.
    #[inline]
    pub fn shard(&self, worker: usize) -> MutexGuard<'_, T> {
        // A worker that panicked while recording left at most one incomplete observation.
        self.shards[worker % self.shards.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Call `look` with each copy in turn.
    pub fn for_each(&self, mut look: impl FnMut(&mut T)) {
        for worker in 0..self.shards.len() {
            look(&mut self.shard(worker));
        }
    }
}
