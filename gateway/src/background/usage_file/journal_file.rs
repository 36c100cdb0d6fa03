//! The journal as a file that two gateways may append to at the same time.
//!
//! - *In*: additions; the content of the file.
//! - *Out*: appended lines; a snapshot in a new file when the journal has grown.
//! - *Never*: a partly written snapshot; a snapshot while another gateway owns the file; damaged
//!   content that is overwritten: it is copied first.
//!
//! `FILE.lock` is locked by the gateway that owns the file, from its start to its end. The file
//! itself is locked while lines are read or written.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{
    self, BufRead as _, BufReader, BufWriter, Read as _, Seek as _, SeekFrom, Write as _,
};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use plan::clock::wall_us;
use traffic::{Totals, UsageJournal, UsageRow};

/// Growth since the last snapshot, in bytes, from which a new one is written, if the journal has
/// also doubled.
const MIN_GROWTH: u64 = 1 << 20;
/// Maximum length of a line; the rest counts as another, damaged one.
const MAX_LINE: u64 = 1 << 20;
/// Maximum wait for another gateway that reads or writes, and the interval between attempts.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_INTERVAL: Duration = Duration::from_millis(2);
/// Interval between attempts to write a snapshot.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(60);
/// Age from which a temporary file counts as left over.
const LEFTOVER_AGE: Duration = Duration::from_secs(3600);
/// Only the user of the gateway may read usage.
const MODE: u32 = 0o600;

