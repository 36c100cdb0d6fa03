//! Findings of a guardrail in a request and its answer, and their cost.
//!
//! - *In*: counts and times of the guardrail, and the ledger.
//! - *Out*: the two parts of a record that security teams read.
//! - *Never*: a text, or where in it something stood.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::gaps::GapSummary;
use crate::ledger::{Parts, State};

/// Findings by rule.
pub type Findings = BTreeMap<Cow<'static, str>, u64>;

/// What a guard found.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Security {
    /// The guard's name.
    pub guardrail: Arc<str>,
    /// `enforce` or `observe`.
    pub mode: Cow<'static, str>,
    /// Findings in the prompt, by rule.
    #[serde(default)]
    pub input: Findings,
    /// Findings in the answer's texts, by rule. Masked or not: the guard's settings say.
    #[serde(default)]
    pub output: Findings,
    /// Events that waited for later ones.
    pub held_events: u64,
    /// Most bytes of events that waited at a time.
    pub held_bytes_max: u64,
    /// Arrival to release, for each event that waited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_us: Option<GapSummary>,
    /// What was done, or in `observe` would have been: `pass`, `flag`, `redact`, `block`,
    /// `failed_closed`.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub verdict: Cow<'static, str>,
    /// What the detectors of the prompt come to together, 0 to 1; `docs/guardrails.md` has the
    /// formula.
    #[serde(default)]
    pub risk: f32,
    /// `LOW`, `MEDIUM` or `HIGH`.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub level: Cow<'static, str>,
    /// Each filter that took part, and what it cost.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<FilterAccount>,
}

/// What one filter did on one side of a request, and what that cost. Of a filter that was asked
/// several times (windows of an answer), times are sums.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FilterAccount {
    /// Its name.
    pub filter: Arc<str>,
    /// `input` or `output`.
    pub side: Cow<'static, str>,
    /// `pass`, `flag`, `redact`, `block`, `failed_open` or `failed_closed`; of several, the
    /// severest.
    pub verdict: Cow<'static, str>,
    /// Why it could not say, the last time it could not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Cow<'static, str>>,
    /// Calls.
    pub calls: u64,
    /// At work on a thread, ours or the pool's: `wall_us` without the two waits.
    pub cpu_us: u64,
    /// Waiting for a thread of the pool.
    pub queue_us: u64,
    /// Waiting for another server.
    pub remote_us: u64,
    /// From question to answer.
    pub wall_us: u64,
    /// Its stage ended when it did: without it the stage would have been shorter.
    pub critical: bool,
}

/// What guarding cost, in microseconds of the request's own ledger; the parts sum to the total.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecurityOverhead {
    /// Time of detectors on the prompt: the first part of the ledger state `guardrail_input`.
    pub validation_us: u64,
    /// Waiting for judges of the prompt, and assessing what all say: the rest of it.
    #[serde(default)]
    pub threat_detection_us: u64,
    /// Looking at the answer: ledger state `guardrail_output`.
    pub output_filtering_us: u64,
    /// Nothing to do but wait for text that decides what is kept back: ledger state `hold`.
    pub hold_us: u64,
    /// All of it.
    pub total_us: u64,
    /// Its share of the whole request, 0 to 100.
    pub security_impact_percent: f64,
    /// How much of it lay before the client had the first token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_ttft_us: Option<u64>,
    /// The client's TTFT had there been no guard: `client_ttft_us` less `added_ttft_us`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ttft_without_us: Option<u64>,
}

impl SecurityOverhead {
    /// From a closed ledger; `threat_detection_us` is how much of `guardrail_input` judges took.
    pub fn of(ledger: &Parts, threat_detection_us: u64) -> Self {
        let [input_us, output_filtering_us, hold_us] =
            [State::GuardrailInput, State::GuardrailOutput, State::Hold]
                .map(|state| ledger.micros(state));
        let threat_detection_us = threat_detection_us.min(input_us);
        let total_us = input_us + output_filtering_us + hold_us;
        SecurityOverhead {
            validation_us: input_us - threat_detection_us,
            threat_detection_us,
            output_filtering_us,
            hold_us,
            total_us,
            security_impact_percent: total_us as f64 * 100.0 / ledger.total().max(1) as f64,
            added_ttft_us: None,
            ttft_without_us: None,
        }
    }

    /// How much lay before the first token, and when that was taken by the client.
    #[must_use]
    pub fn before_first_token(
        mut self,
        added_us: Option<u64>,
        client_ttft_us: Option<u64>,
    ) -> Self {
        self.added_ttft_us = added_us.filter(|_| client_ttft_us.is_some());
        self.ttft_without_us =
            client_ttft_us.zip(added_us).map(|(ttft, added)| ttft.saturating_sub(added));
        self
    }
}
