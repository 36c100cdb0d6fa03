//! The folder of an uploader. Tests fail and end a process at each of its operations.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

/// Folder of uploaded files.
const UPLOADED: &str = "uploaded";
const LOCK: &str = "upload.lock";

/// A file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) name: String,
    pub(super) size: u64,
    /// Its last change, in Unix time.
    pub(super) changed: Duration,
}

/// Operations on the folder.
pub(super) trait Disk: Send {
    /// Locks the folder until the process ends. False: another process has it.
    fn lock(&mut self) -> io::Result<bool>;
    /// The files of the folder, in the order of their names.
    fn list(&mut self) -> io::Result<Vec<Entry>>;
    /// Opens a file.
    fn open(&mut self, name: &str) -> io::Result<File>;
    /// Removes a file, and writes that to the disk. A file that is gone is no error.
    fn remove(&mut self, name: &str) -> io::Result<()>;
    /// Moves a file to `uploaded`, and writes that to the disk.
    fn keep(&mut self, name: &str) -> io::Result<()>;
    /// The files of `uploaded`.
    fn kept(&mut self) -> io::Result<Vec<Entry>>;
    /// Removes a file of `uploaded`.
    fn remove_kept(&mut self, name: &str) -> io::Result<()>;
}

/// A real folder.
pub(super) struct Folder {
    path: PathBuf,
    lock: Option<File>,
}

impl Folder {
    pub(super) fn new(path: PathBuf) -> Self {
        Folder { path, lock: None }
    }

    fn uploaded(&self) -> PathBuf {
        self.path.join(UPLOADED)
    }
}

impl Disk for Folder {
    fn lock(&mut self) -> io::Result<bool> {
        if self.lock.is_some() {
            return Ok(true);
        }
        let mut options = OpenOptions::new();
        let options = options.create(true).truncate(false).write(true).mode(0o600);
        let file = options.open(self.path.join(LOCK))?;
        match file.try_lock() {
            Ok(()) => {
                self.lock = Some(file);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&mut self) -> io::Result<Vec<Entry>> {
        list(&self.path)
    }

    fn open(&mut self, name: &str) -> io::Result<File> {
        File::open(self.path.join(name))
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        gone_is_done(fs::remove_file(self.path.join(name)))?;
        sync(&self.path)
    }

    fn keep(&mut self, name: &str) -> io::Result<()> {
        let folder = self.uploaded();
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
        fs::rename(self.path.join(name), folder.join(name))?;
        sync(&folder)?;
        sync(&self.path)
    }

    fn kept(&mut self) -> io::Result<Vec<Entry>> {
        match list(&self.uploaded()) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            listed => listed,
        }
    }

    fn remove_kept(&mut self, name: &str) -> io::Result<()> {
        gone_is_done(fs::remove_file(self.uploaded().join(name)))
    }
}

fn gone_is_done(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

fn list(folder: &Path) -> io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Names of other programs may not be text.
        let Ok(name) = entry.file_name().into_string() else { continue };
        let file = match entry.metadata() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            read => read?,
        };
        if !file.is_file() {
            continue;
        }
        let changed = file.modified()?.duration_since(UNIX_EPOCH).unwrap_or_default();
        entries.push(Entry { name, size: file.len(), changed });
    }
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(entries)
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}
