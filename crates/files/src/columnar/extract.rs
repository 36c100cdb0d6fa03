//! Values of rows from columns.
//!
//! - *In*: batches of a file whose schema was checked.
//! - *Out*: values by the names of columns. Columns of other names are left out.
//! - *Never*: a column of another type, which is refused with its name.

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Float64Type, Int64Type, TimestampMicrosecondType, UInt64Type};
use arrow_array::{Array, ArrayRef, RecordBatch, StructArray};
use arrow_schema::{DataType, Field, Fields, Schema};
use serde_json::{Map, Number, Value};

use super::build::COUNT;
use crate::column::{COLUMNS, Column, Kind};
use crate::row::Values;

/// Whether the columns of a file have the types of the table.
pub(super) fn check(schema: &Schema) -> Result<(), String> {
    for needed in ["id", "started_at", "ledger_us"] {
        if schema.column_with_name(needed).is_none() {
            return Err(format!("there is no column {needed:?}"));
        }
    }
    check_fields("", COLUMNS, schema.fields())
}

fn check_fields(prefix: &str, columns: &[Column], fields: &Fields) -> Result<(), String> {
    for field in fields {
        if let Some(column) = columns.iter().find(|column| column.name == field.name()) {
            check_field(&format!("{prefix}{}", column.name), column.kind, field)?;
        }
    }
    Ok(())
}

fn check_field(name: &str, kind: Kind, field: &Field) -> Result<(), String> {
    let inside = format!("{name}.");
    match (kind, field.data_type()) {
        (Kind::Struct(group), DataType::Struct(fields)) => {
            check_fields(&inside, group.columns, fields)
        }
        (Kind::List(group), DataType::List(element)) => match element.data_type() {
            DataType::Struct(fields) => check_fields(&inside, group.columns, fields),
            other => Err(unlike(name, other)),
        },
        (Kind::Counts, DataType::List(element)) => match element.data_type() {
            DataType::Struct(fields) => check_fields(&inside, &COUNT, fields),
            other => Err(unlike(name, other)),
        },
        (Kind::Texts, DataType::List(element)) if element.data_type() == &DataType::Utf8 => Ok(()),
        (kind, has) if has == &super::build::data_type(kind) => Ok(()),
        (_, has) => Err(unlike(name, has)),
    }
}

fn unlike(name: &str, has: &DataType) -> String {
    format!("the column {name:?} has the type {has}, which records do not have there")
}

/// The rows of a batch.
pub(super) fn rows(batch: &RecordBatch) -> Vec<Values> {
    let columns: Vec<(&Column, &ArrayRef)> = COLUMNS
        .iter()
        .filter_map(|column| Some((column, batch.column_by_name(column.name)?)))
        .collect();
    (0..batch.num_rows()).map(|row| part(&columns, row)).collect()
}

fn part(columns: &[(&Column, &ArrayRef)], row: usize) -> Values {
    let value = |(column, array): &(&Column, &ArrayRef)| {
        let value = value(column.kind, array, row)?;
        Some((column.name.to_owned(), value))
    };
    columns.iter().filter_map(value).collect()
}

/// `None`: it is absent.
fn value(kind: Kind, array: &ArrayRef, row: usize) -> Option<Value> {
    if array.is_null(row) {
        return None;
    }
    Some(match kind {
        Kind::Text => Value::from(array.as_string::<i32>().value(row)),
        Kind::Unsigned => Value::from(array.as_primitive::<UInt64Type>().value(row)),
        Kind::Signed => Value::from(array.as_primitive::<Int64Type>().value(row)),
        // Not-a-number is absent, as in JSON.
        Kind::Float => {
            Value::Number(Number::from_f64(array.as_primitive::<Float64Type>().value(row))?)
        }
        Kind::Flag => Value::from(array.as_boolean().value(row)),
        Kind::Time => Value::from(array.as_primitive::<TimestampMicrosecondType>().value(row)),
        Kind::Struct(group) => Value::Object(part(&members(group.columns, array.as_struct()), row)),
        Kind::Texts => {
            let texts = array.as_list::<i32>().value(row);
            let texts = texts.as_string::<i32>().iter().flatten().map(Value::from);
            Value::Array(texts.collect())
        }
        Kind::List(group) => {
            let parts = array.as_list::<i32>().value(row);
            let columns = members(group.columns, parts.as_struct());
            Value::Array((0..parts.len()).map(|at| Value::Object(part(&columns, at))).collect())
        }
        Kind::Counts => {
            let entries = array.as_list::<i32>().value(row);
            let columns = members(&COUNT, entries.as_struct());
            let entry = |at| {
                let mut entry = part(&columns, at);
                let name = entry.get("name")?.as_str()?.to_owned();
                Some((name, entry.remove("count")?))
            };
            Value::Object((0..entries.len()).filter_map(entry).collect::<Map<_, _>>())
        }
    })
}

fn members<'a>(columns: &'a [Column], parts: &'a StructArray) -> Vec<(&'a Column, &'a ArrayRef)> {
    columns.iter().filter_map(|column| Some((column, parts.column_by_name(column.name)?))).collect()
}
