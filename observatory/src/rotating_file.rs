//! A log file that rotates: at its maximum size it is renamed to `.1`, `.2` ... Its mode is 0600.
//!
//! - *In*: lines; [`RotatingFile::reopen_if_moved`] before each batch of them.
//! - *Out*: the file at the path, also after another program or another gateway has renamed it.
//! - *Never*: a line of a batch in a file that was renamed before the batch.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Identifies a file and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileStamp {
    dev: u64,
    ino: u64,
    size: u64,
}

/// An append-only file that rotates at its maximum size.
#[derive(Debug)]
pub struct RotatingFile {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    keep: usize,
    /// The file was renamed, and a new one cannot be created.
    moved: bool,
}

impl RotatingFile {
    /// Opens or creates the file. It rotates before it exceeds `max_size` bytes (minimum 1 KiB) and
    /// keeps `keep` rotated files.
    ///
    /// # Errors
    /// The I/O error.
    pub fn open(path: PathBuf, max_size: u64, keep: usize) -> io::Result<Self> {
        let max_size = max_size.max(1024);
        let file = append(&path)?;
        let size = file.metadata()?.len();
        Ok(RotatingFile { path, file, size, max_size, keep, moved: false })
    }

    /// Opens the path again if it is no longer the open file: logrotate or another gateway has
    /// renamed it. If that fails, lines go on to the renamed file. Costs two system calls.
    pub fn reopen_if_moved(&mut self) {
        let Ok(ours) = self.file.metadata() else { return };
        match std::fs::metadata(&self.path) {
            Ok(current) if (current.dev(), current.ino()) == (ours.dev(), ours.ino()) => {
                // Another gateway may append to the same file during an upgrade.
                self.size = ours.len();
                self.moved = false;
                return;
            }
            Err(error) if error.kind() != io::ErrorKind::NotFound => return,
            Ok(_) | Err(_) => {}
        }
        let opened = append(&self.path).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((size, file)) => (self.size, self.file, self.moved) = (size, file, false),
            Err(error) if !self.moved => {
                self.moved = true;
                tracing::error!(path = %self.path.display(), %error, "log file was renamed and cannot be created again, lines go to the renamed file");
            }
            Err(_) => {}
        }
    }

    /// Appends a line with a single write, so that a crash leaves whole lines.
    ///
    /// # Errors
    /// The I/O error. The file has no part of the line.
    pub fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.would_rotate(line.len()) {
            self.rotate()?;
        }
        match self.file.write_all(line) {
            Ok(()) => self.size += line.len() as u64,
            Err(error) => {
                // Truncate the partial line, so that the next one starts on a line of its own.
                let _ = self.file.set_len(self.size);
                return Err(error);
            }
        }
        Ok(())
    }

    /// Whether a line of this length is the first one of a new file.
    pub fn would_rotate(&self, length: usize) -> bool {
        self.size > 0 && self.size + length as u64 > self.max_size
    }

    /// Whether the file has no line.
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Where the lines go.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Identifies the file and its size; `None` if that cannot be read.
    pub fn stamp(&self) -> Option<FileStamp> {
        let meta = self.file.metadata().ok()?;
        Some(FileStamp { dev: meta.dev(), ino: meta.ino(), size: meta.len() })
    }

    /// Opens the file for reading.
    ///
    /// # Errors
    /// The I/O error; `NotFound` if another file is at the path.
    pub fn reader(&self) -> io::Result<File> {
        let (reader, ours) = (File::open(&self.path)?, self.file.metadata()?);
        let meta = reader.metadata()?;
        let is_ours = (meta.dev(), meta.ino()) == (ours.dev(), ours.ino());
        if is_ours { Ok(reader) } else { Err(io::ErrorKind::NotFound.into()) }
    }

    /// Ends the last line with a line feed, if a crash cut it. Returns the size of the file.
    ///
    /// # Errors
    /// The I/O error.
    pub fn end_line(&mut self) -> io::Result<u64> {
        let mut last = [0];
        let mut reader = self.reader()?;
        if self.size > 0 {
            reader.seek(SeekFrom::End(-1))?;
            reader.read_exact(&mut last)?;
            if last != *b"\n" {
                self.file.write_all(b"\n")?;
                self.size += 1;
            }
        }
        Ok(self.size)
    }

    /// Renames the file to `.1`, an older one to `.2`, and so on, and creates it again.
    ///
    /// # Errors
    /// The I/O error.
    pub fn rotate(&mut self) -> io::Result<()> {
        if self.keep == 0 {
            self.file.set_len(0)?;
        } else {
            for number in (1..self.keep).rev() {
                let _ = std::fs::rename(self.rotated_path(number), self.rotated_path(number + 1));
            }
            std::fs::rename(&self.path, self.rotated_path(1))?;
            self.file = append(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }

    fn rotated_path(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
