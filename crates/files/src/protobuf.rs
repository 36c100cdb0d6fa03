//! Protobuf: messages of `schema/record.proto`, each after its length, as `parseDelimitedFrom`
//! reads them.
//!
//! - *In*: rows, or bytes. Unknown fields are skipped.
//! - *Out*: bytes, or rows; the text of `record.proto`.
//! - *Never*: a message over [`MAX_ROW`], or a length that is trusted. Field numbers come from
//!   [`COLUMNS`], so the schema and the code cannot differ.

use std::fmt::Write as _;
use std::io::{BufRead, Read as _};

use lens::varint;
use serde_json::{Map, Number, Value};

use crate::column::{COLUMNS, Column, Group, Kind};
use crate::reader::{MAX_ROW, ReadError, Reader, too_long};
use crate::row::{Row, Values};

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH: u64 = 2;
const FIXED_32: u64 = 5;

/// Append a row.
pub(crate) fn encode(row: &Row, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let mut message = Vec::with_capacity(1024);
    put_message(COLUMNS, &row.values()?, &mut message);
    put_bytes(out, &message);
    Ok(())
}

fn put_message(columns: &[Column], values: &Values, out: &mut Vec<u8>) {
    for column in columns {
        if let Some(value) = values.get(column.name) {
            put_field(column, value, out);
        }
    }
}

fn put_field(column: &Column, value: &Value, out: &mut Vec<u8>) {
    let key = |wire| u64::from(column.number) << 3 | wire;
    let mut put_part = |part: &[u8]| {
        varint::put(out, key(LENGTH));
        put_bytes(out, part);
    };
    match (column.kind, value) {
        (Kind::Text, Value::String(text)) => put_part(text.as_bytes()),
        (Kind::Texts, Value::Array(texts)) => {
            texts.iter().filter_map(Value::as_str).for_each(|text| put_part(text.as_bytes()));
        }
        (Kind::Counts, Value::Object(counts)) => {
            for (name, count) in counts {
                let mut entry = Vec::new();
                varint::put(&mut entry, 1 << 3 | LENGTH);
                put_bytes(&mut entry, name.as_bytes());
                varint::put(&mut entry, 2 << 3 | VARINT);
                varint::put(&mut entry, count.as_u64().unwrap_or(0));
                put_part(&entry);
            }
        }
        (Kind::Struct(group), Value::Object(values)) => put_part(&message(group, values)),
        (Kind::List(group), Value::Array(parts)) => {
            let parts = parts.iter().filter_map(Value::as_object);
            parts.for_each(|values| put_part(&message(group, values)));
        }
        (kind, value) => {
            if let Some((wire, bits)) = scalar(kind, value) {
                varint::put(out, key(wire));
                match wire {
                    FIXED_64 => out.extend(bits.to_le_bytes()),
                    _ => varint::put(out, bits),
                }
            }
        }
    }
}

/// Wire type and bits of a number; `None` if it is absent.
fn scalar(kind: Kind, value: &Value) -> Option<(u64, u64)> {
    match kind {
        Kind::Unsigned | Kind::Time => Some((VARINT, value.as_u64()?)),
        Kind::Signed => Some((VARINT, zigzag(value.as_i64()?))),
        Kind::Float => Some((FIXED_64, value.as_f64()?.to_bits())),
        Kind::Flag => value.as_bool().filter(|flag| *flag).map(|_| (VARINT, 1)),
        _ => None,
    }
}

fn message(group: &Group, values: &Values) -> Vec<u8> {
    let mut out = Vec::new();
    put_message(group.columns, values, &mut out);
    out
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    varint::put(out, bytes.len() as u64);
    out.extend(bytes);
}

fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)) as u64
}

fn unzigzag(bits: u64) -> i64 {
    (bits >> 1) as i64 ^ -((bits & 1) as i64)
}

pub(crate) struct ProtobufReader<R> {
    input: R,
    message: Vec<u8>,
    position: u64,
}

