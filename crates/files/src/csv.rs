//! CSV by RFC 4180, with a header. Nested parts are JSON; times are RFC 3339.
//!
//! - *In*: rows, or text. Columns may be in any order, and some may be missing.
//! - *Out*: text, or rows. An empty field is absent, and `""` is an empty text.
//! - *Never*: a line break or a quote that ends a field too early; a text that is changed, also one
//!   that a spreadsheet takes for a formula.

use std::io::BufRead;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::column::{COLUMNS, Column, Kind};
use crate::reader::{MAX_ROW, ReadError, Reader, append_line, too_long};
use crate::row::{Row, Values};

/// The first line.
pub(crate) fn header() -> Vec<u8> {
    let names: Vec<&str> = COLUMNS.iter().map(|column| column.name).collect();
    format!("{}\n", names.join(",")).into_bytes()
}

/// Append a row.
pub(crate) fn encode(row: &Row, out: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let values = row.values()?;
    for (at, column) in COLUMNS.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        match (column.kind, values.get(column.name)) {
            (Kind::Flag, None) => out.extend(b"false"),
            (_, None | Some(Value::Null)) => {}
            (Kind::Text, Some(Value::String(text))) => put_text(out, text),
            (Kind::Time, Some(value)) => out.extend(time_text(value).as_bytes()),
            (Kind::Unsigned | Kind::Signed | Kind::Float | Kind::Flag, Some(value)) => {
                out.extend(value.to_string().as_bytes());
            }
            (_, Some(nested)) => put_text(out, &nested.to_string()),
        }
    }
    out.push(b'\n');
    Ok(())
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let is_plain = !text.is_empty()
        && text.trim() == text
        && !text.contains(|c: char| matches!(c, ',' | '"') || c.is_control());
    if is_plain {
        return out.extend(text.as_bytes());
    }
    out.push(b'"');
    out.extend(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

fn time_text(us: &Value) -> String {
    let at = us.as_i64().and_then(|us| Timestamp::from_microsecond(us).ok());
    at.map(|at| format!("{at:.6}")).unwrap_or_default()
}

pub(crate) struct CsvReader<R> {
    input: R,
    /// The column of each field; `None`: this version does not know it.
    columns: Vec<Option<&'static Column>>,
    record: Vec<u8>,
    /// Lines that are read.
    lines: u64,
    position: u64,
}

impl<R: BufRead> CsvReader<R> {
    /// Reads the header. An empty file has no rows.
    pub(crate) fn new(input: R) -> Result<Self, ReadError> {
        let mut reader =
            CsvReader { input, columns: Vec::new(), record: Vec::new(), lines: 0, position: 0 };
        if !reader.read_record()? {
            return Ok(reader);
        }
        let text = std::str::from_utf8(&reader.record)
            .map_err(|_| ReadError::row("line 1", "the header is not UTF-8"))?;
        let names = fields(text.trim_start_matches('\u{feff}'))
            .map_err(|problem| ReadError::row("line 1", problem))?;
        for (at, name) in names.iter().enumerate() {
            if names.iter().take(at).any(|earlier| earlier.text == name.text) {
                let problem = format!("the header has the column {:?} twice", name.text);
                return Err(ReadError::row("line 1", problem));
            }
            reader.columns.push(COLUMNS.iter().find(|column| column.name == name.text));
        }
        for needed in ["id", "started_at", "ledger_us"] {
            if !reader.columns.iter().flatten().any(|column| column.name == needed) {
                let problem = format!("the header has no column {needed:?}");
                return Err(ReadError::row("line 1", problem));
            }
        }
        Ok(reader)
    }

    /// Reads a record, of several lines if a field has line breaks, without its last line break.
    fn read_record(&mut self) -> Result<bool, ReadError> {
        self.record.clear();
        let first = self.lines + 1;
        let mut quotes = 0;
        loop {
            let from = self.record.len();
            if !append_line(&mut self.input, &mut self.record)? {
                return match self.record.is_empty() {
                    true => Ok(false),
                    false => Err(ReadError::row(format!("line {first}"), "a quote is not closed")),
                };
            }
            self.lines += 1;
            if self.record.len() > MAX_ROW {
                return Err(ReadError::row(format!("line {first}"), too_long()));
            }
            quotes += self.record[from..].iter().filter(|byte| **byte == b'"').count();
            if quotes % 2 == 0 {
                break;
            }
        }
        // The last field may be cut, which cannot be seen.
        let bytes = self.record.len() as u64;
        if self.record.pop() != Some(b'\n') {
            let problem = "the file ends inside of a row: its last line break is missing";
            return Err(ReadError::row(format!("line {first}"), problem));
        }
        if self.record.ends_with(b"\r") {
            self.record.pop();
        }
        self.position += bytes;
        Ok(true)
    }
}

impl<R: BufRead + Send> Reader for CsvReader<R> {
    fn read(&mut self) -> Result<Option<Row>, ReadError> {
        loop {
            let (line, before) = (self.lines + 1, self.position);
            if !self.read_record()? {
                return Ok(None);
            }
            if self.record.is_empty() {
                continue;
            }
            let after = std::mem::replace(&mut self.position, before);
            let row = self.row().map_err(|problem| ReadError::row(format!("line {line}"), problem));
            return row.map(|row| {
                self.position = after;
                Some(row)
            });
        }
    }

    fn position(&self) -> u64 {
        self.position
    }
}

impl<R> CsvReader<R> {
    fn row(&self) -> Result<Row, String> {
        let text = std::str::from_utf8(&self.record).map_err(|_| "not UTF-8")?;
        let fields = fields(text)?;
        if fields.len() != self.columns.len() {
            let (has, header) = (fields.len(), self.columns.len());
            return Err(format!("{has} fields, but the header has {header}"));
        }
        let mut values = Map::new();
        for (field, column) in fields.iter().zip(&self.columns) {
            let Some(column) = column else { continue };
            put_value(&mut values, column, field)
                .map_err(|problem| format!("column {}: {problem}", column.name))?;
        }
        Row::from_values(values).map_err(|error| error.to_string())
    }
}

/// A field of a record.
#[derive(Debug, PartialEq)]
struct Field {
    text: String,
    is_quoted: bool,
}

/// The fields of a record without its line break.
fn fields(mut rest: &str) -> Result<Vec<Field>, String> {
    let mut all = Vec::new();
    loop {
        let (field, after) = match rest.strip_prefix('"') {
            Some(quoted) => quoted_field(quoted)?,
            None => {
                let (text, after) = rest.split_at(rest.find(',').unwrap_or(rest.len()));
                if text.contains('"') {
                    return Err(format!("field {}: a quote inside of it", all.len() + 1));
                }
                (Field { text: text.to_owned(), is_quoted: false }, after)
            }
        };
        all.push(field);
        match after.strip_prefix(',') {
            Some(next) => rest = next,
            None if after.is_empty() => return Ok(all),
            None => return Err(format!("field {}: text after its closing quote", all.len())),
        }
    }
}

/// A field after its first quote, and what follows it.
fn quoted_field(mut rest: &str) -> Result<(Field, &str), String> {
    let mut text = String::new();
    loop {
        let (before, after) = rest.split_once('"').ok_or("a quote is not closed")?;
        text.push_str(before);
        match after.strip_prefix('"') {
            Some(next) => {
                text.push('"');
                rest = next;
            }
            None => return Ok((Field { text, is_quoted: true }, after)),
        }
    }
}

fn put_value(values: &mut Values, column: &Column, field: &Field) -> Result<(), String> {
    let text = field.text.as_str();
    if text.is_empty() && !(field.is_quoted && column.kind == Kind::Text) {
        return Ok(());
    }
    let wrong = |wanted: &str| format!("{:?} is not {wanted}", cut(text));
    let number = |number: Option<Value>| number.ok_or_else(|| wrong("a number"));
    let value = match column.kind {
        Kind::Text => json!(text),
        Kind::Unsigned => number(text.parse::<u64>().ok().map(Value::from))?,
        Kind::Signed => number(text.parse::<i64>().ok().map(Value::from))?,
        Kind::Float => number(text.parse::<f64>().ok().filter(|f| f.is_finite()).map(Value::from))?,
        Kind::Flag => match text.to_ascii_lowercase().as_str() {
            "true" => json!(true),
            "false" => json!(false),
            _ => return Err(wrong("true or false")),
        },
        Kind::Time => {
            let at: Option<Timestamp> = text.parse().ok();
            let us = at.and_then(|at| u64::try_from(at.as_microsecond()).ok());
            json!(us.ok_or_else(|| wrong("a time such as 2026-01-31T12:00:00Z"))?)
        }
        Kind::Texts | Kind::Counts | Kind::Struct(_) | Kind::List(_) => {
            serde_json::from_str(text).map_err(|error| format!("not JSON: {error}"))?
        }
    };
    values.insert(column.name.to_owned(), value);
    Ok(())
}

/// The part of a text for an error.
fn cut(text: &str) -> &str {
    text.get(..text.floor_char_boundary(60)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_have_quotes_commas_and_line_breaks() {
        let text = "a,\"\",,\"b\"\"c,\nd\",ü";
        let found = fields(text).unwrap();
        let texts: Vec<&str> = found.iter().map(|field| field.text.as_str()).collect();
        assert_eq!(texts, ["a", "", "", "b\"c,\nd", "ü"]);
        assert_eq!((found[1].is_quoted, found[2].is_quoted), (true, false));
        for (wrong, known) in
            [("a\"b", "inside"), ("\"a\"b", "after its closing"), ("\"a", "not closed")]
        {
            assert!(fields(wrong).unwrap_err().contains(known), "{wrong}");
        }
    }

    #[test]
    fn written_texts_come_back() {
        for text in ["", " ", "a", "a,b", "\"", "a\r\nb", "\r", "=1+1", "\u{0}\u{feff}é", "\"\""] {
            let mut out = Vec::new();
            put_text(&mut out, text);
            let found = fields(std::str::from_utf8(&out).unwrap()).unwrap();
            assert_eq!((found.len(), found[0].text.as_str()), (1, text));
            assert!(!text.is_empty() || found[0].is_quoted);
        }
    }
}
