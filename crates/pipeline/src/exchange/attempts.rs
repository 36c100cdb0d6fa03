//! Attempts of a request at backends.

use std::ops::Range;
use std::sync::Arc;

use lens::Tick;
use lens::record::{RecordAttempt, RecordHedge, RecordResume};
use routing::{Attempt, Offloaded, Predicted, Reason, Side, Signals};
use wire::http1::head::{self, Head, HeadIndex, RequestLine};

use plan::Target;

/// The request for backends: the client's head, and the body, which a guardrail may have changed.
#[derive(Clone, Debug)]
pub struct UpstreamRequest {
    /// The buffer that begins with the head, and the head's parts in it.
    pub head: (Arc<Vec<u8>>, Arc<HeadIndex>),
    /// The buffer that holds the body, and where.
    pub body: (Arc<Vec<u8>>, Range<usize>),
}

impl UpstreamRequest {
    /// Work on the head.
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

/// Work on a head. It is made of its offsets for each use: with room for its fields it is larger
/// than a stream that waits.
pub(crate) fn with_head<T>(
    index: &HeadIndex,
    buffer: &[u8],
    work: impl FnOnce(&Head<'_, RequestLine<'_>>) -> T,
) -> T {
    let mut room = head::field_room();
    work(&index.head(buffer, &mut room))
}

/// Where a request was sent, and why; where it may go next. Written by `select`, `hedge` and
/// `resume`.
#[derive(Debug, Default)]
pub struct Attempts {
    /// The attempt that runs, and when it began.
    pub attempt: Option<Attempt>,
    /// When it began.
    pub began: Tick,
    /// Why this backend.
    pub reason: Option<Reason>,
    /// Where the request goes next; chosen, and paid for from the retry budget.
    pub next: Option<(Target, Reason)>,
    pub(crate) tried: Vec<Target>,
    /// What requests of one session or hash have in common.
    pub key: Option<Vec<u8>>,
    /// Hashes of the prompt's beginnings.
    pub prefix: Vec<u64>,
    /// Backends that cannot serve the request.
    pub unfit: Vec<Target>,
    /// The version of the route that the request is for, and the one that is used: the stable one
    /// takes over for the canary.
    pub assigned: Option<Side>,
    /// Edge or cloud, where the pool has both.
    pub side: Option<Side>,
    /// The client requests the cloud by header.
    pub asks_cloud: bool,
    /// Where the edge/cloud policy of the route sent it, and why.
    pub offloaded: Option<Offloaded>,
    /// The hedge.
    pub hedge: Option<RecordHedge>,
    /// What the engine reported of itself when it was chosen.
    pub signals: Option<Signals>,
    /// What the backend was predicted to take.
    pub last_predicted: Option<Predicted>,
    /// The client's own credential is passed on, to backends without one of the operator's.
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
    /// What was sent, for as long as another backend may resume the answer.
    pub resumable: Option<UpstreamRequest>,
    /// The stream broke off, and the attempt that runs is to resume it.
    pub resuming: bool,
    /// When the dead backend was called: durations cover the whole answer.
    pub first_sent: Option<Tick>,
    /// Where other backends resumed the answer.
    pub resumes: Vec<RecordResume>,
}

impl Attempts {
    /// Whether a backend was chosen.
    pub fn was_tried(&self) -> bool {
        !self.tried.is_empty()
    }

    /// The backend has done its part.
    pub fn leave(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.leave();
        }
    }

    /// The client gets an answer. What another backend would have been sent is not needed any more.
    pub fn commit(&mut self) {
        self.committed = true;
        self.request = None;
    }
}
