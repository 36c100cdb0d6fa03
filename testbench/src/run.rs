//! Runs a load test, in a closed or an open loop.
//!
//! - *In*: a [`Config`].
//! - *Out*: an [`Outcome`]: every request, and the histograms of all.
//! - *Never*: in an open loop, latency from when a request was sent: it is measured from when the
//!   request was due.

mod drive;
mod pacer;
mod progress;

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use lens::Micros;
use serde::Serialize;
use tokio::sync::{Notify, mpsc};
use workload::Workload;
use workload::arrival::{Arrival, Stop};
use workload::prompts::Prompts;
use workload::provider::Provider;

use crate::client::{ClientBudget, Limits, Monitor};
use crate::http1::Target;
use crate::measure::{Measured, Sample};
use drive::Round;
use progress::Progress;

/// Maximum users of a closed loop. Each has a connection, and an address has about 28,000 ports
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
    /// The API of the server.
    pub provider: Provider,
    /// How requests arrive.
    pub arrival: Arrival,
    /// When the run stops.
    pub stop: Stop,
    /// Requests before the run that are not counted.
    pub warm_up: u64,
    /// Stream the answers.
    pub stream: bool,
    /// What requests contain.
    pub workload: Arc<Workload>,
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
    /// Gaps between events of a choice, with and without text.
    pub event_gaps: Micros,
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
            measured.event_gaps.into_iter().for_each(|us| self.event_gaps.record(us));
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
        self.event_gaps.merge(&other.event_gaps);
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
    let runner = Arc::new(Runner {
        config,
        target,
        run: rand::random(),
        number: AtomicU64::new(0),
        conversation: AtomicU64::new(0),
    });
    let mut stop = pin!(stop);
    if runner.config.warm_up > 0 {
        let warm = Stop::Requests(runner.config.warm_up);
        let outcome = runner.clone().round(warm, true, None, stop.as_mut()).await;
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
    Ok(runner.clone().round(runner.config.stop, false, progress, stop).await)
}

fn check(config: &Config) -> Result<(), RunError> {
    let wrong = |why: &str| Err(RunError::Config(why.to_owned()));
    config.arrival.check().map_err(RunError::Config)?;
    config.workload.check(&config.provider).map_err(RunError::Config)?;
    if let Arrival::Closed { concurrency } = config.arrival
        && concurrency > MAX_CONCURRENCY
    {
        return wrong("the concurrency must be at most 15000; run several processes for more");
    }
    if config.stop == Stop::AtEnd && !config.arrival.has_end() {
        return wrong("the arrivals have no end; limit the requests or the duration");
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
    /// Requests so far.
    number: AtomicU64,
    /// Number of the next conversation.
    conversation: AtomicU64,
}

impl Runner {
    async fn round(
        self: Arc<Self>,
        stop: Stop,
        is_warm_up: bool,
        mut progress: Option<Progress>,
        interrupted: impl Future<Output = ()>,
    ) -> Outcome {
        let mut seed = self.config.seed;
        // Conversations that were made and not sent do not shift those of the run.
        let mut first = if is_warm_up { 0 } else { self.config.warm_up };
        if matches!(self.config.workload.prompts, Prompts::Trace(_)) {
            // The trace begins at its first request, whose prompt no cache should have.
            (first, seed) = (0, if is_warm_up { !seed } else { seed });
        }
        self.conversation.store(first, Ordering::Relaxed);
        let calibrated = Monitor::calibrate(self.config.limits).await;
        let connections = drive::connect_for_burst(&self).await;
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
        let round = Round::new(self.clone(), stop, seed, start, send);
        // Dropping the drive cancels the requests in flight, and so ends the collector.
        let drive = async {
            tokio::select! {
                () = round.drive(connections) => Ended::Completed,
                () = interrupted => Ended::Interrupted,
                () = failed_alike.notified() => Ended::FailedAlike,
            }
        };
        let (mut outcome, ended) = tokio::join!(collect, drive);
        outcome.took = start.elapsed();
        outcome.client = monitor.end().await.complete(&outcome.samples);
        outcome.started = Some(started);
        outcome.ended = ended;
        outcome.url = self.target.url(self.config.provider.api.path());
        let sent = self.number.load(Ordering::Relaxed) - before;
        outcome.cancelled = sent.saturating_sub(outcome.samples.len() as u64);
        outcome
    }
}
