//! A file that is not complete: `NAME.partial`, which becomes `NAME`.
//!
//! - *In*: bytes of whole rows; what a killed process has left.
//! - *Out*: a complete file, synced and renamed. Rows of Arrow and Parquet wait in MessagePack, and
//!   are converted at the end.
//! - *Never*: a file under its own name that is not complete; a part of another process, which
//!   locks it.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use lens::RecordFormat;

use crate::columnar;
use crate::reader::{self, ReadError};
use crate::writer::{self, WriteError};

/// The end of the name of a file that is not complete.
pub(crate) const PARTIAL: &str = ".partial";
/// The end of the name of a file of columns while it is made.
const TEMPORARY: &str = ".tmp";
/// Rows between two questions whether to stop.
const STOP_EVERY: u64 = 1024;

/// An unfinished file.
#[derive(Debug)]
pub(crate) struct Part {
    file: File,
    target: PathBuf,
    format: RecordFormat,
    size: u64,
    is_broken: bool,
}

/// The name of the unfinished file of `target`.
pub(crate) fn partial_path(target: &Path) -> PathBuf {
    with_end(target, PARTIAL)
}

fn with_end(path: &Path, end: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(end);
    name.into()
}

impl Part {
    /// Creates the unfinished file of `target`.
    pub(crate) fn create(target: &Path, format: RecordFormat) -> io::Result<Self> {
        if target.try_exists()? {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let mut options = OpenOptions::new();
        let file = options.append(true).create_new(true).mode(0o600).open(partial_path(target))?;
        let mut part = Part::locked(file, target, format, 0)?;
        part.append(&writer::header(format))?;
        sync_folder(target)?;
        Ok(part)
    }

    /// Opens the unfinished file of `target` again, and cuts it to `size` bytes.
    pub(crate) fn resume(target: &Path, format: RecordFormat, size: u64) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).open(partial_path(target))?;
        let part = Part::locked(file, target, format, size)?;
        if part.file.metadata()?.len() < size {
            let problem = "it is shorter than at the last checkpoint; remove it and begin again";
            return Err(io::Error::new(io::ErrorKind::InvalidData, problem));
        }
        part.file.set_len(size)?;
        Ok(part)
    }

    fn locked(file: File, target: &Path, format: RecordFormat, size: u64) -> io::Result<Self> {
        file.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::other("another process writes it"),
            TryLockError::Error(error) => error,
        })?;
        // Before it was locked, another process may have found it empty.
        if !is_at(&file, &partial_path(target))? {
            return Err(io::Error::other("another process has removed it"));
        }
        Ok(Part { file, target: target.to_owned(), format, size, is_broken: false })
    }

    /// Appends whole rows. After an error, the file has none of them, or it is broken.
    pub(crate) fn append(&mut self, rows: &[u8]) -> io::Result<()> {
        match self.file.write_all(rows) {
            Ok(()) => {
                self.size += rows.len() as u64;
                Ok(())
            }
            Err(error) => {
                self.is_broken |= self.file.set_len(self.size).is_err();
                Err(error)
            }
        }
    }

    /// Writes the rows to the disk. After an error, the file is broken: the kernel may have dropped
    /// what was not written.
    pub(crate) fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data().inspect_err(|_| self.is_broken = true)
    }

    /// Bytes so far. Of a file of columns: those of its rows.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Whether it must not be written any more. What it has can be recovered.
    pub(crate) fn is_broken(&self) -> bool {
        self.is_broken
    }

    /// Completes a file of rows. A file of columns needs [`Part::convert`].
    pub(crate) fn rename(self) -> io::Result<()> {
        self.file.sync_all()?;
        fs::rename(partial_path(&self.target), &self.target)?;
        sync_folder(&self.target)
    }

    /// Completes a file of any format.
    pub(crate) fn complete(self) -> Result<(), WriteError> {
        if !self.format.is_columnar() {
            return Ok(self.rename()?);
        }
        match convert(&self.target, self.format, &|| false)? {
            Some(_) => Ok(()),
            None => Err(WriteError::Row("the conversion was stopped".into())),
        }
    }
}

