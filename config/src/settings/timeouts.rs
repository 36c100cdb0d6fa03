//! Timeouts of requests.

use std::time::Duration;

use serde::Serialize;

use super::seconds;

/// Timeouts; zero disables one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Timeouts {
    /// First byte to end of a request's head.
    #[serde(serialize_with = "seconds")]
    pub request_head: Duration,
    /// End of head to end of body.
    #[serde(serialize_with = "seconds")]
    pub request_body: Duration,
    /// Between two requests on a client connection.
    #[serde(serialize_with = "seconds")]
    pub idle: Duration,
    /// To connect to a backend.
    #[serde(serialize_with = "seconds")]
    pub connect: Duration,
    /// From the request sent to the first byte.
    #[serde(serialize_with = "seconds")]
    pub first_byte: Duration,
    /// Between two reads of an answer.
    #[serde(serialize_with = "seconds")]
    pub between_events: Duration,
    /// From the request sent to the first token of a stream.
    pub first_token: FirstToken,
    /// Between two tokens of a stream.
    #[serde(serialize_with = "seconds")]
    pub between_tokens: Duration,
    /// The whole request.
    #[serde(serialize_with = "seconds")]
    pub total: Duration,
    /// For a client that reads nothing while bytes are ready for it.
    #[serde(serialize_with = "seconds")]
    pub client_write: Duration,
}

/// Maximum time to the first token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FirstToken {
    /// Derived from the recent times of the backend.
    Auto,
    /// This time; zero means no limit.
    #[serde(serialize_with = "seconds", untagged)]
    After(Duration),
}

impl FirstToken {
    /// Longest time that `auto` permits, and the time while the backend's are unknown.
    pub const LONGEST: Duration = Duration::from_secs(600);
    /// Shortest time that `auto` permits.
    pub const SHORTEST: Duration = Duration::from_secs(1);

    /// The limit for a backend whose 95th percentile is `p95`; zero means no limit.
    pub fn limit(self, p95: impl FnOnce() -> Option<Duration>) -> Duration {
        match self {
            FirstToken::After(limit) => limit,
            FirstToken::Auto => {
                let limit = p95().map_or(FirstToken::LONGEST, |p95| p95.saturating_mul(4));
                limit.clamp(FirstToken::SHORTEST, FirstToken::LONGEST)
            }
        }
    }
}
