//! What a simulated engine did: the truth that a client's figures are compared with.
//!
//! - *In*: the marks of each answer, stamped where its bytes were given to the kernel.
//! - *Out*: rows in the order they ended, distributions of all of them, and an [`Outcome`] in the
//!   form of a load test, so that the definitions of each tool apply.
//! - *Never*: unbounded memory. The oldest rows are dropped and counted; distributions have all.

use std::collections::VecDeque;

use lens::Micros;
use serde::Serialize;
use serde_json::{Value, json};

use testbench::report::{mean, percentile};
use testbench::{Outcome, Sample};

/// Maximum rows that are kept.
pub const MAX_ROWS: usize = 100_000;
/// Maximum events of all rows that are kept: 16 bytes each.
const MAX_EVENTS: usize = 4_000_000;
/// Maximum rows of a page of `/truth`.
pub const MAX_PAGE: usize = 1_000;

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// All of it was written.
    Complete,
    /// It failed as the script says, or was refused; `fault` has the kind.
    Failed,
    /// The client disconnected before the end.
    Disconnected,
}

/// The truth of a request. Times are microseconds; but for `received_us`, they count from there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Row {
    /// Number of the request, from 0. The answer's `id` is `sim-` and this number.
    pub number: u64,
    /// From the start of the engine until the read that completed the request returned.
    pub received_us: u64,
    /// Tokens of the prompt: a quarter of its bytes.
    pub prompt_tokens: u64,
    /// Tokens that were written.
    pub tokens: u64,
    /// Whether the answer is a stream.
    pub stream: bool,
    /// How it ended.
    pub end: End,
    /// Status of the answer.
    pub status: u16,
    /// The failure of the script, or the reason of the refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The first byte of the answer was given to the kernel.
    pub first_byte_us: u64,
    /// Events with tokens: when their last byte was given to the kernel, and their tokens.
    pub events: Vec<(u64, u32)>,
    /// The last byte was given to the kernel, or the connection ended.
    pub end_us: u64,
}

impl Row {
    /// Whether a client has to count it as failed.
    pub fn is_failed(&self) -> bool {
        self.end == End::Failed
    }

    /// Time per token after the first event, as `docs/measurement.md` defines it.
    fn tpot_us(&self) -> Option<f64> {
        let ((first, tokens), (last, _)) = (self.events.first()?, self.events.last()?);
        let rest = self.tokens.saturating_sub(u64::from(*tokens));
        (rest > 0 && last > first).then(|| (last - first) as f64 / rest as f64)
    }

    fn gaps(&self) -> impl Iterator<Item = u64> {
        self.events.windows(2).map(|pair| pair[1].0.saturating_sub(pair[0].0))
    }

    /// The row as a client without any delay would have measured it.
    fn sample(&self) -> Sample {
        let first = self.events.first().map(|(us, _)| *us).filter(|_| self.stream);
        let last = self.events.last().map(|(us, _)| *us).filter(|_| self.stream);
        let error = self.fault.clone().filter(|_| self.is_failed());
        Sample {
            id: format!("sim-{}", self.number),
            due_us: self.received_us,
            late_us: 0,
            slip_us: 0,
            status: Some(self.status),
            error,
            cancelled: self.end == End::Disconnected,
            turn: 0,
            ttft_us: first,
            ttft_from_send_us: first,
            tpot_us: self.tpot_us().filter(|_| self.stream),
            itl_us: None,
            total_us: self.end_us,
            tokens: Some(self.tokens),
            estimated: false,
            content_events: self.events.len() as u64,
            coalesced_events: 0,
            prompt_tokens: Some(self.prompt_tokens),
            first_event_us: first,
            first_content_us: first,
            last_token_us: last,
            last_event_us: last,
            events: self.events.len() as u64,
        }
    }
}

/// Requests by how they ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// All of them.
    pub requests: u64,
    /// Those that failed.
    pub failed: u64,
    /// Those whose client disconnected.
    pub disconnected: u64,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub tokens: u64,
}

/// The truth of all requests.
#[derive(Default)]
pub struct Truth {
    rows: VecDeque<Row>,
    events: usize,
    /// Rows that are not kept any more.
    dropped: u64,
    totals: Totals,
    sketches: Outcome,
    /// Time of each write: the stamp of an event is right within it.
    writes: Micros,
    /// From the schedule of an event to its stamp.
    behind: Micros,
}

impl Truth {
    /// Adds a request that ended.
    pub(crate) fn add(&mut self, row: Row) {
        self.totals.requests += 1;
        self.totals.failed += u64::from(row.is_failed());
        self.totals.disconnected += u64::from(row.end == End::Disconnected);
        self.totals.prompt_tokens += row.prompt_tokens;
        self.totals.tokens += row.tokens;
        count(&row, &mut self.sketches);
        self.events += row.events.len();
        self.rows.push_back(row);
        while self.rows.len() > MAX_ROWS || self.events > MAX_EVENTS {
            let Some(old) = self.rows.pop_front() else { break };
            self.events -= old.events.len();
            self.dropped += 1;
        }
    }

    /// Adds a write of an event: how long the system call took, and how far behind the schedule it
    /// began, in microseconds.
    pub(super) fn wrote(&mut self, took_us: u64, behind_us: u64) {
        self.writes.record(took_us);
        self.behind.record(behind_us);
    }