/// Why the file cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Another gateway uses it.
    #[error(
        "usage_file {path} is in use by another gateway (process {process}): give each gateway \
         its own file, or replace the running gateway with --upgrade"
    )]
    InUse {
        /// The file.
        path: PathBuf,
        /// Process of the other gateway.
        process: String,
    },
    /// It is a folder, a device or a pipe.
    #[error("usage_file {0} is not a regular file")]
    NotAFile(PathBuf),
    /// It cannot be opened, read or locked.
    #[error("cannot use the usage_file {path}: {source}")]
    Io {
        /// The file or its lock file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// Result of [`JournalFile::synchronize`].
pub(super) struct Synced {
    /// Additions of other gateways.
    pub(super) others: Vec<(UsageRow, Totals)>,
    /// Whether the additions of this gateway are in the file.
    pub(super) appended: io::Result<()>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PathState {
    Current,
    /// Shorter than what was read.
    Cut,
    /// Another file.
    Replaced,
    Missing,
}

/// The open journal.
pub(super) struct JournalFile {
    path: PathBuf,
    file: File,
    /// `FILE.lock`.
    lock: File,
    is_owner: bool,
    journal: UsageJournal,
    /// Length of the part that has been read or written, and whether it ends within a line.
    end: u64,
    in_line: bool,
    /// Length of the last snapshot, and the earliest time for the next one.
    snapshot: u64,
    next_snapshot: Instant,
    /// Snapshots written by this gateway.
    snapshots: u64,
    writer: String,
    /// Damaged lines that are not counted yet.
    damaged: u64,
    /// The file has damaged lines, which are not copied yet.
    has_damage: bool,
    min_growth: u64,
}

impl JournalFile {
    /// Open or create the file and read it.
    pub(super) fn open(path: &Path, upgrade: bool) -> Result<Self, OpenError> {
        // A snapshot replaces the file and not a link to it.
        let path = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let before = std::fs::metadata(&path).ok();
        if before.as_ref().is_some_and(|meta| !meta.is_file()) {
            return Err(OpenError::NotAFile(path));
        }
        let lock_path = beside(&path, ".lock");
        let wrong = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        let was_used = lock_path.exists();
        let lock = open_or_create(&lock_path).map_err(wrong(&lock_path))?;
        let is_owner = match lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) if upgrade => false,
            Err(TryLockError::WouldBlock) => {
                let process = std::fs::read_to_string(&lock_path).unwrap_or_default();
                return Err(OpenError::InUse { path, process: process.trim().to_owned() });
            }
            Err(TryLockError::Error(source)) => return Err(wrong(&lock_path)(source)),
        };
        let file = open_or_create(&path).map_err(wrong(&path))?;
        // Also unique when a process id is used again.
        let writer = format!("{:016x}-{:x}", wall_us(), std::process::id());
        let mut opened = JournalFile {
            journal: UsageJournal::new(&writer),
            path: path.clone(),
            file,
            lock,
            is_owner,
            end: 0,
            in_line: false,
            snapshot: 0,
            next_snapshot: Instant::now(),
            snapshots: 0,
            writer,
            damaged: 0,
            has_damage: false,
            min_growth: MIN_GROWTH,
        };
        if is_owner {
            opened.take_ownership();
            warn_of_lost_sums(&path, before.map(|meta| meta.len()), was_used);
        }
        let read = lock_within(&opened.file, LOCK_WAIT).and_then(|()| opened.read_all());
        read.map_err(wrong(&path))?;
        opened.write_snapshot_if_due();
        opened.unlock();
        Ok(opened)
    }

    /// Read what the predecessor has appended since the file was opened.
    pub(super) fn catch_up(&mut self) {
        let read = self.reopen_if_replaced().and_then(|_| self.read_on());
        if let Err(error) = read {
            tracing::error!(path = %self.path.display(), %error, "usage file cannot be read, the last usage of the predecessor is missing");
        }
        self.unlock();
    }

    /// Read what other gateways have appended, and append `added`. A gateway that `ends` writes no
    /// snapshot and does not become the owner.
    pub(super) fn synchronize(&mut self, added: &[(UsageRow, Totals)], ends: bool) -> Synced {
        if !ends && !self.is_owner && self.lock.try_lock().is_ok() {
            self.take_ownership();
        }
        let synced = match self.lock_current().and_then(|()| self.read_on()) {
            Ok(others) => Synced { others, appended: self.append(added) },
            Err(error) => Synced { others: Vec::new(), appended: Err(error) },
        };
        if !ends && synced.appended.is_ok() {
            self.write_snapshot_if_due();
        }
        self.unlock();
        synced
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether no other gateway was there first.
    pub(super) fn is_owner(&self) -> bool {
        self.is_owner
    }

    /// The sums.
    pub(super) fn rows(&self) -> impl Iterator<Item = (UsageRow, Totals)> {
        self.journal.rows()
    }

    /// Damaged lines since the last call.
    pub(super) fn take_damaged(&mut self) -> u64 {
        std::mem::take(&mut self.damaged)
    }

    /// The lock file is locked: note the process in it, for the message of another gateway.
    fn take_ownership(&mut self) {
        self.is_owner = true;
        let process = std::process::id().to_string();
        let noted = self.lock.set_len(0).and_then(|()| (&self.lock).write_all(process.as_bytes()));
        let private = self.file.set_permissions(std::fs::Permissions::from_mode(MODE));
        if let Err(error) = noted.and(private) {
            tracing::warn!(path = %self.path.display(), %error, "usage file: cannot set the mode or the lock file");
        }
        remove_leftovers(&self.path);
    }

    /// Lock the file. If it was replaced, the owner restores it from memory. Another gateway reads
    /// the new one: its owner has written a snapshot.
    fn lock_current(&mut self) -> io::Result<()> {
        lock_within(&self.file, LOCK_WAIT)?;
        match self.state()? {
            PathState::Current => Ok(()),
            PathState::Cut | PathState::Replaced if self.is_owner => self.restore(true),
            PathState::Missing if self.is_owner => self.restore(false),
            PathState::Cut | PathState::Replaced | PathState::Missing => self.reopen_if_replaced(),
        }
    }

    /// Lock the file; if it was replaced, open and read the new one.
    fn reopen_if_replaced(&mut self) -> io::Result<()> {
        lock_within(&self.file, LOCK_WAIT)?;
        if self.state()? == PathState::Current {
            return Ok(());
        }
        self.file = open_or_create(&self.path)?;
        lock_within(&self.file, LOCK_WAIT)?;
        self.read_all()
    }

    /// How the file at the path compares with the open one.
    fn state(&self) -> io::Result<PathState> {
        let ours = self.file.metadata()?;
        Ok(match std::fs::metadata(&self.path) {
            Ok(meta) if (meta.dev(), meta.ino()) != (ours.dev(), ours.ino()) => PathState::Replaced,
            Ok(meta) if meta.len() < self.end => PathState::Cut,
            Ok(_) => PathState::Current,
            Err(error) if error.kind() == io::ErrorKind::NotFound => PathState::Missing,
            Err(error) => return Err(error),
        })
    }

    /// The file was removed, replaced or cut while this gateway owns it: write its sums again.
    fn restore(&mut self, exists: bool) -> io::Result<()> {
        tracing::warn!(path = %self.path.display(), "usage file was removed or changed by another program, the sums in memory are written again");
        if exists {
            self.copy_aside(".replaced")?;
        }
        self.write_snapshot()
    }

    /// Read the file from its start.
    fn read_all(&mut self) -> io::Result<()> {
        self.journal.clear();
        (self.end, self.in_line) = (0, false);
        self.read_on()?;
        self.snapshot = self.end;
        Ok(())
    }

    /// Read what was appended; returns the additions of other gateways.
    fn read_on(&mut self) -> io::Result<Vec<(UsageRow, Totals)>> {
        let length = self.file.metadata()?.len();
        let (mut others, mut damaged, mut line) = (Vec::new(), 0, Vec::new());
        (&self.file).seek(SeekFrom::Start(self.end))?;
        let mut reader = BufReader::new((&self.file).take(length.saturating_sub(self.end)));
        while (&mut reader).take(MAX_LINE).read_until(b'\n', &mut line)? > 0 {
            match self.journal.read(&line) {
                Ok(added) => others.extend(added),
                Err(_) => damaged += 1,
            }
            self.end += line.len() as u64;
            self.in_line = !line.ends_with(b"\n");
            line.clear();
        }
        if damaged > 0 {
            tracing::error!(path = %self.path.display(), lines = damaged, "usage file is damaged, lines skipped");
            self.damaged += damaged;
            self.has_damage = true;
        }
        Ok(others)
    }

    fn append(&mut self, added: &[(UsageRow, Totals)]) -> io::Result<()> {
        if added.is_empty() {
            return Ok(());
        }
        let lines = self.journal.additions(added)?;
        let text = [if self.in_line { &b"\n"[..] } else { b"" }, &lines].concat();
        let written = (&self.file).write_all(&text).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // Without a partial line, the additions can be written again.
            let _ = self.file.set_len(self.end);
            return Err(error);
        }
        self.end += text.len() as u64;
        self.in_line = false;
        // They are valid: they were made a moment ago.
        lines.split_inclusive(|byte| *byte == b'\n').for_each(|line| {
            let _ = self.journal.read(line);
        });
        Ok(())
    }

    /// Write a snapshot if the file is new, damaged, of the old format, or has grown.
    fn write_snapshot_if_due(&mut self) {
        let has_grown = self.end - self.snapshot.min(self.end) > self.snapshot.max(self.min_growth);
        let is_due = has_grown || self.end == 0 || self.has_damage || self.journal.has_old_format();
        if !self.is_owner || !is_due || Instant::now() < self.next_snapshot {
            return;
        }
        let copied = if self.has_damage { self.copy_aside(".damaged") } else { Ok(()) };
        if let Err(error) = copied.and_then(|()| self.write_snapshot()) {
            tracing::error!(path = %self.path.display(), %error, "usage file: cannot write a snapshot, retrying");
            self.next_snapshot = Instant::now() + SNAPSHOT_RETRY;
        }
    }

    /// Replace the file by a snapshot. The new file is locked.
    fn write_snapshot(&mut self) -> io::Result<()> {
        self.journal.expire(wall_us());
        self.snapshots += 1;
        let name = format!("{}-{}", self.writer, self.snapshots);
        let folder = folder(&self.path);
        // Its mode is 0600.
        let fresh = tempfile::Builder::new().prefix(&prefix(&self.path)).tempfile_in(folder)?;
        let mut out = BufWriter::new(fresh);
        self.journal.write_snapshot(&name, &mut out)?;
        let fresh = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        fresh.as_file().sync_all()?;
        let file = open_or_create(fresh.path())?;
        lock_within(&file, LOCK_WAIT)?;
        fresh.persist(&self.path)?;
        self.end = file.metadata()?.len();
        (self.file, self.snapshot) = (file, self.end);
        (self.in_line, self.has_damage) = (false, false);
        self.journal.set_snapshot(&name);
        File::open(folder)?.sync_all()
    }

    /// Copy the file at the path to `FILE.SUFFIX-SECONDS`.
    fn copy_aside(&self, suffix: &str) -> io::Result<()> {
        let copy = beside(&self.path, &format!("{suffix}-{}", wall_us() / 1_000_000));
        let mut from = File::open(&self.path)?;
        let mut to = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&copy)?;
        io::copy(&mut from, &mut to)?;
        to.sync_all()?;
        tracing::error!(path = %self.path.display(), copy = %copy.display(), "usage file: copied before it is written anew");
        Ok(())
    }

    fn unlock(&self) {
        // It fails only without a lock.
        let _ = self.file.unlock();
    }
}

