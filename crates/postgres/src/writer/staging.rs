//! Rows of a batch: copied to the temporary table, and from there to the records.
//!
//! - *In*: rows.
//! - *Out*: the keys of those that are new.

use std::collections::HashSet;
use std::pin::pin;

use lens::Record;
use observatory::RecordKey;
use store::Field;
use tokio_postgres::Transaction;
use tokio_postgres::binary_copy::BinaryCopyInWriter;
use tokio_postgres::types::{ToSql, Type};

use super::Row;
use crate::error::Error;
use crate::value::{self, clean, int};

/// Columns with their types, in the order of [`values`].
const COLUMNS: [(&str, Type); 25] = [
    ("started_at", Type::TIMESTAMPTZ),
    ("source", Type::INT4),
    ("sequence", Type::INT8),
    ("total_us", Type::INT8),
    ("engine_ttft_us", Type::INT8),
    ("client_ttft_us", Type::INT8),
    ("tpot_us", Type::FLOAT8),
    ("route", Type::TEXT),
    ("backend", Type::TEXT),
    ("model", Type::TEXT),
    ("caller", Type::TEXT),
    ("owner", Type::TEXT),
    ("outcome", Type::TEXT),
    ("error_code", Type::TEXT),
    ("status", Type::INT4),
    ("stream", Type::BOOL),
    ("input_tokens", Type::INT8),
    ("output_tokens", Type::INT8),
    ("estimated", Type::BOOL),
    ("cost", Type::FLOAT8),
    ("id", Type::TEXT),
    ("unique_id", Type::TEXT),
    ("trace_id", Type::TEXT),
    ("chunk", Type::INT8),
    ("line", Type::INT4),
];

/// Copies rows to the temporary table.
pub(super) async fn copy(change: &Transaction<'_>, rows: &[Row<'_>]) -> Result<(), Error> {
    let columns = names();
    let copy = format!("COPY llm_lens_staging ({columns}) FROM STDIN (FORMAT binary)");
    let sink = change.copy_in(&copy).await?;
    let mut writer = pin!(BinaryCopyInWriter::new(sink, &COLUMNS.map(|(_, kind)| kind)));
    for row in rows {
        let values = values(row);
        let values: Vec<&(dyn ToSql + Sync)> =
            values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
        writer.as_mut().write(&values).await?;
    }
    writer.finish().await?;
    Ok(())
}

/// Inserts what was copied. Returns the keys of the new records.
pub(super) async fn insert(change: &Transaction<'_>) -> Result<HashSet<(i32, i64)>, Error> {
    let columns = names();
    let insert = format!(
        "INSERT INTO llm_lens.records ({columns}) SELECT {columns} FROM llm_lens_staging
         ORDER BY started_at, source, sequence ON CONFLICT DO NOTHING RETURNING source, sequence"
    );
    let inserted = change.query(&insert, &[]).await?;
    inserted.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
}

fn names() -> String {
    COLUMNS.map(|(name, _)| name).join(", ")
}

type Value<'r> = Box<dyn ToSql + Sync + Send + 'r>;

/// The values of a row.
fn values<'r>(row: &Row<'r>) -> Vec<Value<'r>> {
    let RecordKey { sequence, .. } = row.numbered.key;
    let record: &'r Record = &row.numbered.record;
    let usage = record.usage.as_ref();
    let number = |number: Option<u64>| -> Value<'r> { Box::new(number.map(int)) };
    let id = |text: Option<&'r str>| -> Value<'r> { Box::new(text.map(value::id)) };
    let mut values: Vec<Value<'r>> = vec![
        Box::new(value::time(value::started_us(record))),
        Box::new(row.source),
        Box::new(int(sequence)),
        Box::new(int(record.total_us)),
        number(record.engine_ttft_us),
        number(record.client_ttft_us),
        Box::new(record.tpot_us),
    ];
    values.extend(Field::ALL.map(|field| label(field, record)));
    values.extend([
        number(usage.and_then(|usage| usage.prompt_tokens)),
        number(usage.and_then(|usage| usage.completion_tokens)),
        Box::new(usage.is_some_and(|usage| usage.estimated)),
        Box::new(record.cost),
        id(Some(&record.id)),
        id(record.unique_id.as_deref()),
        id(record.trace_id.as_deref()),
        Box::new(row.chunk),
        Box::new(row.line),
    ]);
    values
}

/// The value of a field's column.
fn label<'r>(field: Field, record: &'r Record) -> Value<'r> {
    match field {
        Field::Status => Box::new(record.http_status.map(i32::from)),
        Field::Stream => Box::new(record.stream),
        _ => Box::new(field.text(record).map(|text| clean(&text).into_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `values` puts the fields where the columns are.
    #[test]
    fn columns_of_fields_are_in_the_order_of_fields() {
        let names: Vec<&str> = COLUMNS.iter().map(|(name, _)| *name).collect();
        assert_eq!(names[7..16], Field::ALL.map(Field::name));
        let schema = include_str!("../schema.sql");
        let table = schema.split("CREATE TABLE llm_lens.records (").nth(1).unwrap();
        let declared: Vec<&str> = table
            .lines()
            .skip(1)
            .map(|line| line.split_whitespace().next().unwrap_or_default())
            .take_while(|word| *word != "--")
            .collect();
        assert_eq!(names, declared);
    }
}
