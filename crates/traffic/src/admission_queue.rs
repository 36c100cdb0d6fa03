//! The admission queue of a backend: concurrent requests, and which waiting request is next.
//!
//! - *In*: requests with a tenant, a priority, estimated tokens and a deadline; completions of
//!   admitted requests.
//! - *Out*: a [`Permit`], a position in the queue, or [`Shed`] at once when the wait would be too
//!   long.
//! - *Never*: a thread or a timer. Callers supply the timer; dropping a permit or a waiting request
//!   releases it.
//!
//! The next request is the one of the highest priority; among equals, the one with the earliest
//! virtual finish time (start-time fair queueing, Goyal, Vin and Cheng 1996, with tokens for
//! bytes): a tenant with a hundred long requests delays another's short one by one of them.

mod adaptive;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures_channel::oneshot;
use lens::Tick;
use lens::observe::{Observe, Samples};
use parking_lot::Mutex;

use super::settings::Admission;
use adaptive::Adaptive;

/// Weight of a request in addition to its tokens.
const OVERHEAD: u64 = 16;
/// Maximum tokens that are counted for a request. No engine has a larger context.
const MAX_COUNTED_TOKENS: u64 = 1 << 32;
/// Weight of a new departure gap in the mean.
const NEW: f64 = 0.1;

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
    /// Tokens of its prompt, and those it may generate.
    pub tokens: u64,
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

/// Order of admission: reversed priority, virtual finish time, arrival. The smallest is next.
type Turn = (u8, u64, u64);

#[derive(Debug)]
struct State {
    counts: QueueCounts,
    waiting: BTreeMap<Turn, Waiter>,
    /// Virtual finish time of each tenant's last request. Past ones are dropped.
    tenants: HashMap<Arc<str>, u64>,
    virtual_time: u64,
    arrivals: u64,
    /// Mean nanoseconds between two departures while requests wait; 0: unknown.
    gap: f64,
    last_departure: Tick,
    /// When the queue last became non-empty.
    busy_since: Tick,
    adaptive: Option<Adaptive>,
}

#[derive(Debug)]
struct Waiter {
    request: QueueRequest,
    start: u64,
    tell: oneshot::Sender<Result<Permit, Shed>>,
}

/// An admission permit. [`Permit::leave`] returns it with the measured time to first token;
/// dropping it returns it without.
#[derive(Debug)]
pub struct Permit {
    queue: Option<Arc<AdmissionQueue>>,
    tokens: u64,
}