    /// Numbers of requests.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Rows from a position in the order of their end, at most `limit`, and the next position.
    pub fn page(&self, from: u64, limit: usize) -> (Vec<&Row>, u64) {
        let skip = usize::try_from(from.saturating_sub(self.dropped)).unwrap_or(usize::MAX);
        let rows: Vec<&Row> = self.rows.iter().skip(skip).take(limit).collect();
        let next = from.max(self.dropped) + rows.len() as u64;
        (rows, next)
    }

    /// Rows that are not kept any more.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// The truth of the rows that are kept, from a number on, in the form of a load test.
    pub fn outcome(&self, from: u64) -> Outcome {
        let mut outcome = Outcome::default();
        for row in self.rows.iter().filter(|row| row.number >= from) {
            count(row, &mut outcome);
            outcome.samples.push(row.sample());
        }
        outcome
    }

    /// The own error of the stamps: the 99th percentile of the time of a write, in microseconds.
    pub fn error_us(&self) -> u64 {
        self.writes.percentile(99.0).unwrap_or(0)
    }

    /// All distributions, in microseconds. `timer_late`: delays of the engine's thread.
    pub fn summary(&self, timer_late: &Micros) -> Value {
        let s = &self.sketches;
        let [ttft, tpot, itl, request] = [&s.ttft, &s.tpot, &s.itl, &s.total].map(distribution);
        json!({
            "totals": self.totals,
            "dropped_rows": self.dropped,
            "timings": {"ttft": ttft, "tpot": tpot, "itl": itl, "request": request},
            "error": {
                "write": distribution(&self.writes),
                "behind_schedule": distribution(&self.behind),
                "timer_late": distribution(timer_late),
            },
        })
    }
}

/// Counts the answer of a row in the distributions of `outcome`, as a client counts its sample.
fn count(row: &Row, outcome: &mut Outcome) {
    let sample = row.sample();
    if !sample.is_ok() {
        return;
    }
    sample.ttft_us.into_iter().for_each(|us| outcome.ttft.record(us));
    sample.ttft_from_send_us.into_iter().for_each(|us| outcome.ttft_from_send.record(us));
    sample.tpot_us.into_iter().for_each(|us| outcome.tpot.record(us.round() as u64));
    outcome.total.record(row.end_us);
    outcome.total_from_send.record(row.end_us);
    if row.stream {
        row.gaps().for_each(|us| {
            outcome.itl.record(us);
            outcome.event_gaps.record(us);
        });
        // The role and the finish reason are written with the first and the last token.
        outcome.event_gaps.record_n(0, 2);
    }
}

fn distribution(micros: &Micros) -> Value {
    let percentiles: serde_json::Map<String, Value> = [50.0, 90.0, 95.0, 99.0]
        .map(|p| (format!("p{p}"), json!(percentile(micros, p))))
        .into_iter()
        .collect();
    let buckets: Vec<(u64, u64)> =
        micros.hdr().iter_recorded().map(|v| (v.value_iterated_to(), v.count_at_value())).collect();
    json!({"count": micros.count(), "mean_us": mean(micros), "percentiles_us": percentiles,
        "histogram_us": buckets})
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// 10 tokens in five events, 10 ms apart, from 50 ms on.
    pub(crate) fn row(number: u64) -> Row {
        Row {
            number,
            received_us: 1_000 * number,
            prompt_tokens: 8,
            tokens: 10,
            stream: true,
            end: End::Complete,
            status: 200,
            fault: None,
            first_byte_us: 50_000,
            events: (0..5).map(|n| (50_000 + 10_000 * n, 2)).collect(),
            end_us: 90_000,
        }
    }

    #[test]
    fn an_outcome_has_what_a_perfect_client_measures() {
        let mut truth = Truth::default();
        truth.add(row(0));
        truth.add(Row { end: End::Failed, fault: Some("429".into()), ..row(1) });
        truth.add(Row { end: End::Disconnected, ..row(2) });
        truth.add(Row { stream: false, ..row(3) });
        let outcome = truth.outcome(0);
        assert_eq!(outcome.ttft.count(), 1);
        assert_eq!(outcome.tpot.sum(), 5_000, "40 ms for the eight tokens after the first event");
        assert_eq!((outcome.itl.count(), outcome.itl.sum()), (4, 40_000));
        assert_eq!((outcome.total.count(), outcome.total.sum()), (2, 180_000));
        assert_eq!((truth.totals().failed, truth.totals().disconnected), (1, 1));
        let failed = outcome.samples.iter().filter(|sample| sample.is_failed());
        assert_eq!(failed.map(|s| s.error.as_deref()).collect::<Vec<_>>(), [Some("429")]);
    }

    #[test]
    fn memory_is_bounded_and_positions_stay() {
        let mut truth = Truth::default();
        let count = MAX_ROWS as u64 + 10;
        (0..count).for_each(|n| truth.add(Row { events: vec![(1, 1)], ..row(n) }));
        assert_eq!((truth.dropped(), truth.sketches.total.count()), (10, count));
        assert_eq!(truth.outcome(count - 5).total.count(), 5);
        let (rows, next) = truth.page(0, 3);
        assert_eq!((rows[0].number, next), (10, 13));
        assert_eq!(truth.page(next, 2).0[0].number, 13);
        assert_eq!(truth.page(count + 5, 2), (vec![], count + 5));
        let many = Row { events: vec![(1, 1); MAX_EVENTS], ..row(0) };
        truth.add(many);
        assert_eq!(truth.page(0, 5).0.len(), 1);
    }
}
