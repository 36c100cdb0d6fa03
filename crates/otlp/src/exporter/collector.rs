//! The collector as a destination of records: spans or log records are made from them, and sent.
//!
//! - *In*: batches of a [`DeliverySink`](observatory::DeliverySink), on its thread.
//! - *Out*: export requests, one after the other, with at most `max_batch` items and about 2 MiB.
//! - *Never*: a retry: the sink sends the batch again. Of a batch that comes again, what the
//!   collector has accepted is left out, unless the process was killed in between.

use std::sync::Arc;
use std::time::Duration;

use lens::Record;
use observatory::{DeliveryError, Destination, NumberedRecord, RecordKey};
use opentelemetry_proto::tonic::logs::v1::LogRecord;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1::Span;
use prost::Message;
use tokio::time::{Instant, timeout_at};

use super::Shared;
use super::counts::Signal;
use super::resource::Resources;
use crate::metrics::MAX_REQUEST_BYTES;
use crate::transport::{Accepted, Export, ExportError, Request};
use crate::{logs, traces};

/// Sends the spans or the log records of finished requests.
pub(super) struct Collector<E> {
    shared: Arc<Shared>,
    signal: Signal,
    client: E,
    /// Maximum spans or log records of a request.
    max_batch: usize,
    /// What was settled of a batch that comes again.
    progress: Option<Progress>,
    /// The last warning of the collector, so that it is logged once.
    warning: String,
}

/// How far a batch was delivered.
struct Progress {
    /// Its first record.
    first: RecordKey,
    /// Records that the collector has accepted or refused.
    settled: usize,
    /// Those that it refused.
    lost: u64,
    /// Its reason.
    why: String,
}

/// A part of a batch, as an export request.
struct Part {
    records: usize,
    items: u64,
    request: Request,
}

impl<E: Export> Collector<E> {
    pub(super) fn new(shared: Arc<Shared>, signal: Signal, client: E, max_batch: usize) -> Self {
        Collector { shared, signal, client, max_batch, progress: None, warning: String::new() }
    }

    /// The request for the first records of a batch.
    fn part(&self, batch: &[NumberedRecord]) -> Part {
        let (resources, max) = (&self.shared.resources, self.max_batch);
        match self.signal {
            Signal::Logs => {
                let log = |record: &Record| vec![self.log_record(record)];
                let taken: Taken<LogRecord> = Taken::new(batch, max, resources, log);
                taken.into_part(|parts| Request::Logs(logs::request(parts)))
            }
            Signal::Traces | Signal::Metrics => {
                let conventions = self.shared.settings.conventions;
                let spans = |record: &Record| traces::spans(record, conventions);
                let taken: Taken<Span> = Taken::new(batch, max, resources, spans);
                taken.into_part(|parts| Request::Traces(traces::request(parts)))
            }
        }
    }

    fn log_record(&self, record: &Record) -> LogRecord {
        let settings = &self.shared.settings;
        let sampler = settings.traces.as_ref().map(|traces| traces.sampler);
        let is_traced = sampler.is_some_and(|sampler| traces::is_kept(record, &sampler));
        logs::log_record(record, settings.conventions, is_traced)
    }

    /// Send a request, until `until` at the latest.
    fn export(&mut self, request: &Request, until: Instant) -> Result<Accepted, ExportError> {
        let Collector { shared, client, .. } = self;
        let late = |_| ExportError::retryable("timeout", "the batch took too long");
        shared.io.runtime().block_on(async {
            timeout_at(until, client.export(request)).await.map_err(late).flatten()
        })
    }

    /// Counts what was accepted; returns how many records may have been refused.
    fn count_accepted(&mut self, part: &Part, accepted: &Accepted) -> u64 {
        let (counts, signal) = (&self.shared.counts, self.signal);
        let rejected = accepted.rejected.min(part.items);
        counts.exported(signal, part.items - rejected);
        if rejected == 0 && !accepted.message.is_empty() && accepted.message != self.warning {
            self.warning.clone_from(&accepted.message);
            tracing::warn!(signal = signal.name(), warning = accepted.message, "otlp");
        }
        if rejected > 0 {
            counts.rejected(signal, rejected);
        }
        rejected.min(part.records as u64)
    }

