//! Columns from the values of rows.
//!
//! - *In*: columns of the table, and values by their names.
//! - *Out*: fields and arrays of Arrow. Parts are structs, several parts are lists of structs, and
//!   counts by name are lists of a name and a count.

use std::sync::Arc;

use arrow_array::{
    ArrayRef, BooleanArray, Float64Array, Int64Array, ListArray, StringArray, StructArray,
    TimestampMicrosecondArray, UInt64Array,
};
use arrow_buffer::{NullBuffer, OffsetBuffer};
use arrow_schema::{DataType, Field, Fields, TimeUnit};
use serde_json::Value;

use crate::column::{Column, Kind};
use crate::row::Values;

/// Name of the elements of a list.
const ELEMENT: &str = "item";
/// The columns of counts by name.
pub(super) const COUNT: [Column; 2] = [
    Column { number: 1, name: "name", kind: Kind::Text, unit: "", meaning: "" },
    Column { number: 2, name: "count", kind: Kind::Unsigned, unit: "", meaning: "" },
];

/// The fields of columns. Each may be null: other programs that read them do not differ.
pub(super) fn fields(columns: &[Column]) -> Fields {
    columns.iter().map(|column| Field::new(column.name, data_type(column.kind), true)).collect()
}

pub(super) fn data_type(kind: Kind) -> DataType {
    let list = |of| DataType::List(Arc::new(Field::new(ELEMENT, of, true)));
    match kind {
        Kind::Text => DataType::Utf8,
        Kind::Unsigned => DataType::UInt64,
        Kind::Signed => DataType::Int64,
        Kind::Float => DataType::Float64,
        Kind::Flag => DataType::Boolean,
        Kind::Time => DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Kind::Texts => list(DataType::Utf8),
        Kind::Counts => list(DataType::Struct(fields(&COUNT))),
        Kind::Struct(group) => DataType::Struct(fields(group.columns)),
        Kind::List(group) => list(DataType::Struct(fields(group.columns))),
    }
}

/// An array for each column.
pub(super) fn arrays(columns: &[Column], rows: &[Values]) -> Vec<ArrayRef> {
    let rows: Vec<Option<&Values>> = rows.iter().map(Some).collect();
    children(columns, &rows)
}

/// The arrays of parts, of which some are absent.
fn children(columns: &[Column], parts: &[Option<&Values>]) -> Vec<ArrayRef> {
    // A part that is there has all flags and lists.
    let is_there: Vec<bool> = parts.iter().map(Option::is_some).collect();
    let found = by_column(columns, parts);
    let arrays = columns.iter().zip(&found);
    arrays.map(|(column, values)| array(column.kind, values, &is_there)).collect()
}

/// For each column, its value in each part. The values of a part are sorted by name. The columns
/// are sorted once, so that one pass over a part finds all.
fn by_column<'v>(columns: &[Column], parts: &[Option<&'v Values>]) -> Vec<Vec<Option<&'v Value>>> {
    let mut order: Vec<usize> = (0..columns.len()).collect();
    order.sort_unstable_by_key(|&at| columns[at].name);
    let mut found = vec![vec![None; parts.len()]; columns.len()];
    for (row, part) in parts.iter().enumerate() {
        let mut wanted = order.iter().copied().peekable();
        for (name, value) in part.iter().flat_map(|values| values.iter()) {
            while wanted.next_if(|&at| columns[at].name < name.as_str()).is_some() {}
            if let Some(at) = wanted.next_if(|&at| columns[at].name == name) {
                found[at][row] = Some(value);
            }
        }
    }
    found
}

fn array(kind: Kind, values: &[Option<&Value>], is_there: &[bool]) -> ArrayRef {
    let all = || values.iter().copied();
    match kind {
        Kind::Text => {
            Arc::new(all().map(|value| value.and_then(Value::as_str)).collect::<StringArray>())
        }
        Kind::Unsigned => {
            Arc::new(all().map(|value| value.and_then(Value::as_u64)).collect::<UInt64Array>())
        }
        Kind::Signed => {
            Arc::new(all().map(|value| value.and_then(Value::as_i64)).collect::<Int64Array>())
        }
        Kind::Float => {
            Arc::new(all().map(|value| value.and_then(Value::as_f64)).collect::<Float64Array>())
        }
        Kind::Flag => {
            let flag = |(value, there): (Option<&Value>, &bool)| {
                there.then(|| value.and_then(Value::as_bool).unwrap_or(false))
            };
            Arc::new(all().zip(is_there).map(flag).collect::<BooleanArray>())
        }
        Kind::Time => {
            let times = all().map(|value| value.and_then(Value::as_i64));
            Arc::new(times.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
        }
        Kind::Struct(group) => {
            let parts: Vec<Option<&Values>> =
                all().map(|value| value.and_then(Value::as_object)).collect();
            Arc::new(structs(group.columns, &parts))
        }
        Kind::Texts => {
            let (offsets, texts) = flatten(values);
            let texts: StringArray = texts.into_iter().map(Value::as_str).collect();
            list(DataType::Utf8, offsets, Arc::new(texts), is_there)
        }
        Kind::List(group) => {
            let (offsets, parts) = flatten(values);
            let parts: Vec<Option<&Values>> = parts.into_iter().map(Value::as_object).collect();
            let of = DataType::Struct(fields(group.columns));
            list(of, offsets, Arc::new(structs(group.columns, &parts)), is_there)
        }
        Kind::Counts => counts(values, is_there),
    }
}

fn structs(columns: &[Column], parts: &[Option<&Values>]) -> StructArray {
    let nulls = NullBuffer::from_iter(parts.iter().map(Option::is_some));
    StructArray::new(fields(columns), children(columns, parts), Some(nulls))
}

/// The elements of all lists, and where each list ends.
fn flatten<'v>(lists: &[Option<&'v Value>]) -> (OffsetBuffer<i32>, Vec<&'v Value>) {
    let elements = |list: &Option<&'v Value>| {
        list.and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
    };
    let lengths = OffsetBuffer::from_lengths(lists.iter().map(|list| elements(list).len()));
    (lengths, lists.iter().flat_map(elements).collect())
}

fn list(of: DataType, ends: OffsetBuffer<i32>, elements: ArrayRef, is_there: &[bool]) -> ArrayRef {
    let nulls = NullBuffer::from_iter(is_there.iter().copied());
    Arc::new(ListArray::new(Arc::new(Field::new(ELEMENT, of, true)), ends, elements, Some(nulls)))
}

fn counts(values: &[Option<&Value>], is_there: &[bool]) -> ArrayRef {
    let maps: Vec<Option<&Values>> =
        values.iter().map(|value| value.and_then(Value::as_object)).collect();
    let ends = OffsetBuffer::from_lengths(maps.iter().map(|map| map.map_or(0, Values::len)));
    let entries = || maps.iter().flatten().flat_map(|map| map.iter());
    let names: StringArray = entries().map(|(name, _)| Some(name.as_str())).collect();
    let numbers: UInt64Array = entries().map(|(_, count)| count.as_u64()).collect();
    let columns: Vec<ArrayRef> = vec![Arc::new(names), Arc::new(numbers)];
    let of = fields(&COUNT);
    let elements = StructArray::new(of.clone(), columns, None);
    list(DataType::Struct(of), ends, Arc::new(elements), is_there)
}
