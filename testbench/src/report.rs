//! Reports of a run: a table for people, JSON for programs, CSV for spreadsheets, Markdown for pull
//! requests.

use std::fmt::Write as _;
use std::time::Duration;

use lens::Micros;
use serde_json::{Value, json};

use crate::join::Joined;
use crate::prompts::{Length, Prompts};
use crate::run::{Config, Ended, Outcome};
use crate::schedule::Stop;

/// Service level objectives, for goodput.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Slo {
    /// Maximum time to first token.
    pub ttft: Option<Duration>,
    /// Maximum time per output token.
    pub tpot: Option<Duration>,
    /// Maximum time of a whole request.
    pub total: Option<Duration>,
}

impl std::str::FromStr for Slo {
    type Err = String;

    /// `ttft=500ms,tpot=50ms,total=10s`; each is optional.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut slo = Slo::default();
        for part in text.split(',') {
            let (name, value) = part.split_once('=').ok_or_else(|| {
                format!("{part:?} is not an objective; write for example ttft=500ms,tpot=50ms")
            })?;
            let value = lens::duration::parse(value).map_err(|bad| bad.to_string())?;
            match name.trim() {
                "ttft" => slo.ttft = Some(value),
                "tpot" => slo.tpot = Some(value),
                "total" => slo.total = Some(value),
                other => {
                    return Err(format!("{other:?} is not an objective; known: ttft, tpot, total"));
                }
            }
        }
        Ok(slo)
    }
}

/// A finished run, ready for output.
pub struct Report<'r> {
    /// Configuration of the run.
    pub config: &'r Config,
    /// Results of the run.
    pub outcome: &'r Outcome,
    /// Objectives, if given.
    pub slo: Option<Slo>,
    /// Comparison with the gateway's records, if joined.
    pub joined: Option<&'r Joined>,
}

const PERCENTILES: [f64; 5] = [50.0, 90.0, 95.0, 99.0, 99.9];

