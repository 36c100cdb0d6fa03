//! Verifies the chain of a log: its files in order, each line after the one before.
//!
//! - *In*: files and folders, keys, a head that was read from the gateway.
//! - *Out*: a [`Report`]: lines and times of each file, and each place where the chain breaks.
//! - *Never*: a change of a file; more memory than a line and [`MAX_PROBLEMS`] problems.

mod check;

use std::fmt;
use std::fs::File;
use std::io::{self, Seek};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::chain::{Digest, Head, Link};
use crate::head_file::{head_path, read_head};
use crate::key::ChainKey;
use crate::lines::Lines;
use check::Checker;

/// Problems and notes that a report lists. More are counted.
const MAX_PROBLEMS: usize = 100;
/// Maximum files of one call.
const MAX_FILES: usize = 1_000;

/// What a log is verified with.
#[derive(Debug, Default)]
pub struct VerifyOptions {
    /// Keys of the chain. With a key, lines without one are problems.
    pub keys: Vec<ChainKey>,
    /// The hash of a line that must be in the log.
    pub head: Option<Digest>,
}

/// Result of [`verify`].
#[derive(Debug, Default)]
pub struct Report {
    /// In the order of their lines.
    pub files: Vec<FileReport>,
    /// Places where the chain breaks, at most [`MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
    /// Number of all problems.
    pub problem_count: u64,
    /// What is not of the chain and breaks nothing.
    pub notes: Vec<Problem>,
    /// The last line of the chain.
    pub head: Option<Head>,
}

/// A file of a log.
#[derive(Debug, Default)]
pub struct FileReport {
    /// Where it is.
    pub path: PathBuf,
    /// Lines of the chain.
    pub lines: u64,
    /// Sequence number and time of the first one.
    pub first: Option<(u64, Option<String>)>,
    /// Sequence number and time of the last one.
    pub last: Option<(u64, Option<String>)>,
}

/// A problem or a note, with its place.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, if it is of one.
    pub path: Option<PathBuf>,
    /// The line in the file, from 1.
    pub line: Option<u64>,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.path, self.line) {
            (Some(path), Some(line)) => write!(f, "{}:{line}: {}", path.display(), self.what),
            (Some(path), None) => write!(f, "{}: {}", path.display(), self.what),
            (None, _) => f.write_str(&self.what),
        }
    }
}

impl Report {
    fn problem(&mut self, path: Option<&Path>, line: Option<u64>, what: String) {
        self.problem_count += 1;
        push(&mut self.problems, path, line, what);
    }

    fn note(&mut self, path: Option<&Path>, line: Option<u64>, what: String) {
        push(&mut self.notes, path, line, what);
    }
}

fn push(list: &mut Vec<Problem>, path: Option<&Path>, line: Option<u64>, what: String) {
    if list.len() < MAX_PROBLEMS {
        list.push(Problem { path: path.map(Path::to_owned), line, what });
    }
}

/// An open file of the log.
struct Part {
    path: PathBuf,
    file: File,
    identity: (u64, u64),
    /// Number of its first line of a chain.
    first: u64,
}

/// Verifies files, and the files of folders, in the order of their sequence numbers.
///
/// # Errors
/// The I/O error, with the path.
pub fn verify(paths: &[PathBuf], options: &VerifyOptions) -> io::Result<Report> {
    let mut report = Report::default();
    // A gateway that runs writes the head after the line, so heads are read first.
    let mut heads = Vec::new();
    let mut parts: Vec<Part> = Vec::new();
    for path in files(paths)? {
        heads.extend(read_head(&head_path(&path)).map(|head| (path.clone(), head)));
        let file = File::open(&path).map_err(at(&path))?;
        let meta = file.metadata().map_err(at(&path))?;
        let identity = (meta.dev(), meta.ino());
        if !parts.iter().any(|part| part.identity == identity) {
            parts.push(Part { path, file, identity, first: 0 });
        }
    }
    for part in &mut parts {
        let (first, is_empty) = first_sequence(&mut part.file).map_err(at(&part.path))?;
        match first {
            Some(first) => part.first = first,
            None if is_empty => report.note(Some(&part.path), None, "empty".into()),
            None => {
                let what = "has no line of a chain, so that it cannot be verified".into();
                report.note(Some(&part.path), None, what);
            }
        }
    }
    parts.retain(|part| part.first > 0);
    parts.sort_by_key(|part| part.first);
    heads.retain(|(path, _)| parts.iter().any(|part| part.path == *path));
    let mut checker = Checker::new(options, heads, report);
    for part in parts {
        let Part { path, mut file, .. } = part;
        file.rewind().map_err(at(&path))?;
        checker.check_file(path.clone(), file).map_err(at(&path))?;
    }
    Ok(checker.finish())
}

/// Adds the path to an error.
fn at(path: &Path) -> impl Fn(io::Error) -> io::Error {
    let path = path.display().to_string();
    move |error| io::Error::new(error.kind(), format!("{path}: {error}"))
}

/// The files, and those of the folders, without head files.
fn files(paths: &[PathBuf]) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in paths {
        if path.metadata().map_err(at(path))?.is_dir() {
            for entry in path.read_dir().map_err(at(path))? {
                let entry = entry.map_err(at(path))?.path();
                if entry.is_file() && !is_head_file(&entry) {
                    files.push(entry);
                }
            }
        } else if !is_head_file(path) {
            files.push(path.clone());
        }
        if files.len() > MAX_FILES {
            let why = format!("more than {MAX_FILES} files: name the files of the log");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
    }
    files.sort();
    Ok(files)
}

/// An empty one is that of a log without lines.
fn is_head_file(path: &Path) -> bool {
    let is_empty = || path.metadata().is_ok_and(|meta| meta.len() == 0);
    path.extension().is_some_and(|end| end == "head") && (read_head(path).is_some() || is_empty())
}

/// The number of the first line of a chain, and whether the file is empty.
fn first_sequence(file: &mut File) -> io::Result<(Option<u64>, bool)> {
    let mut lines = Lines::new(file);
    let mut is_empty = true;
    while let Some(line) = lines.next(|_| {})? {
        is_empty = false;
        if let Some(link) = line.text.and_then(Link::parse) {
            return Ok((Some(link.members.sequence), false));
        }
    }
    Ok((None, is_empty))
}

#[cfg(test)]
mod tests;
