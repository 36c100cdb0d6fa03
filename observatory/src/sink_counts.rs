//! Counts of a sink: delivered and dropped records, retries, what waits, the state of its circuit.
//!
//! - *In*: results of deliveries.
//! - *Out*: numbers for metrics and `/api/sinks`.
//! - *Never*: a lost record without a [`DropReason`].

use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::sink::SinkError;

/// Why a sink dropped records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// A write failed, in a sink that does not retry.
    Failed,
    /// The queue in memory was full.
    QueueFull,
    /// The destination refused them.
    Rejected,
    /// They are too long, or cannot be encoded or decoded.
    Invalid,
    /// The spill was full.
    SpillFull,
    /// They were in the spill for longer than its maximum age.
    Expired,
    /// Their segment of the spill was damaged.
    Damaged,
    /// An earlier process ended before it had synced them.
    Unsynced,
    /// The gateway ended before it could deliver them.
    Shutdown,
}

impl DropReason {
    /// All reasons.
    pub const ALL: [DropReason; 9] = [
        DropReason::Failed,
        DropReason::QueueFull,
        DropReason::Rejected,
        DropReason::Invalid,
        DropReason::SpillFull,
        DropReason::Expired,
        DropReason::Damaged,
        DropReason::Unsynced,
        DropReason::Shutdown,
    ];

    /// The value of the label `reason`.
    pub fn name(self) -> &'static str {
        match self {
            DropReason::Failed => "failed",
            DropReason::QueueFull => "queue_full",
            DropReason::Rejected => "rejected",
            DropReason::Invalid => "invalid",
            DropReason::SpillFull => "spill_full",
            DropReason::Expired => "expired",
            DropReason::Damaged => "damaged",
            DropReason::Unsynced => "unsynced",
            DropReason::Shutdown => "shutdown",
        }
    }
}

/// Whether a destination is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Circuit {
    /// It accepts records.
    Closed,
    /// It failed several times in a row. Nothing is sent until the backoff has passed.
    Open,
    /// The backoff has passed; one batch is being tried.
    HalfOpen,
}

impl Circuit {
    /// All states.
    pub const ALL: [Circuit; 3] = [Circuit::Closed, Circuit::Open, Circuit::HalfOpen];

    /// The value of the label `state`.
    pub fn name(self) -> &'static str {
        match self {
            Circuit::Closed => "closed",
            Circuit::Open => "open",
            Circuit::HalfOpen => "half_open",
        }
    }
}

/// What only a sink with a queue of its own counts.
#[derive(Debug, Default)]
pub struct DeliveryCounts {
    pub(crate) retries: AtomicU64,
    pub(crate) queued: AtomicU64,
    pub(crate) spilled: AtomicU64,
    pub(crate) spilled_bytes: AtomicU64,
    pub(crate) spill_failures: AtomicU64,
    circuit: AtomicU8,
    /// Why the spill does not work; empty if it does, or without a spill.
    spill_error: Mutex<String>,
}

impl DeliveryCounts {
    /// Batches sent again.
    pub fn retries(&self) -> u64 {
        self.retries.load(Ordering::Acquire)
    }

    /// Records in memory.
    pub fn queued(&self) -> u64 {
        self.queued.load(Ordering::Relaxed)
    }

    /// Records in the spill.
    pub fn spilled(&self) -> u64 {
        self.spilled.load(Ordering::Relaxed)
    }

    /// Size of the spill in bytes.
    pub fn spilled_bytes(&self) -> u64 {
        self.spilled_bytes.load(Ordering::Relaxed)
    }

    /// Operations of the spill that failed.
    pub fn spill_failures(&self) -> u64 {
        self.spill_failures.load(Ordering::Relaxed)
    }

    /// State of the circuit.
    pub fn circuit(&self) -> Circuit {
        let index = usize::from(self.circuit.load(Ordering::Relaxed));
        Circuit::ALL.get(index).copied().unwrap_or(Circuit::Closed)
    }

    pub(crate) fn set_circuit(&self, circuit: Circuit) {
        let index = Circuit::ALL.iter().position(|known| *known == circuit).unwrap_or(0);
        self.circuit.store(index as u8, Ordering::Relaxed);
    }

    /// Why the spill does not work.
    pub fn spill_error(&self) -> Option<String> {
        Some(lock(&self.spill_error).clone()).filter(|why| !why.is_empty())
    }

