//! The exporter: sinks of records for traces and logs, and a task that sends metrics.
//!
//! - *In*: finished records; a function that writes all metrics.
//! - *Out*: export requests; counts and log lines of what was not delivered.
//! - *Never*: a queue of its own: records wait in a [`DeliverySink`], which also retries and has
//!   the spill. Metrics wait nowhere: an export that fails is a part of the next one. A task on the
//!   threads of the data path.

mod collector;
mod counts;
mod resource;
mod sinks;
mod worker;

use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lens::Tick;
use lens::observe::{Observe, Samples};
use observatory::{DeliverySettings, DeliverySink, RecordKey, Sink, SpillSettings};
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use crate::metrics::{Encoder, Export};
use crate::settings::{BatchSettings, Sampler, Settings, Target};
use crate::transport::{Client, ClientError};
use collector::Collector;
use counts::{Counts, Signal};
use resource::Resources;
use sinks::SampledSink;

/// Maximum time of the last export of metrics, when the process ends.
const LAST_EXPORT: Duration = Duration::from_secs(2);
/// How much longer its report may take.
const LAST_REPORT: Duration = Duration::from_millis(500);
/// Wait after the first failed attempt to deliver a batch of records, and the maximum.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));

/// Why the exporter does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A client cannot be built.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The runtime cannot be started.
    #[error("cannot start the OTLP exporter: {0}")]
    Thread(#[from] std::io::Error),
    /// The spill cannot be used, or a thread cannot be started.
    #[error("otlp.spill.path: {0}")]
    Spill(String),
}

/// Writes all metrics; `false`: the process ends, and there are none.
pub type Collect = Box<dyn FnMut(&mut Export<'_>) -> bool + Send>;

/// An exporter. It exports no more metrics when it is dropped.
pub struct Exporter {
    shared: Arc<Shared>,
    /// Until it starts.
    metrics: Mutex<Option<worker::MetricsExporter>>,
    /// Requests to export the metrics now. The answer is sent when it is done.
    flushes: Mutex<Option<mpsc::Sender<SyncSender<()>>>>,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// What sinks and the task of metrics share.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    resources: Resources,
    counts: Counts,
    io: Io,
}

/// The thread on which connections to the collector are served. They must notice that the collector
/// closes them also while nothing is sent.
#[derive(Debug)]
struct Io(Option<Runtime>);

impl Io {
    fn start() -> std::io::Result<Io> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        let runtime =
            builder.worker_threads(1).thread_name("llm-lens-otlp").enable_all().build()?;
        Ok(Io(Some(runtime)))
    }

    fn runtime(&self) -> &Runtime {
        self.0.as_ref().expect("invariant: it is taken only when it is dropped")
    }
}

impl Drop for Io {
    /// Does not wait for a name server that does not answer.
    fn drop(&mut self) {
        self.0.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

impl Exporter {
    /// An exporter that has not started.
    ///
    /// # Errors
    /// When a TLS file or an endpoint is invalid, or there is no thread.
    pub fn new(settings: Settings) -> Result<Self, StartError> {
        let resources = Resources::new(&settings.resource);
        let client = settings.metrics.as_ref().map(|metrics| Client::new(&metrics.target));
        let client = client.transpose()?;
        let shared =
            Arc::new(Shared { settings, resources, counts: Counts::default(), io: Io::start()? });
        let metrics = client.zip(shared.settings.metrics.clone()).map(|(client, metrics)| {
            let form = (metrics.temporality, metrics.aggregation);
            let own = shared.resources.of_process(&RecordKey::first());
            let encoder = Encoder::new(own, shared.settings.conventions, form, unix_nanos());
            worker::MetricsExporter::new(shared.clone(), client, metrics, encoder)
        });
        Ok(Exporter { shared, metrics: Mutex::new(metrics), flushes: Mutex::default() })
    }

    /// The sinks for records: of traces and of logs, as far as they are exported. They deliver at
    /// once, also what an earlier process has left in the spill.
    ///
    /// # Errors
    /// When a TLS file, an endpoint or the folder of the spill is invalid, or there is no thread.
    pub fn sinks(&self) -> Result<Vec<Box<dyn Sink>>, StartError> {
        let mut sinks: Vec<Box<dyn Sink>> = Vec::new();
        let settings = &self.shared.settings;
        if let Some(traces) = &settings.traces {
            let delivery = self.delivery(Signal::Traces, &traces.target, traces.batches)?;
            sinks.push(Box::new(SampledSink::new(self.shared.clone(), traces.sampler, delivery)));
        }
        if let Some(logs) = &settings.logs {
            sinks.push(Box::new(self.delivery(Signal::Logs, &logs.target, logs.batches)?));
        }
        Ok(sinks)
    }

    fn delivery(
        &self,
        signal: Signal,
        target: &Target,
        batches: BatchSettings,
    ) -> Result<DeliverySink, StartError> {
        let spill =
            self.shared.settings.spill.as_ref().map(|spill| SpillSettings {
                path: spill.path.join(signal.name()),
                ..spill.clone()
            });
        let settings = DeliverySettings {
            batch: batches.max_batch,
            queue: batches.max_queued,
            linger: batches.delay,
            timeout: batches.timeout,
            backoff_min: BACKOFF.0,
            backoff_max: BACKOFF.1,
            spill,
        };
        let client = Client::new(target)?;
        let collector = Collector::new(self.shared.clone(), signal, client, batches.max_batch);
        DeliverySink::start(collector, settings)
            .map_err(|error| StartError::Spill(error.to_string()))
    }

    /// How traces are sampled; `None`: they are not exported.
    pub fn sampler(&self) -> Option<Sampler> {
        self.shared.settings.traces.as_ref().map(|traces| traces.sampler)
    }

    /// Start to export metrics, which `collect` writes. A second start does nothing.
    pub fn start(&self, collect: Collect) {
        let Some(exporter) = self.metrics.lock().take() else { return };
        let (flushes, received) = mpsc::channel(1);
        // It ends when the sender is dropped.
        self.shared.io.runtime().spawn(exporter.keep(collect, received));
        *self.flushes.lock() = Some(flushes);
    }

    /// Export the metrics now, and wait for it for at most two seconds: the process is about to
    /// end.
    pub fn flush_metrics(&self) {
        let (done, waits) = sync_channel(1);
        let flushes = self.flushes.lock().clone();
        if flushes.is_some_and(|flushes| flushes.try_send(done).is_ok()) {
            let _ = waits.recv_timeout(LAST_EXPORT + LAST_REPORT);
        }
    }
}

impl Observe for Exporter {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        self.shared.counts.observe(samples);
    }
}

fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
