//! The thread that completes files of records, and removes old ones.
//!
//! - *In*: unfinished files of a folder that no process locks: files of columns that are full, and
//!   what killed processes have left.
//! - *Out*: complete files.
//! - *Never*: a record that waits for it: the sink writes the next file meanwhile.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, UNIX_EPOCH};

use lens::RecordFormat;

use super::Counters;
use crate::part::{self, PARTIAL, Recovered};

/// What the names of files begin with.
pub(super) const PREFIX: &str = "records-";
/// Interval at which the folder is read, also without a call.
const INTERVAL: Duration = Duration::from_secs(30);
/// How long the end of the process waits. What is left is completed at the next start.
const LAST_ATTEMPT: Duration = Duration::from_secs(2);

pub(super) struct Finisher {
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
    has_work: bool,
    /// When the thread must stop. Set at the end.
    deadline: Option<Instant>,
}

impl Finisher {
    /// Starts the thread. `now_us` is the wall-clock time, by which ages are measured from now on.
    pub(super) fn start(
        folder: &Path,
        keep: Option<Duration>,
        counters: Arc<Counters>,
        now_us: u64,
    ) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let mut worker = Worker {
            shared: shared.clone(),
            folder: folder.to_owned(),
            keep,
            counters,
            started: (Duration::from_micros(now_us), Instant::now()),
            reported: HashSet::new(),
        };
        let thread = std::thread::Builder::new().name("llm-lens-finish".into());
        let thread = Some(thread.spawn(move || worker.work())?);
        Ok(Finisher { shared, thread })
    }

    /// There is a file to complete.
    pub(super) fn wake(&self) {
        self.shared.lock().has_work = true;
        self.shared.wakes.notify_one();
    }

    /// Completes what is left, and ends the thread.
    pub(super) fn end(&mut self) {
        self.shared.lock().deadline = Some(Instant::now() + LAST_ATTEMPT);
        self.shared.wakes.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn must_stop(&self) -> bool {
        self.lock().deadline.is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Waits for work. True if it is the last.
    fn wait(&self) -> bool {
        let is_idle = |state: &mut State| !state.has_work && state.deadline.is_none();
        let waited = self.wakes.wait_timeout_while(self.lock(), INTERVAL, is_idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner).0;
        state.has_work = false;
        state.deadline.is_some()
    }
}

struct Worker {
    shared: Arc<Shared>,
    folder: PathBuf,
    keep: Option<Duration>,
    counters: Arc<Counters>,
    /// The wall clock and the monotonic one at the start: a step of the wall clock makes no file of
    /// a running gateway old.
    started: (Duration, Instant),
    /// Files whose failure is logged.
    reported: HashSet<PathBuf>,
}

impl Worker {
    fn work(&mut self) {
        loop {
            self.look();
            if self.shared.wait() {
                return self.look();
            }
        }
    }

    /// Completes and removes what is due.
    fn look(&mut self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with(PREFIX) || self.shared.must_stop() {
                continue;
            }
            let done = match name.ends_with(PARTIAL) {
                true => self.complete(&path),
                false => self.remove_if_old(&path),
            };
            if let Err(problem) = done {
                Counters::add(&self.counters.failures);
                if self.reported.insert(path.clone()) {
                    let path = path.display();
                    tracing::error!(%path, error = problem, "file of records failed, retrying");
                }
            }
        }
    }

    fn complete(&self, partial: &Path) -> Result<(), String> {
        let must_stop = || self.shared.must_stop();
        let recover = || part::recover(partial, &must_stop);
        let recovered = catch_unwind(AssertUnwindSafe(recover))
            .map_err(|_| "the conversion panicked".to_owned())?
            .map_err(|error| error.to_string())?;
        if let Recovered::Complete { cut } = recovered {
            Counters::add(&self.counters.completed);
            if cut > 0 {
                let path = partial.display();
                tracing::warn!(%path, bytes = cut, "unfinished file of records was cut after its last whole record");
            }
        }
        Ok(())
    }

    fn remove_if_old(&self, path: &Path) -> Result<(), String> {
        let Some(keep) = self.keep else { return Ok(()) };
        if RecordFormat::from_path(path).is_none() {
            return Ok(());
        }
        let removed = fs::metadata(path).and_then(|file| {
            let modified = file.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = self.started.0 + self.started.1.elapsed();
            if now.saturating_sub(modified) < keep {
                return Ok(false);
            }
            fs::remove_file(path).map(|()| true)
        });
        match removed {
            Ok(true) => Counters::add(&self.counters.removed),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.to_string()),
            Ok(false) | Err(_) => {}
        }
        Ok(())
    }
}
