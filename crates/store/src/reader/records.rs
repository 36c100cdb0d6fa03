//! Whole records by id: hashes of ids tell which chunks may have one.
//!
//! - *In*: an id, a unique id, or a trace id.
//! - *Out*: the records, from the JSON of the tail or of a chunk.

use lens::Record;
use rusqlite::types::Type;
use rusqlite::{Connection, params};

use crate::query::MAX_PAGE;
use crate::schema::OpenError;
use crate::writer::tail::id_hash;

/// Maximum bytes of a chunk's text.
const MAX_TEXT: usize = 256 << 20;
const IS_IT: &str = "(id = ?1 OR unique_id = ?1 OR trace_id = ?1)";

/// Add the records with an id, the last stored first.
pub(super) fn find(db: &Connection, id: &str, found: &mut Vec<Record>) -> Result<(), OpenError> {
    let tail =
        format!("SELECT json FROM tail JOIN records USING (row) WHERE {IS_IT} ORDER BY row DESC");
    let mut tail = db.prepare(&tail)?;
    let mut rows = tail.query([id])?;
    while let Some(row) = rows.next()? {
        push(found, row.get_ref(0)?.as_blob()?)?;
    }
    let mut of_chunk = db.prepare(&format!(
        "SELECT row FROM records WHERE {IS_IT} AND row >= ?2 AND row < ?2 + (SELECT rows FROM chunks WHERE chunk = ?2) ORDER BY row DESC"
    ))?;
    let mut chunks = db.prepare("SELECT chunk, hashes FROM ids ORDER BY chunk DESC")?;
    let mut chunks = chunks.query([])?;
    let hash = id_hash(id);
    while let Some(chunk) = chunks.next()? {
        let (hashes, _) = chunk.get_ref(1)?.as_blob()?.as_chunks::<4>();
        if hashes.binary_search_by_key(&hash, |bytes| u32::from_le_bytes(*bytes)).is_err() {
            continue;
        }
        let chunk: i64 = chunk.get(0)?;
        let rows = of_chunk.query_map(params![id, chunk], |row| row.get::<_, i64>(0))?;
        let rows: Vec<i64> = rows.collect::<rusqlite::Result<_>>()?;
        if !rows.is_empty() {
            read_chunk(db, chunk, &rows, found)?;
        }
    }
    Ok(())
}

/// Add rows of a chunk.
fn read_chunk(
    db: &Connection,
    chunk: i64,
    rows: &[i64],
    found: &mut Vec<Record>,
) -> Result<(), OpenError> {
    let text = chunk_text(db, chunk)?;
    let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
    for row in rows {
        let line = usize::try_from(row - chunk).ok().and_then(|at| lines.get(at));
        push(found, line.copied().unwrap_or_default())?;
    }
    Ok(())
}

/// The JSON lines of a chunk.
pub(super) fn chunk_text(db: &Connection, chunk: i64) -> Result<Vec<u8>, OpenError> {
    let body = "SELECT zstd FROM bodies WHERE chunk = ?1";
    let body: Vec<u8> = db.query_row(body, [chunk], |row| row.get(0))?;
    zstd::bulk::decompress(&body, MAX_TEXT).map_err(damaged)
}

fn push(found: &mut Vec<Record>, json: &[u8]) -> Result<(), OpenError> {
    if found.len() < MAX_PAGE {
        found.push(serde_json::from_slice(json).map_err(damaged)?);
    }
    Ok(())
}

pub(super) fn damaged(error: impl std::error::Error + Send + Sync + 'static) -> OpenError {
    rusqlite::Error::FromSqlConversionFailure(0, Type::Blob, Box::new(error)).into()
}
