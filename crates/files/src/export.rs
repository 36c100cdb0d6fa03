//! Export: records from a source to a file, a folder or a stream, in another format.
//!
//! - *In*: a [`Source`], a filter.
//! - *Out*: complete files; checkpoints, from which an interrupted export continues.
//! - *Never*: a record twice or none at all after an interruption: rows after a checkpoint are cut
//!   off, and the source continues at the checkpoint.

mod files;
mod state;

use std::io::Write;
use std::path::{Path, PathBuf};

use lens::{RecordFilter, RecordFormat};

pub use files::FileSource;
use state::State;

use crate::part::{self, Part};
use crate::writer::{self, RowWriter, WriteError};
use crate::{ReadError, Row};

/// Rows of a source between two reports of progress.
const REPORT: u64 = 1_000;
/// Bytes that are collected before they are written.
const BUFFER: usize = 1 << 20;

/// Where records come from.
pub trait Source {
    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// [`SourceError`].
    fn next_row(&mut self) -> Result<Option<Row>, SourceError>;

    /// The place of the next row, from which another process can continue. `None`: it cannot.
    fn place(&self) -> Option<String>;

    /// How much is read.
    fn progress(&self) -> Progress;
}

/// How much of a source is read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Files or records that are read.
    pub done: u64,
    /// All of them; `None`: unknown.
    pub all: Option<u64>,
    /// `files` or `records`.
    pub unit: &'static str,
    /// Records that are written.
    pub written: u64,
}

/// A source cannot be read. The text names the file and the place.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct SourceError(pub String);

/// Why an export failed.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The source.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// A file of the target.
    #[error("{}: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The reason.
        source: WriteError,
    },
    /// The target is in a state in which the export cannot begin or continue.
    #[error("{0}")]
    Target(String),
}

/// Where records go.
pub enum Target {
    /// A stream, such as standard output.
    Stream(RowWriter<Box<dyn Write>>),
    /// A file.
    File(PathBuf),
    /// Files `records-NUMBER` in a folder, with at most so many records each.
    Folder(PathBuf, u64),
}

/// An export.
pub struct Export {
    /// What identifies the source: the same text when it continues.
    pub source: String,
    /// Conditions, as texts.
    pub conditions: Vec<String>,
    /// Format of the target.
    pub format: RecordFormat,
    /// The target.
    pub target: Target,
    /// Whether it continues an interrupted one.
    pub resume: bool,
    /// Rows of the source between two checkpoints, each of which syncs the target.
    pub checkpoint: u64,
}

impl Export {
    /// Copies the records that match. `open` opens the source, at a place if the export continues.
    /// Returns the number of records, those before an interruption included.
    ///
    /// # Errors
    /// [`ExportError`].
    pub fn copy(
        self,
        now_us: u64,
        open: impl FnOnce(Option<&str>) -> Result<Box<dyn Source>, SourceError>,
        report: &mut dyn FnMut(Progress),
    ) -> Result<u64, ExportError> {
        writer::is_supported(self.format).map_err(ExportError::Target)?;
        match self.target {
            Target::Stream(_) if self.resume => {
                Err(ExportError::Target("an export to standard output cannot be resumed".into()))
            }
            Target::Stream(out) => {
                let filter = filter(&self.conditions, now_us)?;
                copy_to_stream(&mut *open(None)?, &filter, out, report)
            }
            Target::File(ref path) => {
                Files::begin(path.clone(), None, &self, now_us)?.copy(open, report)
            }
            Target::Folder(ref path, split) => {
                std::fs::create_dir_all(path).map_err(|error| failed(path, error.into()))?;
                Files::begin(path.clone(), Some(split.max(1)), &self, now_us)?.copy(open, report)
            }
        }
    }
}

fn filter(conditions: &[String], now_us: u64) -> Result<RecordFilter, ExportError> {
    let mut filter = RecordFilter::default();
    for condition in conditions {
        filter.add(condition, now_us).map_err(ExportError::Target)?;
    }
    Ok(filter)
}

