//! Lines of the audit log. The crate `audit-log` writes them.
//!
//! - *In*: findings of guardrails.
//! - *Out*: lines, by the pump of the log.
//! - *Never*: the text of a prompt or an answer.

use crate::sink::Queued;

/// A line of the audit log: one finding.
#[derive(Debug)]
pub struct AuditLine {
    /// When it was found, Unix microseconds.
    pub at: u64,
    /// A JSON object, without the line feed.
    pub text: String,
}

impl Queued for AuditLine {
    fn at(&self) -> u64 {
        self.at
    }
}