/// Warn when there should be sums.
fn warn_of_lost_sums(path: &Path, length: Option<u64>, was_used: bool) {
    let path = path.display();
    match length {
        Some(0) => tracing::warn!(%path, "usage file is empty, usage starts at zero"),
        None if was_used => tracing::warn!(%path, "usage file is missing, usage starts at zero"),
        _ => {}
    }
}

fn open_or_create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(MODE).open(path)
}

fn lock_within(file: &File, wait: Duration) -> io::Result<()> {
    let until = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                std::thread::sleep(LOCK_INTERVAL)
            }
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::new(io::ErrorKind::WouldBlock, "locked by another process"));
            }
        }
    }
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.to_owned().into_os_string();
    name.push(suffix);
    name.into()
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Prefix of the names of temporary files.
fn prefix(path: &Path) -> String {
    format!(".{}-", path.file_name().unwrap_or_default().to_string_lossy())
}

/// Remove temporary files of gateways that were killed while they wrote a snapshot. A running
/// gateway renames its file within seconds.
fn remove_leftovers(path: &Path) {
    let is_old = |entry: &std::fs::DirEntry| {
        let age = entry
            .metadata()
            .and_then(|meta| meta.modified())
            .ok()
            .and_then(|time| time.elapsed().ok());
        age.is_some_and(|age| age > LEFTOVER_AGE)
            && entry.file_name().to_string_lossy().starts_with(&prefix(path))
    };
    let entries = std::fs::read_dir(folder(path)).into_iter().flatten().flatten();
    entries.filter(is_old).for_each(|entry| drop(std::fs::remove_file(entry.path())));
}

#[cfg(test)]
mod tests;
