//! The head file, `FILE.head`: the last line of the chain, and the lock of its writers.
//!
//! Two gateways write the same log during an upgrade. Each locks the head file for a batch and
//! continues the chain from the head in it, so that there is one chain, whichever wrote last. The
//! file also shows whether lines at the end of the log were removed while no gateway ran.
//!
//! - *In*: the path of the log; the head after a batch.
//! - *Out*: the head before a batch; a lock.
//! - *Never*: a wait of more than [`MAX_WAIT`]; a file that other users can read.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::chain::Head;

/// Bytes of the file. A head is shorter; the rest is spaces.
const SIZE: usize = 128;
/// Maximum wait for the lock. Another gateway holds it for one batch.
const MAX_WAIT: Duration = Duration::from_secs(5);
/// Interval of attempts to lock.
const LOCK_INTERVAL: Duration = Duration::from_millis(2);

/// The path of the head file of a log.
pub fn head_path(log: &Path) -> PathBuf {
    let mut name = log.as_os_str().to_owned();
    name.push(".head");
    name.into()
}

/// The head in the file at `path`; `None` if there is no such file, or it is damaged.
pub(crate) fn read_head(path: &Path) -> Option<Head> {
    parse(&File::open(path).ok()?)
}

#[derive(Debug)]
pub(crate) struct HeadFile {
    path: PathBuf,
    file: File,
    max_wait: Duration,
}

impl HeadFile {
    /// Opens or creates the head file of a log.
    pub(crate) fn open(log: &Path) -> io::Result<Self> {
        let path = head_path(log);
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("head file {}: {error}", path.display()))
        };
        let file = create(&path).map_err(named)?;
        Ok(HeadFile { path, file, max_wait: MAX_WAIT })
    }

    /// Locks the file, and creates it again if it was removed. If it cannot be created, the removed
    /// file is locked.
    pub(crate) fn lock(&mut self) -> io::Result<()> {
        let until = Instant::now() + self.max_wait;
        loop {
            match self.file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(LOCK_INTERVAL);
                    continue;
                }
                Err(TryLockError::WouldBlock) => {
                    let path = self.path.display();
                    let why = format!("{path} is locked by another process");
                    return Err(io::Error::new(io::ErrorKind::WouldBlock, why));
                }
                Err(TryLockError::Error(error)) => return Err(error),
            }
            if self.is_current()? {
                return Ok(());
            }
            match create(&self.path) {
                // Closing the removed file unlocks it.
                Ok(file) => self.file = file,
                Err(_) => return Ok(()),
            }
        }
    }

    pub(crate) fn unlock(&self) {
        if let Err(error) = self.file.unlock() {
            tracing::error!(path = %self.path.display(), %error, "head file stays locked");
        }
    }

    /// The head in the file; `None` if it is empty or damaged.
    pub(crate) fn head(&self) -> Option<Head> {
        parse(&self.file)
    }

    /// Replaces the head with one write.
    pub(crate) fn set_head(&self, head: &Head) -> io::Result<()> {
        let text = serde_json::to_string(head)?;
        self.file.write_all_at(format!("{text:<width$}\n", width = SIZE - 1).as_bytes(), 0)
    }

    /// Whether the open file is the one at the path.
    fn is_current(&self) -> io::Result<bool> {
        let ours = self.file.metadata()?;
        Ok(std::fs::metadata(&self.path)
            .is_ok_and(|other| (other.dev(), other.ino()) == (ours.dev(), ours.ino())))
    }
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).read(true).write(true).truncate(false).mode(0o600).open(path)
}

fn parse(file: &File) -> Option<Head> {
    let mut bytes = [0; SIZE];
    file.read_exact_at(&mut bytes, 0).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Digest;

    #[test]
    fn head_is_read_as_it_was_written_and_damage_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.jsonl");
        let file = HeadFile::open(&log).unwrap();
        assert_eq!(file.head(), None);
        for sequence in [u64::MAX, 1] {
            let head = Head { sequence, chain: Digest([9; 32]) };
            file.set_head(&head).unwrap();
            assert_eq!((file.head(), read_head(&head_path(&log))), (Some(head), Some(head)));
        }
        let meta = std::fs::metadata(head_path(&log)).unwrap();
        assert_eq!((meta.len(), meta.mode() & 0o777), (SIZE as u64, 0o600));
        std::fs::write(head_path(&log), "x".repeat(500)).unwrap();
        assert_eq!(file.head(), None);
    }

    #[test]
    fn one_holds_the_lock_and_a_removed_file_is_created_again() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("audit.jsonl");
        let (mut one, mut two) = (HeadFile::open(&log).unwrap(), HeadFile::open(&log).unwrap());
        two.max_wait = Duration::ZERO;
        one.lock().unwrap();
        let error = two.lock().expect_err("it is locked").to_string();
        assert!(error.ends_with("audit.jsonl.head is locked by another process"), "{error}");
        one.unlock();
        two.lock().unwrap();
        two.unlock();
        std::fs::remove_file(head_path(&log)).unwrap();
        one.lock().unwrap();
        assert!(two.lock().is_err(), "both have the new file");
        one.unlock();
        std::fs::remove_dir_all(folder.path()).unwrap();
        one.lock().unwrap();
        let error = HeadFile::open(&log).expect_err("the folder is missing").to_string();
        assert!(error.contains("audit.jsonl.head: "), "{error}");
    }
}
