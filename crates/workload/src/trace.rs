//! Recorded traffic, to be sent again: when requests came, and how long they were.
//!
//! - *In*: JSON lines of Mooncake (`timestamp`, `input_length`, `output_length`, `hash_ids`), or
//!   records of a gateway.
//! - *Out*: a [`Trace`]: requests in the order of their times, from the first one.
//! - *Never*: a prompt or an answer of the recorded traffic: traces have only lengths. Blocks of a
//!   prompt that a trace says are the same get the same text, so that caches hit as they did.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lens::Record;
use serde::Deserialize;

use crate::arrival::Arrival;
use crate::length::MAX_LENGTH;

/// Maximum requests of a trace.
pub const MAX_REQUESTS: usize = 5_000_000;
/// Tokens of a block of Mooncake's traces.
pub const BLOCK: u32 = 512;
/// Range of paces.
pub const PACES: std::ops::RangeInclusive<f64> = 0.001..=1_000.0;

/// A request of a trace.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TraceRequest {
    /// When it came, from the first one.
    pub at: Duration,
    /// Length of its prompt, in tokens; at least 1.
    pub prompt: u32,
    /// Length of its answer, in tokens; `None`: unknown.
    pub answer: Option<u32>,
    /// Blocks of [`BLOCK`] tokens of its prompt, by hash: equal hashes are equal texts.
    pub blocks: Vec<u64>,
}

/// Recorded traffic.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Trace {
    /// Its requests, by time.
    pub requests: Vec<TraceRequest>,
    /// Records that were no requests for a model, or whose lengths are unknown.
    pub skipped: u64,
}

/// A line of Mooncake's traces. Times are milliseconds.
#[derive(Deserialize)]
struct MooncakeLine {
    timestamp: f64,
    input_length: u32,
    output_length: u32,
    #[serde(default)]
    hash_ids: Vec<u64>,
}

impl Trace {
    /// Reads a file of JSON lines: Mooncake's, or a gateway's records.
    ///
    /// # Errors
    /// What is wrong, with the line's number.
    pub fn from_file(path: &Path) -> Result<Self, String> {
        let name = path.display();
        let text = crate::read_file(path)?;
        let mut builder = TraceBuilder::default();
        for (at, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
            builder.add_line(line).map_err(|why| format!("{name}:{}: {why}", at + 1))?;
        }
        builder.build().map_err(|why| format!("{name}: {why}"))
    }

    /// The arrivals of this trace. At pace 2, it takes half of its time.
    pub fn arrival(&self, pace: f64) -> Arrival {
        let times: Arc<[Duration]> =
            self.requests.iter().map(|request| request.at.div_f64(pace)).collect();
        Arrival::Trace(times)
    }
}

impl TraceRequest {
    /// What distinguishes it, for a digest.
    pub(crate) fn bytes(&self) -> impl Iterator<Item = u8> {
        let blocks: Vec<u8> = self.blocks.iter().flat_map(|hash| hash.to_le_bytes()).collect();
        let lengths = [self.prompt, self.answer.unwrap_or(0)];
        lengths.into_iter().flat_map(u32::to_le_bytes).chain(blocks)
    }
}

/// Collects the requests of a trace.
#[derive(Debug, Default)]
pub struct TraceBuilder {
    /// Requests with their times in microseconds since any moment.
    requests: Vec<(u64, TraceRequest)>,
    skipped: u64,
}

impl TraceBuilder {
    fn add_line(&mut self, line: &str) -> Result<(), String> {
        let value: serde_json::Value = serde_json::from_str(line).map_err(|e| e.to_string())?;
        if value.get("input_length").is_some() {
            let line: MooncakeLine = serde_json::from_value(value).map_err(|e| e.to_string())?;
            return self.add_mooncake(line);
        }
        if value.get("started_at").is_some() {
            let record: Record = serde_json::from_value(value).map_err(|e| e.to_string())?;
            return self.add_record(&record);
        }
        Err("neither a line of Mooncake (\"timestamp\", \"input_length\", \"output_length\") nor a \
             record of a gateway (\"started_at\")"
            .into())
    }

    fn add_mooncake(&mut self, line: MooncakeLine) -> Result<(), String> {
        if !(0.0..=1e15).contains(&line.timestamp) {
            return Err(format!("{} is not a time in milliseconds", line.timestamp));
        }
        let blocks = line.hash_ids;
        if blocks.len() > line.input_length.div_ceil(BLOCK) as usize {
            return Err(format!("{} hash_ids for {} tokens", blocks.len(), line.input_length));
        }
        let request = TraceRequest {
            prompt: length(u64::from(line.input_length))?,
            answer: Some(length(u64::from(line.output_length))?),
            blocks,
            ..TraceRequest::default()
        };
        self.push((line.timestamp * 1e3).round() as u64, request)
    }

