//! Files of records: a sink and its metrics.
//!
//! - *In*: `record_files` of the settings.
//! - *Out*: the sink, metrics.
//! - *Never*: a file that a thread of the data path writes.

use std::io;
use std::sync::Arc;

use config::settings::RecordFiles as Settings;
use files::{Counters, FolderOptions};
use lens::observe::Samples;
use observatory::Sink;
use plan::clock;

/// The counts of the sink, if there is one.
#[derive(Clone)]
pub(crate) struct RecordFiles(Option<Arc<Counters>>);

/// The sink of the settings.
pub(crate) fn open(settings: &Settings) -> io::Result<(RecordFiles, Option<Box<dyn Sink>>)> {
    let Some(folder) = &settings.path else { return Ok((RecordFiles(None), None)) };
    let counters = Arc::<Counters>::default();
    let options = FolderOptions {
        format: settings.format,
        max_size: settings.rotate_size,
        interval: settings.rotate_interval,
        keep: settings.keep,
    };
    let sink = files::sink(folder, options, counters.clone(), clock::wall_us)?;
    Ok((RecordFiles(Some(counters)), Some(Box::new(sink))))
}

impl RecordFiles {
    /// Adds its counts to `samples`.
    pub(crate) fn observe(&self, samples: &mut Samples) {
        let Some(counters) = &self.0 else { return };
        samples.counts(&[
            ("llm_lens_record_files_completed_total", counters.completed()),
            ("llm_lens_record_files_failures_total", counters.failures()),
            ("llm_lens_record_files_removed_total", counters.removed()),
        ]);
    }
}
