//! Arrow IPC and Parquet: files of columns, made from rows when a file is complete.
//!
//! - *In*: rows; files of this program and of others.
//! - *Out*: files with the columns of [`COLUMNS`](crate::COLUMNS); rows.
//! - *Never*: more than [`BATCH`] rows as values in memory; a panic of the decoders on a damaged
//!   file, which is an error.

mod build;
mod extract;

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_ipc::reader::FileReader;
use arrow_ipc::writer::FileWriter;
use arrow_schema::{ArrowError, Schema};
use lens::RecordFormat;
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;

use crate::column::COLUMNS;
use crate::reader::{ReadError, Reader};
use crate::row::{Row, Values};
use crate::writer::WriteError;

/// Whether this build has the formats.
pub(crate) const SUPPORTED: bool = true;

/// Rows of a batch. Each takes about 10 KiB while it is converted.
const BATCH: usize = 1024;
/// Rows of a row group of Parquet: the writer keeps them compressed.
const ROW_GROUP: usize = 64 << 10;

/// Writes the rows of a reader to a new file, up to a row that cannot be read, as at the end of an
/// unfinished file. Returns their number, or `None` if `should_stop` became true.
pub(crate) fn convert(
    rows: &mut dyn Reader,
    path: &Path,
    format: RecordFormat,
    should_stop: &dyn Fn() -> bool,
) -> Result<Option<u64>, WriteError> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    let schema = Arc::new(Schema::new(build::fields(COLUMNS)));
    let synced = file.try_clone()?;
    let mut out = Out::new(file, schema.clone(), format)?;
    let (mut all, mut batch) = (0, Vec::with_capacity(BATCH));
    loop {
        let row = match rows.read_values() {
            Ok(row) => row,
            Err(ReadError::Io(error)) => return Err(error.into()),
            // The end of an unfinished file.
            Err(_) => None,
        };
        let is_end = row.is_none();
        if let Some(row) = row {
            batch.push(row);
        }
        if batch.len() == BATCH || is_end && !batch.is_empty() {
            let columns = build::arrays(COLUMNS, &batch);
            out.write(&RecordBatch::try_new(schema.clone(), columns).map_err(wrong)?)?;
            all += batch.len() as u64;
            batch.clear();
            if should_stop() {
                return Ok(None);
            }
        }
        if is_end {
            out.finish()?;
            synced.sync_all()?;
            return Ok(Some(all));
        }
    }
}

fn wrong(error: ArrowError) -> WriteError {
    match error {
        ArrowError::IoError(_, error) => WriteError::Io(error),
        other => WriteError::Row(other.to_string()),
    }
}

/// A full disk is an error of the system, which can be tried again.
fn wrong_parquet(error: parquet::errors::ParquetError) -> WriteError {
    WriteError::Io(std::io::Error::other(error.to_string()))
}

/// A file that is being written.
enum Out {
    Arrow(Box<FileWriter<std::io::BufWriter<File>>>),
    Parquet(Box<ArrowWriter<File>>),
}

impl Out {
    fn new(file: File, schema: Arc<Schema>, format: RecordFormat) -> Result<Self, WriteError> {
        if format == RecordFormat::Arrow {
            let out = FileWriter::try_new_buffered(file, &schema).map_err(wrong)?;
            return Ok(Out::Arrow(Box::new(out)));
        }
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(ROW_GROUP))
            .build();
        let out = ArrowWriter::try_new(file, schema, Some(properties)).map_err(wrong_parquet)?;
        Ok(Out::Parquet(Box::new(out)))
    }

    fn write(&mut self, batch: &RecordBatch) -> Result<(), WriteError> {
        match self {
            Out::Arrow(out) => out.write(batch).map_err(wrong),
            Out::Parquet(out) => out.write(batch).map_err(wrong_parquet),
        }
    }

    fn finish(self) -> Result<(), WriteError> {
        match self {
            // The footer, and what is buffered.
            Out::Arrow(out) => out.into_inner().map_err(wrong).and_then(|buffered| {
                let file = buffered.into_inner().map_err(std::io::IntoInnerError::into_error)?;
                drop(file);
                Ok(())
            }),
            Out::Parquet(out) => out.close().map(drop).map_err(wrong_parquet),
        }
    }
}

/// Batches of a file.
type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

struct ColumnarReader {
    batches: Batches,
    rows: std::vec::IntoIter<Values>,
    /// Rows that are read.
    number: u64,
}

/// Opens a file of Arrow IPC.
pub(crate) fn open_arrow(file: File) -> Result<Box<dyn Reader>, ReadError> {
    open_batches("Arrow IPC", || {
        let reader = FileReader::try_new_buffered(file, None).map_err(|e| e.to_string())?;
        extract::check(&reader.schema())?;
        Ok(Box::new(reader))
    })
}

/// Opens a file of Parquet.
pub(crate) fn open_parquet(file: File) -> Result<Box<dyn Reader>, ReadError> {
    open_batches("Parquet", || {
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|e| e.to_string())?;
        extract::check(builder.schema())?;
        let reader = builder.with_batch_size(BATCH).build().map_err(|e| e.to_string())?;
        Ok(Box::new(reader))
    })
}

fn open_batches(
    format: &str,
    open: impl FnOnce() -> Result<Batches, String>,
) -> Result<Box<dyn Reader>, ReadError> {
    let batches = guarded(open)
        .map_err(|error| ReadError::File(format!("not a complete {format} file: {error}")))?;
    let rows = Vec::new().into_iter();
    Ok(Box::new(ColumnarReader { batches, rows, number: 0 }))
}

/// The decoders may panic on a damaged file.
fn guarded<T>(decode: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(|_| Err("the file is damaged".into()))
}

impl Reader for ColumnarReader {
    fn read(&mut self) -> Result<Option<Row>, ReadError> {
        loop {
            if let Some(values) = self.rows.next() {
                self.number += 1;
                let row = Row::from_values(values)
                    .map_err(|error| ReadError::row(format!("row {}", self.number), error))?;
                return Ok(Some(row));
            }
            let batches = &mut self.batches;
            let next = guarded(|| match batches.next().transpose() {
                Ok(batch) => Ok(batch.as_ref().map(extract::rows)),
                Err(error) => Err(error.to_string()),
            });
            match next {
                Ok(None) => return Ok(None),
                Ok(Some(rows)) => self.rows = rows.into_iter(),
                Err(problem) => {
                    return Err(ReadError::row(format!("after row {}", self.number), problem));
                }
            }
        }
    }

    fn position(&self) -> u64 {
        0
    }
}
