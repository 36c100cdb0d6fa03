//! The records of a destination that are in memory.
//!
//! - *In*: batches of the pump; records that were not spilled or not sent, which come back.
//! - *Out*: records for the spiller, or for the sender; the reason to wake up.
//! - *Never*: more records than its capacity, those in the hands of the two threads included.

use std::collections::VecDeque;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use spill::{Announcer, FileSystem};

use crate::record_key::NumberedRecord;
use crate::sink_counts::{DropReason, SinkCounts};

/// How long there is nothing to send before the destination does its chores.
#[cfg(not(test))]
const IDLE: Duration = Duration::from_secs(30);
#[cfg(test)]
const IDLE: Duration = Duration::from_millis(100);

/// What the sender does next.
#[derive(Debug, PartialEq)]
pub(super) enum Work {
    /// Send what is in the spill.
    Spilled,
    /// Send these records.
    Queued(Vec<NumberedRecord>),
    /// Nothing was there to send for [`IDLE`].
    Idle,
    /// Nothing is left, or the time is over.
    End,
}

/// Records in memory, and what the threads wait for.
pub(super) struct Queue {
    capacity: usize,
    state: Mutex<State>,
    wakes: Condvar,
}

struct State {
    records: VecDeque<NumberedRecord>,
    /// Since when the records wait for a full batch.
    filling_since: Instant,
    /// Records that a thread has taken and not settled yet.
    taken: usize,
    /// Whether the sender may take records: there is no spill, or it does not work.
    direct: bool,
    /// Unacknowledged entries of the spill.
    spilled: u64,
    announcer: Option<Arc<Announcer<FileSystem>>>,
    /// Announced records that were sent without the spill.
    bypassed: u64,
    /// When the sender must stop. Set at the end of the process.
    deadline: Option<Instant>,
    spiller_works: bool,
    sender_works: bool,
    closed: bool,
}