impl<R: BufRead> ProtobufReader<R> {
    pub(crate) fn new(input: R) -> Self {
        ProtobufReader { input, message: Vec::new(), position: 0 }
    }

    /// Reads a message to `self.message`; returns its bytes with the length, or `None` at the end.
    fn read_message(&mut self) -> Result<Option<u64>, ReadError> {
        let wrong = |problem: &str| ReadError::row(format!("byte {}", self.position), problem);
        let mut prefix = Vec::new();
        let length = loop {
            let mut byte = [0];
            match self.input.read(&mut byte)? {
                0 if prefix.is_empty() => return Ok(None),
                0 => return Err(wrong("the file ends inside of a length")),
                _ => prefix.push(byte[0]),
            }
            if byte[0] < 0x80 || prefix.len() == 10 {
                let length = varint::take(&mut prefix.as_slice());
                break length.ok_or_else(|| wrong("the length is malformed"))?;
            }
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= MAX_ROW);
        let length = length.ok_or_else(|| wrong(&too_long()))?;
        self.message.clear();
        let read = (&mut self.input).take(length as u64).read_to_end(&mut self.message)?;
        if read < length {
            return Err(wrong("the file ends inside of a message"));
        }
        Ok(Some((prefix.len() + length) as u64))
    }
}

impl<R: BufRead + Send> Reader for ProtobufReader<R> {
    fn read(&mut self) -> Result<Option<Row>, ReadError> {
        let Some(bytes) = self.read_message()? else { return Ok(None) };
        let place = || format!("byte {}", self.position);
        let mut values = take_message(COLUMNS, &self.message)
            .map_err(|problem| ReadError::row(place(), problem))?;
        // A ledger without time has no bytes, and writers may leave out zeros.
        values.entry("ledger_us").or_insert_with(|| Value::Object(Map::new()));
        let row = Row::from_values(values).map_err(|error| ReadError::row(place(), error))?;
        self.position += bytes;
        Ok(Some(row))
    }

    fn position(&self) -> u64 {
        self.position
    }
}

/// A value on the wire.
enum Wire<'m> {
    Bits(u64),
    Bytes(&'m [u8]),
}

fn take_message(columns: &[Column], mut rest: &[u8]) -> Result<Values, String> {
    let mut values = Map::new();
    while !rest.is_empty() {
        let key = varint::take(&mut rest).ok_or("a field number is malformed")?;
        let wire = take_wire(key & 7, &mut rest)
            .ok_or_else(|| format!("field {} is malformed", key >> 3))?;
        let column = columns.iter().find(|column| u64::from(column.number) == key >> 3);
        if let Some(column) = column {
            let wanted = match column.kind {
                Kind::Float => FIXED_64,
                Kind::Unsigned | Kind::Signed | Kind::Flag | Kind::Time => VARINT,
                _ => LENGTH,
            };
            if key & 7 != wanted {
                return Err(format!("field {} has the wrong wire type", column.name));
            }
            take_value(&mut values, column, wire)
                .map_err(|problem| format!("field {}: {problem}", column.name))?;
        }
    }
    // A flag that is false has no bytes.
    for flag in columns.iter().filter(|column| column.kind == Kind::Flag) {
        values.entry(flag.name).or_insert(Value::Bool(false));
    }
    Ok(values)
}

fn take_wire<'m>(wire: u64, rest: &mut &'m [u8]) -> Option<Wire<'m>> {
    let length = match wire {
        VARINT => return varint::take(rest).map(Wire::Bits),
        FIXED_64 => 8,
        LENGTH => usize::try_from(varint::take(rest)?).ok()?,
        FIXED_32 => 4,
        _ => return None,
    };
    let (bytes, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(match bytes.try_into() {
        Ok(bits) if wire == FIXED_64 => Wire::Bits(u64::from_le_bytes(bits)),
        _ => Wire::Bytes(bytes),
    })
}

