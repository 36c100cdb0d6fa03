//! Statistics of the last minutes, error budgets, and sketches that gateways merge.
//!
//! - *In*: finished [`lens::Record`]s with a monotonic time.
//! - *Out*: windows of 1, 5 and 15 minutes and since the start, by route, backend, operation, model
//!   and owner; the last seconds; the budget of each objective; documents to merge elsewhere.
//! - *Never*: a clock, a thread, a socket. Work on the path of a request: records arrive in batches
//!   from a sink.

mod budget;
pub use budget::{BURN_WINDOWS, MAX_WINDOW, Misses};

mod cell;
pub use cell::{Cell, DecodeError, Distribution, TIMINGS};

mod labels;
pub use labels::{Dimension, Filter, Labels, OTHER};

mod objectives;
pub use objectives::{Objectives, Slo, Threshold, Verdict};

mod report;
pub use report::{
    BudgetReport, BurnReport, Row, Rows, TimingReport, cell_json, distinct, group, rows_json,
};

mod sketches;
pub use sketches::{SketchError, Sketches};

mod statistics;
pub use statistics::{MAX_OWNER_SERIES, MAX_SERIES, Statistics};

mod windows;
pub use windows::{SecondCells, Window, WindowCells};

#[cfg(test)]
mod tests {
    use lens::Record;

    /// A record with the fields that statistics count.
    pub(crate) fn record(route: &str, outcome: &str) -> Record {
        serde_json::from_value(serde_json::json!({
            "schema": 1, "id": "i", "started_at": "2026-01-02T03:04:05Z", "route": route,
            "endpoint": "/v1/chat/completions", "stream": true, "outcome": outcome,
            "dialect": "openai-chat", "bytes_from_client": 10, "bytes_to_client": 20,
            "engine_ttft_us": 20_000, "client_ttft_us": 20_500, "tpot_us": 8_000.4,
            "usage": {"prompt_tokens": 5, "completion_tokens": 9, "estimated": false},
            "ledger_us": {"await_token": 80_000, "gateway": 20_000}, "total_us": 100_000
        }))
        .expect("a valid record")
    }
}
