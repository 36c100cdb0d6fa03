//! The thread that uploads complete files of a folder.
//!
//! - *In*: a folder, which is the queue: a file is complete and never changed; its name says so.
//! - *Out*: objects. A local file is removed, or moved to `uploaded`, when the store has
//!   acknowledged its object.
//! - *Never*: a second upload that changes an object; more waiting files than the limit: the oldest
//!   are removed and counted; uploads of two processes at a time, which the lock prevents.
//!
//! A process that is killed at any point leaves the file, the object, or both. The next one creates
//! the object, unless it is there with the same content, and then removes the file.

mod backoff;
mod counters;
mod disk;
mod worker;

use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use counters::UploadCounters;
use disk::Folder;
use worker::Worker;

use crate::bucket::Bucket;

/// How long the end of the process waits for uploads. What is left is uploaded by the next start.
const LAST_ATTEMPTS: Duration = Duration::from_secs(3);

/// The name of the object of a complete file; `None`: the file is not complete, or not of this
/// kind.
pub type ObjectName = Box<dyn Fn(&str) -> Option<String> + Send>;

/// What is uploaded.
pub struct UploadOptions {
    /// The folder.
    pub folder: PathBuf,
    /// The name of the object of a file.
    pub object_name: ObjectName,
    /// How long a file stays in `uploaded`, by its last change; `None`: it is removed at once.
    pub keep: Option<Duration>,
    /// Bytes of files that wait. The oldest are removed beyond it.
    pub max_waiting: u64,
    /// Interval at which the folder is read.
    pub interval: Duration,
    /// Wait after the first failure, and the longest one.
    pub backoff: (Duration, Duration),
}

/// Uploads files on a thread of its own.
pub struct Uploader {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wakes: Condvar,
}

#[derive(Default)]
struct State {
    /// When the thread must stop. Set at the end.
    deadline: Option<Instant>,
    has_ended: bool,
}

impl Uploader {
    /// Starts the thread.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        bucket: Bucket,
        options: UploadOptions,
        counters: Arc<UploadCounters>,
    ) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let disk = Folder::new(options.folder.clone());
        let mut worker = Worker::new(disk, bucket, options, counters);
        let seen = shared.clone();
        let thread = std::thread::Builder::new().name("llm-lens-upload".into());
        let thread = Some(thread.spawn(move || {
            worker.work(&seen);
            seen.lock().has_ended = true;
            seen.wakes.notify_all();
        })?);
        Ok(Uploader { shared, thread })
    }

    /// Tries once more what is left, and ends the thread.
    pub fn end(&mut self) {
        let Some(thread) = self.thread.take() else { return };
        self.shared.lock().deadline = Some(Instant::now() + LAST_ATTEMPTS);
        self.shared.wakes.notify_all();
        // A disk that hangs must not delay the end of the process.
        let runs = |state: &mut State| !state.has_ended;
        let limit = LAST_ATTEMPTS + Duration::from_secs(1);
        let waited = self.shared.wakes.wait_timeout_while(self.shared.lock(), limit, runs);
        if waited.unwrap_or_else(PoisonError::into_inner).0.has_ended {
            let _ = thread.join();
        }
    }
}

impl Drop for Uploader {
    fn drop(&mut self) {
        self.end();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn must_stop(&self) -> bool {
        self.lock().deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    fn ends(&self) -> bool {
        self.lock().deadline.is_some()
    }

    /// Waits for `time`, or until the end begins.
    fn wait(&self, time: Duration) {
        let goes_on = |state: &mut State| state.deadline.is_none();
        let _ = self.wakes.wait_timeout_while(self.lock(), time, goes_on);
    }
}

#[cfg(test)]
mod tests;
