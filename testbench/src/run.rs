//! Runs a load test, in a closed or an open loop.
//!
//! - *In*: a [`Config`].
//! - *Out*: an [`Outcome`]: every request, and the histograms of all.
//! - *Never*: in an open loop, latency from when a request was sent: it is measured from when the
//!   request was due.

mod progress;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use lens::Micros;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use serde::Serialize;
use serde_json::json;
use tokio::sync::{Notify, mpsc};

use crate::client::{ClientBudget, Limits, Monitor};
use crate::http1::{Connection, Target};
use crate::measure::{CHAT_PATH, LoadRequest, Measured, Sample, send_and_measure};
use crate::prompts::{FilePrompt, Prompts};
use crate::schedule::{Arrival, Stop};
use progress::Progress;

/// Maximum requests in flight in an open loop. Beyond it the run would measure the generator
/// instead of the server. Further requests wait, and the wait counts.
const MAX_IN_FLIGHT: usize = 4096;
/// Maximum workers of a closed loop. Each has a connection, and an address has about 28,000 ports
/// for those to one server.
const MAX_CONCURRENCY: usize = 15_000;

/// The run stops if the first requests all fail alike: further ones would show nothing new.
const MAX_ALIKE: usize = 10;
/// Maximum different errors whose messages are kept.
const MAX_MESSAGES: usize = 64;

/// Configuration of a run.
#[derive(Clone, Debug)]
pub struct Config {
    /// `http://host:port`, with or without `/v1`.
    pub base_url: String,
    /// The model's name in requests.
    pub model: String,
    /// How requests arrive.
    pub arrival: Arrival,
    /// When the run stops.
    pub stop: Stop,
    /// Requests before the run that are not counted.
    pub warm_up: u64,
    /// Stream the answers.
    pub stream: bool,
    /// Prompts of the requests.
    pub prompts: Prompts,
    /// `max_tokens` of each request.
    pub max_tokens: Option<u32>,
    /// An API key.
    pub key: Option<String>,
    /// Maximum time of a request, from its start to the end of the answer.
    pub timeout: Duration,
    /// What the client may add to times before a window is invalid.
    pub limits: Limits,
    /// Seed of everything that is random.
    pub seed: u64,
    /// Report progress on standard error.
    pub progress: bool,
}

/// Why a run cannot start.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// An invalid setting.
    #[error("{0}")]
    Config(String),
}

/// How a run ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// All requests were answered.
    #[default]
    Completed,
    /// A signal stopped it.
    Interrupted,
    /// Its first requests all failed alike.
    FailedAlike,
}

/// Results of a run.
#[derive(Debug, Default)]
pub struct Outcome {
    /// How the run ended.
    pub ended: Ended,
    /// Requests in flight when the run was stopped. They are in no other figure.
    pub cancelled: u64,
    /// URL of the requests.
    pub url: String,
    /// When the measured requests started.
    pub started: Option<SystemTime>,
    /// The server's message for each error, as first received.
    pub messages: BTreeMap<String, String>,
    /// Every request, in the order they ended.
    pub samples: Vec<Sample>,
    /// Time to first token, from when a request was due.
    pub ttft: Micros,
    /// Time to first token, from when a request was sent.
    pub ttft_from_send: Micros,
    /// Time for each output token.
    pub tpot: Micros,
    /// Gaps between token events.
    pub itl: Micros,
    /// Whole requests, from when they were due.
    pub total: Micros,
    /// Whole requests, from when they were sent.
    pub total_from_send: Micros,
    /// What the client added to these times.
    pub client: ClientBudget,
    /// From the start of the measured requests to the end of the last one.
    pub took: Duration,
}

impl Outcome {
    fn take(&mut self, measured: Measured) {
        let sample = measured.sample;
        if sample.is_ok() {
            sample.ttft_us.into_iter().for_each(|us| self.ttft.record(us));
            sample.ttft_from_send_us.into_iter().for_each(|us| self.ttft_from_send.record(us));
            sample.tpot_us.into_iter().for_each(|us| self.tpot.record(us.round() as u64));
            measured.gaps.into_iter().for_each(|us| self.itl.record(us));
            self.total.record(sample.total_us);
            self.total_from_send.record(sample.total_from_send_us());
        }
        if let (Some(error), Some(message)) = (&sample.error, measured.message)
            && self.messages.len() < MAX_MESSAGES
        {
            self.messages.entry(error.clone()).or_insert(message);
        }
        self.samples.push(sample);
    }

