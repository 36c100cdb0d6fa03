//! The export over OTLP: its settings, and its place in the process.

use std::collections::BTreeMap;
use std::sync::Arc;

use lens::observe::{Observe as _, Samples};
use observatory::{Sink, SpillSettings, TraceFilter, WhenFull};
use otlp::metrics::Export;
use otlp::{Exporter, FileSettings, Settings};
use pipeline::shared::{Shared, Tracing};
use plan::clock;

use super::Observed;

/// Why the exporter does not start.
pub(crate) type OtlpError = otlp::StartError;

/// The exporter, if there is one.
#[derive(Clone, Debug)]
pub(crate) struct Otlp(Option<Arc<Exporter>>);

impl Otlp {
    /// The exporter of the settings and of the process's `OTEL_*` variables.
    pub(crate) fn new(settings: &config::settings::Otlp) -> Result<Self, OtlpError> {
        let variables: BTreeMap<String, String> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .filter(|(name, _)| name.starts_with("OTEL_"))
            .collect();
        let (settings, warnings) = Settings::new(variables, &file_settings(settings));
        for problem in warnings {
            tracing::warn!(problem, "otlp");
        }
        let exporter = settings.map(Exporter::new).transpose()?;
        Ok(Otlp(exporter.map(Arc::new)))
    }

    /// Its sinks of records.
    pub(crate) fn sinks(&self) -> Result<Vec<Box<dyn Sink>>, OtlpError> {
        self.0.as_ref().map_or_else(|| Ok(Vec::new()), |exporter| exporter.sinks())
    }

    /// How calls are sampled; `None`: no traces are exported.
    pub(crate) fn tracing(&self) -> Option<Tracing> {
        let sampler = self.0.as_ref()?.sampler()?;
        Some(Tracing { share: sampler.share, follows_parent: sampler.parent_based })
    }

    /// Which requests have an exported trace; `None`: no traces are exported.
    pub(crate) fn traces(&self) -> Option<TraceFilter> {
        let sampler = self.0.as_ref()?.sampler()?;
        Some(TraceFilter::new(move |record| otlp::traces::is_kept(record, &sampler)))
    }

    /// Start to export metrics.
    pub(crate) fn start(&self, shared: &Arc<Shared>, observed: Observed) {
        let Some(exporter) = &self.0 else { return };
        // Weak: the exporter ends when the observatory, its owner, is dropped.
        let (shared, otlp) = (Arc::downgrade(shared), Arc::downgrade(exporter));
        exporter.start(Box::new(move |export: &mut Export<'_>| {
            let (Some(shared), Some(otlp)) = (shared.upgrade(), otlp.upgrade()) else {
                return false;
            };
            let samples = super::samples(&shared, &observed, &Otlp(Some(otlp)));
            shared.observatory.export(export, samples);
            true
        }));
    }

    /// Export the metrics once more, at the end of the process.
    pub(crate) fn flush_metrics(&self) {
        if let Some(exporter) = &self.0 {
            exporter.flush_metrics();
        }
    }

    pub(super) fn observe(&self, samples: &mut Samples) {
        if let Some(exporter) = &self.0 {
            exporter.observe(clock::now(), samples);
        }
    }
}

fn file_settings(settings: &config::settings::Otlp) -> FileSettings {
    let settings = settings.clone();
    FileSettings {
        endpoint: settings.endpoint,
        protocol: settings.protocol,
        headers: settings.headers.map(|headers| headers.reveal().to_owned()),
        compression: settings.compression,
        timeout: settings.timeout,
        ca: settings.ca,
        client_certificate: settings.client_cert,
        client_key: settings.client_key,
        metrics: settings.metrics,
        traces: settings.traces,
        logs: settings.logs,
        interval: settings.interval,
        temporality: settings.temporality,
        histograms: settings.histograms,
        semconv: settings.semconv,
        // By its text, so that 0.1 stays 0.1.
        share: settings.trace_share.and_then(|share| share.to_string().parse().ok()),
        slow: Some(settings.slow),
        resource: settings.resource,
        spill: settings.spill.map(|spill| SpillSettings {
            path: spill.path,
            max_size: spill.max_size,
            max_age: Some(spill.max_age),
            when_full: if spill.drops_oldest { WhenFull::DropOldest } else { WhenFull::DropNewest },
        }),
    }
}