    /// Adds a record of a gateway. Records without a count of prompt tokens are skipped.
    ///
    /// # Errors
    /// Why the trace is not valid.
    pub fn add_record(&mut self, record: &Record) -> Result<(), String> {
        let usage = record.usage.as_ref();
        let Some(prompt) = usage.and_then(|usage| usage.prompt_tokens).filter(|n| *n > 0) else {
            self.skipped += 1;
            return Ok(());
        };
        let answer = usage.and_then(|usage| usage.completion_tokens).filter(|n| *n > 0);
        let request = TraceRequest {
            prompt: length(prompt)?,
            answer: answer.map(length).transpose()?,
            ..TraceRequest::default()
        };
        self.push(record.started_at, request)
    }

    fn push(&mut self, at_us: u64, request: TraceRequest) -> Result<(), String> {
        if self.requests.len() >= MAX_REQUESTS {
            return Err(format!("the trace has more than {MAX_REQUESTS} requests"));
        }
        self.requests.push((at_us, request));
        Ok(())
    }

    /// The trace.
    ///
    /// # Errors
    /// That it is empty.
    pub fn build(mut self) -> Result<Trace, String> {
        // Records are written when requests end. Requests of the same time keep their order.
        self.requests.sort_by_key(|(at, _)| *at);
        let Some((first, _)) = self.requests.first() else {
            return Err("no line is a request with a known length".into());
        };
        let first = *first;
        let requests = self
            .requests
            .into_iter()
            .map(|(at, request)| TraceRequest { at: Duration::from_micros(at - first), ..request });
        Ok(Trace { requests: requests.collect(), skipped: self.skipped })
    }
}

fn length(tokens: u64) -> Result<u32, String> {
    let length = u32::try_from(tokens.max(1)).ok().filter(|n| *n <= MAX_LENGTH);
    length.ok_or_else(|| format!("{tokens} tokens are more than {MAX_LENGTH}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Trace, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.jsonl");
        std::fs::write(&path, text).unwrap();
        Trace::from_file(&path)
    }

    #[test]
    fn mooncake_lines_are_read_in_the_order_of_their_times() {
        let text = r#"{"timestamp": 3500, "input_length": 900, "output_length": 5, "hash_ids": [1, 2]}
            {"timestamp": 500.5, "input_length": 3, "output_length": 0, "hash_ids": []}"#;
        let trace = read(text).unwrap();
        let [first, second] = trace.requests.as_slice() else { panic!("{trace:?}") };
        assert_eq!((first.at, first.prompt, first.answer), (Duration::ZERO, 3, Some(1)));
        assert_eq!((second.at, second.prompt), (Duration::from_micros(2_999_500), 900));
        assert_eq!(second.blocks, [1, 2]);
        let Arrival::Trace(times) = trace.arrival(2.0) else { panic!() };
        assert_eq!(times[1], Duration::from_nanos(1_499_750_000));
    }

    #[test]
    fn records_of_a_gateway_are_read_and_those_without_lengths_are_counted() {
        let record = |at: &str, usage: serde_json::Value| {
            serde_json::json!({
                "schema": 1, "id": "i", "started_at": at, "route": "r",
                "endpoint": "/v1/chat/completions", "stream": true, "outcome": "ok",
                "bytes_from_client": 10, "bytes_to_client": 20, "ledger_us": {}, "total_us": 200,
                "usage": usage
            })
            .to_string()
        };
        let usage = |prompt, answer| serde_json::json!({"prompt_tokens": prompt, "completion_tokens": answer, "estimated": false});
        let text = [
            record("2026-01-02T03:04:06.5Z", usage(7, 20)),
            record("2026-01-02T03:04:05Z", usage(9, 0)),
            record("2026-01-02T03:04:07Z", serde_json::Value::Null),
        ];
        let trace = read(&text.join("\n")).unwrap();
        let seen: Vec<_> =
            trace.requests.iter().map(|r| (r.at.as_millis(), r.prompt, r.answer)).collect();
        assert_eq!(seen, [(0, 9, None), (1_500, 7, Some(20))]);
        assert_eq!(trace.skipped, 1);
    }

    #[test]
    fn what_is_no_trace_is_an_error() {
        for (bad, wanted) in [
            ("", "no line is a request"),
            ("{}", "t.jsonl:1: neither"),
            ("{\"timestamp\": -1, \"input_length\": 1, \"output_length\": 1}", "not a time"),
            ("{\"timestamp\": 0, \"input_length\": 1}", "output_length"),
            (
                "{\"timestamp\": 0, \"input_length\": 1, \"output_length\": 1, \"hash_ids\": [1, 2]}",
                "2 hash_ids for 1 tokens",
            ),
            ("{\"timestamp\": 0, \"input_length\": 2000000, \"output_length\": 1}", "more than"),
        ] {
            let error = read(bad).unwrap_err();
            assert!(error.contains(wanted), "{bad}: {error}");
        }
    }
}
