//! Measurements of all requests of one kind: histograms, ledger sums and counts.
//!
//! - *In*: finished [`Record`]s, and batches of gaps from streams that still run.
//! - *Out*: percentiles and sums. Series can be merged in any order with the same result.
//! - *Never*: a label. The owner of a series knows its labels.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::finish_reason::FinishReason;
use crate::guardrail::{FilterAccount, Findings};
use crate::histogram::{CountHistogram, Histogram, TimeHistogram};
use crate::ledger::State;
use crate::record::{Outcome, Record};
use crate::timing::Timing;

/// Everything counted about requests of one kind.
#[derive(Clone, Debug, Default)]
pub struct Series {
    timings: [Option<Box<TimeHistogram>>; Timing::ALL.len()],
    /// Requests by outcome, in the order of [`Outcome::ALL`].
    pub outcomes: [u64; Outcome::ALL.len()],
    /// Finish reasons of answers, one for each choice, in the order of [`FinishReason::ALL`].
    pub finish_reasons: [u64; FinishReason::ALL.len()],
    /// Requests that the gateway or an engine failed: [`Record::is_service_failure`].
    pub service_failures: u64,
    /// Microseconds in each ledger state, in the order of [`State::ALL`].
    pub ledger_us: [u64; State::ALL.len()],
    /// Prompt tokens as reported by engines, one value per request; the unit is tokens.
    pub input_tokens: Option<Box<CountHistogram>>,
    /// Generated tokens as reported by engines, one value per request; the unit is tokens.
    pub output_tokens: Option<Box<CountHistogram>>,
    /// Estimated generated tokens of requests without reported usage.
    pub estimated_tokens: u64,
    /// Prompt tokens read from a cache, as reported by engines.
    pub cached_tokens: u64,
    /// Prompt tokens written to a cache, as reported by engines.
    pub cache_write_tokens: u64,
    /// Generated tokens spent on reasoning, as reported by engines.
    pub reasoning_tokens: u64,
    /// Complete events.
    pub events: u64,
    /// Events with generated text.
    pub content_events: u64,
    /// Comment lines.
    pub comments: u64,
    /// Token events that arrived in the same read as an earlier one.
    pub coalesced: u64,
    /// Gaps over the threshold.
    pub stalls: u64,
    /// Answers whose engine reported times that contradict the measurement.
    pub engine_disagreements: u64,
    /// Bytes received from clients.
    pub bytes_from_client: u64,
    /// Bytes sent to clients.
    pub bytes_to_client: u64,
    /// Answers that were not parsed, or only in part.
    pub not_parsed: u64,
    /// Findings of guardrails in prompts, by rule.
    pub found_in: Findings,
    /// Findings of guardrails in answers, by rule.
    pub found_out: Findings,
    /// Maximum bytes of events that a guardrail held at one time, one value per request; the unit
    /// is bytes.
    pub held_bytes: Option<Box<CountHistogram>>,
    /// Results and time of filters, by filter and side.
    pub filters: BTreeMap<(Arc<str>, Cow<'static, str>), FilterSeries>,
}

/// Results and time of one filter on one side, one value per request.
#[derive(Clone, Debug, Default)]
pub struct FilterSeries {
    /// Requests in which the filter was called.
    pub requests: u64,
    /// Calls; several per request if answers are judged in windows.
    pub calls: u64,
    /// Requests in which the filter finished last in its stage.
    pub critical: u64,
    /// Requests by verdict.
    pub verdicts: BTreeMap<Cow<'static, str>, u64>,
    /// Requests by reason of failure.
    pub failures: BTreeMap<Cow<'static, str>, u64>,
    /// Time on a thread, waiting for a thread, waiting for another server, and in total, in the
    /// order of [`FilterSeries::PARTS`].
    pub parts: [TimeHistogram; 4],
}

impl FilterSeries {
    /// The names of the parts.
    pub const PARTS: [&'static str; 4] = ["cpu", "queue", "remote", "wall"];

    fn observe(&mut self, account: &FilterAccount) {
        self.requests += 1;
        self.calls += account.calls;
        self.critical += u64::from(account.critical);
        *self.verdicts.entry(account.verdict.clone()).or_default() += 1;
        if let Some(failure) = &account.failure {
            *self.failures.entry(failure.clone()).or_default() += 1;
        }
        for (part, micros) in self.parts.iter_mut().zip([
            account.cpu_us,
            account.queue_us,
            account.remote_us,
            account.wall_us,
        ]) {
            part.record(micros);
        }
    }

    fn merge(&mut self, other: &FilterSeries) {
        self.requests += other.requests;
        self.calls += other.calls;
        self.critical += other.critical;
        add_findings(&mut self.verdicts, &other.verdicts);
        add_findings(&mut self.failures, &other.failures);
        self.parts.iter_mut().zip(&other.parts).for_each(|(mine, theirs)| mine.merge(theirs));
    }
}

impl Series {
    /// Count one value of a timing.
    #[inline]
    pub fn record(&mut self, timing: Timing, micros: u64) {
        self.timings[timing as usize].get_or_insert_default().record(micros);
    }

