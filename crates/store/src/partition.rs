//! Partitions: the files of a folder, one SQLite database per time window and part.
//!
//! - *In*: the folder, times of records.
//! - *Out*: names such as `records-20261130T00-24h-0.sqlite`: the start of the window in UTC, its
//!   hours, and the part. The list of files is the list of partitions.
//! - *Never*: the deletion of a record. A partition is removed as a whole, or renamed.

use std::fs::{File, TryLockError};
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::field::HOUR_US;

/// The last hour that has a name: `jiff` ends a day before the year 9999 does.
const MAX_HOUR: u64 = 70_389_501;
const PREFIX: &str = "records-";
const SUFFIX: &str = ".sqlite";
/// Between the name of a damaged partition and the time of its renaming.
const SET_ASIDE: &str = ".damaged-";

/// A partition. The order is that of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Partition {
    /// Start of the window, in hours since 1970.
    pub(crate) start: u64,
    /// Length of the window in hours.
    pub(crate) hours: u64,
    /// Number of the part, from 0. A full part is followed by the next one.
    pub(crate) part: u32,
}

impl Partition {
    /// The first part of the window that a time in Unix microseconds belongs to.
    pub(crate) fn containing(at_us: u64, hours: u64) -> Self {
        let hour = (at_us / HOUR_US).min(MAX_HOUR);
        Partition { start: hour / hours * hours, hours, part: 0 }
    }

    pub(crate) fn next_part(self) -> Self {
        Partition { part: self.part.saturating_add(1), ..self }
    }

    pub(crate) fn is_same_window(self, other: Partition) -> bool {
        (self.start, self.hours) == (other.start, other.hours)
    }

    /// Whether a record can belong to both windows.
    pub(crate) fn overlaps(self, other: Partition) -> bool {
        self.start < other.start + other.hours && other.start < self.start + self.hours
    }

    /// Start of the window in Unix microseconds.
    pub(crate) fn start_us(self) -> u64 {
        self.start * HOUR_US
    }

    /// End of the window in Unix microseconds.
    pub(crate) fn end_us(self) -> u64 {
        (self.start + self.hours) * HOUR_US
    }

    /// The file's name.
    pub(crate) fn name(self) -> String {
        format!("{}{SUFFIX}", self.stem())
    }

    fn stem(self) -> String {
        let at = Timestamp::from_second((self.start * 3600) as i64).unwrap_or_default();
        format!("{PREFIX}{}-{}h-{}", at.strftime("%Y%m%dT%H"), self.hours, self.part)
    }

    /// The partition that a file's name states; `None` for other files.
    pub(crate) fn from_name(name: &str) -> Option<Self> {
        let rest = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
        let mut words = rest.split('-');
        let (at, hours, part) = (words.next()?, words.next()?, words.next()?);
        let (day, hour) = at.split_once('T')?;
        let number = |range: Range<usize>| day.get(range)?.parse::<i16>().ok();
        let small = |range: Range<usize>| day.get(range)?.parse::<i8>().ok();
        let date = Date::new(number(0..4)?, small(4..6)?, small(6..8)?).ok()?;
        let midnight = TimeZone::UTC.to_timestamp(date.at(0, 0, 0, 0)).ok()?.as_second();
        let start =
            u64::try_from(midnight).ok()? / 3600 + hour.parse::<u8>().map(u64::from).ok()?;
        let hours = hours
            .strip_suffix('h')?
            .parse::<u64>()
            .ok()
            .filter(|hours| (1..=24).contains(hours))?;
        let partition = Partition { start, hours, part: part.parse().ok()? };
        (partition.name() == name).then_some(partition)
    }

    /// The file.
    pub(crate) fn path(self, folder: &Path) -> PathBuf {
        folder.join(self.name())
    }

    /// The file that a writer locks for as long as it may write the partition.
    fn lock_path(self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.lock", self.stem()))
    }

    /// The write-ahead log and its index.
    fn sidecars(self, folder: &Path) -> [PathBuf; 2] {
        ["-wal", "-shm"].map(|end| folder.join(format!("{}{end}", self.name())))
    }

    /// Lock the partition against other writers; `None` if another process writes it.
    ///
    /// # Errors
    /// The lock file cannot be created, or the file system has no locks.
    pub(crate) fn lock(self, folder: &Path) -> io::Result<Option<File>> {
        let path = self.lock_path(folder);
        loop {
            let file = private_file(&path)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => return Ok(None),
                Err(TryLockError::Error(error)) => return Err(error),
            }
            // The owner before may have removed the partition, and the lock file with it.
            let inode = file.metadata()?.ino();
            if std::fs::metadata(&path).is_ok_and(|current| current.ino() == inode) {
                return Ok(Some(file));
            }
        }
    }

    /// Bytes of its files.
    pub(crate) fn bytes(self, folder: &Path) -> u64 {
        let [log, _] = self.sidecars(folder);
        bytes_of([self.path(folder), log])
    }

    /// Remove its files. Readers that have it open read on.
    ///
    /// # Errors
    /// The database's file cannot be removed.
    pub(crate) fn remove(self, folder: &Path) -> io::Result<()> {
        let removed = std::fs::remove_file(self.path(folder));
        // What remains of these after a crash is removed at the next start.
        self.sidecars(folder).iter().for_each(|file| drop(std::fs::remove_file(file)));
        drop(std::fs::remove_file(self.lock_path(folder)));
        removed.or_else(|error| match error.kind() {
            io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        })
    }

    /// Rename its files to `NAME.damaged-SECONDS`, so that `sqlite3 .recover` can read them, and a
    /// new part can begin. Returns the new name.
    ///
    /// # Errors
    /// The database's file cannot be renamed.
    pub(crate) fn set_aside(self, folder: &Path, now_us: u64) -> io::Result<PathBuf> {
        let stem = format!("{}{SET_ASIDE}{}", self.name(), now_us / 1_000_000);
        let names = std::iter::once(stem.clone()).chain((2..).map(|n| format!("{stem}-{n}")));
        let free = |name: &String| !folder.join(name).exists();
        let aside = names.into_iter().find(free).unwrap_or(stem);
        std::fs::rename(self.path(folder), folder.join(&aside))?;
        let [log, index] = self.sidecars(folder);
        drop(std::fs::rename(log, folder.join(format!("{aside}-wal"))));
        drop(std::fs::remove_file(index));
        Ok(folder.join(aside))
    }
}

