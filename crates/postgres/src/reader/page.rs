//! A page of records: hour by hour, newest first. Counts tell which hours have a match.
//!
//! - *In*: a filter and where the last page ended.
//! - *Out*: rows by their start; where the next page begins.
//! - *Never*: a text of a client in SQL: values are parameters.

use std::fmt::Write as _;
use std::time::Instant;

use store::{Cursor, Field, Filter, MAX_PAGE, Page, PageQuery, Row, StoreError};
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::error::Error;
use crate::partition::HOUR_US;
use crate::value::{clean, int, micros, time, unsigned};

const COLUMNS: &str = "started_at, source, sequence, total_us, engine_ttft_us, client_ttft_us, \
     tpot_us, route, backend, model, caller, owner, outcome, error_code, status, stream, \
     input_tokens, output_tokens, estimated, cost, id, unique_id, trace_id";
/// Hours that have records with all of some values.
const HOURS: &str = "SELECT hour FROM llm_lens.facets \
     WHERE (field, value) IN (SELECT * FROM unnest($1::smallint[], $2::text[])) \
     AND hour >= $3 AND hour <= $4 \
     GROUP BY hour HAVING count(DISTINCT field) = $5 ORDER BY hour DESC";

/// A key of a record: start in Unix microseconds, source, sequence number.
pub(super) type Position = (u64, i32, i64);

/// The cursor of a page that ends with a key.
fn cursor((at, source, sequence): Position) -> Cursor {
    Cursor::new(format!("{at}.{source}.{sequence}"))
}

/// The key of a cursor.
pub(super) fn position(cursor: &Cursor) -> Result<Position, StoreError> {
    let parse = || {
        let mut words = cursor.as_str().split('.');
        let mut word = || words.next();
        let (at, source) = (word()?.parse().ok()?, word()?.parse().ok()?);
        let sequence = word()?.parse().ok()?;
        word().is_none().then_some((at, source, sequence))
    };
    parse().ok_or_else(|| cursor.invalid())
}

