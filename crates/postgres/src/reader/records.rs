//! Whole records by id.
//!
//! - *In*: an id, a unique id, or a trace id.
//! - *Out*: the records, newest first, from the JSON of their chunks.
//! - *Never*: more than [`MAX_PAGE`] records, or more than one chunk in memory besides them.

use std::collections::BTreeMap;

use lens::Record;
use store::MAX_PAGE;
use tokio_postgres::Client;

use crate::error::Error;
use crate::value;

/// Maximum bytes of a chunk's text.
const MAX_TEXT: usize = 256 << 20;
const FIND: &str = "SELECT chunk, line FROM llm_lens.records
    WHERE id = $1 OR unique_id = $1 OR trace_id = $1
    ORDER BY started_at DESC, source DESC, sequence DESC LIMIT $2";

/// The records with an id, and problems.
pub(super) async fn find(client: &Client, id: &str) -> Result<(Vec<Record>, Vec<String>), Error> {
    let found = client.query(FIND, &[&value::id(id), &(MAX_PAGE as i64)]).await?;
    // Positions in the answer by chunk.
    let mut chunks: BTreeMap<i64, Vec<(usize, i32)>> = BTreeMap::new();
    for (at, row) in found.iter().enumerate() {
        chunks.entry(row.try_get(0)?).or_default().push((at, row.try_get(1)?));
    }
    let mut records = BTreeMap::new();
    for (chunk, places) in chunks {
        let body = "SELECT zstd FROM llm_lens.bodies WHERE chunk = $1";
        // Retention may have dropped it since.
        let Some(body) = client.query_opt(body, &[&chunk]).await? else { continue };
        let damaged = |_| Error::Damaged("compressed record");
        let text = zstd::bulk::decompress(body.try_get(0)?, MAX_TEXT).map_err(damaged)?;
        let lines: Vec<&[u8]> = text.split(|byte| *byte == b'\n').collect();
        for (at, line) in places {
            let line = usize::try_from(line).ok().and_then(|line| lines.get(line));
            let record = serde_json::from_slice(line.copied().unwrap_or_default());
            records.insert(at, record.map_err(|_| Error::Damaged("record"))?);
        }
    }
    Ok((records.into_values().collect(), Vec::new()))
}
