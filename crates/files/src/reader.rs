//! Readers of files of records.
//!
//! - *In*: a file of a known format, written by this program or by another one.
//! - *Out*: rows, one after the other; the place of what cannot be read.
//! - *Never*: more memory than [`MAX_ROW`] for a row, or than a file's batch of columns; a row
//!   after one that cannot be read.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use lens::RecordFormat;

use crate::csv::CsvReader;
use crate::json_lines::JsonLinesReader;
use crate::message_pack::MessagePackReader;
use crate::protobuf::ProtobufReader;
use crate::row::Values;
use crate::{Row, columnar};

/// Maximum bytes of a row. Records are some kilobytes.
pub const MAX_ROW: usize = 4 << 20;

/// Why a file cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The system reports an error.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A row is not a record.
    #[error("{place}: {problem}")]
    Row {
        /// Where: the line, the byte or the row.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// The file as a whole is damaged, or of another format.
    #[error("{0}")]
    File(String),
}

impl ReadError {
    pub(crate) fn row(place: impl Into<String>, problem: impl ToString) -> Self {
        ReadError::Row { place: place.into(), problem: problem.to_string() }
    }
}

/// Reads rows.
pub trait Reader: Send {
    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// [`ReadError`]. The reader must not be used after an error.
    fn read(&mut self) -> Result<Option<Row>, ReadError>;

    /// The values of the next row; `None` at the end. A reader that has them before it has a record
    /// makes no record.
    ///
    /// # Errors
    /// [`ReadError`]. The reader must not be used after an error.
    fn read_values(&mut self) -> Result<Option<Values>, ReadError> {
        let values = |row: Row| row.values().map_err(|error| ReadError::row("a row", error));
        self.read()?.map(values).transpose()
    }

    /// Bytes up to the end of the last row. Of a format with columns: 0.
    fn position(&self) -> u64;
}

/// Opens a file.
///
/// # Errors
/// It cannot be opened, or it is not of this format.
pub fn open(path: &Path, format: RecordFormat) -> Result<Box<dyn Reader>, ReadError> {
    let file = File::open(path)?;
    Ok(match format {
        RecordFormat::Jsonl => Box::new(JsonLinesReader::new(BufReader::new(file))),
        RecordFormat::Csv => Box::new(CsvReader::new(BufReader::new(file))?),
        RecordFormat::Msgpack => Box::new(MessagePackReader::new(BufReader::new(file))),
        RecordFormat::Protobuf => Box::new(ProtobufReader::new(BufReader::new(file))),
        RecordFormat::Arrow => columnar::open_arrow(file)?,
        RecordFormat::Parquet => columnar::open_parquet(file)?,
    })
}

/// Appends a line with its end to `line`; false at the end of the input.
pub(crate) fn append_line(input: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    let before = line.len();
    // One byte more than allowed, so that the caller recognizes a line that is too long.
    let limit = (MAX_ROW + 1).saturating_sub(before);
    input.take(limit as u64).read_until(b'\n', line)?;
    Ok(line.len() > before)
}

/// The problem of a row over [`MAX_ROW`].
pub(crate) fn too_long() -> String {
    format!("longer than {} MiB", MAX_ROW >> 20)
}
