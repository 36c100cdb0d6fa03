//! What the collector accepted and refused, in spans, log records and data points.

use std::collections::BTreeMap;

use lens::observe::Samples;
use parking_lot::Mutex;

/// A signal of OpenTelemetry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Signal {
    Metrics,
    Traces,
    Logs,
}

impl Signal {
    pub(super) fn name(self) -> &'static str {
        match self {
            Signal::Metrics => "metrics",
            Signal::Traces => "traces",
            Signal::Logs => "logs",
        }
    }
}

/// Counters of the exporter. Few threads change them, so one lock is enough.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    exported: BTreeMap<Signal, u64>,
    rejected: BTreeMap<Signal, u64>,
    failures: BTreeMap<(Signal, String), u64>,
    unsampled: u64,
}

impl Counts {
    pub(super) fn exported(&self, signal: Signal, items: u64) {
        *self.0.lock().exported.entry(signal).or_default() += items;
    }

    pub(super) fn rejected(&self, signal: Signal, items: u64) {
        *self.0.lock().rejected.entry(signal).or_default() += items;
    }

    pub(super) fn failed(&self, signal: Signal, code: &str) {
        *self.0.lock().failures.entry((signal, code.to_owned())).or_default() += 1;
    }

    pub(super) fn unsampled(&self) {
        self.0.lock().unsampled += 1;
    }

    pub(super) fn observe(&self, samples: &mut Samples) {
        let inner = self.0.lock();
        for (signal, count) in &inner.exported {
            let signal = ("signal", signal.name());
            samples.push_with("llm_lens_otlp_exported_total", signal, *count as f64);
        }
        for (signal, count) in &inner.rejected {
            let signal = ("signal", signal.name());
            samples.push_with("llm_lens_otlp_rejected_total", signal, *count as f64);
        }
        for ((signal, code), count) in &inner.failures {
            samples.with_labels(&[("signal", signal.name())], |samples| {
                samples.push_with("llm_lens_otlp_failures_total", ("code", code), *count as f64);
            });
        }
        samples.push("llm_lens_otlp_unsampled_traces_total", inner.unsampled as f64);
    }
}
