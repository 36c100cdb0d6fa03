//! The file operations of a spill.
//!
//! - *In*: paths and bytes.
//! - *Out*: [`FileSystem`], the operations of the system. Tests use a disk that fails or crashes at
//!   a given step.
//! - *Never*: a file that other users can read.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

/// Only the user of the process may read files and folders.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// A file of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// Its length in bytes.
    pub len: u64,
    /// Time of its last change, in Unix seconds.
    pub modified: u64,
}

/// The file operations that a spill uses. Each may fail.
pub trait Disk: Clone + Send + Sync + 'static {
    /// An open file. Dropping it closes it, and unlocks a locked one.
    type File: Send + Sync;

    /// Creates a folder and its parents. An existing folder is left unchanged.
    ///
    /// # Errors
    /// As the system reports it; the same holds for all operations.
    fn create_folder(&self, folder: &Path) -> io::Result<()>;
    /// Creates and locks a file; `None` if another process has locked it.
    ///
    /// # Errors
    /// As above.
    fn lock(&self, path: &Path) -> io::Result<Option<Self::File>>;
    /// The files of a folder.
    ///
    /// # Errors
    /// As above.
    fn list(&self, folder: &Path) -> io::Result<Vec<Listed>>;
    /// Creates an empty file, or empties an existing one.
    ///
    /// # Errors
    /// As above.
    fn create(&self, path: &Path) -> io::Result<Self::File>;
    /// Opens a file for reading and writing.
    ///
    /// # Errors
    /// As above.
    fn open(&self, path: &Path) -> io::Result<Self::File>;
    /// Reads at an offset; returns the number of bytes, 0 at the end of the file.
    ///
    /// # Errors
    /// As above.
    fn read_at(&self, file: &Self::File, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all bytes at an offset.
    ///
    /// # Errors
    /// As above. Some of the bytes may have been written.
    fn write_at(&self, file: &Self::File, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts a file.
    ///
    /// # Errors
    /// As above.
    fn set_len(&self, file: &Self::File, len: u64) -> io::Result<()>;
    /// Waits until content and length of a file are on the disk.
    ///
    /// # Errors
    /// As above. After an error, what was written since the last success may be lost.
    fn sync(&self, file: &Self::File) -> io::Result<()>;
    /// Waits until the names of a folder are on the disk.
    ///
    /// # Errors
    /// As above.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    /// Renames a file.
    ///
    /// # Errors
    /// As above.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    ///
    /// # Errors
    /// As above.
    fn remove(&self, path: &Path) -> io::Result<()>;
}

/// The file system of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct FileSystem;

impl Disk for FileSystem {
    type File = File;

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(folder)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<File>> {
        let file = options().create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<Listed>> {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let Ok(name) = entry.file_name().into_string() else { continue };
            let meta = entry.metadata()?;
            if meta.is_file() {
                let modified = u64::try_from(meta.mtime()).unwrap_or(0);
                files.push(Listed { name, len: meta.len(), modified });
            }
        }
        Ok(files)
    }

    fn create(&self, path: &Path) -> io::Result<File> {
        options().create(true).truncate(true).open(path)
    }

    fn open(&self, path: &Path) -> io::Result<File> {
        options().open(path)
    }

    fn read_at(&self, file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        file.read_at(buffer, offset)
    }

    fn write_at(&self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        file.write_all_at(bytes, offset)
    }

    fn set_len(&self, file: &File, len: u64) -> io::Result<()> {
        file.set_len(len)
    }

    fn sync(&self, file: &File) -> io::Result<()> {
        file.sync_data()
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        File::open(folder)?.sync_all()
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true).mode(FILE_MODE);
    options
}
