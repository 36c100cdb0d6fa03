//! Synthetic records, as a gateway writes them for streams.
//!
//! In: numbers of records.
//! Out: the same records for the same numbers, in the order of their times.
//! Never: a record like the one before: models, owners, keys and times vary.

use std::sync::Arc;

use lens::Record;
use observatory::{NumberedRecord, RecordKey};

/// 2026-01-02T00:00:00Z in microseconds.
pub const START: u64 = 1_767_312_000_000_000;
/// A day in microseconds.
pub const DAY: u64 = 86_400_000_000;

/// Records with these numbers, of `all`, which end at `end`.
#[must_use]
pub fn batch(numbers: std::ops::Range<u64>, all: u64, end: u64) -> Vec<NumberedRecord> {
    let template = template();
    let instance: Arc<str> = "bench".into();
    let key = |sequence| RecordKey { instance: instance.clone(), epoch: 1, sequence };
    numbers
        .map(|number| {
            let record = Arc::new(record(&template, number, all, end));
            NumberedRecord { key: key(number), record }
        })
        .collect()
}

/// The id of a record.
#[must_use]
pub fn id(number: u64) -> String {
    let mixed = mix(number);
    format!(
        "{:08x}-{:04x}-7{:03x}-9{:03x}-{:012x}",
        number,
        mixed & 0xffff,
        (mixed >> 16) & 0xfff,
        (mixed >> 28) & 0xfff,
        mixed >> 16
    )
}

/// A number that looks random.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb) ^ (number >> 31)
}

fn record(template: &Record, number: u64, all: u64, end: u64) -> Record {
    let mut record = template.clone();
    let random = mix(number);
    let pick = |shift: u32, of: u64| (random >> shift) % of;
    record.id = id(number);
    record.trace_id =
        number.is_multiple_of(2).then(|| format!("{:016x}{:016x}", random, mix(random)));
    record.started_at = START
        + ((end - START) as u128 * number.min(all - 1) as u128 / all as u128) as u64
        + pick(3, 1000);
    record.route = format!("route-{}", pick(5, 8)).into();
    record.backend = Some(format!("b{}", pick(9, 6)).into());
    record.model_requested = Some(format!("model-{}", pick(5, 8)));
    record.model_answered.clone_from(&record.model_requested);
    record.owner = Some(format!("team-{}", pick(13, 20)).into());
    record.caller = Some(match number % 10_000 {
        1234 => "rare".into(),
        _ => format!("key-{}", pick(17, 500)).into(),
    });
    if pick(21, 100) == 0 {
        record.outcome = lens::record::Outcome::Timeout;
        record.error_code = Some("first_token_timeout".into());
        record.http_status = Some(504);
    }
    let ttft = 20_000 + pick(8, 400_000);
    let total =
        if pick(25, 1000) == 0 { 61_000_000 } else { ttft + 1_000_000 + pick(11, 8_000_000) };
    (record.engine_ttft_us, record.client_ttft_us) = (Some(ttft), Some(ttft + 200 + pick(4, 300)));
    (record.tpot_us, record.total_us) = (Some(5_000.0 + pick(7, 20_000) as f64), total);
    if let Some(usage) = &mut record.usage {
        (usage.prompt_tokens, usage.completion_tokens) = (Some(pick(6, 4000)), Some(pick(12, 900)));
    }
    record.cost = Some(pick(10, 10_000) as f64 / 1e6);
    record.bytes_from_client = pick(15, 20_000);
    record.bytes_to_client = pick(14, 200_000);
    record
}

/// A record as the gateway writes one for a stream.
fn template() -> Record {
    serde_json::from_value(serde_json::json!({
        "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": "r", "dialect": "openai-chat", "endpoint": "/v1/chat/completions",
        "http_status": 200, "stream": true, "outcome": "ok", "finish_reasons": ["stop"], "chosen": "least_load",
        "usage": {"prompt_tokens": 5, "completion_tokens": 9, "estimated": false}, "events": 312, "content_events": 309, "comments": 0,
        "bytes_from_client": 10, "bytes_to_client": 20, "sent_us": 311, "engine_us": 4_200_000,
        "marks_us": {"first_byte": {"arrival": 120_311, "written": 120_402}, "first_event": {"arrival": 120_311, "written": 120_402},
            "role": {"arrival": 120_311, "written": 120_402}, "content": {"arrival": 143_022, "written": 143_090},
            "first_token": {"arrival": 143_022, "written": 143_090}, "last_token": {"arrival": 4_198_300, "written": 4_198_377}},
        "itl_us": {"count": 308, "mean": 13_166.2, "p50": 13_001, "p90": 16_222, "p99": 31_004, "max": 44_002},
        "client_itl_us": {"count": 308, "mean": 13_166.9, "p50": 13_010, "p90": 16_240, "p99": 31_111, "max": 44_120},
        "stalls": 0, "coalesced_events": 3,
        "ledger_us": {"read_request": 41, "authenticate": 9, "queue": 0, "route": 12, "connect": 88, "send": 102, "await_first_byte": 120_000,
            "await_first_token": 22_711, "await_token": 4_055_200, "client_write": 812, "gateway": 933, "settle": 12},
        "total_us": 4_199_820
    }))
    .expect("a valid record")
}
