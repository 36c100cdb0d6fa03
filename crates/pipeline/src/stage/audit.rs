//! Writes findings to the audit log.
//!
//! - *In*: findings of filters, with the text they cover.
//! - *Out*: a line for each, up to [`MAX_FINDINGS`] a request.
//! - *Never*: the text.

use filters::audit::{Entry, MAX_FINDINGS};
use observatory::AuditLine;
use relay::Note;

use crate::exchange::Exchange;
use crate::shared::worker;
use plan::clock;

/// Write findings to the audit log.
pub fn write_findings(exchange: &Exchange, notes: &[Note]) {
    let (Some(_), Some(guardrail)) = (&exchange.shared.audit, exchange.guardrail()) else { return };
    let Some(routed) = &exchange.routed else { return };
    let at = clock::wall_us();
    for note in notes.iter().take(MAX_FINDINGS) {
        let found = &note.found;
        let entry = Entry {
            at,
            request_id: &exchange.accepted.id,
            unique_id: exchange.accepted.unique_id.as_deref(),
            trace_id: exchange.accepted.trace.as_ref().map(|trace| trace.trace_id.as_str()),
            client: exchange.accepted.client,
            route: &routed.route.route.name,
            guardrail: &guardrail.settings.name,
            mode: if guardrail.settings.observe { "observe" } else { "enforce" },
            side: note.side.name(),
            filter: &note.filter,
            rule: &found.rule,
            kind: &found.kind,
            action: found.action.name(),
            score: found.score,
            text: found.text as u64,
            channel: note.channel,
            start: found.span.start as u64,
            end: found.span.end as u64,
            hash: note.hash.clone(),
        };
        match serde_json::to_string(&entry) {
            Ok(text) => exchange.shared.observatory.found(worker(), AuditLine::new(at, text)),
            Err(error) => tracing::error!(%error, "audit entry cannot be written"),
        }
    }
}
