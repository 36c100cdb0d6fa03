//! The audit log, and the key of its hashes.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use config::settings;
use filters::audit::Hasher;
use observatory::{AuditLog, Observatory};

/// The audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the audit log {path}: {source}")]
pub struct AuditError {
    path: PathBuf,
    source: std::io::Error,
}

/// The audit log, and the key of its hashes.
pub struct Audit {
    /// The file.
    pub log: AuditLog,
    pub(crate) hasher: Arc<Hasher>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").field("log", &self.log).finish_non_exhaustive()
    }
}

impl Audit {
    /// Open the log, if the settings want one.
    pub fn open(settings: &settings::Audit, observatory: &Observatory) -> Result<Option<Self>, AuditError> {
        let Some(path) = &settings.file else { return Ok(None) };
        let log = AuditLog::open(path, settings.max_size, settings.keep, observatory.audit().clone())
            .map_err(|source| AuditError { path: path.clone(), source })?;
        let hasher = match &settings.key {
            Some(key) => Hasher::new(key.reveal().as_bytes()),
            None => Hasher::new(&[uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat()),
        };
        Ok(Some(Audit { log, hasher: Arc::new(hasher) }))
    }
}
