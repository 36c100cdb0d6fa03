//! The admission queue of a backend: concurrent requests, and which waiting request is next.
//!
//! - *In*: requests with a tenant, a priority, estimated tokens and a deadline; completions of
//!   admitted requests.
//! - *Out*: a [`Permit`], a position in the queue, or [`Shed`] at once when the wait would be too
//!   long.
//! - *Never*: a thread or a timer. Callers supply the timer; dropping a permit or a waiting request
//!   releases it.
//!
//! [`fair_queue`] determines the next request: that of the highest priority; among equals, that of
//! the tenant that has used the fewest tokens since requests wait.

mod adaptive;
mod fair_queue;
mod pace;

use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use lens::Tick;
use lens::observe::{Observe, Samples};
use parking_lot::Mutex;

use super::prices::TokenUsage;
use super::settings::{Admission, TenantKey};
use adaptive::Adaptive;
pub use adaptive::Served;
use fair_queue::{Charge, FairQueue, Key, MAX_COUNTED_TOKENS};
use pace::Pace;

/// The queue of one backend.
#[derive(Debug)]
pub struct AdmissionQueue {
    settings: Admission,
    state: Mutex<State>,
}

/// A request for admission.
#[derive(Clone, Debug)]
pub struct QueueRequest {
    /// Tenant, for fairness.
    pub tenant: Arc<str>,
    /// 0 to 9; higher goes first.
    pub priority: u8,
    /// Its prompt, and the output that it may generate.
    pub expected: TokenUsage,
    /// Maximum wait, if shorter than that of the settings.
    pub max_wait: Option<Duration>,
}

/// Why a request is shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShedReason {
    /// The queue is full.
    QueueFull,
    /// The expected wait is longer than the maximum wait.
    TooLate,
    /// The maximum wait has passed.
    TimedOut,
}

impl ShedReason {
    /// All reasons.
    pub const ALL: [ShedReason; 3] =
        [ShedReason::QueueFull, ShedReason::TooLate, ShedReason::TimedOut];

    /// Name in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            ShedReason::QueueFull => "queue_full",
            ShedReason::TooLate => "too_late",
            ShedReason::TimedOut => "timed_out",
        }
    }
}

/// The request is shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shed {
    /// Why.
    pub reason: ShedReason,
    /// Estimated time after which a retry makes sense.
    pub retry_after: Duration,
}

/// Counters of a queue.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct QueueCounts {
    /// Requests at the backend.
    pub in_flight: u64,
    /// Their estimated tokens.
    pub tokens: u64,
    /// Current maximum of requests in flight; 0: unlimited.
    pub cap: u64,
    /// Requests that wait.
    pub waiting: u64,
    /// Admitted requests.
    pub admitted: u64,
    /// Admitted requests that had waited.
    pub queued: u64,
    /// Shed requests, in the order of [`ShedReason::ALL`].
    pub shed: [u64; 3],
}

#[derive(Debug)]
struct State {
    counts: QueueCounts,
    waiting: FairQueue<oneshot::Sender<Result<Permit, Shed>>>,
    pace: Pace,
    adaptive: Option<Adaptive>,
}

/// An admission permit. [`Permit::leave`] returns it with the usage of the request and its measured
/// time to first token; dropping it returns it without, as if the request had used nothing.
#[derive(Debug)]
pub struct Permit {
    queue: Option<Arc<AdmissionQueue>>,
    expected: TokenUsage,
    /// What its tenant was charged; `None`: the request did not wait.
    charge: Option<Charge>,
}

/// A waiting request; dropping it leaves the queue.
#[derive(Debug)]
pub struct Waiting {
    queue: Arc<AdmissionQueue>,
    tenant: Arc<str>,
    key: Key,
    max_wait: Duration,
    told: oneshot::Receiver<Result<Permit, Shed>>,
}

impl AdmissionQueue {
    /// An empty queue.
    pub fn new(settings: Admission) -> Self {
        let adaptive =
            settings.adaptive.then(|| Adaptive::new(settings.min_requests, settings.max_requests));
        let state = State {
            counts: QueueCounts::default(),
            waiting: FairQueue::new(),
            pace: Pace::new(),
            adaptive,
        };
        AdmissionQueue { settings, state: Mutex::new(state) }
    }

