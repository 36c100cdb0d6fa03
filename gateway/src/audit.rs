//! Findings on their way to the audit log.
//!
//! - *In*: what filters found, with the text it covers.
//! - *Out*: a line for each, up to [`MOST`] a request.
//! - *Never*: the text.

use std::fmt;
use std::sync::Arc;

use config::settings;
use filters::audit::{Entry, Hasher, MOST};
use filters::{Found, Side};
use observatory::{AuditLog, Observatory};

use crate::clock;
use crate::exchange::Exchange;
use crate::server::StartError;

/// The audit log, and the key of its hashes.
pub(crate) struct Audit {
    log: AuditLog,
    hasher: Hasher,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("log", &self.log).finish_non_exhaustive()
    }
}

/// A finding, apart from the request it was made in.
#[derive(Clone, Debug)]
pub(crate) struct Note {
    pub(crate) side: Side,
    pub(crate) filter: Arc<str>,
    pub(crate) found: Found,
    /// The channel of an answer.
    pub(crate) channel: Option<&'static str>,
    /// The hash of what was matched.
    pub(crate) hash: Option<String>,
}

impl Audit {
    /// Open the log, if the settings want one.
    pub(crate) fn open(settings: &settings::Audit, observatory: &Observatory) -> Result<Option<Self>, StartError> {
        let Some(path) = &settings.file else { return Ok(None) };
        let log = AuditLog::open(path, settings.max_size, settings.keep, observatory.audit().clone())
            .map_err(|source| StartError::Audit { path: path.display().to_string(), source })?;
        let hasher = match &settings.key {
            Some(key) => Hasher::new(key.reveal().as_bytes()),
            None => Hasher::new(&[uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat()),
        };
        Ok(Some(Audit { log, hasher }))
    }

    /// The hash of a match.
    pub(crate) fn hash(&self, text: &str) -> String {
        self.hasher.hash(text)
    }
}

/// Write down what was found.
pub(crate) fn write(exchange: &Exchange, notes: &[Note]) {
    let (Some(audit), Some(guard)) = (&exchange.shared.audit, exchange.guard()) else { return };
    let Some(routed) = &exchange.routed else { return };
    let at = clock::wall_us();
    for note in notes.iter().take(MOST) {
        let found = &note.found;
        let entry = Entry {
            at,
            request_id: &exchange.accepted.id,
            trace_id: exchange.accepted.trace_id.as_deref(),
            client: exchange.accepted.client,
            route: &routed.route.route.name,
            shield: &guard.settings.name,
            mode: if guard.settings.observe { "observe" } else { "enforce" },
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
            Ok(line) => audit.log.write(line),
            Err(error) => log::error!("audit entry: {error}"),
        }
    }
}