/// A waiting request; dropping it leaves the queue.
#[derive(Debug)]
pub struct Waiting {
    queue: Arc<AdmissionQueue>,
    turn: Turn,
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
            waiting: BTreeMap::new(),
            tenants: HashMap::new(),
            virtual_time: 0,
            arrivals: 0,
            gap: 0.0,
            last_departure: Tick(0),
            busy_since: Tick(0),
            adaptive,
        };
        AdmissionQueue { settings, state: Mutex::new(state) }
    }

    /// Take a permit, if one is free and no request waits.
    pub fn enter(self: &Arc<Self>, tokens: u64) -> Option<Permit> {
        let tokens = tokens.min(MAX_COUNTED_TOKENS);
        let mut state = self.state.lock();
        if !state.waiting.is_empty() || !state.has_room(&self.settings, tokens) {
            return None;
        }
        Some(self.place(&mut state, tokens))
    }

    /// Enter the queue. The request may be admitted at once.
    ///
    /// # Errors
    /// [`Shed`], if the queue is full or the expected wait is too long.
    pub fn wait(self: &Arc<Self>, request: QueueRequest, now: Tick) -> Result<Waiting, Shed> {
        let request = QueueRequest { tokens: request.tokens.min(MAX_COUNTED_TOKENS), ..request };
        let max_wait =
            request.max_wait.unwrap_or(self.settings.max_wait).min(self.settings.max_wait);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let start =
            state.virtual_time.max(state.tenants.get(&request.tenant).copied().unwrap_or(0));
        let finish = start.saturating_add(request.tokens.saturating_add(OVERHEAD));
        let turn = (9 - request.priority.min(9), finish, state.arrivals);
        let ahead = state.waiting.range(..turn).count() as u64;
        let expected = state.wait_of(ahead, now);
        let retry_after = expected.saturating_sub(max_wait).max(Duration::from_secs(1));
        let refuse = |state: &mut State, reason| {
            state.counts.shed[reason as usize] += 1;
            Err(Shed { reason, retry_after })
        };
        if expected > max_wait {
            return refuse(state, ShedReason::TooLate);
        }
        if state.waiting.len() >= self.settings.queue {
            // A request of a higher priority replaces the last one in a full queue.
            match state.waiting.last_entry() {
                Some(last) if last.key().0 > turn.0 => {
                    let _ = last
                        .remove()
                        .tell
                        .send(Err(Shed { reason: ShedReason::QueueFull, retry_after }));
                    state.counts.shed[ShedReason::QueueFull as usize] += 1;
                }
                _ => return refuse(state, ShedReason::QueueFull),
            }
        }
        let (tell, told) = oneshot::channel();
        state.arrivals += 1;
        if state.waiting.is_empty() {
            state.busy_since = now;
        }
        if state.tenants.len() > 2 * self.settings.queue + 64 {
            let past = state.virtual_time;
            state.tenants.retain(|_, finish| *finish > past);
        }
        state.tenants.insert(request.tenant.clone(), finish);
        state.waiting.insert(turn, Waiter { request, start, tell });
        // A permit may have become free meanwhile.
        let unsent = self.admit_waiting(state);
        drop(guard);
        drop(unsent);
        Ok(Waiting { queue: self.clone(), turn, max_wait, told })
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

    fn place(self: &Arc<Self>, state: &mut State, tokens: u64) -> Permit {
        state.counts.in_flight += 1;
        state.counts.tokens += tokens;
        state.counts.admitted += 1;
        Permit { queue: Some(self.clone()), tokens }
    }

    /// Admit waiting requests while permits are free. Permits of requests that left are returned;
    /// they must be dropped without the lock.
    fn admit_waiting(self: &Arc<Self>, state: &mut State) -> Vec<Permit> {
        let mut unsent = Vec::new();
        while let Some(next) = state.waiting.first_entry() {
            let tokens = next.get().request.tokens;
            if !state.counts.has_room(state.adaptive.as_ref(), &self.settings, tokens) {
                break;
            }
            let Waiter { start, tell, .. } = next.remove();
            state.virtual_time = state.virtual_time.max(start);
            let place = self.place(state, tokens);
            match tell.send(Ok(place)) {
                Ok(()) => state.counts.queued += 1,
                Err(place) => unsent.extend(place),
            }
        }
        if state.waiting.is_empty() {
            state.tenants.clear();
            state.virtual_time = 0;
        }
        unsent
    }

    /// An admitted request has left. `now` and `ttft` (the engine's time to first token) are `None`
    /// if unknown.
    fn leave(self: &Arc<Self>, tokens: u64, now: Option<Tick>, ttft: Option<Duration>) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        if let (Some(adaptive), Some(now), Some(ttft)) = (&mut state.adaptive, now, ttft) {
            adaptive.learn(state.counts.in_flight, now, ttft);
        }
        state.counts.in_flight -= 1;
        state.counts.tokens -= tokens;
        if let Some(now) = now {
            let gap = now.nanos_since(state.last_departure.max(state.busy_since)) as f64;
            // Departures measure the backend's pace only while requests wait.
            if !state.waiting.is_empty() {
                state.gap =
                    if state.gap == 0.0 { gap } else { state.gap + NEW * (gap - state.gap) };
            }
            state.last_departure = now;
        }
        let unsent = self.admit_waiting(state);
        drop(guard);
        drop(unsent);
    }
}

impl State {
    fn cap(&self, settings: &Admission) -> u64 {
        cap(self.adaptive.as_ref(), settings)
    }

    fn has_room(&self, settings: &Admission, tokens: u64) -> bool {
        self.counts.has_room(self.adaptive.as_ref(), settings, tokens)
    }

    /// Expected wait of a request with `ahead` requests before it.
    fn wait_of(&self, ahead: u64, now: Tick) -> Duration {
        // The pace is unknown, or the request is next: accept it, so that it measures the pace.
        if self.gap == 0.0 || ahead == 0 {
            return Duration::ZERO;
        }
        // Without departures, the gap is at least the time since the last one.
        let silent = now.nanos_since(self.last_departure.max(self.busy_since)) as f64;
        let wait = (ahead as f64 * self.gap.max(silent)) + (self.gap - silent).max(0.0);
        Duration::from_nanos(wait as u64)
    }
}

fn cap(adaptive: Option<&Adaptive>, settings: &Admission) -> u64 {
    adaptive.map_or(settings.max_requests, Adaptive::cap)
}

impl QueueCounts {
    fn has_room(&self, adaptive: Option<&Adaptive>, settings: &Admission, tokens: u64) -> bool {
        let cap = cap(adaptive, settings);
        // A request that is larger than `max_tokens` is admitted alone.
        let fits = settings.max_tokens == 0
            || self.in_flight == 0
            || self.tokens.saturating_add(tokens) <= settings.max_tokens;
        fits && (cap == 0 || self.in_flight < cap)
    }
}

impl Permit {
    /// Return the permit, with the engine's time to first token, if it is known.
    pub fn leave(mut self, now: Tick, ttft: Option<Duration>) {
        if let Some(queue) = self.queue.take() {
            queue.leave(self.tokens, Some(now), ttft);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(queue) = self.queue.take() {
            queue.leave(self.tokens, None, None);
        }
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
            state.wait_of(state.waiting.len() as u64, now).max(Duration::from_secs(1));
        Shed { reason: ShedReason::TimedOut, retry_after }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let mut state = self.queue.state.lock();
        if state.waiting.remove(&self.turn).is_some() {
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