fn take_value(values: &mut Values, column: &Column, wire: Wire<'_>) -> Result<(), String> {
    let text = |bytes: &[u8]| {
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| "not UTF-8".to_owned())
    };
    let value = match (column.kind, wire) {
        (Kind::Unsigned | Kind::Time, Wire::Bits(bits)) => Value::from(bits),
        (Kind::Signed, Wire::Bits(bits)) => Value::from(unzigzag(bits)),
        // Not-a-number is absent, as in JSON.
        (Kind::Float, Wire::Bits(bits)) => {
            Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)
        }
        (Kind::Flag, Wire::Bits(bits)) => Value::from(bits != 0),
        (Kind::Text, Wire::Bytes(bytes)) => Value::from(text(bytes)?),
        (Kind::Struct(group), Wire::Bytes(bytes)) => {
            Value::Object(take_message(group.columns, bytes)?)
        }
        (Kind::Texts, Wire::Bytes(bytes)) => return push(values, column, text(bytes)?.into()),
        (Kind::List(group), Wire::Bytes(bytes)) => {
            let part = take_message(group.columns, bytes)?;
            return push(values, column, Value::Object(part));
        }
        (Kind::Counts, Wire::Bytes(bytes)) => return take_count(values, column, bytes),
        (_, _) => return Err("the wrong wire type".into()),
    };
    values.insert(column.name.to_owned(), value);
    Ok(())
}

fn push(values: &mut Values, column: &Column, value: Value) -> Result<(), String> {
    let list = values.entry(column.name).or_insert_with(|| Value::Array(Vec::new()));
    list.as_array_mut().ok_or("not a list")?.push(value);
    Ok(())
}

/// An entry of a map.
fn take_count(values: &mut Values, column: &Column, entry: &[u8]) -> Result<(), String> {
    const ENTRY: [Column; 2] = [
        Column { number: 1, name: "key", kind: Kind::Text, unit: "", meaning: "" },
        Column { number: 2, name: "value", kind: Kind::Unsigned, unit: "", meaning: "" },
    ];
    let mut entry = take_message(&ENTRY, entry)?;
    let name = entry.get("key").and_then(Value::as_str).unwrap_or_default().to_owned();
    let count = entry.remove("value").unwrap_or_else(|| 0.into());
    let counts = values.entry(column.name).or_insert_with(|| Value::Object(Map::new()));
    counts.as_object_mut().ok_or("not a map")?.insert(name, count);
    Ok(())
}

/// The text of `record.proto`.
pub fn schema() -> String {
    let mut out = "\
// SPDX-License-Identifier: Apache-2.0
// Generated from the table of columns in src/column.rs. Field numbers are never used again.
//
// A file has messages `Record`, each after its length as a varint.
syntax = \"proto3\";

package llm_lens.v1;
"
    .to_owned();
    let mut done = Vec::new();
    put_schema(&mut out, "Record", COLUMNS, &mut done);
    out
}

fn put_schema(out: &mut String, name: &'static str, columns: &[Column], done: &mut Vec<&str>) {
    if done.contains(&name) {
        return;
    }
    done.push(name);
    let _ = writeln!(out, "\nmessage {name} {{");
    for column in columns {
        let unit = match column.unit {
            "" => String::new(),
            unit => format!(" Unit: {unit}."),
        };
        let _ = writeln!(out, "  // {}{unit}", column.meaning);
        let kind = match column.kind {
            Kind::Text => "optional string".to_owned(),
            Kind::Unsigned | Kind::Time => "optional uint64".to_owned(),
            Kind::Signed => "optional sint64".to_owned(),
            Kind::Float => "optional double".to_owned(),
            Kind::Flag => "bool".to_owned(),
            Kind::Texts => "repeated string".to_owned(),
            Kind::Counts => "map<string, uint64>".to_owned(),
            Kind::Struct(group) => group.name.to_owned(),
            Kind::List(group) => format!("repeated {}", group.name),
        };
        let _ = writeln!(out, "  {kind} {} = {};", column.name, column.number);
    }
    out.push_str("}\n");
    columns
        .iter()
        .filter_map(|column| column.kind.group())
        .for_each(|group| put_schema(out, group.name, group.columns, done));
}
