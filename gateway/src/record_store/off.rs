//! The store of records in a build without the feature `sqlite`: it cannot be configured.

use std::io;

use config::settings::RecordStore as Settings;
use lens::observe::Samples;
use observatory::Sink;

/// No store.
#[derive(Clone)]
pub(crate) struct RecordStore;

/// An error if the settings have a store.
pub(crate) fn open(settings: &Settings) -> io::Result<(RecordStore, Option<Box<dyn Sink>>)> {
    let missing = match (&settings.path, &settings.postgres) {
        (None, None) => return Ok((RecordStore, None)),
        (Some(_), _) => "record_store.path: this build has no feature `sqlite`",
        (None, Some(_)) => "record_store.url: this build has no feature `postgres`",
    };
    Err(io::Error::new(io::ErrorKind::Unsupported, missing))
}

impl RecordStore {
    /// As with the feature.
    pub(crate) fn observe(&self, _: &mut Samples) {}
}