    /// Take a permit for a request with a prompt and the output that it may generate, if one is
    /// free and no request waits.
    pub fn enter(self: &Arc<Self>, prompt: u64, output: u64) -> Option<Permit> {
        let expected = TokenUsage { input: prompt, output, ..TokenUsage::default() };
        let mut state = self.state.lock();
        if !state.waiting.is_empty() || !state.has_room(&self.settings, &expected) {
            return None;
        }
        Some(self.place(&mut state, expected, None))
    }

    /// Enter the queue. The request may be admitted at once.
    ///
    /// # Errors
    /// [`Shed`], if the queue is full or the expected wait is too long.
    pub fn wait(self: &Arc<Self>, request: QueueRequest, now: Tick) -> Result<Waiting, Shed> {
        let QueueRequest { tenant, priority, expected, max_wait } = request;
        let max_wait = max_wait.unwrap_or(self.settings.max_wait).min(self.settings.max_wait);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.pace.arrived(now, state.waiting.is_empty());
        let wait = state.pace.wait(state.waiting.ahead(&tenant, priority), now);
        let retry_after = wait.saturating_sub(max_wait).max(Duration::from_secs(1));
        let refuse = |state: &mut State, reason| {
            state.counts.shed[reason as usize] += 1;
            Err(Shed { reason, retry_after })
        };
        if wait > max_wait {
            return refuse(state, ShedReason::TooLate);
        }
        if state.waiting.len() >= self.settings.queue {
            // A request of a higher priority replaces the last one in a full queue.
            let Some(last) = state.waiting.evict(priority) else {
                return refuse(state, ShedReason::QueueFull);
            };
            let _ = last.send(Err(Shed { reason: ShedReason::QueueFull, retry_after }));
            state.counts.shed[ShedReason::QueueFull as usize] += 1;
        }
        let (tell, told) = oneshot::channel();
        let key = state.waiting.push(&tenant, priority, expected, tell);
        // A permit may have become free meanwhile.
        let unsent = self.admit_waiting(state);
        drop(guard);
        drop(unsent);
        Ok(Waiting { queue: self.clone(), tenant, key, max_wait, told })
    }

    /// Which requests are of the same tenant.
    pub fn tenant_key(&self) -> &TenantKey {
        &self.settings.tenant
    }

    /// The current counters.
    pub fn counts(&self) -> QueueCounts {
        let state = self.state.lock();
        QueueCounts {
            cap: state.cap(&self.settings),
            waiting: state.waiting.len() as u64,
            ..state.counts
        }
    }

    fn place(
        self: &Arc<Self>,
        state: &mut State,
        expected: TokenUsage,
        charge: Option<Charge>,
    ) -> Permit {
        state.counts.in_flight += 1;
        state.counts.tokens += tokens(&expected);
        state.counts.admitted += 1;
        Permit { queue: Some(self.clone()), expected, charge }
    }

    /// Admit waiting requests while permits are free. Permits of requests that left are returned;
    /// they must be dropped without the lock.
    fn admit_waiting(self: &Arc<Self>, state: &mut State) -> Vec<Permit> {
        let mut unsent = Vec::new();
        while let Some(next) = state.waiting.next() {
            if !state.counts.has_room(state.adaptive.as_ref(), &self.settings, next) {
                break;
            }
            let Some((expected, tell, charge)) = state.waiting.pop() else { break };
            let place = self.place(state, expected, Some(charge));
            match tell.send(Ok(place)) {
                Ok(()) => state.counts.queued += 1,
                Err(place) => unsent.extend(place),
            }
        }
        unsent
    }

    /// An admitted request has left. `completion` is `None` if its usage is unknown.
    fn leave(
        self: &Arc<Self>,
        expected: &TokenUsage,
        charge: Option<&Charge>,
        completion: Option<&Completion>,
    ) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let (Some(adaptive), Some(Completion { now, served: Some(served), used })) =
            (&mut state.adaptive, completion)
        {
            // The engine does not compute the cached part of a prompt.
            let prompt = if used.input == 0 { expected } else { used };
            let computed = prompt.input.saturating_sub(prompt.cached);
            let tokens = (computed, used.output);
            adaptive.learn(state.counts.in_flight, *now, *served, tokens);
        }
        state.counts.in_flight -= 1;
        state.counts.tokens -= tokens(expected);
        if let Some(charge) = charge {
            let used = completion.map_or_else(TokenUsage::default, |completion| completion.used);
            state.waiting.settle(charge, &used);
        }
        if let Some(Completion { now, .. }) = completion {
            state.pace.departed(*now, !state.waiting.is_empty());
        }
        let unsent = self.admit_waiting(state);
        drop(guard);
        drop(unsent);
    }
}