    /// Count a finished request. Its individual gaps are not in the record; [`Series::record`]
    /// counts them.
    pub fn observe(&mut self, record: &Record) {
        self.outcomes[record.outcome as usize] += 1;
        self.service_failures += u64::from(record.is_service_failure());
        for word in &record.finish_reasons {
            self.finish_reasons[FinishReason::from_word(word) as usize] += 1;
        }
        for (state, micros) in record.ledger_us.iter() {
            self.ledger_us[state as usize] += micros;
        }
        record.timings().for_each(|(timing, micros)| self.record(timing, micros));
        self.count_tokens(record);
        self.events += record.events.unwrap_or(0);
        self.content_events += record.content_events.unwrap_or(0);
        self.comments += record.comments.unwrap_or(0);
        self.coalesced += record.coalesced_events.unwrap_or(0);
        self.stalls += record.stalls.unwrap_or(0);
        self.engine_disagreements +=
            u64::from(record.engine_split.is_some_and(|split| split.disagrees));
        self.bytes_from_client += record.bytes_from_client;
        self.bytes_to_client += record.bytes_to_client;
        self.not_parsed += u64::from(record.not_parsed.is_some());
        self.observe_security(record);
    }

    fn observe_security(&mut self, record: &Record) {
        let Some(security) = &record.guardrail else { return };
        add_findings(&mut self.found_in, &security.input);
        add_findings(&mut self.found_out, &security.output);
        for account in &security.filters {
            self.filters
                .entry((account.filter.clone(), account.side.clone()))
                .or_default()
                .observe(account);
        }
        self.held_bytes.get_or_insert_default().record(security.held_bytes_max);
    }

    fn count_tokens(&mut self, record: &Record) {
        let Some(usage) = &record.usage else { return };
        if let Some(tokens) = usage.prompt_tokens.filter(|_| !usage.prompt_estimated) {
            self.input_tokens.get_or_insert_default().record(tokens);
        }
        self.cached_tokens += usage.cached_tokens.unwrap_or(0);
        self.cache_write_tokens += usage.cache_write_tokens.unwrap_or(0);
        self.reasoning_tokens += usage.reasoning_tokens.unwrap_or(0);
        match usage.completion_tokens {
            Some(tokens) if usage.estimated => self.estimated_tokens += tokens,
            Some(tokens) => self.output_tokens.get_or_insert_default().record(tokens),
            None => {}
        }
    }

    /// The histogram of a timing; `None` when nothing was timed.
    pub fn timing(&self, timing: Timing) -> Option<&TimeHistogram> {
        self.timings[timing as usize].as_deref()
    }

    /// Number of requests.
    pub fn requests(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Merge another series into this one.
    pub fn merge(&mut self, other: &Series) {
        for (mine, theirs) in self.timings.iter_mut().zip(&other.timings) {
            merge_histogram(mine, theirs);
        }
        merge_histogram(&mut self.input_tokens, &other.input_tokens);
        merge_histogram(&mut self.output_tokens, &other.output_tokens);
        merge_histogram(&mut self.held_bytes, &other.held_bytes);
        add_findings(&mut self.found_in, &other.found_in);
        add_findings(&mut self.found_out, &other.found_out);
        for (filter, series) in &other.filters {
            self.filters.entry(filter.clone()).or_default().merge(series);
        }
        add_all(&mut self.outcomes, &other.outcomes);
        add_all(&mut self.finish_reasons, &other.finish_reasons);
        add_all(&mut self.ledger_us, &other.ledger_us);
        for (mine, theirs) in [
            (&mut self.service_failures, other.service_failures),
            (&mut self.estimated_tokens, other.estimated_tokens),
            (&mut self.cached_tokens, other.cached_tokens),
            (&mut self.cache_write_tokens, other.cache_write_tokens),
            (&mut self.reasoning_tokens, other.reasoning_tokens),
            (&mut self.events, other.events),
            (&mut self.content_events, other.content_events),
            (&mut self.comments, other.comments),
            (&mut self.coalesced, other.coalesced),
            (&mut self.stalls, other.stalls),
            (&mut self.engine_disagreements, other.engine_disagreements),
            (&mut self.bytes_from_client, other.bytes_from_client),
            (&mut self.bytes_to_client, other.bytes_to_client),
            (&mut self.not_parsed, other.not_parsed),
        ] {
            *mine += theirs;
        }
    }
}

fn add_findings(mine: &mut Findings, theirs: &Findings) {
    for (rule, count) in theirs {
        *mine.entry(rule.clone()).or_default() += count;
    }
}

fn merge_histogram<const PER_UNIT: u64>(
    mine: &mut Option<Box<Histogram<PER_UNIT>>>,
    theirs: &Option<Box<Histogram<PER_UNIT>>>,
) {
    if let Some(theirs) = theirs {
        mine.get_or_insert_default().merge(theirs);
    }
}

fn add_all(mine: &mut [u64], theirs: &[u64]) {
    for (m, t) in mine.iter_mut().zip(theirs) {
        *m += t;
    }
}
