//! The environment of filters: clock, other servers, threads. The caller of the chain provides it.
//!
//! - *In*: a [`Host`] with a clock, a client and a thread pool.
//! - *Out*: a [`Call`] for each run of a filter, which enforces its deadline and measures its
//!   waits.
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
pub struct HostRequest {
    /// The backend, by its name in the settings.
    pub backend: std::sync::Arc<str>,
    /// The path, appended to the path prefix of the backend.
    pub path: String,
    /// The body, a JSON document.
    pub body: Bytes,
}

/// The response to an [`HostRequest`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostResponse {
    /// The status.
    pub status: u16,
    /// The whole body; hosts bound its size.
    pub body: Bytes,
}

/// Work for a thread of the pool.
pub type Job = Box<dyn FnOnce() + Send>;

/// The environment in which filters run.
pub trait Host: Send + Sync {
    /// The current time, on the clock of the gateway.
    fn now(&self) -> Tick;

    /// Wait for `time`.
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()>;

    /// Send a request to another server and read its whole response.
    ///
    /// # Errors
    /// [`Failure::Unreachable`].
    fn send(&self, ask: HostRequest) -> BoxFuture<'static, Result<HostResponse, Failure>>;

    /// Run a job on a thread of the pool.
    ///
    /// # Errors
    /// [`Failure::Busy`] when the queue of the pool is full.
    fn offload(&self, job: Job) -> Result<(), Failure>;
}

/// One run of one filter.
pub struct Call<'h> {
    host: &'h dyn Host,
    until: Option<Tick>,
    /// The failure to report at `until`.
    late: Failure,
    queue: AtomicU64,
    remote: AtomicU64,
}

impl<'h> Call<'h> {
    /// A call with the deadline `until`.
    pub fn new(host: &'h dyn Host, until: Option<Tick>, late: Failure) -> Self {
        Call { host, until, late, queue: AtomicU64::new(0), remote: AtomicU64::new(0) }
    }

    /// The time now.
    pub fn now(&self) -> Tick {
        self.host.now()
    }

    /// Nanoseconds that this call has waited for a thread, and for other servers.
    pub fn waited(&self) -> (u64, u64) {
        (self.queue.load(Ordering::Relaxed), self.remote.load(Ordering::Relaxed))
    }

    /// Wait for `time`.
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

    /// Send a request to another server. The wait counts as remote time.
    ///
    /// # Errors
    /// [`Failure::Unreachable`], or the failure of the deadline.
    pub async fn send(&self, ask: HostRequest) -> Result<HostResponse, Failure> {
        let began = self.host.now();
        let answered = self.send_uncounted(ask).await;
        self.waited_for_others(began);
        answered
    }

    /// Like [`ask`](Self::ask), but the wait is not counted: concurrent requests count as one wait.
    pub(crate) async fn send_uncounted(&self, ask: HostRequest) -> Result<HostResponse, Failure> {
        self.within(self.host.send(ask)).await?
    }

    /// Count the time from `since` to now as a wait for other servers.
    pub(crate) fn waited_for_others(&self, since: Tick) {
        self.remote.fetch_add(self.host.now().nanos_since(since), Ordering::Relaxed);
    }

    /// Run heavy work on a thread of the pool. The wait for the thread counts as queue time.
    ///
    /// # Errors
    /// [`Failure::Busy`], [`Failure::Panicked`], or the failure of the deadline: the work then
    /// continues, and its result is dropped.
    pub async fn offload<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Failure> {
        let (tell_start, start) = oneshot::channel();
        let (tell, told) = oneshot::channel();
        let began = self.host.now();
        self.host.offload(Box::new(move || {
            // The work is skipped if the caller is gone.
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