/// How an admitted request has ended.
struct Completion {
    now: Tick,
    served: Option<Served>,
    used: TokenUsage,
}

impl State {
    fn cap(&self, settings: &Admission) -> u64 {
        cap(self.adaptive.as_ref(), settings)
    }

    fn has_room(&self, settings: &Admission, expected: &TokenUsage) -> bool {
        self.counts.has_room(self.adaptive.as_ref(), settings, expected)
    }
}

/// Tokens that a request may have in flight.
fn tokens(expected: &TokenUsage) -> u64 {
    expected.input.saturating_add(expected.output).min(MAX_COUNTED_TOKENS)
}

fn cap(adaptive: Option<&Adaptive>, settings: &Admission) -> u64 {
    adaptive.map_or(settings.max_requests, Adaptive::cap)
}

impl QueueCounts {
    fn has_room(
        &self,
        adaptive: Option<&Adaptive>,
        settings: &Admission,
        expected: &TokenUsage,
    ) -> bool {
        let cap = cap(adaptive, settings);
        // A request that is larger than `max_tokens` is admitted alone.
        let fits = settings.max_tokens == 0
            || self.in_flight == 0
            || self.tokens.saturating_add(tokens(expected)) <= settings.max_tokens;
        fits && (cap == 0 || self.in_flight < cap)
    }
}

impl Permit {
    /// Return the permit, with the tokens that the request has used and how fast the engine served
    /// it, if that is known.
    pub fn leave(mut self, now: Tick, served: Option<Served>, used: &TokenUsage) {
        self.end(Some(&Completion { now, served, used: *used }));
    }

    /// Return the permit of a request that gets no answer from this engine. Its tenant is not
    /// charged.
    pub fn abandon(self, now: Tick) {
        self.leave(now, None, &TokenUsage::default());
    }

    fn end(&mut self, completion: Option<&Completion>) {
        if let Some(queue) = self.queue.take() {
            queue.leave(&self.expected, self.charge.as_ref(), completion);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.end(None);
    }
}

impl Waiting {
    /// Maximum wait.
    pub fn max_wait(&self) -> Duration {
        self.max_wait
    }

    /// Wait for admission.
    ///
    /// # Errors
    /// [`Shed`], if a request of a higher priority has replaced this one in a full queue.
    ///
    /// # Cancel safety
    /// It may be called again; dropping the [`Waiting`] leaves the queue.
    pub async fn turn(&mut self) -> Result<Permit, Shed> {
        (&mut self.told).await.unwrap_or(Err(Shed {
            reason: ShedReason::TimedOut,
            retry_after: Duration::from_secs(1),
        }))
    }

    /// Leave the queue, because the maximum wait has passed.
    pub fn give_up(self, now: Tick) -> Shed {
        let mut state = self.queue.state.lock();
        state.counts.shed[ShedReason::TimedOut as usize] += 1;
        let retry_after =
            state.pace.wait(state.waiting.len() as u64, now).max(Duration::from_secs(1));
        Shed { reason: ShedReason::TimedOut, retry_after }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        if state.waiting.remove(&self.tenant, self.key).is_some() {
            // The request behind may fit where this one did not.
            let unsent = self.queue.admit_waiting(&mut state);
            drop(state);
            drop(unsent);
        }
    }
}

impl Observe for AdmissionQueue {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        let counts = self.counts();
        samples.counts(&[
            ("llm_lens_queue_depth", counts.waiting),
            ("llm_lens_admitted_in_flight", counts.in_flight),
            ("llm_lens_admitted_tokens", counts.tokens),
            ("llm_lens_admission_limit", counts.cap),
            ("llm_lens_admitted_requests_total", counts.admitted),
            ("llm_lens_queued_requests_total", counts.queued),
        ]);
        for (reason, shed) in ShedReason::ALL.iter().zip(counts.shed) {
            samples.push_with(
                "llm_lens_shed_requests_total",
                ("reason", reason.name()),
                shed as f64,
            );
        }
    }
}

#[cfg(test)]
mod tests;
