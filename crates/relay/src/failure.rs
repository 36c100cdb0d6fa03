//! Why an answer ends without being the backend's own, or before its end.
//!
//! One type from the relay to the record. The gateway's `respond.rs` turns it into HTTP where no
//! answer has begun; an error event in the stream says it where one has.

use std::borrow::Cow;
use std::sync::Arc;

use lens::record::Outcome;

/// Why an answer ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The first byte did not come in time.
    FirstByteTimeout,
    /// The gap between two events was too long.
    BetweenEventsTimeout,
    /// The request took longer than its total timeout.
    TotalTimeout,
    /// The backend broke off in the middle of its answer.
    UpstreamDied,
    /// A backend restarted the answer instead of resuming it.
    ResumeFailed,
    /// The guardrail cannot read the answer.
    Unreadable,
    /// The answer holds something that must not be shown.
    Blocked {
        /// What to call it.
        kind: String,
    },
    /// A filter refused the answer in its own words.
    RefusedByFilter(filters::Refused),
    /// A filter that must judge the answer cannot.
    GuardrailUnavailable {
        /// The filter.
        filter: Arc<str>,
        /// Why.
        failure: filters::Failure,
    },
    /// A limit has nothing left for the stream.
    BudgetExhausted {
        /// The limit.
        limit: Arc<str>,
    },
}

impl Failure {
    /// How the request ends with it.
    pub fn outcome(&self) -> Outcome {
        match self {
            Failure::FirstByteTimeout | Failure::BetweenEventsTimeout | Failure::TotalTimeout => {
                Outcome::Timeout
            }
            Failure::UpstreamDied | Failure::ResumeFailed => Outcome::UpstreamFailed,
            Failure::BudgetExhausted { .. } => Outcome::Limited,
            Failure::Unreadable
            | Failure::Blocked { .. }
            | Failure::RefusedByFilter(_)
            | Failure::GuardrailUnavailable { .. } => Outcome::Blocked,
        }
    }

    /// A stable word for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Failure::FirstByteTimeout => "upstream_first_byte_timeout",
            Failure::BetweenEventsTimeout => "upstream_idle_timeout",
            Failure::TotalTimeout => "total_timeout",
            Failure::UpstreamDied => "upstream_died",
            Failure::ResumeFailed => "upstream_resume_failed",
            Failure::Unreadable => "guardrail_unreadable_answer",
            Failure::Blocked { .. } => "content_blocked",
            Failure::RefusedByFilter(refused) => refused.code,
            Failure::GuardrailUnavailable { .. } => "guardrail_unavailable",
            Failure::BudgetExhausted { .. } => "budget_exhausted",
        }
    }

    /// A sentence for people: what happened and what to do.
    pub fn message(&self) -> Cow<'_, str> {
        match self {
            Failure::FirstByteTimeout => "The backend did not start its answer in time.".into(),
            Failure::BetweenEventsTimeout => "The backend stopped sending in the middle of its answer.".into(),
            Failure::TotalTimeout => "The request exceeded its total timeout.".into(),
            Failure::UpstreamDied => "The backend broke off in the middle of its answer.".into(),
            Failure::ResumeFailed => "The backend broke off in the middle of its answer, and the next one started over instead of resuming. Set resume only on routes whose backends can.".into(),
            Failure::Unreadable => "The guardrail cannot read the backend's answer, which was withheld.".into(),
            Failure::Blocked { kind } => format!("The answer was withheld by the guardrail: it contains {kind}.").into(),
            Failure::RefusedByFilter(refused) => (&*refused.message).into(),
            Failure::GuardrailUnavailable { filter, failure } => {
                format!("The guardrail filter {filter:?} is required and failed: {failure}. Try again in a moment.").into()
            }
            Failure::BudgetExhausted { limit } => format!("The stream was ended: rate limit {limit:?} is exhausted.").into(),
        }
    }
}
