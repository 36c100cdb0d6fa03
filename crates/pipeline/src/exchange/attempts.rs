//! Attempts of a request at backends.

use std::ops::Range;
use std::sync::Arc;

use http1::head::{FieldList, Head, HeadIndex, RequestLine};
use lens::Tick;
use lens::record::{RecordAttempt, RecordHedge, RecordResume};
use routing::{Attempt, EngineMetrics, Offloaded, Predicted, Reason, Version};
use transport::HeldBuffer;

use plan::Target;

/// The request for backends: the client's head, and the body, which a guardrail may have changed.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    /// The buffer that begins with the head, and the head's parts in it.
    pub head: (Arc<HeldBuffer>, Arc<HeadIndex>),
    /// The buffer that holds the body, and the range of the body in it.
    pub body: (Arc<HeldBuffer>, Range<usize>),
}

impl UpstreamRequest {
    /// Call `work` with the head.
    pub fn with_head<T>(&self, work: impl FnOnce(&Head<'_, RequestLine<'_>>) -> T) -> T {
        let (buffer, index) = &self.head;
        with_head(index, buffer, work)
    }

    /// The bytes of the body.
    pub fn body(&self) -> &[u8] {
        let (buffer, range) = &self.body;
        buffer.get(range.clone()).unwrap_or_default()
    }
}

/// Call `work` with the head that `index` describes. The head is rebuilt from offsets for each
/// call: stored with room for its fields, it would be larger than an idle stream.
pub(crate) fn with_head<T>(
    index: &HeadIndex,
    buffer: &[u8],
    work: impl FnOnce(&Head<'_, RequestLine<'_>>) -> T,
) -> T {
    let mut fields = FieldList::new();
    work(&index.head(buffer, &mut fields))
}

/// Routing state of a request: the backends that were tried and why, and the next one. Written by
/// `select`, `hedge` and `resume`.
#[derive(Debug, Default)]
pub struct Attempts {
    /// The current attempt.
    pub attempt: Option<Attempt>,
    /// When the current attempt began.
    pub began: Tick,
    /// Why the current backend was selected.
    pub reason: Option<Reason>,
    /// The next backend, already selected and paid for from the retry budget.
    pub next: Option<(Target, Reason)>,
    pub(crate) tried: Vec<Target>,
    /// Key for session and hash balancing.
    pub key: Option<Vec<u8>>,
    /// Hashes of the prompt's leading blocks, for prefix balancing.
    pub prefix: Vec<u64>,
    /// Backends that cannot serve the request.
    pub unfit: Vec<Target>,
    /// The version that the request is assigned to; `None` without a canary.
    pub assigned: Option<Version>,
    /// The version that serves the request: the stable one takes over for a failed canary.
    pub version: Option<Version>,
    /// The client requests the cloud by header.
    pub requests_cloud: bool,
    /// Decision of the route's offload policy.
    pub offloaded: Option<Offloaded>,
    /// The hedge, for the record.
    pub hedge: Option<RecordHedge>,
    /// Engine metrics of the backend when it was selected.
    pub engine_metrics: Option<EngineMetrics>,
    /// Predicted latency of the backend.
    pub last_predicted: Option<Predicted>,
    /// The client's own credential is forwarded, to backends without an `api_key`.
    pub with_credential: bool,
    /// The request is passed through, and a connection to its backend is established.
    pub passes: bool,
    /// Attempts that failed.
    pub failed: Vec<RecordAttempt>,
    /// The client gets this answer: no other backend will be tried.
    pub committed: bool,
    /// The request, kept while another backend may be tried.
    pub request: Option<UpstreamRequest>,
    /// The backend's time to first token was reported to its pool.
    pub first_token_reported: bool,
    /// Only the retry budget prevented another attempt.
    pub retry_denied: bool,
    /// The request as sent, kept while another backend may resume the answer.
    pub resumable: Option<UpstreamRequest>,
    /// The stream broke off, and the current attempt resumes it.
    pub resuming: bool,
    /// When the request was sent to the first backend: durations cover the whole answer.
    pub first_sent: Option<Tick>,
    /// Resumes of the answer by other backends.
    pub resumes: Vec<RecordResume>,
}

impl Attempts {
    /// Whether a backend was chosen.
    pub fn was_tried(&self) -> bool {
        !self.tried.is_empty()
    }

    /// Release the load counts of the backend: its answer is complete.
    pub fn leave(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.leave();
        }
    }

    /// Commit to the current answer. The copy of the request for other backends is dropped.
    pub fn commit(&mut self) {
        self.committed = true;
        self.request = None;
    }
}
