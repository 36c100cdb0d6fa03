//! Files as the source of an export.
//!
//! - *In*: a file, or a folder with files of any formats.
//! - *Out*: rows in the order of the names of files; the place of the next one.
//! - *Never*: an unfinished file, which its gateway may still write.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use lens::RecordFormat;
use serde::{Deserialize, Serialize};

use super::{Progress, Source, SourceError, read_failed};
use crate::json_lines::JsonLinesReader;
use crate::{Reader, Row, reader};

/// A file, the files of a folder, or a stream.
pub struct FileSource {
    /// Files that follow, the last one first.
    left: Vec<PathBuf>,
    all: u64,
    done: u64,
    open: Option<Open>,
    /// Whether another process can continue.
    can_resume: bool,
}

struct Open {
    path: PathBuf,
    reader: Box<dyn Reader>,
    rows: u64,
}

/// The place of a row.
#[derive(Debug, Serialize, Deserialize)]
struct Place {
    /// Name of the file; `None`: all files are read.
    file: Option<String>,
    /// Rows of it that are read.
    rows: u64,
}

impl FileSource {
    /// The records of a file, or of all files of a folder that have a known format, from `place`.
    ///
    /// # Errors
    /// The file or its format is unknown, or what `place` names is gone.
    pub fn open(path: &Path, place: Option<&str>) -> Result<Self, SourceError> {
        let mut files = list(path)?;
        let all = files.len() as u64;
        files.reverse();
        let mut source = FileSource { left: files, all, done: 0, open: None, can_resume: true };
        if let Some(place) = place {
            source.skip_to(place)?;
        }
        Ok(source)
    }

    /// JSON lines of a stream, which is called `name` in errors.
    pub fn stream(name: &str, input: impl BufRead + Send + 'static) -> Self {
        let reader: Box<dyn Reader> = Box::new(JsonLinesReader::new(BufReader::new(input)));
        let open = Some(Open { path: name.into(), reader, rows: 0 });
        FileSource { left: Vec::new(), all: 1, done: 0, open, can_resume: false }
    }

    fn skip_to(&mut self, place: &str) -> Result<(), SourceError> {
        let place: Place = serde_json::from_str(place)
            .map_err(|_| SourceError(format!("{place:?} is not a place in files")))?;
        let Some(file) = place.file else {
            self.done = self.all;
            self.left.clear();
            return Ok(());
        };
        let is_it = |path: &PathBuf| name(path) == file;
        let at = self.left.iter().rposition(is_it).ok_or_else(|| {
            SourceError(format!("{file} is gone, so the export cannot continue; begin again"))
        })?;
        self.left.truncate(at + 1);
        self.done = self.all - self.left.len() as u64;
        for row in 0..place.rows {
            if self.next_row()?.is_none() {
                let problem = format!("{file} has only {row} records now; begin again");
                return Err(SourceError(problem));
            }
        }
        Ok(())
    }
}

impl Source for FileSource {
    fn next_row(&mut self) -> Result<Option<Row>, SourceError> {
        loop {
            let Some(open) = &mut self.open else {
                let Some(path) = self.left.pop() else { return Ok(None) };
                let format = RecordFormat::from_path(&path).unwrap_or_default();
                let reader = reader::open(&path, format).map_err(|e| read_failed(&path, &e))?;
                self.open = Some(Open { path, reader, rows: 0 });
                continue;
            };
            match open.reader.read() {
                Ok(Some(row)) => {
                    open.rows += 1;
                    return Ok(Some(row));
                }
                Ok(None) => {
                    self.open = None;
                    self.done += 1;
                }
                Err(error) => return Err(read_failed(&open.path, &error)),
            }
        }
    }

    fn place(&self) -> Option<String> {
        let place = match (&self.open, self.left.last()) {
            (Some(open), _) => Place { file: Some(name(&open.path)), rows: open.rows },
            (None, next) => Place { file: next.map(|path| name(path)), rows: 0 },
        };
        serde_json::to_string(&place).ok().filter(|_| self.can_resume)
    }

    fn progress(&self) -> Progress {
        Progress { done: self.done, all: Some(self.all), unit: "files", written: 0 }
    }
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// The file, or those of a folder in the order of their names.
fn list(path: &Path) -> Result<Vec<PathBuf>, SourceError> {
    let ends = || RecordFormat::WORDS.map(|(_, format)| format.extension()).join(", .");
    let failed = |error: std::io::Error| SourceError(format!("{}: {error}", path.display()));
    if !std::fs::metadata(path).map_err(failed)?.is_dir() {
        return match RecordFormat::from_path(path) {
            Some(_) => Ok(vec![path.to_owned()]),
            None => Err(SourceError(format!(
                "{}: the end of the name states no format; known: .{}",
                path.display(),
                ends()
            ))),
        };
    }
    let mut files = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        let file = entry.map_err(failed)?.path();
        if RecordFormat::from_path(&file).is_some() && !file.is_dir() {
            files.push(file);
        }
    }
    files.sort();
    match files.is_empty() {
        false => Ok(files),
        true => Err(SourceError(format!(
            "{}: there are no files of records in it; known: .{}, and records-*.sqlite of a record store",
            path.display(),
            ends()
        ))),
    }
}
