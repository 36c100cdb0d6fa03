//! The report of a run as JSON: what other runs are compared with.
//!
//! - *In*: a [`Report`].
//! - *Out*: the document of `run --json`, with every sample.
//! - *Never*: a percentile of too few samples: it is null.

use std::time::Duration;

use lens::Micros;
use serde_json::{Value, json};
use workload::length::Length;

use super::{PERCENTILES, Report, Slo, mean, percentile};

/// Version of the document. 3 has the client's error, and times from the send.
const SCHEMA: u32 = 3;

impl Report<'_> {
    /// The configuration and the machine.
    pub(crate) fn settings_json(&self) -> Value {
        json!({"configuration": self.configuration_json(), "environment": environment()})
    }

    fn configuration_json(&self) -> Value {
        let c = self.config;
        json!({
            "base_url": c.base_url, "model": c.model, "arrival": c.arrival.json(), "stop": c.stop.json(),
            "provider": c.provider.name, "workload": c.workload.json(),
            "prompts": c.workload.prompts.json(c.workload.unit.name()), "objectives": self.slo.map(objectives),
            "warm_up": c.warm_up, "stream": c.stream, "max_tokens": max_tokens(c.workload.max_tokens.as_ref()), "timeout_s": c.timeout.as_secs_f64(), "seed": c.seed,
        })
    }

    /// The full report as JSON.
    pub fn json(&self) -> Value {
        let percentiles = |m: &Micros| -> Value {
            PERCENTILES
                .iter()
                .map(|p| (format!("p{p}"), json!(percentile(m, *p))))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let histogram = |m: &Micros| -> Value {
            m.hdr()
                .iter_recorded()
                .map(|v| json!([v.value_iterated_to(), v.count_at_value()]))
                .collect::<Vec<_>>()
                .into()
        };
        let timings: serde_json::Map<String, Value> = self
            .timings()
            .into_iter()
            .map(|(_, key, m)| {
                let value = json!({"count": m.count(), "mean_us": mean(m), "percentiles_us": percentiles(m), "histogram_us": histogram(m)});
                (key.to_owned(), value)
            })
            .collect();
        json!({
            "schema": SCHEMA,
            "configuration": self.configuration_json(),
            "environment": environment(),
            "started_at": self.outcome.started.and_then(timestamp),
            "took_s": self.outcome.took.as_secs_f64(),
            "ended": self.outcome.ended,
            "cancelled": self.outcome.cancelled,
            "requests": self.outcome.samples.len(),
            "failed": self.failed(),
            "cancelled_by_workload": self.cancelled(),
            "errors": self.errors().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "messages": self.outcome.messages,
            "requests_per_second": self.per_second(self.ok() as f64),
            "output_tokens_per_second": self.per_second(self.tokens() as f64),
            "goodput_per_second": self.good().map(|n| self.per_second(n as f64)),
            "timings": timings,
            "steady": crate::steady::find(&self.outcome.samples),
            "client": self.outcome.client.json(),
            "gateway": self.joined,
            "samples": self.outcome.samples,
        })
    }
}

/// A number, or a distribution.
fn max_tokens(length: Option<&Length>) -> Value {
    match length {
        Some(Length::Fixed(n)) => json!(n),
        Some(length) => length.json(),
        None => Value::Null,
    }
}

fn objectives(slo: Slo) -> Value {
    let us = |time: Option<Duration>| time.map(|time| time.as_micros() as u64);
    json!({"ttft_us": us(slo.ttft), "tpot_us": us(slo.tpot), "total_us": us(slo.total)})
}

/// A time in UTC, RFC 3339.
pub(super) fn timestamp(time: std::time::SystemTime) -> Option<String> {
    jiff::Timestamp::try_from(time).ok().map(|time| format!("{time:.3}"))
}

/// The machine of the run.
fn environment() -> Value {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|l| Some(l.strip_prefix("model name")?.split_once(':')?.1.trim().to_owned()));
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "os": std::env::consts::OS,
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "cpu": cpu,
        "cores": std::thread::available_parallelism().map_or(0, usize::from),
    })
}
