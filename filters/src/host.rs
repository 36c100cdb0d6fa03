//! What a filter may use: time, other servers, threads. The caller of the chain provides it.
//!
//! - *In*: a [`Host`] with a clock, a client and a pool.
//! - *Out*: a [`Call`] for each question to a filter, which knows its deadline and books what
//!   waiting costs.
//! - *Never*: a wait beyond the deadline.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use futures_util::future::{Either, select};
use lens::Tick;

use crate::BoxFuture;
use crate::report::Failure;

/// A request to another server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// The backend, by its name in the settings.
    pub backend: std::sync::Arc<str>,
    /// The path, put behind the backend's own prefix.
    pub path: String,
    /// A JSON document.
    pub body: Bytes,
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The whole body; hosts bound its size.
    pub body: Bytes,
}

/// Work for a thread of the pool.
pub type Job = Box<dyn FnOnce() + Send>;

/// The world, as far as filters may touch it.
pub trait Host: Send + Sync {
    /// The time now, on the clock of everything else.
    fn now(&self) -> Tick;

    /// Wait that long.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;

    /// Ask another server and read its whole answer.
    ///
    /// # Errors
    /// [`Failure::Unreachable`].
    fn ask(&self, ask: Ask) -> BoxFuture<'static, Result<Reply, Failure>>;

    /// Have work done by a thread of the pool.
    ///
    /// # Errors
    /// [`Failure::Busy`], when too much waits there.
    fn offload(&self, job: Job) -> Result<(), Failure>;
}

/// One question to one filter.
pub struct Call<'h> {
    host: &'h dyn Host,
    until: Option<Tick>,
    /// What to say when `until` has come.
    late: Failure,
    queue: AtomicU64,
    remote: AtomicU64,
}

impl<'h> Call<'h> {
    /// A question that must be answered by `until`.
    pub fn new(host: &'h dyn Host, until: Option<Tick>, late: Failure) -> Self {
        Call { host, until, late, queue: AtomicU64::new(0), remote: AtomicU64::new(0) }
    }

    /// The time now.
    pub fn now(&self) -> Tick {
        self.host.now()
    }

    /// Nanoseconds that this question has waited for a thread, and for another server.
    pub fn waited(&self) -> (u64, u64) {
        (self.queue.load(Ordering::Relaxed), self.remote.load(Ordering::Relaxed))
    }

    /// Wait that long.
    pub async fn sleep(&self, time: Duration) {
        self.host.sleep(time).await;
    }

    /// Wait for something, at most until the deadline.
    ///
    /// # Errors
    /// [`Failure::Deadline`] or [`Failure::JudgesDeadline`].
    pub async fn within<T>(&self, work: impl Future<Output = T>) -> Result<T, Failure> {
        let Some(until) = self.until else { return Ok(work.await) };
        let left = until.nanos_since(self.host.now());
        let alarm = self.host.sleep(Duration::from_nanos(left));
        match select(pin!(work), alarm).await {
            Either::Left((done, _)) => Ok(done),
            Either::Right(((), _)) => Err(self.late),
        }
    }

    /// Ask another server. The wait is booked as remote.
    ///
    /// # Errors
    /// [`Failure::Unreachable`], or that the time is over.
    pub async fn ask(&self, ask: Ask) -> Result<Reply, Failure> {
        let began = self.host.now();
        let answered = self.put(ask).await;
        self.waited_for_others(began);
        answered
    }

    /// The same without booking the wait: several at a time are one.
    pub(crate) async fn put(&self, ask: Ask) -> Result<Reply, Failure> {
        self.within(self.host.ask(ask)).await?
    }

    /// Book the time since then as a wait for other servers.
    pub(crate) fn waited_for_others(&self, since: Tick) {
        self.remote.fetch_add(self.host.now().nanos_since(since), Ordering::Relaxed);
    }

    /// Have heavy work done by a thread of the pool. The wait for the thread is booked as queue.
    ///
    /// # Errors
    /// [`Failure::Busy`], [`Failure::Panicked`], or that the time is over: the work then goes on
    /// and its result is dropped.
    pub async fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (tell_start, start) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let began = self.host.now();
        self.host.offload(Box::new(move || {
            // The caller has left: skip the work.
            if tell_start.send(()).is_ok() {
                let _ = tell.send(catch_unwind(AssertUnwindSafe(work)));
            }
        }))?;
        let started = self.within(start).await;
        self.queue.fetch_add(self.host.now().nanos_since(began), Ordering::Relaxed);
        started?.map_err(|_| Failure::Panicked)?;
        self.within(told).await?.ok().and_then(Result::ok).ok_or(Failure::Panicked)
    }
}
