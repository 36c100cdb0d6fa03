//! The tables of a partition, their versions, and how connections are opened.
//!
//! - *In*: the file of a partition.
//! - *Out*: a connection of the writer, migrated to this version, or a read-only one.
//! - *Never*: a change to a database of a newer version.
//!
//! Rows of `records` are numbered from 1 in the order in which they were stored. A chunk is a run
//! of up to [`CHUNK_ROWS`] of them: their JSON is compressed together, and `postings` has the
//! values that occur in it, so that a search skips chunks without a match. Rows after the last
//! chunk are the tail.

use std::path::Path;
use std::time::Duration;

use lens::histogram::DecodeError;
use rusqlite::types::{FromSqlError, Type};
use rusqlite::{Connection, ErrorCode, OpenFlags, Transaction, TransactionBehavior};

use crate::partition::private_file;

/// The version of the schema, in `user_version`.
pub(crate) const VERSION: i64 = MIGRATIONS.len() as i64;
/// Maximum rows of a chunk. A match costs the scan of a chunk: a tenth of a millisecond.
pub(crate) const CHUNK_ROWS: usize = 1024;
/// Maximum wait for a lock of SQLite.
const BUSY: Duration = Duration::from_secs(2);

/// Statements that bring a database from each version to the next.
const MIGRATIONS: [&str; 1] = ["
CREATE TABLE labels (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE) STRICT;
CREATE TABLE sources (
    id INTEGER PRIMARY KEY, instance TEXT NOT NULL, epoch INTEGER NOT NULL, UNIQUE (instance, epoch)
) STRICT;
CREATE TABLE sequences (
    source INTEGER NOT NULL, first INTEGER NOT NULL, last INTEGER NOT NULL,
    PRIMARY KEY (source, first)
) STRICT, WITHOUT ROWID;
CREATE TABLE records (
    row INTEGER PRIMARY KEY,
    started_at INTEGER NOT NULL,
    total_us INTEGER NOT NULL,
    engine_ttft_us INTEGER,
    client_ttft_us INTEGER,
    tpot_us REAL,
    route INTEGER NOT NULL,
    backend INTEGER,
    model INTEGER,
    caller INTEGER,
    owner INTEGER,
    outcome INTEGER NOT NULL,
    error_code INTEGER,
    status INTEGER,
    stream INTEGER NOT NULL,
    input_tokens INTEGER,
    output_tokens INTEGER,
    estimated INTEGER NOT NULL,
    cost REAL,
    source INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    id TEXT NOT NULL,
    unique_id TEXT,
    trace_id TEXT
) STRICT;
CREATE TABLE tail (row INTEGER PRIMARY KEY, json BLOB NOT NULL) STRICT;
CREATE TABLE chunks (
    chunk INTEGER PRIMARY KEY,
    rows INTEGER NOT NULL,
    min_started_at INTEGER NOT NULL,
    max_started_at INTEGER NOT NULL,
    max_total_us INTEGER NOT NULL,
    max_ttft_us INTEGER NOT NULL
) STRICT;
CREATE TABLE ids (chunk INTEGER PRIMARY KEY, hashes BLOB NOT NULL) STRICT;
CREATE TABLE bodies (chunk INTEGER PRIMARY KEY, zstd BLOB NOT NULL) STRICT;
CREATE TABLE postings (
    field INTEGER NOT NULL, value INTEGER NOT NULL, chunk INTEGER NOT NULL,
    PRIMARY KEY (field, value, chunk)
) STRICT, WITHOUT ROWID;
CREATE TABLE facets (
    field INTEGER NOT NULL, hour INTEGER NOT NULL, value INTEGER NOT NULL, rows INTEGER NOT NULL,
    PRIMARY KEY (field, hour, value)
) STRICT, WITHOUT ROWID;
CREATE TABLE combinations (
    id INTEGER PRIMARY KEY,
    route INTEGER NOT NULL, backend INTEGER NOT NULL, model INTEGER NOT NULL,
    UNIQUE (route, backend, model)
) STRICT;
CREATE TABLE rollups (
    step INTEGER NOT NULL, field INTEGER NOT NULL, value INTEGER NOT NULL, bucket INTEGER NOT NULL,
    rollup BLOB NOT NULL,
    PRIMARY KEY (step, field, value, bucket)
) STRICT, WITHOUT ROWID;
CREATE VIEW requests AS SELECT
    r.row, strftime('%Y-%m-%dT%H:%M:%fZ', r.started_at / 1e6, 'unixepoch') AS started_at,
    route.text AS route, backend.text AS backend, model.text AS model, caller.text AS caller,
    owner.text AS owner, outcome.text AS outcome, error_code.text AS error_code, r.status, r.stream,
    r.engine_ttft_us, r.client_ttft_us, r.tpot_us, r.total_us, r.input_tokens, r.output_tokens,
    r.estimated, r.cost, s.instance, s.epoch, r.sequence, r.id, r.unique_id, r.trace_id
FROM records r
    JOIN sources s ON s.id = r.source
    LEFT JOIN labels route ON route.id = r.route
    LEFT JOIN labels backend ON backend.id = r.backend
    LEFT JOIN labels model ON model.id = r.model
    LEFT JOIN labels caller ON caller.id = r.caller
    LEFT JOIN labels owner ON owner.id = r.owner
    LEFT JOIN labels outcome ON outcome.id = r.outcome
    LEFT JOIN labels error_code ON error_code.id = r.error_code;
"];

/// Why a partition cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Another version of this program has written it.
    #[error(
        "schema version {0} is newer than {VERSION}, the newest that this version of llm-lens reads; use the newer llm-lens or move the file away"
    )]
    Newer(i64),
    /// SQLite reports an error.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// The file cannot be created.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// A rollup that cannot be decoded is damage of the file.
