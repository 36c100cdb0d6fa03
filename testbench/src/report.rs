//! Reports of a run: a table for people, JSON for programs, CSV for spreadsheets, Markdown for pull
//! requests.

mod document;
mod html;

use std::fmt::Write as _;

use gate::min_samples;
use lens::Micros;
use serde_json::Value;
pub use workload::Slo;

use crate::join::Joined;
use crate::run::{Config, Ended, Outcome};

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

    fn failed(&self) -> usize {
        self.outcome.samples.iter().filter(|s| s.is_failed()).count()
    }

    /// Requests that the client cancelled, as the workload says.
    fn cancelled(&self) -> usize {
        self.outcome.samples.iter().filter(|s| s.cancelled).count()
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
        Some(self.outcome.samples.iter().filter(|s| crate::sweep::meets(s, &slo)).count())
    }

    /// Name in tables, name in JSON, and values of each timing.
    fn timings(&self) -> [(&'static str, &'static str, &Micros); 6] {
        let o = self.outcome;
        [
            ("TTFT", "ttft", &o.ttft),
            ("TTFT from send", "ttft_from_send", &o.ttft_from_send),
            ("TPOT", "tpot", &o.tpot),
            ("ITL", "itl", &o.itl),
            ("request", "request", &o.total),
            ("request from send", "request_from_send", &o.total_from_send),
        ]
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
            "{total} requests in {:.2} s, {} failed{}",
            self.outcome.took.as_secs_f64(),
            self.failed(),
            match self.cancelled() {
                0 => String::new(),
                n => format!(", {n} cancelled by the workload"),
            }
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
        out.push_str(&self.steady());
        if let Some(good) = self.good() {
            let _ = writeln!(
                out,
                "{:.2} requests/s met the objectives ({good} of {total})",
                self.per_second(good as f64)
            );
        }
        let _ = writeln!(
            out,
            "\n{:17} {:>7} {:>10} {:>10} {:>10} {:>10} {:>10} {:>10}",
            "ms", "count", "mean", "p50", "p90", "p95", "p99", "p99.9"
        );
        for (name, _, micros) in self.timings() {
            let _ = write!(out, "{name:17} {:>7} {:>10}", micros.count(), ms(mean(micros)));
            for p in PERCENTILES {
                let _ = write!(out, " {:>10}", ms(percentile(micros, p).map(|v| v as f64)));
            }
            out.push('\n');
        }
        out.push_str(&self.left_out());
        out.push_str(&self.outcome.client.text());
        if let Some(joined) = self.joined {
            out.push('\n');
            out.push_str(&join_table(joined));
        }
        out
    }

    /// The percentiles that are not printed, because the largest sample may be below them.
    fn left_out(&self) -> String {
        let counts = self.timings().map(|(_, _, micros)| micros.count());
        let is_left_out = |p: &f64| counts.iter().any(|n| *n > 0 && *n < min_samples(*p));
        let needs: Vec<String> = PERCENTILES
            .into_iter()
            .filter(is_left_out)
            .map(|p| format!("p{p} needs {}", min_samples(p)))
            .collect();
        if needs.is_empty() {
            return String::new();
        }
        format!("\"-\": too few samples; {}\n", needs.join(", "))
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
        let samples = &self.outcome.samples;
        let last_due = samples.iter().map(|s| s.due_us).max().map_or(0.0, |due| due as f64 / 1e6);
        let took = self.outcome.took.as_secs_f64();
        let mut out = format!(
            "offered {rate:.2} requests/s for {last_due:.2} s; the last answer ended {:.2} s later\n",
            (took - last_due).max(0.0)
        );
        if let Some((first, end)) = lag(self.outcome, rate) {
            let _ = writeln!(
                out,
                "the server did not keep up: median latency grew from {first:.2} s in the first quarter of requests to {end:.2} s in the last"
            );
        }
        out
    }

    /// Where the run became steady.
    fn steady(&self) -> String {
        match crate::steady::find(&self.outcome.samples) {
            None => String::new(),
            Some(steady) if !steady.is_steady => {
                "not steady: TTFT drifts until the end; run longer, or at a lower rate\n".into()
            }
            Some(steady) => format!(
                "steady from {:.1} s on; {} requests before\n",
                steady.from_us as f64 / 1e6,
                steady.before
            ),
        }
    }

    /// The report as Markdown.
    pub fn markdown(&self) -> String {
        let mut out = format!(
            "| requests | failed | requests/s | output tokens/s |\n|---|---|---|---|\n| {} | {} | {:.2} | {:.1} |\n\n| ms | count | mean | p50 | p90 | p95 | p99 | p99.9 |\n|---|---|---|---|---|---|---|---|\n",
            self.outcome.samples.len(),
            self.failed(),
            self.per_second(self.ok() as f64),
            self.per_second(self.tokens() as f64),
        );
        for (name, _, micros) in self.timings() {
            let _ = write!(out, "| {name} | {} | {} |", micros.count(), ms(mean(micros)));
            for p in PERCENTILES {
                let _ = write!(out, " {} |", ms(percentile(micros, p).map(|v| v as f64)));
            }
            out.push('\n');
        }
        out.push('\n');
        out.push_str(&self.left_out());
        out.push_str(&self.outcome.client.text());
        out
    }

    /// The samples as CSV, one line per request.
    pub fn csv(&self) -> String {
        let mut out = String::from(
            "id,due_us,late_us,status,error,ttft_us,tpot_us,itl_mean_us,total_us,tokens,estimated,\
             content_events,slip_us,ttft_from_send_us,prompt_tokens,cancelled,turn,\
             first_event_us,first_content_us,last_token_us,last_event_us\n",
        );
        for s in &self.outcome.samples {
            let opt = |v: Option<String>| v.unwrap_or_default();
            let number = |v: Option<u64>| v.map(|v| v.to_string()).unwrap_or_default();
            let error = s.error.as_deref().unwrap_or_default().replace(['"', '\n', '\r'], "'");
            let _ = writeln!(
                out,
                "{},{},{},{},\"{error}\",{},{},{},{},{},{},{},{},{},{},{},{},{},{},{},{}",
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
                s.slip_us,
                number(s.ttft_from_send_us),
                number(s.prompt_tokens),
                s.cancelled,
                s.turn,
                number(s.first_event_us),
                number(s.first_content_us),
                number(s.last_token_us),
                number(s.last_event_us),
            );
        }
        out
    }
}

