//! The failure of one of two hedged calls.
//!
//! - *In*: the error of a call.
//! - *Out*: its code and status, and what it means for the backend.
//! - *Never*: the failure of both, which the attempt has.

use lens::Tick;
use routing::AttemptResult;
use transport::UpstreamError;

use super::Probe;

/// How one of the two failed.
#[derive(Clone, Debug)]
pub(super) struct HedgeFailure {
    pub ended: AttemptResult,
    pub code: String,
    pub status: Option<u16>,
    pub at: Tick,
}

/// The result of an error for the backend: unknown, where the gateway's own limit or a stale idle
/// connection may be the cause.
pub(super) fn result_of_error(probe: Probe, error: &UpstreamError) -> AttemptResult {
    let is_old = || probe.into_inner().into_unanswered().is_some();
    if !error.blames_backend() || is_old() {
        AttemptResult::Unknown
    } else {
        AttemptResult::Failure
    }
}