    /// Adds a run that follows this one, as if it began when this one ended.
    pub fn append(&mut self, other: Outcome) {
        let shift_us = u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX);
        let shifted = |sample: Sample| Sample { due_us: sample.due_us + shift_us, ..sample };
        self.samples.extend(other.samples.into_iter().map(shifted));
        self.client.append(other.client, shift_us);
        self.ended = other.ended;
        self.cancelled += other.cancelled;
        self.url = other.url;
        self.started = self.started.or(other.started);
        self.messages.extend(other.messages);
        self.ttft.merge(&other.ttft);
        self.ttft_from_send.merge(&other.ttft_from_send);
        self.tpot.merge(&other.tpot);
        self.itl.merge(&other.itl);
        self.total.merge(&other.total);
        self.total_from_send.merge(&other.total_from_send);
        self.took += other.took;
    }

    /// Whether the first [`MAX_ALIKE`] requests all failed alike.
    fn failed_alike(&self) -> bool {
        let first = self.samples.first().and_then(|sample| sample.error.as_ref());
        self.samples.len() == MAX_ALIKE
            && first.is_some()
            && self.samples.iter().all(|sample| sample.error.as_ref() == first)
    }
}

/// Runs a load test, until it is complete or `stop` is ready. Requests in flight are then
/// cancelled, and what was measured until then is the outcome.
///
/// # Errors
/// [`RunError`] if the configuration is invalid. A failing server is not an error: it is in the
/// samples.
pub async fn run_load(config: Config, stop: impl Future<Output = ()>) -> Result<Outcome, RunError> {
    let target = Target::new(&config.base_url).map_err(RunError::Config)?;
    check(&config)?;
    let runner =
        Arc::new(Runner { config, target, run: rand::random(), number: AtomicU64::new(0) });
    let mut stop = pin!(stop);
    if runner.config.warm_up > 0 {
        let warm = Stop::Requests(runner.config.warm_up);
        let outcome = runner.clone().round(warm, None, stop.as_mut()).await;
        match outcome.ended {
            Ended::Completed => {}
            // Nothing was measured.
            Ended::Interrupted => {
                return Ok(Outcome {
                    ended: Ended::Interrupted,
                    url: outcome.url,
                    ..Outcome::default()
                });
            }
            Ended::FailedAlike => return Ok(outcome),
        }
    }
    let progress = runner.config.progress.then(|| Progress::new(runner.config.stop));
    Ok(runner.clone().round(runner.config.stop, progress, stop).await)
}

fn check(config: &Config) -> Result<(), RunError> {
    let wrong = |why: &str| Err(RunError::Config(why.to_owned()));
    match config.arrival {
        Arrival::Closed { concurrency: 0 } => return wrong("the concurrency must be at least 1"),
        Arrival::Closed { concurrency } if concurrency > MAX_CONCURRENCY => {
            return wrong("the concurrency must be at most 15000; run several processes for more");
        }
        Arrival::Poisson { rate } | Arrival::Constant { rate } if !(rate > 0.0 && rate <= 1e6) => {
            return wrong("the rate must be above 0 and at most 1000000 requests per second");
        }
        _ => {}
    }
    if config.key.as_ref().is_some_and(|k| !k.bytes().all(|b| b.is_ascii_graphic())) {
        return wrong("the API key has characters that are not valid in a header");
    }
    Ok(())
}

struct Runner {
    config: Config,
    target: Target,
    /// Distinguishes the request ids of this run from those of others.
    run: u32,
    number: AtomicU64,
}

impl Runner {
    async fn round(
        self: Arc<Self>,
        stop: Stop,
        mut progress: Option<Progress>,
        interrupted: impl Future<Output = ()>,
    ) -> Outcome {
        let calibrated = Monitor::calibrate(self.config.limits).await;
        let (start, started) = (Instant::now(), SystemTime::now());
        let monitor = Monitor::begin(start, calibrated);
        let before = self.number.load(Ordering::Relaxed);
        let failed_alike = Notify::new();
        // Bounded: a worker waits while it is full, but never for long, since the collector only
        // adds numbers.
        let (send, mut receive) = mpsc::channel(1024);
        let collect = async {
            let mut outcome = Outcome::default();
            let every = progress.as_ref().map_or(Duration::from_secs(3600), Progress::interval);
            let mut ticks = tokio::time::interval_at((start + every).into(), every);
            loop {
                tokio::select! {
                    measured = receive.recv() => {
                        let Some(measured) = measured else { return outcome };
                        outcome.take(measured);
                        if outcome.failed_alike() && !stop.is_reached_by(MAX_ALIKE as u64) {
                            failed_alike.notify_one();
                        }
                    }
                    _ = ticks.tick() => {
                        if let Some(progress) = &mut progress {
                            progress.show(&outcome, start);
                        }
                    }
                }
            }
        };
        let drive = async {
            match self.config.arrival {
                Arrival::Closed { concurrency } => {
                    self.closed(concurrency, stop, start, send).await
                }
                Arrival::Poisson { .. } | Arrival::Constant { .. } => {
                    self.open(stop, start, send).await
                }
            }
        };
        // Dropping `drive` cancels the requests in flight, and so ends the collector.
        let drive = async {
            tokio::select! {
                () = drive => Ended::Completed,
                () = interrupted => Ended::Interrupted,
                () = failed_alike.notified() => Ended::FailedAlike,
            }
        };
        let (mut outcome, ended) = tokio::join!(collect, drive);
        outcome.took = start.elapsed();
        outcome.client = monitor.end().await.complete(&outcome.samples);
        outcome.started = Some(started);
        outcome.ended = ended;
        outcome.url = self.target.url(CHAT_PATH);
        let sent = self.number.load(Ordering::Relaxed) - before;
        outcome.cancelled = sent.saturating_sub(outcome.samples.len() as u64);
        outcome
    }