    /// The reason of a refusal, with what the operator can do.
    fn reason(&self, error: &ExportError) -> String {
        let signal = self.signal.name();
        match error.code.as_str() {
            "http_404" | "grpc_unimplemented" => {
                format!("{error} (otlp.{signal}: false if the backend accepts no {signal})")
            }
            _ => error.to_string(),
        }
    }
}

impl<E: Export + Send + 'static> Destination for Collector<E> {
    fn name(&self) -> &'static str {
        match self.signal {
            Signal::Logs => "otlp_logs",
            Signal::Traces | Signal::Metrics => "otlp_traces",
        }
    }

    fn deliver(
        &mut self,
        batch: &[NumberedRecord],
        timeout: Duration,
    ) -> Result<(), DeliveryError> {
        let Some(first) = batch.first().map(|record| record.key.clone()) else { return Ok(()) };
        let known = self.progress.take().filter(|progress| progress.first == first);
        let new = Progress { first, settled: 0, lost: 0, why: String::new() };
        let mut progress = known.unwrap_or(new);
        let until = Instant::now() + timeout;
        while let Some(rest) = batch.get(progress.settled..).filter(|rest| !rest.is_empty()) {
            let part = self.part(rest);
            let result = if part.items == 0 {
                Ok(Accepted::default())
            } else {
                self.export(&part.request, until)
            };
            match result {
                Ok(accepted) => {
                    let lost = self.count_accepted(&part, &accepted);
                    progress.lost += lost;
                    if lost > 0 {
                        progress.why = accepted.message;
                    }
                }
                Err(error) => {
                    self.shared.counts.failed(self.signal, &error.code);
                    if !error.permanent {
                        self.progress = Some(progress);
                        let (why, after) = (error.to_string(), error.retry_after);
                        return Err(DeliveryError::Retryable { why, after });
                    }
                    self.shared.counts.rejected(self.signal, part.items);
                    progress.lost += part.records as u64;
                    progress.why = self.reason(&error);
                }
            }
            progress.settled += part.records;
        }
        match progress.lost {
            0 => Ok(()),
            lost => Err(DeliveryError::Permanent { lost, why: progress.why }),
        }
    }
}

/// Items of the first records of a batch, by the process that made the records.
struct Taken<T> {
    records: usize,
    items: usize,
    parts: Vec<(Resource, Vec<T>)>,
}

impl<T: Message> Taken<T> {
    /// At most `max` items, but those of one record at least.
    fn new(
        batch: &[NumberedRecord],
        max: usize,
        resources: &Resources,
        encode: impl Fn(&Record) -> Vec<T>,
    ) -> Self {
        let mut taken = Taken { records: 0, items: 0, parts: Vec::new() };
        let mut bytes = 0;
        let mut process: Option<&RecordKey> = None;
        for NumberedRecord { key, record } in batch {
            let items = encode(record);
            bytes += items.iter().map(Message::encoded_len).sum::<usize>();
            let is_full = taken.items + items.len() > max || bytes > MAX_REQUEST_BYTES;
            if taken.items > 0 && is_full {
                break;
            }
            taken.records += 1;
            taken.items += items.len();
            let is_same = process
                .is_some_and(|last| (last.epoch, &last.instance) == (key.epoch, &key.instance));
            match taken.parts.last_mut().filter(|_| is_same) {
                Some((_, all)) => all.extend(items),
                None => taken.parts.push((resources.of_process(key), items)),
            }
            process = Some(key);
        }
        taken
    }

    fn into_part(self, request: impl Fn(Vec<(Resource, Vec<T>)>) -> Request) -> Part {
        Part { records: self.records, items: self.items as u64, request: request(self.parts) }
    }
}

#[cfg(test)]
mod tests;
