//! The spill: appending entries, and the segments on the disk.
//!
//! - *In*: entries, gaps, the time in Unix seconds.
//! - *Out*: segment files, in this order: data, sync of the file, sync of the folder if the file is
//!   new; only then do the entries exist for readers.
//! - *Never*: a second write to a file after an error: the kernel may have dropped what it could
//!   not write, so the batch goes to a new segment.

mod limits;
mod read;
mod recover;

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::announced::Announcer;
use crate::disk::{Disk, FileSystem};
use crate::frame::{self, MAX_ENTRY, Reason};
use crate::ledger::Ledger;
pub use read::{Batch, Gap, Item};
use read::{Cursor, ReadEnd};
pub use recover::{OpenError, Recovery};

/// Begins each segment, and names the version of its format.
const MAGIC: [u8; 8] = *b"LLSPILL1";
/// Offset of the first frame.
const START: u64 = MAGIC.len() as u64;
/// Bounds of the size of a segment in bytes.
const SEGMENT_BYTES: Range<u64> = 4 << 10..64 << 20;
/// Minimum size of a full spill in bytes.
const MIN_BYTES: u64 = 64 << 10;
/// Segments of a full spill. Dropping the oldest one loses this part of it.
const SEGMENTS: u64 = 32;
/// A segment takes entries for this part of the maximum age.
const SEGMENT_AGE: u64 = 8;
/// Kept files of damaged segments and ledgers.
const MAX_DAMAGED_FILES: usize = 4;

/// What is dropped when the spill is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// The oldest segment.
    #[default]
    DropOldest,
    /// The entries that were about to be written.
    DropNewest,
}

/// How much a spill keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum size of all segments in bytes, at least 64 KiB.
    pub max_bytes: u64,
    /// Maximum age of an entry, to a segment; `None`: no limit.
    pub max_age: Option<Duration>,
    /// What is dropped when the spill is full.
    pub when_full: WhenFull,
}

impl Limits {
    fn max_bytes(&self) -> u64 {
        self.max_bytes.max(MIN_BYTES)
    }

    fn segment_bytes(&self) -> u64 {
        (self.max_bytes() / SEGMENTS).clamp(SEGMENT_BYTES.start, SEGMENT_BYTES.end)
    }

    /// Whether a segment is too long or too old for another `len` bytes.
    fn ends_segment(&self, segment: &Segment, len: u64, now: u64) -> bool {
        let age = now.saturating_sub(segment.created);
        segment.len + len > self.segment_bytes()
            || self.max_age.is_some_and(|max| age > max.as_secs() / SEGMENT_AGE)
    }
}

/// What has happened since the spill was opened, in entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Written and synced.
    pub synced: u64,
    /// Dropped because the spill was full.
    pub full: u64,
    /// Dropped because they were too old.
    pub expired: u64,
    /// Missing in damaged segments, and acknowledged as such.
    pub damaged: u64,
}

/// A segment file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Segment {
    /// Sequence number of its first entry; its name.
    first: u64,
    /// Length in bytes up to the last synced entry.
    len: u64,
    /// Times of the first and of the last write, in Unix seconds.
    created: u64,
    written: u64,
    /// Entries are missing in it. It is set aside instead of being removed.
    damaged: bool,
}

/// Frames that are not written yet.
#[derive(Debug, Default)]
struct Unsynced {
    frames: Vec<u8>,
    entries: u64,
    /// Sequence number after the last frame.
    end: u64,
}

/// A gap at the end of the spill that is written before the next entry.
#[derive(Clone, Copy, Debug)]
struct OpenGap {
    count: u64,
    reason: Reason,
}

/// A folder of segments that one process uses.
pub struct Spill<D: Disk = FileSystem> {
    disk: D,
    folder: PathBuf,
    limits: Limits,
    /// Locked as long as the spill is open.
    _lock: D::File,
    ledger: Ledger<D>,
    announced: Arc<Announcer<D>>,
    /// Oldest first. If `active` is set, it is the file of the last one.
    segments: VecDeque<Segment>,
    active: Option<D::File>,
    /// Sequence number after the last synced frame.
    next: u64,
    gap: Option<OpenGap>,
    unsynced: Unsynced,
    cursor: Cursor,
    read_end: Option<ReadEnd>,
    counts: Counts,
}

