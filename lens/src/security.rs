//! What a guard found in a request and its answer, and what looking cost.
//!
//! - *In*: counts and times from whoever ran the guard, and the ledger.
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
    pub shield: Arc<str>,
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
}

/// What guarding cost, in microseconds of the request's own ledger; the parts sum to the total.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct SecurityOverhead {
    /// Looking at the prompt: ledger state `shield_input`.
    pub validation_us: u64,
    /// Looking at the answer: ledger state `shield_output`.
    pub output_filtering_us: u64,
    /// Nothing to do but wait for text that decides what is kept back: ledger state `hold`.
    pub hold_us: u64,
    /// All of it.
    pub total_us: u64,
    /// Its share of the whole request, 0 to 100.
    pub security_impact_percent: f64,
}

impl SecurityOverhead {
    /// From a closed ledger.
    pub fn of(ledger: &Parts) -> Self {
        let [validation_us, output_filtering_us, hold_us] =
            [State::ShieldInput, State::ShieldOutput, State::Hold].map(|state| ledger.micros(state));
        let total_us = validation_us + output_filtering_us + hold_us;
        let security_impact_percent = total_us as f64 * 100.0 / ledger.total().max(1) as f64;
        SecurityOverhead { validation_us, output_filtering_us, hold_us, total_us, security_impact_percent }
    }
}
