//! A partition that is open for writing.
//!
//! - *In*: records of its window.
//! - *Out*: one transaction for each call.
//! - *Never*: use after a failed transaction. The writer closes it, and opens it again: what is in
//!   memory here must be what is in the file.

use std::fs::File;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use lens::Record;
use observatory::{NumberedRecord, RecordKey};
use rusqlite::{Connection, TransactionBehavior, params};

use super::labels::Labels;
pub(super) use super::sources::Sources;
use super::tail::Tail;
use super::totals::Totals;
use crate::field::{FIELDS, Field, Value, Values, int, unsigned};
use crate::partition::Partition;
use crate::schema::{self, OpenError};

const INSERT: &str = "INSERT INTO records VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, \
     ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22, ?23, ?24)";

/// A partition, locked against other writers.
#[derive(Debug)]
pub(super) struct OpenPartition {
    pub(super) partition: Partition,
    connection: Connection,
    state: State,
    path: PathBuf,
    /// The inode of the file.
    inode: u64,
    /// Released when the file is closed.
    _lock: File,
}

/// What of the file is kept in memory.
#[derive(Debug)]
struct State {
    last_row: i64,
    labels: Labels,
    sources: Sources,
    tail: Tail,
    totals: Totals,
}

impl OpenPartition {
    /// Open or create a partition. `full` are the sources of the partition that it continues.
    pub(super) fn open(
        folder: &Path,
        partition: Partition,
        full: Option<Sources>,
        lock: File,
    ) -> Result<Self, OpenError> {
        let path = partition.path(folder);
        let is_new = !path.exists();
        let connection = schema::open_writer(&path)?;
        let inode = std::fs::metadata(&path)?.ino();
        let sources = match full.filter(|_| is_new) {
            Some(full) => full.continued_in(partition),
            None => Sources::load(&connection, folder, partition)?,
        };
        let last_row = connection
            .query_row("SELECT max(row) FROM records", [], |row| row.get::<_, Option<i64>>(0))?;
        let state = State {
            last_row: last_row.unwrap_or(0),
            labels: Labels::default(),
            sources,
            tail: Tail::load(&connection)?,
            totals: Totals::load(&connection)?,
        };
        Ok(OpenPartition { partition, connection, state, path, inode, _lock: lock })
    }

    /// Whether its file is still the one that was opened. Another program may have removed it.
    pub(super) fn exists(&self) -> bool {
        std::fs::metadata(&self.path).is_ok_and(|file| file.ino() == self.inode)
    }

    /// Close it; its sources, for the partition that continues it.
    pub(super) fn into_sources(self) -> Sources {
        self.state.sources
    }

    /// Number of records.
    pub(super) fn rows(&self) -> u64 {
        unsigned(self.state.last_row)
    }

    /// Write records in one transaction; returns how many were new.
    pub(super) fn write(&mut self, records: &[&NumberedRecord]) -> Result<u64, OpenError> {
        let behavior = TransactionBehavior::Immediate;
        let transaction = self.connection.transaction_with_behavior(behavior)?;
        let new = self.state.write(&transaction, records)?;
        transaction.commit()?;
        Ok(new)
    }

    pub(super) fn limit_pages(&self, pages: u32) -> rusqlite::Result<()> {
        self.connection.pragma_update(None, "max_page_count", pages)
    }
}

impl State {
    fn write(&mut self, db: &Connection, records: &[&NumberedRecord]) -> Result<u64, OpenError> {
        let mut new = 0;
        let mut insert = db.prepare_cached(INSERT)?;
        for NumberedRecord { key, record } in records {
            let Some(source) = self.sources.insert(db, key)? else { continue };
            let values = self.values(db, record)?;
            self.last_row += 1;
            insert_record(&mut insert, self.last_row, (source, key), record, &values)?;
            self.totals.add(db, record, &values)?;
            self.tail.push(self.last_row, record, values)?;
            if self.tail.is_full() {
                self.tail.fold(db)?;
            }
            new += 1;
        }
        self.tail.store(db)?;
        self.totals.store(db)?;
        self.sources.store(db)?;
        Ok(new)
    }

    /// The values of a record. Labels that are new get an id.
    fn values(&mut self, db: &Connection, record: &Record) -> rusqlite::Result<Values> {
        let mut values = [None; FIELDS];
        for (field, value) in Field::ALL.into_iter().zip(&mut values) {
            *value = match field.value(record) {
                Some(Value::Label(text)) => Some(self.labels.id(db, text)?),
                Some(Value::Number(number)) => Some(number),
                None => None,
            };
        }
        Ok(values)
    }
}

fn insert_record(
    insert: &mut rusqlite::Statement<'_>,
    row: i64,
    (source, key): (i64, &RecordKey),
    record: &Record,
    values: &Values,
) -> rusqlite::Result<usize> {
    let [route, backend, model, caller, owner, outcome, error_code, status, stream] = *values;
    let usage = record.usage.as_ref();
    insert.execute(params![
        row,
        int(record.started_at),
        int(record.total_us),
        record.engine_ttft_us.map(int),
        record.client_ttft_us.map(int),
        record.tpot_us,
        route,
        backend,
        model,
        caller,
        owner,
        outcome,
        error_code,
        status,
        stream,
        usage.and_then(|usage| usage.prompt_tokens).map(int),
        usage.and_then(|usage| usage.completion_tokens).map(int),
        usage.is_some_and(|usage| usage.estimated),
        record.cost,
        source,
        int(key.sequence),
        record.id,
        record.unique_id,
        record.trace_id,
    ])
}
