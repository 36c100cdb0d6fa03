//! Exemplars: values of requests whose traces are exported, so that a slow bucket leads to a trace.
//!
//! - *In*: records of exported traces.
//! - *Out*: exemplars for the histograms of their route, backend and model.
//! - *Never*: more than [`MAX_PLACES`] routes x backends x models with [`PER_PLACE`] requests each.

use std::collections::{HashMap, VecDeque};

use lens::Record;
use lens::record::Outcome;
use opentelemetry_proto::tonic::metrics::v1::{Exemplar, exemplar};

use crate::traces::{span_bytes, trace_bytes};

/// Maximum routes x backends x models with exemplars; others have none until the next export.
const MAX_PLACES: usize = 4096;
/// The latest requests that are kept for each.
const PER_PLACE: usize = 4;

/// Route, backend and model.
type Place = (String, String, String);

/// Values of requests with a trace.
#[derive(Debug, Default)]
pub struct Exemplars(HashMap<Place, VecDeque<Traced>>);

#[derive(Debug)]
struct Traced {
    trace_id: Vec<u8>,
    span_id: Vec<u8>,
    at: u64,
    outcome: Outcome,
    values: [(&'static str, Option<f64>); 8],
}

impl Exemplars {
    /// Keep the values of a request whose trace is exported.
    pub fn add(&mut self, record: &Record) {
        let (Some(trace), Some(trace_id)) = (&record.trace, &record.trace_id) else { return };
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let place = (
            record.route.to_string(),
            text(record.backend.as_deref()),
            text(record.model_requested.as_deref()),
        );
        if self.0.len() >= MAX_PLACES && !self.0.contains_key(&place) {
            return;
        }
        let seconds = |us: Option<u64>| us.map(|us| us as f64 / 1e6);
        let engine = seconds(record.engine_us);
        let traced = Traced {
            trace_id: trace_bytes(trace_id),
            span_id: span_bytes(&trace.span_id),
            at: (record.started_at + record.total_us) * 1000,
            outcome: record.outcome,
            values: [
                ("gen_ai_client_operation_duration_seconds", engine),
                ("gen_ai_server_request_duration_seconds", engine),
                ("gen_ai_server_time_to_first_token_seconds", seconds(record.engine_ttft_us)),
                ("llm_lens_client_ttft_seconds", seconds(record.client_ttft_us)),
                ("llm_lens_engine_duration_seconds", engine),
                ("llm_lens_engine_ttft_seconds", seconds(record.engine_ttft_us)),
                ("llm_lens_gateway_seconds", Some(gateway_seconds(record))),
                ("llm_lens_request_duration_seconds", seconds(Some(record.total_us))),
            ],
        };
        let traces = self.0.entry(place).or_default();
        if traces.len() == PER_PLACE {
            traces.pop_front();
        }
        traces.push_back(traced);
    }

    /// Add those of another list, which are later.
    pub fn merge(&mut self, later: Exemplars) {
        for (place, traces) in later.0 {
            if self.0.len() < MAX_PLACES || self.0.contains_key(&place) {
                let kept = self.0.entry(place).or_default();
                kept.extend(traces);
                kept.drain(..kept.len().saturating_sub(PER_PLACE));
            }
        }
    }

    /// Forget all: they were delivered.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Exemplars of a catalog metric with these attributes.
    pub(super) fn find(&self, row: &str, attributes: &[(String, String)]) -> Vec<Exemplar> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let get = |key: &str| {
            attributes.iter().find(|(known, _)| known == key).map(|(_, value)| value.clone())
        };
        let text = |key| get(key).unwrap_or_default();
        let place =
            (text("llm_lens.route"), text("llm_lens.backend"), text("gen_ai.request.model"));
        let error = get("error.type");
        let is_by_outcome = row.contains("duration") && row.starts_with("gen_ai_");
        let traces = self.0.get(&place).into_iter().flatten();
        let traces = traces.filter(|traced| {
            let own = Some(traced.outcome.name()).filter(|_| traced.outcome != Outcome::Ok);
            !is_by_outcome || own == error.as_deref()
        });
        traces
            .filter_map(|traced| {
                let value = traced.values.iter().find(|(name, _)| *name == row)?.1?;
                Some(Exemplar {
                    filtered_attributes: Vec::new(),
                    time_unix_nano: traced.at,
                    span_id: traced.span_id.clone(),
                    trace_id: traced.trace_id.clone(),
                    value: Some(exemplar::Value::AsDouble(value)),
                })
            })
            .collect()
    }
}

fn gateway_seconds(record: &Record) -> f64 {
    record.ledger_us.micros(lens::State::Gateway) as f64 / 1e6
}
