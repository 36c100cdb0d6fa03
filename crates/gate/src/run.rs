//! A run as the gate needs it.
//!
//! - *In*: a report of `llm-lens run --json`, of version 3 or later.
//! - *Out*: a [`Run`]: its requests, its workload and machine, and what makes it invalid.
//! - *Never*: a default for what a report lacks. A report that cannot be read is an error.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

/// The first version of reports with the client's error.
const MIN_SCHEMA: u64 = 3;
/// Fields of the configuration that make the workload. Another URL, file name or progress bar is
/// the same workload.
const WORKLOAD: [&str; 10] = [
    "model",
    "arrival",
    "stop",
    "prompts",
    "warm_up",
    "stream",
    "max_tokens",
    "seed",
    "objectives",
    "workload",
];
/// Fields of the environment that make the class of a machine.
const MACHINE: [&str; 3] = ["os", "cpu", "cores"];

/// A request of a run. Times are microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Request {
    /// From the start of the run to when the request was due.
    pub due_us: u64,
    /// Due to the end of the answer.
    pub total_us: u64,
    /// Due to the first token.
    pub ttft_us: Option<f64>,
    /// Time per output token.
    pub tpot_us: Option<f64>,
    /// Whether it failed.
    pub failed: bool,
    /// Whether it met the objectives; false without objectives.
    pub good: bool,
}

/// A run.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Run {
    /// Name in messages: the file.
    pub name: String,
    /// The workload: fields of the configuration.
    pub workload: BTreeMap<String, Value>,
    /// The class of the machine.
    pub machine: BTreeMap<String, Value>,
    /// The rate of an open loop, in requests per second.
    pub rate: Option<f64>,
    /// Whether objectives were given.
    pub has_objectives: bool,
    /// How the run ended: `completed`, or why not.
    pub ended: String,
    /// Number of windows in which the client's error was measured.
    pub windows: usize,
    /// Windows that broke the client's error budget, from and to, in microseconds, ascending.
    pub invalid: Vec<(u64, u64)>,
    /// The requests.
    pub requests: Vec<Request>,
}

#[derive(Deserialize)]
struct Document {
    configuration: serde_json::Map<String, Value>,
    environment: serde_json::Map<String, Value>,
    ended: String,
    client: Client,
    samples: Vec<Sample>,
}

#[derive(Deserialize)]
struct Client {
    windows: Vec<Window>,
}

#[derive(Deserialize)]
struct Window {
    start_us: u64,
    end_us: u64,
    broken: Vec<String>,
}

#[derive(Deserialize)]
struct Sample {
    due_us: u64,
    total_us: u64,
    #[serde(default)]
    error: Option<String>,
    /// The client cancelled it, as the workload says: it is no result of the server.
    #[serde(default)]
    cancelled: bool,
    #[serde(default)]
    ttft_us: Option<f64>,
    #[serde(default)]
    tpot_us: Option<f64>,
}

#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    schema: u64,
}

impl Run {
    /// Reads a report. `name` is its name in messages.
    ///
    /// # Errors
    /// Why it is not a report that can be compared.
    pub fn from_json(name: &str, text: &[u8]) -> Result<Self, String> {
        let version: Version =
            serde_json::from_slice(text).map_err(|error| format!("{name} is not JSON: {error}"))?;
        if version.schema < MIN_SCHEMA {
            return Err(format!(
                "{name} is not a report of `llm-lens run --json` of version {MIN_SCHEMA} or later; \
                 run it again with this version"
            ));
        }
        let document: Document = serde_json::from_slice(text)
            .map_err(|error| format!("{name} is not a complete report: {error}"))?;
        Ok(document.into_run(name))
    }

    /// Whether no window that the request touches is invalid.
    pub(crate) fn is_valid(&self, request: &Request) -> bool {
        let end = request.due_us.saturating_add(request.total_us);
        let next = self.invalid.partition_point(|(_, to)| *to <= request.due_us);
        self.invalid.get(next).is_none_or(|(from, _)| *from > end)
    }
}

#[derive(Deserialize)]
struct Interleaved {
    interleaved: Vec<DocumentPair>,
}

#[derive(Deserialize)]
struct DocumentPair {
    base: Document,
    candidate: Document,
}

/// Reads a report of interleaved blocks: pairs of a base and a candidate. `name` is its name in
/// messages.
///
/// # Errors
/// Why it is not such a report.
pub fn pairs_from_json(name: &str, text: &[u8]) -> Result<Vec<(Run, Run)>, String> {
    let document: Interleaved = serde_json::from_slice(text).map_err(|error| {
        format!("{name} is not a report of `llm-lens run --against --json`: {error}")
    })?;
    let runs = |pair: DocumentPair| {
        let base = pair.base.into_run(&format!("{name}, base"));
        (base, pair.candidate.into_run(&format!("{name}, candidate")))
    };
    Ok(document.interleaved.into_iter().map(runs).collect())
}

