//! Settings of the store of records, and of files of records.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use base_url::{BaseUrl, BucketUrl, PostgresUrl};
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
    /// Age at which a file is removed; `None`: files stay, or are removed once they are uploaded.
    pub keep: Option<Duration>,
    /// Where complete files are uploaded.
    pub upload: Option<RecordUpload>,
}

/// A bucket for files of records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct RecordUpload {
    /// The bucket.
    #[serde(serialize_with = "as_text")]
    pub url: BucketUrl,
    /// The store; `None`: that of the environment, or AWS.
    #[serde(serialize_with = "authority")]
    pub endpoint: Option<BaseUrl>,
    /// The region; `None`: that of the environment.
    pub region: Option<String>,
    /// The id of the key, and its secret; `None`: those of the environment.
    pub keys: Option<(Secret, Secret)>,
    /// The token of temporary credentials.
    pub session_token: Option<Secret>,
    /// File with certificate authorities; `None`: those of the environment, or of the system.
    pub ca: Option<PathBuf>,
    /// Time without progress after which an upload fails.
    pub timeout: Duration,
    /// Maximum bytes of files that wait.
    pub max_waiting: u64,
}

fn as_text<S: Serializer>(url: &impl Display, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(url)
}

fn authority<S: Serializer>(url: &Option<BaseUrl>, to: S) -> Result<S::Ok, S::Error> {
    url.as_ref().map(|url| url.without("")).serialize(to)
}
