//! A page of records: the tail first, then the chunks that may have a match.
//!
//! - *In*: a filter and where the last page ended.
//! - *Out*: rows, the last stored first; where the next page begins.
//! - *Never*: a row twice: one snapshot has the tail and the chunks.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::time::Instant;

use rusqlite::{Connection, params};

use super::labels::{self, Texts};
use crate::field::{Field, int, unsigned};
use crate::partition::Partition;
use crate::query::{Cursor, Filter, Page, PageQuery, Row, StoreError};
use crate::schema::OpenError;

const COLUMNS: &str = "row, started_at, total_us, engine_ttft_us, client_ttft_us, tpot_us, route, \
     backend, model, caller, owner, outcome, error_code, status, stream, input_tokens, \
     output_tokens, estimated, cost, id, unique_id, trace_id";

/// The cursor of a page that ends above a row.
pub(crate) fn cursor(partition: Partition, row: i64) -> Cursor {
    let Partition { start, hours, part } = partition;
    Cursor::new(format!("{start}.{hours}.{part}.{row}"))
}

/// The partition and the row of a cursor.
pub(super) fn position(cursor: &Cursor) -> Result<(Partition, i64), StoreError> {
    let parse = || {
        let mut words = cursor.as_str().split('.');
        let mut word = || words.next();
        let (start, hours) = (word()?.parse().ok()?, word()?.parse().ok()?);
        let (part, row) = (word()?.parse().ok()?, word()?.parse().ok()?);
        word().is_none().then_some((Partition { start, hours, part }, row))
    };
    parse().ok_or_else(|| cursor.invalid())
}

/// Conditions of a filter, in the numbers of one partition.
struct Conditions {
    /// For rows of `records`.
    rows: String,
    /// For rows of `chunks`.
    chunks: String,
}

impl Conditions {
    /// `None`: no record of the partition can match.
    fn new(db: &Connection, filter: &Filter) -> Result<Option<Self>, OpenError> {
        let (mut rows, mut chunks) = (String::new(), String::new());
        for (field, text) in &filter.equals {
            let Some(value) = field.parse(text) else { return Ok(None) };
            let Some(number) = labels::number(db, value)? else { return Ok(None) };
            let (name, code) = (field.name(), field.code());
            let _ = write!(rows, " AND {name} = {number}");
            let _ = write!(
                chunks,
                " AND EXISTS (SELECT 1 FROM postings p WHERE p.field = {code} AND p.value = {number} AND p.chunk = c.chunk)"
            );
        }
        for (row, chunk, bound) in [
            ("started_at >=", "max_started_at >=", filter.from_us),
            ("started_at <", "min_started_at <", filter.to_us),
            ("total_us >", "max_total_us >", filter.slower_than_us),
            ("client_ttft_us >", "max_ttft_us >", filter.ttft_over_us),
        ] {
            if let Some(bound) = bound.map(int) {
                let _ = write!(rows, " AND {row} {bound}");
                let _ = write!(chunks, " AND {chunk} {bound}");
            }
        }
        Ok(Some(Conditions { rows, chunks }))
    }
}

/// Add the matching rows of a partition below a row to the page. Breaks with the start of the next
/// page if this one is full or late.
pub(super) fn scan(
    db: &Connection,
    (partition, below): (Partition, i64),
    query: &PageQuery,
    deadline: Instant,
    page: &mut Page,
) -> Result<ControlFlow<Cursor>, OpenError> {
    let Some(conditions) = Conditions::new(db, &query.filter)? else {
        return Ok(ControlFlow::Continue(()));
    };
    let mut scan = Scan {
        db,
        rows: db.prepare(&format!(
            "SELECT {COLUMNS} FROM records WHERE row >= ?1 AND row < ?2{} ORDER BY row DESC LIMIT ?3",
            conditions.rows
        ))?,
        texts: Texts::default(),
        limit: query.limit,
        page,
    };
    let end: Option<i64> = db.query_row("SELECT max(chunk) FROM chunks", [], |row| row.get(0))?;
    let tail = match end {
        Some(chunk) => {
            db.query_row("SELECT chunk + rows FROM chunks WHERE chunk = ?1", [chunk], |row| {
                row.get(0)
            })?
        }
        None => 1,
    };
    let next = |row| ControlFlow::Break(cursor(partition, row));
    if let Some(row) = scan.range(tail, below)? {
        return Ok(next(row));
    }
    let mut chunks = db.prepare(&format!(
        "SELECT chunk, chunk + rows FROM chunks c WHERE chunk < ?1{} ORDER BY chunk DESC",
        conditions.chunks
    ))?;
    let mut chunks = chunks.query([below])?;
    while let Some(chunk) = chunks.next()? {
        let (from, to): (i64, i64) = (chunk.get(0)?, chunk.get(1)?);
        if let Some(row) = scan.range(from, to.min(below))? {
            return Ok(next(row));
        }
        // Each page scans a chunk at least, so that a search makes progress.
        if Instant::now() >= deadline {
            scan.page.timed_out = true;
            return Ok(next(from));
        }
    }
    Ok(ControlFlow::Continue(()))
}

struct Scan<'q> {
    db: &'q Connection,
    rows: rusqlite::Statement<'q>,
    texts: Texts,
    limit: usize,
    page: &'q mut Page,
}

impl Scan<'_> {
    /// Add matching rows from `from` to before `to`. Returns the last added row if the page is
    /// full.
    fn range(&mut self, from: i64, to: i64) -> Result<Option<i64>, OpenError> {
        let left = self.limit.saturating_sub(self.page.rows.len());
        let mut rows = self.rows.query(params![from, to, left as i64])?;
        let mut last = None;
        while let Some(row) = rows.next()? {
            self.page.rows.push(read(self.db, &mut self.texts, row)?);
            last = Some(row.get(0)?);
        }
        Ok(last.filter(|_| self.page.rows.len() >= self.limit))
    }
}

fn read(db: &Connection, texts: &mut Texts, row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let mut label = |field: Field| {
        let id: Option<i64> = row.get(5 + usize::from(field.code()))?;
        id.map(|id| texts.text(db, id)).transpose()
    };
    Ok(Row {
        route: label(Field::Route)?,
        backend: label(Field::Backend)?,
        model: label(Field::Model)?,
        caller: label(Field::Caller)?,
        owner: label(Field::Owner)?,
        outcome: label(Field::Outcome)?,
        error_code: label(Field::ErrorCode)?,
        started_at: unsigned(row.get(1)?),
        total_us: row.get(2)?,
        engine_ttft_us: row.get(3)?,
        client_ttft_us: row.get(4)?,
        tpot_us: row.get(5)?,
        status: row.get(13)?,
        stream: row.get(14)?,
        input_tokens: row.get(15)?,
        output_tokens: row.get(16)?,
        estimated: row.get(17)?,
        cost: row.get(18)?,
        id: row.get(19)?,
        unique_id: row.get(20)?,
        trace_id: row.get(21)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_text_and_other_text_is_refused() {
        let partition = Partition { start: 498_888, hours: 24, part: 3 };
        assert_eq!(cursor(partition, 7).as_str(), "498888.24.3.7");
        assert_eq!(position(&cursor(partition, 7)).unwrap(), (partition, 7));
        for wrong in ["", "1.2.3", "1.2.3.4.5", "1.2.3.x", "-1.2.3.4"] {
            assert!(position(&Cursor::new(wrong.into())).is_err(), "{wrong}");
        }
    }
}
