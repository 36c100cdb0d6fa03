//! Lines appended to a file, which is set aside as `.1`, `.2` ... when it has grown to its bound.
//! Only the owner of the process can read it.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// A file that is set aside when it is full.
#[derive(Debug)]
pub(crate) struct RotatingFile {
    path: PathBuf,
    file: File,
    size: u64,
    max_size: u64,
    keep: usize,
}

impl RotatingFile {
    /// Open or make the file. It is set aside before it grows beyond `max_size` bytes, at least 1
    /// KiB; `keep` files set aside are kept.
    pub(crate) fn open(path: PathBuf, max_size: u64, keep: usize) -> io::Result<Self> {
        let max_size = max_size.max(1024);
        let file = append(&path)?;
        let size = file.metadata()?.len();
        Ok(RotatingFile { path, file, size, max_size, keep })
    }

    /// One write a line, so that a crash leaves whole lines.
    pub(crate) fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + line.len() as u64 > self.max_size {
            self.set_aside()?;
        }
        match self.file.write_all(line) {
            Ok(()) => self.size += line.len() as u64,
            Err(error) => {
                // What was written of the line is taken back, so that the next begins one.
                let _ = self.file.set_len(self.size);
                return Err(error);
            }
        }
        Ok(())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn set_aside(&mut self) -> io::Result<()> {
        if self.keep == 0 {
            self.file.set_len(0)?;
        } else {
            for number in (1..self.keep).rev() {
                let _ = std::fs::rename(self.numbered(number), self.numbered(number + 1));
            }
            std::fs::rename(&self.path, self.numbered(1))?;
            self.file = append(&self.path)?;
        }
        self.size = 0;
        Ok(())
    }

    fn numbered(&self, number: usize) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}
