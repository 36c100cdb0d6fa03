//! The store of records: opened at the start, written by a sink, queried by the admin listener.
//!
//! - *In*: `record_store` of the settings.
//! - *Out*: the sink, queries, metrics.
//! - *Never*: a query on a thread of the data path.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use config::settings::RecordStore as Settings;
use lens::observe::Samples;
use observatory::Sink;
use plan::clock;
use store::{Counters, SqliteStore, Store, StoreOptions};

/// Maximum time of a query.
const TIME_LIMIT: Duration = Duration::from_secs(2);

/// The store, if there is one.
#[derive(Clone)]
pub(crate) struct RecordStore(Option<Open>);

#[derive(Clone)]
struct Open {
    queries: Arc<dyn Store>,
    counters: Arc<Counters>,
}

/// The store of the settings and its sink.
pub(crate) fn open(settings: &Settings) -> io::Result<(RecordStore, Option<Box<dyn Sink>>)> {
    let Some(folder) = &settings.path else { return Ok((RecordStore(None), None)) };
    let counters = Arc::<Counters>::default();
    let options = StoreOptions::new(settings.keep, settings.max_size);
    let sink = store::sink(folder, options, counters.clone(), clock::wall_us)?;
    let queries = Arc::new(SqliteStore::new(folder, TIME_LIMIT));
    Ok((RecordStore(Some(Open { queries, counters })), Some(Box::new(sink))))
}

impl RecordStore {
    /// Its queries.
    pub(crate) fn queries(&self) -> Option<Arc<dyn Store>> {
        self.0.as_ref().map(|open| open.queries.clone())
    }

    /// Adds its counts to `samples`.
    pub(crate) fn observe(&self, samples: &mut Samples) {
        let Some(Open { counters, .. }) = &self.0 else { return };
        samples.counts(&[
            ("llm_lens_record_store_damaged_files_total", counters.damaged_partitions()),
            ("llm_lens_record_store_dropped_files_total", counters.dropped_partitions()),
            ("llm_lens_record_store_repeated_records_total", counters.repeated()),
            ("llm_lens_record_store_size_bytes", counters.bytes()),
            ("llm_lens_record_store_unreadable_files_total", counters.newer_partitions()),
        ]);
    }
}
