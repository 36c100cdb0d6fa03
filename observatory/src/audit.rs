//! Lines of the audit log. The crate `audit-log` writes them.
//!
//! - *In*: findings of guardrails, reads of stored contents.
//! - *Out*: lines, by the pump of the log.
//! - *Never*: the text of a prompt or an answer.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use crate::sink::Queued;

/// A line of the audit log: one finding, or one read of stored contents.
#[derive(Debug)]
pub struct AuditLine {
    /// When it was found, Unix microseconds.
    pub at: u64,
    /// A JSON object, without the line feed.
    pub text: String,
    /// Receives a message when the line is in the log.
    receipt: Option<SyncSender<()>>,
}

impl AuditLine {
    /// A line.
    pub fn new(at: u64, text: String) -> Self {
        AuditLine { at, text, receipt: None }
    }

    /// A line, and a channel that receives a message when the line is in the log, and is closed if
    /// the line is lost.
    pub(crate) fn with_receipt(at: u64, text: String) -> (Self, Receiver<()>) {
        let (sender, receiver) = sync_channel(1);
        (AuditLine { at, text, receipt: Some(sender) }, receiver)
    }

    /// The line is in the log.
    pub fn confirm(&self) {
        if let Some(receipt) = &self.receipt {
            // The page may have stopped waiting.
            let _ = receipt.try_send(());
        }
    }
}

impl Queued for AuditLine {
    fn at(&self) -> u64 {
        self.at
    }
}
