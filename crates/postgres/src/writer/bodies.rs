//! The whole records: JSON, compressed in chunks.
//!
//! - *In*: the rows of a batch, by window.
//! - *Out*: rows of `bodies`: up to [`CHUNK_ROWS`] records, a line each, in a tenth of the bytes.
//! - *Never*: a chunk of records of two windows, which are dropped at different times.

use std::collections::HashSet;
use std::time::SystemTime;

use tokio_postgres::Transaction;
use zstd::bulk::Compressor;

use super::Row;
use crate::error::Error;
use crate::value;

/// Maximum records of a chunk.
const CHUNK_ROWS: usize = 1024;
/// Bytes of JSON from which a chunk is full.
const CHUNK_BYTES: usize = 4 << 20;
/// Level of zstd: the fastest of the usual ones.
const LEVEL: i32 = 1;

/// Chunks that are not stored yet.
pub(super) struct Bodies(Vec<Chunk>);

struct Chunk {
    id: i64,
    at: SystemTime,
    text: Vec<u8>,
}

impl Bodies {
    /// The chunks of a batch. Sets the places of its rows.
    pub(super) async fn new(change: &Transaction<'_>, rows: &mut [Row<'_>]) -> Result<Self, Error> {
        let (mut chunks, mut lines, mut window) = (Vec::<Chunk>::new(), 0, None);
        for row in rows.iter_mut() {
            let is_full = |chunk: &Chunk| lines >= CHUNK_ROWS || chunk.text.len() >= CHUNK_BYTES;
            if window != Some(row.window) || chunks.last().is_none_or(is_full) {
                let at = value::time(row.window.start_us());
                chunks.push(Chunk { id: 0, at, text: Vec::new() });
                (lines, window) = (0, Some(row.window));
            }
            // Numbers of chunks follow, once it is known how many there are.
            row.chunk = chunks.len() as i64 - 1;
            row.line = i32::try_from(lines).unwrap_or(i32::MAX);
            if let Some(chunk) = chunks.last_mut() {
                serde_json::to_writer(&mut chunk.text, &*row.numbered.record)
                    .map_err(|error| Error::Record(error.to_string()))?;
                chunk.text.push(b'\n');
            }
            lines += 1;
        }
        let next = "SELECT nextval('llm_lens.chunks') FROM generate_series(1, $1::bigint)";
        let ids = change.query(next, &[&(chunks.len() as i64)]).await?;
        for (chunk, id) in chunks.iter_mut().zip(ids) {
            chunk.id = id.try_get(0)?;
        }
        for row in rows {
            let chunk = usize::try_from(row.chunk).ok().and_then(|at| chunks.get(at));
            row.chunk = chunk.map_or(0, |chunk| chunk.id);
        }
        Ok(Bodies(chunks))
    }

    /// Stores the chunks that have a new row.
    pub(super) async fn store(
        self,
        change: &Transaction<'_>,
        new: &[Row<'_>],
    ) -> Result<(), Error> {
        let needed: HashSet<i64> = new.iter().map(|row| row.chunk).collect();
        let compress = |text: &[u8]| Compressor::new(LEVEL)?.compress(text);
        for Chunk { id, at, text } in self.0.into_iter().filter(|chunk| needed.contains(&chunk.id))
        {
            let body = compress(&text).map_err(|error| Error::Local(error.to_string()))?;
            let insert = "INSERT INTO llm_lens.bodies (at, chunk, zstd) VALUES ($1, $2, $3)";
            change.execute(insert, &[&at, &id, &body]).await?;
        }
        Ok(())
    }
}
