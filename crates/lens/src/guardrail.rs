//! Findings of a guardrail in a request and its answer, and their cost.
//!
//! - *In*: counts and times of the guardrail, and the ledger.
//! - *Out*: the two parts of a record that security teams read.
//! - *Never*: a text, or a position in one.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::gaps::GapSummary;
use crate::ledger::{Parts, State};

/// Findings by rule.
pub type Findings = BTreeMap<Cow<'static, str>, u64>;

/// Findings of a guardrail.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RecordGuardrail {
    /// Name of the guardrail.
    pub guardrail: Arc<str>,
    /// `enforce` or `observe`.
    pub mode: Cow<'static, str>,
    /// Findings in the prompt, by rule.
    #[serde(default)]
    pub input: Findings,
    /// Findings in the answer's texts, by rule, whether masked or not.
    #[serde(default)]
    pub output: Findings,
    /// Events that were held for later ones.
    pub held_events: u64,
    /// Maximum bytes of events held at one time.
    pub held_bytes_max: u64,
    /// Arrival to release, for each held event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_us: Option<GapSummary>,
    /// The action taken, or with `observe` the one that would have been taken: `pass`, `flag`,
    /// `redact`, `block`, `failed_closed`.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub verdict: Cow<'static, str>,
    /// Combined risk score of the prompt, 0 to 1; `docs/guardrails.md` has the formula.
    #[serde(default)]
    pub risk: f32,
    /// `LOW`, `MEDIUM` or `HIGH`.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub level: Cow<'static, str>,
    /// The filters that were called, with their results and times.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterAccount>,
}

/// Result and time of one filter on one side of a request. If the filter was called several times
/// (windows of an answer), times are sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterAccount {
    /// Its name.
    pub filter: Arc<str>,
    /// `input` or `output`.
    pub side: Cow<'static, str>,
    /// `pass`, `flag`, `redact`, `block`, `failed_open` or `failed_closed`; the most severe of
    /// several.
    pub verdict: Cow<'static, str>,
    /// Reason of the last failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Cow<'static, str>>,
    /// Number of calls.
    pub calls: u64,
    /// Time on a thread of the worker or the thread pool: `wall_us` without the two waits.
    pub cpu_us: u64,
    /// Waiting for a thread of the thread pool.
    pub queue_us: u64,
    /// Waiting for another server.
    pub remote_us: u64,
    /// From call to result.
    pub wall_us: u64,
    /// Whether it finished last in its stage: without it the stage would have been shorter.
    pub critical: bool,
}

/// What a guardrail cost, in microseconds: its own time, and what the client felt of it.
///
/// Its time overlaps with that of the engine: while it holds an event, the engine generates the
/// next one. The delays compare each event with its own earliest time.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct GuardrailOverhead {
    /// Time of detectors on the prompt: the first part of the ledger state `guardrail_input`.
    pub validation_us: u64,
    /// Judges of the prompt and the assessment of all results: the rest of `guardrail_input`.
    #[serde(default)]
    pub threat_detection_us: u64,
    /// Checks of the answer: ledger state `guardrail_output`.
    pub output_filtering_us: u64,
    /// Time with held events and nothing else to send: ledger state `hold`. The engine generates
    /// meanwhile.
    pub hold_us: u64,
    /// Sum of the four parts. A stream can spend most of its time in `hold` and end no later.
    pub total_us: u64,
    /// `last_event_delay_us` as a share of the whole request, in percent; the time of the prompt's
    /// checks if the guardrail ended the request.
    pub security_impact_percent: f64,
    /// How much later than without the guardrail the first event was sent: the checks of the
    /// prompt, and the time from the event's earliest time to its release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_event_delay_us: Option<u64>,
    /// The same of the last event: how much later the answer ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_event_delay_us: Option<u64>,
    /// The same of the first event with generated text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_ttft_us: Option<u64>,
    /// The client's TTFT without the guardrail: `client_ttft_us` minus `added_ttft_us`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_without_us: Option<u64>,
}

/// How much later events were sent than without the guardrail, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EventDelays {
    /// Of the first event; `None` if none was sent.
    pub first_event: Option<u64>,
    /// Of the first event with generated text; `None` if none was sent.
    pub first_token: Option<u64>,
    /// Of the last event; `None` if none was sent, or if the guardrail ended the answer.
    pub last_event: Option<u64>,
}

impl GuardrailOverhead {
    /// From a closed ledger. `threat_detection_us`: the part of `guardrail_input` spent on judges.
    pub fn new(
        ledger: &Parts,
        threat_detection_us: u64,
        delays: EventDelays,
        client_ttft_us: Option<u64>,
    ) -> Self {
        let [input_us, output_filtering_us, hold_us] =
            [State::GuardrailInput, State::GuardrailOutput, State::Hold]
                .map(|state| ledger.micros(state));
        let threat_detection_us = threat_detection_us.min(input_us);
        let later = delays.last_event.unwrap_or(input_us);
        let added_ttft_us = delays.first_token.filter(|_| client_ttft_us.is_some());
        GuardrailOverhead {
            validation_us: input_us - threat_detection_us,
            threat_detection_us,
            output_filtering_us,
            hold_us,
            total_us: input_us + output_filtering_us + hold_us,
            security_impact_percent: later as f64 * 100.0 / ledger.total().max(1) as f64,
            first_event_delay_us: delays.first_event,
            last_event_delay_us: delays.last_event,
            added_ttft_us,
            ttft_without_us: client_ttft_us
                .zip(added_ttft_us)
                .map(|(ttft, added)| ttft.saturating_sub(added)),
        }
    }
}
