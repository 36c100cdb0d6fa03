//! `/api/sinks`: what the sinks of records have delivered and lost.
//!
//! - *In*: the counts of the sinks.
//! - *Out*: a row for each sink, with its queue and its last error.
//! - *Never*: a record.

use observatory::SinkCounts;
use pipeline::shared::Shared;
use serde_json::{Map, Value, json};

/// Delivered and dropped records of each sink, and what waits for it.
pub fn sinks(shared: &Shared) -> Vec<Value> {
    shared.observatory.sinks().map(|counts| sink(counts)).collect()
}

fn sink(counts: &SinkCounts) -> Value {
    let mut row = json!({
        "sink": counts.name,
        "records": counts.delivered(),
        "dropped": counts.dropped(),
        "last_error": counts.last_error(),
    });
    if let (Some(delivery), Some(row)) = (counts.delivery(), row.as_object_mut()) {
        let reasons = counts.dropped_by_reason().filter(|(_, count)| *count > 0);
        let reasons: Map<String, Value> =
            reasons.map(|(reason, count)| (reason.name().into(), count.into())).collect();
        row.insert("dropped_by_reason".into(), reasons.into());
        row.insert("state".into(), delivery.circuit().name().into());
        row.insert("retries".into(), delivery.retries().into());
        row.insert("queued".into(), delivery.queued().into());
        row.insert("spilled".into(), delivery.spilled().into());
        row.insert("spilled_bytes".into(), delivery.spilled_bytes().into());
        row.insert("spill_error".into(), delivery.spill_error().into());
    }
    row
}
