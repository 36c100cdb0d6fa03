//! The store of records in a build without the feature `sqlite`: it cannot be configured.

use std::io;

use config::settings::RecordStore as Settings;
use lens::observe::Samples;
use observatory::Sink;

/// No store.
#[derive(Clone)]
pub(crate) struct RecordStore;

/// An error if the settings have a folder.
pub(crate) fn open(settings: &Settings) -> io::Result<(RecordStore, Option<Box<dyn Sink>>)> {
    match settings.path {
        None => Ok((RecordStore, None)),
        Some(_) => {
            let missing = "record_store.path: this build has no feature `sqlite`";
            Err(io::Error::new(io::ErrorKind::Unsupported, missing))
        }
    }
}

impl RecordStore {
    /// As with the feature.
    pub(crate) fn observe(&self, _: &mut Samples) {}
}
