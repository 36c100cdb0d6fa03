//! The task that exports metrics.
//!
//! - *In*: the interval; requests to export now.
//! - *Out*: export requests with retries.
//! - *Never*: a baseline of delta temporality that the collector did not get.

use std::sync::Arc;
use std::sync::mpsc::SyncSender;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::counts::Signal;
use super::{Collect, LAST_EXPORT, Shared, unix_nanos};
use crate::metrics::Encoder;
use crate::settings::MetricsSettings;
use crate::transport::{Client, Delivery, Request};

/// Exports metrics at an interval.
pub(super) struct MetricsExporter {
    shared: Arc<Shared>,
    settings: MetricsSettings,
    delivery: Delivery<Client>,
    encoder: Encoder,
}

impl MetricsExporter {
    pub(super) fn new(
        shared: Arc<Shared>,
        client: Client,
        settings: MetricsSettings,
        encoder: Encoder,
    ) -> Self {
        let delivery = Delivery::new(client, settings.timeout);
        MetricsExporter { shared, settings, delivery, encoder }
    }

    /// Export until the sender of `flushes` is dropped.
    pub(super) async fn keep(
        mut self,
        mut collect: Collect,
        mut flushes: mpsc::Receiver<SyncSender<()>>,
    ) {
        let interval = self.settings.interval;
        let mut ticks = interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let flush = tokio::select! {
                _ = ticks.tick() => {
                    // A flush does not wait for a collector that does not answer.
                    tokio::select! {
                        () = self.export(&mut collect) => continue,
                        flush = flushes.recv() => flush,
                    }
                }
                flush = flushes.recv() => flush,
            };
            let Some(done) = flush else { return };
            let _ = tokio::time::timeout(LAST_EXPORT, self.export(&mut collect)).await;
            let _ = done.send(());
        }
    }

    /// Export all metrics. What fails for now is a part of the next export.
    async fn export(&mut self, collect: &mut Collect) {
        let now = unix_nanos();
        let requests = {
            let mut export = self.encoder.begin(now);
            if !collect(&mut export) {
                return;
            }
            export.finish()
        };
        let counts = &self.shared.counts;
        for request in requests {
            let (message, points) = (Request::Metrics(request.message), request.points);
            let baseline = request.baseline;
            let result = self.delivery.deliver(&message, |error| {
                counts.failed(Signal::Metrics, &error.code);
                tracing::debug!(signal = "metrics", %error, "otlp: an export request failed");
            });
            match result.await {
                Ok(accepted) => {
                    let rejected = accepted.rejected.min(points);
                    counts.exported(Signal::Metrics, points - rejected);
                    if rejected > 0 {
                        counts.rejected(Signal::Metrics, rejected);
                    }
                    if rejected > 0 || !accepted.message.is_empty() {
                        let reason = &*accepted.message;
                        tracing::warn!(rejected, reason, "otlp: the backend refused data points");
                    }
                }
                Err(error) if error.permanent => {
                    counts.rejected(Signal::Metrics, points);
                    tracing::warn!(points, %error, "otlp: the backend refused metrics");
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