/// Median latencies of the first and the last quarter of requests, in seconds, if the server did
/// not keep up with the rate that was offered.
pub(crate) fn lag(outcome: &Outcome, rate: f64) -> Option<(f64, f64)> {
    let mut sent: Vec<(u64, u64)> =
        outcome.samples.iter().map(|s| (s.due_us, s.total_us)).collect();
    sent.sort_unstable();
    let quarter = sent.len() / 4;
    let median = |part: &[(u64, u64)]| {
        let mut times: Vec<u64> = part.iter().map(|(_, total)| *total).collect();
        times.sort_unstable();
        times.get(times.len() / 2).map_or(0.0, |us| *us as f64 / 1e6)
    };
    let (first, end) = (median(&sent[..quarter]), median(&sent[sent.len() - quarter..]));
    let ok = outcome.samples.iter().filter(|s| s.is_ok()).count() as f64;
    let achieved = ok / outcome.took.as_secs_f64().max(1e-9);
    (quarter > 0 && end > 2.0 * first && achieved < 0.9 * rate).then_some((first, end))
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

/// The percentile, if there are enough samples for it.
pub fn percentile(micros: &Micros, percent: f64) -> Option<u64> {
    if micros.count() < min_samples(percent) { None } else { micros.percentile(percent) }
}

/// The mean, in microseconds; `None` without values.
pub fn mean(micros: &Micros) -> Option<f64> {
    (micros.count() > 0).then(|| micros.sum() as f64 / micros.count() as f64)
}

/// Microseconds as text in milliseconds; `-` for none.
pub fn ms(us: Option<f64>) -> String {
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
    count("failed") / (count("requests") - count("cancelled_by_workload")).max(1.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;

    pub(crate) fn config() -> Config {
        Config {
            base_url: "http://h".into(),
            model: "m".into(),
            provider: workload::provider::Provider::default(),
            arrival: workload::arrival::Arrival::Closed { concurrency: 1 },
            stop: workload::arrival::Stop::Requests(4),
            warm_up: 0,
            stream: true,
            workload: std::sync::Arc::new(workload::Workload::new(
                workload::prompts::Prompts::Made(workload::length::Length::Fixed(1)),
            )),
            key: None,
            timeout: Duration::from_secs(60),
            limits: crate::client::Limits::default(),
            seed: 1,
            progress: false,
        }
    }

    #[test]
    fn histograms_survive_a_json_round_trip() {
        let mut outcome = Outcome::default();
        [1_000, 2_000, 2_000, 70_000].into_iter().for_each(|v| outcome.ttft.record(v));
        let config = config();
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

    /// A p99 of 60 samples is their maximum, which may be far below the 99th percentile.
    #[test]
    fn trap_percentiles_of_too_few_samples_are_null_and_not_printed() {
        let mut outcome = Outcome::default();
        (1..=60).for_each(|v| outcome.ttft.record(v * 1_000));
        let config = config();
        let report = Report { config: &config, outcome: &outcome, slo: None, joined: None };
        let percentiles = &report.json()["timings"]["ttft"]["percentiles_us"];
        assert!(percentiles["p95"].is_u64(), "{percentiles}");
        assert!(percentiles["p99"].is_null() && percentiles["p99.9"].is_null(), "{percentiles}");
        for text in [report.table(), report.markdown()] {
            let row = text.lines().find(|line| line.contains("TTFT ")).expect("a row");
            assert!(row.trim_end_matches(['|', ' ']).ends_with('-'), "{row}");
            let note = "\"-\": too few samples; p99 needs 299, p99.9 needs 2995\n";
            assert!(text.contains(note), "{text}");
        }
        // None of any kind is no case of too few.
        let none = Outcome::default();
        let report = Report { config: &config, outcome: &none, slo: None, joined: None };
        assert!(!report.table().contains("too few"), "{}", report.table());
    }

    #[test]
    fn latency_from_the_intended_start_and_from_the_send_stand_side_by_side() {
        let mut outcome = Outcome::default();
        outcome.ttft.record(50_000);
        outcome.ttft_from_send.record(20_000);
        let config = config();
        let report = Report { config: &config, outcome: &outcome, slo: None, joined: None };
        let (table, json) = (report.table(), report.json());
        for line in
            ["\nTTFT                    1     50.000", "\nTTFT from send          1     20.000"]
        {
            assert!(table.contains(line), "{line:?} is not in {table}");
        }
        assert_eq!(json["timings"]["ttft"]["mean_us"], 50_000.0);
        assert_eq!(json["timings"]["ttft_from_send"]["mean_us"], 20_000.0);
        assert_eq!(json["client"]["limits"]["error_us"], 10_000);
    }
}
