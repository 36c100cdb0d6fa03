//! The store of records: opened at the start, written by a sink, queried by the admin listener.
//!
//! - *In*: `record_store` of the settings.
//! - *Out*: the sink, queries, metrics.
//! - *Never*: a query on a thread of the data path; a wait for a database at the start.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use config::settings::{Postgres, RecordStore as Settings};
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

type Opened = (Arc<dyn Store>, Box<dyn Sink>);

/// The store of the settings and its sink.
pub(crate) fn open(settings: &Settings) -> io::Result<(RecordStore, Option<Box<dyn Sink>>)> {
    let counters = Arc::<Counters>::default();
    let (queries, sink) = match (&settings.path, &settings.postgres) {
        (Some(folder), _) => sqlite(folder, settings, counters.clone())?,
        (None, Some(database)) => postgres(database, settings, counters.clone())?,
        (None, None) => return Ok((RecordStore(None), None)),
    };
    Ok((RecordStore(Some(Open { queries, counters })), Some(sink)))
}

fn sqlite(folder: &Path, settings: &Settings, counters: Arc<Counters>) -> io::Result<Opened> {
    let options = StoreOptions::new(settings.keep, settings.max_size);
    let sink = store::sink(folder, options, counters, clock::wall_us)?;
    Ok((Arc::new(SqliteStore::new(folder, TIME_LIMIT)), Box::new(sink)))
}

#[cfg(feature = "postgres")]
fn postgres(
    database: &Postgres,
    settings: &Settings,
    counters: Arc<Counters>,
) -> io::Result<Opened> {
    use postgres_store::{Database, PostgresStore, SinkOptions};

    let database = Database {
        url: database.url.clone(),
        password: database.password.as_ref().map(|password| password.reveal().to_owned()),
        ca: database.ca.clone(),
    };
    let spill = settings.spill.as_ref().map(spill);
    let options = SinkOptions { keep: settings.keep, spill, wall_us: clock::wall_us };
    let sink = postgres_store::sink(database.clone(), options, counters)?;
    Ok((Arc::new(PostgresStore::new(database, TIME_LIMIT)), Box::new(sink)))
}

#[cfg(feature = "postgres")]
fn spill(settings: &config::settings::Spill) -> observatory::SpillSettings {
    use config::settings::WhenFull;

    observatory::SpillSettings {
        path: settings.path.clone(),
        max_size: settings.max_size,
        max_age: settings.max_age,
        when_full: match settings.when_full {
            WhenFull::DropOldest => observatory::WhenFull::DropOldest,
            WhenFull::DropNewest => observatory::WhenFull::DropNewest,
        },
    }
}

#[cfg(not(feature = "postgres"))]
fn postgres(_: &Postgres, _: &Settings, _: Arc<Counters>) -> io::Result<Opened> {
    let missing = "record_store.url: this build has no feature `postgres`";
    Err(io::Error::new(io::ErrorKind::Unsupported, missing))
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