fn failed(path: &Path, source: WriteError) -> ExportError {
    ExportError::Write { path: path.to_owned(), source }
}

fn copy_to_stream(
    source: &mut dyn Source,
    filter: &RecordFilter,
    mut out: RowWriter<Box<dyn Write>>,
    report: &mut dyn FnMut(Progress),
) -> Result<u64, ExportError> {
    let (mut read, mut written) = (0u64, 0);
    let output = |error| failed(Path::new("standard output"), error);
    while let Some(row) = source.next_row()? {
        read += 1;
        if filter.matches(&row.record) {
            out.write(&row).map_err(output)?;
            written += 1;
        }
        if read.is_multiple_of(REPORT) {
            report(Progress { written, ..source.progress() });
        }
    }
    out.flush().map_err(output)?;
    report(Progress { written, ..source.progress() });
    Ok(written)
}

/// An export to files.
struct Files {
    /// The file, or the folder.
    path: PathBuf,
    /// Maximum records of a file; `None`: the target is one file.
    split: Option<u64>,
    format: RecordFormat,
    filter: RecordFilter,
    state: State,
    state_path: PathBuf,
    is_resumed: bool,
    checkpoint: u64,
    part: Option<Part>,
    buffer: Vec<u8>,
}

impl Files {
    fn begin(
        path: PathBuf,
        split: Option<u64>,
        export: &Export,
        now_us: u64,
    ) -> Result<Self, ExportError> {
        let state_path = match split {
            Some(_) => path.join("export.resume"),
            None => {
                let mut name = path.clone().into_os_string();
                name.push(".resume");
                name.into()
            }
        };
        let fresh = State::new(export, now_us);
        let left = State::load(&state_path)?;
        let state = match (left, export.resume) {
            (Some(state), true) => state.continued(&fresh)?,
            (Some(_), false) => {
                let state = state_path.display();
                return Err(ExportError::Target(format!(
                    "{state}: an earlier export was interrupted; continue it with --resume, or remove the file and what it has written"
                )));
            }
            // Nothing was written before the interruption.
            (None, _) => fresh,
        };
        let filter = filter(&state.conditions, state.now_us)?;
        let format = export.format;
        let (is_resumed, checkpoint) = (export.resume, export.checkpoint.max(1));
        let (part, buffer) = (None, Vec::new());
        Ok(Files {
            path,
            split,
            format,
            filter,
            state,
            state_path,
            is_resumed,
            checkpoint,
            part,
            buffer,
        })
    }

    fn copy(
        mut self,
        open: impl FnOnce(Option<&str>) -> Result<Box<dyn Source>, SourceError>,
        report: &mut dyn FnMut(Progress),
    ) -> Result<u64, ExportError> {
        let is_complete = self.reopen()?;
        if self.state.is_done {
            if !is_complete && self.part.is_none() && self.split.is_none() {
                self.create()?;
            }
            self.complete()?;
            return self.done();
        }
        let mut source = open(self.state.place.as_deref())?;
        if self.part.is_none() && self.split.is_none() {
            self.create()?;
        }
        let mut read = 0u64;
        while let Some(row) = source.next_row()? {
            read += 1;
            if self.filter.matches(&row.record) {
                self.write(&row)?;
            }
            let is_full = self.split.is_some_and(|split| self.state.rows >= split);
            if is_full {
                self.checkpoint(&*source)?;
                self.complete()?;
            }
            if is_full || read.is_multiple_of(self.checkpoint) {
                self.checkpoint(&*source)?;
            }
            if read.is_multiple_of(REPORT) {
                report(Progress { written: self.state.records, ..source.progress() });
            }
        }
        self.state.is_done = true;
        self.checkpoint(&*source)?;
        self.complete()?;
        report(Progress { written: self.state.records, ..source.progress() });
        self.done()
    }

