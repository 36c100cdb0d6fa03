//! The exporter: a sink of records, and a thread that sends spans and metrics.
//!
//! - *In*: finished records; a function that writes all metrics.
//! - *Out*: export requests; counts and log lines of what was not delivered.
//! - *Never*: more than `max_queued` waiting spans: further traces are dropped and counted. Metrics
//!   wait nowhere: an export that fails is a part of the next one.

mod counts;
mod worker;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lens::observe::{Observe, Samples};
use lens::{Record, Tick};
use observatory::{Sink, SinkError};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};

use crate::metrics::{Encoder, Export};
use crate::settings::{Sampler, Settings, TracesSettings};
use crate::traces;
use crate::transport::{Client, ClientError};
use crate::value::{pair, text};
use counts::{Counts, Reason, Signal};

/// Maximum time of the last exports, when the process ends.
const LAST_EXPORT: Duration = Duration::from_secs(2);
/// How much longer the thread may take to end.
const LAST_REPORT: Duration = Duration::from_millis(500);

/// Why the exporter does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A client cannot be built.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The thread cannot be started.
    #[error("cannot start the OTLP exporter: {0}")]
    Thread(#[from] std::io::Error),
}

/// Writes all metrics; `false`: the process ends, and there are none.
pub type Collect = Box<dyn FnMut(&mut Export<'_>) -> bool + Send>;

/// An exporter. Its thread ends when the sink is flushed, or when both are dropped.
pub struct Exporter {
    shared: Arc<Shared>,
    /// Until it starts.
    worker: Mutex<Option<worker::Worker>>,
}

impl std::fmt::Debug for Exporter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exporter").field("shared", &self.shared).finish_non_exhaustive()
    }
}

/// State of the sink and the thread.
#[derive(Debug)]
struct Shared {
    settings: Settings,
    queue: Mutex<Queue>,
    queued: Notify,
    counts: Counts,
    thread: Mutex<Option<Running>>,
}

#[derive(Debug)]
struct Running {
    thread: JoinHandle<()>,
    commands: mpsc::Sender<Command>,
}

/// A command to the thread. It reports when it is done.
#[derive(Debug)]
enum Command {
    /// Export the metrics now.
    Metrics(SyncSender<()>),
    /// Export the queued spans, and end.
    End(SyncSender<()>),
}

/// Whole traces that wait, oldest first.
#[derive(Debug, Default)]
struct Queue {
    traces: VecDeque<Vec<Span>>,
    spans: usize,
}

impl Queue {
    /// The oldest traces, up to `max` spans, but at least one trace.
    fn take(&mut self, max: usize) -> Vec<Span> {
        let mut taken = Vec::new();
        while let Some(next) = self.traces.front() {
            if !taken.is_empty() && taken.len() + next.len() > max {
                break;
            }
            taken.extend(self.traces.pop_front().into_iter().flatten());
        }
        self.spans -= taken.len();
        taken
    }
}

impl Exporter {
    /// An exporter that has not started. Its sink takes records at once.
    ///
    /// # Errors
    /// When a TLS file or an endpoint is invalid.
    pub fn new(settings: Settings) -> Result<Self, StartError> {
        let spans = match &settings.traces {
            Some(traces) => Some((Client::new(&traces.target)?, traces.clone())),
            None => None,
        };
        let resource = resource(&settings);
        let metrics = match &settings.metrics {
            Some(metrics) => {
                let form = (metrics.temporality, metrics.aggregation);
                let encoder =
                    Encoder::new(resource.clone(), settings.conventions, form, unix_nanos());
                Some((Client::new(&metrics.target)?, metrics.clone(), encoder))
            }
            None => None,
        };
        let shared = Arc::new(Shared {
            settings,
            queue: Mutex::default(),
            queued: Notify::new(),
            counts: Counts::default(),
            thread: Mutex::default(),
        });
        let worker = worker::Worker { shared: shared.clone(), resource, spans, metrics };
        Ok(Exporter { shared, worker: Mutex::new(Some(worker)) })
    }

    /// The sink for records.
    pub fn sink(&self) -> Box<dyn Sink> {
        Box::new(SpanSink(self.shared.clone()))
    }

    /// How traces are sampled; `None`: they are not exported.
    pub fn sampler(&self) -> Option<Sampler> {
        self.shared.settings.traces.as_ref().map(|traces| traces.sampler)
    }

