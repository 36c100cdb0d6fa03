//! What is counted while an answer streams.
//!
//! - *In*, *Out*: numbers.
//! - *Never*: a token: see `tokens`.

/// Counts of one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Complete events, end marks included.
    pub events: u64,
    /// Events with generated text.
    pub content_events: u64,
    /// Comment lines.
    pub comments: u64,
    /// Token events that arrived in the same read as an earlier one.
    pub coalesced: u64,
    /// Gaps over the threshold.
    pub stalls: u64,
    /// Events whose data could not be parsed.
    pub not_understood: u64,
    /// Bytes of generated text.
    pub text_bytes: u64,
    /// Characters of generated text.
    pub text_chars: u64,
}
