//! The last rows of a partition, until they are a chunk.
//!
//! - *In*: records with their values.
//! - *Out*: rows of `tail` with one JSON text each; for each full chunk, one compressed text, the
//!   values in it, and hashes of its ids.
//! - *Never*: more than a chunk in memory.

use lens::Record;
use rusqlite::{Connection, Row, params};
use xxhash_rust::xxh3::xxh3_64;
use zstd::bulk::Compressor;

use crate::field::{Field, Values, int, unsigned};
use crate::schema::{CHUNK_ROWS, OpenError};

/// Bytes of JSON from which a chunk is full before it has [`CHUNK_ROWS`] rows.
const CHUNK_BYTES: usize = 4 << 20;
/// Level of zstd: the fastest of the usual ones. Records resemble each other, so they shrink to a
/// tenth.
const LEVEL: i32 = 1;

/// Hash of an id in the index of a chunk.
pub(crate) fn id_hash(id: &str) -> u32 {
    xxh3_64(id.as_bytes()) as u32
}

/// What the index of a chunk needs to know about a row.
#[derive(Debug)]
struct TailRow {
    row: i64,
    started_at: u64,
    total_us: u64,
    ttft_us: u64,
    values: Values,
    /// End of its line in the text.
    end: usize,
}

/// The rows after the last chunk.
pub(super) struct Tail {
    rows: Vec<TailRow>,
    /// Hashes of their ids, unique ids and trace ids.
    hashes: Vec<u32>,
    /// One line of JSON for each row.
    text: Vec<u8>,
    /// Number of rows that the table `tail` has.
    stored: usize,
    compressor: Compressor<'static>,
}

impl std::fmt::Debug for Tail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tail({} rows)", self.rows.len())
    }
}

impl Tail {
    /// Read the tail of a partition.
    pub(super) fn load(db: &Connection) -> Result<Self, OpenError> {
        let mut tail = Tail {
            rows: Vec::with_capacity(CHUNK_ROWS),
            hashes: Vec::new(),
            text: Vec::new(),
            stored: 0,
            compressor: Compressor::new(LEVEL)?,
        };
        let columns = Field::ALL.map(Field::name).join(", ");
        let mut query = db.prepare(&format!(
            "SELECT json, row, started_at, total_us, client_ttft_us, id, unique_id, trace_id, {columns}
             FROM tail JOIN records USING (row) ORDER BY row"
        ))?;
        let mut rows = query.query([])?;
        while let Some(row) = rows.next()? {
            tail.load_row(row)?;
        }
        tail.stored = tail.rows.len();
        Ok(tail)
    }

    fn load_row(&mut self, row: &Row<'_>) -> rusqlite::Result<()> {
        self.text.extend(row.get_ref(0)?.as_blob()?);
        self.text.push(b'\n');
        for id in 5..8 {
            self.hashes.extend(row.get_ref(id)?.as_str_or_null()?.map(id_hash));
        }
        let mut values = Values::default();
        for (value, at) in values.iter_mut().zip(8..) {
            *value = row.get(at)?;
        }
        self.rows.push(TailRow {
            row: row.get(1)?,
            started_at: unsigned(row.get(2)?),
            total_us: unsigned(row.get(3)?),
            ttft_us: unsigned(row.get::<_, Option<i64>>(4)?.unwrap_or(0)),
            values,
            end: self.text.len(),
        });
        Ok(())
    }

    /// Add a record.
    pub(super) fn push(
        &mut self,
        row: i64,
        record: &Record,
        values: Values,
    ) -> Result<(), OpenError> {
        serde_json::to_writer(&mut self.text, record)
            .map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))?;
        self.text.push(b'\n');
        let ids =
            [Some(record.id.as_str()), record.unique_id.as_deref(), record.trace_id.as_deref()];
        self.hashes.extend(ids.into_iter().flatten().map(id_hash));
        self.rows.push(TailRow {
            row,
            started_at: record.started_at,
            total_us: record.total_us,
            ttft_us: record.client_ttft_us.unwrap_or(0),
            values,
            end: self.text.len(),
        });
        Ok(())
    }

    pub(super) fn is_full(&self) -> bool {
        self.rows.len() >= CHUNK_ROWS || self.text.len() >= CHUNK_BYTES
    }

    /// Write rows that are not in the table `tail` yet.
    pub(super) fn store(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let mut insert = db.prepare_cached("INSERT INTO tail VALUES (?1, ?2)")?;
        let before = self.stored.checked_sub(1).and_then(|at| self.rows.get(at));
        let mut begin = before.map_or(0, |row| row.end);
        for row in self.rows.iter().skip(self.stored) {
            // Without the end of the line.
            let line = self.text.get(begin..row.end - 1).unwrap_or_default();
            insert.execute(params![row.row, line])?;
            begin = row.end;
        }
        self.stored = self.rows.len();
        Ok(())
    }

    /// Make the tail a chunk.
    pub(super) fn fold(&mut self, db: &Connection) -> Result<(), OpenError> {
        let Some(chunk) = self.rows.first().map(|row| row.row) else { return Ok(()) };
        let (mut from, mut to, mut total_us, mut ttft_us) = (u64::MAX, 0, 0, 0);
        for row in &self.rows {
            (from, to) = (from.min(row.started_at), to.max(row.started_at));
            (total_us, ttft_us) = (row.total_us.max(total_us), row.ttft_us.max(ttft_us));
        }
        db.prepare_cached("INSERT INTO chunks VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(
            params![chunk, self.rows.len() as i64, int(from), int(to), int(total_us), int(ttft_us)],
        )?;
        let body = self.compressor.compress(&self.text)?;
        db.prepare_cached("INSERT INTO bodies VALUES (?1, ?2)")?.execute(params![chunk, body])?;
        self.hashes.sort_unstable();
        let hashes: Vec<u8> = self.hashes.iter().flat_map(|hash| hash.to_le_bytes()).collect();
        db.prepare_cached("INSERT INTO ids VALUES (?1, ?2)")?.execute(params![chunk, hashes])?;
        self.store_postings(db, chunk)?;
        if self.stored > 0 {
            db.prepare_cached("DELETE FROM tail")?.execute([])?;
        }
        self.rows.clear();
        self.hashes.clear();
        self.text.clear();
        self.stored = 0;
        Ok(())
    }

    /// Write the values that occur in the chunk.
    fn store_postings(&self, db: &Connection, chunk: i64) -> rusqlite::Result<()> {
        let mut insert = db.prepare_cached("INSERT INTO postings VALUES (?1, ?2, ?3)")?;
        let mut values = Vec::with_capacity(self.rows.len());
        for field in Field::ALL {
            values.clear();
            values.extend(self.rows.iter().filter_map(|row| row.values[field.index()]));
            values.sort_unstable();
            values.dedup();
            for value in &values {
                insert.execute(params![field.code(), value, chunk])?;
            }
        }
        Ok(())
    }
}