    /// Start the thread. `collect` writes the metrics. A second start does nothing.
    ///
    /// # Errors
    /// When there is no thread.
    pub fn start(&self, collect: Collect) -> Result<(), StartError> {
        let Some(worker) = self.worker.lock().take() else { return Ok(()) };
        let (commands, received) = mpsc::channel(4);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        // It ends with the command `End`, or when the sender is dropped.
        let thread = std::thread::Builder::new()
            .name("llm-lens-otlp".into())
            .spawn(move || runtime.block_on(worker.work(collect, received)))?;
        *self.shared.thread.lock() = Some(Running { thread, commands });
        Ok(())
    }

    /// Export the metrics now, and wait for it for at most two seconds: the process is about to
    /// end.
    pub fn flush_metrics(&self) {
        let (done, waits) = sync_channel(1);
        let commands = self.shared.thread.lock().as_ref().map(|running| running.commands.clone());
        let sent = commands.map(|commands| commands.try_send(Command::Metrics(done)).is_ok());
        if sent == Some(true) {
            let _ = waits.recv_timeout(LAST_EXPORT + LAST_REPORT);
        }
    }
}

impl Observe for Exporter {
    fn observe(&self, _: Tick, samples: &mut Samples) {
        self.shared.counts.observe(samples);
        let spans = self.shared.queue.lock().spans;
        samples.push("llm_lens_otlp_queued_spans", spans as f64);
    }
}

/// Queues the spans of records.
struct SpanSink(Arc<Shared>);

impl Sink for SpanSink {
    fn name(&self) -> &'static str {
        "otlp"
    }

    /// # Errors
    /// When the queue is full.
    fn deliver(&mut self, batch: &[Arc<Record>]) -> Result<(), SinkError> {
        let Some(settings) = &self.0.settings.traces else { return Ok(()) };
        let lost = batch.iter().filter(|record| !self.0.queue_trace(record, settings)).count();
        match lost {
            0 => Ok(()),
            lost => Err(SinkError {
                lost: lost as u64,
                why: format!("{} spans wait for the OTLP backend", settings.max_queued),
            }),
        }
    }

    /// Export the queued spans, and end the thread.
    fn flush(&mut self) {
        let Some(Running { thread, commands }) = self.0.thread.lock().take() else { return };
        let (done, waits) = sync_channel(1);
        if commands.try_send(Command::End(done)).is_ok()
            && waits.recv_timeout(LAST_EXPORT + LAST_REPORT).is_ok()
        {
            let _ = thread.join();
        }
        // Otherwise the thread ends with the process.
        let left = self.0.queue.lock().spans;
        if left > 0 {
            self.0.counts.dropped(Signal::Traces, Reason::Failed, left as u64);
            tracing::warn!(spans = left, "otlp: spans lost at the end of the process");
        }
    }
}

impl Shared {
    /// Queue the trace of a record, if it is exported. `false`: the queue is full.
    fn queue_trace(&self, record: &Record, settings: &TracesSettings) -> bool {
        if record.trace.is_none() {
            return true;
        }
        if !traces::is_kept(record, &settings.sampler) {
            self.counts.unsampled();
            return true;
        }
        let spans = traces::spans(record, self.settings.conventions);
        let mut queue = self.queue.lock();
        if queue.spans + spans.len() > settings.max_queued {
            drop(queue);
            self.counts.dropped(Signal::Traces, Reason::QueueFull, spans.len() as u64);
            return false;
        }
        queue.spans += spans.len();
        queue.traces.push_back(spans);
        let is_batch = queue.spans >= settings.max_batch;
        drop(queue);
        if is_batch {
            self.queued.notify_one();
        }
        true
    }
}

/// The resource of this process. Without an instance of the operator's, it has a random one: during
/// an upgrade, two processes of the same service export.
fn resource(settings: &Settings) -> Resource {
    const INSTANCE: &str = "service.instance.id";
    let attributes = settings.resource.iter().map(|(key, value)| pair(key, text(value)));
    let own = (!settings.resource.contains_key(INSTANCE))
        .then(|| pair(INSTANCE, text(format!("{:032x}", rand::random::<u128>()))));
    Resource { attributes: attributes.chain(own).collect(), ..Resource::default() }
}

fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
