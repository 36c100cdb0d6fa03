//! Opening a folder, also after a crash.
//!
//! - *In*: what an earlier process left.
//! - *Out*: a spill that goes on where that process was; what was lost.
//! - *Never*: more memory for more entries: it reads the names of the segments, the ledger, and the
//!   frames of the last segment, one after the other. A sequence number that was used before.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::announced::Announcer;
use crate::disk::{Disk, FileSystem, Listed};
use crate::frame::Reason;
use crate::ledger::{self, Ledger, State};
use crate::scan::Scanner;

use super::read::Cursor;
use super::{Counts, Limits, OpenGap, START, Segment, Spill, Unsynced, limits, parse_segment_name};

/// What opening found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Synced entries that are not acknowledged, gaps included.
    pub waiting: u64,
    /// Announced entries that were not synced when the earlier process ended. At least 1 if the
    /// last write is torn.
    pub lost: u64,
    /// Bytes of a torn write, which were cut off.
    pub torn_bytes: u64,
    /// The ledger was unreadable and was set aside: acknowledged entries come back.
    pub ledger_damaged: bool,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process uses it.
    #[error("the spill {0} is in use by another process: give each gateway its own folder")]
    InUse(PathBuf),
    /// It cannot be created, locked, read or written.
    #[error("cannot use the spill {folder}: {source}")]
    Io {
        /// The folder.
        folder: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

impl Spill<FileSystem> {
    /// Opens or creates a spill in a folder of the file system. `now` is the Unix time in seconds.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(folder: &Path, limits: Limits, now: u64) -> Result<(Self, Recovery), OpenError> {
        Self::open_on(FileSystem, folder, limits, now)
    }
}

impl<D: Disk> Spill<D> {
    /// The same on another disk.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_on(
        disk: D,
        folder: &Path,
        limits: Limits,
        now: u64,
    ) -> Result<(Self, Recovery), OpenError> {
        let wrong = |source| OpenError::Io { folder: folder.to_owned(), source };
        let lock = lock(&disk, folder).map_err(wrong)?;
        let lock = lock.ok_or_else(|| OpenError::InUse(folder.to_owned()))?;
        recover(disk, folder, limits, lock, now).map_err(wrong)
    }
}

fn lock<D: Disk>(disk: &D, folder: &Path) -> io::Result<Option<D::File>> {
    disk.create_folder(folder)?;
    // A new folder must not vanish with its segments. That its parent cannot be opened is usual.
    if let Some(parent) = folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        let _ = disk.sync_folder(parent);
    }
    disk.lock(&folder.join("lock"))
}

fn recover<D: Disk>(
    disk: D,
    folder: &Path,
    limits: Limits,
    lock: D::File,
    now: u64,
) -> io::Result<(Spill<D>, Recovery)> {
    let segments = segments(&disk, folder)?;
    let mut recovery = Recovery::default();
    let ledger = open_ledger(&disk, folder, &segments, &mut recovery, now)?;
    let State { acknowledged, dropped, .. } = ledger.state();
    let announced = Announcer::open(&disk, folder)?;
    let mut spill = Spill {
        folder: folder.to_owned(),
        limits,
        _lock: lock,
        ledger,
        announced: Arc::new(announced),
        segments,
        active: None,
        next: 0,
        gap: None,
        unsynced: Unsynced::default(),
        cursor: Cursor { sequence: acknowledged, segment: 0, offset: START },
        read_end: None,
        counts: Counts::default(),
        disk,
    };
    let (end, torn_bytes) = spill.recover_last()?;
    spill.next = end.max(acknowledged).max(dropped);
    spill.cursor = spill.cursor_at(acknowledged);
    let lost = spill.announced.end().saturating_sub(spill.next).max(u64::from(torn_bytes > 0));
    spill.gap = (lost > 0).then_some(OpenGap { count: lost, reason: Reason::Unsynced });
    spill.announced.raise(spill.next + lost);
    // Acknowledged segments that a crash left.
    spill.remove_done(now)?;
    let waiting = spill.next - spill.cursor.sequence;
    if lost > 0 {
        // So that the next start does not count it again. It is written with the next entry if this
        // fails.
        let _ = spill.sync_gap(now);
    }
    Ok((spill, Recovery { waiting, lost, torn_bytes, ..recovery }))
}

fn segments<D: Disk>(disk: &D, folder: &Path) -> io::Result<VecDeque<Segment>> {
    let segment = |file: Listed| {
        let first = parse_segment_name(&file.name)?;
        let Listed { len, modified, .. } = file;
        Some(Segment { first, len, created: modified, written: modified, damaged: false })
    };
    let mut found: Vec<Segment> = disk.list(folder)?.into_iter().filter_map(segment).collect();
    found.sort_by_key(|segment| segment.first);
    Ok(found.into())
}

/// Opens the ledger. Without a valid one, all entries that exist are unacknowledged.
fn open_ledger<D: Disk>(
    disk: &D,
    folder: &Path,
    segments: &VecDeque<Segment>,
    recovery: &mut Recovery,
    now: u64,
) -> io::Result<Ledger<D>> {
    if let Some(ledger) = Ledger::open(disk, folder)? {
        return Ok(ledger);
    }
    let first = segments.front().map_or(0, |segment| segment.first);
    // A spill creates its ledger before its first segment.
    if !segments.is_empty() {
        recovery.ledger_damaged = true;
        match limits::set_aside(disk, folder, &folder.join(ledger::NAME), now) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    let state = State { acknowledged: first, dropped: first, reason: Reason::Unsynced };
    Ledger::create(disk, folder, state)
}

impl<D: Disk> Spill<D> {
    /// Finds the last valid frame of the last segment and cuts off what follows. Returns the
    /// sequence number after it and the number of bytes cut off.
    fn recover_last(&mut self) -> io::Result<(u64, u64)> {
        let Some(last) = self.segments.back_mut() else { return Ok((0, 0)) };
        let file = self.disk.open(&self.folder.join(super::segment_name(last.first)))?;
        let mut scanner = Scanner::new(&self.disk, &file, START, last.len);
        let (mut end, mut position) = (last.first, START.min(last.len));
        while let Some((frame, _)) = scanner.next()? {
            if frame.end > end {
                (end, position) = (frame.end, scanner.position());
            }
        }
        let torn = last.len - position;
        if torn > 0 {
            last.len = position;
            // The bytes are no valid frames: readers skip them if they cannot be cut off.
            let _ = self.disk.set_len(&file, position);
        }
        Ok((end, torn))
    }
}