    /// Closed loop: each worker sends its next request after the answer to the last one.
    async fn closed(
        self: &Arc<Self>,
        concurrency: usize,
        stop: Stop,
        start: Instant,
        send: mpsc::Sender<Measured>,
    ) {
        let left = Arc::new(AtomicU64::new(match stop {
            Stop::Requests(n) => n,
            Stop::After(_) => u64::MAX,
        }));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..concurrency {
            let (this, left, send) = (self.clone(), left.clone(), send.clone());
            workers.spawn(async move {
                let mut connection = None;
                loop {
                    let over = matches!(stop, Stop::After(time) if start.elapsed() >= time);
                    let taken = left
                        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
                    if over || taken.is_err() {
                        return;
                    }
                    let measured = send_and_measure(
                        &this.target,
                        &mut connection,
                        this.next_request(Instant::now()),
                        start,
                    )
                    .await;
                    let failed = !measured.sample.is_ok();
                    if send.send(measured).await.is_err() {
                        return;
                    }
                    if failed {
                        // Limits the rate of retries while the server is unreachable.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            });
        }
        drop(send);
        while workers.join_next().await.is_some() {}
    }

    /// Open loop: sends each request when it is due.
    async fn open(self: &Arc<Self>, stop: Stop, start: Instant, send: mpsc::Sender<Measured>) {
        let mut random = SmallRng::seed_from_u64(self.config.seed);
        let idle: Arc<std::sync::Mutex<Vec<Connection>>> = Arc::default();
        let places = Arc::new(tokio::sync::Semaphore::new(MAX_IN_FLIGHT));
        let mut under_way = tokio::task::JoinSet::new();
        let mut due = start;
        for sent in 0_u64.. {
            due += self.config.arrival.gap(&mut random);
            let over = match stop {
                Stop::Requests(n) => sent >= n,
                Stop::After(time) => due.duration_since(start) >= time,
            };
            if over {
                break;
            }
            tokio::time::sleep_until(due.into()).await;
            let Ok(place) = places.clone().acquire_owned().await else { break };
            let (this, idle, send) = (self.clone(), idle.clone(), send.clone());
            let request = this.next_request(due);
            under_way.spawn(async move {
                let mut connection =
                    idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).pop();
                let measured =
                    send_and_measure(&this.target, &mut connection, request, start).await;
                if let Some(connection) = connection {
                    idle.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(connection);
                }
                let _ = send.send(measured).await;
                drop(place);
            });
            while under_way.try_join_next().is_some() {}
        }
        drop(send);
        while under_way.join_next().await.is_some() {}
    }

    fn next_request(&self, due: Instant) -> LoadRequest {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let mut random =
            SmallRng::seed_from_u64(self.config.seed ^ number.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        let messages = match self.config.prompts.prompt_for(number, &mut random) {
            FilePrompt::Text(text) => json!([{"role": "user", "content": text}]),
            FilePrompt::Messages(messages) => messages,
        };
        let mut body =
            json!({"model": self.config.model, "messages": messages, "stream": self.config.stream});
        if self.config.stream {
            body["stream_options"] = json!({"include_usage": true});
        }
        if let Some(n) = self.config.max_tokens {
            body["max_tokens"] = n.into();
        }
        let id = format!("bench-{:08x}-{number}", self.run);
        LoadRequest {
            id,
            body: Bytes::from(body.to_string()),
            key: self.config.key.clone(),
            stream: self.config.stream,
            due,
            timeout: self.config.timeout,
        }
    }
}