/// All partitions of a folder, oldest first.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn list(folder: &Path) -> io::Result<Vec<Partition>> {
    let mut found: Vec<Partition> = std::fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| Partition::from_name(entry.file_name().to_str()?))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// A damaged partition that was renamed.
#[derive(Debug)]
pub(crate) struct SetAside {
    /// The partition that it was.
    pub(crate) partition: Partition,
    /// Bytes of its files.
    pub(crate) bytes: u64,
    path: PathBuf,
}

impl SetAside {
    fn from_name(folder: &Path, name: &str) -> Option<Self> {
        let (partition, renamed) = name.split_once(SET_ASIDE)?;
        let partition = Partition::from_name(partition)?;
        let path = folder.join(name);
        let bytes = bytes_of([path.clone(), with_log_suffix(&path)]);
        (!renamed.ends_with("-wal")).then_some(SetAside { partition, bytes, path })
    }

    /// Remove its files. What cannot be removed is tried again later.
    pub(crate) fn remove(self) {
        for path in [with_log_suffix(&self.path), self.path] {
            drop(std::fs::remove_file(path));
        }
    }
}

fn with_log_suffix(path: &Path) -> PathBuf {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    log.into()
}

fn bytes_of(files: [PathBuf; 2]) -> u64 {
    files.iter().filter_map(|file| std::fs::metadata(file).ok()).map(|file| file.len()).sum()
}

/// All damaged partitions of a folder, oldest first.
///
/// # Errors
/// The folder cannot be read.
pub(crate) fn list_set_aside(folder: &Path) -> io::Result<Vec<SetAside>> {
    let mut found: Vec<SetAside> = std::fs::read_dir(folder)?
        .flatten()
        .filter_map(|entry| SetAside::from_name(folder, entry.file_name().to_str()?))
        .collect();
    found.sort_unstable_by_key(|file| file.partition);
    Ok(found)
}

/// Remove write-ahead logs whose database is gone: SQLite must not find one beside a new database
/// of the same name.
pub(crate) fn remove_orphans(folder: &Path) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)?.flatten() {
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let main = name.strip_suffix("-wal").or_else(|| name.strip_suffix("-shm"));
        let Some(main) = main.filter(|main| Partition::from_name(main).is_some()) else { continue };
        if !folder.join(main).exists() {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Open or create a file that only its owner can read.
pub(crate) fn private_file(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    std::fs::OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_of_other_lengths_overlap() {
        let window = |start, hours| Partition { start, hours, part: 0 };
        assert!(window(0, 24).overlaps(window(23, 1)) && window(6, 6).overlaps(window(0, 24)));
        assert!(!window(0, 24).overlaps(window(24, 1)) && !window(6, 6).overlaps(window(0, 6)));
    }

    #[test]
    fn partition_that_was_removed_between_open_and_lock_is_locked_anew() {
        let folder = tempfile::tempdir().unwrap();
        let partition = Partition { start: 0, hours: 1, part: 0 };
        let first = partition.lock(folder.path()).unwrap().unwrap();
        assert!(partition.lock(folder.path()).unwrap().is_none());
        partition.remove(folder.path()).unwrap();
        // The lock file is another one now, and the first lock means nothing.
        let second = partition.lock(folder.path()).unwrap().unwrap();
        assert_ne!(first.metadata().unwrap().ino(), second.metadata().unwrap().ino());
    }

    #[test]
    fn names_state_the_window_and_other_files_are_ignored() {
        let at = 1_796_031_679_000_000;
        let day = Partition::containing(at, 24);
        assert_eq!(day.name(), "records-20261130T00-24h-0.sqlite");
        assert!(day.start_us() <= at && at < day.end_us());
        let part = Partition { part: 12, ..Partition::containing(at, 6) };
        assert_eq!(Partition::from_name(&part.name()), Some(part));
        assert_eq!(Partition::containing(u64::MAX, 1).name(), "records-99991230T21-1h-0.sqlite");
        for other in [
            "records-20261130T00-24h-0.sqlite-wal",
            "records-20261130T00-24h-0.sqlite.damaged-1",
            "records-20261130T00-0h-0.sqlite",
            "records-20261330T00-24h-0.sqlite",
            "records-20261130T99999999999999999999-24h-0.sqlite",
            "records-20261130T00-99999999999999999999h-0.sqlite",
            "records-20261130T0-24h-00.sqlite",
            "other.sqlite",
        ] {
            assert_eq!(Partition::from_name(other), None, "{other}");
        }
    }
}
