//! Whole records in the order in which they were stored, for exports.
//!
//! - *In*: the first row to read.
//! - *Out*: the records of a chunk or of the tail, with their keys; where the next ones begin.
//! - *Never*: more than a chunk in memory; a row twice, although the tail may become a chunk: rows
//!   keep their numbers.

use lens::Record;
use observatory::RecordKey;
use rusqlite::{Connection, OptionalExtension as _, Row, params};

use super::records::{chunk_text, damaged};
use crate::field::unsigned;
use crate::query::ScannedRecord;
use crate::schema::OpenError;

const CHUNK: &str =
    "SELECT chunk, chunk + rows FROM chunks WHERE chunk + rows > ?1 ORDER BY chunk LIMIT 1";
const KEYS: &str = "SELECT r.row, s.instance, s.epoch, r.sequence FROM records r \
     JOIN sources s ON s.id = r.source WHERE r.row >= ?1 AND r.row < ?2 ORDER BY r.row";
const TAIL: &str = "SELECT r.row, s.instance, s.epoch, r.sequence, t.json FROM tail t \
     JOIN records r USING (row) JOIN sources s ON s.id = r.source WHERE r.row >= ?1 ORDER BY r.row";

/// Adds the records from a row on, to the end of their chunk. Returns the next row; `None`: these
/// were the last.
pub(super) fn read(
    db: &Connection,
    from: i64,
    found: &mut Vec<ScannedRecord>,
) -> Result<Option<i64>, OpenError> {
    let chunk: Option<(i64, i64)> =
        db.query_row(CHUNK, [from], |row| Ok((row.get(0)?, row.get(1)?))).optional()?;
    let Some((chunk, end)) = chunk else {
        let mut tail = db.prepare(TAIL)?;
        let mut rows = tail.query([from])?;
        while let Some(row) = rows.next()? {
            found.push(scanned(row, row.get_ref(4)?.as_blob()?)?);
        }
        return Ok(None);
    };
    let text = chunk_text(db, chunk)?;
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    let mut keys = db.prepare(KEYS)?;
    let mut rows = keys.query(params![from.max(chunk), end])?;
    while let Some(row) = rows.next()? {
        let line = usize::try_from(row.get::<_, i64>(0)? - chunk).ok().and_then(|at| lines.get(at));
        found.push(scanned(row, line.copied().unwrap_or_default())?);
    }
    Ok(Some(end))
}

fn scanned(row: &Row<'_>, json: &[u8]) -> Result<ScannedRecord, OpenError> {
    let record: Record = serde_json::from_slice(json).map_err(damaged)?;
    let key = RecordKey {
        instance: row.get::<_, String>(1)?.into(),
        epoch: unsigned(row.get(2)?),
        sequence: unsigned(row.get(3)?),
    };
    Ok(ScannedRecord { row: row.get(0)?, key, record })
}