/// What became of an unfinished file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Recovered {
    /// Another process writes it, or it is gone.
    InUse,
    /// It is complete. `cut`: bytes after the last whole row.
    Complete { cut: u64 },
    /// It had no rows, and is removed.
    Empty,
    /// There was no time.
    Stopped,
}

/// Completes the unfinished file that a closed or killed process has left at `partial`.
pub(crate) fn recover(
    partial: &Path,
    should_stop: &dyn Fn() -> bool,
) -> Result<Recovered, WriteError> {
    let target = partial.with_extension("");
    let format = RecordFormat::from_path(&target)
        .ok_or_else(|| WriteError::Row("its name states no format".into()))?;
    writer::is_supported(format).map_err(WriteError::Unsupported)?;
    let file = match OpenOptions::new().read(true).append(true).open(partial) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Recovered::InUse),
        opened => opened?,
    };
    match file.try_lock() {
        Err(TryLockError::WouldBlock) => return Ok(Recovered::InUse),
        locked => locked.map_err(io::Error::from)?,
    }
    if !is_at(&file, partial)? {
        return Ok(Recovered::InUse);
    }
    if target.try_exists()? {
        // The process was killed between renaming the complete file and removing this one.
        fs::remove_file(partial)?;
        return Ok(Recovered::Complete { cut: 0 });
    }
    let Some((rows, whole)) = whole_rows(partial, format, should_stop)? else {
        return Ok(Recovered::Stopped);
    };
    if rows == 0 {
        fs::remove_file(partial)?;
        return Ok(Recovered::Empty);
    }
    let cut = file.metadata()?.len().saturating_sub(whole);
    if format.is_columnar() {
        let converted = convert(&target, format, should_stop)?;
        return Ok(converted.map_or(Recovered::Stopped, |_| Recovered::Complete { cut }));
    }
    file.set_len(whole)?;
    let part = Part { file, target, format, size: whole, is_broken: false };
    part.rename()?;
    Ok(Recovered::Complete { cut })
}

/// The number of whole rows at the beginning of an unfinished file, and their bytes. `None`: there
/// was no time.
fn whole_rows(
    partial: &Path,
    format: RecordFormat,
    should_stop: &dyn Fn() -> bool,
) -> io::Result<Option<(u64, u64)>> {
    let mut reader = match reader::open(partial, writer::row_format(format)) {
        Ok(reader) => reader,
        Err(ReadError::Io(error)) => return Err(error),
        Err(_) => return Ok(Some((0, 0))),
    };
    let mut rows = 0;
    loop {
        let before = reader.position();
        match reader.read() {
            // A row without its end is not whole.
            Ok(Some(_)) if reader.position() > before => rows += 1,
            Ok(_) => return Ok(Some((rows, before))),
            Err(ReadError::Io(error)) => return Err(error),
            Err(_) => return Ok(Some((rows, before))),
        }
        if rows % STOP_EVERY == 0 && should_stop() {
            return Ok(None);
        }
    }
}

/// Makes a file of columns from its rows, and removes these. Returns the number of rows; `None` if
/// it was stopped.
fn convert(
    target: &Path,
    format: RecordFormat,
    should_stop: &dyn Fn() -> bool,
) -> Result<Option<u64>, WriteError> {
    let (partial, temporary) = (partial_path(target), with_end(target, TEMPORARY));
    let mut rows = reader::open(&partial, writer::row_format(format))
        .map_err(|error| WriteError::Row(error.to_string()))?;
    let converted = columnar::convert(&mut *rows, &temporary, format, should_stop);
    if !matches!(converted, Ok(Some(_))) {
        let _ = fs::remove_file(&temporary);
        return converted;
    }
    fs::rename(&temporary, target)?;
    sync_folder(target)?;
    fs::remove_file(&partial)?;
    converted
}

/// Whether an open file is the one at `path`.
fn is_at(file: &File, path: &Path) -> io::Result<bool> {
    let opened = file.metadata()?;
    let is_it = |there: fs::Metadata| (there.dev(), there.ino()) == (opened.dev(), opened.ino());
    Ok(fs::metadata(path).is_ok_and(is_it))
}

/// Writes the name of a file to the disk.
pub(crate) fn sync_folder(file: &Path) -> io::Result<()> {
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
}
