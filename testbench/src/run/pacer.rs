//! Starts of an open loop, on a thread of their own.
//!
//! The timers of the runtime have steps of a millisecond; a thread that the kernel wakes is late by
//! a twentieth of that. Bodies are made before they are due.
//!
//! - *In*: the starts of a [`Round`].
//! - *Out*: each [`Due`], when it is due.
//! - *Never*: a thread that outlives its pacer, or that spins.

use std::collections::VecDeque;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use workload::{Conversation, Request};

use super::drive::Round;

/// Starts that are due and wait for the runtime.
const BACKLOG: usize = 1024;

/// Maximum starts whose bodies are made before they are due, and bytes of these bodies.
const MAX_READY: usize = 15_000;
const MAX_READY_BYTES: usize = 64 << 20;
/// No body is made so short before a start.
const MARGIN: Duration = Duration::from_millis(2);

/// A start.
pub(super) struct Due {
    pub(super) conversation: Conversation,
    pub(super) request: Request,
    pub(super) due: Instant,
}

/// The thread.
pub(super) struct Pacer {
    due: mpsc::Receiver<Due>,
    /// Dropped to end the thread.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Pacer {
    /// Starts the thread.
    pub(super) fn start(round: Round) -> Self {
        let (send, due) = mpsc::channel(BACKLOG);
        // Nothing is sent: the thread sees that the sender is gone.
        let (stop, stopped) = sync_channel(0);
        let pace = move || pace(round, &send, &stopped);
        let thread = std::thread::Builder::new().name("pacer".into()).spawn(pace);
        // Without a thread there are no starts, and the run ends with no request.
        Pacer { due, stop: Some(stop), thread: thread.ok() }
    }

    /// The next start, when it is due; `None` after the last one.
    ///
    /// # Cancel safety
    /// No start is lost.
    pub(super) async fn next(&mut self) -> Option<Due> {
        self.due.recv().await
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.due.close();
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            // It wakes at once, both from its sleep and from a full backlog.
            let _ = thread.join();
        }
    }
}

fn pace(round: Round, send: &mpsc::Sender<Due>, stopped: &Receiver<()>) {
    let mut starts = round.starts();
    let mut ready = Ready::default();
    loop {
        // Bodies are made while nothing is due, so that those of a burst can start together.
        while ready.has_time() && !matches!(stopped.try_recv(), Err(TryRecvError::Disconnected)) {
            let Some(start) = starts.next() else { break };
            ready.push(start);
        }
        let Some(start) = ready.pop() else { return };
        if !wait_until(start.due, stopped)
            || !round.take(start.due)
            || send.blocking_send(start).is_err()
        {
            return;
        }
    }
}

/// Starts whose bodies are made.
#[derive(Default)]
struct Ready {
    starts: VecDeque<Due>,
    bytes: usize,
}

impl Ready {
    /// Whether another one may be made before the first one is due.
    fn has_time(&self) -> bool {
        let Some(first) = self.starts.front() else { return true };
        self.starts.len() < MAX_READY
            && self.bytes < MAX_READY_BYTES
            && first.due > Instant::now() + MARGIN
    }

    fn push(&mut self, start: Due) {
        self.bytes += start.request.body.len();
        self.starts.push_back(start);
    }

    fn pop(&mut self) -> Option<Due> {
        let start = self.starts.pop_front()?;
        self.bytes -= start.request.body.len();
        Some(start)
    }
}

/// Sleeps until a time. Returns whether the pacer still exists.
fn wait_until(due: Instant, stopped: &Receiver<()>) -> bool {
    loop {
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        match stopped.recv_timeout(left) {
            Err(RecvTimeoutError::Timeout) => {}
            Ok(()) | Err(RecvTimeoutError::Disconnected) => return false,
        }
    }
}
