//! The exporter's thread: two loops, one for spans and one for metrics.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use opentelemetry_proto::tonic::resource::v1::Resource;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::counts::{Reason, Signal};
use super::{Collect, Command, Shared, unix_nanos};
use crate::metrics::Encoder;
use crate::settings::{MetricsSettings, TracesSettings};
use crate::traces;
use crate::transport::{Accepted, Client, Delivery, ExportError, Request};

/// What the thread works with.
pub(super) struct Worker {
    pub(super) shared: Arc<Shared>,
    pub(super) resource: Resource,
    pub(super) spans: Option<(Client, TracesSettings)>,
    pub(super) metrics: Option<(Client, MetricsSettings, Encoder)>,
}

impl Worker {
    /// Export until the command to end, or until the exporter is dropped.
    pub(super) async fn work(self, collect: Collect, mut commands: mpsc::Receiver<Command>) {
        let Worker { shared, resource, spans, metrics } = self;
        let (ends, ending) = watch::channel(false);
        let (flush, flushes) = mpsc::channel(1);
        let control = async {
            let mut reports = None;
            while let Some(command) = commands.recv().await {
                match command {
                    Command::Metrics(done) => drop(flush.send(done).await),
                    Command::End(done) => {
                        reports = Some(done);
                        break;
                    }
                }
            }
            drop(flush);
            let _ = ends.send(true);
            reports
        };
        let traces = async {
            if let Some((client, settings)) = spans {
                let delivery = Delivery::new(client, settings.timeout);
                let mut exporter =
                    SpanExporter { shared: &shared, resource, delivery, settings, current: None };
                exporter.keep(ending.clone()).await;
            }
        };
        let metrics = async {
            match metrics {
                Some((client, settings, encoder)) => {
                    let delivery = Delivery::new(client, settings.timeout);
                    let exporter = MetricsExporter { shared: &shared, delivery, encoder, collect };
                    exporter.keep(settings.interval, flushes).await;
                }
                None => report_all(flushes).await,
            }
        };
        let (reports, ..) = tokio::join!(control, traces, metrics);
        if let Some(done) = reports {
            let _ = done.send(());
        }
    }
}

async fn report_all(mut flushes: mpsc::Receiver<SyncSender<()>>) {
    while let Some(done) = flushes.recv().await {
        let _ = done.send(());
    }
}

struct SpanExporter<'s> {
    shared: &'s Shared,
    resource: Resource,
    delivery: Delivery<Client>,
    settings: TracesSettings,
    /// The request that is being delivered, and its spans. It is kept when the delivery is
    /// canceled.
    current: Option<(Request, u64)>,
}

impl SpanExporter<'_> {
    async fn keep(&mut self, mut ending: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = self.shared.queued.notified() => {}
                () = tokio::time::sleep(self.settings.delay) => {}
                // It also ends when the sender is gone.
                _ = ending.changed() => break,
            }
            let stopped = tokio::select! {
                () = self.send_all() => false,
                _ = ending.changed() => true,
            };
            if stopped {
                break;
            }
        }
        // The end waits only for a short time.
        let _ = tokio::time::timeout(super::LAST_EXPORT, self.send_all()).await;
        if let Some((_, spans)) = self.current.take() {
            self.shared.counts.dropped(Signal::Traces, Reason::Failed, spans);
            tracing::warn!(spans, "otlp: spans lost at the end of the process");
        }
    }

    async fn send_all(&mut self) {
        loop {
            if self.current.is_none() {
                let spans = self.shared.queue.lock().take(self.settings.max_batch);
                let count = spans.len() as u64;
                let request = Request::Traces(traces::request(&self.resource, spans));
                self.current = Some((request, count)).filter(|_| count > 0);
            }
            let Some((request, count)) = &self.current else { return };
            let failed = |error: &ExportError| note(self.shared, Signal::Traces, error);
            match self.delivery.deliver(request, failed).await {
                Ok(accepted) => count_accepted(self.shared, Signal::Traces, *count, &accepted),
                Err(error) => lost(self.shared, Signal::Traces, *count, &error),
            }
            self.current = None;
        }
    }
}

struct MetricsExporter<'s> {
    shared: &'s Shared,
    delivery: Delivery<Client>,
    encoder: Encoder,
    collect: Collect,
}

impl MetricsExporter<'_> {
    async fn keep(mut self, interval: Duration, mut flushes: mpsc::Receiver<SyncSender<()>>) {
        let mut ticks = interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut waiting = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    // A flush does not wait for a collector that does not answer.
                    tokio::select! {
                        () = self.export() => {}
                        flush = flushes.recv() => match flush {
                            Some(done) => waiting = Some(done),
                            None => return,
                        },
                    }
                }
                flush = flushes.recv() => match flush {
                    Some(done) => waiting = Some(done),
                    None => return,
                },
            }
            if let Some(done) = waiting.take() {
                let _ = tokio::time::timeout(super::LAST_EXPORT, self.export()).await;
                let _ = done.send(());
            }
        }
    }

    /// Export all metrics. What fails for now is a part of the next export.
    async fn export(&mut self) {
        let now = unix_nanos();
        let mut export = self.encoder.begin(now);
        if !(self.collect)(&mut export) {
            return;
        }
        let requests = export.finish();
        for request in requests {
            let (message, points) = (Request::Metrics(request.message), request.points);
            let baseline = request.baseline;
            let result = self.delivery.deliver(&message, |error| {
                note(self.shared, Signal::Metrics, error);
            });
            match result.await {
                Ok(accepted) => count_accepted(self.shared, Signal::Metrics, points, &accepted),
                Err(error) if error.permanent => {
                    lost(self.shared, Signal::Metrics, points, &error);
                }
                Err(error) => {
                    tracing::warn!(%error, "otlp: metrics not exported, the next export has them");
                    return;
                }
            }
            self.encoder.commit(baseline);
        }
        self.encoder.end(now);
    }
}

fn note(shared: &Shared, signal: Signal, error: &ExportError) {
    shared.counts.failed(signal, &error.code);
    tracing::debug!(signal = signal.name(), %error, "otlp: an export request failed");
}

fn count_accepted(shared: &Shared, signal: Signal, items: u64, accepted: &Accepted) {
    let rejected = accepted.rejected.min(items);
    shared.counts.exported(signal, items - rejected);
    if rejected > 0 {
        shared.counts.dropped(signal, Reason::Rejected, rejected);
    }
    if rejected > 0 || !accepted.message.is_empty() {
        let (signal, reason) = (signal.name(), &*accepted.message);
        tracing::warn!(signal, rejected, reason, "otlp: the backend refused a part of an export");
    }
}

fn lost(shared: &Shared, signal: Signal, items: u64, error: &ExportError) {
    let reason = if error.permanent { Reason::Rejected } else { Reason::Failed };
    shared.counts.dropped(signal, reason, items);
    tracing::warn!(signal = signal.name(), items, %error, "otlp: an export was lost");
}
