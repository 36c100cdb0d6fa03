//! Log lines about calls that a backend failed, at most one per second for a backend and a code.
//!
//! - *In*: an exchange with a selected backend, and what failed.
//! - *Out*: a warning with backend, route, code, error and request id.
//! - *Never*: a line about an answer that the client caused: an error status such as 400, a client
//!   that left, or a timeout of the whole request.

use std::sync::Arc;

use lens::record::Outcome;
use plan::failure_log;
use routing::AttemptResult;

use crate::exchange::{Exchange, Routed};

/// Write a log line about a failed call of this backend.
pub fn log_failure(exchange: &Exchange, backend: &Arc<str>, code: &str, error: &str) {
    let route = exchange.routed.as_ref().map(|routed| &*routed.route.route.name);
    log_call(backend, (route, &exchange.accepted.id), code, error);
}

/// The same for a call of which the exchange does not know: one of two hedged calls.
pub(super) fn log_call(
    backend: &Arc<str>,
    (route, request_id): (Option<&str>, &str),
    code: &str,
    error: &str,
) {
    let Some(admitted) = failure_log::admit(backend, code) else { return };
    let suppressed = admitted.suppressed;
    tracing::warn!(%backend, route, code, error, request_id, suppressed, "backend call failed");
}

/// Write a log line about an answer of the selected backend.
pub(crate) fn log_answer(exchange: &Exchange, code: &str, error: &str) {
    let upstream = exchange.routed.as_ref().and_then(Routed::upstream);
    if let Some(upstream) = upstream {
        log_failure(exchange, &upstream.backend.name, code, error);
    }
}

/// Write a log line about an error of this status, before or in a stream, that another backend
/// makes good.
pub(crate) fn log_error(exchange: &Exchange, status: u16, code: &str) {
    if is_fault(exchange, status) {
        log_answer(exchange, code, "error answer");
    }
}

/// Write a log line if the backend is the cause of the decided outcome.
pub fn log_outcome(exchange: &Exchange) {
    let verdict = &exchange.verdict;
    let (Some(outcome), Some(code)) = (verdict.outcome(), verdict.code.as_deref()) else { return };
    match (outcome, code.strip_prefix("http_").and_then(|status| status.parse().ok())) {
        (Outcome::UpstreamError, Some(status)) if is_fault(exchange, status) => {
            let is_event = exchange.answer.status.is_some_and(|status| status < 400);
            let error = if is_event { "error event in the answer" } else { "error answer" };
            log_answer(exchange, code, error);
        }
        (Outcome::UpstreamError, Some(_)) => {}
        (Outcome::UpstreamFailed | Outcome::UpstreamError | Outcome::Timeout, None)
            if !NOT_FAULTS.contains(&code) =>
        {
            log_answer(exchange, code, "no complete answer")
        }
        _ => {}
    }
}

/// Timeouts that say nothing about the backend.
const NOT_FAULTS: [&str; 3] = ["total_timeout", "gateway_shutdown", "client_write_timeout"];

/// Whether this error status is a failure of the backend, or means that it is overloaded.
fn is_fault(exchange: &Exchange, status: u16) -> bool {
    matches!(exchange.fault(status), AttemptResult::Failure | AttemptResult::Overloaded)
}

#[cfg(test)]
mod tests {
    use relay::Failure;

    use super::*;

    #[test]
    fn timeouts_without_blame_have_the_codes_of_failures() {
        let codes = [Failure::TotalTimeout.code(), Failure::ShuttingDown.code()];
        assert_eq!(codes, NOT_FAULTS[..2]);
    }
}
