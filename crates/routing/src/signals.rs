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
pub struct Signals {
    /// Running requests.
    pub running: Option<f64>,
    /// Waiting requests.
    pub waiting: Option<f64>,
    /// Used share of its key-value cache, 0 to 1.
    pub cache: Option<f64>,
}

/// The metric that a series reports.
#[derive(Clone, Copy)]
enum Tells {
    Running,
    Waiting,
    Cache,
}

const SERIES: [(&str, Tells); 12] = [
    ("vllm:num_requests_running", Tells::Running),
    ("vllm:num_requests_waiting", Tells::Waiting),
    ("vllm:kv_cache_usage_perc", Tells::Cache),
    ("vllm:gpu_cache_usage_perc", Tells::Cache),
    ("sglang:num_running_reqs", Tells::Running),
    ("sglang:num_queue_reqs", Tells::Waiting),
    ("sglang:token_usage", Tells::Cache),
    ("tgi_batch_current_size", Tells::Running),
    ("tgi_queue_size", Tells::Waiting),
    ("llamacpp:requests_processing", Tells::Running),
    ("llamacpp:requests_deferred", Tells::Waiting),
    ("llamacpp:kv_cache_usage_ratio", Tells::Cache),
];

impl Signals {
    /// Parse a metrics page; `None`: it has no engine metrics.
    pub fn read(page: &str) -> Option<Signals> {
        let mut signals = Signals::default();
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
                Tells::Running => signals.running = Some(signals.running.unwrap_or(0.0) + value),
                Tells::Waiting => signals.waiting = Some(signals.waiting.unwrap_or(0.0) + value),
                Tells::Cache => signals.cache = Some(signals.cache.unwrap_or(0.0).max(value)),
            }
        }
        (signals != Signals::default()).then_some(signals)
    }
}

/// Scraped metrics, with the time of the scrape.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Heard {
    pub(crate) signals: Signals,
    pub(crate) at: Tick,
    /// Nanoseconds for which they are valid.
    pub(crate) fresh: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_engine_is_understood() {
        let of = |running, waiting, cache| {
            Some(Signals { running: Some(running), waiting: Some(waiting), cache })
        };
        let vllm = "# HELP vllm:num_requests_running x\nvllm:num_requests_running{engine=\"0\",model_name=\"a b}\"} 3.0\n\
                    vllm:num_requests_running{engine=\"1\"} 1.0\nvllm:num_requests_waiting{engine=\"0\"} 2.0\nvllm:num_requests_waiting_by_reason 9\n\
                    vllm:kv_cache_usage_perc{engine=\"0\"} 0.25\nvllm:kv_cache_usage_perc{engine=\"1\"} 0.5\n";
        assert_eq!(Signals::read(vllm), of(4.0, 2.0, Some(0.5)));
        assert_eq!(
            Signals::read(
                "sglang:num_running_reqs{a=\"b\"} 1 1700000000\nsglang:num_queue_reqs 7\nsglang:token_usage 0.1"
            ),
            of(1.0, 7.0, Some(0.1))
        );
        assert_eq!(
            Signals::read("tgi_batch_current_size 5\ntgi_queue_size 6\n"),
            of(5.0, 6.0, None)
        );
        assert_eq!(
            Signals::read("llamacpp:requests_processing 1\nllamacpp:requests_deferred 0\n"),
            of(1.0, 0.0, None)
        );
        for nothing in [
            "",
            "process_cpu_seconds_total 3\n",
            "tgi_queue_size NaN\n",
            "tgi_queue_size\n",
            "tgi_queue_size -1\n",
        ] {
            assert_eq!(Signals::read(nothing), None, "{nothing}");
        }
    }
}
