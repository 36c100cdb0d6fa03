//! Reports the selection: the response header `x-llm-lens-backend`, and the routing fields of the
//! record.

use std::borrow::Cow;

use lens::record::RecordRouting;
use routing::Reason;

use crate::exchange::{Attempts, Exchange, Routed};

/// The field `x-llm-lens-backend`: which backend answers, and why. Empty on routes without a
/// choice.
pub fn backend_field(exchange: &Exchange) -> String {
    let Some(routed) = exchange.routed.as_ref().filter(|routed| routed.route.has_choice()) else {
        return String::new();
    };
    let Some(upstream) = routed.upstream() else { return String::new() };
    let (backend, pool) = (&upstream.backend.name, &routed.pool().pool.settings.name);
    let reason = exchange.attempts.reason.map_or("", Reason::name);
    let mut field = format!("x-llm-lens-backend: {backend}; pool={pool}; reason={reason}");
    if let Some(version) = exchange.attempts.version {
        field.push_str(&format!("; version={}", version.name()));
    }
    if let Some(offloaded) = exchange.attempts.offloaded {
        field.push_str(&format!("; offload={}", offloaded.name()));
    }
    for attempt in &exchange.attempts.failed {
        field.push_str(&format!("; failed={}:{}", attempt.backend, attempt.code));
    }
    field.push_str("\r\n");
    field
}

/// Routing fields of the record.
pub fn write_down(attempts: &mut Attempts, routed: Option<&Routed>) -> RecordRouting {
    let chosen_of = routed.filter(|routed| routed.route.has_choice());
    RecordRouting {
        pool: chosen_of.map(|routed| routed.pool().pool.settings.name.clone()),
        chosen: chosen_of.and(attempts.reason).map(|reason| Cow::Borrowed(reason.name())),
        offload: attempts.offloaded.map(|offloaded| Cow::Borrowed(offloaded.name())),
        engine_waiting: attempts
            .engine_metrics
            .and_then(|metrics| metrics.waiting)
            .map(|waiting| waiting as u64),
        predicted_ttft_us: chosen_of
            .and(attempts.last_predicted)
            .map(|predicted| (predicted.ttft * 1e6) as u64),
        predicted_tpot_us: chosen_of
            .and(attempts.last_predicted)
            .and_then(|predicted| predicted.tpot)
            .map(|tpot| tpot * 1e6),
        retry_denied: attempts.retry_denied,
        hedge: attempts.hedge.take(),
        resumes: std::mem::take(&mut attempts.resumes),
        failed_attempts: std::mem::take(&mut attempts.failed),
    }
}