impl Report<'_> {
    fn ok(&self) -> usize {
        self.outcome.samples.iter().filter(|s| s.is_ok()).count()
    }

    fn tokens(&self) -> u64 {
        self.outcome.samples.iter().filter(|s| s.is_ok()).filter_map(|s| s.tokens).sum()
    }

    fn per_second(&self, n: f64) -> f64 {
        n / self.outcome.took.as_secs_f64().max(1e-9)
    }

    /// Requests that met every objective.
    fn good(&self) -> Option<usize> {
        let slo = self.slo?;
        let us = |d: Option<Duration>| {
            d.map_or(u64::MAX, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
        };
        let meets = |s: &&crate::measure::Sample| {
            let ttft = slo.ttft.is_none() || s.ttft_us.is_some_and(|v| v <= us(slo.ttft));
            let tpot = s.tpot_us.is_none_or(|v| v.round() as u64 <= us(slo.tpot));
            s.is_ok() && ttft && tpot && s.total_us <= us(slo.total)
        };
        Some(self.outcome.samples.iter().filter(meets).count())
    }

    fn timings(&self) -> [(&'static str, &Micros); 4] {
        let o = self.outcome;
        [("TTFT", &o.ttft), ("TPOT", &o.tpot), ("ITL", &o.itl), ("request", &o.total)]
    }

    /// Errors with their counts.
    fn errors(&self) -> Vec<(String, usize)> {
        let mut all: std::collections::BTreeMap<&str, usize> = std::collections::BTreeMap::new();
        for error in self.outcome.samples.iter().filter_map(|s| s.error.as_deref()) {
            *all.entry(error).or_default() += 1;
        }
        all.into_iter().map(|(e, n)| (e.to_owned(), n)).collect()
    }

    /// The report as a text table.
    pub fn table(&self) -> String {
        let mut out = self.ending();
        let total = self.outcome.samples.len();
        let _ = writeln!(
            out,
            "{total} requests in {:.2} s, {} failed",
            self.outcome.took.as_secs_f64(),
            total - self.ok()
        );
        let errors = self.errors();
        for (error, n) in &errors {
            match self.outcome.messages.get(error) {
                Some(message) => {
                    let _ = writeln!(out, "  {n} x {error}: {message}");
                }
                None => {
                    let _ = writeln!(out, "  {n} x {error}");
                }
            }
        }
        if !errors.is_empty() {
            let _ = writeln!(out, "  requests were sent to {}", self.outcome.url);
        }
        let _ = writeln!(
            out,
            "{:.2} requests/s, {:.1} output tokens/s",
            self.per_second(self.ok() as f64),
            self.per_second(self.tokens() as f64)
        );
        out.push_str(&self.offered());
        if let Some(good) = self.good() {
            let _ = writeln!(
                out,
                "{:.2} requests/s met the objectives ({good} of {total})",
                self.per_second(good as f64)
            );
        }
        let _ = writeln!(
            out,
            "\n{:10} {:>7} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "ms", "count", "mean", "p50", "p90", "p95", "p99", "p99.9"
        );
        for (name, micros) in self.timings() {
            let _ = write!(out, "{name:10} {:>7} {:>10}", micros.count(), ms(mean(micros)));
            for p in PERCENTILES {
                let _ = write!(out, " {:>10}", ms(micros.percentile(p).map(|v| v as f64)));
            }
            out.push('\n');
        }
        if let Some(joined) = self.joined {
            out.push('\n');
            out.push_str(&join_table(joined));
        }
        out
    }

    /// Why a run ended early.
    fn ending(&self) -> String {
        let why = match self.outcome.ended {
            Ended::Completed => return String::new(),
            Ended::Interrupted => "interrupted",
            Ended::FailedAlike => "stopped, since all requests fail alike",
        };
        format!("{why}; cancelled {} requests in flight\n", self.outcome.cancelled)
    }

    /// The rate that an open loop offered, and whether the server kept up: of one that does not,
    /// latencies grow during the run.
    fn offered(&self) -> String {
        let Some(rate) = self.config.arrival.rate() else { return String::new() };
        let mut sent: Vec<(u64, u64)> =
            self.outcome.samples.iter().map(|s| (s.due_us, s.total_us)).collect();
        sent.sort_unstable();
        let last_due = sent.last().map_or(0.0, |(due, _)| *due as f64 / 1e6);
        let took = self.outcome.took.as_secs_f64();
        let mut out = format!(
            "offered {rate:.2} requests/s for {last_due:.2} s; the last answer ended {:.2} s later\n",
            (took - last_due).max(0.0)
        );
        let quarter = sent.len() / 4;
        let median = |part: &[(u64, u64)]| {
            let mut times: Vec<u64> = part.iter().map(|(_, total)| *total).collect();
            times.sort_unstable();
            times.get(times.len() / 2).map_or(0.0, |us| *us as f64 / 1e6)
        };
        let (first, end) = (median(&sent[..quarter]), median(&sent[sent.len() - quarter..]));
        if quarter > 0 && end > 2.0 * first && self.per_second(self.ok() as f64) < 0.9 * rate {
            let _ = writeln!(
                out,
                "the server did not keep up: median latency grew from {first:.2} s in the first quarter of requests to {end:.2} s in the last"
            );
        }
        out
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = format!(
            "| requests | failed | requests/s | output tokens/s |\n|---|---|---|---|\n| {} | {} | {:.2} | {:.1} |\n\n| ms | count | mean | p50 | p90 | p95 | p99 | p99.9 |\n|---|---|---|---|---|---|---|---|\n",
            self.outcome.samples.len(),
            self.outcome.samples.len() - self.ok(),
            self.per_second(self.ok() as f64),
            self.per_second(self.tokens() as f64),
        );
        for (name, micros) in self.timings() {
            let _ = write!(out, "| {name} | {} | {} |", micros.count(), ms(mean(micros)));
            for p in PERCENTILES {
                let _ = write!(out, " {} |", ms(micros.percentile(p).map(|v| v as f64)));
            }
            out.push('\n');
        }
        out
    }

    /// The samples as CSV, one line per request.
    pub fn csv(&self) -> String {
        let mut out = String::from(
            "id,due_us,late_us,status,error,ttft_us,tpot_us,itl_mean_us,total_us,tokens,estimated,content_events\n",
        );
        for s in &self.outcome.samples {
            let opt = |v: Option<String>| v.unwrap_or_default();
            let error = s.error.as_deref().unwrap_or_default().replace(['"', '\n', '\r'], "'");
            let _ = writeln!(
                out,
                "{},{},{},{},\"{error}\",{},{},{},{},{},{},{}",
                s.id,
                s.due_us,
                s.late_us,
                opt(s.status.map(|v| v.to_string())),
                opt(s.ttft_us.map(|v| v.to_string())),
                opt(s.tpot_us.map(|v| format!("{v:.1}"))),
                opt(s.itl_us.map(|g| format!("{:.1}", g.mean))),
                s.total_us,
                opt(s.tokens.map(|v| v.to_string())),
                s.estimated,
                s.content_events,
            );
        }
        out
    }

    /// The full report as JSON.
    pub fn json(&self) -> Value {
        let c = self.config;
        let percentiles = |m: &Micros| -> Value {
            PERCENTILES
                .iter()
                .map(|p| (format!("p{p}"), json!(m.percentile(*p))))
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
            .map(|(name, m)| {
                let value = json!({"count": m.count(), "mean_us": mean(m), "percentiles_us": percentiles(m), "histogram_us": histogram(m)});
                (name.to_lowercase(), value)
            })
            .collect();
        json!({
            "schema": 2,
            "configuration": {
                "base_url": c.base_url, "model": c.model, "arrival": c.arrival, "stop": stop(c.stop),
                "prompts": prompts(&c.prompts), "objectives": self.slo.map(objectives),
                "warm_up": c.warm_up, "stream": c.stream, "max_tokens": c.max_tokens, "seed": c.seed,
            },
            "environment": environment(),
            "started_at": self.outcome.started.and_then(timestamp),
            "took_s": self.outcome.took.as_secs_f64(),
            "ended": self.outcome.ended,
            "cancelled": self.outcome.cancelled,
            "requests": self.outcome.samples.len(),
            "failed": self.outcome.samples.len() - self.ok(),
            "errors": self.errors().into_iter().collect::<std::collections::BTreeMap<_, _>>(),
            "messages": self.outcome.messages,
            "requests_per_second": self.per_second(self.ok() as f64),
            "output_tokens_per_second": self.per_second(self.tokens() as f64),
            "goodput_per_second": self.good().map(|n| self.per_second(n as f64)),
            "timings": timings,
            "gateway": self.joined,
            "samples": self.outcome.samples,
        })
    }
}

fn stop(stop: Stop) -> Value {
    match stop {
        Stop::Requests(n) => json!({"kind": "requests", "requests": n}),
        Stop::After(time) => json!({"kind": "duration", "seconds": time.as_secs_f64()}),
    }
}

/// Lengths are in words.
fn prompts(prompts: &Prompts) -> Value {
    match prompts {
        Prompts::Made(Length::Fixed(n)) => json!({"kind": "fixed", "length": n}),
        Prompts::Made(Length::Uniform(min, max)) => {
            json!({"kind": "uniform", "min": min, "max": max})
        }
        Prompts::Made(Length::Normal(mean, deviation)) => {
            json!({"kind": "normal", "mean": mean, "deviation": deviation})
        }
        Prompts::FromFile { file, prompts } => {
            json!({"kind": "file", "file": file.display().to_string(), "prompts": prompts.len()})
        }
    }
}

fn objectives(slo: Slo) -> Value {
    let us = |time: Option<Duration>| time.map(|time| time.as_micros() as u64);
    json!({"ttft_us": us(slo.ttft), "tpot_us": us(slo.tpot), "total_us": us(slo.total)})
}

/// A time in UTC, RFC 3339.
fn timestamp(time: std::time::SystemTime) -> Option<String> {
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

fn join_table(joined: &Joined) -> String {
    let mut out = format!(
        "both ends: {} requests joined, {} without a record, {} counted differently\n{:40} {:>7} {:>10} {:>10} {:>10} {:>10}\n",
        joined.matched,
        joined.missing,
        joined.count_mismatches,
        "client minus gateway, ms",
        "count",
        "min",
        "p50",
        "p99",
        "max"
    );
    for d in &joined.differences {
        let _ = writeln!(
            out,
            "{:40} {:>7} {:>10} {:>10} {:>10} {:>10}",
            d.timing,
            d.count,
            ms(Some(d.min_us)),
            ms(Some(d.p50_us)),
            ms(Some(d.p99_us)),
            ms(Some(d.max_us))
        );
    }
    out
}

fn mean(micros: &Micros) -> Option<f64> {
    (micros.count() > 0).then(|| micros.sum() as f64 / micros.count() as f64)
}

fn ms(us: Option<f64>) -> String {
    us.map_or_else(|| "-".into(), |us| format!("{:.3}", us / 1000.0))
}

/// The histograms of a JSON report, by timing.
///
/// # Errors
/// What is wrong with the document.
pub fn histograms(report: &Value) -> Result<Vec<(String, Micros)>, String> {
    let timings = report["timings"]
        .as_object()
        .ok_or("no \"timings\": is this a report of `llm-lens run --json`?")?;
    timings
        .iter()
        .map(|(name, timing)| {
            let mut micros = Micros::default();
            let buckets = timing["histogram_us"]
                .as_array()
                .ok_or_else(|| format!("timings.{name} has no histogram"))?;
            for bucket in buckets {
                let (Some(value), Some(count)) = (bucket[0].as_u64(), bucket[1].as_u64()) else {
                    return Err(format!("timings.{name}: {bucket} is not a bucket"));
                };
                micros.record_n(value, count);
            }
            Ok((name.clone(), micros))
        })
        .collect()
}

/// The share of a report's requests that failed, 0 to 1.
pub fn failure_share(report: &Value) -> f64 {
    let count = |name: &str| report[name].as_u64().unwrap_or(0) as f64;
    count("failed") / count("requests").max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objectives_are_read() {
        let slo: Slo = "ttft=500ms, tpot=50ms".parse().unwrap();
        assert_eq!(
            (slo.ttft, slo.tpot, slo.total),
            (Some(Duration::from_millis(500)), Some(Duration::from_millis(50)), None)
        );
        for bad in ["", "ttft", "ttft=5", "x=5ms"] {
            assert!(bad.parse::<Slo>().is_err(), "{bad}");
        }
    }

    #[test]
    fn histograms_survive_a_json_round_trip() {
        let mut outcome = Outcome::default();
        [1_000, 2_000, 2_000, 70_000].into_iter().for_each(|v| outcome.ttft.record(v));
        let config = Config {
            base_url: "http://h".into(),
            model: "m".into(),
            arrival: crate::schedule::Arrival::Closed { concurrency: 1 },
            stop: crate::schedule::Stop::Requests(4),
            warm_up: 0,
            stream: true,
            prompts: crate::prompts::Prompts::Made(crate::prompts::Length::Fixed(1)),
            max_tokens: None,
            key: None,
            seed: 1,
            progress: false,
        };
        let slo = Some("ttft=500ms".parse().unwrap());
        outcome.started = Some(std::time::SystemTime::UNIX_EPOCH);
        let json = Report { config: &config, outcome: &outcome, slo, joined: None }.json();
        assert_eq!(json["configuration"]["arrival"], json!({"kind": "closed", "concurrency": 1}));
        assert_eq!(json["configuration"]["stop"], json!({"kind": "requests", "requests": 4}));
        assert_eq!(json["configuration"]["prompts"], json!({"kind": "fixed", "length": 1}));
        assert_eq!(json["configuration"]["objectives"]["ttft_us"], 500_000);
        assert_eq!(json["started_at"], "1970-01-01T00:00:00.000Z");
        let back = histograms(&json).unwrap();
        let ttft = &back.iter().find(|(n, _)| n == "ttft").unwrap().1;
        assert_eq!((ttft.count(), ttft.percentile(50.0)), (4, outcome.ttft.percentile(50.0)));
    }
}
