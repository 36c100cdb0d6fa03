//! A request's way among backends.

use std::ops::Range;
use std::sync::Arc;

use lens::Tick;
use lens::record::{RecordAttempt, RecordHedge, RecordSeam};
use routing::{Attempt, Offloaded, Predicted, Reason, Side, Signals};

use crate::plan::Target;

/// What a backend is asked: the client's head, and the body as it goes on, which a guardrail may have changed.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamRequest {
    /// The buffer that begins with the head, and the head's length.
    pub(crate) head: (Arc<Vec<u8>>, usize),
    /// The buffer that holds the body, and where.
    pub(crate) body: (Arc<Vec<u8>>, Range<usize>),
}

impl UpstreamRequest {
    /// The bytes of the head.
    pub(crate) fn head(&self) -> &[u8] {
        let (buffer, len) = &self.head;
        buffer.get(..*len).unwrap_or_default()
    }

    /// The bytes of the body.
    pub(crate) fn body(&self) -> &[u8] {
        let (buffer, range) = &self.body;
        buffer.get(range.clone()).unwrap_or_default()
    }
}

/// Where a request was sent, and why; where it may go next. Written by `select`, `hedge` and `resume`.
#[derive(Debug, Default)]
pub(crate) struct Attempts {
    /// The attempt that runs, and when it began.
    pub(crate) attempt: Option<Attempt>,
    pub(crate) began: Tick,
    pub(crate) reason: Option<Reason>,
    /// Where the request goes next; chosen, and paid for from the retry budget.
    pub(crate) next: Option<(Target, Reason)>,
    pub(crate) tried: Vec<Target>,
    /// What requests of one session or hash have in common.
    pub(crate) key: Option<Vec<u8>>,
    /// Hashes of the prompt's beginnings.
    pub(crate) prefix: Vec<u64>,
    /// Backends that cannot serve the request.
    pub(crate) unfit: Vec<Target>,
    /// The version of the route that the request is for, and the one that is asked: the stable one stands in for the candidate.
    pub(crate) assigned: Option<Side>,
    pub(crate) side: Option<Side>,
    /// The client asks for the cloud.
    pub(crate) asks_cloud: bool,
    /// Where the edge/cloud policy of the route sent it, and why.
    pub(crate) offloaded: Option<Offloaded>,
    /// The second backend that was asked at the same time.
    pub(crate) hedge: Option<RecordHedge>,
    /// What the engine reported of itself when it was chosen.
    pub(crate) signals: Option<Signals>,
    /// What the backend was predicted to take.
    pub(crate) last_predicted: Option<Predicted>,
    /// The client's own credential is passed on, to backends without one of the operator's.
    pub(crate) with_credential: bool,
    /// The request passes through unread, and a connection to its backend stands.
    pub(crate) passes: bool,
    /// Attempts that failed.
    pub(crate) failed: Vec<RecordAttempt>,
    /// The client gets the answer: no other backend will be asked.
    pub(crate) committed: bool,
    /// What to send, for as long as another backend may be asked.
    pub(crate) request: Option<UpstreamRequest>,
    /// The backend's time to first token was reported to its pool.
    pub(crate) first_token_reported: bool,
    /// Another backend could have been asked, but for the retry budget.
    pub(crate) retry_denied: bool,
    /// What was sent, for as long as another backend may resume the answer.
    pub(crate) resumable: Option<UpstreamRequest>,
    /// The stream broke off, and the attempt that runs is to resume it.
    pub(crate) resuming: bool,
    /// When the backend that died was asked: times are of the whole answer.
    pub(crate) first_sent: Option<Tick>,
    /// Where other backends resumed the answer.
    pub(crate) seams: Vec<RecordSeam>,
}

impl Attempts {
    /// Whether a backend was chosen.
    pub(crate) fn was_tried(&self) -> bool {
        !self.tried.is_empty()
    }

    /// The backend has done its part.
    pub(crate) fn leave(&mut self) {
        if let Some(attempt) = &mut self.attempt {
            attempt.leave();
        }
    }

    /// The client gets an answer. What another backend would have been sent is not needed any more.
    pub(crate) fn commit(&mut self) {
        self.committed = true;
        self.request = None;
    }
}
