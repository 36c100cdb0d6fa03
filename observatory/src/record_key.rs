//! The number of a record: it is unique in a store that several gateways write to.
//!
//! - *In*: the name of the host, the start of the process.
//! - *Out*: keys that grow by one with each record of the pump.
//! - *Never*: the same key for two records, as long as hosts have different names.

use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use lens::Record;
use serde::{Deserialize, Serialize};

/// Identifies a record. A store that has the key already ignores the record.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RecordKey {
    /// The gateway: the name of its host.
    pub instance: Arc<str>,
    /// Start of its process, in Unix microseconds.
    pub epoch: u64,
    /// Number of the record in this process, from 0. A missing number is a lost record.
    pub sequence: u64,
}

impl RecordKey {
    /// The first key of this process.
    pub fn first() -> Self {
        static PROCESS: LazyLock<(Arc<str>, u64)> = LazyLock::new(|| {
            let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
            let name = if name.trim().is_empty() { "unknown" } else { name.trim() };
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            (name.into(), u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
        });
        RecordKey { instance: PROCESS.0.clone(), epoch: PROCESS.1, sequence: 0 }
    }

    /// The key that is `count` records later.
    #[must_use]
    pub fn plus(&self, count: u64) -> Self {
        RecordKey { sequence: self.sequence + count, ..self.clone() }
    }
}

/// A record and its key.
#[derive(Clone, Debug, PartialEq)]
pub struct NumberedRecord {
    /// The key.
    pub key: RecordKey,
    /// The record.
    pub record: Arc<Record>,
}

impl NumberedRecord {
    /// The form in a spill: MessagePack with the names of fields, so that a newer version reads
    /// what an older one has written, and numbers come back to the last bit.
    pub(crate) fn encode(&self) -> Result<Vec<u8>, rmp_serde::encode::Error> {
        rmp_serde::to_vec_named(&(&self.key, &*self.record))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, rmp_serde::decode::Error> {
        let (key, record) = rmp_serde::from_slice(bytes)?;
        Ok(NumberedRecord { key, record: Arc::new(record) })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Every field that a record can have, with numbers that JSON readers often round.
    #[test]
    fn records_come_back_from_a_spill_as_they_were() {
        let gaps = json!({"count": 3, "mean": 0.1 + 0.2, "p50": 1, "p90": 2, "p99": 3, "max": 4});
        let parts = [
            json!({
                "schema": 1, "id": "i", "unique_id": "u", "trace_id": "t", "parent_span_id": "p", "trace_flags": 1,
                "started_at": "2026-01-02T03:04:05.678901Z", "route": "r", "backend": "b", "pool": "p", "chosen": "least",
                "offload": "queue", "engine_waiting": 7, "predicted_ttft_us": 5, "predicted_tpot_us": 1e-7 / 3.0,
                "retry_denied": true, "hedge": {"backend": "h", "won": true, "after_us": 9},
                "resumes": [{"backend": "x", "after_tokens": 1, "at_us": 2}],
                "failed_attempts": [{"backend": "f", "code": "c", "http_status": 500, "us": 3}],
            }),
            json!({
                "dialect": "openai_chat", "endpoint": "/v1", "caller": "k", "owner": "o", "cost": 0.1 + 0.7,
                "model_requested": "m\u{0}\"", "model_answered": "m2", "http_status": 200, "stream": true,
                "outcome": "client_gone", "error_code": "e", "engine_error": "ee", "finish_reasons": ["stop", "length"],
                "usage": {"prompt_tokens": 5, "completion_tokens": 9, "reasoning_tokens": 1, "cached_tokens": 2, "estimated": true},
                "not_parsed": "gzip", "events": 12, "content_events": 9, "comments": 1,
            }),
            json!({
                "bytes_from_client": u64::MAX, "bytes_to_client": 20, "sent_us": 1,
                "marks_us": {"first_token": {"arrival": 1, "written": 2}, "role": {"arrival": 3}},
                "engine_us": 1, "engine_ttft_us": 2, "client_ttft_us": 3, "tpot_us": 1.0 / 3.0, "itl_us": gaps,
                "client_itl_us": gaps, "client_itl_sketch": "AwEBAw", "stalls": 1, "coalesced_events": 2, "read_lag_us": gaps,
                "ledger_us": {"await_token": 80_000, "gateway": 20_000}, "total_us": 100_000
            }),
            json!({
                "span_id": "00f067aa0ba902b7", "upstream_span_id": "00f067aa0ba902b8", "provider": "vllm",
                "server": "127.0.0.1:8000", "stall_times": [{"at_us": 3, "us": 2}],
                "intervals": [{"state": "read_request", "from_us": -5, "to_us": 7}],
                "engine_split": {"queue_us": 1, "prefill_us": 2, "unexplained_us": 3, "disagrees": true},
            }),
            json!({"guardrail_overhead": {
                "validation_us": 1, "threat_detection_us": 2, "output_filtering_us": 3, "hold_us": 4,
                "total_us": 10, "security_impact_percent": 100.0 / 3.0, "added_ttft_us": 5
            }}),
        ];
        let members = parts.into_iter().flat_map(|part| part.as_object().cloned().unwrap());
        let full: Record = serde_json::from_value(members.collect()).unwrap();
        for record in [full, crate::tests::record("m", "ok")] {
            let key = RecordKey::first().plus(7);
            let numbered = NumberedRecord { key, record: Arc::new(record) };
            assert_eq!(NumberedRecord::decode(&numbered.encode().unwrap()).unwrap(), numbered);
        }
        assert!(NumberedRecord::decode(b"\x92\x80").is_err());
    }
}
