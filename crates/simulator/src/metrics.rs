//! `/metrics` of a simulated engine, with the names, labels and boundaries of vLLM.
//!
//! They are those of `vllm/v1/metrics/loggers.py`. `gpu_cache_usage_perc` and
//! `time_per_output_token_seconds` are the older names of `kv_cache_usage_perc` and
//! `inter_token_latency_seconds`; scrapers exist for both.

use std::fmt::Write as _;

use super::model::Load;
use super::truth::{Row, Totals};

const TTFT: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];
const PER_TOKEN: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];
const REQUEST: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// A classic histogram of seconds.
struct Classic {
    bounds: &'static [f64],
    /// One more than bounds: the last is above them.
    counts: Vec<u64>,
    sum: f64,
}

impl Classic {
    fn new(bounds: &'static [f64]) -> Self {
        Classic { bounds, counts: vec![0; bounds.len() + 1], sum: 0.0 }
    }

    fn record(&mut self, us: u64) {
        let seconds = us as f64 / 1e6;
        let bucket = self.bounds.partition_point(|bound| *bound < seconds);
        self.counts[bucket] += 1;
        self.sum += seconds;
    }

    fn write(&self, out: &mut String, name: &str, help: &str, model: &str) {
        let _ = writeln!(out, "# HELP vllm:{name} {help}\n# TYPE vllm:{name} histogram");
        let mut under = 0;
        let bounds = self.bounds.iter().map(|bound| format!("{bound:?}"));
        for (bound, count) in bounds.chain(["+Inf".to_owned()]).zip(&self.counts) {
            under += count;
            let labels = format!("engine=\"0\",le=\"{bound}\",model_name=\"{model}\"");
            let _ = writeln!(out, "vllm:{name}_bucket{{{labels}}} {under}");
        }
        let labels = format!("engine=\"0\",model_name=\"{model}\"");
        let _ = writeln!(out, "vllm:{name}_count{{{labels}}} {under}");
        let _ = writeln!(out, "vllm:{name}_sum{{{labels}}} {}", self.sum);
    }
}

/// Histograms of the answers.
pub(super) struct Metrics {
    ttft: Classic,
    itl: Classic,
    request: Classic,
}

impl Default for Metrics {
    fn default() -> Self {
        let [ttft, itl, request] = [TTFT, PER_TOKEN, REQUEST].map(Classic::new);
        Metrics { ttft, itl, request }
    }
}

impl Metrics {
    /// Counts an answer that is complete. A gap before an event of several tokens is a gap of one.
    pub(super) fn count(&mut self, row: &Row) {
        if let Some((us, _)) = row.events.first().filter(|_| row.stream) {
            self.ttft.record(*us);
        }
        let gaps = row.events.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0));
        gaps.for_each(|us| self.itl.record(us));
        self.request.record(row.end_us);
    }

    /// The page.
    pub(super) fn page(&self, model: &str, load: Load, totals: Totals) -> String {
        let mut out = String::new();
        let mut value = |name: &str, kind: &str, help: &str, value: f64| {
            let family = name.trim_end_matches("_total");
            let _ = writeln!(
                out,
                "# HELP vllm:{family} {help}\n# TYPE vllm:{family} {kind}\n\
                 vllm:{name}{{engine=\"0\",model_name=\"{model}\"}} {value:?}"
            );
        };
        value("num_requests_running", "gauge", "Requests that run.", load.running as f64);
        value("num_requests_waiting", "gauge", "Requests that wait.", load.waiting as f64);
        value("kv_cache_usage_perc", "gauge", "Share of the cache in use, 0 to 1.", load.cache);
        value("gpu_cache_usage_perc", "gauge", "Share of the cache in use, 0 to 1.", load.cache);
        let (prompt, made) = (totals.prompt_tokens as f64, totals.tokens as f64);
        value("prompt_tokens_total", "counter", "Tokens of prompts.", prompt);
        value("generation_tokens_total", "counter", "Tokens of answers.", made);
        self.ttft.write(&mut out, "time_to_first_token_seconds", "Time to first token.", model);
        self.itl.write(&mut out, "inter_token_latency_seconds", "Gaps between events.", model);
        self.itl.write(&mut out, "time_per_output_token_seconds", "Gaps between events.", model);
        self.request.write(&mut out, "e2e_request_latency_seconds", "Whole requests.", model);
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_has_the_names_and_boundaries_of_vllm() {
        let mut metrics = Metrics::default();
        metrics.count(&super::super::truth::tests::row(0));
        let load = Load { running: 3, waiting: 2, cache: 0.25 };
        let page = metrics.page("m", load, Totals { tokens: 10, ..Totals::default() });
        for line in [
            "vllm:num_requests_running{engine=\"0\",model_name=\"m\"} 3.0",
            "vllm:num_requests_waiting{engine=\"0\",model_name=\"m\"} 2.0",
            "vllm:gpu_cache_usage_perc{engine=\"0\",model_name=\"m\"} 0.25",
            "vllm:generation_tokens_total{engine=\"0\",model_name=\"m\"} 10.0",
            "# TYPE vllm:time_to_first_token_seconds histogram",
            "vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"0.04\",model_name=\"m\"} 0",
            "vllm:time_to_first_token_seconds_bucket{engine=\"0\",le=\"0.06\",model_name=\"m\"} 1",
            "vllm:inter_token_latency_seconds_bucket{engine=\"0\",le=\"0.01\",model_name=\"m\"} 4",
            "vllm:inter_token_latency_seconds_count{engine=\"0\",model_name=\"m\"} 4",
            "vllm:time_per_output_token_seconds_sum{engine=\"0\",model_name=\"m\"} 0.04",
            "vllm:e2e_request_latency_seconds_bucket{engine=\"0\",le=\"7680.0\",model_name=\"m\"} 1",
            "vllm:e2e_request_latency_seconds_bucket{engine=\"0\",le=\"+Inf\",model_name=\"m\"} 1",
        ] {
            assert!(page.lines().any(|other| other == line), "{line} is not in\n{page}");
        }
    }
}