/// A statement with its parameters.
#[derive(Default)]
struct Statement {
    sql: String,
    params: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Statement {
    /// Adds a condition, whose `?` are the parameters.
    fn and(&mut self, condition: &str, params: Vec<Box<dyn ToSql + Sync + Send>>) {
        self.sql.push_str(if self.sql.is_empty() { " WHERE " } else { " AND " });
        let mut params = params.into_iter();
        for part in condition.split_inclusive('?') {
            match part.strip_suffix('?').zip(params.next()) {
                Some((before, param)) => {
                    self.params.push(param);
                    let _ = write!(self.sql, "{before}${}", self.params.len());
                }
                None => self.sql.push_str(part),
            }
        }
    }
}

/// The conditions of a filter, from `from_us` to before `to_us`, after a key.
fn conditions(filter: &Filter, from_us: u64, to_us: u64, after: Option<Position>) -> Statement {
    let mut statement = Statement::default();
    statement.and("started_at >= ?", vec![Box::new(time(from_us))]);
    statement.and("started_at < ?", vec![Box::new(time(to_us))]);
    if let Some((at, source, sequence)) = after {
        let key: Vec<Box<dyn ToSql + Sync + Send>> =
            vec![Box::new(time(at)), Box::new(source), Box::new(sequence)];
        statement.and("(started_at, source, sequence) < (?, ?, ?)", key);
    }
    for (field, text) in &filter.equals {
        let text = field.parse_text(text).unwrap_or_default();
        let value: Box<dyn ToSql + Sync + Send> = match field {
            Field::Status => Box::new(text.parse::<i32>().ok()),
            Field::Stream => Box::new(text == "true"),
            _ => Box::new(clean(&text).into_owned()),
        };
        statement.and(&format!("{} = ?", field.name()), vec![value]);
    }
    if let Some(us) = filter.slower_than_us {
        statement.and("total_us > ?", vec![Box::new(int(us))]);
    }
    if let Some(us) = filter.ttft_over_us {
        statement.and("client_ttft_us > ?", vec![Box::new(int(us))]);
    }
    statement
}

/// Reads a page.
pub(super) async fn read(
    client: &Client,
    query: &PageQuery,
    after: Option<Position>,
    deadline: Instant,
) -> Result<Page, Error> {
    let mut page = Page::default();
    for (scanned, hour_us) in hours(client, &query.filter, after).await?.into_iter().enumerate() {
        // Each page reads an hour at least, so that a search makes progress.
        if scanned > 0 && Instant::now() >= deadline {
            page.timed_out = true;
            page.next = Some(cursor((hour_us + HOUR_US, 0, 0)));
            break;
        }
        let from = query.filter.from_us.unwrap_or(0).max(hour_us);
        let to = query.filter.to_us.unwrap_or(u64::MAX).min(hour_us + HOUR_US);
        let mut statement = conditions(&query.filter, from, to, after);
        let left = query.limit.min(MAX_PAGE).saturating_sub(page.rows.len());
        let _ = write!(
            statement.sql,
            " ORDER BY started_at DESC, source DESC, sequence DESC LIMIT {left}"
        );
        let sql = format!("SELECT {COLUMNS} FROM llm_lens.records{}", statement.sql);
        let params: Vec<&(dyn ToSql + Sync)> =
            statement.params.iter().map(|param| &**param as &(dyn ToSql + Sync)).collect();
        let rows = match client.query(&sql, &params).await.map_err(Error::from) {
            Err(error) if error.is_time_limit() && scanned > 0 => {
                page.timed_out = true;
                page.next = Some(cursor((hour_us + HOUR_US, 0, 0)));
                break;
            }
            rows => rows?,
        };
        for row in &rows {
            page.rows.push(read_row(row)?);
        }
        if page.rows.len() >= query.limit {
            page.next = rows.last().map(key).transpose()?.map(cursor);
            break;
        }
    }
    Ok(page)
}

/// The starts of hours that may have a match, newest first, in Unix microseconds.
async fn hours(
    client: &Client,
    filter: &Filter,
    after: Option<Position>,
) -> Result<Vec<u64>, Error> {
    let (mut fields, mut values) = (Vec::new(), Vec::new());
    for (field, text) in &filter.equals {
        fields.push(i16::from(field.code()));
        values.push(clean(&field.parse_text(text).unwrap_or_default()).into_owned());
    }
    if fields.is_empty() {
        // Each record has one of these.
        fields = vec![i16::from(Field::Stream.code()); 2];
        values = vec!["true".into(), "false".into()];
    }
    let mut distinct = fields.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let hour = |us: u64| time(us / HOUR_US * HOUR_US);
    let (from, mut to) = (hour(filter.from_us.unwrap_or(0)), filter.to_us.unwrap_or(u64::MAX));
    if let Some((at, ..)) = after {
        to = to.min(at);
    }
    let count = distinct.len() as i64;
    let found = client.query(HOURS, &[&fields, &values, &from, &time(to), &count]).await?;
    found.iter().map(|row| Ok(micros(row.try_get(0)?))).collect()
}

fn key(row: &tokio_postgres::Row) -> Result<Position, Error> {
    Ok((micros(row.try_get(0)?), row.try_get(1)?, row.try_get(2)?))
}

fn read_row(row: &tokio_postgres::Row) -> Result<Row, Error> {
    Ok(Row {
        started_at: micros(row.try_get(0)?),
        total_us: int(unsigned(row.try_get(3)?)),
        engine_ttft_us: row.try_get(4)?,
        client_ttft_us: row.try_get(5)?,
        tpot_us: row.try_get(6)?,
        route: row.try_get(7)?,
        backend: row.try_get(8)?,
        model: row.try_get(9)?,
        caller: row.try_get(10)?,
        owner: row.try_get(11)?,
        outcome: row.try_get(12)?,
        error_code: row.try_get(13)?,
        status: row.try_get::<_, Option<i32>>(14)?.map(i64::from),
        stream: row.try_get(15)?,
        input_tokens: row.try_get(16)?,
        output_tokens: row.try_get(17)?,
        estimated: row.try_get(18)?,
        cost: row.try_get(19)?,
        id: row.try_get(20)?,
        unique_id: row.try_get(21)?,
        trace_id: row.try_get(22)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_keys_and_other_text_is_refused() {
        let key = (1_767_312_000_000_001, 7, 12);
        assert_eq!(cursor(key).as_str(), "1767312000000001.7.12");
        assert_eq!(position(&cursor(key)).unwrap(), key);
        for wrong in ["", "1.2", "1.2.3.4", "1.2.x", "-1.2.3", "1.2.3; DROP TABLE x"] {
            assert!(position(&Cursor::new(wrong.into())).is_err(), "{wrong}");
        }
    }

    #[test]
    fn values_of_a_filter_are_parameters() {
        let filter = Filter {
            equals: vec![
                (Field::Model, "m' OR true --".into()),
                (Field::Status, "200".into()),
                (Field::Stream, "true".into()),
            ],
            slower_than_us: Some(5),
            ttft_over_us: Some(6),
            ..Filter::default()
        };
        let Statement { sql, params } = conditions(&filter, 1, 2, Some((9, 8, 7)));
        assert_eq!(
            sql,
            " WHERE started_at >= $1 AND started_at < $2 \
             AND (started_at, source, sequence) < ($3, $4, $5) AND model = $6 AND status = $7 \
             AND stream = $8 AND total_us > $9 AND client_ttft_us > $10"
        );
        assert_eq!(params.len(), 10);
        assert_eq!(format!("{:?}", params[5]), "\"m' OR true --\"");
        assert_eq!(format!("{:?}", params[6]), "Some(200)");
    }
}
