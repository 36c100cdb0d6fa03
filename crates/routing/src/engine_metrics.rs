//! Metrics that engines report.
//!
//! - *In*: the text of an engine's `/metrics`.
//! - *Out*: running and waiting requests, and use of the key-value cache.
//! - *Never*: a guess at missing values; an error over an unknown line.
//!
//! Names are those of vLLM, SGLang, TGI and llama.cpp. A series with several samples, one for each
//! model, is summed; of shares, the largest is used.

use lens::Tick;
use serde::Serialize;

/// Metrics of an engine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct EngineMetrics {
    /// Running requests.
    pub running: Option<f64>,
    /// Waiting requests.
    pub waiting: Option<f64>,
    /// Used share of its key-value cache, 0 to 1.
    pub cache: Option<f64>,
}

/// The metric that a series reports.
#[derive(Clone, Copy)]
enum EngineMetric {
    Running,
    Waiting,
    Cache,
}

const SERIES: [(&str, EngineMetric); 12] = [
    ("vllm:num_requests_running", EngineMetric::Running),
    ("vllm:num_requests_waiting", EngineMetric::Waiting),
    ("vllm:kv_cache_usage_perc", EngineMetric::Cache),
    ("vllm:gpu_cache_usage_perc", EngineMetric::Cache),
    ("sglang:num_running_reqs", EngineMetric::Running),
    ("sglang:num_queue_reqs", EngineMetric::Waiting),
    ("sglang:token_usage", EngineMetric::Cache),
    ("tgi_batch_current_size", EngineMetric::Running),
    ("tgi_queue_size", EngineMetric::Waiting),
    ("llamacpp:requests_processing", EngineMetric::Running),
    ("llamacpp:requests_deferred", EngineMetric::Waiting),
    ("llamacpp:kv_cache_usage_ratio", EngineMetric::Cache),
];

impl EngineMetrics {
    /// Parse a metrics page; `None`: it has no engine metrics.
    pub fn read(page: &str) -> Option<EngineMetrics> {
        let mut engine_metrics = EngineMetrics::default();
        for line in page.lines().filter(|line| !line.starts_with('#')) {
            let end = line.find(['{', ' ']).unwrap_or(line.len());
            let (name, rest) = line.split_at(end);
            let Some((_, tells)) = SERIES.iter().find(|(known, _)| *known == name) else {
                continue;
            };
            // Labels may have spaces, and a timestamp may follow the value.
            let rest = rest.rfind('}').map_or(rest, |at| rest.get(at + 1..).unwrap_or_default());
            let value = rest.split_whitespace().next().and_then(|value| value.parse::<f64>().ok());
            let Some(value) = value.filter(|value| value.is_finite() && *value >= 0.0) else {
                continue;
            };
            match tells {
                EngineMetric::Running => {
                    engine_metrics.running = Some(engine_metrics.running.unwrap_or(0.0) + value)
                }
                EngineMetric::Waiting => {
                    engine_metrics.waiting = Some(engine_metrics.waiting.unwrap_or(0.0) + value)
                }
                EngineMetric::Cache => {
                    engine_metrics.cache = Some(engine_metrics.cache.unwrap_or(0.0).max(value))
                }
            }
        }
        (engine_metrics != EngineMetrics::default()).then_some(engine_metrics)
    }
}

/// Scraped metrics, with the time of the scrape.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ScrapedMetrics {
    pub(crate) engine_metrics: EngineMetrics,
    pub(crate) at: Tick,
    /// Nanoseconds for which they are valid.
    pub(crate) fresh: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_of_every_engine_are_parsed() {
        let of = |running, waiting, cache| {
            Some(EngineMetrics { running: Some(running), waiting: Some(waiting), cache })
        };
        let vllm = "# HELP vllm:num_requests_running x\nvllm:num_requests_running{engine=\"0\",model_name=\"a b}\"} 3.0\n\
                    vllm:num_requests_running{engine=\"1\"} 1.0\nvllm:num_requests_waiting{engine=\"0\"} 2.0\nvllm:num_requests_waiting_by_reason 9\n\
                    vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.5\n";
        assert_eq!(EngineMetrics::read(vllm), of(4.0, 2.0, Some(0.5)));
        assert_eq!(
            EngineMetrics::read(
                "sglang:num_running_reqs{a=\"b\"} 1 1700000000\nsglang:num_queue_reqs 7\nsglang:token_usage 0.1"
            ),
            of(1.0, 7.0, Some(0.1))
        );
        assert_eq!(
            EngineMetrics::read("tgi_batch_current_size 5\ntgi_queue_size 6\n"),
            of(5.0, 6.0, None)
        );
        assert_eq!(
            EngineMetrics::read("llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n"),
            of(1.0, 0.0, None)
        );
        for nothing in [
            "",
            "process_cpu_seconds_total 3\n",
            "tgi_queue_size NaN\n",
            "tgi_queue_size\n",
            "tgi_queue_size -1\n",
        ] {
            assert_eq!(EngineMetrics::read(nothing), None, "{nothing}");
        }
    }
}
