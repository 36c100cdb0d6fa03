//! Settings of the store of records, and of files of records.

use std::path::PathBuf;
use std::time::Duration;

use base_url::PostgresUrl;
use lens::RecordFormat;
use serde::{Serialize, Serializer};
use yaml::Secret;

/// The store of records. Nothing is stored with neither `path` nor `postgres`; never both.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordStore {
    /// The folder of SQLite files.
    pub path: Option<PathBuf>,
    /// The database of many gateways.
    pub postgres: Option<Postgres>,
    /// How long records are kept.
    pub keep: Duration,
    /// Maximum bytes of the folder; 0: no limit.
    pub max_size: u64,
    /// Where records for the database wait; `None`: in memory.
    pub spill: Option<Spill>,
}

/// A PostgreSQL database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Postgres {
    /// Where it is.
    #[serde(serialize_with = "as_text")]
    pub url: PostgresUrl,
    /// The password of the user.
    pub password: Option<Secret>,
    /// File with certificate authorities; `None`: those of the system.
    pub ca: Option<PathBuf>,
}

/// A queue of records on the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Spill {
    /// Its folder.
    pub path: PathBuf,
    /// Maximum bytes of the folder.
    pub max_size: u64,
    /// Maximum age of a record.
    pub max_age: Option<Duration>,
    /// Which records are dropped when it is full.
    pub when_full: WhenFull,
}

/// Which records a full queue drops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenFull {
    /// Those that wait longest.
    DropOldest,
    /// Those that arrive.
    DropNewest,
}

/// Files of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordFiles {
    /// The folder; `None`: nothing is written.
    pub path: Option<PathBuf>,
    /// Format of the files.
    pub format: RecordFormat,
    /// Bytes after which a file is complete.
    pub rotate_size: u64,
    /// Interval of Unix time after which a file is complete.
    pub rotate_interval: Duration,
    /// Age at which a file is removed; `None`: files stay.
    pub keep: Option<Duration>,
}

fn as_text<S: Serializer>(url: &PostgresUrl, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(url)
}
