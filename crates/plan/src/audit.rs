//! Key of the audit log's hashes. Equal matches have equal hashes; a hash reveals nothing about the
//! match.

use std::fmt;
use std::sync::Arc;

use config::settings;
use filters::audit::Hasher;

/// Hasher for the findings in the audit log.
pub struct Audit {
    /// Hashes matches with the key.
    pub hasher: Arc<Hasher>,
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

impl Audit {
    /// Use the key of the settings, or a random one; `None`: the audit log is not configured.
    pub fn new(settings: &settings::Audit) -> Option<Self> {
        settings.file.as_ref()?;
        let hasher = match &settings.key {
            Some(key) => Hasher::new(key.reveal().as_bytes()),
            None => Hasher::new(
                &[uuid::Uuid::new_v4().into_bytes(), uuid::Uuid::new_v4().into_bytes()].concat(),
            ),
        };
        Some(Audit { hasher: Arc::new(hasher) })
    }
}