impl From<DecodeError> for OpenError {
    fn from(error: DecodeError) -> Self {
        rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, error.into()).into()
    }
}

/// A column of another type, which is damage, too.
impl From<FromSqlError> for OpenError {
    fn from(error: FromSqlError) -> Self {
        rusqlite::Error::from(error).into()
    }
}

impl OpenError {
    /// Whether the file is damaged.
    pub(crate) fn is_damage(&self) -> bool {
        matches!(self, OpenError::Sqlite(error) if is_damage(error))
    }

    /// Whether the same write may succeed later: the disk is full, away, or in use.
    pub(crate) fn is_temporary(&self) -> bool {
        let code = match self {
            OpenError::Io(_) => return true,
            OpenError::Newer(_) => return false,
            OpenError::Sqlite(error) => error.sqlite_error_code(),
        };
        matches!(
            code,
            Some(
                ErrorCode::DiskFull
                    | ErrorCode::SystemIoFailure
                    | ErrorCode::CannotOpen
                    | ErrorCode::ReadOnly
                    | ErrorCode::PermissionDenied
                    | ErrorCode::DatabaseBusy
                    | ErrorCode::DatabaseLocked
                    | ErrorCode::FileLockingProtocolFailed
                    | ErrorCode::OutOfMemory
            )
        )
    }
}

/// Whether an error of SQLite says that the file is damaged.
pub(crate) fn is_damage(error: &rusqlite::Error) -> bool {
    let code = error.sqlite_error_code();
    matches!(code, Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase))
        || matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
        )
}

/// Open or create a partition's database for its writer.
///
/// # Errors
/// See [`OpenError`].
pub(crate) fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    // Closing another handle of a file that has connections would drop their locks.
    if !path.exists() {
        drop(private_file(path)?);
    }
    let mut connection = Connection::open(path)?;
    connection.busy_timeout(BUSY)?;
    let newer = version(&connection)?;
    if newer > VERSION {
        return Err(OpenError::Newer(newer));
    }
    connection.set_prepared_statement_cache_capacity(32);
    // The page size counts only in a new database. Pages of 8 KiB hold some 50 rows, and a rollup
    // without an overflow page.
    connection.execute_batch(
        "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL;
         PRAGMA wal_autocheckpoint = 2000; PRAGMA journal_size_limit = 67108864;
         PRAGMA cache_size = -16384; PRAGMA temp_store = MEMORY;",
    )?;
    migrate(&mut connection)?;
    Ok(connection)
}

/// Open a partition's database for a query; `None` if its writer has not created the tables yet.
///
/// # Errors
/// See [`OpenError`].
pub(crate) fn open_reader(path: &Path) -> Result<Option<Connection>, OpenError> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(BUSY)?;
    match version(&connection)? {
        0 => Ok(None),
        newer if newer > VERSION => Err(OpenError::Newer(newer)),
        _ => Ok(Some(connection)),
    }
}

/// Whether a database needs no migration.
pub(crate) fn is_current(connection: &Connection) -> rusqlite::Result<bool> {
    version(connection).map(|version| version == VERSION)
}

fn version(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("PRAGMA user_version", [], |row| row.get(0))
}

fn migrate(connection: &mut Connection) -> Result<(), OpenError> {
    let from = version(connection)?;
    if from == VERSION {
        return Ok(());
    }
    let change = Transaction::new(connection, TransactionBehavior::Immediate)?;
    for migration in MIGRATIONS.iter().skip(usize::try_from(from).unwrap_or(0)) {
        change.execute_batch(migration)?;
    }
    change.pragma_update(None, "user_version", VERSION)?;
    change.commit()?;
    Ok(())
}
