//! Runs the model of an engine in real time, on a thread of its own.
//!
//! - *In*: arrivals and cancellations of the server.
//! - *Out*: the number of tokens of each answer, when the schedule has it.
//! - *Never*: a socket. A slow client delays no other answer, because counts replace each other.

use std::collections::HashMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use lens::Micros;
use tokio::sync::watch;

use super::Profile;
use super::model::{At, Load, Model, Refusal};

/// Longest sleep, after which the thread looks for its end.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// Tokens of an answer, and when the schedule made the last one.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    pub(super) tokens: u64,
    pub(super) at: At,
}

struct Paced {
    model: Model,
    answers: HashMap<u64, watch::Sender<Progress>>,
    /// Delays of the thread behind the schedule, in microseconds.
    timer_late: Micros,
    ends: bool,
}

struct Shared {
    started: Instant,
    paced: Mutex<Paced>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Paced> {
        self.paced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine's thread. It ends when this is dropped.
pub(super) struct Pace {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Pace {
    /// Starts the thread.
    ///
    /// # Errors
    /// When there cannot be another thread.
    pub(super) fn start(profile: Profile) -> std::io::Result<Self> {
        let (answers, timer_late) = (HashMap::new(), Micros::default());
        let paced = Paced { model: Model::new(profile), answers, timer_late, ends: false };
        let shared = Arc::new(Shared {
            started: Instant::now(),
            paced: Mutex::new(paced),
            changed: Condvar::new(),
        });
        let same = shared.clone();
        let thread = std::thread::Builder::new().name("sim-engine".into());
        let thread = Some(thread.spawn(move || drive(&same))?);
        Ok(Pace { shared, thread })
    }

    /// Time since the start.
    pub(super) fn now(&self) -> At {
        self.shared.started.elapsed()
    }

    /// Begins an answer. Dropping the result cancels it.
    pub(super) fn begin(&self, now: At, prompt: u64, output: u64) -> Result<Answer, Refusal> {
        let mut paced = self.shared.lock();
        let id = paced.model.arrive(now, prompt, output)?;
        let (sender, progress) = watch::channel(Progress::default());
        paced.answers.insert(id, sender);
        drop(paced);
        self.shared.changed.notify_one();
        Ok(Answer { id, progress, shared: self.shared.clone() })
    }

    /// The present load.
    pub(super) fn load(&self) -> Load {
        self.shared.lock().model.load()
    }

    /// Delays of the thread behind the schedule, in microseconds.
    pub(super) fn timer_late(&self) -> Micros {
        self.shared.lock().timer_late.clone()
    }
}

impl Drop for Pace {
    fn drop(&mut self) {
        self.shared.lock().ends = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn drive(shared: &Shared) {
    let mut paced = shared.lock();
    while !paced.ends {
        let now = shared.started.elapsed();
        let due = paced.model.next();
        let Some(at) = due.filter(|at| *at <= now) else {
            let sleep = due.map_or(MAX_SLEEP, |at| at - now).min(MAX_SLEEP);
            let woken = shared.changed.wait_timeout(paced, sleep);
            paced = woken.unwrap_or_else(PoisonError::into_inner).0;
            continue;
        };
        paced.timer_late.record(micros(now - at));
        for made in paced.model.advance(now) {
            let progress = Progress { tokens: made.tokens, at: made.at };
            if let Some(answer) = paced.answers.get(&made.id) {
                answer.send_replace(progress);
            }
        }
    }
}

/// An answer that is being made.
pub(super) struct Answer {
    id: u64,
    progress: watch::Receiver<Progress>,
    shared: Arc<Shared>,
}

impl Answer {
    /// Waits until there are so many tokens.
    ///
    /// # Cancel safety
    /// Can be called again.
    pub(super) async fn tokens(&mut self, count: u64) -> Progress {
        let reached = self.progress.wait_for(|progress| progress.tokens >= count).await;
        let reached = reached.map(|progress| *progress).ok();
        match reached {
            Some(progress) => progress,
            // Not before this is dropped: the sender stays in the table.
            None => std::future::pending().await,
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        let mut paced = self.shared.lock();
        paced.answers.remove(&self.id);
        paced.model.cancel(self.id);
    }
}

pub(super) fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
