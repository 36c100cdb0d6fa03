//! Threads for work that would block a worker: models, and detectors over long prompts.
//!
//! - *In*: jobs, from any worker.
//! - *Out*: jobs that run, roughly in the order they were queued.
//! - *Never*: more waiting jobs than the queue holds: a further job is refused at once, and the
//!   `on_failure` of its filter applies.
//!
//! Threads of the pool are made with the first job: a gateway without guardrails has none.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, OnceLock};
use std::thread::{Builder, JoinHandle};

use filters::{Failure, Job};
use parking_lot::Mutex;

/// A pool of threads with a bounded queue.
pub struct ThreadPool {
    name: &'static str,
    threads: usize,
    queue: usize,
    running: OnceLock<Running>,
}

impl std::fmt::Debug for ThreadPool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ThreadPool").field("threads", &self.threads).finish_non_exhaustive()
    }
}

struct Running {
    /// `None` only while the pool ends.
    jobs: Mutex<Option<SyncSender<Job>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl ThreadPool {
    /// A pool of `threads` (0: half of the cores) with room for `queue` waiting jobs.
    pub fn new(name: &'static str, threads: usize, queue: usize) -> Self {
        let half = || {
            std::thread::available_parallelism().map_or(1, |cores| usize::from(cores) / 2).max(1)
        };
        ThreadPool {
            name,
            threads: if threads == 0 { half() } else { threads },
            queue,
            running: OnceLock::new(),
        }
    }

    /// Queue a job.
    pub fn offload(&self, job: Job) -> Result<(), Failure> {
        let running =
            self.running.get_or_init(|| Running::start(self.name, self.threads, self.queue));
        match running.jobs.lock().as_ref().map(|jobs| jobs.try_send(job)) {
            Some(Ok(())) => Ok(()),
            Some(Err(TrySendError::Full(_))) => Err(Failure::Busy),
            Some(Err(TrySendError::Disconnected(_))) | None => Err(Failure::Panicked),
        }
    }
}

impl Running {
    fn start(name: &str, threads: usize, queue: usize) -> Self {
        let (jobs, take) = sync_channel::<Job>(queue);
        let take = Arc::new(Mutex::new(take));
        let work = |number: usize| {
            let take = take.clone();
            // Joined when the pool is dropped.
            Builder::new().name(format!("llm-lens-{name}-{number}")).spawn(move || work(&take))
        };
        let threads = (0..threads)
            .filter_map(|number| {
                work(number)
                    .inspect_err(
                        |e| tracing::error!(error = %e, "cannot start a thread of the pool"),
                    )
                    .ok()
            })
            .collect();
        Running { jobs: Mutex::new(Some(jobs)), threads: Mutex::new(threads) }
    }
}

/// Run jobs until the channel closes.
fn work(take: &Mutex<Receiver<Job>>) {
    loop {
        // The lock is held while waiting for a job; the other threads wait for the lock.
        let Ok(job) = ({ take.lock().recv() }) else { return };
        // Jobs catch their own panics; this keeps the thread should one not.
        let _ = catch_unwind(AssertUnwindSafe(job));
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        let Some(running) = self.running.take() else { return };
        running.jobs.lock().take();
        for thread in running.threads.lock().drain(..) {
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    const QUEUE: usize = 256;

    #[test]
    fn jobs_run_despite_panics_and_a_full_queue_is_busy() {
        let pool = ThreadPool::new("test", 2, QUEUE);
        let (done, told) = sync_channel(64);
        pool.offload(Box::new(|| panic!("a job that panics"))).unwrap();
        for number in 0..20 {
            let done = done.clone();
            pool.offload(Box::new(move || done.send(number).unwrap())).unwrap();
        }
        let mut all: Vec<i32> = (0..20).map(|_| told.recv().unwrap()).collect();
        all.sort_unstable();
        assert_eq!(all, (0..20).collect::<Vec<_>>());

        let (open, gate) = sync_channel::<()>(1);
        let gate = Arc::new(Mutex::new(gate));
        let wait = || {
            let gate = gate.clone();
            Box::new(move || {
                let _ = gate.lock().recv();
            })
        };
        let taken = (0..QUEUE + 10).filter(|_| pool.offload(wait()).is_ok()).count();
        assert!((QUEUE..=QUEUE + 2).contains(&taken), "{taken}");
        assert_eq!(pool.offload(wait()), Err(Failure::Busy));
        drop(open);
    }
}