impl<D: Disk> Spill<D> {
    /// Adds an entry to the batch in memory. [`Spill::sync`] writes it.
    ///
    /// # Errors
    /// `InvalidInput` if the entry is longer than [`MAX_ENTRY`].
    pub fn append(&mut self, entry: &[u8]) -> io::Result<()> {
        if entry.len() > MAX_ENTRY {
            let problem = format!("an entry of {} bytes is too long", entry.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, problem));
        }
        self.begin_batch();
        frame::encode_entry(&mut self.unsynced.frames, self.unsynced.end, entry);
        self.unsynced.end += 1;
        self.unsynced.entries += 1;
        Ok(())
    }

    /// Leaves a gap of `count` entries after those appended so far: they were announced, and are
    /// not appended. It is written with the next entry.
    pub fn skip(&mut self, count: u64, reason: Reason) {
        if count == 0 {
            return;
        }
        if self.unsynced.frames.is_empty() {
            let before = self.gap.map_or(0, |gap| gap.count);
            self.gap = Some(OpenGap { count: before + count, reason });
            return;
        }
        frame::encode_gap(&mut self.unsynced.frames, self.unsynced.end, count, reason);
        self.unsynced.end += count;
    }

    /// Writes the batch and waits until it is on the disk; returns the sequence numbers of what was
    /// written, gaps included. `now` is the Unix time in seconds; it must not go back as long as
    /// the spill is open. Also removes what exceeds the limits, even if there is nothing to write.
    ///
    /// # Errors
    /// The I/O error. The batch is still in memory: sync again, or [`Spill::discard`] it.
    pub fn sync(&mut self, now: u64) -> io::Result<Range<u64>> {
        self.apply_limits(now)?;
        if self.unsynced.frames.is_empty() {
            return Ok(self.next..self.next);
        }
        if let Err(error) = self.write_batch(now) {
            self.abandon_active();
            return Err(error);
        }
        let written = self.next..self.unsynced.end;
        self.counts.synced += self.unsynced.entries;
        self.next = self.unsynced.end;
        self.gap = None;
        self.discard();
        Ok(written)
    }

    /// Writes a gap at the end, which otherwise waits for the next entry. Call it before the
    /// process ends: the next start counts announced entries that are neither entries nor in a gap.
    ///
    /// # Errors
    /// As [`Spill::sync`].
    pub fn sync_gap(&mut self, now: u64) -> io::Result<Range<u64>> {
        self.begin_batch();
        self.sync(now)
    }

    /// Forgets the batch in memory; returns its entries. Those that were announced must then be
    /// passed to [`Spill::skip`] or appended again.
    pub fn discard(&mut self) -> u64 {
        let entries = self.unsynced.entries;
        self.unsynced.frames.clear();
        // A rare long batch must not hold its memory.
        self.unsynced.frames.shrink_to(1 << 20);
        self.unsynced.entries = 0;
        entries
    }

    /// Counts announced entries. It can be used while another thread syncs.
    pub fn announcer(&self) -> Arc<Announcer<D>> {
        self.announced.clone()
    }

    /// Counts since the spill was opened.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Size of all segments in bytes.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }

    /// Size of the batch in memory in bytes.
    pub fn unsynced_bytes(&self) -> usize {
        self.unsynced.frames.len()
    }

    /// Sequence numbers of the synced entries that are not acknowledged, gaps included.
    pub fn unacknowledged(&self) -> Range<u64> {
        self.cursor.sequence..self.next
    }

    /// Sequence number of the next entry to append.
    pub fn next_sequence(&self) -> u64 {
        match self.unsynced.frames.is_empty() {
            true => self.next + self.gap.map_or(0, |gap| gap.count),
            false => self.unsynced.end,
        }
    }

    /// Starts a batch with the gap before it.
    fn begin_batch(&mut self) {
        if !self.unsynced.frames.is_empty() {
            return;
        }
        self.unsynced.end = self.next;
        if let Some(OpenGap { count, reason }) = self.gap {
            frame::encode_gap(&mut self.unsynced.frames, self.next, count, reason);
            self.unsynced.end += count;
        }
    }

    fn write_batch(&mut self, now: u64) -> io::Result<()> {
        let (disk, frames) = (&self.disk, &self.unsynced.frames);
        let len = frames.len() as u64;
        if self.segments.back().is_some_and(|last| self.limits.ends_segment(last, len, now)) {
            self.active = None;
        }
        if let (Some(file), Some(last)) = (&self.active, self.segments.back_mut()) {
            disk.write_at(file, frames, last.len)?;
            disk.sync(file)?;
            last.len += len;
            last.written = now;
            return Ok(());
        }
        let file = disk.create(&self.segment_path(self.next))?;
        disk.write_at(&file, &MAGIC, 0)?;
        disk.write_at(&file, frames, START)?;
        disk.sync(&file)?;
        disk.sync_folder(&self.folder)?;
        // An earlier segment of this name had no valid entry.
        self.segments.retain(|segment| segment.first != self.next);
        self.segments.push_back(Segment {
            first: self.next,
            len: START + len,
            created: now,
            written: now,
            damaged: false,
        });
        self.active = Some(file);
        Ok(())
    }

    /// After an error, the active segment ends at its last synced entry.
    fn abandon_active(&mut self) {
        if let (Some(file), Some(last)) = (self.active.take(), self.segments.back()) {
            // Readers stop at this length anyway.
            let _ = self.disk.set_len(&file, last.len);
        }
    }

    /// Sequence number after the segment at `index`.
    fn end_of(&self, index: usize) -> u64 {
        self.segments.get(index + 1).map_or(self.next, |following| following.first)
    }

    fn segment_path(&self, first: u64) -> PathBuf {
        self.folder.join(segment_name(first))
    }
}

impl<D: Disk> std::fmt::Debug for Spill<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spill")
            .field("folder", &self.folder)
            .field("unacknowledged", &self.unacknowledged())
            .field("segments", &self.segments.len())
            .finish_non_exhaustive()
    }
}

/// The name has twenty digits, so that names sort like numbers.
fn segment_name(first: u64) -> String {
    format!("{first:020}.segment")
}

/// The sequence number in the name of a segment.
fn parse_segment_name(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".segment")?;
    (digits.len() == 20).then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests;
