//! Why the gateway replaces an answer or ends it early.
//!
//! One type is used from the relay to the record. If no answer has started, the crate `refusal`
//! converts it to an HTTP response; otherwise, it becomes an error event in the stream.

use std::borrow::Cow;
use std::sync::Arc;

use lens::record::Outcome;

/// Why the gateway replaces an answer or ends it early.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The first byte did not arrive in time.
    FirstByteTimeout,
    /// The gap between two events was too long.
    BetweenEventsTimeout,
    /// The first token did not arrive in time.
    FirstTokenTimeout,
    /// The gap between two tokens was too long.
    BetweenTokensTimeout,
    /// The gateway ends, and the stream took longer than its grace period.
    ShuttingDown,
    /// The request took longer than its total timeout.
    TotalTimeout,
    /// The backend broke off in the middle of its answer.
    UpstreamDied,
    /// The stream ended without the end marker of its dialect.
    Incomplete,
    /// A backend restarted the answer instead of resuming it.
    ResumeFailed,
    /// The guardrail cannot parse the answer.
    Unreadable,
    /// The answer contains blocked content.
    Blocked {
        /// Kind of the finding, for the message.
        kind: String,
    },
    /// A filter refused the answer with its own code and message.
    RefusedByFilter(filters::FilterRefusal),
    /// A required filter failed.
    GuardrailUnavailable {
        /// Name of the filter.
        filter: Arc<str>,
        /// Why it failed.
        failure: filters::Failure,
    },
    /// A rate limit is exhausted for the stream.
    BudgetExhausted {
        /// Name of the limit.
        limit: Arc<str>,
    },
}

impl Failure {
    /// Outcome of a request that ends with this failure.
    pub fn outcome(&self) -> Outcome {
        match self {
            Failure::FirstByteTimeout
            | Failure::BetweenEventsTimeout
            | Failure::FirstTokenTimeout
            | Failure::BetweenTokensTimeout
            | Failure::ShuttingDown
            | Failure::TotalTimeout => Outcome::Timeout,
            Failure::UpstreamDied | Failure::ResumeFailed => Outcome::UpstreamFailed,
            Failure::Incomplete => Outcome::UpstreamError,
            Failure::BudgetExhausted { .. } => Outcome::Limited,
            Failure::Unreadable
            | Failure::Blocked { .. }
            | Failure::RefusedByFilter(_)
            | Failure::GuardrailUnavailable { .. } => Outcome::Blocked,
        }
    }

    /// HTTP status, if no answer has begun.
    pub fn status(&self) -> u16 {
        match self {
            Failure::FirstByteTimeout
            | Failure::BetweenEventsTimeout
            | Failure::FirstTokenTimeout
            | Failure::BetweenTokensTimeout
            | Failure::TotalTimeout => 504,
            Failure::UpstreamDied
            | Failure::Incomplete
            | Failure::ResumeFailed
            | Failure::Unreadable
            | Failure::Blocked { .. } => 502,
            Failure::RefusedByFilter(refused) => refused.status.clamp(400, 599),
            Failure::GuardrailUnavailable { .. } | Failure::ShuttingDown => 503,
            Failure::BudgetExhausted { .. } => 429,
        }
    }

    /// OpenAI's `type` of the error, before an answer and in a stream.
    pub fn kind(&self) -> &'static str {
        match self {
            Failure::FirstByteTimeout
            | Failure::BetweenEventsTimeout
            | Failure::FirstTokenTimeout
            | Failure::BetweenTokensTimeout
            | Failure::TotalTimeout => "timeout_error",
            Failure::UpstreamDied | Failure::Incomplete | Failure::ResumeFailed => "upstream_error",
            Failure::ShuttingDown => "server_error",
            Failure::BudgetExhausted { .. } => "rate_limit_error",
            Failure::Unreadable
            | Failure::Blocked { .. }
            | Failure::RefusedByFilter(_)
            | Failure::GuardrailUnavailable { .. } => match self.status() {
                500.. => "server_error",
                _ => "content_policy_violation",
            },
        }
    }

    /// Stable error code.
    pub fn code(&self) -> &'static str {
        match self {
            Failure::FirstByteTimeout => "upstream_first_byte_timeout",
            Failure::BetweenEventsTimeout => "upstream_idle_timeout",
            Failure::FirstTokenTimeout => "upstream_first_token_timeout",
            Failure::BetweenTokensTimeout => "upstream_token_timeout",
            Failure::ShuttingDown => "gateway_shutdown",
            Failure::TotalTimeout => "total_timeout",
            Failure::UpstreamDied => "upstream_died",
            Failure::Incomplete => "incomplete_stream",
            Failure::ResumeFailed => "upstream_resume_failed",
            Failure::Unreadable => "guardrail_unreadable_answer",
            Failure::Blocked { .. } => "content_blocked",
            Failure::RefusedByFilter(refused) => refused.code,
            Failure::GuardrailUnavailable { .. } => "guardrail_unavailable",
            Failure::BudgetExhausted { .. } => "budget_exhausted",
        }
    }

    /// Message for the client: what happened and what to do.
    pub fn message(&self) -> Cow<'_, str> {
        match self {
            Failure::FirstByteTimeout => "The backend did not start its answer in time.".into(),
            Failure::BetweenEventsTimeout => "The backend stopped sending in the middle of its answer.".into(),
            Failure::FirstTokenTimeout => "The backend did not generate a token in time.".into(),
            Failure::BetweenTokensTimeout => {
                "The backend stopped generating in the middle of its answer.".into()
            }
            Failure::ShuttingDown => "The gateway is shutting down. Send the request again.".into(),
            Failure::TotalTimeout => "The request exceeded its total timeout.".into(),
            Failure::UpstreamDied => "The backend's answer ended prematurely.".into(),
            Failure::Incomplete => {
                "The backend's stream ended without its end marker; the answer is incomplete.".into()
            }
            Failure::ResumeFailed => "The backend's answer ended prematurely, and the next backend \
                restarted it instead of resuming it. Set `resume` only on routes whose \
                backends can continue an answer."
                .into(),
            Failure::Unreadable => {
                "The guardrail withheld the backend's answer because it cannot parse it.".into()
            }
            Failure::Blocked { kind } => format!("The guardrail withheld the answer ({kind}).").into(),
            Failure::RefusedByFilter(refused) => (&*refused.message).into(),
            Failure::GuardrailUnavailable { filter, failure } => {
                format!("The guardrail filter {filter:?} is required and failed: {failure}. Try again in a moment.").into()
            }
            Failure::BudgetExhausted { limit } => format!("The stream was ended: rate limit {limit:?} is exhausted.").into(),
        }
    }
}
