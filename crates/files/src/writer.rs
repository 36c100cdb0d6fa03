//! Rows as bytes of a format.
//!
//! - *In*: rows.
//! - *Out*: bytes that may be appended to a file of the format.
//! - *Never*: bytes of Arrow or Parquet: files of columns are made at their end, from rows in
//!   MessagePack.

use std::io::{self, Write};

use lens::RecordFormat;

use crate::{Row, columnar, csv, json_lines, message_pack, protobuf};

/// Why a row cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The output cannot be written.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The row has a value that the format does not have.
    #[error("{0}")]
    Row(String),
    /// This build does not write the format, or not there.
    #[error("{0}")]
    Unsupported(String),
}

/// Whether this build reads and writes a format.
///
/// # Errors
/// The missing feature.
pub fn is_supported(format: RecordFormat) -> Result<(), String> {
    match format.is_columnar() && !columnar::SUPPORTED {
        true => Err(format!("format {}: this build has no feature `arrow`", format.name())),
        false => Ok(()),
    }
}

/// The format in which rows of a file wait until it is complete.
pub(crate) fn row_format(format: RecordFormat) -> RecordFormat {
    if format.is_columnar() { RecordFormat::Msgpack } else { format }
}

/// What a file of rows begins with.
pub(crate) fn header(format: RecordFormat) -> Vec<u8> {
    match format {
        RecordFormat::Csv => csv::header(),
        _ => Vec::new(),
    }
}

/// Append a row to `out`; nothing if it fails.
pub(crate) fn encode(format: RecordFormat, row: &Row, out: &mut Vec<u8>) -> Result<(), WriteError> {
    let before = out.len();
    let result = match format {
        RecordFormat::Jsonl => json_lines::encode(row, out).map_err(|error| error.to_string()),
        RecordFormat::Csv => csv::encode(row, out).map_err(|error| error.to_string()),
        RecordFormat::Protobuf => protobuf::encode(row, out).map_err(|error| error.to_string()),
        RecordFormat::Msgpack | RecordFormat::Arrow | RecordFormat::Parquet => {
            message_pack::encode(row, out).map_err(|error| error.to_string())
        }
    };
    let result = result.and_then(|()| match out.len() - before > crate::MAX_ROW {
        true => Err(crate::reader::too_long()),
        false => Ok(()),
    });
    result.map_err(|problem| {
        out.truncate(before);
        WriteError::Row(problem)
    })
}

/// Writes rows to a stream, such as standard output.
pub struct RowWriter<W> {
    out: W,
    format: RecordFormat,
    buffer: Vec<u8>,
}

/// Bytes that are collected before they are written.
const BUFFER: usize = 64 << 10;

impl<W: Write> RowWriter<W> {
    /// Begins with the header.
    ///
    /// # Errors
    /// The format has columns.
    pub fn new(out: W, format: RecordFormat) -> Result<Self, WriteError> {
        if format.is_columnar() {
            let problem = format!("{} needs a file, not standard output", format.name());
            return Err(WriteError::Unsupported(problem));
        }
        Ok(RowWriter { out, format, buffer: header(format) })
    }

    /// Writes a row.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn write(&mut self, row: &Row) -> Result<(), WriteError> {
        encode(self.format, row, &mut self.buffer)?;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    /// Writes what is collected.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        Ok(self.out.flush()?)
    }
}