impl Queue {
    pub(super) fn new(capacity: usize, has_spill: bool) -> Self {
        Queue {
            capacity: capacity.max(1),
            wakes: Condvar::new(),
            state: Mutex::new(State {
                records: VecDeque::new(),
                filling_since: Instant::now(),
                taken: 0,
                direct: !has_spill,
                spilled: 0,
                announcer: None,
                bypassed: 0,
                deadline: None,
                spiller_works: has_spill,
                sender_works: true,
                closed: false,
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a batch. The newest records are dropped if it does not fit.
    pub(super) fn push(
        &self,
        batch: impl ExactSizeIterator<Item = NumberedRecord>,
        counts: &SinkCounts,
    ) {
        let all = batch.len();
        if all == 0 {
            return;
        }
        let state = self.state();
        let used = if state.closed { self.capacity } else { state.records.len() + state.taken };
        let accepted = all.min(self.capacity.saturating_sub(used));
        let announcer = state.announcer.clone();
        drop(state);
        // Only this thread adds records, so the room is still there.
        if let Some(announcer) = announcer {
            // Without the number, a crash counts too few lost records.
            let _ = announcer.announce(accepted as u64);
        }
        let mut state = self.state();
        if state.records.is_empty() {
            state.filling_since = Instant::now();
        }
        state.records.extend(batch.take(accepted));
        state.count(counts);
        drop(state);
        self.wakes.notify_all();
        let dropped = (all - accepted) as u64;
        if dropped > 0 {
            counts.add_dropped(DropReason::QueueFull, dropped);
        }
    }

    /// Announces the records in memory to a spill that was opened later than they came.
    pub(super) fn install(&self, announcer: Arc<Announcer<FileSystem>>, spilled: u64) {
        let mut state = self.state();
        let _ = announcer.announce((state.records.len() + state.taken) as u64);
        state.announcer = Some(announcer);
        state.spilled = spilled;
        state.direct = false;
        drop(state);
        self.wakes.notify_all();
    }

    /// Waits until there are records, or `timeout` has passed; takes at most `max`, and the count
    /// of those that were sent without the spill.
    pub(super) fn take_for_spill(
        &self,
        max: usize,
        timeout: Duration,
    ) -> (Vec<NumberedRecord>, u64) {
        let until = Instant::now() + timeout;
        let mut state = self.state();
        while state.records.is_empty() && state.deadline.is_none() && Instant::now() < until {
            state = self.wait(state, Some(until));
        }
        let bypassed = std::mem::take(&mut state.bypassed);
        (state.take(max), bypassed)
    }

    /// Waits for the next sync: until `until`, or until the queue is half full.
    pub(super) fn pace(&self, until: Instant) {
        let mut state = self.state();
        while state.records.len() < self.capacity / 2
            && state.deadline.is_none()
            && Instant::now() < until
        {
            state = self.wait(state, Some(until));
        }
    }

    /// Notes that the spiller has written `written` of the records it took, and returns the rest.
    pub(super) fn spilled(
        &self,
        written: usize,
        rest: Vec<NumberedRecord>,
        entries: u64,
        counts: &SinkCounts,
    ) {
        let mut state = self.state();
        state.direct = !rest.is_empty();
        state.spilled = entries;
        state.settle(written, rest, counts);
        drop(state);
        self.wakes.notify_all();
    }

    /// Notes that the spill does not work: the sender takes records from memory.
    pub(super) fn bypass_spill(&self) {
        self.state().direct = true;
        self.wakes.notify_all();
    }

    /// Notes how many entries the spill has after the sender has acknowledged some.
    pub(super) fn acknowledged(&self, entries: u64) {
        self.state().spilled = entries;
    }

    /// Waits for something to send: for a full batch, or until the records have waited for
    /// `linger`.
    pub(super) fn next_work(&self, batch: usize, linger: Duration) -> Work {
        let idle = Instant::now() + IDLE;
        let mut state = self.state();
        loop {
            let now = Instant::now();
            if state.deadline.is_some_and(|deadline| deadline <= now) {
                return Work::End;
            }
            if state.spilled > 0 {
                return Work::Spilled;
            }
            let mut until = idle;
            if state.direct && !state.records.is_empty() {
                let due = state.filling_since + linger;
                if state.deadline.is_some() || state.records.len() >= batch || due <= now {
                    return Work::Queued(state.take(batch));
                }
                until = due;
            } else if state.deadline.is_some() && !state.spiller_works {
                return Work::End;
            } else if idle <= now {
                return Work::Idle;
            }
            let until = state.deadline.map_or(until, |deadline| deadline.min(until));
            state = self.wait(state, Some(until));
        }
    }

    /// Notes that `sent` of the records the sender took are settled, and returns the rest.
    pub(super) fn sent(&self, sent: usize, rest: Vec<NumberedRecord>, counts: &SinkCounts) {
        let mut state = self.state();
        if state.announcer.is_some() {
            state.bypassed += sent as u64;
        }
        state.settle(sent, rest, counts);
        drop(state);
        self.wakes.notify_all();
    }

    /// Waits for `wait`, but not longer than the process has. False if it ends and the records are
    /// safe in the spill.
    pub(super) fn back_off(&self, wait: Duration, is_spilled: bool) -> bool {
        let until = Instant::now() + wait;
        let mut state = self.state();
        loop {
            let deadline = state.deadline;
            if deadline.is_some() && is_spilled {
                return false;
            }
            let until = deadline.map_or(until, |deadline| deadline.min(until));
            if Instant::now() >= until {
                return true;
            }
            state = self.wait(state, Some(until));
        }
    }

    /// Whether the process ends.
    pub(super) fn ends(&self) -> bool {
        self.state().deadline.is_some()
    }

    /// Ends: the sender stops when nothing is left, or after `limit`.
    pub(super) fn end(&self, limit: Duration) {
        self.state().deadline.get_or_insert(Instant::now() + limit);
        self.wakes.notify_all();
    }

    /// Notes that the sender has ended, also if it panicked.
    pub(super) fn sender_ended(&self) {
        self.state().sender_works = false;
        self.wakes.notify_all();
    }

    /// Notes that the spiller has ended. What is left goes directly to the sender.
    pub(super) fn spiller_ended(&self) {
        let mut state = self.state();
        (state.spiller_works, state.direct) = (false, true);
        drop(state);
        self.wakes.notify_all();
    }

    /// Waits until both threads have ended or the time is over; whether they have ended.
    pub(super) fn wait_for_threads(&self) -> bool {
        let mut state = self.state();
        while (state.sender_works || state.spiller_works)
            && state.deadline.is_none_or(|deadline| deadline > Instant::now())
        {
            let deadline = state.deadline;
            state = self.wait(state, deadline);
        }
        !(state.sender_works || state.spiller_works)
    }

    /// Accepts no more records; returns the number of those in memory.
    pub(super) fn close(&self) -> u64 {
        let mut state = self.state();
        state.closed = true;
        (std::mem::take(&mut state.records).len() + std::mem::take(&mut state.taken)) as u64
    }

    fn wait<'s>(
        &self,
        state: MutexGuard<'s, State>,
        until: Option<Instant>,
    ) -> MutexGuard<'s, State> {
        let Some(until) = until else {
            return self.wakes.wait(state).unwrap_or_else(PoisonError::into_inner);
        };
        let left = until.saturating_duration_since(Instant::now());
        self.wakes.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0
    }
}

impl State {
    fn take(&mut self, max: usize) -> Vec<NumberedRecord> {
        let count = self.records.len().min(max.max(1));
        self.taken += count;
        self.filling_since = Instant::now();
        self.records.drain(..count).collect()
    }

    /// `done` taken records are settled, and `rest` goes back to the front.
    fn settle(&mut self, done: usize, rest: Vec<NumberedRecord>, counts: &SinkCounts) {
        self.taken = self.taken.saturating_sub(done + rest.len());
        // After the end, what is left has been counted.
        if !self.closed {
            rest.into_iter().rev().for_each(|record| self.records.push_front(record));
        }
        self.count(counts);
    }

    fn count(&self, counts: &SinkCounts) {
        if let Some(delivery) = counts.delivery() {
            delivery.queued.store((self.records.len() + self.taken) as u64, Ordering::Relaxed);
        }
    }
}