impl Document {
    fn into_run(mut self, name: &str) -> Run {
        let objectives = &self.configuration["objectives"];
        let bound = |key: &str| objectives[key].as_f64().unwrap_or(f64::INFINITY);
        let (ttft, tpot, total) = (bound("ttft_us"), bound("tpot_us"), bound("total_us"));
        let has_objectives = objectives.is_object();
        let answered = self.samples.iter().filter(|sample| !sample.cancelled);
        let requests = answered.map(|sample| {
            let failed = sample.error.is_some();
            let in_time = (ttft.is_infinite() || sample.ttft_us.is_some_and(|us| us <= ttft))
                && sample.tpot_us.is_none_or(|us| us.round() <= tpot)
                && sample.total_us as f64 <= total;
            Request {
                due_us: sample.due_us,
                total_us: sample.total_us,
                ttft_us: sample.ttft_us,
                tpot_us: sample.tpot_us,
                failed,
                good: has_objectives && !failed && in_time,
            }
        });
        let requests = requests.collect();
        if let Some(prompts) = self.configuration.get_mut("prompts").and_then(Value::as_object_mut)
        {
            // The digest says whether two files have the same prompts.
            prompts.remove("file");
        }
        let pick = |from: &serde_json::Map<String, Value>, names: &[&str]| {
            let value = |name: &str| from.get(name).cloned().unwrap_or(Value::Null);
            names.iter().map(|name| ((*name).to_owned(), value(name))).collect::<BTreeMap<_, _>>()
        };
        let broken = |window: &&Window| !window.broken.is_empty();
        let mut invalid: Vec<(u64, u64)> =
            self.client.windows.iter().filter(broken).map(|w| (w.start_us, w.end_us)).collect();
        invalid.sort_unstable();
        Run {
            name: name.to_owned(),
            rate: self.configuration["arrival"]["rate"].as_f64(),
            workload: pick(&self.configuration, &WORKLOAD),
            machine: pick(&self.environment, &MACHINE),
            has_objectives,
            ended: self.ended,
            windows: self.client.windows.len(),
            invalid,
            requests,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report() -> Value {
        json!({
            "schema": 3,
            "configuration": {
                "base_url": "http://a", "model": "m", "arrival": {"kind": "poisson", "rate": 20.0},
                "prompts": {"kind": "file", "file": "a.jsonl", "digest": "0a"},
                "objectives": {"ttft_us": 500, "tpot_us": null, "total_us": null},
            },
            "environment": {"os": "linux", "cpu": "x", "cores": 2, "kernel": "6.1"},
            "ended": "completed",
            "client": {"windows": [
                {"start_us": 0, "end_us": 1_000, "broken": []},
                {"start_us": 1_000, "end_us": 2_000, "broken": ["cpu"]},
            ]},
            "samples": [
                {"due_us": 100, "total_us": 800, "ttft_us": 500, "tpot_us": 10.0},
                {"due_us": 200, "total_us": 900, "ttft_us": 501, "tpot_us": 10.0},
                {"due_us": 2_000, "total_us": 9, "error": "status 503"},
                {"due_us": 2_000, "total_us": 9, "cancelled": true},
            ],
        })
    }

    #[test]
    fn a_report_is_read() {
        let run = Run::from_json("a", report().to_string().as_bytes()).unwrap();
        let flags: Vec<(bool, bool)> = run.requests.iter().map(|r| (r.good, r.failed)).collect();
        assert_eq!(flags, [(true, false), (false, false), (false, true)]);
        assert_eq!((run.rate, run.windows, run.invalid.len()), (Some(20.0), 2, 1));
        // The second one was under way when the client was too busy.
        let valid: Vec<bool> = run.requests.iter().map(|r| run.is_valid(r)).collect();
        assert_eq!(valid, [true, false, true]);
        assert_eq!(run.workload["prompts"], json!({"kind": "file", "digest": "0a"}));
        assert!(!run.machine.contains_key("kernel"));
    }

    #[test]
    fn what_is_no_report_is_an_error() {
        for (change, wanted) in [
            (json!({"schema": 2}), "run it again"),
            (json!({"samples": null}), "not a complete report"),
            (json!({"client": {}}), "windows"),
            (json!({"ended": 1}), "not a complete report"),
        ] {
            let mut changed = report();
            changed.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            let error = Run::from_json("base.json", changed.to_string().as_bytes()).unwrap_err();
            assert!(error.contains("base.json") && error.contains(wanted), "{error}");
        }
        assert!(Run::from_json("a", b"{").unwrap_err().contains("is not JSON"));
        assert!(Run::from_json("a", b"{}").unwrap_err().contains("run it again"));
        assert!(pairs_from_json("a", b"{}").unwrap_err().contains("--against"));
    }

    #[test]
    fn interleaved_blocks_are_read_in_pairs() {
        let text = json!({"interleaved": [{"base": report(), "candidate": report()}]}).to_string();
        let pairs = pairs_from_json("ab.json", text.as_bytes()).unwrap();
        assert_eq!((pairs.len(), pairs[0].0.requests.len()), (1, 3));
        assert_eq!(pairs[0].1.name, "ab.json, candidate");
    }
}
