//! The recorder: a queue of drafts, and the thread that redacts, encrypts and writes them.
//!
//! - *In*: drafts of requests that have ended.
//! - *Out*: files; counts.
//! - *Never*: a wait of a request. Drafts have leases of [`MAX_MEMORY`](crate::MAX_MEMORY) until
//!   they are written: what does not fit is dropped and counted.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use uuid::Uuid;

use crate::budget::Budget;
use crate::draft::{DRAFT_OVERHEAD, Draft, Request};
use crate::folder::{Folder, Plain};
use crate::key::Keys;
use crate::reader::Reader;
use crate::retention::Limits;

/// Interval at which the thread takes drafts from the queue.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What contents are stored with.
#[derive(Clone, Debug)]
pub struct ContentOptions {
    /// The folder of the files.
    pub folder: PathBuf,
    /// Keys of the operator.
    pub keys: Keys,
    /// Maximum age of a content.
    pub keep: Duration,
    /// Maximum bytes of the folder.
    pub max_size: u64,
    /// Maximum bytes of the texts of a prompt, and of an answer.
    pub max_text: usize,
    /// The wall clock, in Unix microseconds.
    pub wall_us: fn() -> u64,
}

/// What was stored, lost and removed since the start.
#[derive(Debug, Default)]
pub struct Counts {
    stored: AtomicU64,
    without_memory: AtomicU64,
    failed: AtomicU64,
    failures: AtomicU64,
    removed: AtomicU64,
    size: AtomicU64,
}

impl Counts {
    /// Requests whose contents were stored.
    pub fn stored(&self) -> u64 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Requests whose contents were dropped because of the maximum of memory.
    pub fn without_memory(&self) -> u64 {
        self.without_memory.load(Ordering::Relaxed)
    }

    /// Requests whose contents could not be written.
    pub fn failed(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Failed operations on files.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Files removed by age or size.
    pub fn removed_files(&self) -> u64 {
        self.removed.load(Ordering::Relaxed)
    }

    /// Bytes of the folder, as of the last search for old files.
    pub fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }

    pub(crate) fn add_stored(&self, count: u64) {
        self.stored.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_failed(&self, count: u64) {
        self.failed.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_failure(&self) {
        self.failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_removed(&self, count: u64) {
        self.removed.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn set_size(&self, size: u64) {
        self.size.store(size, Ordering::Relaxed);
    }
}

/// Stores contents. [`Recorder::close`] writes what waits; so does dropping it.
#[derive(Debug)]
pub struct Recorder {
    queue: Arc<Queue>,
    budget: Arc<Budget>,
    counts: Arc<Counts>,
    max_text: usize,
    reader: Reader,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Mutex<Waiting>,
    wakes: Condvar,
}

#[derive(Debug, Default)]
struct Waiting {
    drafts: Vec<(Box<Draft>, Request)>,
    ends: bool,
}

impl Recorder {
    /// Opens the folder, and starts the thread.
    ///
    /// # Errors
    /// The folder cannot be created or written; the thread cannot start.
    pub fn start(options: ContentOptions) -> io::Result<Self> {
        let ContentOptions { folder, keys, keep, max_size, max_text, wall_us } = options;
        let counts = Arc::<Counts>::default();
        let now_ms = move || wall_us() / 1000;
        let (key, limits) = (keys.current.clone(), Limits::new(keep, max_size));
        let mut files = Folder::open(&folder, key, limits, counts.clone(), now_ms())?;
        let queue = Arc::<Queue>::default();
        let taken = queue.clone();
        // Joined by `close`.
        let thread =
            std::thread::Builder::new().name("llm-lens-contents".into()).spawn(move || {
                loop {
                    let (drafts, ends) = taken.take();
                    files.write(drafts.into_iter().filter_map(plain).collect(), now_ms());
                    files.tick(now_ms());
                    if ends {
                        return files.close(now_ms());
                    }
                }
            })?;
        Ok(Recorder {
            queue,
            budget: Arc::default(),
            counts,
            max_text,
            reader: Reader::new(folder, keys, keep),
            thread: Mutex::new(Some(thread)),
        })
    }

    /// A draft for a request. `None`: there is no memory, which is counted.
    pub fn draft(&self) -> Option<Box<Draft>> {
        let Some(lease) = self.budget.lease(DRAFT_OVERHEAD) else {
            self.counts.without_memory.fetch_add(1, Ordering::Relaxed);
            return None;
        };
        Some(Box::new(Draft::new(lease, self.max_text)))
    }

    /// Store the content of a request that has ended.
    pub fn store(&self, draft: Box<Draft>, request: Request) {
        let mut waiting = lock(&self.queue.waiting);
        if waiting.ends {
            drop(waiting);
            return self.counts.add_failed(1);
        }
        waiting.drafts.push((draft, request));
    }

    /// What was stored and lost.
    pub fn counts(&self) -> &Counts {
        &self.counts
    }

    /// Reads what is stored.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Write what waits, and close the file. A second call does nothing.
    pub fn close(&self) {
        lock(&self.queue.waiting).ends = true;
        self.queue.wakes.notify_one();
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join();
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        self.close();
    }
}

impl Queue {
    /// What waits, after at most [`POLL_INTERVAL`]; and whether nothing follows.
    fn take(&self) -> (Vec<(Box<Draft>, Request)>, bool) {
        let waiting = lock(&self.waiting);
        let waiting = self
            .wakes
            .wait_timeout_while(waiting, POLL_INTERVAL, |waiting| !waiting.ends)
            .unwrap_or_else(PoisonError::into_inner);
        let mut waiting = waiting.0;
        (std::mem::take(&mut waiting.drafts), waiting.ends)
    }
}

/// The bytes of a content. `None`: the request has no unique id, which the pipeline rules out.
fn plain((draft, request): (Box<Draft>, Request)) -> Option<Plain> {
    let id = Uuid::parse_str(&request.unique_id).ok()?;
    let content = draft.into_content(&request);
    let bytes = rmp_serde::to_vec_named(&content).ok()?;
    Some((*id.as_bytes(), bytes))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