    /// Sets the error of the spill; returns the one before.
    pub(crate) fn set_spill_error(&self, why: String) -> String {
        std::mem::replace(&mut *lock(&self.spill_error), why)
    }
}

/// Delivered and dropped records of one sink, and its last error.
#[derive(Debug)]
pub struct SinkCounts {
    /// The sink.
    pub name: &'static str,
    delivered: AtomicU64,
    dropped: [AtomicU64; DropReason::ALL.len()],
    /// Error of the last batch; empty if it was delivered completely.
    last_error: Mutex<String>,
    delivery: Option<DeliveryCounts>,
}

impl SinkCounts {
    /// Counts of a sink that the pump calls.
    pub(crate) fn new(name: &'static str) -> Self {
        SinkCounts {
            name,
            delivered: AtomicU64::new(0),
            dropped: Default::default(),
            last_error: Mutex::default(),
            delivery: None,
        }
    }

    /// Counts of a sink with a queue of its own.
    pub(crate) fn with_delivery(name: &'static str) -> Self {
        SinkCounts { delivery: Some(DeliveryCounts::default()), ..SinkCounts::new(name) }
    }

    /// Counts of its queue, if it has one of its own.
    pub fn delivery(&self) -> Option<&DeliveryCounts> {
        self.delivery.as_ref()
    }

    /// Records delivered.
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    /// Records lost.
    pub fn dropped(&self) -> u64 {
        self.dropped.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Records lost by reason; only the reasons that the sink can have.
    pub fn dropped_by_reason(&self) -> impl Iterator<Item = (DropReason, u64)> {
        let retries = self.delivery.is_some();
        let counts = self.dropped.iter().map(|count| count.load(Ordering::Relaxed));
        let may_have = move |reason: DropReason| (reason == DropReason::Failed) != retries;
        DropReason::ALL.into_iter().zip(counts).filter(move |(reason, _)| may_have(*reason))
    }

    /// Error of the last batch; `None` if it was delivered completely.
    pub fn last_error(&self) -> Option<String> {
        Some(lock(&self.last_error).clone()).filter(|why| !why.is_empty())
    }

    /// Why a sink with a queue of its own does not deliver or does not spill.
    pub(crate) fn problem(&self) -> Option<String> {
        let (name, delivery) = (self.name, self.delivery.as_ref()?);
        let (queued, spilled) = (delivery.queued(), delivery.spilled());
        if delivery.circuit() != Circuit::Closed {
            let error = self.last_error().unwrap_or_default();
            return Some(format!(
                "sink {name} is unavailable, {queued} records queued, {spilled} spilled: {error}"
            ));
        }
        Some(format!("sink {name} cannot use its spill: {}", delivery.spill_error()?))
    }

    pub(crate) fn add_delivered(&self, count: u64) {
        self.delivered.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_dropped(&self, reason: DropReason, count: u64) {
        if let Some(dropped) = self.dropped_of(reason) {
            dropped.fetch_add(count, Ordering::Relaxed);
        }
    }

    /// Sets a count that another component keeps.
    pub(crate) fn set_dropped(&self, reason: DropReason, count: u64) {
        if let Some(dropped) = self.dropped_of(reason) {
            dropped.store(count, Ordering::Relaxed);
        }
    }

    fn dropped_of(&self, reason: DropReason) -> Option<&AtomicU64> {
        let index = DropReason::ALL.iter().position(|known| *known == reason)?;
        self.dropped.get(index)
    }

    /// Sets the error of the last batch; returns the one before.
    pub(crate) fn set_last_error(&self, why: String) -> String {
        std::mem::replace(&mut *lock(&self.last_error), why)
    }

    /// Counts a batch of `all` records that the pump has passed to the sink.
    pub(crate) fn note(&self, all: u64, result: Result<(), SinkError>) {
        let (lost, why) =
            result.map_or_else(|error| (error.lost.min(all), error.why), |()| (0, String::new()));
        self.add_delivered(all - lost);
        self.add_dropped(DropReason::Failed, lost);
        let before = self.set_last_error(why.clone());
        // Logged once per failure: log lines must not make a full disk worse.
        if before.is_empty() && !why.is_empty() {
            let sink = self.name;
            tracing::error!(sink, lost, error = why, "records lost; further losses are counted");
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