    fn target(&self) -> PathBuf {
        match self.split {
            None => self.path.clone(),
            Some(_) => {
                let (number, end) = (self.state.files + 1, self.format.extension());
                self.path.join(format!("records-{number:06}.{end}"))
            }
        }
    }

    /// Opens what an interrupted export has left, cut to the last checkpoint. Returns whether the
    /// file was complete already.
    fn reopen(&mut self) -> Result<bool, ExportError> {
        let target = self.target();
        let partial = part::partial_path(&target);
        let exists = |path: &Path| path.try_exists().map_err(|error| failed(path, error.into()));
        if exists(&target)? {
            let is_ours = self.state.is_done || self.split.is_some() && self.state.rows > 0;
            if !self.is_resumed || !is_ours {
                let target = target.display();
                return Err(ExportError::Target(format!(
                    "{target} exists; remove it or name another target"
                )));
            }
            // It was complete when the export was interrupted. Rows of columns may be left.
            if exists(&partial)? {
                std::fs::remove_file(&partial).map_err(|error| failed(&partial, error.into()))?;
            }
            self.next_file();
            return Ok(true);
        }
        if self.state.size > 0 {
            let part = Part::resume(&target, self.format, self.state.size);
            self.part = Some(part.map_err(|error| failed(&partial, error.into()))?);
        } else if exists(&partial)? {
            if !self.is_resumed {
                let partial = partial.display();
                return Err(ExportError::Target(format!(
                    "{partial} is in the way; remove it, or name another target"
                )));
            }
            // Nothing of it was in a checkpoint.
            std::fs::remove_file(&partial).map_err(|error| failed(&partial, error.into()))?;
        }
        Ok(false)
    }

    fn create(&mut self) -> Result<&mut Part, ExportError> {
        let target = self.target();
        let part = Part::create(&target, self.format);
        let part = part.map_err(|error| failed(&part::partial_path(&target), error.into()))?;
        Ok(self.part.insert(part))
    }

    fn write(&mut self, row: &Row) -> Result<(), ExportError> {
        let encoded = writer::encode(self.format, row, &mut self.buffer);
        encoded.map_err(|error| failed(&self.target(), error))?;
        self.state.rows += 1;
        self.state.records += 1;
        if self.buffer.len() >= BUFFER { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), ExportError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let rows = std::mem::take(&mut self.buffer);
        let target = self.target();
        let part = match &mut self.part {
            Some(part) => part,
            None => self.create()?,
        };
        part.append(&rows).map_err(|error| failed(&part::partial_path(&target), error.into()))?;
        self.buffer = rows;
        self.buffer.clear();
        Ok(())
    }

    /// Notes how far the export is, once its rows are on the disk.
    fn checkpoint(&mut self, source: &dyn Source) -> Result<(), ExportError> {
        self.flush()?;
        if let Some(part) = &mut self.part {
            let synced = part.sync();
            self.state.size = part.size();
            synced.map_err(|error| failed(&self.target(), error.into()))?;
        }
        let Some(place) = source.place() else { return Ok(()) };
        self.state.place = Some(place);
        self.state.save(&self.state_path)
    }

    /// Completes the open file.
    fn complete(&mut self) -> Result<(), ExportError> {
        let Some(part) = self.part.take() else { return Ok(()) };
        part.complete().map_err(|error| failed(&self.target(), error))?;
        self.next_file();
        Ok(())
    }

    fn next_file(&mut self) {
        self.state.files += 1;
        self.state.rows = 0;
        self.state.size = 0;
    }

    /// Nothing is left to continue.
    fn done(self) -> Result<u64, ExportError> {
        match std::fs::remove_file(&self.state_path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(failed(&self.state_path, error.into()))
            }
            _ => Ok(self.state.records),
        }
    }
}

/// Names the file of an error.
fn read_failed(path: &Path, error: &ReadError) -> SourceError {
    SourceError(format!("{}: {error}", path.display()))
}
